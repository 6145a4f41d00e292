"""A curve for each arm: scores over training, accuracy on val over a tuned setting, and the activation itself."""

import json
import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from actbench.inference.frames import arm_frame
from actbench.inference.verdict import StudyResults, Tuning
from actbench.inference.verdict.evidence import epoch_matrix, mean_curve
from actbench.inference.verdict.phrases import count, level, listed
from actbench.inference.verdict.question import Panel
from actbench.inference.verdict.words import tuning_sentences
from actbench.report.figures.figure import (
    PAGE,
    Figure,
    Layers,
    arm_channels,
    arm_labels,
    arm_params,
    names_by_label,
    panel_records,
    shorten,
    tooltips,
    unvalidated,
)
from actbench.report.figures.palette import QUIET

SCORES = {  # columns of the records, with their axes
    "epoch_val_accuracy": "val accuracy, %",
    "epoch_val_loss": "val loss, nats",
    "epoch_train_loss": "train loss, nats",
}
SHAPES = ("curve_x", "curve_y", "curve_slope")  # columns of the records
LEARNED = 5  # most shapes of an arm
SHOWN = "indexof(arms, datum.arm) >= 0"  # a filter
BAND = 0.16  # opacity
MARKS = 6  # on a curve, so that arms are told apart without colour
MARKED = alt.OpacityValue(0, condition={"test": "datum.marked", "value": 1})
ALONG = "along === 'seconds' ? datum.seconds : datum.epoch"
SPREAD = 0.3  # of the bars of one epoch, in epochs
WHOLE = alt.ExprRef("along === 'seconds' ? 0 : 1")  # epochs are whole


@unvalidated
def curve_figures(results: StudyResults) -> list[Figure]:
    """A figure for each score, dataset and network; their names end in the score's column."""
    figures, arms = [], arm_frame(results)
    for number, panel in enumerate(results.question.panels):
        for column, title in SCORES.items():
            rows = curve_rows(results, arms.filter(**panel._asdict()), column)
            if len(rows):
                name = f"curves-{number}-{column.replace('_', '-')}"
                chart, finding = curves_chart(name, rows, column, results), describe_ends(rows, title, results)
                params = {**arm_params(results), "along": "epochs"}
                figures.append(Figure(name, panel.title, finding, chart, rows, params, "curves", panel, PAGE, column))
    return figures


def curve_rows(results: StudyResults, arms: pl.DataFrame, column: str) -> pl.DataFrame:
    """A row for each of the arms and each epoch, with the mean over seeds; ``marked`` are a few points of each arm."""
    scale, most = (100, 100) if column.endswith("accuracy") else (1, math.inf)
    labels, tables = arm_labels(results), [pl.DataFrame()]
    for *panel, arm, seeds, time in arms.select("dataset", "network", "arm", "seeds", "epoch_time_s").iter_rows():
        values = scale * epoch_matrix(panel_records(results.table, Panel(*panel), arm)[column])
        if np.isfinite(values).any():
            mean, low, high = mean_curve(values, level=1 - results.question.alpha, most=most)
            epochs = np.arange(1, len(mean) + 1)
            step = max(1, len(epochs) // MARKS)
            table = {
                "epoch": epochs,
                "seconds": epochs * (math.nan if time is None else time),
                "mean": mean,
                "low": low,
                "high": high,
                "marked": epochs % step == results.question.arms.index(arm) % step,
            }
            tables.append(pl.DataFrame(table).with_columns(arm=pl.lit(labels[arm]), seeds=seeds))
    return join_arms(tables)


def join_arms(tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Rows of all arms, rounded to what a figure shows; null where a number is not known."""
    return pl.concat(tables, how="diagonal").with_columns(pl.col(pl.Float64).round_sig_figs(6).fill_nan(None))


def describe_ends(rows: pl.DataFrame, title: str, results: StudyResults) -> str:
    """The ends of the curves in words."""
    score, unit = title.split(", ")
    sign, digits, unit, order = (1, 1, " %", "highest") if unit == "%" else (-1, 3, "", "lowest")
    arms, base = names_by_label(results), arm_labels(results)[results.question.baseline]
    ends = {row["arm"]: row for row in rows.drop_nulls("mean").iter_rows(named=True)}  # the last row of each arm
    best = max(ends, key=lambda arm: (sign * ends[arm]["mean"], arm))

    def end(arm: str) -> str:
        mean, low, high = (ends[arm][name] for name in ("mean", "low", "high"))
        interval = "" if low is None else f" ({low:z.{digits}f} to {high:z.{digits}f})"
        return f"{mean:z.{digits}f}{unit}{interval}"

    if len(ends) > 1 and len({end(arm) for arm in ends}) == 1:
        return f"After {count(len(rows.filter(arm=best)), 'epoch')}, mean {score} is {end(best)} for all arms."
    against = f", against {end(base)} of {arms[base]}" if base in ends and base != best else ""
    return (
        f"After {count(len(rows.filter(arm=best)), 'epoch')}, mean {score} is {order} for {arms[best]}: "
        f"{end(best)}, {count(ends[best]['seeds'], 'seed')}{against}."
    )


def curves_chart(name: str, rows: pl.DataFrame, column: str, results: StudyResults) -> Layers:
    """Bands, means, and the curves of single seeds, which the page adds."""
    single = rows["epoch"].max() == 1  # a band has no width: bars stand side by side
    lines, marks = arm_channels(results, notes=[f"{'bars' if single else 'bands'}: {level(results.question)} interval"])
    limits = {"zero": False} if column.endswith("accuracy") else loss_limits(rows, results)
    scale = alt.Scale(nice=False, zero=True, padding=30 if single else alt.Undefined)
    x = alt.X("x:Q", title="epochs", scale=scale, axis=alt.Axis(tickMinStep=WHOLE))
    y, low = (alt.Y(f"{field}:Q", title=SCORES[column], scale=alt.Scale(**limits)) for field in ("mean", "low"))
    arms = list(dict.fromkeys(rows["arm"]))
    place = f"1 + {SPREAD} * ((indexof({json.dumps(arms)}, datum.arm) + 0.5) / {len(arms)} - 0.5)" if single else "1"
    clip = "domain" in limits
    means = alt.Chart(alt.NamedData(name)).transform_filter(SHOWN).transform_calculate(x=f"({ALONG}) * ({place})")
    seeds = alt.Chart(alt.NamedData("seeds")).transform_calculate(x=ALONG)
    tooltip = tooltips("arm", "epoch", mean=".4g", low=".4g", high=".4g")
    bands = means.mark_rule(clip=clip, strokeWidth=2) if single else means.mark_area(clip=clip, opacity=BAND)
    return alt.layer(
        bands.encode(x=x, y=low, y2=alt.Y2("high:Q"), color=lines["color"]),
        seeds.mark_line(clip=clip, strokeWidth=0.8, opacity=0.7)
        .encode(x=x, y=y, detail=alt.Detail("seed:N"), tooltip=tooltips("arm", "seed"), **lines)
        .properties(name="seeds"),
        means.mark_line(clip=clip, strokeWidth=2).encode(x=x, y=y, **lines).properties(name="means"),
        means.transform_filter("datum.marked || hover")
        .mark_point(clip=clip, filled=True, size=40)
        .encode(x=x, y=y, opacity=MARKED, tooltip=tooltip, **marks)
        .properties(name="marks"),
    )


def loss_limits(rows: pl.DataFrame, results: StudyResults) -> dict[str, Any]:
    """The scale of losses, cut off far above the loss of guessing, lest one arm flatten all others."""
    guess: Any = results.table["classes"].max()
    most = 2 * math.log(guess) if guess and guess > 1 else math.inf
    means = rows["mean"].drop_nulls().drop_nans()
    return {"domain": [0, most]} if (means < most).any() and (means > most).any() else {"zero": True}


@unvalidated
def tuning_figures(results: StudyResults) -> list[Figure]:
    """A figure for each dataset and network, the chosen values ringed; none without tuning."""
    figures = []
    for number, tuning in enumerate(results.tunings):
        name, panel = f"tuning-{number}", Panel(tuning.dataset, tuning.network)
        finding, rows = " ".join(tuning_sentences(tuning)), tuning_rows(tuning, results)
        chart = tuning_chart(name, tuning, results)
        figures.append(Figure(name, panel.title, finding, chart, rows, arm_params(results), "tuning", panel=panel))
    return figures


def tuning_rows(tuning: Tuning, results: StudyResults) -> pl.DataFrame:
    """A row for each arm and value, accuracies in percent."""
    labels = arm_labels(results)
    rows = [
        (labels[arm.arm], value, *(100 * bound for bound in interval), value == arm.chosen)
        for arm in tuning.arms
        for value, interval in arm.val_accuracy.items()
    ]
    table = pl.DataFrame(rows, schema=["arm", "value", "mean", "low", "high", "chosen"], orient="row")
    return table.with_columns(pl.col("mean", "low", "high").fill_nan(None).clip(0, 100))


def tuning_chart(name: str, tuning: Tuning, results: StudyResults) -> Layers:
    """Bands, means, and rings around chosen values."""
    lines, marks = arm_channels(results, notes=[f"bands: {level(results.question)} interval", "ringed: chosen"])
    scale: dict[str, Any] = {"type": "log"} if all(value > 0 for value in tuning.grid) else {"zero": False}
    axis = alt.Axis(values=list(tuning.grid), format="~g")
    x = alt.X("value:Q", title=shorten(tuning.setting, 60), scale=alt.Scale(**scale, nice=False), axis=axis)
    y, low = (alt.Y(f"{field}:Q", title="val accuracy, %", scale=alt.Scale(zero=False)) for field in ("mean", "low"))
    tooltip = tooltips("arm", "value", "chosen", mean=".2f", low=".2f", high=".2f")
    arms = alt.Chart(alt.NamedData(name)).transform_filter(SHOWN)
    rings = arms.transform_filter("datum.chosen").mark_point(size=200, shape="circle", opacity=1, strokeWidth=2.5)
    points = arms.mark_point(filled=True, opacity=1, size=40)
    return alt.layer(
        arms.mark_area(opacity=BAND).encode(x=x, y=low, y2=alt.Y2("high:Q"), color=lines["color"]),
        arms.mark_line(strokeWidth=2).encode(x=x, y=y, **lines).properties(name="means"),
        rings.encode(x=x, y=y, color=lines["color"]).properties(name="chosen"),
        points.encode(x=x, y=y, tooltip=tooltip, **marks).properties(name="marks"),
    )


@unvalidated
def shape_figures(results: StudyResults) -> list[Figure]:
    """The activations and their derivatives; none where the records do not hold them."""
    rows = shape_rows(results)
    if not len(rows):
        return []
    arms = names_by_label(results)
    learned = [arms[label] for label in rows.filter("learned")["arm"].unique(maintain_order=True)]
    more = f" Learned shapes, up to {LEARNED} seeds: {listed(learned)}." if learned else ""
    first = rows.filter(pl.col("seed") == pl.col("seed").first().over("arm"))
    ends = first.group_by("arm", maintain_order=True).agg(pl.col("y").min(), pl.col("slope").max()).rows()
    figures = []
    least = listed([f"{arms[label]} {y:z.3g}" for label, y, _ in ends])
    steepest = listed([f"{arms[label]} {slope:z.3g}" for label, _, slope in ends])
    for name, column, title, axis, finding in (
        ("shapes-function", "y", "Function", "f(x)", f"Least of the values drawn: {least}."),
        ("shapes-slope", "slope", "Derivative", "f′(x)", f"Steepest of the slopes drawn: {steepest}."),
    ):
        data = rows.with_columns(y=column, seed=pl.when("learned").then("seed")).drop("slope")
        chart, params = shapes_chart(name, axis, bool(learned), results), arm_params(results)
        figures.append(Figure(name, title, finding + more, chart, data, params, "activations", inches=PAGE))
    return figures


def shape_rows(results: StudyResults) -> pl.DataFrame:
    """A row for each point of each shape: one shape for an arm, or those of a few seeds if they learned their own.

    They are of the first dataset and network that has shapes. ``marked`` are a
    few points, different for each arm.
    """
    tables = [pl.DataFrame()]
    for index, (arm, label) in enumerate(arm_labels(results).items()):
        records = results.table.drop_nulls(SHAPES).filter(arm=arm)
        if len(records):
            panel = Panel(records["dataset_name"][0], records["network_name"][0])
            records = panel_records(records, panel).sort("seed").head(LEARNED)
            learned = len(set(map(str, records.select(SHAPES).iter_rows()))) > 1
            shapes = records if learned else records.head(1)
            shapes = shapes.select("seed", x="curve_x", y="curve_y", slope="curve_slope")
            step = max(1, len(shapes["x"][0]) // MARKS)
            point = pl.int_range(pl.len()).over("seed")
            marked = point % step == index * step // 5 % step
            shapes = shapes.explode("x", "y", "slope")
            tables.append(shapes.with_columns(arm=pl.lit(label), learned=pl.lit(learned), marked=marked))
    return join_arms(tables)


def shapes_chart(name: str, title: str, learned: bool, results: StudyResults) -> Layers:
    """A line for each shape, thin if it was learned, with axes through the origin."""
    lines, marks = arm_channels(results, notes=["thin: as learned, a seed each"] if learned else [])
    arms = alt.Chart(alt.NamedData(name)).transform_filter(SHOWN)
    x, y = alt.X("x:Q", title="x", scale=alt.Scale(nice=False)), alt.Y("y:Q", title=title)
    width = alt.StrokeWidthValue(2, condition={"test": "datum.learned", "value": 1.2})
    tooltip = tooltips("arm", *(["seed"] if learned else []), x=".3g", y=".3g")
    axes = alt.Chart(alt.InlineData([{}])).mark_rule(color=QUIET.light)
    return alt.layer(
        axes.encode(x=alt.X(datum=0, type="quantitative")),
        axes.encode(y=alt.Y(datum=0, type="quantitative")),
        arms.mark_line()
        .encode(x=x, y=y, detail=alt.Detail("seed:N"), strokeWidth=width, **lines)
        .properties(name="shapes"),
        arms.transform_filter("datum.marked || hover")
        .mark_point(filled=True, size=30)
        .encode(x=x, y=y, opacity=MARKED, tooltip=tooltip, **marks)
        .properties(name="marks"),
    )
