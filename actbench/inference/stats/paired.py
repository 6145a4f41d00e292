"""Paired differences: intervals, exact tests, corrections. The seed is the unit.

Element ``i`` of a vector of differences is the score of an arm minus that of
its baseline, both trained from seed ``i``. What is said of them speaks of new
seeds on the same dataset and network, never of new datasets.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float, Int8, UInt8
from scipy import stats as distributions

EXACT = 16  # pairs: up to so many, every flip of signs is looked at
FLIPS = 100_000  # of so many more pairs
TIE = 1e-9  # relative: sums that differ by rounding are the same

Alternative = Literal["two-sided", "greater"]


class Interval(NamedTuple):
    """An estimate and its bounds."""

    estimate: float
    low: float
    high: float


def mean_interval(difference: Float[np.ndarray, " pairs"], *, level: float = 0.95) -> Interval:
    """Mean of paired differences, with Student's t interval.

    Coverage is exact when the differences are normal. For skewed differences
    it is less; ``benchmarks/README.md`` says how much.

    Args:
        difference: Paired differences, in the unit of the score.
        level: Coverage, strictly between 0 and 1.

    Returns:
        Estimate and bounds, in the unit of ``difference``.

    Raises:
        ValueError: There are fewer than two differences.

    Source:
        Student (1908), The probable error of a mean, Biometrika 6(1), 1-25.
    """
    pairs = len(difference)
    if pairs < 2:
        raise ValueError(f"an interval needs two pairs at least, got {pairs}")
    mean = float(np.mean(difference))
    half = float(distributions.t.ppf((1 + level) / 2, pairs - 1) * np.std(difference, ddof=1) / np.sqrt(pairs))
    return Interval(mean, mean - half, mean + half)


def mean_with_bounds(values: Float[np.ndarray, " values"], *, level: float) -> Interval:
    """`mean_interval` of two values or more; a single value has NaN for bounds."""
    if len(values) > 1:
        return mean_interval(values, level=level)
    return Interval(float(values[0]), float("nan"), float("nan"))


@lru_cache(maxsize=64)
def signs(place: int, flips: int, *, exact: bool) -> Int8[np.ndarray, " flips"]:
    """Sign, 1 or -1, that each flip gives to the pair at a place.

    If exact, flip ``f`` is the ``f``-th of all flips of signs. Else it is
    random, and the same for any number of pairs, so that a study that grows
    keeps its flips.
    """
    if exact:
        return (1 - 2 * ((np.arange(flips) >> place) & 1)).astype(np.int8)
    return (1 - 2 * np.random.default_rng(place).integers(0, 2, flips, dtype=np.int8)).astype(np.int8)


@lru_cache(maxsize=512)  # of a study of 300 seeds 38, each 100 kB
def patterns(place: int, flips: int, *, exact: bool) -> UInt8[np.ndarray, " flips"]:
    """Which of the eight pairs from a place on are turned round by each flip, a bit each."""
    turned = [signs(place + bit, flips, exact=exact) < 0 for bit in range(8)]
    packed: UInt8[np.ndarray, " flips"] = np.packbits(turned, axis=0, bitorder="little")[0]
    return packed


# Signs of eight pairs, a row for each of `patterns`.
TURNS = 1 - 2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")


def flipped_sums(
    sizes: Float[np.ndarray, " pairs"], flips: int, *, exact: bool, first: int = 0
) -> Float[np.ndarray, " flips"]:
    """Sum of the differences under each flip of their signs; the first pair is at place ``first``."""
    sizes = np.sort(sizes)  # so that the order of seeds chooses nothing
    sums = np.zeros(flips)
    for place in range(0, len(sizes), 8):  # eight pairs have 256 sums, which are looked up
        eight = sizes[place : place + 8]
        sums += (TURNS[:, : len(eight)] @ eight)[patterns(first + place, flips, exact=exact)]
    return sums


def check_finite(difference: Float[np.ndarray, " pairs"]) -> None:
    """Refuse, with a ValueError, NaN and infinities, with which every comparison is false."""
    if not np.all(np.isfinite(difference)):
        raise ValueError(f"differences must be finite, got {difference[~np.isfinite(difference)][0]}")


def sign_flip(difference: Float[np.ndarray, " pairs"], *, alternative: Alternative = "two-sided") -> float:
    """P-value of the sign-flip permutation test of paired differences around 0.

    Exact if the two scores of a pair are exchangeable when the null is true,
    so that differences are symmetric around 0; where only their mean is 0, it
    is not: ``benchmarks/README.md`` says by how much. All flips for up to
    `EXACT` pairs; beyond, `FLIPS` seeded ones and the observed one, which
    keeps the test valid. The alternative ``greater`` is a mean above 0.

    Raises:
        ValueError: There is no difference, one is NaN or infinite, or the alternative is another.

    Source:
        Fisher (1935), The Design of Experiments, section 21; for the sampled
        flips Phipson & Smyth (2010), Permutation P-values should never be
        zero, Stat. Appl. Genet. Mol. Biol. 9(1), 39.
    """
    if not len(difference):
        raise ValueError("a test needs one pair at least")
    if alternative not in get_args(Alternative):
        raise ValueError(f"alternative is two-sided or greater, got {alternative!r}")
    check_finite(difference)
    exact = len(difference) <= EXACT
    sizes = np.abs(difference)
    sums = flipped_sums(sizes, 2 ** len(sizes) if exact else FLIPS, exact=exact)
    observed = float(np.sum(difference))
    if alternative == "two-sided":
        sums, observed = np.abs(sums), abs(observed)
    extreme = int(np.sum(sums >= observed - TIE * float(sizes.sum())))
    return extreme / len(sums) if exact else (1 + extreme) / (1 + len(sums))


def holm(p: Sequence[float]) -> list[float]:
    """P-values adjusted so that the chance of any false rejection among them is at most the level.

    Source:
        Holm (1979), A simple sequentially rejective multiple test procedure,
        Scand. J. Statist. 6(2), 65-70.
    """
    order, adjusted = np.argsort(p, kind="stable"), np.empty(len(p))
    steps = np.arange(len(p), 0, -1) * np.asarray(p)[order]
    adjusted[order] = np.maximum.accumulate(np.minimum(steps, 1))
    return [float(value) for value in adjusted]


def equivalence(
    difference: Float[np.ndarray, " pairs"], *, margin: float, test: Callable[..., float] = sign_flip
) -> float:
    """P-value of two one-sided tests: small if the mean difference lies inside -margin to +margin.

    The margin, above 0 and in the unit of ``difference``, is the largest
    difference that does not matter.

    Source:
        Schuirmann (1987), A comparison of the two one-sided tests procedure
        and the power approach, J. Pharmacokinet. Biopharm. 15(6), 657-680.
    """
    shifted = (difference + margin, margin - difference)
    return max(test(values, alternative="greater") for values in shifted)


def superiority(difference: Float[np.ndarray, " pairs"], *, level: float = 0.95) -> Interval:
    """Chance that the arm scores higher than its baseline on a new seed, ties counted half, with Wilson's interval.

    Bouthillier et al. (2021) ask for .75 before a difference is called meaningful.

    Source:
        Wilson (1927), Probable inference, the law of succession, and
        statistical inference, J. Am. Stat. Assoc. 22(158), 209-212.
    """
    pairs = len(difference)
    share = (np.sum(difference > 0) + np.sum(difference == 0) / 2) / pairs
    z = float(distributions.norm.ppf((1 + level) / 2))
    middle = (share + z**2 / (2 * pairs)) / (1 + z**2 / pairs)
    half = z / (1 + z**2 / pairs) * np.sqrt(share * (1 - share) / pairs + z**2 / (4 * pairs**2))
    return Interval(float(share), float(middle - half), float(middle + half))


def effect_size(difference: Float[np.ndarray, " pairs"]) -> float:
    """Mean difference in standard deviations of a difference, corrected for small samples; NaN without spread.

    Source:
        Hedges (1981), Distribution theory for Glass's estimator of effect
        size, J. Educ. Stat. 6(2), 107-128.
    """
    pairs = len(difference)
    spread = float(np.std(difference, ddof=1)) if pairs > 1 else 0.0
    if spread <= TIE * float(np.max(np.abs(difference), initial=0)):
        return float("nan")
    correction = 1 - 3 / (4 * (pairs - 1) - 1) if pairs > 2 else 1.0
    return float(np.mean(difference)) / spread * correction


def bootstrap(
    scores: Sequence[Float[np.ndarray, "arms seeds"]], *, level: float = 0.95, resamples: int = 2_000
) -> tuple[list[Interval], list[Interval]]:
    """For each arm, interquartile mean over all datasets' scores, and mean rank over datasets, 1 the best.

    Seeds are drawn anew within each dataset, the same for all arms; the
    intervals are percentiles, which cover somewhat less than ``level`` for few
    seeds. The interquartile mean is that of the middle half of scores, which
    are one table for each dataset.

    Source:
        Agarwal et al. (2021), Deep reinforcement learning at the edge of the
        statistical precipice, NeurIPS 34.
    """
    rng = np.random.default_rng(0)

    def statistics(tables: Sequence[Float[np.ndarray, "draws arms seeds"]]) -> Float[np.ndarray, "2 draws arms"]:
        middles = distributions.trim_mean(np.concatenate(tables, axis=2), 0.25, axis=2)
        # Means that differ by rounding tie.
        ranks = [distributions.rankdata(np.round(-table.mean(axis=2), 12), axis=1) for table in tables]
        return np.stack([middles, np.mean(ranks, axis=0)])

    def draw(table: Float[np.ndarray, "arms seeds"]) -> Float[np.ndarray, "draws arms seeds"]:
        seeds = table.shape[1]
        return table[:, rng.integers(0, seeds, (resamples, seeds))].swapaxes(0, 1)

    seen = statistics([table[None] for table in scores])[:, 0]
    low, high = np.percentile(
        statistics([draw(table) for table in scores]), [50 * (1 - level), 50 * (1 + level)], axis=1
    )
    middles, ranks = np.stack([seen, low, high], axis=-1).tolist()
    return [Interval(*bounds) for bounds in middles], [Interval(*bounds) for bounds in ranks]


def pareto(accuracy: Sequence[float], time_s: Sequence[float]) -> Bool[np.ndarray, " arms"]:
    """Which arms no other one beats in both, or in one without losing in the other."""
    points = list(zip(accuracy, time_s, strict=True))
    return np.array(
        [not any(other[0] >= own[0] and other[1] <= own[1] and other != own for other in points) for own in points]
    )
