import itertools
import math

import numpy as np
import pytest

from actbench.inference.stats.online import lord_share, next_level

SERIES = 150


def spending(number):
    """Terms of a series whose sum over all numbers is 1; its constant is that of Abel's series."""
    return 1 / (2.1097428 * (number + 1) * math.log(number + 1) ** 2)


def lord_plus_plus(number, rejections, alpha):
    """Level of a test, with half of alpha as the first wealth, as Ramdas et al. (2017) write it."""
    wealth = alpha / 2
    level = lord_share(number) * wealth
    for place, rejected in enumerate(rejections):
        if rejected < number:
            level += lord_share(number - rejected) * (alpha - wealth if place == 0 else alpha)
    return level


@pytest.mark.parametrize("number", [1, 2, 10, 1000])
def test_spending_follows_abels_series(number):
    level = next_level("fwer", alpha=0.05, started=number - 1)

    assert level == pytest.approx(0.05 * spending(number), rel=1e-4)
    assert level < 0.05 * spending(number)


def test_however_many_tests_come_they_spend_less_than_alpha():
    some = 10**5

    spent = sum(next_level("fwer", alpha=0.05, started=number) for number in range(some))

    rest = 0.05 / (2.1097428 * math.log(some + 1))  # the integral of what follows
    assert 0.049 < spent + rest < 0.05


def test_the_shares_of_what_a_discovery_earns_sum_to_less_than_one():
    some = 10**5
    numbers = np.arange(some + 1, 10**7, dtype=float)

    near = sum(map(lord_share, range(1, some + 1)))
    far = np.sum(0.0772 * np.log(numbers) / (numbers * np.exp(np.sqrt(np.log(numbers)))))

    # Beyond 10^7, with u = sqrt(ln x): the integral of 2 u^3 exp(-u).
    u = math.sqrt(math.log(10**7))
    rest = 0.0772 * 2 * math.exp(-u) * (u**3 + 3 * u**2 + 6 * u + 6)
    assert 0.95 < near + far + rest < 1


@pytest.mark.parametrize("rejections", [[], [3], [3, 4, 20], [1, 2]])
def test_levels_are_those_of_lord_plus_plus(rejections):
    for number in (1, 5, 21, 60):
        known = [rejected for rejected in rejections if rejected < number]

        level = next_level("fdr", alpha=0.1, started=number - 1, discoveries=known)

        assert level == pytest.approx(lord_plus_plus(number, rejections, 0.1))


def test_a_discovery_that_becomes_known_late_helps_late():
    at_once = next_level("fdr", alpha=0.05, started=10, discoveries=[4])

    late = next_level("fdr", alpha=0.05, started=10, discoveries=[10])

    assert late == pytest.approx(0.025 * lord_share(11) + 0.025 * lord_share(1))
    assert at_once == pytest.approx(0.025 * lord_share(11) + 0.025 * lord_share(7))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"control": "fwer", "alpha": 1.5, "started": 0}, "1.5"),
        ({"control": "fdr", "alpha": 0.05, "started": 2, "discoveries": [3]}, "of 2"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        next_level(**arguments)


@pytest.mark.parametrize(
    ("control", "better", "first"),
    [
        pytest.param(*case, marks=[pytest.mark.slow] if case == ("fdr", 0.2, True) else [])  # with many discoveries
        for case in itertools.product(("fwer", "fdr"), (0.0, 0.2), (True, False))
    ],
)
def test_a_series_errs_no_more_than_it_may(control, better, first):
    rng = np.random.default_rng([control == "fdr", int(10 * better), first])
    truth = np.arange(200) < 200 * better
    truth = truth if first else truth[::-1]
    any_false, false_share = 0, 0.0
    for _ in range(SERIES):
        # A true null has a uniform p-value; the others are those of a normal mean of four standard errors.
        p = np.where(truth, [math.erfc(abs(z + 4) / math.sqrt(2)) for z in rng.normal(size=200)], rng.random(200))
        found, discoveries = [], []
        for place, value in enumerate(p):
            if value <= next_level(control, alpha=0.1, started=place, discoveries=discoveries):
                found.append(place)
                discoveries.append(place + 1)
        false = sum(not truth[place] for place in found)
        any_false += false > 0
        false_share += false / max(1, len(found))

    error = (any_false if control == "fwer" else false_share) / SERIES
    assert error < 0.1 + 3 * math.sqrt(0.1 * 0.9 / SERIES)
