"""The activations themselves: function and derivative, and what trained ones have learned."""

import altair as alt
import polars as pl

from actbench.plots.figure import (
    MARKED,
    MARKS,
    PAGE,
    SHOWN,
    Figure,
    Layers,
    Panel,
    arm_channels,
    arm_labels,
    arm_params,
    arms_in_words,
    of_panel,
    rounded,
    tooltips,
)
from actbench.plots.palette import QUIET
from actbench.verdict import Told
from actbench.verdict.words import listed

COLUMNS = ("curve_x", "curve_y", "curve_slope")
MOST = 5  # learned shapes of an arm


def shape_figures(told: Told) -> list[Figure]:
    """The functions and their derivatives; none where the records do not hold them."""
    rows = shape_rows(told)
    if not len(rows):
        return []
    arms = arms_in_words(told)
    learned = [arms[label] for label in rows.filter("learned")["arm"].unique(maintain_order=True)]
    more = f" Learned shapes, up to {MOST} seeds: {listed(learned)}." if learned else ""
    first = rows.filter(pl.col("seed") == pl.col("seed").first().over("arm"))
    ends = first.group_by("arm", maintain_order=True).agg(pl.col("y").min(), pl.col("slope").max()).rows()
    figures = []
    for what, title, axis, finding in (
        ("function", "Function", "f(x)", f"Least value: {listed([f'{arms[of]} {y:z.3g}' for of, y, _ in ends])}."),
        ("slope", "Derivative", "f′(x)", f"Steepest slope: {listed([f'{arms[of]} {up:z.3g}' for of, _, up in ends])}."),
    ):
        name = f"shapes-{what}"
        own = rows.drop("y").rename({"slope": "y"}) if what == "slope" else rows.drop("slope")
        own = own.with_columns(seed=pl.when("learned").then("seed"))
        chart = shapes_chart(name, axis, bool(learned), told)
        figures.append(Figure(name, title, finding + more, chart, own, arm_params(told), "activations", inches=PAGE))
    return figures


def shape_rows(told: Told) -> pl.DataFrame:
    """A row for each point of each shape, which are one for an arm, or a few seeds' if these have learned their own.

    They are of the first dataset and network that has some. ``marked`` are a
    few points, others for each arm.
    """
    tables = [pl.DataFrame()]
    known = told.table.drop_nulls(COLUMNS) if set(COLUMNS) <= set(told.table.columns) else told.table.clear()
    for place, (arm, label) in enumerate(arm_labels(told).items()):
        own = known.filter(arm=arm)
        if len(own):
            own = of_panel(own, Panel(own["dataset_name"][0], own["network_name"][0])).sort("seed").head(MOST)
            learned = len(set(map(str, own.select(COLUMNS).iter_rows()))) > 1
            shapes = (own if learned else own.head(1)).select("seed", x="curve_x", y="curve_y", slope="curve_slope")
            step = max(1, len(shapes["x"][0]) // MARKS)
            point = pl.int_range(pl.len()).over("seed")
            marked = point % step == place * step // 5 % step
            shapes = shapes.explode("x", "y", "slope")
            tables.append(shapes.with_columns(arm=pl.lit(label), learned=pl.lit(learned), marked=marked))
    return rounded(tables)


def shapes_chart(name: str, title: str, learned: bool, told: Told) -> Layers:
    """A line for each shape, thin if it was learned, on the axes of a school book."""
    notes = ["thin: as learned, a seed each"] if learned else []
    lines, marks = arm_channels(told, notes=notes)
    arms = alt.Chart(alt.NamedData(name)).transform_filter(SHOWN)
    x, y = alt.X("x:Q", title="x", scale=alt.Scale(nice=False)), alt.Y("y:Q", title=title)
    width = alt.condition("datum.learned", alt.value(1.2), alt.value(2))
    tooltip = tooltips("arm", *(["seed"] if learned else []), x=".3g", y=".3g")
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
