"""What the printed values of two rows imply: difference, interval, effect, p and power."""

import math
from typing import NamedTuple

from scipy import stats as distributions

from actbench.inference.audit.rows import Row, spread_factor
from actbench.inference.stats import pairs_needed, power
from actbench.inference.stats.power import fewest_runs, student_power

GOAL = 0.8  # power for which runs are planned
MOST = 1_000_000  # runs a side beyond which none are planned


class Implied(NamedTuple):
    """What two rows imply. Where their n or spreads allow no test, only the difference is known and the rest is NaN.

    If one of the two has no spread, it is a fixed number, and the test is that of one sample.
    """

    difference: float  # row minus baseline, in the unit of the means
    low: float = math.nan  # of Welch's interval, or that of one sample
    high: float = math.nan
    effect: float = math.nan  # Cohen's d: the difference in pooled standard deviations
    p: float = math.nan  # of Welch's test, or that of one sample, two-sided
    power: float = math.nan  # of Student's test with as many runs, if the effect seen is the true one
    needed: int | None = None  # runs a side for a power of GOAL; None also if MOST runs do not reach it


def imply(row: Row, base: Row, *, level: float = 0.95, alpha: float = 0.05) -> Implied:
    """What the printed values of two rows imply, without regard to rounding.

    Source:
        Welch (1947), The generalization of "Student's" problem when several
        different population variances are involved, Biometrika 34, 28-35.
    """
    difference = row.mean.value - base.mean.value
    sampled = [one for one in (row, base) if one.spread]
    if not sampled or not all(one.testable for one in sampled):
        return Implied(difference)
    counts = [one.runs for one in sampled]
    sds = [one.spread.value * spread_factor(one.kind, one.runs, level)[0] for one in sampled if one.spread]
    errors = [sd**2 / n for sd, n in zip(sds, counts, strict=True)]
    error = sum(errors)
    if not error > 0:  # also if the squares of tiny spreads are 0
        return Implied(difference)
    pooled = math.sqrt(sum((n - 1) * sd**2 for sd, n in zip(sds, counts, strict=True)) / (sum(counts) - len(counts)))
    effect = difference / pooled
    if len(sampled) == 1:
        freedom = counts[0] - 1
        reached = power(effect, int(counts[0]), alpha=alpha)
        needed = pairs_needed(effect, alpha=alpha, goal=GOAL, most=MOST)
    else:
        freedom = welch_freedom(errors[0] / error, *counts)
        reached = unpaired_power(effect, *counts, alpha=alpha)
        needed = fewest_runs(lambda runs: unpaired_power(effect, runs, runs, alpha=alpha), GOAL, most=MOST)
    half = float(distributions.t.ppf((1 + level) / 2, freedom)) * math.sqrt(error)
    p = 2 * float(distributions.t.sf(abs(difference) / math.sqrt(error), freedom))
    return Implied(difference, difference - half, difference + half, effect, p, reached, needed)


def unpaired_power(effect: float, n: float, base_n: float, *, alpha: float = 0.05) -> float:
    """Power of Student's two-sided unpaired test with ``n`` and ``base_n`` runs; ``effect`` in standard deviations.

    At the effect that was seen it says no more than p does; it is of use for planning.
    """
    return student_power(effect * math.sqrt(n * base_n / (n + base_n)), n + base_n - 2, alpha=alpha)


def welch_freedom(share: float, n: float, base_n: float) -> float:
    """Welch's degrees of freedom; ``share`` is the row's part of the squared standard error of the difference."""
    return 1 / (share**2 / (n - 1) + (1 - share) ** 2 / (base_n - 1))
