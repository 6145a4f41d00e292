"""Replicates that failed to train: which they are, and whether one arm has more of them than the other."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Real
from scipy import stats as distributions

from actbench.inference.stats.paired import Interval, smallest_p
from actbench.inference.stats.sequential import Design

Failed = Bool[np.ndarray, "_ 2"]  # whether the arm failed, and whether its baseline did, in the order of seeds


class Shares(NamedTuple):
    """Shares of a comparison's level: for all seeds, for failures, and for the pairs of which both trained."""

    seeds: float
    failures: float
    trained: float


SHARES = Shares(0.60, 0.25, 0.15)


def guessing_p(
    correct: Real[np.ndarray, " replicates"],
    rows: Real[np.ndarray, " replicates"],
    guess: Float[np.ndarray, " replicates"],
) -> Float[np.ndarray, " replicates"]:
    """Chance that a network which guesses has at least so many of its rows correct: the exact binomial test.

    ``guess`` is its chance to have a row correct, which is at most the share of the most frequent class.
    Where a number is not known, it and the result are NaN.
    """
    p: Float[np.ndarray, " replicates"] = distributions.binom.sf(correct - 1, rows, guess)
    return p


def mcnemar(arm: int, baseline: int) -> float:
    """Exact two-sided p-value for the rates of two paired events, of the pairs in which only one of them occurred.

    Source:
        McNemar (1947), Note on the sampling error of the difference between
        correlated proportions or percentages, Psychometrika 12(2), 153-157.
    """
    return float(distributions.binomtest(arm, arm + baseline).pvalue) if arm + baseline else 1.0


def rate_difference(arm: int, baseline: int, pairs: int, *, level: float = 0.95) -> Interval:
    """Difference between the rates of two paired events, with the interval of Bonett and Price.

    ``arm`` and ``baseline`` count the pairs in which only one of the two events occurred.

    Source:
        Bonett & Price (2012), Adjusted Wald confidence interval for a
        difference of binomial proportions based on paired data, J. Educ.
        Behav. Stat. 37(4), 479-488.
    """
    first, second = (arm + 1) / (pairs + 2), (baseline + 1) / (pairs + 2)
    z = float(distributions.norm.ppf((1 + level) / 2))
    half = z * float(np.sqrt((first + second - (first - second) ** 2) / (pairs + 2)))
    middle = first - second
    return Interval((arm - baseline) / pairs, max(middle - half, -1.0), min(middle + half, 1.0))


def level_shares(failed: Failed, *, alpha: float, design: Design | None = None) -> Shares:
    """How a comparison spends its level; all of it goes to all seeds where no replicate failed.

    A share that no test could use goes on: that for failures to the pairs that
    trained, and theirs to all seeds. Shares follow from how many pairs have a
    failure, which the exchange of two scores leaves as it is, so that they do not
    spoil an exact test. Those of a sequential design are the same at each look.
    """
    if not failed.any():
        return Shares(1.0, 0.0, 0.0)
    seeds, failures, trained = SHARES
    if design is None:
        if smallest_p(int(np.sum(failed[:, 0] != failed[:, 1]))) > alpha:
            failures, trained = 0.0, trained + failures
        if smallest_p(int(np.sum(~failed.any(axis=1)))) > alpha:
            seeds, trained = seeds + trained, 0.0
    return Shares(seeds, failures, trained)
