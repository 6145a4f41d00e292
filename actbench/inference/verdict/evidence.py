"""From records to paired differences, to memory, and to means by epoch."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float

from actbench.inference.stats import Interval, effect_size, mean_with_bounds, sign_flip
from actbench.inference.verdict.question import Comparison, Question

# A replicate that diverged counts as one that guesses. No calibration error follows from that.
GUESS = {
    "test_accuracy": 1 / pl.col("classes"),
    "val_accuracy": 1 / pl.col("classes"),
    "test_loss": pl.col("classes").log(),
    "test_ece": pl.lit(None, dtype=pl.Float64),
}
ENDLESS = 1e100  # a loss of a replicate that is about to diverge, whose square may overflow
LARGEST_LOG = 100  # of a ratio whose interval says anything
LOWER_IS_BETTER = ("test_loss", "test_ece")
CONDITIONS = (  # of a fit, without which its costs say nothing of its activation
    *("engine", "replicates_together", "device", "threads"),
    *("actbench_version", "torch_version", "lightning_version", "python_version"),
)

Scores = Mapping[tuple[str, str, str], Mapping[int, float]]


class Pairs(NamedTuple):
    """Differences of an arm and its baseline, with their seeds in order, and the seeds that only one of them has."""

    seeds: Sequence[int]
    difference: Float[np.ndarray, " pairs"]
    unpaired: Sequence[int]


class Ratio(NamedTuple):
    """An arm's cost divided by its baseline's, over paired fits; above 1, the arm costs more.

    ``ratio`` is the geometric mean, with Student's t interval of the
    logarithms; its bounds are NaN for a single fit, or if they say nothing. ``p`` is the sign-flip
    test's, outside the family, and ``effect`` is in standard deviations of the
    logarithm.
    """

    ratio: Interval
    p: float
    effect: float


class Cost(NamedTuple):
    """An arm's peak memory beside its baseline's. The unit is the fit, whose replicates share a process."""

    fits: int
    memory: Ratio


def scores(table: pl.DataFrame, outcome: str) -> Scores:
    """Score of each seed by dataset, network and arm; a seed that diverged, or is about to, has that of guessing."""
    lost = pl.col("diverged") | ~(pl.col(outcome).abs() < ENDLESS)
    score = pl.when(lost).then(GUESS[outcome]).otherwise(pl.col(outcome))
    return by_cell(table, score)


def by_cell(table: pl.DataFrame, value: pl.Expr) -> Mapping[tuple[str, str, str], Mapping[int, Any]]:
    """A value of each seed that has one, by dataset, network and arm."""
    rows = table.select("dataset_name", "network_name", "arm", "seed", value.alias("value")).drop_nulls("value")
    cells = rows.rows_by_key(["dataset_name", "network_name", "arm"])
    return {cell: dict(values) for cell, values in cells.items()}


def paired(scores: Scores, comparison: Comparison, question: Question) -> Pairs:
    """Difference for each seed of the question; over several datasets, the mean for the seeds that all of them have."""
    seeds_wanted = range(question.seed, question.seed + question.most)
    sides = []
    for part in question.parts(comparison):
        sides += [scores.get((str(part.dataset), part.network, arm), {}) for arm in (part.arm, part.baseline)]
    seeds = [seed for seed in seeds_wanted if all(seed in side for side in sides)]
    signs = np.array([1, -1] * (len(sides) // 2)) / (len(sides) // 2)
    difference = np.array([[side[seed] for side in sides] for seed in seeds]).reshape(len(seeds), len(sides)) @ signs
    unpaired = sorted({seed for side in sides for seed in side if seed in seeds_wanted}.difference(seeds))
    return Pairs(seeds, difference, unpaired)


def paired_cost(records: pl.DataFrame, comparison: Comparison, *, alpha: float) -> Cost | None:
    """Peak memory of an arm by that of its baseline; None over several datasets, and where it is unknown.

    ``records`` are those of the comparison. Fits under the same `CONDITIONS` are
    paired in the order of their seeds, and others do not count. Where both arms have
    fits during which nobody else used the machine, only these count. The level of
    the interval is 1 - ``alpha``. Times are not compared: fits run at different times,
    beside different things.
    """
    if comparison.dataset is None:
        return None
    fits = [
        records.filter(arm=name)
        .group_by("started", *CONDITIONS, maintain_order=True)
        .agg(pl.col("peak_memory_mb").median(), pl.col("busy").any().fill_null(value=False))
        .filter(pl.col("peak_memory_mb").is_finite())
        for name in (comparison.arm, comparison.baseline)
    ]
    busy = any(side["busy"].all() for side in fits)
    arm, base = (
        side.filter(pl.col("busy") <= busy).with_columns(order=pl.int_range(pl.len()).over(CONDITIONS)) for side in fits
    )
    pairs = arm.join(base, on=[*CONDITIONS, "order"], nulls_equal=True, maintain_order="left")
    ratios = pairs["peak_memory_mb"] / pairs["peak_memory_mb_right"]
    logs = np.log(ratios.filter(ratios.is_finite() & (ratios > 0)).to_numpy())
    if not len(logs):
        return None
    mean, *bounds = mean_with_bounds(logs, level=1 - alpha)
    if max(map(abs, bounds)) > LARGEST_LOG:  # of two fits, at the level of a late candidate
        bounds = [np.nan, np.nan]
    return Cost(len(logs), Ratio(Interval(*np.exp([mean, *bounds]).tolist()), sign_flip(logs), effect_size(logs)))


def epoch_matrix(column: pl.Series) -> Float[np.ndarray, "seeds epochs"]:
    """Values by seed and epoch, from a column of lists; NaN where a value is missing or as good as infinite."""
    curves = column.to_list()
    values = np.full((len(curves), max((len(curve) for curve in curves if curve), default=0)), np.nan)
    for row, curve in zip(values, curves, strict=True):
        row[: len(curve or ())] = np.array(curve or (), dtype=float)
    values[~(np.abs(values) < ENDLESS)] = np.nan
    return values


def mean_curve(
    values: Float[np.ndarray, "seeds epochs"], *, level: float, most: float
) -> Float[np.ndarray, "3 epochs"]:
    """Mean over the seeds that have a value, and Student's interval cut to 0 to ``most``; NaN for too few seeds."""
    known = [epoch[np.isfinite(epoch)] for epoch in values.T]
    intervals = [mean_with_bounds(epoch, level=level) if len(epoch) else (np.nan, np.nan, np.nan) for epoch in known]
    mean, low, high = np.reshape(intervals, (-1, 3)).T
    return np.array([mean, np.maximum(low, 0), np.minimum(high, most)])
