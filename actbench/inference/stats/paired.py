"""Paired differences: intervals, exact tests, corrections. The seed is the unit.

Element ``i`` of a vector of differences is the score of an arm minus that of
its baseline, both trained from seed ``i``. Results speak of new seeds on the
same dataset and network, never of new datasets.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float, Int8, UInt8
from scipy import special
from scipy import stats as distributions

from actbench.inference.stats.tail import small_p

EXACT = 16  # most pairs of which every flip of signs is examined
FLIPS = 100_000  # flips that are drawn for more pairs
RARE = 0.001  # below this p-value, drawn flips say little, and all flips are counted
CARRIED = 0.9  # share of a difference that the pairs behind it make up
TIE = 1e-9  # relative difference up to which sums are equal, for they differ by rounding

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
        raise ValueError(f"an interval needs at least two pairs, got {pairs}")
    mean = float(np.mean(difference))
    half = float(special.stdtrit(pairs - 1, (1 + level) / 2) * np.std(difference, ddof=1) / np.sqrt(pairs))
    return Interval(mean, mean - half, mean + half)


def mean_with_bounds(values: Float[np.ndarray, " values"], *, level: float) -> Interval:
    """`mean_interval` of two values or more; the bounds of a single value are NaN."""
    return mean_interval(values, level=level) if len(values) > 1 else Interval(float(values[0]), np.nan, np.nan)


@lru_cache(maxsize=64)
def signs(index: int, flips: int, *, exact: bool) -> Int8[np.ndarray, " flips"]:
    """Sign, 1 or -1, that each flip gives to the pair with this index.

    If exact, flip ``f`` is the ``f``-th of all flips of signs. Otherwise flips are
    random, and the same for any number of pairs, so that a growing study keeps
    its flips.
    """
    if exact:
        return (1 - 2 * ((np.arange(flips) >> index) & 1)).astype(np.int8)
    return (1 - 2 * np.random.default_rng(index).integers(0, 2, flips, dtype=np.int8)).astype(np.int8)


@lru_cache(maxsize=512)  # a study of 300 seeds takes 38, each of 100 kB
def patterns(first: int, flips: int, *, exact: bool) -> UInt8[np.ndarray, " flips"]:
    """Which of the eight pairs from index ``first`` on each flip turns round, a bit for each."""
    turned = [signs(first + bit, flips, exact=exact) < 0 for bit in range(8)]
    packed: UInt8[np.ndarray, " flips"] = np.packbits(turned, axis=0, bitorder="little")[0]
    return packed


# Signs of eight pairs, a row for each of `patterns`.
TURNS = 1 - 2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")


def flipped_sums(
    sizes: Float[np.ndarray, " pairs"], flips: int, *, exact: bool, first: int = 0
) -> Float[np.ndarray, " flips"]:
    """Sum of the differences under each flip of their signs; the first pair has index ``first``."""
    sizes = np.sort(sizes)  # so that the order of seeds has no influence
    sums = np.zeros(flips)
    for start in range(0, len(sizes), 8):  # eight pairs have 256 sums, which are looked up
        eight = sizes[start : start + 8]
        sums += (TURNS[:, : len(eight)] @ eight)[patterns(first + start, flips, exact=exact)]
    return sums


def check_finite(difference: Float[np.ndarray, " pairs"]) -> None:
    """Refuse, with a ValueError, NaN and infinities, for which every comparison is false."""
    if not np.all(np.isfinite(difference)):
        raise ValueError(f"differences must be finite, got {difference[~np.isfinite(difference)][0]}")


def sign_flip(difference: Float[np.ndarray, " pairs"], *, alternative: Alternative = "two-sided") -> float:
    """P-value of the sign-flip permutation test of paired differences around 0.

    The test is exact if the two scores of a pair are exchangeable under the null,
    so that differences are symmetric around 0. Where only their mean is 0, it is
    not; ``benchmarks/README.md`` says by how much. Up to `EXACT` pairs, the test
    uses all flips; beyond, `FLIPS` seeded ones and the observed one, which keeps
    it valid. Where few of these are as extreme, p is that of all flips of
    differences, see `with_tail`. The alternative ``greater`` is a mean above 0.

    Raises:
        ValueError: There is no difference, a difference is NaN or infinite, or the alternative is unknown.

    Source:
        Fisher (1935), The Design of Experiments, section 21; for the sampled
        flips Phipson & Smyth (2010), Permutation P-values should never be
        zero, Stat. Appl. Genet. Mol. Biol. 9(1), 39.
    """
    if not len(difference):
        raise ValueError("a test needs at least one pair")
    if alternative not in get_args(Alternative):
        raise ValueError(f"alternative must be two-sided or greater, got {alternative!r}")
    check_finite(difference)
    exact = len(difference) <= EXACT
    sizes = np.abs(difference)
    sums = flipped_sums(sizes, 2 ** len(sizes) if exact else FLIPS, exact=exact)
    observed = float(np.sum(difference))
    if alternative == "two-sided":
        sums, observed = np.abs(sums), abs(observed)
    extreme = int(np.sum(sums >= observed - TIE * float(sizes.sum())))
    if exact:
        return extreme / len(sums)
    pairs, two_sided = len(sizes), alternative == "two-sided"
    return with_tail((1 + extreme) / (1 + len(sums)), difference, [pairs], [1.0], two_sided=two_sided)


def with_tail(
    p: float,
    difference: Float[np.ndarray, " pairs"],
    looks: Sequence[int],
    spending: Sequence[float],
    *,
    two_sided: bool,
) -> float:
    """A p-value from drawn flips; where it is below `RARE`, that of `small_p`, which is at most `RARE`, in its place.

    Either is at most ``u`` with probability at most ``u`` under the null. So is the one that is returned: above
    `RARE`, it is as small as ``u`` only if the first is, and below only if the second is.
    """
    return min(RARE, small_p(difference, looks, spending, two_sided=two_sided)) if p < RARE else p


def smallest_p(pairs: int) -> float:
    """Smallest p-value that the exact two-sided `sign_flip` can reach."""
    return 2 * 0.5**pairs


def holm(p: Sequence[float], weights: Sequence[float] | None = None) -> list[float]:
    """P-values adjusted so that the chance of any false rejection is at most the level.

    The level is shared in proportion to the weights, by default equally. A test of weight 0 has none of it, and an
    adjusted p of 1.

    Source:
        Holm (1979), A simple sequentially rejective multiple test procedure,
        Scand. J. Statist. 6(2), 65-70, with weights in section 4.
    """
    shares = np.ones(len(p)) if weights is None else np.asarray(weights, dtype=float)
    ratios = np.divide(p, shares, out=np.full(len(p), np.inf), where=shares > 0)
    order, adjusted = np.argsort(ratios, kind="stable"), np.empty(len(p))
    remaining = np.cumsum(shares[order][::-1])[::-1]
    steps = np.multiply(ratios[order], remaining, out=np.ones(len(p)), where=shares[order] > 0)
    adjusted[order] = np.maximum.accumulate(np.minimum(steps, 1))
    return [float(value) for value in adjusted]


def equivalence(
    difference: Float[np.ndarray, " pairs"], *, margin: float, test: Callable[..., float] = sign_flip
) -> float:
    """P-value of two one-sided tests: small if the mean difference lies inside -margin to +margin.

    The margin is the largest difference that does not matter, above 0 and in the
    unit of ``difference``.

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
    # Of 0 and 1, rounding may put the bound on the other side.
    return Interval(float(share), float(min(middle - half, share)), float(max(middle + half, share)))


def effect_size(difference: Float[np.ndarray, " pairs"]) -> float:
    """Mean difference in standard deviations of a difference (Hedges' g); NaN without spread.

    Source:
        Hedges (1981), Distribution theory for Glass's estimator of effect
        size, J. Educ. Stat. 6(2), 107-128.
    """
    pairs = len(difference)
    spread = float(np.std(difference, ddof=1)) if pairs > 1 else 0.0
    if spread <= TIE * float(np.max(np.abs(difference), initial=0)):
        return np.nan
    correction = 1 - 3 / (4 * (pairs - 1) - 1) if pairs > 2 else 1.0
    return float(np.mean(difference)) / spread * correction


def carrying_pairs(difference: Float[np.ndarray, " pairs"]) -> int | None:
    """Fewest pairs that make up nine tenths of the mean difference, if the median is below half of the mean.

    None where the median is at least half of the mean: then most pairs differ in about the same way.
    """
    total = float(np.sum(difference))
    if not len(difference) or total == 0 or np.median(difference) / np.mean(difference) >= 0.5:
        return None
    sums = np.cumsum(np.sort(np.sign(total) * difference)[::-1])
    return 1 + int(np.argmax(sums >= CARRIED * abs(total) * (1 - TIE)))


def bootstrap(
    scores: Sequence[Float[np.ndarray, "arms seeds"]], *, level: float = 0.95, resamples: int = 2_000
) -> tuple[list[Interval], list[Interval]]:
    """Interquartile mean of each arm over the scores on all datasets, and mean rank over datasets, 1 the best.

    ``scores`` holds one table for each dataset. The interquartile mean is that of
    the middle half of the scores. Seeds are drawn anew within each dataset, the
    same for all arms. The intervals are percentiles, which cover somewhat less
    than ``level`` for few seeds.

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

    observed = statistics([table[None] for table in scores])[:, 0]
    low, high = np.percentile(
        statistics([draw(table) for table in scores]), [50 * (1 - level), 50 * (1 + level)], axis=1
    )
    middles, ranks = np.stack([observed, low, high], axis=-1).tolist()
    return [Interval(*bounds) for bounds in middles], [Interval(*bounds) for bounds in ranks]


def pareto(accuracy: Sequence[float], time_s: Sequence[float]) -> Bool[np.ndarray, " arms"]:
    """Which arms are on the front: no other arm is at least as good in both, and better in one."""
    arms = list(zip(accuracy, time_s, strict=True))
    beaten = [any(other[0] >= arm[0] and other[1] <= arm[1] and other != arm for other in arms) for arm in arms]
    return ~np.array(beaten, dtype=bool)
