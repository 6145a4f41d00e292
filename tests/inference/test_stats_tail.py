import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from actbench.inference.stats import Design, sequential_p, sign_flip, tail
from actbench.inference.stats.paired import FLIPS, RARE
from actbench.inference.stats.tail import PRECISION, small_p


def share_of_flips(counts, alternative="two-sided"):
    """P-value of all flips of the signs of whole numbers, whose sums are counted one pair after the other."""
    sums = Counter({0: 1})
    for size in map(abs, counts):
        wider = Counter()
        for value, times in sums.items():
            wider[value + size] += times
            wider[value - size] += times
        sums = wider
    observed = sum(counts)
    if alternative == "two-sided":
        extreme = sum(times for value, times in sums.items() if abs(value) >= abs(observed))
    else:
        extreme = sum(times for value, times in sums.items() if value >= observed)
    return float(Fraction(extreme, 2 ** len(counts)))


@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
@pytest.mark.parametrize("pairs", [18, 30, 60, 300])
def test_a_small_p_is_that_of_all_flips(pairs, alternative):
    counts = [int(count) for count in np.random.default_rng(0).normal(24 / np.sqrt(pairs), 4, pairs).round()]

    p = sign_flip(np.array(counts) / 10_000, alternative=alternative)

    exact = share_of_flips(counts, alternative)
    assert exact < RARE / 2
    assert exact <= p * (1 + 1e-9) <= PRECISION * exact * (1 + 1e-9)


def test_a_small_p_of_differences_that_are_rounded_comes_near_that_of_all_flips():
    difference = np.random.default_rng(0).normal(1.8, 1, 17)

    p = sign_flip(difference)

    exact = share_of_flips([round(value * 10**9) for value in difference])
    assert exact < RARE / 2
    assert p == pytest.approx(exact, rel=0.03)


def test_the_smallest_p_of_many_pairs_by_hand():
    assert sign_flip(np.ones(60)) == pytest.approx(2 * 0.5**60, rel=0.01)
    assert sign_flip(np.ones(60), alternative="greater") == pytest.approx(0.5**60, rel=0.01)
    # Of the flips of twelve pairs, two may cross at the first look, where a quarter of the level may be spent.
    assert sequential_p(np.ones(24), Design(12, 24, 12)) == pytest.approx(2 * 0.5**24 / (3 / 4), rel=0.01)


def test_where_flips_at_random_say_enough_they_are_used():
    difference = np.random.default_rng(1).normal(0.3, 1, 40)

    p = sign_flip(difference)

    assert p > RARE
    assert p * (1 + FLIPS) == pytest.approx(round(p * (1 + FLIPS)))


@pytest.mark.parametrize("sizes", [np.arange(1, 9) ** 1.5, np.array([1e-5, 2e-5, 0.9, 0, 0.8, 0.9, 0.4, 0.7])])
@pytest.mark.parametrize(
    ("two_sided", "largest"),
    [
        (True, 40),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in ((True, 2**12), (False, 2**12), (False, 40))),
    ],
)
def test_no_more_flips_than_a_level_allows_have_a_p_as_small(sizes, two_sided, largest, monkeypatch):
    monkeypatch.setattr(tail, "LARGEST", largest)  # with 40, steps are doubled again and again
    monkeypatch.setattr(tail, "FIRST", min(tail.FIRST, largest))
    looks, spending = [4, 6, 8], [1 / 9, 3 / 9, 5 / 9]

    p = np.array(
        [
            small_p(sizes * flip, looks, spending, two_sided=two_sided)
            for flip in itertools.product((-1.0, 1.0), repeat=len(sizes))
        ]
    )

    assert p.min() < 0.12
    assert all(np.mean(p <= level) <= level for level in np.unique(p[p < 1]))


def test_p_never_rises_as_pairs_are_added():
    difference = np.random.default_rng(0).normal(0.012, 0.01, 60)
    design = Design(6, 60, 6)

    p = [sequential_p(difference[:look], design) for look in design.looks]

    assert p == sorted(p, reverse=True)
    assert p[-1] < 1e-6 < RARE < p[1]


def test_rounding_is_the_same_at_every_scale():
    counts = np.random.default_rng(2).integers(-3, 9, 40)

    p = [small_p(counts * scale, [40], [1.0], two_sided=True) for scale in (1.0, 1 / 270, 1e-6, 1e6)]

    assert len(set(p)) == 1


def test_a_small_p_is_precise_to_one_per_cent():
    difference = np.array([5.0, 4, 3, 2, 1, 1, 1, 1])

    p = small_p(difference, [8], [1.0], two_sided=True)

    assert share_of_flips([5, 4, 3, 2, 1, 1, 1, 1]) <= p <= PRECISION * share_of_flips([5, 4, 3, 2, 1, 1, 1, 1])
