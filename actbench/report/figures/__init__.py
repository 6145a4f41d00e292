"""Figures of a study, each defined once for the page and for papers."""

from actbench.report.figures.cost import card_figures as card_figures
from actbench.report.figures.cost import cost_figures as cost_figures
from actbench.report.figures.curves import SCORES as SCORES
from actbench.report.figures.curves import curve_figures as curve_figures
from actbench.report.figures.curves import shape_figures as shape_figures
from actbench.report.figures.curves import tuning_figures as tuning_figures
from actbench.report.figures.figure import Figure as Figure
from actbench.report.figures.figure import figures_by_file as figures_by_file
from actbench.report.figures.figure import render as render
from actbench.report.figures.forest import forest_figures as forest_figures
from actbench.report.figures.mechanism import mechanism_figures as mechanism_figures
from actbench.report.figures.noise import noise_figures as noise_figures
from actbench.report.figures.pairs import pair_figures as pair_figures
