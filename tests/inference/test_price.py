"""What an arm costs, from records and timings, and its words."""

import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from made_records import question, rows

from actbench.inference.stats import Interval, judge_family
from actbench.inference.verdict import Comparison
from actbench.inference.verdict.price import find_price, weigh
from actbench.inference.verdict.price_words import NO_DIFFERENCE, price_sentences, time_words
from actbench.inference.verdict.timing import PairTiming, StepTiming, Timings
from actbench.records import fingerprint

SEEDS = range(8)
TWINS = [0.002, -0.001, 0.001, -0.002, 0.0, 0.001]
SLOWER = [0.69, 0.70, 0.68, 0.69, 0.70, 0.69]  # about ln 2
CELLS = {arm: fingerprint(["Digits", "MLP", arm]) for arm in ("relu", "swish")}


def table(**curves):
    """Records with these accuracies on val, to which each seed adds a little."""
    return pl.concat(
        rows(
            arm,
            [curve[-1] + 0.001 * seed],
            first_seed=seed,
            epoch_val_accuracy=[value + 0.001 * seed for value in curve],
            epoch_val_loss=[1.0] * len(curve),
            epochs=len(curve),
            weights="last",
        )
        for arm, curve in curves.items()
        for seed in SEEDS
    )


def timed(logs, **changes):
    row = StepTiming(
        **{"dataset": "Digits", "network": "MLP", "arm": "swish", "baseline": "relu"},
        **{"cell": CELLS["swish"], "baseline_cell": CELLS["relu"], "log_ratios": logs},
        **{"step_s": 0.04, "baseline_step_s": 0.02, "epoch_steps": 10.0, "baseline_epoch_steps": 10.0},
        **{"replicates": 8, "device": "a processor", "clock": "processor time", "threads": 1, "engine": "stack"},
        **{"torch_version": "2.11.0", "measured": "2026-01-02T03:04:05+00:00"},
    )
    return Timings([row], {CELLS["swish"]: 4.0, CELLS["relu"]: 0.0}, **changes)


def price_of(records, timings, **settings):
    asked = question(**settings)
    (comparison,) = (each for each in asked.family if each.dataset)
    price = find_price(records, comparison, SEEDS, asked, timings)
    return price, list(price_sentences(price, comparison, asked))


def pair_timing(ratio, p):
    conditions = {"replicates": 8, "device": "a processor", "clock": "processor time", "threads": 1, "engine": "stack"}
    interval = Interval(ratio, ratio - 0.01, ratio + 0.01)
    return PairTiming(interval, p, p < 0.05, 9, None, None, None, **conditions)


CURVE = [0.5, 0.7, 0.8, 0.85]


def test_a_twin_shows_no_difference_in_anything():
    price, sentences = price_of(table(relu=CURVE, swish=CURVE), timed(TWINS))

    assert not price.timing.seen
    assert price.equal_time.judgement.verdict == "equivalent"
    assert price.equal_time.holds
    assert price.target.decided == 0
    assert "no difference in time was seen" in sentences[0]
    assert sentences[1] == (
        "As no difference in time was seen between swish and relu, equal epochs stand for equal time."
    )
    assert not re.search("dominat|faster|slower|more time|less time", " ".join(sentences))


def test_an_arm_that_is_better_after_equal_epochs_may_be_worse_after_equal_time():
    price, sentences = price_of(table(relu=[0.4, 0.6, 0.7, 0.76], swish=CURVE), timed(SLOWER))

    assert price.equal_time.equal_epochs.verdict == "better"
    assert price.equal_time.judgement.verdict == "worse"
    assert sentences[0].startswith(
        "swish beside relu: a training step takes 99.7 % more time (ratio 1.997, interval 1.94"
    )
    assert sentences[1].startswith(
        "At equal time, which is swish after 2 epochs and relu after 4, swish is worse than relu: "
        "-6.0 points of val accuracy"
    )
    assert "not corrected" in sentences[1]


def test_the_target_is_the_baselines_own_median_at_its_end():
    price, _ = price_of(table(relu=[0.4, 0.6, 0.7, 0.76], swish=CURVE), timed(SLOWER))

    assert price.target.target == pytest.approx(0.7635)


def test_a_study_may_set_the_target():
    price, sentences = price_of(table(relu=[0.4, 0.6, 0.7, 0.76], swish=CURVE), timed(SLOWER, target=0.84))

    assert price.target.target == 0.84
    assert price.target.epochs["relu"].reached == 0
    # 0.8 + 0.001 s to 0.85 + 0.001 s in an epoch; seed s crosses after 3.8 - 0.02 s, and half of them by 3.72.
    assert sentences[2] == (
        "84.0 % on val is reached by 8 of 8 seeds of swish, with a median of 3.72 epochs (0.186 s a replicate); "
        "by 0 of 8 seeds of relu, so there is no median time. In no pair is it known which was sooner."
    )


def test_bytes_stand_beside_one_another():
    _, sentences = price_of(table(relu=CURVE, swish=CURVE), timed(TWINS))

    assert sentences[-1] == (
        "swish keeps 4 bytes for the backward pass for each element of its input, and relu 0 bytes."
    )


def test_without_timing_epochs_to_the_target_are_compared():
    price, sentences = price_of(table(relu=[0.4, 0.6, 0.7, 0.76], swish=CURVE), Timings())

    assert (price.timing, price.equal_time) == (None, None)
    assert (price.target.sooner, price.target.decided) == (8, 8)
    assert len(sentences) == 1
    assert "s a replicate" not in sentences[0]


def test_a_timing_of_one_round_says_why_nothing_is_said_of_time():
    price, sentences = price_of(table(relu=CURVE, swish=CURVE), timed([0.5]))

    assert price.timing is None
    assert sentences[0] == "swish beside relu: nothing is said of time, because study.timing_s ended after 1 round."


@pytest.mark.parametrize("logs", [[], [0.5]])
def test_a_busy_machine_is_the_reason_why_nothing_is_said_of_time(logs):
    (row,) = timed(logs).timings
    busy = Timings([replace(row, busy_rounds=2)], {})

    price, sentences = price_of(table(relu=CURVE, swish=CURVE), busy)

    assert (price.timing, price.silent.busy_rounds) == (None, 2)
    rounds = 2 + len(logs)
    assert sentences[0] == (
        f"swish beside relu: nothing is said of time, because other programs used the machine in 2 of {rounds} rounds."
    )


def test_without_validation_only_the_time_is_known():
    records = table(relu=CURVE, swish=CURVE).with_columns(epoch_val_accuracy=pl.lit([], pl.List(pl.Float64)))

    price, sentences = price_of(records, timed(SLOWER))

    assert (price.equal_time, price.target) == (None, None)
    assert len(sentences) == 2


def test_no_pair_is_no_error():
    asked = question()

    price = find_price(table(relu=CURVE, swish=CURVE), asked.family[0], [], asked, timed(SLOWER))

    assert (price.equal_time, price.target) == (None, None)


def test_a_mean_over_datasets_has_no_price():
    asked = question(datasets=("Digits", "Other"))
    over_all = Comparison(None, "MLP", "swish", "relu")

    assert find_price(table(relu=CURVE, swish=CURVE), over_all, SEEDS, asked, timed(SLOWER)) is None


@pytest.mark.parametrize(
    ("verdict", "ratio", "p", "expected"),
    [
        ("better", 0.9, 0.001, "dominates"),
        ("equivalent", 0.9, 0.001, "dominates"),
        ("worse", 0.9, 0.001, "trade-off"),
        ("better", 1.1, 0.001, "trade-off"),
        ("equivalent", 1.1, 0.001, "dominated"),
        ("worse", 1.1, 0.001, "dominated"),
        ("undecided", 0.9, 0.001, "undecided"),
        *((verdict, 0.5, 0.2, NO_DIFFERENCE) for verdict in ("better", "equivalent", "worse", "undecided")),
    ],
)
def test_an_arm_dominates_only_with_evidence_of_its_time(verdict, ratio, p, expected):
    (judgement,) = judge_family([np.zeros(8)])

    assert weigh(judgement._replace(verdict=verdict), pair_timing(ratio, p)) == expected


def test_accuracy_is_not_weighed_against_an_unknown_time():
    (judgement,) = judge_family([np.zeros(8)])

    assert weigh(judgement, None) is None


@pytest.mark.parametrize(
    ("ratio", "p", "expected"),
    [
        (
            1.08,
            0.001,
            "a training step takes 8.0 % more time (ratio 1.080, interval 1.070 to 1.090, 9 rounds, p = .001)",
        ),
        (
            0.92,
            0.001,
            "a training step takes 8.0 % less time (ratio 0.920, interval 0.910 to 0.930, 9 rounds, p = .001)",
        ),
        (
            2.5,
            0.001,
            "a training step takes 2.50 times the time (ratio 2.500, interval 2.490 to 2.510, 9 rounds, p = .001)",
        ),
        (1.08, 0.2, "no difference in time was seen (ratio 1.080, interval 1.070 to 1.090, 9 rounds, p = .200)"),
    ],
)
def test_words_follow_the_evidence(ratio, p, expected):
    assert time_words(pair_timing(ratio, p)) == expected
