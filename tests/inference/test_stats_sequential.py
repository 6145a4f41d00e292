import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from actbench.inference.stats import Design, boundaries, crosses, histories, nominal_level, sequential_p, sign_flip
from actbench.inference.stats.sequential import HISTORIES, PRECISION

WALKS = 500_000
STABLE = settings(derandomize=True, deadline=None, max_examples=25)
FEW, MANY = Design(3, 11, 4), Design(4, 24, 7)  # all flips, and some of them
DESIGNS = st.sampled_from([FEW, MANY])
# Test images, with many ties, some of which rounding would part; and what has none.
COUNTS = arrays(int, 24, elements=st.integers(-8, 8)).map(lambda counts: 0.9 + counts / 10_000 - 0.9)
DIFFERENCES = COUNTS | arrays(float, 24, elements=st.floats(-1, 1))


def first_crossings(limits, times, sides):
    """Chance that a random walk first crosses at each look, by integrating the density of those that have not.

    Armitage, McPherson & Rowe (1969), Repeated significance tests on
    accumulating data, J. R. Stat. Soc. A 132(2), 235-244.
    """
    nodes, weights = np.polynomial.legendre.leggauss(100)
    places, masses, chances = np.zeros(1), np.ones(1), []
    for limit, before, time in zip(limits, (0, *times), times, strict=False):
        step = np.sqrt(time - before)
        beyond = stats.norm.sf((limit - places) / step)
        if sides == 2:
            beyond += stats.norm.cdf((-limit - places) / step)
        chances.append(float(masses @ beyond))
        low = -limit if sides == 2 else -9 * np.sqrt(time)
        ahead = (low + limit) / 2 + (limit - low) / 2 * nodes
        density = stats.norm.pdf((ahead[:, None] - places) / step) / step @ masses
        places, masses = ahead, weights * (limit - low) / 2 * density
    return chances


def walks(times):
    rng = np.random.default_rng(1)
    steps = [np.sqrt(time - before) * rng.standard_normal(WALKS) for before, time in itertools.pairwise((0, *times))]
    return np.cumsum(steps, axis=0)


def prefixes(difference, design):
    return [difference[:look] for look in design.looks]


def test_a_design_looks_after_each_batch_and_at_the_end():
    assert Design(6, 60, 6).looks == (6, 12, 18, 24, 30, 36, 42, 48, 54, 60)
    assert Design(5, 20, 10).looks == (5, 15, 20)
    assert Design(7, 7, 1).looks == (7,)


def test_spending_is_quadratic_and_ends_at_one():
    design = Design(5, 20, 5)

    shares = design.spending(20)

    assert np.cumsum(shares) == pytest.approx([1 / 16, 4 / 16, 9 / 16, 1])
    assert design.spending(14) == shares[:2]
    assert design.spending(4) == []


@pytest.mark.parametrize(("least", "most", "batch"), [(1, 6, 6), (7, 6, 1), (6, 12, 0)])
def test_a_design_that_makes_no_sense_is_refused(least, most, batch):
    with pytest.raises(ValueError, match=f"min {least}, max {most}, batch {batch}"):
        Design(least, most, batch)


def test_boundaries_by_hand():
    sums = np.array([[9.0, 8, 8, 1, 2, 3, 4, 5], [1.0, 2, 3, 9, 8, 7, 6, 6]])

    # Two of eight may cross at each look. At the first, 8 ties with one that may not: one crosses, and what it leaves
    # is lost. At the second, of 2, 3, 9, 8, 7, 6, 6 two may.
    assert boundaries(sums, [0.5, 0.5], level=0.5) == [9, 8]
    assert boundaries(sums, [0.5, 0.5], level=0.1) == [np.inf, np.inf]
    assert boundaries(sums, [0.5, 0.5], level=1.0) == [5, -np.inf]  # all that are left


# Constants for five equal looks, two-sided at .05, of Pocock (1977) and of O'Brien & Fleming (1979), as Jennison &
# Turnbull (2000), Group Sequential Methods, list them; and what the R package rpact gives for Kim & DeMets' spending
# with power 2.2, one-sided at .03, with looks at .3, .7 and 1.
POCOCK, O_BRIEN_FLEMING = 2.413, 2.040
RPACT_TIMES, RPACT_Z, RPACT_SPENT = (
    (0.3, 0.7, 1.0),
    (2.8594012, 2.2435708, 1.9735737),
    (0.0021222083, 0.013687904, 0.03),
)


def test_the_reference_integration_gives_published_values():
    times = np.arange(1, 6)

    pocock = first_crossings(POCOCK * np.sqrt(times), times, 2)
    o_brien_fleming = first_crossings(np.full(5, O_BRIEN_FLEMING * np.sqrt(5)), times, 2)
    rpact = first_crossings(RPACT_Z * np.sqrt(RPACT_TIMES), RPACT_TIMES, 1)

    assert sum(pocock) == pytest.approx(0.05, abs=1e-4)
    assert sum(o_brien_fleming) == pytest.approx(0.05, abs=1e-4)
    assert np.cumsum(rpact) == pytest.approx(RPACT_SPENT, abs=1e-7)


def test_boundaries_of_random_walks_are_published_ones():
    spending = np.diff(RPACT_SPENT, prepend=0) / 0.03

    limits = boundaries(walks(RPACT_TIMES), list(spending), level=0.03)

    assert limits / np.sqrt(RPACT_TIMES) == pytest.approx(RPACT_Z, abs=0.02)


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1e-6])
@pytest.mark.parametrize("design", [Design(12, 60, 12), Design(6, 60, 6), Design(10, 37, 9)])
def test_nominal_levels_spend_what_the_design_says(design, alpha):
    levels = np.array([nominal_level(design, look, alpha) for look in design.looks])

    spent = first_crossings(stats.norm.isf(levels / 2) * np.sqrt(design.looks), design.looks, 2)

    assert spent == pytest.approx(alpha * np.array(design.spending(design.most)), rel=1e-6)


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_random_walks_cross_nominal_levels_as_often_as_the_design_says(alpha):
    design = Design(6, 60, 6)
    limits = stats.norm.isf([nominal_level(design, look, alpha) / 2 for look in design.looks])

    crossed = np.abs(walks(design.looks)) >= (limits * np.sqrt(design.looks))[:, None]

    by_each_look = np.maximum.accumulate(crossed).mean(axis=1)
    may = alpha * np.cumsum(design.spending(design.most))
    assert np.all(np.abs(by_each_look - may) < 4 * np.sqrt(may / WALKS))


def test_before_the_first_look_an_interval_has_the_level_itself():
    assert nominal_level(Design(6, 60, 6), 5, 0.05) == 0.05


@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
@pytest.mark.parametrize("pairs", [5, 10, 16])
def test_one_look_alone_is_the_sign_flip_test(pairs, alternative):
    difference = np.random.default_rng(pairs).normal(0.5, 1, pairs)

    p = sequential_p(difference, Design(pairs, pairs, 1), alternative=alternative)

    exact = sign_flip(difference, alternative=alternative)
    assert exact <= p <= PRECISION * exact


def test_one_look_at_many_pairs_comes_near_the_sign_flip_test():
    difference = np.random.default_rng(0).normal(0.3, 1, 40)

    p = sequential_p(difference, Design(40, 40, 1))

    exact = sign_flip(difference)
    assert abs(p - exact) < 5 * np.sqrt(exact / HISTORIES) + 0.01 * exact


@pytest.mark.parametrize("alternative", ["two-sided", pytest.param("greater", marks=pytest.mark.slow)])
@pytest.mark.parametrize("sizes", [np.arange(1, 10) ** 1.5, np.ones(9), np.array([1, 1, 2, 0, 3, 3, 3, 0, 1]) / 270])
def test_over_all_flips_of_signs_no_more_than_alpha_cross_by_any_look(sizes, alternative):
    design = Design(3, 9, 3)
    flips = np.array(list(itertools.product((-1.0, 1.0), repeat=len(sizes))))

    p = np.array(
        [[sequential_p(d, design, alternative=alternative) for d in prefixes(sizes * f, design)] for f in flips]
    )

    spent = np.cumsum(design.spending(design.most))
    for alpha in np.unique(p[p < 1]):
        assert np.all(np.mean(p <= alpha, axis=0) <= alpha * spent)


def test_a_clear_difference_is_found_at_the_first_look_that_can_find_it():
    difference = np.full(16, 0.01)

    p = [sequential_p(values, Design(4, 16, 4)) for values in prefixes(difference, Design(4, 16, 4))]

    # Of 16 flips two are as extreme as all alike, a share of 1 / 8 where alpha / 16 may be spent; of 256 after eight
    # pairs two, where the share is 3 / 16; of 4,096 after twelve, where it is 5 / 16.
    assert p[0] == 1
    assert p[1] == pytest.approx(2 / 256 / (3 / 16), rel=0.01)
    assert p[2] == pytest.approx(2 / 4096 / (5 / 16), rel=0.01)


def test_pairs_after_the_last_whole_look_do_not_count():
    difference = np.random.default_rng(0).normal(1, 1, 24)

    p = sequential_p(difference[:17], MANY)

    assert p == sequential_p(difference[:11], MANY)
    assert sequential_p(difference[:3], MANY) == 1


def test_what_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite, got nan"):
        sequential_p(np.array([1.0, np.nan, 1.0]), FEW)


@STABLE
@given(DIFFERENCES, DESIGNS, st.sampled_from(["two-sided", "greater"]))
def test_p_never_rises_as_pairs_are_added(difference, design, alternative):
    p = [sequential_p(values, design, alternative=alternative) for values in prefixes(difference, design)]

    assert p == sorted(p, reverse=True)
    assert all(0 < value <= 1 for value in p)


@STABLE
@given(DIFFERENCES, DESIGNS, st.sampled_from(["two-sided", "greater"]))
def test_what_crosses_at_a_level_crosses_at_every_higher_one(difference, design, alternative):
    observed, sums = histories(difference[: design.most], design, alternative)

    spending = design.spending(design.most)
    found = [crosses(observed, boundaries(sums, spending, level=level)) for level in np.geomspace(1e-4, 1, 60)]

    assert found == sorted(found)


@STABLE
@given(DIFFERENCES, DESIGNS, st.randoms(use_true_random=False), st.floats(0.01, 100))
def test_p_ignores_order_within_a_batch_direction_and_scale(difference, design, shuffle, factor):
    order = []
    for before, look in itertools.pairwise((0, *design.looks)):
        batch = list(range(before, look))
        shuffle.shuffle(batch)
        order += batch

    p = sequential_p(difference[: design.most], design)

    assert p == sequential_p(difference[order], design)
    assert p == sequential_p(-difference[: design.most], design)
    assert p == sequential_p(factor * difference[: design.most], design)


@STABLE
@given(arrays(int, 24, elements=st.integers(-200, 200)), DESIGNS)
def test_rounding_parts_no_ties(counts, design):
    counts[design.most - 1] += -np.abs(counts[: design.most]).sum() % 1024 * (1 if counts[design.most - 1] >= 0 else -1)
    counts = counts[: design.most]

    observed, sums = histories(0.9 + counts / 10_000 - 0.9, design, "two-sided")

    whole_observed, whole = histories(counts.astype(float), design, "two-sided")
    assert [len(np.unique(row)) for row in sums] == [len(np.unique(row)) for row in whole]
    assert np.array_equal(observed[:, None] <= sums, whole_observed[:, None] <= whole)
