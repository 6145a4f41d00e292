"""Levels of tests that come one after the other, without an end in sight.

Test ``i`` rejects if its p-value is at most the level that it was given when it
began, and only what was known by then may set that level. Tests may overlap.
"""

import math
from collections.abc import Sequence
from typing import Literal

Control = Literal["fwer", "fdr"]
SPENT = 2.1098  # sum over all k from 2 on of 1 / (k ln^2 k), rounded up
LORD = 0.0772  # with this factor, the sequence of Javanmard & Montanari sums to 1, rounded down
FIRST_WEALTH = 0.5  # share of the rate that tests may spend before the first discovery


def next_level(control: Control, *, alpha: float, started: int, discoveries: Sequence[int] = ()) -> float:
    """Level of the next test of a series.

    ``fwer`` is alpha spending: whatever the tests, the chance of any false
    discovery in the whole series is at most the sum of all levels, which is less
    than alpha. ``fdr`` is LORD++: each discovery earns new level, and the expected
    share of false discoveries is at most alpha, if p-values of true null
    hypotheses are independent of one another and of all others. Where they are
    only valid given all that was known when their test began, this holds for the
    ratio of the expected numbers.

    Args:
        control: What is controlled.
        alpha: The chance or rate, between 0 and 1.
        started: Tests that have begun.
        discoveries: For each discovery, in the order in which they became known, how many tests had begun by then.

    Raises:
        ValueError: An argument makes no sense.

    Source:
        Foster & Stine (2008), alpha-investing, J. R. Stat. Soc. B 70(2),
        429-444, section 2, for alpha spending over a series; Ramdas, Yang,
        Wainwright & Jordan (2017), Online control of the false discovery rate
        with decaying memory, NeurIPS 30, for LORD++; Zrnic, Ramdas & Jordan
        (2021), Asynchronous online testing of multiple hypotheses, J. Mach.
        Learn. Res. 22(33), 1-39, for tests that overlap.
    """
    if not 0 < alpha < 1 or started < 0:
        raise ValueError(f"alpha lies between 0 and 1 and started from 0 on, got {alpha} and {started}")
    if any(not 0 < known <= started for known in discoveries):
        raise ValueError(f"a discovery becomes known after its test has begun, got {list(discoveries)} of {started}")
    number = started + 1
    if control == "fwer":
        return alpha / (SPENT * (number + 1) * math.log(number + 1) ** 2)
    first = FIRST_WEALTH * alpha
    earned = [alpha - first, *[alpha] * (len(discoveries) - 1)]
    since = [number - known for known in discoveries]
    return first * lord_share(number) + sum(
        level * lord_share(tests) for level, tests in zip(earned, since, strict=False)
    )


def lord_share(tests: int) -> float:
    """Share of what a discovery earned that goes to the test so many tests later; all shares sum to less than 1.

    Source:
        Javanmard & Montanari (2018), Online rules for control of false
        discovery rate and false discovery exceedance, Ann. Stat. 46(2),
        526-554.
    """
    return LORD * math.log(max(tests, 2)) / (tests * math.exp(math.sqrt(math.log(tests))))
