"""What all pictures of a study share: panels, labels, axes."""

import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go
import polars as pl

from actbench.plots.palette import INK, PAPER, QUIET, RULE
from actbench.stats import Interval
from actbench.verdict import Told
from actbench.verdict.evidence import Scores, scores
from actbench.verdict.findings import OUTCOME

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif'
LONGEST = 24  # letters of a name beside an axis


class Picture(NamedTuple):
    """A figure with its title and what is to be seen in it, in words.

    ``name`` is made of letters, digits and hyphens, and no other picture of the study has it.
    """

    name: str
    title: str
    finding: str
    figure: go.Figure


class Panel(NamedTuple):
    """A dataset and a network."""

    dataset: str
    network: str

    @property
    def title(self) -> str:
        """As people say it."""
        return f"{self.dataset} with {self.network}"


def panels(told: Told) -> list[Panel]:
    """All datasets and networks of a study."""
    return list(dict.fromkeys(Panel(row.dataset, row.network) for row in told.question.asked))


def of_panel(table: pl.DataFrame, panel: Panel, arm: str | None = None) -> pl.DataFrame:
    """The records of a panel, of one arm or of all."""
    own = table.filter(dataset_name=panel.dataset, network_name=panel.network)
    return own if arm is None else own.filter(arm=arm)


def known_scores(told: Told) -> Scores:
    """Test accuracy of each seed of what is asked; a diverged replicate guesses."""
    return scores(told.table, OUTCOME)


def shorten(name: str, longest: int = LONGEST) -> str:
    """A name with its middle left out, where it is long."""
    if len(name) <= longest:
        return name
    tail = longest // 3
    return f"{name[: longest - tail - 1]}…{name[-tail:]}"


def called(name: str) -> str:
    """A name in a sentence."""
    return shorten(name, 40)


def shown(name: str, longest: int = LONGEST) -> str:
    """A name as text of a figure: short, and with no letter that the figure would take for markup."""
    return html.escape(shorten(" ".join(name.split()), longest), quote=False).replace("$", "&#36;")


def labels(names: Sequence[str]) -> list[str]:
    """Names beside an axis: short, and yet no two alike."""
    found: list[str] = []
    for name in names:
        text, count = shown(name), 1
        while text in found:
            count += 1
            text = f"{shown(name, LONGEST - 4)} ({count})"
        found.append(text)
    return found


def band(value: Interval, digits: int = 1, unit: str = " %") -> str:
    """An estimate with its interval, where it has one."""
    number = f"{value.estimate:z.{digits}f}{unit}"
    return number if value.low != value.low else f"{number} ({value.low:z.{digits}f} to {value.high:z.{digits}f})"


def axis(title: str, **settings: Any) -> dict[str, Any]:
    """An axis in the page's manner, which does not zoom: the page scrolls instead."""
    return {
        "title": {"text": title, "standoff": 8},
        "fixedrange": True,
        "gridcolor": RULE.light,
        "zeroline": False,
        "automargin": True,
        "ticks": "",
        "color": QUIET.light,
        **settings,
    }


def rows_axis(names: Sequence[str]) -> dict[str, Any]:
    """The axis of rows with names, from top to bottom."""
    places = list(range(len(names)))
    reach = [len(names) - 0.5, -0.5]
    return axis("", tickvals=places, ticktext=labels(names), range=reach, showgrid=False, color=INK.light)


def drawn(traces: Sequence[Mapping[str, Any]], *, height: int, **layout: Any) -> go.Figure:
    """A figure of these traces, each a scatter."""
    base = {
        "template": {},
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        "font": {"family": FONT, "size": 13, "color": INK.light},
        "paper_bgcolor": PAPER.light,
        "plot_bgcolor": PAPER.light,
        "hoverlabel": {"bgcolor": PAPER.light, "font": {"color": INK.light, "size": 13}, "namelength": -1},
        "hovermode": "closest",
        "minreducedheight": 10,
        "dragmode": False,
        "showlegend": False,
    }
    return go.Figure([{"type": "scatter", **trace} for trace in traces], {**base, **layout})
