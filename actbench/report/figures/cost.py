"""What arms cost against what they score, with the front that no other arm beats in both."""

from typing import Any

import altair as alt
import numpy as np
import polars as pl

from actbench.inference.stats import mean_with_bounds, pareto
from actbench.inference.verdict import StudyResults
from actbench.inference.verdict.words import listed
from actbench.report.figures.figure import (
    PAGE,
    Figure,
    Layers,
    Panel,
    arm_channels,
    arm_labels,
    arms_in_words,
    known_scores,
    of_panel,
    panels,
    tooltips,
)
from actbench.report.figures.palette import PAPER, QUIET

NAMED = 10  # arms: up to so many all have a mark of their own
COSTS = {  # columns of the records, with a factor, what it is, its axis, and how it is said
    "epoch_time_s": (1000, "time", "ms an epoch, for one replicate", "{:.3g} ms"),
    "peak_memory_mb": (1, "memory", "peak memory, MiB", "{:,.0f} MiB"),
}


def cost_figures(results: StudyResults) -> list[Figure]:
    """One figure for each kind of cost, dataset and network."""
    figures = []
    for number, panel in enumerate(panels(results)):
        for column, (_, what, title, form) in COSTS.items():
            rows = cost_rows(results, panel, column)
            if len(rows):
                name = f"cost-{number}-{column.split('_')[1]}"
                chart = cost_chart(name, rows, title, results)
                finding = describe_front(rows, form, results)
                title = f"{panel.title}: {what}"
                figures.append(Figure(name, title, finding, chart, rows, {}, "cost", panel=panel, inches=PAGE))
    return figures


def cost_rows(results: StudyResults, panel: Panel, column: str) -> pl.DataFrame:
    """A row for each arm; ``named`` are those on the front and the baseline, and all where they are few."""
    known, rows = known_scores(results), []
    for arm, label in arm_labels(results).items():
        value = median_cost(of_panel(results.table, panel, arm), column)
        scores = 100 * np.array(list(known.get((*panel, arm), {}).values()))
        if value and len(scores):
            cost, busy = value
            accuracy = mean_with_bounds(scores, level=1 - results.question.alpha)
            rows.append((label, COSTS[column][0] * cost, *accuracy, busy))
    table = pl.DataFrame(rows, schema=["arm", "cost", "accuracy", "low", "high", "busy"], orient="row")
    if not rows:
        return table
    table = table.with_columns(pl.col("accuracy", "low", "high").fill_nan(None).clip(0, 100))
    front = pareto(table["accuracy"].to_list(), table["cost"].to_list())
    own = pl.col("arm") == arm_labels(results)[results.question.baseline]
    return table.with_columns(front=front).with_columns(named=pl.col("front") | own | (len(rows) <= NAMED))


def median_cost(own: pl.DataFrame, column: str) -> tuple[float, bool] | None:
    """Median cost of an arm over its fits, and whether all were on a busy machine; those that were not count alone."""
    known = own.drop_nulls(column)
    quiet = known.filter(~pl.col("busy").fill_null(value=False))
    value: Any = (quiet if len(quiet) else known)[column].median()
    return None if value is None else (value, not len(quiet))


def describe_front(rows: pl.DataFrame, form: str, results: StudyResults) -> str:
    """The front in words, the cheapest first."""
    arms = arms_in_words(results)
    best = rows.filter("front").sort("cost").select("arm", "cost", "accuracy").iter_rows()
    names = [f"{arms[arm]} ({form.format(cost)}, {accuracy:.1f} %)" for arm, cost, accuracy in best]
    busy = [arms[arm] for arm in rows.filter("busy")["arm"]]
    whose = "all arms" if len(busy) == len(rows) else listed(busy)
    more = f" The machine was busy with other things during all fits of {whose}: that says little." if busy else ""
    return f"No arm beats these both in cost and in accuracy: {listed(names)}.{more}"


def cost_chart(name: str, rows: pl.DataFrame, title: str, results: StudyResults) -> Layers:
    """Marks with intervals, hollow where the machine was busy; the front is a dotted stair."""
    notes = ["dotted: no arm is better in both"]
    notes += ["grey: other arms"] if not rows["named"].all() else []
    notes += ["hollow: busy machine"] if rows["busy"].any() else []
    x = alt.X("cost:Q", title=title, scale=alt.Scale(zero=False, padding=12))
    scale = alt.Scale(zero=False, padding=8)
    y, low = (alt.Y(f"{of}:Q", title="test accuracy, %", scale=scale) for of in ("accuracy", "low"))
    _, marks = arm_channels(results, legend=rows.filter("named")["arm"], notes=notes)
    fill = alt.condition("datum.busy", alt.value(PAPER.light), alt.Fill(**marks["color"].to_dict()))
    tooltip = tooltips("arm", "busy", cost=".4g", accuracy=".2f")
    arms = alt.Chart(alt.NamedData(name))
    named, grey = arms.transform_filter("datum.named"), arms.transform_filter("!datum.named")
    interval = {"x": x, "y": low, "y2": "high:Q"}
    return alt.layer(
        arms.transform_filter("datum.front")
        .mark_line(interpolate="step-after", color=QUIET.light, strokeDash=[2, 3], strokeWidth=1.5)
        .encode(x=x, y=y),
        grey.mark_rule(color=QUIET.light, opacity=0.5).encode(**interval),
        named.mark_rule().encode(**interval, color=marks["color"]),
        grey.mark_point(filled=True, opacity=1, size=25, color=QUIET.light)
        .encode(x=x, y=y, tooltip=tooltip)
        .properties(name="others"),
        named.mark_point(opacity=1, size=80, strokeWidth=1.5)
        .encode(
            x=x, y=y, tooltip=tooltip, fill=fill, stroke=alt.Stroke(**marks["color"].to_dict()), shape=marks["shape"]
        )
        .properties(name="named"),
    )
