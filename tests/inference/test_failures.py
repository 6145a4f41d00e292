"""Which replicates failed to train, and what is said of it."""

import json

import numpy as np
import polars as pl
import pytest
from made_records import question, rows
from made_studies import failing_study, random_study, records, study
from scipy import stats

from actbench.inference.frames import FAILURE_COLUMNS, arm_frame, comparison_frame, failure_frame
from actbench.inference.verdict import History, conclude, load_results, mark_failures, sentences, simulate_splits
from actbench.inference.verdict.failures import fewest_rows, passing_share
from actbench.records import write_records
from actbench.report import markdown, tables
from actbench.report.answer import answer_sentence
from actbench.report.figures import curve_figures, pair_figures
from actbench.report.sections import study_facts

VAL = {"val_rows": 180, "val_guess": 0.1}


def marked(accuracies, **columns):
    """Which replicates of two arms with 8 seeds each failed."""
    return mark_failures(rows("relu", accuracies, **columns), question())["failed"].to_list()


def said(relu, swish, **settings):
    """The finding on swish, and its sentence; replicates that failed have .1."""
    table = pl.concat([rows("relu", relu, **VAL), rows("swish", swish, **VAL)])
    conclusion = conclude(table, question(**{"replicates": len(relu), **settings}), History())
    return conclusion.findings[0], sentences(conclusion, [], [])[0]


# --- which failed ---


def test_a_replicate_failed_if_guessing_does_as_well():
    level = 0.01 / 16  # of 16 planned replicates
    correct = next(k for k in range(181) if stats.binomtest(k, 180, 0.1, alternative="greater").pvalue <= level)

    assert marked([0.1, (correct - 1) / 180, correct / 180, 0.95, None], **VAL) == [True, True, False, False, True]
    assert passing_share(180, 0.1, level) == pytest.approx(correct / 180)


def test_guessing_is_the_share_of_the_most_frequent_class():
    assert marked([0.6], val_rows=180, val_guess=0.5) == [True]
    assert marked([0.6], val_rows=180, val_guess=0.3) == [False]


def test_the_level_counts_for_all_replicates_of_the_study():
    correct = 34 / 180  # p = .0003
    table = rows("relu", [correct], **VAL)

    assert mark_failures(table, question(replicates=8))["failed"].to_list() == [False]
    assert mark_failures(table, question(replicates=80))["failed"].to_list() == [True]


def test_of_replicates_that_guess_hardly_any_passes_for_trained():
    rng, studies = np.random.default_rng(0), 1_000
    asked = question(replicates=30)
    correct = rng.binomial(180, 0.1, studies * 60) / 180
    table = rows("relu", correct, **VAL)

    passed = ~mark_failures(table, asked)["failed"].to_numpy().reshape(studies, 60)

    assert passed.any(axis=1).mean() <= 0.01 + 3 * np.sqrt(0.01 * 0.99 / studies)


def test_a_val_too_small_to_tell_marks_only_what_diverged():
    assert marked([0.5, None], val_rows=2, val_guess=0.5) == [False, True]
    assert marked([0.5, None], val_accuracy=None) == [False, True]


@pytest.mark.parametrize("size", [7, 180, 1797, 5000])
def test_the_size_of_val_is_found_in_its_accuracies(size):
    correct = np.random.default_rng(0).integers(0, size + 1, 40)
    accuracies = (correct.astype(np.float32) / np.float32(size)).astype(float)

    rows_found = fewest_rows(accuracies)

    assert size % rows_found == 0
    assert np.round(accuracies * rows_found) / rows_found == pytest.approx(accuracies, rel=1e-6)


def test_accuracies_that_no_val_has_tell_no_size():
    assert fewest_rows(np.random.default_rng(0).random(5)) is None
    assert fewest_rows(np.array([])) is None


def test_records_of_before_are_judged_anew():
    accuracies = (np.array([18, 162, 171, 175]) / 180).tolist()

    assert marked(accuracies) == marked(accuracies, **VAL) == [True, False, False, False]


# --- what is said ---


def test_failures_come_first_where_they_decide():
    relu = [0.1] * 9 + [0.95, 0.96, 0.94] * 7
    swish = [0.96] * 9 + [0.95, 0.96, 0.94] * 7

    finding, sentence = said(relu, swish)

    # By hand: 2 / 2^9 of the flips, over .6 of the level for all seeds, .0065; failures come next, with .4 left.
    judgement = finding.judgement
    assert (judgement.failures.verdict, judgement.trained.pairs) == ("better", 21)
    assert sentence.startswith(
        "On Digits with MLP, relu fails to train in 9 of 30 seeds, swish in none (rates differ by -30.0 points, "
        "95 % interval -45.9 to -10.3, adjusted p = .007): swish fails less often; where both train (21 seeds), swish "
        "differs by +0.00 points"
    )
    assert "This part is conditional on training" in sentence
    assert (
        "Over all seeds, swish is better than relu on average: +25.8 points of test accuracy, median +0.00" in sentence
    )
    assert "Nine tenths of the difference over all seeds come from 9 of 30." in sentence
    assert "On a new seed, swish wins with a chance of 0.65 (0.47 to 0.79)." in sentence


def test_failures_come_first_where_all_seeds_and_those_that_trained_disagree():
    relu = [0.1, 0.1] + [0.95, 0.96, 0.94] * 4
    swish = [0.96, 0.95] + [0.93, 0.94, 0.92] * 4  # worse wherever both train

    finding, sentence = said(relu, swish)

    assert finding.judgement.failures.verdict == "undecided"
    assert (finding.judgement.verdict, finding.judgement.trained.verdict) == ("undecided", "worse")
    assert sentence.startswith("On Digits with MLP, relu fails to train in 2 of 14 seeds, swish in none")


def test_arms_that_never_train_are_not_equivalent():
    guesses = [0.1, 0.11, 0.09, 0.1] * 6

    finding, sentence = said(guesses, guesses[1:] + guesses[:1], margin=0.1)

    assert finding.judgement.verdict == "undecided"
    assert not finding.judgement.inside_margin
    assert sentence == (
        "On Digits with MLP, neither swish nor relu trains in any of 24 seeds, so nothing is known of how they compare."
    )


def test_failures_that_change_nothing_come_after_the_verdict():
    relu = [0.1] + [0.95, 0.96, 0.94, 0.95] * 4
    swish = [0.1] + [0.97, 0.98, 0.96, 0.98] * 4

    finding, sentence = said(relu, swish)

    assert finding.judgement.verdict == finding.judgement.trained.verdict == "better"
    assert sentence.startswith("On Digits with MLP, swish is better than relu: +2.1 points")
    assert "Failures: swish fails to train in 1 of 17 seeds, relu in 1" in sentence


def test_over_several_datasets_an_arm_fails_with_a_seed_if_it_does_on_any():
    table = pl.concat(
        [
            rows(arm, [0.1 if (arm, dataset, seed) in lost else 0.95 for seed in range(8)], dataset=dataset, **VAL)
            for lost in [{("relu", "Digits", 0), ("relu", "MNIST", 0), ("relu", "MNIST", 1), ("swish", "Digits", 5)}]
            for dataset in ("Digits", "MNIST")
            for arm in ("relu", "swish")
        ]
    )

    overall = conclude(table, question(datasets=("Digits", "MNIST")), History()).findings[2].judgement

    assert (overall.failures.arm, overall.failures.baseline, overall.trained.pairs) == (1, 2, 5)


@pytest.mark.parametrize(
    ("difference", "settings", "reason"),
    [
        # 14 flips of 1,024 and three comparisons.
        (
            [0.02, 0.02, 0.02, 0.03, 0.01, -0.01, 0.04, 0.02, -0.005, 0.01],
            {"arms": ("relu", "swish", "gelu", "tanh", "elu", "mish", "selu")},
            "The interval excludes 0, but is of this comparison alone (p = .0",
        ),
        (
            [0.01, 0.011, 0.012, 0.011, 0.010],
            {},
            "The interval excludes 0, but takes differences for normal; the exact",
        ),
        ([0.001] * 15 + [0.3], {}, "The interval holds 0, but takes differences for normal"),
        ([0.0049, -0.0049] * 6, {"margin": 0.003}, "The interval reaches beyond the margin"),
    ],
)
def test_an_interval_that_seems_to_contradict_the_verdict_has_a_reason(difference, settings, reason):
    relu = np.resize([0.9, 0.91, 0.92], len(difference))
    _, sentence = said(relu.tolist(), (relu + difference).tolist(), **settings)

    assert reason in sentence


def test_an_interval_that_agrees_with_the_verdict_has_none():
    relu = np.resize([0.9, 0.91, 0.92], 12)

    for difference in ([0.02, 0.021] * 6, [0.02, -0.02] * 6, [0.001, -0.001] * 6):
        assert "interval " not in said(relu.tolist(), (relu + difference).tolist())[1].partition(").")[2]


# --- tables and page ---


def test_a_page_on_which_nothing_trains_says_so_and_names_no_best_arm(tmp_path):
    guesses = [0.1] * 8
    tables = [records(arm, guesses, val_rows=180, val_guess=0.11) for arm in ("relu", "swish", "tanh")]

    results = study(tmp_path, tables, arms=("relu", "swish", "tanh"))

    assert answer_sentence(results).startswith("Neither swish nor relu trains in any of 8 seeds")
    curves = next(figure for figure in curve_figures(results) if "accuracy" in figure.name)
    assert curves.finding.endswith(" for all arms.")


def test_the_headline_says_failures_first(tmp_path):
    results = failing_study(tmp_path)

    answer = answer_sentence(results)

    assert answer.startswith(
        "relu fails to train in 9 of 30 seeds, swish in none; where both train (21 seeds), swish differs"
    )
    assert answer.endswith("Failures to train come first in 1 of 2 comparisons.")


def test_numbers_of_failures_stand_in_frame_table_and_json(tmp_path):
    results = failing_study(tmp_path)
    content = json.loads((tmp_path / "verdict.json").read_text())

    frame = failure_frame(results)
    first, second = frame.iter_rows(named=True)
    assert frame.schema == {name: column.type for name, column in FAILURE_COLUMNS.items()}
    assert (first["arm_failed"], first["baseline_failed"], first["baseline_failed_alone"]) == (0, 9, 9)
    assert first["failure_p"] == pytest.approx(2 * 0.5**9)
    assert (second["arm"], second["arm_failed"], second["arm_failed_alone"]) == ("tanh", 9, 0)
    assert arm_frame(results)["failed"].to_list() == [9, 0, 9]
    assert comparison_frame(results)["failures_first"].to_list() == [True, False]
    swish, tanh = content["comparisons"]
    assert swish["failures"]["p"] == first["failure_p"]
    assert swish["trained"]["pairs"] == first["trained_pairs"] == 21
    assert (swish["failures_first"], tanh["failures_first"]) == (True, False)
    assert (content["failure_rule"]["failed"], content["failure_rule"]["replicates"]) == (18, 90)
    assert content["failure_rule"]["replicate_level"] == pytest.approx(0.01 / 90)
    table = tables(results)[0]
    assert table.name == "failures"  # it comes first
    assert "failures first; " in markdown(tables(results)[1])


def test_the_page_states_the_rule_and_its_number(tmp_path):
    facts = dict(study_facts(failing_study(tmp_path)))

    assert facts["Failures"].startswith("18 of 90 replicates: relu 9 and tanh 9. A replicate failed to train if")
    assert "at a level of 0.01 for all planned replicates together, 0.00011 for each of 90" in facts["Failures"]
    assert "Of 180 rows, 11.0 % of them in that class, it needs" in facts["Failures"]


def test_without_failures_there_is_no_table_of_them(tmp_path):
    results = random_study(tmp_path, arms=2, seeds=8)

    assert "failures" not in [table.name for table in tables(results)]
    assert results.conclusion.findings[0].judgement.failures is None
    assert json.loads((tmp_path / "verdict.json").read_text())["comparisons"][0]["failures"] is None


def test_a_study_from_before_reads_as_its_records_say(tmp_path):
    failing_study(tmp_path)
    path = tmp_path / "records.parquet"
    new = load_results(tmp_path)
    old = pl.read_parquet(path).drop("val_rows", "val_guess")
    write_records(path, old)

    assert load_results(tmp_path).marked["failed"].to_list() == new.marked["failed"].to_list()


@pytest.mark.parametrize(
    ("sign", "answer"), [(1, "Yes, on average: swish scores higher"), (-1, "No, on average: swish scores lower")]
)
def test_an_arm_that_may_not_win_on_most_seeds_beats_nothing(tmp_path, sign, answer):
    difference = sign * np.array([0.05] * 6 + [0.0] * 14)
    tables_of_arms = [records("relu", [0.9] * 20), records("swish", (0.9 + difference).tolist())]

    results = study(tmp_path, tables_of_arms, replicates=20)

    assert answer_sentence(results) == f"{answer} than relu by 1.5 points."
    assert "on average: " in results.sentences[0]
    assert "Nine tenths of the difference over all seeds come from 6 of 20." in results.sentences[0]


def test_the_figure_of_pairs_tells_failures_from_what_trained(tmp_path):
    (figure,) = pair_figures(failing_study(tmp_path))

    rows_of_tanh = figure.data.filter(arm="tanh").sort("seed")
    assert rows_of_tanh["state"].to_list() == ["failed to train"] * 9 + ["trained"] * 21
    assert rows_of_tanh["baseline_state"].to_list() == ["failed to train"] * 9 + ["trained"] * 21
    assert set(figure.data.filter(arm="swish")["state"]) == {"trained"}


@pytest.mark.parametrize("splits", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_a_self_test_splits_failures_with_their_seeds(splits):
    rng = np.random.default_rng(0)
    failed = np.arange(24) % 3 == 0
    scores = np.where(failed, 0.1, rng.normal(0.95, 0.01, 24))

    found = simulate_splits(scores, failed, alpha=0.05, margin=0.005, design=None, splits=splits)

    assert found.false_alarms.low <= 0.05
