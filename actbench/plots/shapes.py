"""The activations themselves: function and derivative, and what trained ones have learned."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from actbench.plots.curves import shown_first
from actbench.plots.palette import looks
from actbench.plots.picture import Picture, axis, called, drawn, shown
from actbench.verdict import Told
from actbench.verdict.words import listed

COLUMNS = ("curve_x", "curve_y", "curve_slope")
MOST = 5  # learned shapes of an arm


class Shape(NamedTuple):
    """An activation as a replicate leaves it; ``learned`` if replicates differ."""

    arm: str
    seed: int
    learned: bool
    x: Sequence[float]
    y: Sequence[float]
    slope: Sequence[float]


def shapes(told: Told) -> list[Picture]:
    """The functions and their derivatives; none where the records do not hold them."""
    if not set(COLUMNS) <= set(told.table.columns):
        return []
    found = [shape for arm in told.question.arms for shape in shapes_of(told.table, arm)]
    if not found:
        return []
    learned = list(dict.fromkeys(of.arm for of in found if of.learned))
    more = f" Learned shapes, up to {MOST} seeds: {listed([called(arm) for arm in learned])}." if learned else ""
    firsts = list({of.arm: of for of in reversed(found)}.values())[::-1]
    least = [f"{called(of.arm)} {np.nanmin(of.y):z.3g}" for of in firsts]
    steepest = [f"{called(of.arm)} {np.nanmax(of.slope):z.3g}" for of in firsts]
    return [
        Picture("shapes-function", "Function", f"Least value: {listed(least)}.{more}", figure(found, "y", told)),
        Picture(
            "shapes-slope", "Derivative", f"Steepest slope: {listed(steepest)}.{more}", figure(found, "slope", told)
        ),
    ]


def shapes_of(table: pl.DataFrame, arm: str) -> list[Shape]:
    """Shapes of an arm on the first dataset and network that has some: one if all are the same, else of a few seeds."""
    own = table.filter(arm=arm).drop_nulls(COLUMNS)
    if not len(own):
        return []
    own = own.filter(dataset_name=own["dataset_name"][0], network_name=own["network_name"][0]).sort("seed")
    rows = list(own.head(MOST).select("seed", *COLUMNS).iter_rows())
    learned = any(row[1:] != rows[0][1:] for row in rows)
    return [Shape(arm, seed, learned, *of) for seed, *of in (rows if learned else rows[:1])]


def figure(found: Sequence[Shape], what: str, told: Told) -> Any:
    """One curve for each shape."""
    first = shown_first(told)
    styles = looks(told.question.arms, told.question.baseline)
    traces = []
    for of in found:
        look = styles[of.arm]
        name = shown(of.arm, 60) + (f", seed {of.seed}" if of.learned else "")
        traces.append(
            {
                "name": name,
                "x": np.array(of.x, dtype=np.float32),
                "y": np.array(getattr(of, what), dtype=np.float32),
                "mode": "lines",
                "line": {"color": look.tone.light, "dash": look.dash, "width": 1.2 if of.learned else 2},
                "visible": of.arm in first,
                "meta": {"arm": told.question.arms.index(of.arm), "part": "mean"},
                "hovertemplate": f"{name}: %{{y:.4g}} at %{{x:.3g}}<extra></extra>",
            }
        )
    y = "f(x)" if what == "y" else "f′(x)"
    return drawn(traces, height=340, xaxis=axis("x", zeroline=True), yaxis=axis(y, zeroline=True))
