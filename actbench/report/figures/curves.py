"""A curve for each arm: scores over training, accuracy on val over a tuned setting, and the activation itself."""

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import polars as pl
from jaxtyping import Float
from scipy import stats as distributions

from actbench.inference.verdict import StudyResults, Tuning
from actbench.inference.verdict.words import count, level, listed, tuning_sentences
from actbench.report.figures.figure import (
    PAGE,
    Figure,
    Layers,
    Panel,
    arm_channels,
    arm_labels,
    arm_params,
    arms_in_words,
    of_panel,
    panels,
    shorten,
    tooltips,
)
from actbench.report.figures.palette import QUIET

SCORES = {  # columns of the records, with their axes
    "epoch_val_accuracy": "val accuracy, %",
    "epoch_val_loss": "val loss, nats",
    "epoch_train_loss": "train loss, nats",
}
SHAPES = ("curve_x", "curve_y", "curve_slope")  # columns of the records
LEARNED = 5  # shapes that are shown of an arm
SHOWN = "indexof(arms, datum.arm) >= 0"  # a filter
BAND = 0.16  # how opaque
MARKS = 6  # on a curve, so that arms are told apart without colour
MARKED = alt.condition("datum.marked", alt.value(1), alt.value(0))
ENDLESS = 1e100  # a loss of a replicate that is about to diverge, whose square may overflow
WHOLE = alt.ExprRef("along === 'seconds' ? 0 : 1")  # epochs are whole


def curve_figures(results: StudyResults) -> list[Figure]:
    """One figure for each score, dataset and network; their names end in the score's column."""
    figures = []
    for number, panel in enumerate(panels(results)):
        for column, title in SCORES.items():
            rows = curve_rows(results, panel, column)
            if len(rows):
                name = f"curves-{number}-{column.replace('_', '-')}"
                chart, finding = curves_chart(name, rows, column, results), where_curves_end(rows, title, results)
                params = {**arm_params(results), "along": "epochs"}
                figures.append(Figure(name, panel.title, finding, chart, rows, params, "curves", panel, PAGE, column))
    return figures


def curve_rows(results: StudyResults, panel: Panel, column: str) -> pl.DataFrame:
    """A row for each arm and epoch, with the mean over seeds; ``marked`` are a few, others for each arm."""
    scale, most = (100, 100) if column.endswith("accuracy") else (1, math.inf)
    tables = [pl.DataFrame()]
    for place, (arm, label) in enumerate(arm_labels(results).items()):
        own = of_panel(results.table, panel, arm)
        values = scale * matrix(own[column].to_list())
        if np.isfinite(values).any():
            mean, low, high = mean_curve(values, level=1 - results.question.alpha, most=most)
            epochs = np.arange(1, len(mean) + 1)
            time: Any = own["epoch_time_s"].median()
            step = max(1, len(epochs) // MARKS)
            table = {
                "epoch": epochs,
                "seconds": epochs * (math.nan if time is None else time),
                "mean": mean,
                "low": low,
                "high": high,
                "marked": epochs % step == place % step,
            }
            tables.append(pl.DataFrame(table).with_columns(arm=pl.lit(label), seeds=len(own)))
    return rounded(tables)


def rounded(tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Rows of all arms, rounded to what a figure shows; null where a number is not known."""
    return pl.concat(tables, how="diagonal").with_columns(pl.col(pl.Float64).round_sig_figs(6).fill_nan(None))


def matrix(rows: Sequence[Sequence[float | None] | None]) -> Float[np.ndarray, "seeds epochs"]:
    """Values by seed and epoch, NaN where there is none or it is as good as infinite."""
    values = np.full((len(rows), max((len(row) for row in rows if row), default=0)), np.nan)
    for own, row in zip(values, rows, strict=True):
        own[: len(row or ())] = np.array(row or (), dtype=float)
    values[~(np.abs(values) < ENDLESS)] = np.nan
    return values


def mean_curve(
    values: Float[np.ndarray, "seeds epochs"], *, level: float, most: float
) -> Float[np.ndarray, "3 epochs"]:
    """Mean of the seeds that have a value, and Student's interval from 0 to the most; NaN for too few."""
    known = np.ma.masked_invalid(values)
    number = known.count(axis=0)
    quantile = distributions.t.ppf((1 + level) / 2, np.maximum(number - 1, 1))
    half = quantile * known.std(axis=0, ddof=1) / np.sqrt(number)
    mean, half = known.mean(axis=0).filled(np.nan), half.filled(np.nan)
    return np.array([mean, np.maximum(mean - half, 0), np.minimum(mean + half, most)])


def where_curves_end(rows: pl.DataFrame, title: str, results: StudyResults) -> str:
    """Where the curves end, in words."""
    what, unit = title.split(", ")
    sign, digits, unit, order = (1, 1, " %", "highest") if unit == "%" else (-1, 3, "", "lowest")
    arms, base = arms_in_words(results), arm_labels(results)[results.question.baseline]
    ends = {row["arm"]: row for row in rows.drop_nulls("mean").iter_rows(named=True)}  # the last row of each arm
    best = max(ends, key=lambda arm: (sign * ends[arm]["mean"], arm))

    def end(arm: str) -> str:
        mean, low, high = (ends[arm][name] for name in ("mean", "low", "high"))
        interval = "" if low is None else f" ({low:z.{digits}f} to {high:z.{digits}f})"
        return f"{mean:z.{digits}f}{unit}{interval}"

    against = f", against {end(base)} of {arms[base]}" if base in ends and base != best else ""
    return (
        f"After {count(len(rows.filter(arm=best)), 'epoch')}, mean {what} is {order} for {arms[best]}: "
        f"{end(best)}, {count(ends[best]['seeds'], 'seed')}{against}."
    )


def curves_chart(name: str, rows: pl.DataFrame, column: str, results: StudyResults) -> Layers:
    """Bands, means, and the single seeds that the page adds."""
    lines, marks = arm_channels(results, notes=[f"bands: {level(results.question)} interval"])
    limits = {"zero": False} if column.endswith("accuracy") else loss_limits(rows, results)
    x = alt.X("x:Q", title="epochs", scale=alt.Scale(nice=False, zero=True), axis=alt.Axis(tickMinStep=WHOLE))
    y, low = (alt.Y(f"{of}:Q", title=SCORES[column], scale=alt.Scale(**limits)) for of in ("mean", "low"))
    along = {"x": "along === 'seconds' ? datum.seconds : datum.epoch"}
    clip = "domain" in limits
    means = alt.Chart(alt.NamedData(name)).transform_filter(SHOWN).transform_calculate(**along)
    seeds = alt.Chart(alt.NamedData("seeds")).transform_calculate(**along)
    tooltip = tooltips("arm", "epoch", mean=".4g", low=".4g", high=".4g")
    return alt.layer(
        means.mark_area(clip=clip, opacity=BAND).encode(x=x, y=low, y2="high:Q", color=lines["color"]),
        seeds.mark_line(clip=clip, strokeWidth=0.8, opacity=0.7)
        .encode(x=x, y=y, detail="seed:N", tooltip=tooltips("arm", "seed"), **lines)
        .properties(name="seeds"),
        means.mark_line(clip=clip, strokeWidth=2).encode(x=x, y=y, **lines).properties(name="means"),
        means.transform_filter("datum.marked || hover")
        .mark_point(clip=clip, filled=True, size=40)
        .encode(x=x, y=y, opacity=MARKED, tooltip=tooltip, **marks)
        .properties(name="marks"),
    )


def loss_limits(rows: pl.DataFrame, results: StudyResults) -> dict[str, Any]:
    """The scale of losses: those far above that of guessing are cut off, lest one arm flatten all others."""
    guess: Any = results.table["classes"].max()
    most = 2 * math.log(guess) if guess and guess > 1 else math.inf
    means = rows["mean"].drop_nulls().drop_nans()
    return {"domain": [0, most]} if (means < most).any() and (means > most).any() else {"zero": True}


def tuning_figures(results: StudyResults) -> list[Figure]:
    """One figure for each dataset and network, the chosen values ringed; none where nothing was tuned."""
    figures = []
    for number, of in enumerate(results.tunings):
        name, panel, finding = f"tuning-{number}", Panel(of.dataset, of.network), " ".join(tuning_sentences(of))
        rows, chart = tuning_rows(of, results), tuning_chart(name, of, results)
        figures.append(Figure(name, panel.title, finding, chart, rows, arm_params(results), "tuning", panel=panel))
    return figures


def tuning_rows(of: Tuning, results: StudyResults) -> pl.DataFrame:
    """A row for each arm and value, accuracies in percent."""
    names = arm_labels(results)
    rows = [
        (names[arm.arm], value, *(100 * bound for bound in interval), value == arm.chosen)
        for arm in of.arms
        for value, interval in arm.val_accuracy.items()
    ]
    table = pl.DataFrame(rows, schema=["arm", "value", "mean", "low", "high", "chosen"], orient="row")
    return table.with_columns(pl.col("mean", "low", "high").fill_nan(None).clip(0, 100))


def tuning_chart(name: str, of: Tuning, results: StudyResults) -> Layers:
    """Bands, means, and rings around chosen values."""
    lines, marks = arm_channels(results, notes=[f"bands: {level(results.question)} interval", "ringed: chosen"])
    scale: dict[str, Any] = {"type": "log"} if all(value > 0 for value in of.grid) else {"zero": False}
    axis = alt.Axis(values=list(of.grid), format="~g")
    x = alt.X("value:Q", title=shorten(of.setting, 60), scale=alt.Scale(**scale, nice=False), axis=axis)
    y, low = (alt.Y(f"{of}:Q", title="val accuracy, %", scale=alt.Scale(zero=False)) for of in ("mean", "low"))
    tooltip = tooltips("arm", "value", "chosen", mean=".2f", low=".2f", high=".2f")
    arms = alt.Chart(alt.NamedData(name)).transform_filter(SHOWN)
    rings = arms.transform_filter("datum.chosen").mark_point(size=200, shape="circle", opacity=1, strokeWidth=2.5)
    points = arms.mark_point(filled=True, opacity=1, size=40)
    return alt.layer(
        arms.mark_area(opacity=BAND).encode(x=x, y=low, y2="high:Q", color=lines["color"]),
        arms.mark_line(strokeWidth=2).encode(x=x, y=y, **lines).properties(name="means"),
        rings.encode(x=x, y=y, color=lines["color"]).properties(name="chosen"),
        points.encode(x=x, y=y, tooltip=tooltip, **marks).properties(name="marks"),
    )


def shape_figures(results: StudyResults) -> list[Figure]:
    """The functions and their derivatives; none where the records do not hold them."""
    rows = shape_rows(results)
    if not len(rows):
        return []
    arms = arms_in_words(results)
    learned = [arms[label] for label in rows.filter("learned")["arm"].unique(maintain_order=True)]
    more = f" Learned shapes, up to {LEARNED} seeds: {listed(learned)}." if learned else ""
    first = rows.filter(pl.col("seed") == pl.col("seed").first().over("arm"))
    ends = first.group_by("arm", maintain_order=True).agg(pl.col("y").min(), pl.col("slope").max()).rows()
    figures = []
    for what, title, axis, finding in (
        ("function", "Function", "f(x)", f"Least value: {listed([f'{arms[of]} {y:z.3g}' for of, y, _ in ends])}."),
        ("slope", "Derivative", "f′(x)", f"Steepest slope: {listed([f'{arms[of]} {up:z.3g}' for of, _, up in ends])}."),
    ):
        name = f"shapes-{what}"
        y, seed = pl.col("slope" if what == "slope" else "y"), pl.when("learned").then("seed")
        own = rows.with_columns(y=y, seed=seed).drop("slope")
        chart = shapes_chart(name, axis, bool(learned), results)
        figures.append(Figure(name, title, finding + more, chart, own, arm_params(results), "activations", inches=PAGE))
    return figures


def shape_rows(results: StudyResults) -> pl.DataFrame:
    """A row for each point of each shape, which are one for an arm, or a few seeds' if these have learned their own.

    They are of the first dataset and network that has some. ``marked`` are a
    few points, others for each arm.
    """
    tables = [pl.DataFrame()]
    known = results.table.drop_nulls(SHAPES)
    for place, (arm, label) in enumerate(arm_labels(results).items()):
        own = known.filter(arm=arm)
        if len(own):
            own = of_panel(own, Panel(own["dataset_name"][0], own["network_name"][0])).sort("seed").head(LEARNED)
            learned = len(set(map(str, own.select(SHAPES).iter_rows()))) > 1
            shapes = (own if learned else own.head(1)).select("seed", x="curve_x", y="curve_y", slope="curve_slope")
            step = max(1, len(shapes["x"][0]) // MARKS)
            point = pl.int_range(pl.len()).over("seed")
            marked = point % step == place * step // 5 % step
            shapes = shapes.explode("x", "y", "slope")
            tables.append(shapes.with_columns(arm=pl.lit(label), learned=pl.lit(learned), marked=marked))
    return rounded(tables)


def shapes_chart(name: str, title: str, learned: bool, results: StudyResults) -> Layers:
    """A line for each shape, thin if it was learned, on the axes of a school book."""
    lines, marks = arm_channels(results, notes=["thin: as learned, a seed each"] if learned else [])
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
