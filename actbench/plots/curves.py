"""Learning curves: mean over seeds with its interval, by epoch; the page turns epochs into seconds."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float
from scipy import stats as distributions

from actbench.plots.palette import BAND, Look, looks
from actbench.plots.picture import Panel, Picture, axis, band, called, drawn, of_panel, panels, shown
from actbench.stats import Interval
from actbench.verdict import Told
from actbench.verdict.words import count

SCORES = {  # columns of the records, with their axes
    "epoch_val_accuracy": "val accuracy, %",
    "epoch_val_loss": "val loss, nats",
    "epoch_train_loss": "train loss, nats",
}
FEW = 8  # epochs: up to so many are marked
FIRST = 6  # arms that are shown at first where there are more


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


def curves(told: Told) -> list[Picture]:
    """One picture for each score, dataset and network; their names end in the score's column."""
    pictures = []
    styles = looks(told.question.arms, told.question.baseline)
    for number, panel in enumerate(panels(told)):
        own = of_panel(told.table, panel)
        for column, title in SCORES.items():
            found = [curve for arm in told.question.arms if (curve := curve_of(own, arm, column, told))]
            if found:
                name = f"curves-{number}-{column.replace('_', '-')}"
                image = figure(found, panel, column, told, styles)
                pictures.append(Picture(name, panel.title, said(found, title, told.question.baseline), image))
    return pictures


def shown_first(told: Told) -> list[str]:
    """The arms that pictures with a curve each begin with: all, or the baseline and the best ones."""
    arms, baseline = told.question.arms, told.question.baseline
    if len(arms) <= FIRST + 2:
        return arms
    means = told.table.group_by("arm").agg(pl.col("test_accuracy").mean()).sort("test_accuracy", descending=True)
    best = [arm for arm in means["arm"] if arm != baseline][: FIRST - 1]
    return [arm for arm in arms if arm == baseline or arm in best]


def curve_of(table: pl.DataFrame, arm: str, column: str, told: Told) -> Curve | None:
    """An arm's curve; None where nothing was measured."""
    own = table.filter(arm=arm)
    values = matrix(own[column].to_list())
    if not np.isfinite(values).any():
        return None
    scale = 100 if column.endswith("accuracy") else 1
    mean, half = means(scale * values, level=1 - told.question.alpha)
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


def means(
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


def said(found: Sequence[Curve], title: str, baseline: str) -> str:
    """Where the curves end, in words."""
    what, unit = title.split(", ")
    sign = 1 if unit == "%" else -1
    digits, unit = (1, " %") if unit == "%" else (3, "")
    best = max(found, key=lambda of: (sign * of.last.estimate, of.arm))
    own = next((of for of in found if of.arm == baseline and of is not best), None)
    against = f", against {band(own.last, digits, unit)} of {called(baseline)}" if own else ""
    order = "highest" if sign == 1 else "lowest"
    return (
        f"After {count(len(best.mean), 'epoch')}, mean {what} is {order} for {called(best.arm)}: "
        f"{band(best.last, digits, unit)}, {count(best.seeds, 'seed')}{against}."
    )


def figure(found: Sequence[Curve], panel: Panel, column: str, told: Told, styles: dict[str, Look]) -> Any:
    """Curves in the arms' order, each with its band before it."""
    first = shown_first(told)
    places = {arm: place for place, arm in enumerate(told.question.arms)}
    traces = []
    for curve in found:
        for trace in parts(curve, styles[curve.arm]):
            seconds = {"seconds": curve.epoch_time_s} if curve.epoch_time_s else {}
            trace["meta"] = {"arm": places[curve.arm], **trace["meta"], **seconds}
            trace["visible"] = curve.arm in first
            traces.append(trace)
    y = axis(SCORES[column], **({} if column.endswith("accuracy") else losses(found, told)))
    meta = {"dataset": panel.dataset, "network": panel.network, "column": column}
    ticks = {"dtick": 1} if max(len(of.mean) for of in found) <= FEW else {}
    return drawn(traces, height=340, xaxis=axis("epochs", rangemode="tozero", **ticks), yaxis=y, meta=meta)


def parts(curve: Curve, look: Look) -> Iterator[dict[str, Any]]:
    """Band and mean of a curve."""
    along = {"x0": 1, "dx": 1, "hoverinfo": "skip", "mode": "lines"}
    if np.isfinite(curve.half).any():
        low, high = curve.bounds
        fill = {"fill": "tonexty", "fillcolor": look.tone.faded(BAND).light}
        for bound, more in ((low, {}), (high, fill)):
            yield {**along, "y": bound.astype(np.float32), "line": {"width": 0}, "meta": {"part": "band"}, **more}
    yield {
        **along,
        "name": shown(curve.arm, 60),
        "y": curve.mean.astype(np.float32),
        "mode": "lines+markers" if len(curve.mean) <= FEW else "lines",
        "line": {"color": look.tone.light, "dash": look.dash, "width": 2},
        "marker": {"size": 5},
        "meta": {"part": "mean"},
        "hoverinfo": "all",
        "hovertemplate": f"{shown(curve.arm, 60)}, mean of {curve.seeds}: %{{y:.4g}}<extra></extra>",
    }


def losses(found: Sequence[Curve], told: Told) -> dict[str, Any]:
    """The axis of losses: those far above that of guessing are cut off, lest one arm flatten all others."""
    highest = max(float(np.nanmax(of.mean)) for of in found if np.isfinite(of.mean).any())
    guess: Any = told.table["classes"].max()
    most = 2 * math.log(guess) if guess and guess > 1 else math.inf
    lowest = min(float(np.nanmin(of.mean)) for of in found if np.isfinite(of.mean).any())
    if highest <= most or lowest >= most:
        return {"rangemode": "tozero"}
    return {"range": [0, most]}
