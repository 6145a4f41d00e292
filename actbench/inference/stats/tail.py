"""Small p-values of sign-flip tests of many pairs, of which flips that are drawn at random are too few.

The chance of each sum under random signs is worked out pair by pair, where all
differences are whole multiples of a step, as those of accuracies are. Others are
rounded to multiples of a step that follows from their sizes. A test of rounded
differences is as exact as one of the differences themselves, because flipping
signs changes no size.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

LARGEST = 2**16  # most steps of a sum; beyond, steps are doubled
FIRST = 2**13  # steps of the largest sum at the first look, where differences are rounded
TINY = 1e-7  # of the largest difference; smaller remainders come from rounding
PRECISION = 1.01  # relative precision of a p-value
SHIFT = 1e-9  # of a step, so that half steps are rounded alike at every scale


class Sums(NamedTuple):
    """The chance of each sum, from the smallest to the largest, and the one that was observed, in steps."""

    chances: Float[np.ndarray, " sums"]
    observed: int
    step: float

    @property
    def most(self) -> int:
        """Steps of the largest sum."""
        return len(self.chances) // 2

    def add(self, difference: Float[np.ndarray, " pairs"], unit: float) -> "Sums":
        """The sums with more pairs, whose sizes are multiples of the unit."""
        chances, observed, step = self
        sizes = np.sort(np.abs(difference))
        if not step and sizes.any():  # all differences before were 0
            step = unit if sizes.sum() <= LARGEST * unit else float(sizes.sum()) / FIRST
        while step and len(chances) // 2 + sizes.sum() / step > LARGEST:
            chances, observed, step = doubled(chances), int(np.trunc(observed / 2)), 2 * step
        scale = 1 / step if step else 0.0
        for size in np.ceil(sizes * scale - 0.5 - SHIFT).astype(int):
            wider = np.zeros(len(chances) + 2 * size)
            wider[: len(chances)] += chances / 2
            wider[2 * size :] += chances / 2
            chances = wider
        whole = np.ceil(np.abs(difference) * scale - 0.5 - SHIFT) * np.sign(difference)
        return Sums(chances, observed + int(whole.sum()), step)


def common_unit(difference: Float[np.ndarray, " pairs"]) -> float:
    """The largest number of which all differences are whole multiples; 0 if all are 0."""
    sizes = np.unique(np.abs(difference))
    unit = 0.0
    for size in sizes[sizes > 0]:
        rest = float(size)
        while unit > TINY * sizes[-1]:  # Euclid's algorithm
            unit, rest = abs(rest - unit * round(rest / unit)), unit
        unit = rest
    return unit


def doubled(chances: Float[np.ndarray, " sums"]) -> Float[np.ndarray, " fewer"]:
    """The chances of sums in steps of twice the size, rounded towards 0."""
    most = len(chances) // 2
    places = np.trunc(np.arange(-most, most + 1) / 2).astype(int)
    return np.bincount(places + most // 2, chances, minlength=2 * (most // 2) + 1)


def small_p(
    difference: Float[np.ndarray, " pairs"], looks: Sequence[int], spending: Sequence[float], *, two_sided: bool
) -> float:
    """Smallest level at which differences cross a boundary at one of their looks, to 1 %.

    Args:
        difference: Paired differences in the order of seeds.
        looks: Pairs at each look, at most as many as there are.
        spending: Share of the level that each look may spend.
        two_sided: Whether sums on both sides cross.
    """
    unit = common_unit(difference)
    low, high = 0.5 ** looks[-1], 1.0
    while high > PRECISION * low:
        middle = float(np.sqrt(low * high))
        found = crosses_exactly(difference, unit, looks, spending, level=middle, two_sided=two_sided)
        low, high = (low, middle) if found else (middle, high)
    return high


def crosses_exactly(
    difference: Float[np.ndarray, " pairs"],
    unit: float,
    looks: Sequence[int],
    spending: Sequence[float],
    *,
    level: float,
    two_sided: bool,
) -> bool:
    """Whether the sum of differences crosses at one of the looks, which may spend their shares of the level."""
    sums = Sums(np.ones(1), 0, 0.0)
    for (before, look), share in zip(pairwise((0, *looks)), spending, strict=True):
        sums = sums.add(difference[before:look], unit)
        beyond = np.cumsum(sums.chances[::-1])[::-1]  # chance of each sum or a larger one
        if two_sided:
            beyond[: sums.most] = 1.0
            beyond[sums.most :] *= 2  # chances are the same on both sides
        first = int(np.argmax(np.append(beyond, 0.0) <= level * share * (1 + SHIFT))) - sums.most  # the least that may
        if (abs(sums.observed) if two_sided else sums.observed) >= first:
            return True
        sums.chances[sums.most + first :] = 0
        if two_sided:
            sums.chances[: max(0, sums.most - first + 1)] = 0
    return False
