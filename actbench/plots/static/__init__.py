"""Figures for papers: as wide as their columns, told apart by shape as well as by colour, with text that stays text."""

from actbench.plots.static.paper import Still, file_name, rendered
from actbench.plots.static.stills import forest_stills, shape_stills, stills

__all__ = ["Still", "file_name", "forest_stills", "rendered", "shape_stills", "stills"]
