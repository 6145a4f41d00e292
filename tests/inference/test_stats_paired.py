import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.special import gamma
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import ttost_paired

from actbench.inference.stats import (
    Design,
    bootstrap,
    effect_size,
    equivalence,
    holm,
    judge_family,
    mean_interval,
    paired,
    pareto,
    sequential,
    sign_flip,
    smallest_p,
    superiority,
)
from actbench.inference.stats.paired import FLIPS

STABLE = settings(derandomize=True, deadline=None, max_examples=50)
COUNTS = arrays(int, st.integers(1, 12), elements=st.integers(-20, 20))  # of test images: many ties


def draw(pairs, law="normal"):
    rng = np.random.default_rng(pairs)
    if law == "accuracies":
        return (rng.binomial(270, 0.97, pairs) - rng.binomial(270, 0.96, pairs)) / 270
    return rng.normal(0.4, 1, pairs)


def scipys(difference, alternative="two-sided"):
    """P-value of all flips of signs."""
    return stats.permutation_test(
        (difference,),
        np.sum,
        permutation_type="samples",
        alternative=alternative,
        n_resamples=np.inf,
        batch=10_000,
        vectorized=True,
    ).pvalue


@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
@pytest.mark.parametrize("law", ["normal", "accuracies"])
@pytest.mark.parametrize("pairs", [2, 6, 11, 16])
def test_sign_flip_is_scipys_permutation_test(pairs, law, alternative):
    difference = draw(pairs, law)

    p = sign_flip(difference, alternative=alternative)

    assert p == pytest.approx(scipys(difference, alternative), rel=1e-12)


@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
@pytest.mark.parametrize("law", ["normal", "accuracies"])
@pytest.mark.parametrize("pairs", [17])
def test_sampled_flips_come_near_all_flips(pairs, law, alternative):
    difference = draw(pairs, law)

    p = sign_flip(difference, alternative=alternative)

    exact = scipys(difference, alternative)
    assert abs(p - exact) < 5 * np.sqrt(exact * (1 - exact) / FLIPS)


@pytest.mark.parametrize(
    ("difference", "two_sided", "greater"),
    [
        ((1, 2, 3, 4, 5), 2 / 32, 1 / 32),
        ((3, 2, 1, -1), 6 / 16, 3 / 16),  # 3 + 2 + 1 + 1 = 7, and 5 in two ways
        ((1, 2, -3), 1, 5 / 8),  # 6, 4, 2, and 0 in two ways
        ((-1, -1, -1), 2 / 8, 1),
        ((0, 0), 1, 1),
    ],
)
def test_sign_flip_by_hand(difference, two_sided, greater):
    difference = np.array(difference, dtype=float)

    p = sign_flip(difference), sign_flip(difference, alternative="greater")

    assert p == (two_sided, greater)


@pytest.mark.parametrize("pairs", [1, 5, 6, 16])
def test_the_smallest_p_is_that_of_differences_of_one_sign(pairs):
    assert smallest_p(pairs) == sign_flip(np.arange(1.0, pairs + 1))


def test_under_exchangeable_pairs_p_is_at_most_alpha_in_a_share_of_alpha_of_all_flips():
    sizes = np.array([0.1, 0.1, 0.2, 0.3, 0.5, 0.5, 0.7, 1.1])

    p = np.array([sign_flip(sizes * flip) for flip in itertools.product((-1.0, 1.0), repeat=len(sizes))])

    assert all(np.mean(p <= alpha) <= alpha for alpha in p)


@STABLE
@given(COUNTS, st.randoms(use_true_random=False), st.floats(0.01, 100))
def test_p_ignores_order_direction_and_scale(counts, shuffle, factor):
    order = list(range(len(counts)))
    shuffle.shuffle(order)

    p = sign_flip(counts / 270)

    assert p == sign_flip(counts[order] / 270)
    assert p == sign_flip(-counts / 270)
    assert p == sign_flip(factor * counts / 270)
    assert 0 < p <= 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(bad):
    difference = np.array([0.1, bad, 0.2])

    with pytest.raises(ValueError, match=f"finite, got {bad}"):
        sign_flip(difference)


def test_a_test_of_nothing_is_refused():
    with pytest.raises(ValueError, match="one pair"):
        sign_flip(np.array([]))
    with pytest.raises((TypeError, ValueError), match="alternative"):
        sign_flip(np.ones(3), alternative="less")
    with pytest.raises(ValueError, match="at least two pairs, got 1"):
        mean_interval(np.ones(1))


@pytest.mark.parametrize(
    "p",
    [(0.03,), (0.04, 0.01), (0.01, 0.04, 0.03, 0.005), (0.02, 0.02, 0.5, 1.0), tuple(0.002 * n for n in range(1, 13))],
)
def test_holm_is_statsmodels(p):
    adjusted = holm(p)

    assert adjusted == pytest.approx(list(multipletests(p, method="holm")[1]), rel=1e-12)


def test_holm_of_nothing_is_nothing():
    assert holm([]) == []


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("pairs", [2, 5, 30])
def test_mean_interval_is_scipys(pairs, level):
    difference = draw(pairs)

    interval = mean_interval(difference, level=level)

    reference = stats.ttest_1samp(difference, 0).confidence_interval(level)
    assert interval == pytest.approx((difference.mean(), reference.low, reference.high), rel=1e-12)


def test_equivalence_by_hand():
    difference = np.array([0.0, 0.003, 0.006])

    p = equivalence(difference, margin=0.004)

    # Above -0.004: all are, 1 / 8. Below 0.004: 4 + 1 - 2 = 3, which 7, 5 and 3 reach of all sums of 4, 1 and 2.
    assert p == 3 / 8


@pytest.mark.parametrize("truth", [0, 0.3, -0.5])
def test_equivalence_comes_near_two_one_sided_t_tests(truth):
    rng = np.random.default_rng(3)
    difference = rng.normal(truth, 1, 50)

    p = equivalence(difference, margin=0.5)

    assert p == pytest.approx(ttost_paired(difference, np.zeros(50), -0.5, 0.5)[0], abs=0.005)


@pytest.mark.parametrize(("wins", "ties", "pairs"), [(0, 0, 5), (5, 0, 5), (7, 0, 10), (12, 5, 30), (0, 4, 4)])
def test_superiority_is_statsmodels_wilson_interval(wins, ties, pairs):
    difference = np.array([0.1] * wins + [0.0] * ties + [-0.1] * (pairs - wins - ties))

    interval = superiority(difference, level=0.9)

    reference = proportion_confint(wins + ties / 2, pairs, alpha=0.1, method="wilson")
    assert interval == pytest.approx(((wins + ties / 2) / pairs, *reference), abs=1e-12)


def test_effect_size_by_hand():
    difference = np.array([1.0, 2.0, 3.0, 4.0])

    effect = effect_size(difference)

    assert effect == pytest.approx(2.5 / np.sqrt(5 / 3) * 8 / 11)


@pytest.mark.parametrize("pairs", [3, 6, 30])
def test_the_correction_for_small_samples_is_about_the_exact_one(pairs):
    difference = draw(pairs)

    correction = effect_size(difference) / (difference.mean() / difference.std(ddof=1))

    df = pairs - 1
    assert correction == pytest.approx(gamma(df / 2) / np.sqrt(df / 2) / gamma((df - 1) / 2), rel=0.02)


@pytest.mark.parametrize("difference", [np.full(3, 0.1), np.full(7, 0.3 - 0.2), np.zeros(4), np.ones(1), np.ones(0)])
def test_without_spread_there_is_no_effect_size(difference):
    assert np.isnan(effect_size(difference))


def test_middles_and_ranks_by_hand():
    first = np.array([[0.0, 1, 2, 3, 4, 5, 6, 7], [8.0] * 8])
    second = np.array([[0.0, 1, 2, 3, 4, 5, 6, 7], [3.5] * 8])

    middles, ranks = bootstrap([first, second], resamples=50)

    # Of 0, 0, 1, 1, ..., 7, 7 the middle half is 2, 2, ..., 5, 5; of 3.5 and 8, eight each, it is four of each.
    assert [middle.estimate for middle in middles] == [3.5, 5.75]
    assert [rank.estimate for rank in ranks] == [1.75, 1.25]  # second, and equal: (2 + 1.5) / 2
    assert (middles[1].low, middles[1].high) == (5.75, 5.75)  # seeds all alike
    assert middles[0].low < 3.5 < middles[0].high


def test_means_that_differ_by_rounding_share_their_rank():
    scores = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]])

    _, ranks = bootstrap([scores], resamples=1)

    assert scores.mean(axis=1)[0] != scores.mean(axis=1)[1]
    assert [rank.estimate for rank in ranks] == [1.5, 1.5]


def test_bootstrap_draws_the_same_seeds_for_all_arms():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=10)

    _, ranks = bootstrap([np.stack([scores + 0.001, scores])], resamples=200)

    assert ranks == [(1, 1, 1), (2, 2, 2)]  # of seeds drawn apart, the second arm would win at times


def test_bootstrap_covers_the_mean_of_many_seeds():
    rng = np.random.default_rng(1)

    intervals = [bootstrap([rng.normal(size=(1, 40))], resamples=200)[0][0] for _ in range(200)]

    hits = sum(interval.low <= 0 <= interval.high for interval in intervals)
    assert 0.88 <= hits / 200 <= 0.98


def test_pareto_by_hand():
    accuracy, time_s = [0.9, 0.8, 0.9, 0.7, 0.9], [2.0, 1.0, 3.0, 1.0, 2.0]

    best = pareto(accuracy, time_s)

    assert best.tolist() == [True, True, False, False, True]  # of two that are the same, both


def test_numpys_global_random_state_is_neither_used_nor_changed(monkeypatch):
    monkeypatch.setattr(paired, "FLIPS", 1_001)  # as no other test has it, so that nothing comes from a cache
    monkeypatch.setattr(sequential, "HISTORIES", 1_002)
    rng = np.random.default_rng(2)
    before = repr(np.random.get_state())  # noqa: NPY002 - it is what is tested

    judge_family([rng.normal(size=23)])
    judge_family([rng.normal(size=23)], design=Design(5, 23, 6))
    bootstrap([rng.normal(size=(2, 5))], resamples=10)

    assert repr(np.random.get_state()) == before  # noqa: NPY002


def test_statistics_and_records_import_neither_torch_nor_lightning():
    code = (
        "import sys, actbench.inference.stats, actbench.records; print(*{name.split('.')[0] for name in sys.modules})"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    modules = set(result.stdout.split())
    assert {"numpy", "polars"} <= modules
    assert not modules & {"torch", "torchvision", "torchmetrics", "pytorch_lightning", "lightning", "jsonargparse"}
