import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from actbench.inference.stats import detectable, noise_of_test_set, pairs_for_margin, pairs_needed, power

REFERENCE = TTestPower()


@pytest.mark.parametrize("alpha", [0.05, 0.005])
@pytest.mark.parametrize("pairs", [2, 6, 20, 40])
@pytest.mark.parametrize("effect", [0.0, 0.1, 0.5, 1.1])
def test_power_is_statsmodels(effect, pairs, alpha):
    value = power(effect, pairs, alpha=alpha)

    assert value == pytest.approx(REFERENCE.power(effect, pairs, alpha), abs=1e-6)
    assert power(-effect, pairs, alpha=alpha) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize(("effect", "pairs"), [(5.0, 60), (50.0, 60), (-50.0, 60), (1e6, 2), (-1e6, 2)])
def test_power_far_out_is_one(effect, pairs):
    assert power(effect, pairs) == pytest.approx(1)


def test_one_pair_has_no_power():
    assert power(10.0, 1) == 0
    assert detectable(1) == math.inf


@pytest.mark.parametrize("goal", [0.8, 0.95])
@pytest.mark.parametrize("alpha", [0.05, 0.005])
@pytest.mark.parametrize("effect", [-0.05, 0.2, 0.5, 1.5])
def test_pairs_needed_are_statsmodels_rounded_up(effect, alpha, goal):
    pairs = pairs_needed(effect, alpha=alpha, goal=goal)

    assert pairs == math.ceil(REFERENCE.solve_power(abs(effect), None, alpha, goal))


@pytest.mark.parametrize("effect", [0.0, float("nan"), float("inf"), 1e-6])
def test_no_number_of_pairs_is_enough_for_nothing(effect):
    assert pairs_needed(effect) is None


@pytest.mark.parametrize("alpha", [0.05, 0.005])
@pytest.mark.parametrize("pairs", [6, 30, 200])
def test_detectable_effect_is_statsmodels(pairs, alpha):
    effect = detectable(pairs, alpha=alpha)

    assert effect == pytest.approx(REFERENCE.solve_power(None, pairs, alpha, 0.8), rel=1e-3)


@pytest.mark.parametrize(("spread", "margin"), [(1.0, 0.5), (0.007, 0.005)])
def test_pairs_for_the_margin_find_equal_arms_equivalent(spread, margin):
    rng = np.random.default_rng(0)

    pairs = pairs_for_margin(spread, margin)

    drawn = rng.normal(0, spread, (4_000, pairs))
    half = stats.t.ppf(0.95, pairs - 1) * drawn.std(axis=1, ddof=1) / np.sqrt(pairs)
    found = np.mean(np.abs(drawn.mean(axis=1)) + half < margin)  # two one-sided tests are an interval inside
    assert found == pytest.approx(0.8, abs=0.03)


def test_two_pairs_are_enough_without_spread():
    assert pairs_for_margin(0.0, 0.005) == 2


def test_noise_of_a_test_set_is_that_of_two_binomial_accuracies():
    rng = np.random.default_rng(0)
    drawn = rng.binomial(270, 0.967, (2, 100_000)) / 270

    noise = noise_of_test_set(0.967, 270)

    assert noise == pytest.approx(np.std(drawn[0] - drawn[1]), rel=0.01)
    assert noise_of_test_set(0.9, 90) == pytest.approx(math.sqrt(0.002))
