"""Arms at equal time and on the way to a target, against hand calculations."""

import numpy as np
import polars as pl
import pytest
from made_records import question, rows

from actbench.inference.stats import Interval
from actbench.inference.verdict import Comparison
from actbench.inference.verdict.equal_time import ValCurve, compare_at_equal_time, compare_times_to_target, val_curves

SWISH = Comparison("Digits", "MLP", "swish", "relu")
RECORD = {
    "epoch_val_accuracy": [0.5, 0.7, 0.8],
    "epoch_val_loss": [2.0, 1.0, 1.5],
    "weights": "last",
    "classes": 10,
    "diverged": False,
    "diverged_epoch": None,
    "epochs": 3,
}


def curve(accuracy, **columns):
    losses = [1 - value if value is not None else None for value in accuracy]
    return ValCurve.from_record(
        RECORD | {"epoch_val_accuracy": accuracy, "epoch_val_loss": losses, "epochs": len(accuracy)} | columns
    )


def ratio(estimate, low=None, high=None):
    return Interval(estimate, low or estimate, high or estimate)


@pytest.mark.parametrize(
    ("epochs", "accuracy"), [(0, 0.1), (0.5, 0.3), (1, 0.5), (1.5, 0.6), (2.25, 0.725), (3, 0.8), (9, 0.8)]
)
def test_a_curve_is_linear_between_epochs_from_guessing_on(epochs, accuracy):
    assert ValCurve.from_record(RECORD).at(epochs) == pytest.approx(accuracy)


def test_epochs_without_validation_lie_between_those_with_one():
    assert curve([None, 0.5, None, 0.9]).at(3) == pytest.approx(0.7)
    assert curve([None, 0.5, None, 0.9]).at(1) == pytest.approx(0.3)


def test_nothing_is_known_without_validation():
    assert curve([None, None]) is None
    assert ValCurve.from_record(RECORD | {"epoch_val_accuracy": None, "epoch_val_loss": None}) is None


def test_best_weights_are_those_with_the_least_loss_so_far():
    best = ValCurve.from_record(RECORD | {"weights": "best"})

    assert [best.at(epoch) for epoch in (1, 2, 3)] == pytest.approx([0.5, 0.7, 0.7])


def test_best_weights_ignore_epochs_without_a_loss():
    record = RECORD | {"weights": "best", "epoch_val_loss": [None, 1.0, float("nan")]}

    assert ValCurve.from_record(record).at(3) == pytest.approx(0.7)


def test_a_replicate_guesses_from_the_epoch_in_which_it_diverges():
    lost = ValCurve.from_record(RECORD | {"diverged": True, "diverged_epoch": 1})
    at_the_end = ValCurve.from_record(RECORD | {"diverged": True})

    assert [lost.at(epoch) for epoch in (1, 2, 3)] == pytest.approx([0.5, 0.1, 0.1])
    assert [at_the_end.at(epoch) for epoch in (1, 2, 3)] == pytest.approx([0.5, 0.7, 0.1])


@pytest.mark.parametrize(
    ("target", "epochs"), [(0.05, 0), (0.3, 0.5), (0.5, 1), (0.6, 1.5), (0.75, 2.5), (0.8, 3), (0.81, np.inf)]
)
def test_a_target_is_reached_where_the_line_crosses_it(target, epochs):
    assert ValCurve.from_record(RECORD).reaches(target) == pytest.approx(epochs)


def test_a_target_is_reached_when_it_is_first():
    assert curve([0.5, 0.9, 0.2, 0.9]).reaches(0.7) == pytest.approx(1.5)


def test_the_slower_arm_has_the_time_of_the_faster_one():
    # After 4 epochs of relu, swish, which takes twice as long, has had 2.
    arm = [curve([0.5, 0.7, 0.8, 0.85]) for _ in range(8)]
    base = [curve([0.4, 0.6, 0.7, 0.76 + 0.001 * seed]) for seed in range(8)]

    found = compare_at_equal_time(SWISH, (arm, base), ratio(2.0), question())

    assert found.epochs == {"swish": 2, "relu": 4}
    assert found.means["swish"] == pytest.approx(0.7)
    assert found.means["relu"] == pytest.approx(0.7635)
    assert found.judgement.difference.estimate == pytest.approx(-0.0635)
    assert found.judgement.verdict == "worse"
    assert found.equal_epochs.difference.estimate == pytest.approx(0.85 - 0.7635)
    assert found.equal_epochs.verdict == "better"


def test_the_faster_arm_is_trained_to_its_end():
    arm, base = [curve([0.5, 0.7])] * 8, [curve([0.4, 0.6])] * 8

    found = compare_at_equal_time(SWISH, (arm, base), ratio(0.5), question())

    assert found.epochs == {"swish": 2, "relu": 1}
    assert found.means == pytest.approx({"swish": 0.7, "relu": 0.4})


def test_a_seed_that_stopped_early_sets_the_time_of_its_pair():
    arm, base = [curve([0.5, 0.7, 0.8, 0.9])] * 8, [curve([0.4, 0.6, 0.6, 0.6], epochs=2)] * 8

    found = compare_at_equal_time(SWISH, (arm, base), ratio(1.0), question())

    assert found.epochs == {"swish": 2, "relu": 2}


def test_a_verdict_that_changes_within_the_ratios_interval_does_not_hold():
    arm = [curve([0.5, 0.7, 0.8, 0.85])] * 8
    base = [curve([0.4, 0.6, 0.7, 0.75])] * 8

    wide = compare_at_equal_time(SWISH, (arm, base), ratio(1.0, 0.5, 2.0), question())
    narrow = compare_at_equal_time(SWISH, (arm, base), ratio(1.0, 0.98, 1.02), question())

    assert (wide.judgement.verdict, wide.holds) == ("better", False)
    assert (narrow.judgement.verdict, narrow.holds) == ("better", True)


def test_the_time_to_a_target_counts_seeds_that_never_reach_it():
    arm = [curve([0.5, 0.9])] * 5 + [curve([0.5, 0.6])] * 3
    base = [curve([0.5, 0.7])] * 8

    found = compare_times_to_target(SWISH, (arm, base), ratio(1.0), 0.8, alpha=0.05)

    assert (found.epochs["swish"].reached, found.epochs["swish"].seeds) == (5, 8)
    assert found.epochs["swish"].median.estimate == pytest.approx(1.75)
    assert found.epochs["relu"].reached == 0
    assert found.epochs["relu"].median.estimate == np.inf
    assert (found.sooner, found.decided) == (5, 5)
    assert found.p == pytest.approx(2 * 0.5**5)


def test_epochs_that_take_longer_may_turn_the_order_round():
    arm, base = [curve([0.6, 0.9])] * 6, [curve([0.5, 0.8])] * 6

    as_fast, slower = (
        compare_times_to_target(SWISH, (arm, base), ratio(factor), 0.7, alpha=0.05) for factor in (1.0, 2.0)
    )

    assert (as_fast.sooner, as_fast.decided) == (6, 6)
    assert (slower.sooner, slower.decided) == (0, 6)
    assert slower.epochs == as_fast.epochs


def test_twins_reach_a_target_in_no_order():
    # Their curves are the same, so that the ratio of times alone would decide all pairs.
    curves = [curve([0.5, 0.7 + 0.01 * seed]) for seed in range(8)]

    found = compare_times_to_target(SWISH, (curves, curves), ratio(1.0, 0.99, 1.02), 0.6, alpha=0.05)

    assert (found.sooner, found.decided, found.p) == (0, 0, 1)


def test_who_was_stopped_too_soon_is_not_known_to_be_later():
    # At twice the time an epoch, swish reaches the target after 3.5 epochs of relu, which had only 2.
    arm, base = [curve([0.5, 0.9])] * 4, [curve([0.5, 0.6])] * 4

    found = compare_times_to_target(SWISH, (arm, base), ratio(2.0), 0.8, alpha=0.05)

    assert found.decided == 0


def test_a_diverged_seed_never_reaches_a_target():
    arm, base = [curve([0.5, 0.9])] * 4, [curve([0.5, 0.6], diverged=True, diverged_epoch=1)] * 4

    found = compare_times_to_target(SWISH, (arm, base), ratio(2.0), 0.8, alpha=0.05)

    assert (found.sooner, found.decided) == (4, 4)


def test_curves_are_those_of_the_seeds_in_their_order():
    table = pl.concat(
        rows("relu", [0.9], first_seed=seed, epoch_val_accuracy=[seed / 10], epoch_val_loss=[1.0], epochs=1)
        for seed in (3, 1, 2)
    )

    assert [found.at(1) for found in val_curves(table, "relu", [1, 2, 3])] == pytest.approx([0.1, 0.2, 0.3])
    assert val_curves(table, "relu", [1, 4]) is None
