"""Curves of each arm: scores by epoch or by seconds of training, and accuracy on val over a tuned setting."""

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import polars as pl
from jaxtyping import Float
from scipy import stats as distributions

from actbench.plots.figure import (
    BAND,
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
    panels,
    rounded,
    shorten,
    tooltips,
)
from actbench.verdict import Told, Tuning
from actbench.verdict.words import count, level, tuning_sentences

SCORES = {  # columns of the records, with their axes
    "epoch_val_accuracy": "val accuracy, %",
    "epoch_val_loss": "val loss, nats",
    "epoch_train_loss": "train loss, nats",
}
WHOLE = alt.ExprRef("along === 'seconds' ? 0 : 1")  # epochs are whole


def curve_figures(told: Told) -> list[Figure]:
    """One figure for each score, dataset and network; their names end in the score's column."""
    figures = []
    for number, panel in enumerate(panels(told)):
        for column, title in SCORES.items():
            rows = curve_rows(told, panel, column)
            if len(rows):
                name = f"curves-{number}-{column.replace('_', '-')}"
                chart, finding = curves_chart(name, rows, column, told), where_curves_end(rows, title, told)
                params = {**arm_params(told), "along": "epochs"}
                more: Any = {"panel": panel, "inches": PAGE, "score": column}
                figures.append(Figure(name, panel.title, finding, chart, rows, params, "curves", **more))
    return figures


def curve_rows(told: Told, panel: Panel, column: str) -> pl.DataFrame:
    """A row for each arm and epoch, with the mean over seeds; ``marked`` are a few, others for each arm."""
    scale, most = (100, 100) if column.endswith("accuracy") else (1, math.inf)
    tables = [pl.DataFrame()]
    for place, (arm, label) in enumerate(arm_labels(told).items()):
        own = of_panel(told.table, panel, arm)
        values = scale * matrix(own[column].to_list())
        if np.isfinite(values).any():
            mean, half = mean_curve(values, level=1 - told.question.alpha)
            epochs = np.arange(1, len(mean) + 1)
            time: Any = own["epoch_time_s"].median()
            step = max(1, len(epochs) // MARKS)
            table = {
                "epoch": epochs,
                "seconds": epochs * (math.nan if time is None else time),
                "mean": mean,
                "low": np.maximum(mean - half, 0),
                "high": np.minimum(mean + half, most),
                "marked": epochs % step == place % step,
            }
            tables.append(pl.DataFrame(table).with_columns(arm=pl.lit(label), seeds=len(own)))
    return rounded(tables)


def matrix(rows: Sequence[Sequence[float | None] | None]) -> Float[np.ndarray, "seeds epochs"]:
    """Values by seed and epoch, NaN where there is none or it is infinite."""
    values = np.full((len(rows), max((len(row) for row in rows if row), default=0)), np.nan)
    for own, row in zip(values, rows, strict=True):
        own[: len(row or ())] = np.array(row or (), dtype=float)
    values[~np.isfinite(values)] = np.nan
    return values


def mean_curve(
    values: Float[np.ndarray, "seeds epochs"], *, level: float
) -> tuple[Float[np.ndarray, " epochs"], Float[np.ndarray, " epochs"]]:
    """Mean of the seeds that have a value, and half the length of Student's interval; NaN for too few."""
    known = np.ma.masked_invalid(values)
    number = known.count(axis=0)
    quantile = distributions.t.ppf((1 + level) / 2, np.maximum(number - 1, 1))
    half = quantile * known.std(axis=0, ddof=1) / np.sqrt(number)
    return known.mean(axis=0).filled(np.nan), half.filled(np.nan)


def where_curves_end(rows: pl.DataFrame, title: str, told: Told) -> str:
    """Where the curves end, in words."""
    what, unit = title.split(", ")
    sign, digits, unit, order = (1, 1, " %", "highest") if unit == "%" else (-1, 3, "", "lowest")
    arms, base = arms_in_words(told), arm_labels(told)[told.question.baseline]
    ends = {row["arm"]: row for row in rows.drop_nulls("mean").iter_rows(named=True)}  # the last row of each arm
    best = max(ends, key=lambda arm: (sign * ends[arm]["mean"], arm))

    def end(arm: str) -> str:
        mean, *bounds = (ends[arm][name] for name in ("mean", "low", "high"))
        interval = "" if None in bounds else " ({:z.{digits}f} to {:z.{digits}f})".format(*bounds, digits=digits)
        return f"{mean:z.{digits}f}{unit}{interval}"

    against = f", against {end(base)} of {arms[base]}" if base in ends and base != best else ""
    return (
        f"After {count(len(rows.filter(arm=best)), 'epoch')}, mean {what} is {order} for {arms[best]}: "
        f"{end(best)}, {count(ends[best]['seeds'], 'seed')}{against}."
    )


def curves_chart(name: str, rows: pl.DataFrame, column: str, told: Told) -> Layers:
    """Bands, means, and the single seeds that the page adds."""
    lines, marks = arm_channels(told, notes=[f"bands: {level(told.question)} interval"])
    limits = {"zero": False} if column.endswith("accuracy") else loss_limits(rows, told)
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


def loss_limits(rows: pl.DataFrame, told: Told) -> dict[str, Any]:
    """The scale of losses: those far above that of guessing are cut off, lest one arm flatten all others."""
    guess: Any = told.table["classes"].max()
    most = 2 * math.log(guess) if guess and guess > 1 else math.inf
    lowest, highest = rows["mean"].min(), rows["mean"].max()
    return {"domain": [0, most]} if lowest < most < highest else {"zero": True}  # type: ignore[operator]


def tuning_figures(told: Told) -> list[Figure]:
    """One figure for each dataset and network, the chosen values ringed; none where nothing was tuned."""
    figures = []
    for number, of in enumerate(told.tunings):
        name, panel, finding = f"tuning-{number}", Panel(of.dataset, of.network), " ".join(tuning_sentences(of))
        rows, chart = tuning_rows(of, told), tuning_chart(name, of, told)
        figures.append(Figure(name, panel.title, finding, chart, rows, arm_params(told), "tuning", panel=panel))
    return figures


def tuning_rows(of: Tuning, told: Told) -> pl.DataFrame:
    """A row for each arm and value, accuracies in percent."""
    names = arm_labels(told)
    rows = [
        (names[arm.arm], value, *(min(max(100 * bound, 0), 100) for bound in interval), value == arm.chosen)
        for arm in of.arms
        for value, interval in arm.val_accuracy.items()
    ]
    table = pl.DataFrame(rows, schema=["arm", "value", "mean", "low", "high", "chosen"], orient="row")
    return table.with_columns(pl.col("mean", "low", "high").fill_nan(None))


def tuning_chart(name: str, of: Tuning, told: Told) -> Layers:
    """Bands, means, and rings around chosen values."""
    lines, marks = arm_channels(told, notes=[f"bands: {level(told.question)} interval", "ringed: chosen"])
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
