"""The activations themselves: function and derivative, and what trained ones have learned."""

from collections.abc import Sequence
from typing import NamedTuple

import altair as alt
import numpy as np
import polars as pl

from actbench.plots.figure import (
    MARKED,
    MARKS,
    PAGE,
    SHOWN,
    Figure,
    Layers,
    arm_channels,
    arm_labels,
    arm_params,
    called,
)
from actbench.plots.palette import QUIET
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


def shape_figures(told: Told) -> list[Figure]:
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
    texts = {
        "function": ("Function", f"Least value: {listed(least)}.{more}", "f(x)"),
        "slope": ("Derivative", f"Steepest slope: {listed(steepest)}.{more}", "f′(x)"),
    }
    return [
        Figure(
            f"shapes-{what}",
            title,
            finding,
            shapes_chart(f"shapes-{what}", axis, bool(learned), told),
            shapes_rows(found, what, told),
            params=arm_params(told),
            kind="activations",
            inches=PAGE,
        )
        for what, (title, finding, axis) in texts.items()
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


def shapes_rows(found: Sequence[Shape], what: str, told: Told) -> pl.DataFrame:
    """A row for each point of each shape; ``marked`` are a few, others for each arm."""
    names = arm_labels(told)
    tables = []
    for of in found:
        x, y = (np.array(values, dtype=float) for values in (of.x, of.slope if what == "slope" else of.y))
        step = max(1, len(x) // MARKS)
        marked = np.arange(len(x)) % step == told.question.arms.index(of.arm) * step // 5 % step
        table = pl.DataFrame({"x": x, "y": y, "marked": marked})
        settings = {"arm": names[of.arm], "seed": of.seed if of.learned else None, "learned": of.learned}
        tables.append(table.with_columns(pl.lit(value).alias(name) for name, value in settings.items()))
    table = pl.concat(tables, how="vertical_relaxed")
    return table.with_columns(pl.col("x", "y").round_sig_figs(6).fill_nan(None))


def shapes_chart(name: str, title: str, learned: bool, told: Told) -> Layers:
    """A line for each shape, thin if it was learned, on the axes of a school book."""
    notes = ["thin: as learned, a seed each"] if learned else []
    lines, marks = arm_channels(told, notes=notes)
    arms = alt.Chart(alt.NamedData(name)).transform_filter(SHOWN)
    x, y = alt.X("x:Q", title="x", scale=alt.Scale(nice=False)), alt.Y("y:Q", title=title)
    width = alt.condition("datum.learned", alt.value(1.2), alt.value(2))
    seed = [alt.Tooltip("seed:Q")] if learned else []
    tooltip = ["arm:N", *seed, *(alt.Tooltip(f"{of}:Q", format=".3g") for of in ("x", "y"))]
    axes = alt.Chart(alt.InlineData([{}])).mark_rule(color=QUIET.light)
    return alt.layer(
        axes.encode(x=alt.X(datum=0, type="quantitative")),
        axes.encode(y=alt.Y(datum=0, type="quantitative")),
        arms.mark_line().encode(x=x, y=y, detail="seed:N", strokeWidth=width, **lines).properties(name="shapes"),
        arms.transform_filter("datum.marked || hover")
        .mark_point(filled=True, size=30)
        .encode(x=x, y=y, opacity=MARKED, tooltip=tooltip, **marks)
        .properties(name="marks"),
    )
