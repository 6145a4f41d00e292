"""Figures of a study, from what its records say, each defined once for the page and for papers. None needs torch."""

from actbench.plots.cost import cost_figures
from actbench.plots.curves import SCORES, curve_figures
from actbench.plots.figure import Figure, called, files, panels, rendered, shorten, shown_first
from actbench.plots.forest import best_first, forest_figures
from actbench.plots.pairs import pair_figures
from actbench.plots.palette import INK, PAPER, QUIET, RULE, SIGNS, VERDICTS, ArmStyle, Tone, arm_styles, dark_colours
from actbench.plots.shapes import shape_figures
from actbench.plots.tuning import tuning_figures

__all__ = [
    "INK",
    "PAPER",
    "QUIET",
    "RULE",
    "SCORES",
    "SIGNS",
    "VERDICTS",
    "ArmStyle",
    "Figure",
    "Tone",
    "arm_styles",
    "best_first",
    "called",
    "cost_figures",
    "curve_figures",
    "dark_colours",
    "files",
    "forest_figures",
    "pair_figures",
    "panels",
    "rendered",
    "shape_figures",
    "shorten",
    "shown_first",
    "tuning_figures",
]
