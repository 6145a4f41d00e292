"""From records to paired differences, and to what an arm costs."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float

from actbench.inference.stats import Interval, effect_size, mean_with_bounds, sign_flip
from actbench.inference.verdict.question import Comparison, Question

# What a replicate that has diverged counts as: it guesses. No calibration error follows from that.
GUESS = {
    "test_accuracy": 1 / pl.col("classes"),
    "val_accuracy": 1 / pl.col("classes"),
    "test_loss": pl.col("classes").log(),
    "test_ece": pl.lit(None, dtype=pl.Float64),
}
ENDLESS = 1e100  # a loss of a replicate that is about to diverge, whose square may overflow
LOWER_IS_BETTER = ("test_loss", "test_ece")

Scores = Mapping[tuple[str, str, str], Mapping[int, float]]


class Pairs(NamedTuple):
    """Differences of an arm and its baseline, with their seeds in order, and the seeds that only one of them has."""

    seeds: Sequence[int]
    difference: Float[np.ndarray, " pairs"]
    unpaired: Sequence[int]


class Ratio(NamedTuple):
    """Of an arm's cost by its baseline's, over fits that are paired; above 1, the arm costs more.

    ``ratio`` is the geometric mean, with Student's t interval of the
    logarithms; its bounds are NaN for a single fit. ``p`` is the sign-flip
    test's, outside the family, and ``effect`` is in standard deviations of the
    logarithm.
    """

    ratio: Interval
    p: float
    effect: float


class Cost(NamedTuple):
    """What an arm costs in its baseline's stead. The unit is the fit, whose replicates share one clock."""

    fits: int
    time: Ratio
    memory: Ratio | None
    busy: bool  # the machine did other things meanwhile, so that times say little


def scores(table: pl.DataFrame, outcome: str) -> Scores:
    """Score of each seed, by dataset, network and arm; that of guessing where it has diverged, or is about to."""
    lost = pl.col("diverged") | ~(pl.col(outcome).abs() < ENDLESS)
    score = pl.when(lost).then(GUESS[outcome]).otherwise(pl.col(outcome))
    rows = table.select("dataset_name", "network_name", "arm", "seed", score.alias("score")).drop_nulls("score")
    by_cell = rows.rows_by_key(["dataset_name", "network_name", "arm"])
    return {cell: dict(values) for cell, values in by_cell.items()}


def paired(known: Scores, comparison: Comparison, question: Question) -> Pairs:
    """Differences for each seed of the question; over several datasets, their mean for the seeds that all have."""
    wanted = range(question.seed, question.seed + question.most)
    sides = []
    for part in question.parts(comparison):
        sides += [known.get((str(part.dataset), part.network, name), {}) for name in (part.arm, part.baseline)]
    seeds = [seed for seed in wanted if all(seed in side for side in sides)]
    signs = np.array([1, -1] * (len(sides) // 2)) / (len(sides) // 2)
    difference = np.array([[side[seed] for side in sides] for seed in seeds]).reshape(len(seeds), len(sides)) @ signs
    unpaired = sorted({seed for side in sides for seed in side if seed in wanted}.difference(seeds))
    return Pairs(seeds, difference, unpaired)


def records_of(table: pl.DataFrame, comparison: Comparison, question: Question, seeds: Sequence[int]) -> pl.DataFrame:
    """Records of both arms of a comparison, of these seeds."""
    datasets = [part.dataset for part in question.parts(comparison)]
    return table.filter(
        pl.col("arm").is_in([comparison.arm, comparison.baseline]),
        pl.col("dataset_name").is_in(datasets),
        pl.col("seed").is_in(seeds),
        network_name=comparison.network,
    )


def cost(own: pl.DataFrame, comparison: Comparison, *, alpha: float) -> Cost | None:
    """Time and memory of an arm by those of its baseline; None over several datasets, and where there are no times.

    ``own`` are the comparison's records. Fits are paired in the order of their
    seeds. Where both sides have some during which nobody else used the machine,
    only these count. The level of the intervals is 1 less ``alpha``.
    """
    if comparison.dataset is None:
        return None
    fits = [
        own.filter(arm=name)
        .group_by("started", maintain_order=True)
        .agg(pl.col("epoch_time_s", "peak_memory_mb").median(), pl.col("busy").any())
        .filter(pl.col("epoch_time_s").is_finite())
        for name in (comparison.arm, comparison.baseline)
    ]
    if not all(map(len, fits)):
        return None
    quiet = [side.filter(~pl.col("busy").fill_null(value=False)) for side in fits]
    busy = not all(map(len, quiet))
    arm, base = fits if busy else quiet
    count = min(len(arm), len(base))
    time, memory = (
        ratio(known_ratios(arm[name][:count], base[name][:count]), alpha=alpha)
        for name in ("epoch_time_s", "peak_memory_mb")
    )
    assert time is not None
    return Cost(count, time, memory, busy)


def known_ratios(arm: pl.Series, base: pl.Series) -> Float[np.ndarray, " fits"]:
    """Ratios of two sides' costs, where both are known and above 0."""
    ratios = (arm / base).drop_nulls()
    return ratios.filter(ratios.is_finite() & (ratios > 0)).to_numpy()


def ratio(ratios: Float[np.ndarray, " fits"], *, alpha: float) -> Ratio | None:
    """What the fits' ratios say together; None without any."""
    if not len(ratios):
        return None
    logs = np.log(ratios)
    interval = map(math.exp, mean_with_bounds(logs, level=1 - alpha))
    return Ratio(Interval(*interval), sign_flip(logs), effect_size(logs))
