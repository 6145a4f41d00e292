"""Planning: how many pairs see which difference."""

import numpy as np
from scipy import stats as distributions


def power(effect: float, pairs: int, *, alpha: float = 0.05) -> float:
    """Chance that the two-sided paired t test sees a difference of so many standard deviations.

    The sign-flip test's is about the same from 10 pairs on; below 6 pairs it can reach no p under .05.

    Args:
        effect: Mean difference over the standard deviation of a difference.
        pairs: How many.
        alpha: Level of the test.

    Source:
        Cohen (1988), Statistical Power Analysis for the Behavioral Sciences,
        2nd ed., chapter 2.
    """
    if pairs < 2:
        return 0.0
    critical = distributions.t.ppf(1 - alpha / 2, pairs - 1)
    shift = effect * np.sqrt(pairs)
    # Sums of both tails; scipy's tails of the noncentral t lose precision far out, where they are 0 or 1.
    upper = distributions.nct.sf(critical, pairs - 1, shift)
    lower = distributions.nct.cdf(-critical, pairs - 1, shift)
    return float(np.nan_to_num(upper, nan=1.0) + np.nan_to_num(lower, nan=0.0))


def pairs_needed(effect: float, *, alpha: float = 0.05, goal: float = 0.8, most: int = 1_000_000) -> int | None:
    """Fewest pairs with which `power` reaches the goal; None if ``most`` do not, or there is no effect."""
    if not 0 < abs(effect) < np.inf:
        return None
    low, high = 1, 2
    while power(abs(effect), high, alpha=alpha) < goal:
        if high >= most:
            return None
        low, high = high, min(most, 2 * high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(abs(effect), middle, alpha=alpha) >= goal else (middle, high)
    return high


def detectable(pairs: int, *, alpha: float = 0.05, goal: float = 0.8) -> float:
    """Smallest effect that so many pairs see with the power asked for, in standard deviations of a difference."""
    if pairs < 2:
        return float("inf")
    low, high = 0.0, 1.0
    while power(high, pairs, alpha=alpha) < goal:
        low, high = high, 2 * high
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, pairs, alpha=alpha) >= goal else (middle, high)
    return high


def pairs_for_margin(spread: float, margin: float, *, alpha: float = 0.05, goal: float = 0.8) -> int | None:
    """Fewest pairs with which two one-sided t tests find equal arms equivalent; an approximation by one t test.

    Args:
        spread: Standard deviation of a difference, in the unit of ``margin``.
        margin: The largest difference that does not matter.
        alpha: Level of each test.
        goal: Power asked for.
    """
    # With no true difference, both tests have to pass: each may fail in half of the cases that remain.
    return pairs_needed(margin / spread, alpha=2 * alpha, goal=(1 + goal) / 2) if spread else 2


def noise_of_test_set(accuracy: float, rows: int) -> float:
    """Standard deviation of the difference of two accuracies that comes from a finite test set alone.

    A rough bound: errors of the two networks are taken for independent.

    Source:
        Jordan (2023), Calibrated chaos: variance between runs of neural
        network training is harmless and inevitable, arXiv:2304.01910.
    """
    return float(np.sqrt(2 * accuracy * (1 - accuracy) / rows))
