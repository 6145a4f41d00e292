"""Times to a target against statsmodels, and what they promise."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.duration.survfunc import SurvfuncRight

from actbench.inference.stats import time_to_reach


@pytest.mark.parametrize("seed", range(20))
def test_median_and_interval_are_those_of_statsmodels(seed):
    rng = np.random.default_rng(seed)
    event, end = np.round(rng.exponential(10, 40), seed % 3), rng.uniform(5, 30, 40)
    time, reached = np.minimum(event, end) + 1, event <= end

    found = time_to_reach(time, reached, level=0.9)

    reference = SurvfuncRight(time, reached)
    with np.errstate(all="ignore"):  # of logarithms of 0
        bounds = reference.quantile_ci(0.5, alpha=0.1)
    assert (found.seeds, found.reached) == (40, reached.sum())
    # Its own median asks for a share below one half, which the estimate may hit exactly.
    assert found.median.estimate == reference.surv_times[reference.surv_prob <= 0.5 + 1e-12][0]
    assert found.median[1:] == pytest.approx(bounds)


def test_seeds_that_never_reach_the_target_count():
    time = np.array([1.0, 2.0, 3.0, np.inf, np.inf, np.inf, np.inf])

    found = time_to_reach(time, np.isfinite(time))

    assert found.reached == 3
    assert found.median.estimate == np.inf


def test_half_of_the_seeds_are_enough_for_a_median():
    time = np.array([1.0, 2.0, 3.0, 9.0, 9.0, 9.0])

    assert time_to_reach(time, time < 9).median.estimate == 3


def test_no_seed_reaches_the_target():
    found = time_to_reach(np.array([5.0, 5.0]), np.array([False, False]))

    assert (found.seeds, found.reached, found.median.estimate) == (2, 0, np.inf)
    assert np.isnan(found.median.low)


def test_all_seeds_reach_the_target_at_once():
    found = time_to_reach(np.array([2.0, 2.0, 2.0]), np.array([True] * 3))

    assert found.median.estimate == 2
    assert np.isnan(found.median.low)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng, studies, truth = np.random.default_rng(0), 1000, 10 * np.log(2)
    hits = 0
    for _ in range(studies):
        event = rng.exponential(10, 30)
        interval = time_to_reach(np.minimum(event, 20), event <= 20).median
        hits += interval.low <= truth <= interval.high

    low, high = stats.binomtest(hits, studies).proportion_ci(0.999)
    assert low <= 0.97
    assert high >= 0.92
