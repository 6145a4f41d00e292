"""Training steps of arms beside the baseline's: rounds that were made up, and studies that are timed at their end."""

import json
import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from small_studies import Lines, study
from torch import nn

from actbench.data import FakeImages
from actbench.inference.verdict.price import find_price, weigh
from actbench.inference.verdict.timing import Timings, compare_timings, step_ratio
from actbench.studies import compare, timing
from actbench.studies.timing import MOST_ROUNDS, time_rounds


class Machine:
    """Gives two fits the times of their turns: a step's own time, by noise and by what slows the machine meanwhile."""

    def __init__(self, seed, *, noise=0.0, slowing=0.0):
        self.rng, self.noise, self.slowing, self.turns = np.random.default_rng(seed), noise, slowing, 0

    def fit(self, step_s):
        machine = self

        class Fit:
            def turn(self, steps):
                machine.turns += 1
                slower = 1 + machine.slowing * machine.turns
                return step_s * slower * math.exp(machine.rng.normal(0, machine.noise))

        return Fit()


def ratio_of(arm_s, baseline_s, machine, *, seconds=60.0):
    return step_ratio(time_rounds(machine.fit(arm_s), machine.fit(baseline_s), seconds, alpha=0.05).log_ratios)


def test_a_machine_that_slows_down_affects_both_arms_alike():
    found = ratio_of(0.01, 0.01, Machine(0, slowing=0.01))

    assert found.rounds == 6
    assert abs(found.mean) < 0.001  # the machine slows down by 1 % in each turn


def test_each_fit_follows_upon_itself_as_often_as_the_other():
    order = []

    class Fit:
        def __init__(self, name):
            self.name = name

        def turn(self, steps):
            order.append(self.name)
            return 0.01 * (0.9 if order[-2:] == [self.name] * 2 else 1)  # faster with warm caches

    rounds = time_rounds(Fit("arm"), Fit("baseline"), 60, alpha=0.05)

    assert rounds.log_ratios[1:] == pytest.approx(0)


def test_rounds_end_when_the_ratio_is_known():
    exact, noisy = (ratio_of(0.011, 0.01, Machine(1, noise=noise)) for noise in (0.001, 0.1))

    assert exact.rounds == 6
    assert 6 < noisy.rounds < MOST_ROUNDS
    assert noisy.half_width(0.05) <= math.log(1.03)


def test_rounds_end_when_the_time_is_over():
    machine = Machine(1, noise=0.1)

    rounds = time_rounds(machine.fit(0.011), machine.fit(0.01), 0, alpha=0.05)

    assert len(rounds.times_s) == 1


def test_twins_seldom_differ_and_others_do():
    twins = [ratio_of(0.01, 0.01, Machine(seed, noise=0.05)).p <= 0.05 for seed in range(300)]
    others = [ratio_of(0.0108, 0.01, Machine(seed, noise=0.05)) for seed in range(100)]

    assert stats.binomtest(sum(twins), len(twins), 0.05, alternative="greater").pvalue > 1e-3
    assert np.mean([found.p <= 0.05 and found.mean > 0 for found in others]) > 0.9


def test_intervals_cover_the_truth_though_rounds_end_when_they_are_narrow():
    intervals = [ratio_of(0.0105, 0.01, Machine(seed, noise=0.05)).interval(0.05) for seed in range(300)]

    hits = sum(interval.low <= 1.05 <= interval.high for interval in intervals)
    assert hits / len(intervals) > 0.94


class BusyMachine(Machine):
    """Others use it in every second round, in which the baseline takes five times as long."""

    def share(self):
        return 0.5 * self.is_busy

    @property
    def is_busy(self):
        return bool((self.turns - 3) // 8 % 2)  # after two turns without a round

    def fit(self, step_s):
        fit, machine = super().fit(step_s), self
        turn = fit.turn
        fit.turn = lambda steps: turn(steps) * (5 if machine.is_busy and step_s == 0.01 else 1)
        return fit


@pytest.mark.parametrize("watched", [True, False])
def test_rounds_in_which_others_use_the_machine_do_not_count(monkeypatch, watched):
    machine = BusyMachine(0, noise=0.001)
    monkeypatch.setattr(timing, "OtherProcesses", lambda: machine)
    monkeypatch.setattr(timing, "MOST_ROUNDS", 40)

    rounds = time_rounds(machine.fit(0.01 + 1e-9), machine.fit(0.01), 60, alpha=0.05, watched=watched)

    if watched:
        assert (len(rounds.log_ratios), int(rounds.busy.sum())) == (6, 5)
        assert rounds.log_ratios == pytest.approx(0, abs=0.005)
        assert rounds.median_s() == pytest.approx([0.01, 0.01], rel=0.005)
    else:
        assert len(rounds.log_ratios) == 40
        assert step_ratio(rounds.log_ratios).mean < -0.5


# --- studies ---


@pytest.fixture(autouse=True)
def _short_warm_up(early_replay, monkeypatch):
    """Fits that are timed record their steps early, too, and are timed from then on."""
    monkeypatch.setattr(timing, "WARM_UP", 10)


class Twin(nn.ReLU):
    """The baseline under another name."""


class Slow(nn.Module):
    """ReLU with work that changes nothing."""

    def forward(self, x):
        wasted = x
        for _ in range(30):
            wasted = torch.exp(-wasted.abs())
        return torch.relu(x) + 0 * wasted


class Narrow(nn.ReLU):
    """Refuses images where a gradient is wanted."""

    def forward(self, x):
        if x.ndim > 2 and torch.is_grad_enabled():
            raise ValueError("rows only")
        return super().forward(x)


def timed_study(root, *activations, timing_s=0.1, **settings):
    return study(root, activations=["relu", *activations], timing_s=timing_s, **settings)


def times(root):
    return Timings.read(root / "s")


def run_study(config):
    lines = Lines()
    results = compare(config, progress=lines)
    return results, [line for line in lines.said if "timed beside" in line]


@pytest.mark.slow
def test_a_twin_is_equivalent_without_a_difference_in_time(tmp_path):
    config = timed_study(tmp_path, "test_timing.Twin", timing_s=3, replicates=12, alpha=0.001)

    results, (said,) = run_study(config)

    (finding,) = results.conclusion.findings
    price = find_price(results.table, finding.comparison, range(12), results.question, times(tmp_path))
    assert said.startswith("FakeImages/MLP/Twin, timed beside relu: no difference in time was seen (ratio ")
    assert finding.judgement.verdict == "equivalent"
    assert weigh(finding.judgement, price.timing) == "no difference in time was seen"
    assert (price.equal_time.judgement.verdict, price.target.decided) == ("equivalent", 0)


def test_a_slow_activation_takes_more_time(tmp_path):
    _, (said,) = run_study(timed_study(tmp_path, "test_timing.Slow", timing_s=3))

    (row,) = times(tmp_path).timings
    assert compare_timings(row, None, alpha=0.05).ratio.low > 1.2
    assert "more time" in said or "times the time" in said


def test_timings_tell_what_was_timed(tmp_path):
    results, _ = run_study(timed_study(tmp_path, "swish"))

    (row,) = times(tmp_path).timings
    table = results.table
    assert (row.dataset, row.network, row.arm, row.baseline) == ("FakeImages", "MLP", "swish", "relu")
    assert [row.cell, row.baseline_cell] == [table.filter(arm=arm)["cell"][0] for arm in ("swish", "relu")]
    assert (row.replicates, row.engine, row.threads) == (3, table["engine"][0], table["threads"][0])
    assert row.device == table["device"][0]
    assert row.clock == "processor time"
    data = FakeImages(rows=300)
    data.setup()
    assert row.epoch_steps == row.baseline_epoch_steps == math.ceil(data.parts["train"].rows.shape[1] / data.batch_size)
    assert times(tmp_path).saved_bytes == {row.cell: 4.0, row.baseline_cell: 0.0}


def test_a_finished_study_is_not_timed_again_until_an_arm_changes(tmp_path):
    run_study(timed_study(tmp_path, "swish"))
    first = times(tmp_path)

    _, said = run_study(timed_study(tmp_path, "swish"))
    assert times(tmp_path) == first
    assert said == []

    _, said = run_study(timed_study(tmp_path, "swish", "tanh"))
    assert times(tmp_path).timings[:1] == first.timings
    assert [line.split(",")[0] for line in said] == ["FakeImages/MLP/tanh"]

    run_study(timed_study(tmp_path, "tanh", timing_s=0))
    assert [row.arm for row in times(tmp_path).timings] == ["tanh"]


def test_a_machine_that_others_use_says_nothing_of_time_and_is_tried_again(tmp_path, monkeypatch):
    busy = SimpleNamespace(share=lambda: 0.9)
    monkeypatch.setattr(timing, "fitting_clock", lambda device, threads: timing.WALL)
    monkeypatch.setattr(timing, "OtherProcesses", lambda: busy)
    config = timed_study(tmp_path, "swish")

    results, (line,) = run_study(config)

    assert "nothing is said of time, because other programs used the machine in" in line
    assert results.conclusion.findings[0].price.timing is None
    busy.share = lambda: 0.0
    _, (line,) = run_study(config)
    assert "other programs" not in line
    assert times(tmp_path).timings[0].log_ratios
    assert run_study(config)[1] == []


def test_a_budget_of_0_times_nothing_but_counts_bytes(tmp_path):
    _, said = run_study(timed_study(tmp_path, "swish", timing_s=0, target=0.5))

    assert said == []
    assert times(tmp_path).timings == []
    assert sorted(times(tmp_path).saved_bytes.values()) == [0, 4]
    assert times(tmp_path).target == 0.5


def test_an_activation_that_cannot_be_counted_has_no_bytes(tmp_path):
    run_study(timed_study(tmp_path, "test_timing.Narrow", timing_s=0))

    assert set(times(tmp_path).saved_bytes.values()) == {0.0, None}


@pytest.mark.parametrize(
    "trainer",
    [
        {"accumulate_grad_batches": 2, "max_steps": 3},
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in ({"precision": "64-true"}, {"limit_train_batches": 1})
        ),
    ],
)
def test_fits_of_every_kind_are_timed(tmp_path, trainer):
    config = timed_study(tmp_path, "swish")
    config["trainer"] |= trainer

    run_study(config)

    (row,) = times(tmp_path).timings
    assert row.log_ratios


@pytest.mark.parametrize("engine", [pytest.param("stack", marks=pytest.mark.slow), "sequence"])
def test_steps_are_those_of_the_engine_that_trained(tmp_path, engine):
    config = timed_study(tmp_path, "swish")
    config["model"]["engine"] = engine

    run_study(config)

    (row,) = times(tmp_path).timings
    assert (row.engine, row.replicates) == (engine, {"stack": 3, "sequence": 1}[engine])


def test_a_study_that_cannot_be_timed_keeps_its_records(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no memory left")

    monkeypatch.setattr(timing, "time_rounds", fail)

    results, _ = run_study(timed_study(tmp_path, "swish"))

    assert len(results.table) == 6
    assert any("no memory left" in trouble for trouble in results.troubles)
    assert times(tmp_path).timings == []


def test_an_error_of_a_fit_ends_its_thread_and_the_timing(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "choose_threads", lambda *args: 1 / 0)
    before = time.monotonic()

    results, _ = run_study(timed_study(tmp_path, "swish"))

    assert any("division by zero" in trouble for trouble in results.troubles)
    assert time.monotonic() - before < 60


def test_timing_leaves_the_process_as_it_was(tmp_path):
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()

    run_study(timed_study(tmp_path, "rrelu"))

    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert torch.are_deterministic_algorithms_enabled() == deterministic


def test_a_damaged_file_of_timings_stops_a_study_with_advice(tmp_path):
    run_study(timed_study(tmp_path, "swish", timing_s=0))
    path = tmp_path / "s" / "timing.json"
    path.write_text(json.dumps({"format": 1}))

    with pytest.raises(ValueError, match="remove it"):
        compare(timed_study(tmp_path, "swish", timing_s=0), progress=Lines())
