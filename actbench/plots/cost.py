"""What arms cost against what they score, with the front that no other arm beats in both."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from actbench.plots.figure import (
    PAGE,
    Figure,
    Layers,
    arm_channels,
    arm_labels,
    called,
    file_name,
    known_scores,
    of_panel,
    panels,
)
from actbench.plots.palette import PAPER, QUIET
from actbench.stats import Interval, mean_interval, pareto
from actbench.verdict import Told
from actbench.verdict.words import listed

NAMED = 10  # arms: up to so many all have a mark of their own
COSTS = {  # columns of the records, with a factor, what it is, its axis, and how it is said
    "epoch_time_s": (1000, "time", "ms an epoch, for one replicate", "{:.3g} ms"),
    "peak_memory_mb": (1, "memory", "peak memory, MiB", "{:,.0f} MiB"),
}


class Point(NamedTuple):
    """An arm: accuracy in percent, its cost, and whether the machine was busy in all of its fits."""

    arm: str
    accuracy: Interval
    cost: float
    busy: bool


def cost_figures(told: Told) -> list[Figure]:
    """One figure for each kind of cost, dataset and network."""
    figures = []
    known, one = known_scores(told), len(panels(told)) == 1
    for number, panel in enumerate(panels(told)):
        for column, (scale, what, title, form) in COSTS.items():
            points = []
            for arm in told.question.arms:
                value = median_cost(of_panel(told.table, panel, arm), column)
                scores = 100 * np.array(list(known.get((*panel, arm), {}).values()))
                if value and len(scores):
                    points.append(Point(arm, mean(scores, told.question.alpha), scale * value[0], value[1]))
            if points:
                front = pareto([of.accuracy.estimate for of in points], [of.cost for of in points])
                name = f"cost-{number}-{column.split('_')[1]}"
                rows = cost_rows(points, front, told)
                figures.append(
                    Figure(
                        name,
                        f"{panel.title}: {what}",
                        describe_front(points, front, form),
                        cost_chart(name, rows, title, told),
                        rows,
                        params={},
                        file=file_name("cost", *(() if one else panel)),
                        titled="" if one else panel.title,
                        inches=PAGE,
                    )
                )
    return figures


def median_cost(own: pl.DataFrame, column: str) -> tuple[float, bool] | None:
    """Median cost of an arm over its fits, and whether all were on a busy machine; those that were not count alone."""
    known = own.drop_nulls(column)
    quiet = known.filter(~pl.col("busy").fill_null(value=False))
    value: Any = (quiet if len(quiet) else known)[column].median()
    return None if value is None else (value, not len(quiet))


def mean(scores: Float[np.ndarray, " seeds"], alpha: float) -> Interval:
    """Mean with its interval, where there is one."""
    if len(scores) > 1:
        return mean_interval(scores, level=1 - alpha)
    return Interval(float(scores[0]), float("nan"), float("nan"))


def describe_front(points: Sequence[Point], front: Bool[np.ndarray, " arms"], form: str) -> str:
    """The front in words, the cheapest first."""
    best = sorted((of for of, on in zip(points, front, strict=True) if on), key=lambda of: of.cost)
    names = [f"{called(of.arm)} ({form.format(of.cost)}, {of.accuracy.estimate:.1f} %)" for of in best]
    busy = [called(of.arm) for of in points if of.busy]
    whose = "all arms" if len(busy) == len(points) else listed(busy)
    more = f" The machine was busy with other things during all fits of {whose}: that says little." if busy else ""
    return f"No arm beats these both in cost and in accuracy: {listed(names)}.{more}"


def cost_rows(points: Sequence[Point], front: Bool[np.ndarray, " arms"], told: Told) -> pl.DataFrame:
    """A row for each arm; ``named`` are those on the front and the baseline, and all where they are few."""
    labels = arm_labels(told)
    rows = [
        (
            labels[of.arm],
            of.cost,
            *(min(max(bound, 0), 100) for bound in of.accuracy),
            of.busy,
            bool(on),
            bool(on) or len(points) <= NAMED or of.arm == told.question.baseline,
        )
        for of, on in zip(points, front, strict=True)
    ]
    names = ["arm", "cost", "accuracy", "low", "high", "busy", "front", "named"]
    return pl.DataFrame(rows, schema=names, orient="row").with_columns(pl.col("low", "high").fill_nan(None))


def cost_chart(name: str, rows: pl.DataFrame, title: str, told: Told) -> Layers:
    """Marks with intervals, hollow where the machine was busy; the front is a dotted stair."""
    notes = ["dotted: no arm is better in both"]
    notes += ["grey: other arms"] if not rows["named"].all() else []
    notes += ["hollow: busy machine"] if rows["busy"].any() else []
    x = alt.X("cost:Q", title=title, scale=alt.Scale(zero=False, padding=12))
    y = alt.Y("accuracy:Q", title="test accuracy, %", scale=alt.Scale(zero=False))
    _, marks = arm_channels(told, legend=rows.filter("named")["arm"], notes=notes)
    fill = alt.condition("datum.busy", alt.value(PAPER.light), alt.Fill(**marks["color"].to_dict()))
    tooltip = [
        "arm:N",
        alt.Tooltip("cost:Q", title=title, format=".4g"),
        alt.Tooltip("accuracy:Q", format=".2f"),
        "busy:N",
    ]
    arms = alt.Chart(alt.NamedData(name))
    named = arms.transform_filter("datum.named")
    grey = arms.transform_filter("!datum.named")
    interval = {"x": x, "y": alt.Y("low:Q", title="test accuracy, %", scale=alt.Scale(zero=False)), "y2": "high:Q"}
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
