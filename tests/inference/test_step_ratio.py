"""Ratios of step times against SciPy, and the file that holds them."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from actbench.inference.verdict import Comparison
from actbench.inference.verdict.timing import DRIFT, StepTiming, Timings, compare_timings, step_ratio
from actbench.records import RecordError

SWISH = StepTiming(
    dataset="Digits",
    network="MLP",
    arm="swish",
    baseline="relu",
    cell="s",
    baseline_cell="r",
    log_ratios=[0.10, 0.12, 0.11, 0.09, 0.13],
    step_s=0.0224,
    baseline_step_s=0.02,
    epoch_steps=20.0,
    baseline_epoch_steps=20.0,
    replicates=10,
    device="a processor",
    clock="processor time",
    threads=1,
    engine="stack",
    torch_version="2.11.0",
    measured="2026-01-02T03:04:05+00:00",
)
MISH = replace(SWISH, arm="mish", cell="m", log_ratios=[0.20, 0.26, 0.22, 0.24, 0.21, 0.25])
CELLS = {"relu": "r", "swish": "s", "mish": "m"}


def comparison(arm, baseline="relu"):
    return Comparison("Digits", "MLP", arm, baseline)


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_is_students_widened_by_the_drift(seed):
    logs = np.random.default_rng(seed).normal(0.05, 0.04, 12)

    ratio = step_ratio(logs)

    low, high = stats.ttest_1samp(logs, 0).confidence_interval(0.9)
    assert ratio.interval(0.1) == pytest.approx(np.exp([logs.mean(), low - DRIFT, high + DRIFT]))
    assert ratio.half_width(0.1) == pytest.approx((high - low) / 2 + DRIFT)


@pytest.mark.parametrize("mean", [0.05, -0.05])
def test_p_is_students_against_the_nearer_end_of_the_drift(mean):
    logs = np.random.default_rng(0).normal(mean, 0.04, 12)

    assert step_ratio(logs).p == pytest.approx(stats.ttest_1samp(logs, np.sign(mean) * DRIFT).pvalue)


@pytest.mark.parametrize("seed", range(20))
def test_p_and_interval_agree(seed):
    ratio = step_ratio(np.random.default_rng(seed).normal(0.03, 0.04, 9))

    interval = ratio.interval(0.05)

    assert (ratio.p <= 0.05) == (interval.low > 1 or interval.high < 1)


def test_a_difference_as_small_as_the_drift_is_no_evidence():
    assert step_ratio(np.array([0.019, 0.0191, 0.0189, 0.019])).p == 1
    assert step_ratio(np.array([0.03, 0.0301, 0.0299, 0.03])).p < 1e-4


def test_rounds_without_spread_are_no_error():
    same, other = step_ratio(np.zeros(4)), step_ratio(np.full(4, 0.5))

    assert (same.p, other.p) == (1, 0)
    assert same.interval(0.05) == pytest.approx((1, 1 / 1.02, 1.02))


def test_one_round_has_no_interval():
    assert step_ratio(np.array([0.1])) is None
    assert compare_timings(replace(SWISH, log_ratios=[0.1]), None, alpha=0.05) is None


def test_two_arms_beside_the_same_baseline_are_compared_by_welch():
    logs = np.array(MISH.log_ratios), np.array(SWISH.log_ratios)

    found = Timings([SWISH, MISH]).between(comparison("mish", "swish"), CELLS, "relu", alpha=0.05)

    low, high = stats.ttest_ind(*logs, equal_var=False).confidence_interval(0.95)
    expected = [logs[0].mean() - logs[1].mean(), low - 2 * DRIFT, high + 2 * DRIFT]
    assert found.ratio == pytest.approx(np.exp(expected))
    assert found.rounds == 5
    reverse = Timings([SWISH, MISH]).between(comparison("swish", "mish"), CELLS, "relu", alpha=0.05)
    assert reverse.ratio.estimate == pytest.approx(1 / found.ratio.estimate)


def test_an_epoch_has_its_own_number_of_steps():
    found = compare_timings(replace(SWISH, epoch_steps=10.0), None, alpha=0.05)

    assert found.epoch_ratio == pytest.approx([value / 2 for value in found.ratio])
    assert found.baseline_epoch_s == pytest.approx(0.02 * 20 / 10)
    assert found.epoch_s == pytest.approx(math.exp(0.11) * 0.02 * 10 / 10)


def test_epochs_of_twins_take_the_same_time():
    found = compare_timings(replace(SWISH, log_ratios=[0.01, -0.012, 0.013, -0.009]), None, alpha=0.05)

    assert not found.seen
    assert found.epoch_ratio.estimate == 1
    assert found.epoch_ratio[1:] == found.ratio[1:]


def test_an_unknown_number_of_steps_gives_no_time_of_an_epoch():
    found = compare_timings(replace(SWISH, epoch_steps=None, baseline_epoch_steps=None), None, alpha=0.05)

    assert (found.epoch_ratio, found.epoch_s, found.baseline_epoch_s) == (None, None, None)


@pytest.mark.parametrize(
    "change", [{"device": "another"}, {"threads": 2}, {"engine": "sequence"}, {"torch_version": "2.12.0"}]
)
def test_arms_that_were_timed_under_different_conditions_are_not_compared(change):
    timings = Timings([SWISH, replace(MISH, **change)])

    assert timings.between(comparison("mish", "swish"), CELLS, "relu", alpha=0.05) is None
    assert timings.between(comparison("mish"), CELLS, "relu", alpha=0.05) is not None


@pytest.mark.parametrize("cells", [{**CELLS, "swish": "new"}, {**CELLS, "relu": "new"}, {}])
def test_times_of_other_cells_do_not_count(cells):
    assert Timings([SWISH]).between(comparison("swish"), cells, "relu", alpha=0.05) is None


def test_a_file_of_timings_is_read_as_it_was_written(tmp_path):
    timings = Timings([SWISH, replace(MISH, epoch_steps=None)], {"s": 4.0, "m": None}, 0.95)

    timings.write(tmp_path)

    assert Timings.read(tmp_path) == timings


def test_a_folder_without_timings_has_none(tmp_path):
    assert Timings.read(tmp_path) == Timings()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: [],
        lambda content: {},
        lambda content: content | {"format": 2},
        lambda content: content | {"target": 2},
        lambda content: content | {"more": 1},
        lambda content: content | {"saved_bytes": {"s": -1}},
        lambda content: content | {"timings": [content["timings"][0] | {"log_ratios": [1e9]}]},
        lambda content: content | {"timings": [content["timings"][0] | {"log_ratios": [math.nan]}]},
        lambda content: content | {"timings": [content["timings"][0] | {"threads": "1"}]},
        lambda content: content | {"timings": [content["timings"][0] | {"step_s": 0}]},
        lambda content: content | {"timings": [{"arm": "swish"}]},
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path, damage):
    Timings([SWISH]).write(tmp_path)
    path = tmp_path / "timing.json"
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))

    with pytest.raises(RecordError) as refused:
        Timings.read(tmp_path)

    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "{", "\x00", "[" * 10_000])
def test_what_is_not_json_is_refused(tmp_path, text):
    (tmp_path / "timing.json").write_text(text)

    with pytest.raises(RecordError, match="compare"):
        Timings.read(tmp_path)


def test_an_interval_that_says_nothing_has_bounds_that_can_be_divided_by():
    ratio = step_ratio(np.array([-50.0, 50.0])).interval(1e-9)

    assert 0 < ratio.low < ratio.estimate == 1 < ratio.high < np.inf
