"""Learning curves: mean over seeds with its interval, by epoch or by seconds of training."""

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
    called,
    of_panel,
    panels,
    tooltips,
)
from actbench.stats import Interval
from actbench.verdict import Told
from actbench.verdict.words import count, level

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
    rows = pl.concat(tables, how="diagonal")
    return rows.with_columns(pl.col(pl.Float64).round_sig_figs(6).fill_nan(None))


def matrix(rows: Sequence[Sequence[float | None] | None]) -> Float[np.ndarray, "seeds epochs"]:
    """Values by seed and epoch, NaN where there is none or it is infinite."""
    epochs = max((len(row) for row in rows if row), default=0)
    values = np.full((len(rows), epochs), np.nan)
    for place, row in enumerate(rows):
        if row:
            values[place, : len(row)] = np.array(row, dtype=float)
    values[~np.isfinite(values)] = np.nan
    return values


def mean_curve(
    values: Float[np.ndarray, "seeds epochs"], *, level: float
) -> tuple[Float[np.ndarray, " epochs"], Float[np.ndarray, " epochs"]]:
    """Mean of the seeds that have a value, and half the length of Student's interval; NaN for too few."""
    there = np.isfinite(values)
    number = there.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, values, 0).sum(axis=0) / number
        spread = np.sqrt((np.where(there, values - mean, 0) ** 2).sum(axis=0) / (number - 1))
        half = distributions.t.ppf((1 + level) / 2, np.maximum(number - 1, 1)) * spread / np.sqrt(number)
    return mean, np.where(number > 1, half, np.nan)


def where_curves_end(rows: pl.DataFrame, title: str, told: Told) -> str:
    """Where the curves end, in words."""
    what, unit = title.split(", ")
    sign, digits, unit, order = (1, 1, " %", "highest") if unit == "%" else (-1, 3, "", "lowest")
    arms = {label: called(arm) for arm, label in arm_labels(told).items()}
    ends = {row["arm"]: row for row in rows.drop_nulls("mean").iter_rows(named=True)}  # the last row of each arm
    best = max(ends, key=lambda arm: (sign * ends[arm]["mean"], arm))

    def end(arm: str) -> str:
        bounds = (math.nan if ends[arm][name] is None else ends[arm][name] for name in ("mean", "low", "high"))
        return with_interval(Interval(*bounds), digits, unit)

    base = arm_labels(told)[told.question.baseline]
    against = f", against {end(base)} of {arms[base]}" if base in ends and base != best else ""
    return (
        f"After {count(len(rows.filter(arm=best)), 'epoch')}, mean {what} is {order} for {arms[best]}: "
        f"{end(best)}, {count(ends[best]['seeds'], 'seed')}{against}."
    )


def with_interval(value: Interval, digits: int = 1, unit: str = " %") -> str:
    """An estimate with its interval, where it has one."""
    number = f"{value.estimate:z.{digits}f}{unit}"
    return number if value.low != value.low else f"{number} ({value.low:z.{digits}f} to {value.high:z.{digits}f})"


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
