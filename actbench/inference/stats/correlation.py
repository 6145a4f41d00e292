"""Rank correlation, with an interval."""

import numpy as np
from jaxtyping import Float
from scipy import special
from scipy import stats as distributions

from actbench.inference.stats.paired import Interval

LEAST = 5  # pairs, of which fewer leave the interval almost empty of meaning


def rank_correlation(
    first: Float[np.ndarray, " pairs"], second: Float[np.ndarray, " pairs"], *, level: float = 0.95
) -> Interval | None:
    """Spearman's rank correlation, ties with their mean rank; None where one of the two is constant or pairs are few.

    The interval is Fisher's, with the variance of Bonett and Wright, and holds
    approximately. Bounds of a perfect correlation are those of the next one below it, with
    two neighbours exchanged.

    Source:
        Bonett and Wright (2000), Sample size requirements for estimating
        Pearson, Kendall and Spearman correlations, Psychometrika 65(1), 23-28.
    """
    pairs = len(first)
    if pairs < LEAST or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    rho = float(np.corrcoef(distributions.rankdata(first), distributions.rankdata(second))[0, 1])
    most = 1 - 12 / (pairs * (pairs**2 - 1))
    inside = float(np.clip(rho, -most, most))
    half = float(special.ndtri((1 + level) / 2)) * np.sqrt((1 + inside**2 / 2) / (pairs - 3))
    low, high = (float(np.tanh(np.arctanh(inside) + side * half)) for side in (-1, 1))
    return Interval(rho, min(low, rho), max(high, rho))
