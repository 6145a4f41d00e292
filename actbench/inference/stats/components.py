"""Components of variance: how much of the spread of scores each crossed source of randomness makes up."""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from actbench.inference.stats.paired import Interval

REST = "rest"  # the part of no source
DRAWS = 20_000  # of the distribution from which intervals are read


class Component(NamedTuple):
    """The part of one source, or the `REST`, in the variance of a score.

    ``variance`` is in the squared unit of the scores. The estimate is that of the
    analysis of variance, ``mean_square`` minus that of the rest, divided by the
    number of replicates that share a level. ``share`` is its fraction of the total;
    NaN if all scores are equal. What is below 0 is given as 0, and a share above 1 as
    1, so that shares may add up to more than 1.
    """

    variance: Interval
    share: Interval
    mean_square: float
    freedom: int


class Components(NamedTuple):
    """Components of variance by source, the `REST` last, and the variance of a score where every source varies.

    The ``total`` is the sum of the parts before any was cut at 0, so that it has no bias.
    """

    replicates: int
    parts: Mapping[str, Component]
    total: Interval


def variance_components(
    scores: Float[np.ndarray, " replicates"],
    levels: Mapping[str, Int[np.ndarray, " replicates"]],
    *,
    level: float = 0.95,
) -> Components:
    """Components of variance of a balanced design with random main effects.

    An effect is drawn for every level of every source, and a residual for every
    replicate. An interaction of two sources is part of the rest, with all that
    cannot be repeated: every pair of levels occurs once, so its effects cannot be
    told from residuals, and bias no other component.

    The analysis of variance gives the estimates. Intervals are read from
    generalised pivots, in which each sum of squares is divided by a draw of its chi
    squared. For normal effects they cover about as often as they say; tests and
    ``benchmarks/README.md`` say how often. The draws are always the same. The
    interval of the total is that of `sum_interval`, because the pivots of a sum of
    many mean squares lie too high.

    Args:
        scores: Score of each replicate.
        levels: For each source, the level of each replicate.
        level: Coverage of each interval, strictly between 0 and 1.

    Raises:
        ValueError: The levels of a source, or the pairs of levels of two sources, do not all occur equally often, or
            the sources leave nothing to estimate the rest from.

    Source:
        Weerahandi (1993), Generalized confidence intervals, J. Am. Stat. Assoc.
        88(423), 899-905; Burdick, Quiroz and Iyer (2006), The present status of
        confidence interval estimation for one-factor random models, J. Stat.
        Plan. Inference 136(12), 4307-4325.
    """
    replicates = len(scores)
    check_balance(replicates, levels)
    centred = scores - (scores.mean() if np.ptp(scores) else scores[0])  # a mean of equal scores may be rounded
    sums, freedom, sizes = list[float](), list[int](), list[int]()
    for level_of in levels.values():
        _, index, counts = np.unique(level_of, return_inverse=True, return_counts=True)
        sums.append(float(np.sum(np.bincount(index, centred) ** 2 / counts)))
        freedom.append(len(counts) - 1)
        sizes.append(int(counts[0]))
    rest = replicates - 1 - sum(freedom)
    if rest < 1:
        raise ValueError(f"{replicates} replicates leave no degree of freedom to the rest")
    sums.append(max(0.0, float(np.sum(centred**2)) - sum(sums)))  # rounding may leave a little less than 0
    freedom.append(rest)
    sizes.append(1)

    is_source, size = np.array([1.0] * len(levels) + [0.0]), np.array(sizes)
    mean_squares, drawn = np.array(sums) / freedom, np.array(sums)[:, None] / chi_squared(*freedom)
    estimates = (mean_squares - is_source * mean_squares[-1]) / size
    pivots = (drawn - is_source[:, None] * drawn[-1]) / size[:, None]
    tails = [(1 - level) / 2, (1 + level) / 2]
    with np.errstate(invalid="ignore"):  # 0 / 0, where all scores are equal
        variances = np.column_stack([estimates, *np.quantile(pivots, tails, axis=1)])
        shares = [estimates / estimates.sum(), *np.quantile(pivots / pivots.sum(axis=0), tails, axis=1)]
    parts = {
        part: Component(Interval(*map(float, variance)), Interval(*map(float, share)), mean_square, degrees)
        for part, variance, share, mean_square, degrees in zip(
            (*levels, REST),
            np.maximum(0, variances),
            np.clip(np.column_stack(shares), 0, 1),
            mean_squares.tolist(),
            freedom,
            strict=True,
        )
    }
    # The rest is in the mean square of every source, and counts once in the total.
    weights = np.append(1 / size[:-1], 1 - np.sum(1 / size[:-1]))
    return Components(replicates, parts, sum_interval(weights * mean_squares, freedom, level=level))


def sum_interval(terms: Float[np.ndarray, " terms"], freedom: Sequence[int], *, level: float) -> Interval:
    """A sum of variances from independent mean squares, with its modified large-sample interval.

    Args:
        terms: Mean squares, each times a weight that is not negative.
        freedom: Degrees of freedom of each.
        level: Coverage, strictly between 0 and 1.

    Source:
        Graybill and Wang (1980), Confidence intervals on nonnegative linear
        combinations of variances, J. Am. Stat. Assoc. 75(372), 869-873.
    """
    degrees = np.array(freedom)
    below, above = (degrees / special.chdtri(degrees, (1 + sign * level) / 2) - 1 for sign in (-1, 1))
    estimate = float(terms.sum())
    return Interval(
        estimate, estimate - float(np.linalg.norm(below * terms)), estimate + float(np.linalg.norm(above * terms))
    )


@cache
def chi_squared(*freedom: int) -> Float[np.ndarray, "parts draws"]:
    """Draws of chi squared with these degrees of freedom, always the same."""
    return np.random.default_rng(0).chisquare(np.array(freedom)[:, None], (len(freedom), DRAWS))


def check_balance(replicates: int, levels: Mapping[str, Int[np.ndarray, " replicates"]]) -> None:
    """Raise a ValueError unless all levels, and all pairs of levels of two sources, occur equally often."""
    for sources in [*((source,) for source in levels), *combinations(levels, 2)]:
        values = np.stack([levels[source] for source in sources])
        possible = np.prod([len(np.unique(row)) for row in values])
        counts = np.unique(values, axis=1, return_counts=True)[1]
        if values.shape[1] != replicates or len(counts) != possible or len({*counts.tolist()}) > 1:
            raise ValueError(f"levels of {' and '.join(sources)} do not occur equally often")
