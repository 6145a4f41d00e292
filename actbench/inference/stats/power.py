"""Planning: how many pairs detect which difference."""

from bisect import bisect_left
from collections.abc import Callable

import numpy as np
from scipy import optimize, special


def student_power(shift: float, freedom: int | float, *, alpha: float = 0.05) -> float:
    """Power of a two-sided t test.

    ``shift`` is the noncentrality: the true difference over its standard error.

    Source:
        Cohen (1988), Statistical Power Analysis for the Behavioral Sciences,
        2nd ed., chapter 2.
    """
    # scipy.special, because scipy.stats takes ten times as long; far out it gives NaN for 0.
    critical = special.stdtrit(freedom, 1 - alpha / 2)
    below, above = np.nan_to_num(special.nctdtr(freedom, abs(shift), [-critical, critical]))
    return float(min(1.0, below + 1 - above))


def fewest_runs(reaches: Callable[[int], float], goal: float, *, most: int) -> int | None:
    """Fewest runs, at least two, with which a rising power ``reaches`` the goal; None if ``most`` runs do not."""
    runs = 2 + bisect_left(range(2, most + 1), goal, key=reaches)
    return runs if runs <= most else None


def power(effect: float, pairs: int, *, alpha: float = 0.05) -> float:
    """Power of the two-sided paired t test; ``effect`` is in standard deviations of a difference.

    The sign-flip test has about the same power from 10 pairs on; below 6 pairs it can reach no p under .05.
    """
    return student_power(float(effect * np.sqrt(pairs)), pairs - 1, alpha=alpha) if pairs > 1 else 0.0


def pairs_needed(effect: float, *, alpha: float = 0.05, goal: float = 0.8, most: int = 1_000_000) -> int | None:
    """Fewest pairs with which `power` reaches the goal; None if ``most`` pairs do not, or without an effect."""
    if not 0 < abs(effect) < np.inf:
        return None
    return fewest_runs(lambda pairs: power(effect, pairs, alpha=alpha), goal, most=most)


def detectable(pairs: int, *, alpha: float = 0.05, goal: float = 0.8) -> float:
    """Smallest effect that the pairs detect with power ``goal``, in standard deviations of a difference."""
    if pairs < 2:
        return float("inf")
    high = 1.0
    while power(high, pairs, alpha=alpha) < goal:
        high *= 2
    return float(optimize.brentq(lambda effect: power(effect, pairs, alpha=alpha) - goal, 0, high, rtol=1e-6))


def pairs_for_margin(spread: float, margin: float, *, alpha: float = 0.05, goal: float = 0.8) -> int | None:
    """Fewest pairs with which two one-sided t tests find equal arms equivalent, approximated by one t test.

    ``spread`` is the standard deviation of a difference, in the unit of
    ``margin``, and ``alpha`` the level of each of the two tests.
    """
    # Without a true difference, both tests must pass: each may fail in half of the remaining cases.
    return pairs_needed(margin / spread, alpha=2 * alpha, goal=(1 + goal) / 2) if spread else 2


def noise_of_test_set(accuracy: float, rows: int) -> float:
    """Standard deviation of the difference between two accuracies that is due to a finite test set alone.

    This is a rough bound, which takes the errors of the two networks for independent.

    Source:
        Jordan (2023), Calibrated chaos: variance between runs of neural
        network training is harmless and inevitable, arXiv:2304.01910.
    """
    return float(np.sqrt(2 * accuracy * (1 - accuracy) / rows))
