"""Looking at a study while it grows, with the chance of a false alarm controlled over all looks.

A design looks after ``least``, ``least + batch``, ... and at last ``most``
pairs. By the look with a share ``t`` of the pairs, at most ``alpha t^2`` of the
error may have been spent: little at early looks, so that the last is hardly
harder to pass than without them.

The boundary of each look comes from flipping the signs of whole histories: the
share that a look may spend is the share of histories that may cross there for
the first time. The chance of a false alarm over all looks is therefore at most
``alpha`` under the null of `paired.sign_flip`, whatever the distribution of
scores. A share that ties leave unspent is lost, so that a larger ``alpha``
crosses whenever a smaller one does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from scipy import optimize, special

from actbench.inference.stats.paired import EXACT, TIE, Alternative, check_finite, flipped_sums, with_tail
from actbench.inference.stats.tail import PRECISION

POWER = 2.0  # exponent of the spending function
HISTORIES = 20_000  # flips of a history, where a design has more than `EXACT` pairs
LEAST_CHANCE = 1e-300  # which has a logarithm
NODES = 200  # of a quadrature over random walks, from which the levels of intervals are taken


@dataclass(frozen=True)
class Design:
    """The looks at a study: pairs at the first look, pairs at the last, and pairs from one look to the next."""

    least: int
    most: int
    batch: int

    def __post_init__(self) -> None:
        if not 2 <= self.least <= self.most or self.batch < 1:
            raise ValueError(
                f"replicates: 2 <= min <= max and a batch of at least 1, got min {self.least}, max {self.most}, "
                f"batch {self.batch}"
            )

    @property
    def looks(self) -> tuple[int, ...]:
        """Pairs at each look."""
        return (*range(self.least, self.most, self.batch), self.most)

    def spending(self, pairs: int) -> list[float]:
        """Share of alpha that each look up to this number of pairs may spend.

        Source:
            Kim & DeMets (1987), Design and analysis of group sequential tests
            based on the type I error spending rate function, Biometrika 74(1),
            149-154.
        """
        spent = [(look / self.most) ** POWER for look in (0, *self.looks) if look <= pairs]
        return [after - before for before, after in pairwise(spent)]


def sequential_p(
    difference: Float[np.ndarray, " pairs"], design: Design, *, alternative: Alternative = "two-sided"
) -> float:
    """Smallest level at which a study would have crossed a boundary at one of its looks so far, to 1 %.

    It is a p-value whenever the study stops: under the null, it is at most ``p``
    with probability at most ``p``, over all looks. It can only fall as pairs are
    added. Pairs are in the order of their seeds; those after the last complete
    look do not count.

    Raises:
        ValueError: A difference is NaN or infinite.

    Source:
        Liu & Anderson (2008), On adaptive extensions of group sequential
        trials, J. Am. Stat. Assoc. 103(484), 1621-1630, for p-values of
        sequential designs; permuting histories as in Mathieu et al. (2023),
        AdaStop, arXiv:2306.10882.
    """
    check_finite(difference)
    return _sequential_p(np.ascontiguousarray(difference, dtype=float).tobytes(), design, alternative)


@lru_cache(maxsize=4096)  # a study is judged anew at each look
def _sequential_p(content: bytes, design: Design, alternative: Alternative) -> float:
    spending = design.spending(len(content) // 8)
    observed, sums = histories(np.frombuffer(content), design, alternative)
    # The search starts alike at all looks, so that rounding to 1 % cannot make the p-value rise.
    low, high = 1 / (2**design.most if design.most <= EXACT else HISTORIES + 1), 1.0
    if not crosses(observed, boundaries(sums, spending, level=high)):
        return 1.0
    while high > PRECISION * low:
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if crosses(observed, boundaries(sums, spending, level=middle)) else (middle, high)
    if design.most <= EXACT:
        return high
    looks = design.looks[: len(spending)]
    return with_tail(high, np.frombuffer(content), looks, spending, two_sided=alternative == "two-sided")


def histories(
    difference: Float[np.ndarray, " pairs"], design: Design, alternative: Alternative
) -> tuple[Float[np.ndarray, " looks"], Float[np.ndarray, "looks flips"]]:
    """Sums of the differences at each look: as observed, and under flips of their signs, the observed one included.

    All flips, where the design has few pairs. Within a batch, differences are
    sorted by size, so that the order of its seeds does not matter.
    """
    looks = [look for look in design.looks if look <= len(difference)]
    exact = design.most <= EXACT
    flips = (2 ** looks[-1] if looks else 1) if exact else HISTORIES
    batches = list(pairwise((0, *looks)))
    steps = [flipped_sums(np.abs(difference[first:end]), flips, exact=exact, first=first) for first, end in batches]
    observed = np.cumsum([np.sum(difference[first:end]) for first, end in batches])
    sums = np.cumsum(np.reshape(steps, (len(batches), flips)), axis=0)
    if not exact:
        sums = np.concatenate([observed[:, None], sums], axis=1)
    # Sums that differ by rounding tie: they round to the same multiple of a power of two. Multiples of another number
    # could have ties of decimal fractions half-way between them, which rounding would part.
    scale = 2.0 ** np.floor(np.log2(TIE * float(np.abs(difference).sum()) or 1.0))
    observed, sums = np.round(observed / scale), np.round(sums / scale)
    return (np.abs(observed), np.abs(sums)) if alternative == "two-sided" else (observed, sums)


def boundaries(sums: Float[np.ndarray, "looks flips"], spending: Sequence[float], *, level: float) -> list[float]:
    """The least sum that crosses at each look; infinity if none does.

    Each look may spend its share of ``level``, the chance of crossing at any look.
    """
    running, limits = np.ones(sums.shape[1], dtype=bool), []
    for row, share in zip(sums, spending, strict=True):
        allowed = int(level * share * len(row) * (1 + TIE))
        remaining = row[running]
        limit = -np.inf
        if allowed < len(remaining):
            # The largest sum that may not cross, with which others may tie.
            largest = np.partition(remaining, -1 - allowed)[-1 - allowed]
            limit = np.min(remaining, where=remaining > largest, initial=np.inf)
        limits.append(float(limit))
        running &= row < limit
    return limits


def crosses(observed: Float[np.ndarray, " looks"], limits: Sequence[float]) -> bool:
    """Whether a history crosses a boundary at one of its looks."""
    return bool(np.any(observed >= limits))


def nominal_level(design: Design, pairs: int, alpha: float) -> float:
    """Level at which the intervals of all looks together cover the truth with probability 1 - alpha.

    It holds for differences that are about normal. Before the first look, it is alpha itself.

    Source:
        Jennison & Turnbull (1989), Interim analyses: the repeated confidence
        interval approach, J. R. Stat. Soc. B 51(3), 305-361.
    """
    return next((level for look, level in nominal_levels(design, alpha) if look <= pairs), alpha)


@lru_cache(maxsize=64)
def nominal_levels(design: Design, alpha: float) -> list[tuple[int, float]]:
    """Pairs and `nominal_level` of each look, the last one first.

    Source:
        Armitage, McPherson & Rowe (1969), Repeated significance tests on
        accumulating data, J. R. Stat. Soc. A 132(2), 235-244.
    """
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    places, masses, levels = np.zeros(1), np.ones(1), list[tuple[int, float]]()  # of walks that have not crossed yet
    for (before, look), share in zip(pairwise((0, *design.looks)), design.spending(design.most), strict=True):
        step = np.sqrt(look - before)

        def unspent(limit: float, share: float = share, step: float = step) -> float:
            beyond = special.ndtr((places - limit) / step) + special.ndtr((-limit - places) / step)  # noqa: B023
            return float(np.log(masses @ beyond + LEAST_CHANCE) - np.log(alpha * share))  # noqa: B023

        limit = float(optimize.brentq(unspent, 0.0, 38 * np.sqrt(look)))
        levels.insert(0, (look, float(2 * special.ndtr(-limit / np.sqrt(look)))))
        ahead = limit * nodes
        density = np.exp(-0.5 * ((ahead[:, None] - places) / step) ** 2) / (step * np.sqrt(2 * np.pi)) @ masses
        places, masses = ahead, limit * weights * density
    return levels
