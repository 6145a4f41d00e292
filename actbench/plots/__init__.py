"""Figures of a study, from what its records say, each defined once for the page and for papers. None needs torch."""

from actbench.plots.cost import cost_figures as cost_figures
from actbench.plots.curves import SCORES as SCORES
from actbench.plots.curves import curve_figures as curve_figures
from actbench.plots.curves import shape_figures as shape_figures
from actbench.plots.curves import tuning_figures as tuning_figures
from actbench.plots.figure import Figure as Figure
from actbench.plots.figure import files as files
from actbench.plots.figure import rendered as rendered
from actbench.plots.forest import forest_figures as forest_figures
from actbench.plots.pairs import pair_figures as pair_figures
