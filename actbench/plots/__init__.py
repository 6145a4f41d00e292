"""Figures of a study, from what its records say, each defined once for the page and for papers. None needs torch."""

from actbench.plots.cost import cost_figures
from actbench.plots.curves import SCORES, curve_figures, shape_figures, tuning_figures
from actbench.plots.figure import Figure, files, rendered
from actbench.plots.forest import forest_figures
from actbench.plots.pairs import pair_figures

__all__ = [
    "SCORES",
    "Figure",
    "cost_figures",
    "curve_figures",
    "files",
    "forest_figures",
    "pair_figures",
    "rendered",
    "shape_figures",
    "tuning_figures",
]
