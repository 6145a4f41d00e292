"""Arms after equal time, and the time that they take to a target, from the accuracies on val of every epoch."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float
from scipy import stats as distributions

from actbench.inference.stats import Interval, Judgement, Reaching, judge_family, time_to_reach
from actbench.inference.verdict.question import Comparison, Question


class ValCurve(NamedTuple):
    """Accuracy on val of a replicate by epoch, from guessing before the first one on. Between epochs, it is linear."""

    epochs: Float[np.ndarray, " points"]
    accuracy: Float[np.ndarray, " points"]
    trained: float  # epochs
    lost: bool  # whether it diverged

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "ValCurve | None":
        """The curve of a record, of the weights that would have been scored; None if nothing was validated.

        A replicate guesses from the epoch in which it diverges.
        """
        values = np.array(record["epoch_val_accuracy"] or [], dtype=float)
        losses = np.array(record["epoch_val_loss"] or [], dtype=float)
        guess = 1 / record["classes"]
        if record["weights"] == "best" and len(losses) == len(values):
            values = values[best_so_far(losses)]
        if record["diverged"]:
            first = record["diverged_epoch"]
            values[len(values) - 1 if first is None else first :] = guess
        known = np.isfinite(values)
        if not known.any():
            return None
        epochs = np.arange(1.0, len(values) + 1)[known]
        points = np.append(0.0, epochs), np.append(guess, values[known].clip(0, 1))
        return cls(*points, float(record["epochs"]), record["diverged"])

    def at(self, epochs: float) -> float:
        """Accuracy after so many epochs."""
        return float(np.interp(epochs, self.epochs, self.accuracy))

    def reaches(self, target: float) -> float:
        """Epochs until the accuracy is that of the target; infinite if it never is."""
        above = np.flatnonzero(self.accuracy >= target)
        if not len(above) or not above[0]:
            return 0.0 if len(above) else np.inf
        points = slice(above[0] - 1, above[0] + 1)
        return float(np.interp(target, self.accuracy[points], self.epochs[points]))


def best_so_far(losses: Float[np.ndarray, " epochs"]) -> list[int]:
    """For each epoch, the one up to it that has the least loss; itself if no loss is known yet."""
    least: list[int] = []
    for epoch, loss in enumerate(losses):
        better = not least or not losses[least[-1]] <= loss
        least.append(epoch if better and (not least or np.isfinite(loss)) else least[-1])
    return least


def val_curves(records: pl.DataFrame, arm: str, seeds: Sequence[int]) -> list[ValCurve] | None:
    """Curves of an arm's replicates in the order of the seeds; None if any is not known."""
    columns = ("seed", "epoch_val_accuracy", "epoch_val_loss", "weights", "diverged", "diverged_epoch", "epochs")
    by_seed = records.filter(arm=arm).select(*columns, "classes").rows_by_key("seed", named=True, unique=True)
    curves = [ValCurve.from_record(by_seed[seed]) for seed in seeds if seed in by_seed]
    return [curve for curve in curves if curve] if len(seeds) == len(curves) and all(curves) else None


class EqualTime(NamedTuple):
    """An arm and its baseline on val when the slower one has had the time of the faster one.

    The judgement is outside the study's family, and so is that after equal epochs.
    ``holds`` says whether the verdict is the same at both ends of the interval of the
    ratio of times, or the difference inside the margin at all three. Epochs are medians
    over the seeds.
    """

    judgement: Judgement
    means: Mapping[str, float]
    epochs: Mapping[str, float]
    equal_epochs: Judgement
    holds: bool


def compare_at_equal_time(
    comparison: Comparison,
    curves: tuple[Sequence[ValCurve], Sequence[ValCurve]],
    ratio: Interval,
    question: Question,
) -> EqualTime:
    """Compare an arm with its baseline at equal time.

    Args:
        comparison: The arm and its baseline.
        curves: Those of the arm and of the baseline, paired.
        ratio: Time of an epoch of the arm by the baseline's.
        question: For its alpha, margin and looks.
    """
    arm, base = curves

    def scores(factor: float) -> Float[np.ndarray, "4 pairs"]:
        """Accuracies and epochs of both arms."""
        rows = []
        for mine, other in zip(arm, base, strict=True):
            end = min(mine.trained * factor, other.trained)  # in epochs of the baseline
            rows.append((mine.at(end / factor), other.at(end), end / factor, end))
        return np.array(rows).T

    def judged(factor: float) -> Judgement:
        mine, other = scores(factor)[:2]
        return judge_family([mine - other], alpha=question.alpha, margin=question.margin, design=question.design)[0]

    names, (judgement, *ends) = (comparison.arm, comparison.baseline), map(judged, ratio)
    accuracies, epochs = np.split(scores(ratio.estimate), 2)
    return EqualTime(
        judgement=judgement,
        means=dict(zip(names, accuracies.mean(axis=1).tolist(), strict=True)),
        epochs=dict(zip(names, np.median(epochs, axis=1).tolist(), strict=True)),
        equal_epochs=judged(1.0),
        holds=all(end.verdict == judgement.verdict for end in ends)
        or all(each.inside_margin for each in (judgement, *ends)),
    )


class TargetTime(NamedTuple):
    """Epochs that an arm and its baseline take to an accuracy on val.

    Among ``decided`` pairs, one of the two reached it in less time, wherever in its
    interval the ratio of times lies; in ``sooner`` pairs, that was the arm. ``p`` is
    that of an exact sign test, outside the family.
    """

    target: float
    epochs: Mapping[str, Reaching]
    sooner: int
    decided: int
    p: float


def compare_times_to_target(
    comparison: Comparison,
    curves: tuple[Sequence[ValCurve], Sequence[ValCurve]],
    ratio: Interval,
    target: float,
    *,
    alpha: float,
) -> TargetTime:
    """Compare the time that an arm and its baseline take to a target.

    ``ratio`` is the time of an epoch of the arm by the baseline's. A seed that was
    stopped before it reached the target counts as observed until then, and one that
    diverged as one that never reaches it.
    """
    reached = [np.array([curve.reaches(target) for curve in side]) for side in curves]
    ends = [np.array([np.inf if curve.lost else curve.trained for curve in side]) for side in curves]
    (arm, base), (arm_end, base_end) = reached, ends
    # If one of a pair has not reached the target, it must have had as much time as the other took.
    first = np.isfinite(arm) & (arm * ratio.high < np.where(np.isfinite(base), base, base_end))
    second = np.isfinite(base) & (base < ratio.low * np.where(np.isfinite(arm), arm, arm_end))
    sooner, decided = int(first.sum()), int((first | second).sum())
    epochs = {
        name: time_to_reach(np.where(np.isfinite(times), times, end), np.isfinite(times), level=1 - alpha)
        for name, times, end in zip((comparison.arm, comparison.baseline), reached, ends, strict=True)
    }
    p = float(distributions.binomtest(sooner, decided).pvalue) if decided else 1.0
    return TargetTime(target, epochs, sooner, decided, p)
