"""What records of a mechanism say: means, paired differences, correlations with scores, and failures."""

import json

import jsonschema
import numpy as np
import polars as pl
import pytest
from made_studies import failing_study, measured_study, record, records, study, with_mechanism
from scipy import stats

from actbench.inference.frames import (
    MECHANISM_COLUMNS,
    SITE_DIFFERENCE_COLUMNS,
    mechanism_frame,
    site_difference_frame,
)
from actbench.inference.stats import rank_correlation
from actbench.inference.verdict import schema
from actbench.inference.verdict.mechanism import measured_arm
from actbench.inference.verdict.mechanism_words import layer_words, mechanism_lines
from actbench.inference.verdict.question import Panel
from actbench.records import MECHANISM, RecordError, from_bytes, to_bytes, to_frame

PANEL = Panel("Digits", "MLP")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return measured_study(tmp_path_factory.mktemp("study"))


def test_the_rank_correlation_is_spearmans(rng):
    first = rng.integers(0, 4, 30).astype(float)  # with ties
    second = first + rng.normal(0, 2, 30)

    found = rank_correlation(first, second)

    assert found.estimate == pytest.approx(stats.spearmanr(first, second).statistic)
    assert found.low < found.estimate < found.high
    assert rank_correlation(first, np.zeros(30)) is None
    assert rank_correlation(first[:4], second[:4]) is None


def test_a_perfect_correlation_has_an_interval_that_is_not_a_point():
    found = rank_correlation(np.arange(10.0), np.arange(10.0))

    assert found.estimate == found.high == pytest.approx(1)
    assert 0.8 < found.low < 1


@pytest.mark.parametrize(("pairs", "rho"), [(10, 0.0), (30, 0.5), (30, 0.8)])
def test_the_interval_of_a_rank_correlation_covers_the_truth(pairs, rho):
    rng, studies = np.random.default_rng(pairs), 1000
    truth = 6 / np.pi * np.arcsin(rho / 2)  # Spearman's, of two normal values with this correlation
    cases = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], (studies, pairs))

    found = [rank_correlation(*case.T) for case in cases]

    share = np.mean([interval.low <= truth <= interval.high for interval in found])
    assert 0.93 < share < 0.98


def test_means_and_differences_are_those_of_the_records(measured):
    dead = measured.table.select("arm", "seed", pl.col("mechanism_sd").list.get(-1).list.get(0).alias("sd"))
    by_arm = {arm: own.sort("seed")["sd"].to_numpy() for (arm,), own in dead.group_by("arm")}
    difference = by_arm["swish"] - by_arm["relu"]
    half = stats.t.ppf(0.975, 29) * stats.sem(by_arm["swish"])

    mean = mechanism_frame(measured).row(by_predicate=row(arm="swish", statistic="sd", depth=1, epoch=4), named=True)
    found = site_difference_frame(measured).row(
        by_predicate=row(arm="swish", statistic="sd", site="layers.1"), named=True
    )

    assert mean["mean"] == pytest.approx(by_arm["swish"].mean())
    assert mean["mean_high"] == pytest.approx(by_arm["swish"].mean() + half)
    assert found["difference"] == pytest.approx(difference.mean())
    assert found["pairs"] == 30


def row(**values):
    return pl.all_horizontal(pl.col(name) == value for name, value in values.items())


def test_a_difference_in_mechanism_goes_with_that_in_score(measured):
    found = site_difference_frame(measured).row(
        by_predicate=row(arm="swish", statistic="dead", site="layers.3"), named=True
    )
    accuracies = [measured.table.filter(arm=arm).sort("seed")["test_accuracy"] for arm in ("swish", "relu")]
    dead = -(measured.table.filter(arm="relu").sort("seed")["val_accuracy"] < 0.5).to_numpy().astype(float)

    expected = stats.spearmanr(dead, (accuracies[0] - accuracies[1]).to_numpy()).statistic

    assert found["correlation"] == pytest.approx(expected)
    assert found["correlation_high"] < 0


def test_dead_units_that_tell_failed_seeds_from_all_others_are_told(measured):
    assert [*mechanism_lines(measured.marked, measured.question)] == [
        "All 9 failed seeds of relu have 100 % dead units behind the first linear layer (layers.3) after epoch 1; "
        "none of the 21 others has."
    ]


@pytest.mark.parametrize("dead", [range(8), range(10), ()])
def test_nothing_is_told_of_dead_units_that_other_seeds_have_or_failed_ones_lack(measured, dead):
    others = measured.table.filter(pl.col("arm") != "relu")
    relu = with_mechanism(measured.table.filter(arm="relu"), np.isin(np.arange(30), dead))

    table = measured._replace(table=pl.concat([relu, others])).marked

    assert [*mechanism_lines(table, measured.question)] == []


def test_nothing_is_told_that_may_be_chance(tmp_path):
    size = {"val_rows": 180, "val_guess": 0.11}
    table = with_mechanism(records("relu", [0.1, 0.9, 0.9, 0.9], **size), [True, False, False, False])

    results = study(tmp_path, [table, records("swish", [0.9] * 4, **size)], replicates=4)

    assert results.marked["failed"].sum() == 1
    assert [*mechanism_lines(results.marked, results.question)] == []  # one of four by eight calls and epochs


def test_a_seed_that_stopped_early_keeps_its_values(measured):
    table = measured.marked.filter(arm="relu")
    short = table.with_columns(
        pl.when(pl.col("seed") == 3).then(pl.col(name).list.head(2)).otherwise(pl.col(name))
        for name in MECHANISM
        if name not in ("mechanism_sites", "mechanism_layers")
    )

    found = measured_arm(short, PANEL, "relu").values["sd"]

    np.testing.assert_array_equal(found[3, 1], found[3, -1])
    assert (found[4, 1] != found[4, -1]).all()


def test_columns_are_those_documented_and_verdict_json_follows_its_schema(tmp_path):
    results = measured_study(tmp_path)

    content = json.loads((tmp_path / "verdict.json").read_text())

    jsonschema.validate(content, schema())
    assert len(content["mechanism"]["differences"]) == len(site_difference_frame(results))
    assert content["mechanism"]["sentences"][0] in str(results)
    for columns, frame in (
        (MECHANISM_COLUMNS, mechanism_frame(results)),
        (SITE_DIFFERENCE_COLUMNS, site_difference_frame(results)),
    ):
        assert frame.schema == {name: column.type for name, column in columns.items()}


def test_a_study_that_was_not_measured_has_no_mechanism(tmp_path):
    results = failing_study(tmp_path)

    assert measured_arm(results.marked, PANEL, "relu") is None
    assert not len(mechanism_frame(results))
    assert not len(site_difference_frame(results))


def test_layers_have_their_number_in_words():
    assert layer_words("convolution 3") == "behind the third convolution"
    assert layer_words("linear layer 12") == "behind linear layer 12"
    assert layer_words("") == "before any layer with weights"


def test_records_of_before_have_no_mechanism():
    old = to_frame([record("relu", 0, 0.9)]).drop(MECHANISM)

    read = from_bytes(to_bytes(old))

    assert read.select(MECHANISM).null_count().row(0) == (1,) * len(MECHANISM)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("mechanism_sites", ["layers.1"]),
        ("mechanism_sites", ["layers.1", "\x1b[2J"]),
        ("mechanism_layers", ["x" * 300, "y"]),
        ("mechanism_sites", None),
        ("mechanism_epochs", [0, 2, 1, 4]),
        ("mechanism_epochs", [0, 1, 2, 99]),
        ("mechanism_epochs", [-1, 1, 2, 4]),
        ("mechanism_rank", [1.0]),
        ("mechanism_rank", [1.0, 2.0, -3.0, 4.0]),
        ("mechanism_dead", [[0.0, 0.0]] * 3 + [[0.0, 1.5]]),
        ("mechanism_sd", [[0.0, 0.0]] * 3 + [[0.0]]),
        ("mechanism_sd", [[0.0, 0.0]] * 3 + [[0.0, -1.0]]),
        ("mechanism_gradient", [[0.0, 0.0]] * 3 + [None]),
    ],
)
def test_a_mechanism_that_no_fit_has_is_refused(column, value):
    table = with_mechanism(records("relu", [0.9, 0.8]))
    content = to_bytes(table.with_columns(pl.Series(column, [value] * 2, dtype=table.schema[column])))

    with pytest.raises(RecordError, match="mechanism"):
        from_bytes(content)


def test_a_mechanism_of_values_that_are_not_finite_is_read():
    table = with_mechanism(records("relu", [0.9, 0.8]))
    broken = [[[float("nan"), float("inf")]] * 4] * 2

    from_bytes(to_bytes(table.with_columns(pl.Series("mechanism_mean", broken, dtype=table.schema["mechanism_mean"]))))
