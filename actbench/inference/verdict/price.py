"""What an arm costs beside its baseline: time, accuracy for equal time, time to a target, and memory."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from actbench.inference.stats import Interval, Judgement
from actbench.inference.verdict.equal_time import (
    EqualTime,
    TargetTime,
    compare_at_equal_time,
    compare_times_to_target,
    val_curves,
)
from actbench.inference.verdict.question import Comparison, Question
from actbench.inference.verdict.timing import PairTiming, StepTiming, Timings

AccuracyAndTime = Literal["dominates", "trade-off", "dominated", "undecided", "no difference in time was seen"]
EPOCHS = Interval(1.0, 1.0, 1.0)  # ratio of the unit of time, if that is the epoch


class Price(NamedTuple):
    """What an arm costs beside its baseline. What is not known is None.

    ``saved_bytes`` are kept by each arm's activation from the forward to the backward
    pass, for each element of its input.
    """

    timing: PairTiming | None
    equal_time: EqualTime | None
    target: TargetTime | None
    saved_bytes: Mapping[str, float | None]
    silent: StepTiming | None
    """The timing of an arm that tells nothing, because it was short or others used the machine."""


def weigh(judgement: Judgement, timing: PairTiming | None) -> AccuracyAndTime | None:
    """Accuracy and time together; None without times.

    An arm dominates if it is better and takes less time, or is equivalent and takes
    less. It needs evidence for both: without a difference in time, the accuracy speaks alone.
    """
    if timing is None:
        return None
    if not timing.seen:
        return "no difference in time was seen"
    faster = timing.ratio.estimate < 1
    if judgement.verdict == "undecided":
        return "undecided"
    if judgement.verdict == ("worse" if faster else "better"):
        return "trade-off"
    return "dominates" if faster else "dominated"


def find_price(
    table: pl.DataFrame, comparison: Comparison, seeds: Sequence[int], question: Question, timings: Timings
) -> Price | None:
    """The price of a comparison on the pairs of these seeds; None over several datasets.

    The target is the study's, or the median over the seeds of the baseline's
    accuracy on val after its last epoch.

    Args:
        table: Records of the study.
        comparison: An arm and its baseline.
        seeds: Of the pairs that count.
        question: The question of the study.
        timings: Those of the study.
    """
    if comparison.dataset is None:
        return None
    records = table.filter(dataset_name=comparison.dataset, network_name=comparison.network)
    cells = dict(records.select("arm", "cell").unique(maintain_order=True).iter_rows())
    timing = timings.between(comparison, cells, question.baseline, alpha=question.alpha)
    arm, base = (val_curves(records, name, seeds) for name in (comparison.arm, comparison.baseline))
    equal_time = target = None
    if arm and base:
        ratio = timing and timing.epoch_ratio
        equal_time = ratio and compare_at_equal_time(comparison, (arm, base), ratio, question)
        aim = timings.target or float(np.median([curve.at(curve.trained) for curve in base]))
        guess = float(base[0].accuracy[0])
        # Without a ratio, epochs are compared. Guessing is no target.
        target = (
            None
            if aim <= guess + 1e-6
            else compare_times_to_target(comparison, (arm, base), ratio or EPOCHS, aim, alpha=question.alpha)
        )
    saved = {name: timings.saved_bytes.get(cells.get(name, "")) for name in (comparison.arm, comparison.baseline)}
    silent = None if timing else timings.silent(comparison, cells, question.baseline)
    return Price(timing, equal_time, target, saved, silent)
