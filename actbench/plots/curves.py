"""Learning curves: mean over seeds with its interval, by epoch or by seconds of training."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

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
    arm_channels,
    arm_labels,
    arm_notes,
    arm_params,
    called,
    file_name,
    of_panel,
    panels,
    with_interval,
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


class Curve(NamedTuple):
    """Means over seeds after each epoch, with half the length of their intervals, NaN where there are too few seeds.

    ``most`` is the highest score that there can be.
    """

    arm: str
    seeds: int
    mean: Float[np.ndarray, " epochs"]
    half: Float[np.ndarray, " epochs"]
    most: float
    epoch_time_s: float | None

    @property
    def bounds(self) -> tuple[Float[np.ndarray, " epochs"], Float[np.ndarray, " epochs"]]:
        """Of the intervals, cut where no score can be."""
        return np.maximum(self.mean - self.half, 0), np.minimum(self.mean + self.half, self.most)

    @property
    def last(self) -> Interval:
        """The last mean that there is."""
        there = np.flatnonzero(np.isfinite(self.mean))
        if not len(there):
            return Interval(math.nan, math.nan, math.nan)
        mean, half = float(self.mean[there[-1]]), float(self.half[there[-1]])
        return Interval(mean, mean - half, mean + half)


def curve_figures(told: Told) -> list[Figure]:
    """One figure for each score, dataset and network; their names end in the score's column."""
    figures = []
    for number, panel in enumerate(panels(told)):
        own, one = of_panel(told.table, panel), len(panels(told)) == 1
        for column, title in SCORES.items():
            found = [curve for arm in told.question.arms if (curve := curve_of(own, arm, column, told))]
            if found:
                name = f"curves-{number}-{column.replace('_', '-')}"
                figures.append(
                    Figure(
                        name,
                        panel.title,
                        where_curves_end(found, title, told.question.baseline),
                        curves_chart(name, found, column, told),
                        curves_rows(found, told),
                        params={**arm_params(told), "along": "epochs"},
                        file=file_name("curves", *(() if one else panel)),
                        titled="" if one else panel.title,
                        inches=PAGE,
                        panel=panel,
                        score=column,
                    )
                )
    return figures


def curve_of(table: pl.DataFrame, arm: str, column: str, told: Told) -> Curve | None:
    """An arm's curve; None where nothing was measured."""
    own = table.filter(arm=arm)
    values = matrix(own[column].to_list())
    if not np.isfinite(values).any():
        return None
    scale = 100 if column.endswith("accuracy") else 1
    mean, half = mean_curve(scale * values, level=1 - told.question.alpha)
    time: Any = own["epoch_time_s"].median()
    return Curve(arm, len(own), mean, half, 100 if scale == 100 else math.inf, time)


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


def where_curves_end(found: Sequence[Curve], title: str, baseline: str) -> str:
    """Where the curves end, in words."""
    what, unit = title.split(", ")
    sign = 1 if unit == "%" else -1
    digits, unit = (1, " %") if unit == "%" else (3, "")
    best = max(found, key=lambda of: (sign * of.last.estimate, of.arm))
    own = next((of for of in found if of.arm == baseline and of is not best), None)
    against = f", against {with_interval(own.last, digits, unit)} of {called(baseline)}" if own else ""
    order = "highest" if sign == 1 else "lowest"
    return (
        f"After {count(len(best.mean), 'epoch')}, mean {what} is {order} for {called(best.arm)}: "
        f"{with_interval(best.last, digits, unit)}, {count(best.seeds, 'seed')}{against}."
    )


def curves_rows(found: Sequence[Curve], told: Told) -> pl.DataFrame:
    """A row for each arm and epoch; ``marked`` are a few, others for each arm."""
    names = arm_labels(told)
    tables = []
    for place, curve in enumerate(found):
        epochs, (low, high) = np.arange(1, len(curve.mean) + 1), curve.bounds
        step = max(1, len(epochs) // MARKS)
        table = {"epoch": epochs, "mean": curve.mean, "low": low, "high": high, "marked": epochs % step == place % step}
        seconds = epochs * (math.nan if curve.epoch_time_s is None else curve.epoch_time_s)
        tables.append(pl.DataFrame({**table, "seconds": seconds}).with_columns(arm=pl.lit(names[curve.arm])))
    significant = pl.col("mean", "low", "high", "seconds").round_sig_figs(6).fill_nan(None)
    return pl.concat(tables).with_columns(significant)


def curves_chart(name: str, found: Sequence[Curve], column: str, told: Told) -> Layers:
    """Bands, means, and the single seeds that the page adds."""
    lines, marks = arm_channels(told, notes=[*arm_notes(told), f"bands: {level(told.question)} interval"])
    limits = {"zero": False} if column.endswith("accuracy") else loss_limits(found, told)
    x = alt.X(
        "x:Q", title="epochs", scale=alt.Scale(nice=False, zero=True), axis=alt.Axis(tickMinStep=WHOLE, format="~g")
    )
    y, low = (alt.Y(f"{of}:Q", title=SCORES[column], scale=alt.Scale(**limits)) for of in ("mean", "low"))
    along = {"x": "along === 'seconds' ? datum.seconds : datum.epoch"}
    clip = "domain" in limits
    means = alt.Chart(alt.NamedData(name)).transform_filter(SHOWN).transform_calculate(**along)
    seeds = alt.Chart(alt.NamedData("seeds")).transform_calculate(**along)
    tooltip = ["arm:N", "epoch:Q", *(alt.Tooltip(f"{of}:Q", format=".4g") for of in ("mean", "low", "high"))]
    return alt.layer(
        means.mark_area(clip=clip, opacity=BAND).encode(x=x, y=low, y2="high:Q", color=lines["color"]),
        seeds.mark_line(clip=clip, strokeWidth=0.8, opacity=0.7)
        .encode(x=x, y=y, detail="seed:N", tooltip=["arm:N", "seed:Q"], **lines)
        .properties(name="seeds"),
        means.mark_line(clip=clip, strokeWidth=2).encode(x=x, y=y, **lines).properties(name="means"),
        means.transform_filter("datum.marked || hover")
        .mark_point(clip=clip, filled=True, size=40)
        .encode(x=x, y=y, opacity=MARKED, tooltip=tooltip, **marks)
        .properties(name="marks"),
    )


def loss_limits(found: Sequence[Curve], told: Told) -> dict[str, Any]:
    """The scale of losses: those far above that of guessing are cut off, lest one arm flatten all others."""
    highest = max(float(np.nanmax(of.mean)) for of in found if np.isfinite(of.mean).any())
    guess: Any = told.table["classes"].max()
    most = 2 * math.log(guess) if guess and guess > 1 else math.inf
    lowest = min(float(np.nanmin(of.mean)) for of in found if np.isfinite(of.mean).any())
    return {"zero": True} if highest <= most or lowest >= most else {"domain": [0, most]}
