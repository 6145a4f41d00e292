"""Pictures of a study, from what its records say. Pure functions; nothing here needs torch."""

from actbench.plots.cost import cost
from actbench.plots.curves import SCORES, curves, shown_first
from actbench.plots.forest import best_first, forest
from actbench.plots.pairs import pairs
from actbench.plots.palette import INK, PAPER, QUIET, RULE, SIGNS, STROKES, VERDICTS, Look, Tone, dark_of, looks
from actbench.plots.picture import Panel, Picture, called, panels, shorten
from actbench.plots.shapes import shapes
from actbench.plots.tuning import tuning

__all__ = [
    "INK",
    "PAPER",
    "QUIET",
    "RULE",
    "SCORES",
    "SIGNS",
    "STROKES",
    "VERDICTS",
    "Look",
    "Panel",
    "Picture",
    "Tone",
    "best_first",
    "called",
    "cost",
    "curves",
    "dark_of",
    "forest",
    "looks",
    "pairs",
    "panels",
    "shapes",
    "shorten",
    "shown_first",
    "tuning",
]
