"""All figures of a study for papers."""

from collections.abc import Iterator

from actbench.plots.pairs import rows_of
from actbench.plots.picture import Panel, panels
from actbench.plots.static.measured import costs, curves
from actbench.plots.static.paired import forests, pairs
from actbench.plots.static.paper import Still, file_name, manner
from actbench.plots.static.settings import activations, tunings
from actbench.verdict import Told


def stills(told: Told) -> list[Still]:
    """All figures of a study, those that have something to show."""
    with manner():
        return [
            *forests(told),
            *(still for panel in panels(told) for still in of_one_panel(told, panel)),
            *tunings(told),
            *activations(told),
        ]


def forest_stills(told: Told) -> list[Still]:
    """Paired differences alone."""
    with manner():
        return list(forests(told))


def shape_stills(told: Told) -> list[Still]:
    """The activations alone, where the records hold their shapes."""
    with manner():
        return list(activations(told))


def of_one_panel(told: Told, panel: Panel) -> Iterator[Still]:
    """Paired dots, learning curves and costs on a dataset and network."""
    one = len(panels(told)) == 1
    title = "" if one else panel.title
    where = () if one else panel
    if found := rows_of(told, panel):
        yield Still(file_name("pairs", *where), panel.title, pairs(found, title))
    if figure := curves(told, panel, title):
        yield Still(file_name("curves", *where), panel.title, figure)
    if figure := costs(told, panel, title):
        yield Still(file_name("cost", *where), panel.title, figure)
