"""The frames of a study's numbers, by a calculation with numpy and SciPy."""

import numpy as np
import polars as pl
import pytest
from made_studies import golden, random_study, records, study
from scipy import stats

from actbench.inference.frames import ARM_COLUMNS, COMPARISON_COLUMNS, arm_frame, comparison_frame


def test_the_columns_are_those_documented(tmp_path):
    results = golden(tmp_path)

    arms, comparisons = arm_frame(results), comparison_frame(results)

    setting = results.tunings[0].setting
    assert arms.columns == [*list(ARM_COLUMNS)[:3], setting, *list(ARM_COLUMNS)[3:]]
    assert comparisons.columns == list(COMPARISON_COLUMNS)
    for frame, columns in ((arms.drop(setting), ARM_COLUMNS), (comparisons, COMPARISON_COLUMNS)):
        assert frame.schema == {name: column.type for name, column in columns.items()}
        assert all(column.meaning for column in columns.values())
    assert arms[setting].to_list() == [0.01] * 3


def test_an_arm_counts_what_diverged_as_guessing_and_leaves_it_out_elsewhere(tmp_path):
    results = study(tmp_path, [records("relu", [0.9, 0.8, None]), records("swish", [None, None])])

    relu, swish = arm_frame(results).iter_rows(named=True)

    accuracies = [0.9, 0.8, 0.1]
    low, high = stats.t.interval(0.95, 2, np.mean(accuracies), stats.sem(accuracies))
    expected = {"test_accuracy": 0.6, "test_accuracy_low": low, "test_accuracy_high": high, "test_loss": 0.15}
    assert {name: relu[name] for name in expected} == pytest.approx(expected)
    assert (relu["seeds"], relu["diverged"], relu["test_accuracy_min"], relu["test_accuracy_max"]) == (3, 1, 0.1, 0.9)
    assert (swish["test_accuracy"], swish["test_loss"], swish["val_accuracy"], swish["epochs"]) == (0.1, None, None, 4)


def test_costs_are_of_the_fits_on_a_quiet_machine_if_there_are_any(tmp_path):
    times = {"epoch_time_s": pl.Series([0.01, 0.03, 9.0]), "busy": pl.Series([False, None, True])}
    busy = {"busy": pl.lit(value=True), "peak_memory_mb": pl.lit(None, dtype=pl.Float64)}
    unknown = {"epoch_time_s": pl.lit(None, dtype=pl.Float64)}
    tables = [records(arm, [0.9] * 3) for arm in ("relu", "swish", "tanh")]
    tables = [table.with_columns(**columns) for table, columns in zip(tables, (times, busy, unknown), strict=True)]

    rows = arm_frame(study(tmp_path, tables, arms=("relu", "swish", "tanh"))).rows_by_key(
        "arm", named=True, unique=True
    )

    assert (rows["relu"]["epoch_time_s"], rows["relu"]["busy"]) == (pytest.approx(0.02), False)
    assert (rows["swish"]["epoch_time_s"], rows["swish"]["peak_memory_mb"], rows["swish"]["busy"]) == (
        0.015,
        None,
        True,
    )
    assert (rows["tanh"]["epoch_time_s"], rows["tanh"]["busy"]) == (None, None)


def test_a_comparison_has_the_numbers_of_its_finding(tmp_path):
    results = random_study(tmp_path, arms=3, seeds=8, datasets=2)

    rows = comparison_frame(results).to_dicts()

    for row, finding in zip(rows, results.conclusion.findings, strict=True):
        judgement, (loss, _) = finding.judgement, finding.secondary
        assert [row[name] for name in finding.comparison._fields] == list(finding.comparison)
        assert [row[f"difference{end}"] for end in ("", "_low", "_high")] == list(judgement.difference)
        assert [row[name] for name in ("verdict", "pairs", "adjusted_p")] == [
            judgement.verdict,
            judgement.pairs,
            judgement.adjusted_p,
        ]
        assert (row["test_loss_difference"], row["test_loss_difference_p"]) == (loss.difference.estimate, loss.p)
        if finding.cost:
            assert (row["memory_ratio"], row["fits"]) == (finding.cost.memory.ratio.estimate, finding.cost.fits)
        else:
            assert (row["dataset"], row["memory_ratio"], row["fits"]) == (None, None, None)


def test_what_is_not_known_is_null(tmp_path):
    results = study(tmp_path, [records("relu", [0.9]), records("swish", [0.8])], replicates=1)

    (row,) = comparison_frame(results).iter_rows(named=True)

    assert (row["difference"], row["difference_low"], row["effect"], row["pairs"]) == (None, None, None, 1)
    assert arm_frame(results)["test_accuracy_low"].to_list() == [None, None]
