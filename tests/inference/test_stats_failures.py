import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from statsmodels.stats import contingency_tables

from actbench.inference.stats import (
    SHARES,
    Design,
    Shares,
    carrying_pairs,
    guessing_p,
    holm,
    judge_family,
    level_shares,
    mcnemar,
    rate_difference,
    sign_flip,
    stops,
)

STABLE = settings(derandomize=True, deadline=None, max_examples=15)
DESIGN = Design(6, 24, 6)
LOOKING = pytest.mark.parametrize("design", [None, DESIGN], ids=["fixed", "looking"])
MIRROR = {"better": "worse", "worse": "better"}


def failing(pairs, *, arm=(), baseline=()):
    """Which replicates failed: those with these places."""
    failed = np.zeros((pairs, 2), dtype=bool)
    failed[list(arm), 0] = failed[list(baseline), 1] = True
    return failed


def with_failures(failed, *, shift=0.0, seed=0):
    """Differences of accuracies around .95, of which those that failed are .1."""
    rng = np.random.default_rng(seed)
    scores = rng.normal([0.95 + shift, 0.95], 0.005, failed.shape)
    scores[failed] = 0.1
    return scores[:, 0] - scores[:, 1]


# --- the tests ---


@pytest.mark.parametrize(("correct", "rows", "guess"), [(18, 180, 0.1), (30, 180, 0.1), (180, 180, 0.1), (0, 5, 0.5)])
def test_guessing_is_tested_by_the_binomial_test(correct, rows, guess):
    (p,) = guessing_p(np.array([correct]), np.array([rows]), np.array([guess]))

    assert p == pytest.approx(stats.binomtest(correct, rows, guess, alternative="greater").pvalue)


@pytest.mark.parametrize(("arm", "baseline"), [(0, 0), (0, 5), (0, 6), (9, 0), (3, 8), (4, 4)])
def test_rates_of_failure_are_compared_by_mcnemars_exact_test(arm, baseline):
    expected = contingency_tables.mcnemar([[10, arm], [baseline, 2]], exact=True).pvalue

    assert mcnemar(arm, baseline) == pytest.approx(expected if arm + baseline else 1)


def test_the_interval_of_rates_by_hand():
    # (9 + 1) / 32 - 1 / 32 = .28125; .34375 - .28125^2 = .26465; 1.95996 * sqrt(.26465 / 32) = .17824
    assert rate_difference(9, 0, 30) == pytest.approx((0.3, 0.10301, 0.45949), abs=1e-5)
    assert rate_difference(0, 9, 30) == pytest.approx((-0.3, -0.45949, -0.10301), abs=1e-5)


@pytest.mark.parametrize("rates", [(0.1, 0.1), (0.3, 0.05), (0.02, 0.3)])
def test_the_interval_of_rates_covers_the_difference(rates):
    rng, studies, pairs = np.random.default_rng(0), 2_000, 30
    failed = rng.random((studies, pairs, 2)) < rates
    alone = np.stack([failed[..., 0] & ~failed[..., 1], failed[..., 1] & ~failed[..., 0]], axis=2).sum(axis=1)

    intervals = [rate_difference(int(arm), int(baseline), pairs) for arm, baseline in alone]

    hits = sum(interval.low <= rates[0] - rates[1] <= interval.high for interval in intervals)
    assert stats.binomtest(hits, studies, 0.95, alternative="less").pvalue > 1e-3


def test_holms_correction_with_weights_by_hand():
    # p / w: .0167, .16, .2; times the weights that remain, 1, .4 and .15: .0167, .064, .03, of which none may fall.
    assert holm([0.01, 0.04, 0.03], [0.6, 0.25, 0.15]) == pytest.approx([1 / 60, 0.064, 0.064])
    assert holm([0.01, 0.04, 0.03], [2.0, 2.0, 2.0]) == pytest.approx(holm([0.01, 0.04, 0.03]))
    assert holm([0.0, 0.04, 0.03], [0.0, 1.0, 1.0]) == pytest.approx([1.0, *holm([0.04, 0.03])])


@pytest.mark.parametrize(
    ("arm", "baseline", "expected"),
    [
        ([], [], (1, 0, 0)),
        (range(6), [], SHARES),
        (range(5), [], (0.6, 0, 0.4)),  # five pairs reach no p below .0625
        (range(4), range(4), (0.6, 0, 0.4)),  # both fail in the same pairs
        (range(25), [], (0.75, 0.25, 0)),  # five pairs trained
        (range(25), range(25), (1, 0, 0)),
    ],
)
def test_a_share_that_no_test_can_use_goes_on(arm, baseline, expected):
    failed = failing(30, arm=arm, baseline=baseline)

    assert level_shares(failed, alpha=0.05) == pytest.approx(expected)
    assert sum(level_shares(failed, alpha=0.05)) == pytest.approx(1)


def test_shares_are_the_same_at_each_look():
    assert level_shares(failing(6, arm=[0]), alpha=0.05, design=DESIGN) == SHARES
    assert level_shares(failing(24, arm=range(24)), alpha=0.05, design=DESIGN) == SHARES
    assert level_shares(failing(6), alpha=0.05, design=DESIGN) == Shares(1, 0, 0)


@pytest.mark.parametrize(
    ("difference", "pairs"),
    [
        ([0.85] * 9 + [0.004] * 21, 9),
        ([-0.85] * 9 + [-0.004] * 21, 9),
        ([0.85, 0.85, 0.85, -0.85, 0.0, 0.0, 0.0, 0.0], 2),
        ([0.02, 0.01, 0.03], None),
        ([0.0, 0.0], None),
        ([], None),
    ],
)
def test_pairs_that_carry_a_difference_are_counted(difference, pairs):
    assert carrying_pairs(np.array(difference)) == pairs


# --- three parts ---


@LOOKING
@STABLE
@given(arrays(int, (3, 24), elements=st.integers(250, 270)))
def test_without_failures_nothing_changes(design, counts):
    family = list((counts[1:] - counts[0]) / 270)

    found = judge_family(family, [failing(24)] * 2, design=design)

    assert found == judge_family(family, design=design)
    assert all(one.failures is one.trained is None and one.share == 1 for one in found)


def test_the_parts_of_a_comparison_are_tested_apart():
    failed = failing(30, baseline=range(9))
    difference = with_failures(failed)

    (found,) = judge_family([difference], [failed])

    assert (found.failures.arm, found.failures.baseline, found.failures.verdict) == (0, 9, "better")
    assert found.failures.p == pytest.approx(2 * 0.5**9)
    assert found.failures.difference == rate_difference(0, 9, 30)
    assert (found.trained.pairs, found.trained.p) == (21, sign_flip(difference[9:]))
    low, high = stats.t.interval(0.95, 20, difference[9:].mean(), stats.sem(difference[9:]))
    assert found.trained.difference == pytest.approx((difference[9:].mean(), low, high))
    assert found.p == sign_flip(difference)
    parts = [found.p, found.failures.p, found.trained.p]
    adjusted = [found.adjusted_p, found.failures.adjusted_p, found.trained.adjusted_p]
    assert adjusted == pytest.approx(holm(parts, SHARES))
    assert found.median == np.median(difference)
    assert found.carried_by == 9


def test_failures_alone_decide_where_the_mean_is_too_noisy():
    failed = failing(60, arm=range(2), baseline=range(2, 16))
    difference = with_failures(failed, shift=-0.1)

    (found,) = judge_family([difference], [failed])

    assert found.failures.p == pytest.approx(contingency_tables.mcnemar([[0, 2], [14, 0]]).pvalue)
    assert (found.verdict, found.failures.verdict, found.trained.verdict) == ("undecided", "better", "worse")
    assert found.decided


def test_where_both_train_arms_may_be_equivalent():
    failed = failing(30, baseline=range(9))
    difference = np.where(failed.any(axis=1), 0.85, np.resize([0.001, -0.001], 30))

    (found,) = judge_family([difference], [failed])

    assert (found.verdict, found.trained.verdict, found.trained.inside_margin) == ("better", "equivalent", True)


@LOOKING
@STABLE
@given(arrays(bool, (24, 2), elements=st.booleans()), st.sampled_from([0.0, 0.02]))
def test_swapping_arms_mirrors_all_parts(design, failed, shift):
    difference = with_failures(failed, shift=shift)

    (there,), (back,) = (
        judge_family([difference], [failed], design=design),
        judge_family([-difference], [failed[:, ::-1]], design=design),
    )

    parts = ("failures", "trained") if failed.any() else ()
    for one, other in [(there, back), *((getattr(there, part), getattr(back, part)) for part in parts)]:
        assert other.verdict == MIRROR.get(one.verdict, one.verdict)
        assert (one.p, one.adjusted_p) == (other.p, other.adjusted_p)


def test_a_design_of_one_look_tests_failures_as_mcnemar_does():
    failed = failing(24, arm=range(2), baseline=range(2, 13))

    (found,) = judge_family([with_failures(failed)], [failed], design=Design(24, 24, 1))

    assert found.failures.p == pytest.approx(mcnemar(2, 11), rel=0.25)  # of 20,000 flips


def test_a_comparison_that_failures_have_decided_stops():
    failed = failing(24, baseline=[place for place in range(24) if place % 3])
    difference = with_failures(failed, shift=-0.567)

    pairs, running = stops([difference], DESIGN, [failed])

    (found,) = judge_family([difference[: pairs[0]]], [failed[: pairs[0]]], design=DESIGN)
    assert (found.verdict, found.failures.verdict) == ("undecided", "better")
    assert 6 < pairs[0] < 24
    assert running == []
    assert stops([difference], DESIGN) == ([24], [])


def test_failures_of_one_comparison_leave_the_shares_of_another():
    failed = failing(30, baseline=range(9))
    clean = np.random.default_rng(1).normal(0.004, 0.005, 30)

    first, second = judge_family([with_failures(failed), clean], [failed, failing(30)])

    assert (first.share, second.share) == (SHARES.seeds, 1)
    p = [first.p, first.failures.p, first.trained.p, second.p]
    assert [first.adjusted_p, second.adjusted_p] == pytest.approx(np.array(holm(p, [*SHARES, 1.0]))[[0, 3]])
