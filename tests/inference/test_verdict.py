import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import polars as pl
import pytest
from made_records import SCORES, question, rows, tuning_table
from scipy import stats
from statsmodels.stats.power import TTestPower

from actbench import records
from actbench.cli import main
from actbench.inference.stats import Interval
from actbench.inference.verdict import (
    Certificate,
    Comparison,
    History,
    Look,
    certificate_sentence,
    choose_values,
    conclude,
    extended_values,
    forecast_power,
    load_results,
    schema,
    sentences,
    simulate_splits,
    summarize_tuning,
    to_json_values,
)
from actbench.inference.verdict.certificate import proportion_interval
from actbench.inference.verdict.evidence import paired_cost
from actbench.inference.verdict.words import tuning_sentences

RELU = [0.95, 0.96, 0.94, 0.95, 0.97, 0.93, 0.95, 0.96]


def said(table, asked, history=None):
    conclusion = conclude(table, asked, history or History())
    return conclusion.findings, sentences(conclusion, [], [])


def two(difference, **settings):
    """What is said of swish, so much above or below relu for each seed."""
    table = pl.concat([rows("relu", RELU), rows("swish", list(np.add(RELU, difference)))])
    (finding,), (sentence, *_) = said(table, question(**settings))
    return finding, sentence


# --- one comparison ---


def test_a_clear_difference_is_said_with_its_evidence():
    finding, sentence = two([0.01, 0.02, 0.01, 0.02, 0.01, 0.02, 0.01, 0.02])

    assert finding.judgement.verdict == "better"
    # By hand: mean 1.5 points, sd .5345, t(7) 2.365: 1.5 - 2.365 * .5345 / sqrt(8) = 1.053; 2 of 256 flips.
    assert sentence == (
        "On Digits with MLP, swish is better than relu: +1.5 points of test accuracy "
        "(95 % interval +1.1 to +1.9, 8 pairs, adjusted p = .008)."
    )


def test_what_is_lower_is_worse():
    finding, sentence = two(np.array([0.01, 0.02, 0.01, 0.02, 0.01, 0.02, 0.01, 0.02]) * -1)

    assert finding.judgement.verdict == "worse"
    assert "swish is worse than relu: -1.5 points" in sentence


def test_a_difference_inside_the_margin_is_said_to_be_so():
    finding, sentence = two([0.001, 0.002, 0.001, 0.002, 0.001, 0.002, 0.001, 0.002])

    assert (finding.judgement.verdict, finding.judgement.inside_margin) == ("better", True)
    assert "swish is better than relu, though by less than the margin of 0.50 points: +0.15 points" in sentence


def test_equal_arms_are_equivalent_and_not_called_the_same():
    _, sentence = two([0.001, -0.001] * 4)

    assert "swish and relu are equivalent, within 0.50 points: +0.00 points" in sentence
    assert "no difference" not in sentence


def test_an_undecided_one_says_how_many_pairs_and_minutes_it_needs():
    difference = np.array([0.02, -0.01, 0.03, -0.02, 0.01, 0.00, -0.01, 0.02])

    finding, sentence = two(difference)

    effect = difference.mean() / difference.std(ddof=1) * (1 - 3 / (4 * 7 - 1))  # Hedges
    needed = math.ceil(TTestPower().solve_power(effect, alpha=0.05, power=0.8))
    assert finding.judgement.pairs_needed == needed
    minutes = (needed - 8) * 2 * 50 * 0.01 / 60  # two arms, 50 epochs, 10 ms each
    assert finding.more_minutes == pytest.approx(minutes)
    assert "it is undecided whether swish does better than relu" in sentence
    assert sentence.endswith(
        f"About {needed - 8} more pairs would see a difference of this size with 80 % power, "
        f"{minutes:.0f} minutes here."
    )


def test_so_few_pairs_that_no_test_could_decide_say_so():
    table = pl.concat([rows("relu", RELU[:3]), rows("swish", np.add(RELU[:3], 0.02))])

    _, (sentence,) = said(table, question(replicates=3))

    assert sentence.endswith("3 pairs can reach no adjusted p of 0.05.")


def test_a_seed_without_partner_is_left_out_and_said():
    difference = [0.01, 0.02, 0.01, 0.02, 0.01, 0.02, 0.01]
    table = pl.concat([rows("relu", RELU), rows("swish", np.add(RELU[1:], difference), first_seed=1)])

    (finding,), (sentence,) = said(table, question())

    assert (finding.judgement.pairs, finding.unpaired) == (7, 1)
    assert finding.judgement.difference.estimate == pytest.approx(np.mean(difference))
    assert sentence.endswith("1 seed had no partner in the other arm and was left out.")


def test_pairs_are_by_seed_and_not_by_row():
    swish = list(np.add(RELU, [0.01, 0.02, 0.01, 0.02, 0.01, 0.02, 0.01, 0.02]))
    table = pl.concat([rows("relu", RELU), rows("swish", swish)])

    shuffled = table.sample(fraction=1, shuffle=True, seed=1)

    assert said(shuffled, question())[1] == said(table, question())[1]


def test_diverged_replicates_guess_and_a_verdict_that_they_drive_says_so():
    relu = [None, None, None, None, None, None, 0.95, 0.95]
    swish = [0.95] * 8

    (finding,), (sentence,) = said(pl.concat([rows("relu", relu), rows("swish", swish)]), question())

    assert finding.judgement.difference.estimate == pytest.approx(6 * (0.95 - 0.1) / 8)  # ten classes
    assert finding.diverged == {"swish": 0, "relu": 6}
    assert finding.judgement.verdict == "better"
    assert finding.without_diverged == "undecided"
    assert (
        "Diverged, and counted as guessing: 6 of relu. They drive the verdict: without them it is undecided."
        in sentence
    )


def test_a_diverged_replicate_that_changes_no_verdict_is_only_counted():
    swish = [None, *np.add(RELU[1:], 0.02)]
    relu = [None, *RELU[1:]]

    (finding,), (sentence,) = said(pl.concat([rows("relu", relu), rows("swish", swish)]), question())

    assert finding.judgement.verdict == "better"
    assert finding.without_diverged is None
    assert sentence.endswith("Diverged, and counted as guessing: 1 of swish, 1 of relu.")


def test_losses_are_outside_the_family_and_not_adjusted():
    difference = np.array([0.01, 0.02, 0.01, 0.02, 0.01, 0.02, 0.01, 0.02])
    arms = {"relu": RELU, "swish": RELU + difference, "gelu": RELU + difference / 2}
    table = pl.concat([rows(arm, scores) for arm, scores in arms.items()])

    findings, _ = said(table, question(arms=tuple(arms)))

    assert [finding.judgement.adjusted_p for finding in findings] == [4 / 256] * 2
    loss = findings[0].secondary[0]
    assert (loss.outcome, loss.p) == ("test_loss", 2 / 256)
    assert loss.difference.estimate == pytest.approx(-difference.mean())


# --- a family ---


def test_a_family_is_every_arm_with_the_baseline_or_all_pairs():
    arms = ("relu", "swish", "gelu", "tanh")

    with_baseline = question(arms=arms).family
    all_pairs = question(arms=arms, comparisons="all").family

    assert [(of.arm, of.baseline) for of in with_baseline] == [(arm, "relu") for arm in arms[1:]]
    assert len(all_pairs) == 6
    assert all_pairs[:3] == with_baseline


def test_holm_corrects_over_all_comparisons():
    rng = np.random.default_rng(0)
    arms = {"relu": RELU, **{f"a{n}": np.add(RELU, rng.normal(0.005, 0.01, 8)) for n in range(4)}}
    table = pl.concat([rows(arm, scores) for arm, scores in arms.items()])

    findings, _ = said(table, question(arms=tuple(arms)))

    p = [
        stats.permutation_test(
            (np.subtract(scores, RELU),), np.mean, permutation_type="samples", vectorized=False
        ).pvalue
        for name, scores in arms.items()
        if name != "relu"
    ]
    assert [finding.judgement.p for finding in findings] == pytest.approx(p)
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(np.sort(p) * [4, 3, 2, 1]).clip(max=1)
    assert [findings[place].judgement.adjusted_p for place in order] == pytest.approx(adjusted)


def test_over_several_datasets_the_mean_difference_is_judged_too():
    table = pl.concat(
        [
            rows("relu", RELU),
            rows("swish", np.add(RELU, [0.01, 0.02] * 4)),
            rows("relu", RELU, dataset="MNIST"),
            rows("swish", np.add(RELU, [-0.01, 0.01] * 4), dataset="MNIST"),
        ]
    )

    findings, lines = said(table, question(datasets=("Digits", "MNIST")))

    assert [finding.comparison.dataset for finding in findings] == ["Digits", "MNIST", None]
    overall = findings[2].judgement
    assert overall.difference.estimate == pytest.approx(0.0075)
    assert overall.p == 2 / 2**4  # means of a seed's differences are 0 and .015 in turn, so 4 of 8 count
    assert "Over these 2 datasets with MLP" in lines[2]
    assert "This speaks of these datasets, not of others." in lines[2]


def test_standings_are_interquartile_means_and_ranks_over_datasets():
    table = pl.concat(
        [
            rows(arm, np.add(RELU, shift), dataset=dataset)
            for dataset in ("Digits", "MNIST")
            for arm, shift in {"relu": 0, "swish": 0.02}.items()
        ]
    )

    relu, swish = conclude(table, question(datasets=("Digits", "MNIST")), History()).standings

    assert relu.interquartile_mean.estimate == pytest.approx(stats.trim_mean(RELU + RELU, 0.25))
    assert (relu.rank, swish.rank) == (Interval(2, 2, 2), Interval(1, 1, 1))


# --- cost ---


def test_a_fit_is_the_unit_of_memory():
    table = pl.concat(
        [
            rows("relu", RELU[:4], started="a"),
            rows("relu", RELU[4:], first_seed=4, started="b"),
            rows("swish", RELU[:4], started="c", peak_memory_mb=1.5 * 900),
            rows("swish", RELU[4:], first_seed=4, started="d", peak_memory_mb=1.6 * 900),
        ]
    )

    costs = paired_cost(table, Comparison("Digits", "MLP", "swish", "relu"), alpha=0.05)

    assert costs.fits == 2
    logs = np.log([1.5, 1.6])
    interval = stats.ttest_1samp(logs, 0).confidence_interval()
    assert np.log(costs.memory.ratio) == pytest.approx([logs.mean(), *interval])
    assert costs.memory.p == 0.5  # both signs of two differences, of four
    assert costs.memory.effect == pytest.approx(np.mean(logs) / np.std(logs, ddof=1))

    late = paired_cost(table, Comparison("Digits", "MLP", "swish", "relu"), alpha=1e-6)  # as of a late candidate
    assert all(map(math.isnan, late.memory.ratio[1:]))


def test_busy_fits_do_not_count_where_others_are_quiet():
    table = pl.concat(
        [
            rows("relu", RELU[:4], started="a"),
            rows("swish", RELU[:4], started="b", peak_memory_mb=50 * 900.0, busy=True),
            rows("swish", RELU[4:], first_seed=4, started="c", peak_memory_mb=2 * 900.0),
        ]
    )

    costs = paired_cost(table, Comparison("Digits", "MLP", "swish", "relu"), alpha=0.05)

    assert costs.fits == 1
    assert costs.memory.ratio.estimate == pytest.approx(2)
    assert math.isnan(costs.memory.ratio.low)
    assert costs.memory.p == 1


@pytest.mark.parametrize(
    "other",
    [
        {"replicates_together": 32},
        {"device": "a GPU"},
        {"threads": 2},
        {"torch_version": "1.0"},
        {"engine": "sequence"},
    ],
)
def test_fits_under_other_conditions_are_not_compared(other):
    table = pl.concat(
        [
            rows("relu", RELU[:4], started="a"),
            rows("relu", RELU[4:], first_seed=4, started="b", peak_memory_mb=8 * 900.0, **other),
            rows("swish", RELU, started="c", peak_memory_mb=2 * 900.0),
        ]
    )
    comparison = Comparison("Digits", "MLP", "swish", "relu")

    costs = paired_cost(table, comparison, alpha=0.05)

    assert (costs.fits, costs.memory.ratio.estimate) == (1, pytest.approx(2))
    assert paired_cost(table.filter(pl.col("started") != "a"), comparison, alpha=0.05) is None


def test_every_block_of_seeds_is_compared_with_its_like():
    # 48 seeds are a fit of 32 and one of 16, which take different memory.
    table = pl.concat(
        rows(
            arm, RELU[:1], first_seed=seed, started=f"{arm}{seed}", replicates_together=together, peak_memory_mb=memory
        )
        for arm, factor in (("relu", 1.0), ("swish", 2.0))
        for seed, together, memory in ((0, 32, 900 * factor), (32, 16, 700 * factor))
    )

    costs = paired_cost(table, Comparison("Digits", "MLP", "swish", "relu"), alpha=0.05)

    assert (costs.fits, costs.memory.ratio.estimate) == (2, pytest.approx(2))


def test_unknown_memory_is_not_compared():
    table = pl.concat([rows("relu", RELU), rows("swish", RELU, peak_memory_mb=None)])

    assert paired_cost(table, Comparison("Digits", "MLP", "swish", "relu"), alpha=0.05) is None


# --- looks ---


def look_at(history, asked, count):
    """The history after a study of so many seeds was looked at, and what is said of the level."""
    difference = np.resize([0.02, -0.01], count)
    table = pl.concat([rows("relu", [0.9] * count), *(rows(arm, 0.9 + difference) for arm in asked.arms[1:])])
    history = history.planned(asked)
    conclusion = conclude(table, asked, history)
    lines = sentences(conclusion, [], [])
    return history.looked(conclusion.look), [line for line in lines if "no longer holds" in line]


def test_growing_a_study_by_hand_loses_the_level():
    history, before = look_at(History(), question(replicates=30), 30)
    again, same = look_at(history, question(replicates=30), 30)
    grown, after = look_at(again, question(replicates=60), 60)

    assert (before, same) == ([], [])
    assert len(again.looks) == 1
    assert len(grown.looks) == 2
    assert "this study was looked at once before, on 30 pairs and by another plan" in after[0]
    assert "with a chance of up to 0.1" in after[0]


def test_one_more_arm_is_a_look_too():
    history, _ = look_at(History(), question(replicates=30), 30)

    _, lines = look_at(history, question(arms=("relu", "swish", "gelu"), replicates=30), 30)

    assert len(lines) == 1


def test_a_look_at_a_few_pairs_is_one_too():
    # Who has seen four pairs may choose how many follow, and be wrong more often than alpha allows.
    history, _ = look_at(History(), question(replicates=4), 4)

    _, lines = look_at(history, question(replicates=30), 30)

    assert len(lines) == 1


def test_looks_of_a_sequential_plan_are_foreseen():
    asked = question(replicates={"min": 6, "max": 60, "batch": 6})
    history = History()

    for count in (6, 12, 18):
        history, lines = look_at(history, asked, count)
        assert lines == []

    assert [next(iter(look.pairs.values())) for look in history.looks] == [6, 12, 18]
    spent = [next(iter(look.spent.values())) for look in history.looks]
    assert spent == pytest.approx([0.05 * (count / 60) ** 2 for count in (6, 12, 18)])
    _, lines = look_at(history, question(replicates={"min": 6, "max": 90, "batch": 6}), 18)
    assert len(lines) == 1


def test_a_sequential_study_counts_whole_looks_and_stops_where_it_is_clear():
    asked = question(replicates={"min": 6, "max": 60, "batch": 6}, arms=("relu", "swish", "tanh"))
    rng = np.random.default_rng(0)
    relu = rng.normal(0.9, 0.01, 60)
    swish, tanh = relu + rng.normal(0.03, 0.01, 60), relu + rng.normal(0.001, 0.02, 60)

    def at(count):
        table = pl.concat([rows(a, s[:count]) for a, s in {"relu": relu, "swish": swish, "tanh": tanh}.items()])
        conclusion = conclude(table, asked, History())
        return [finding.judgement.pairs for finding in conclusion.findings], [of.arm for of in conclusion.running]

    assert at(6) == ([6, 6], ["swish", "tanh"])
    pairs, running = at(24)
    assert running == ["tanh"]
    assert pairs[0] in (12, 18)
    assert at(27) == at(24)  # no whole look more
    assert at(60)[0] == [pairs[0], 60]


def test_over_datasets_a_comparison_goes_on_by_itself_when_those_of_each_are_decided():
    asked = question(replicates={"min": 6, "max": 60, "batch": 6}, datasets=("Digits", "MNIST"))
    rng = np.random.default_rng(0)
    relu = rng.normal(0.9, 0.01, 60)
    arms = {"Digits": relu + rng.normal(0.04, 0.03, 60), "MNIST": relu - rng.normal(0.04, 0.03, 60)}

    def at(count):
        tables = [
            rows(name, of[:count], dataset=dataset)
            for dataset, swish in arms.items()
            for name, of in {"relu": relu, "swish": swish}.items()
        ]
        conclusion = conclude(pl.concat(tables), asked, History())
        return [finding.judgement for finding in conclusion.findings], conclusion.running

    (digits, mnist, overall), running = at(24)
    assert (digits.verdict, mnist.verdict, overall.verdict) == ("better", "worse", "undecided")
    assert max(digits.pairs, mnist.pairs) < overall.pairs == 24
    assert running == [Comparison(None, "MLP", "swish", "relu")]
    at_the_end, running = at(60)
    assert [of.pairs for of in at_the_end] == [digits.pairs, mnist.pairs, 60]
    assert running == []
    both = np.mean([arms["Digits"] - relu, arms["MNIST"] - relu], axis=0)
    assert at_the_end[2].difference.estimate == pytest.approx(both.mean())


# --- tuning ---


def test_each_arm_gets_its_best_value_on_val():
    assert choose_values(tuning_table(SCORES)) == {("Digits", "MLP", "relu"): 0.01, ("Digits", "MLP", "tanh"): 0.001}


def test_a_diverged_replicate_counts_as_guessing_when_a_value_is_chosen():
    scores = {"relu": {0.001: [0.5, 0.5], 0.01: [None, 0.95]}}

    assert choose_values(tuning_table(scores)) == {("Digits", "MLP", "relu"): 0.01}  # .525
    assert choose_values(tuning_table({"relu": {0.001: [0.53, 0.53], 0.01: [None, 0.95]}})) == {
        ("Digits", "MLP", "relu"): 0.001
    }


def test_of_values_that_tie_the_one_of_lower_loss_is_chosen():
    table = tuning_table({"relu": {0.001: [0.9, 0.9], 0.01: [0.9, 0.9]}})
    lower = table.with_columns(pl.when(pl.col("value") == 0.01).then(0.05).otherwise("val_loss").alias("val_loss"))

    assert choose_values(table)["Digits", "MLP", "relu"] == 0.001
    assert choose_values(lower)["Digits", "MLP", "relu"] == 0.01


@pytest.mark.parametrize(
    ("grid", "best", "expected"),
    [
        ([1e-4, 1e-3, 1e-2], [1e-3], []),
        ([1e-4, 1e-3, 1e-2], [1e-2], [0.1]),
        ([1e-2, 1e-4, 1e-3], [1e-4, 1e-2], [1e-5, 0.1]),
        ([3e-4, 1e-3], [1e-3], [0.00333]),
        ([16, 32, 64], [64], [128]),
        ([0.0, 0.1, 0.2], [0.0], [-0.1]),
    ],
)
def test_a_grid_is_extended_by_a_step_where_the_best_value_is_at_its_edge(grid, best, expected):
    found = extended_values(grid, {("d", "n", str(place)): value for place, value in enumerate(best)})

    assert found == pytest.approx(expected)
    assert all(type(value) is type(grid[0]) for value in found)


def test_whether_the_winner_depends_on_the_tuned_setting_is_said():
    (of,) = summarize_tuning(tuning_table(SCORES), "model.optimizer.lr", [0.001, 0.01], level=0.95)

    assert of.winner == "tanh"
    assert of.winners == {0.001: "tanh", 0.01: "relu", 0.1: "tanh"}
    assert of.others == {0.01: "relu"}
    assert not of.depends  # two seeds a value, whose intervals overlap
    *_, said = tuning_sentences(of)
    assert said == (
        "The highest mean on val is that of tanh where each arm has its own value, and that of relu at 0.01 where all "
        "share it; 2 seeds a value do not tell whether the winner depends on model.optimizer.lr."
    )
    apart = {0.01: Interval(0.93, 0.92, 0.94)}, {0.01: Interval(0.9, 0.89, 0.91)}
    relu, tanh = (arm._replace(val_accuracy=known) for arm, known in zip(of.arms, apart, strict=True))
    assert of._replace(arms=[relu, tanh]).depends
    assert not of._replace(arms=[tanh._replace(arm="relu"), relu._replace(arm="tanh")]).depends
    assert of.extended == [0.1]
    assert [(arm.chosen, arm.at_edge) for arm in of.arms] == [(0.01, False), (0.001, True)]
    assert of.arms[0].val_accuracy[0.001].estimate == pytest.approx(0.91)


# --- the self-test ---


@pytest.mark.parametrize("splits", [100, pytest.param(400, marks=pytest.mark.slow)])
def test_a_sound_harness_passes_its_own_test(splits):
    scores = np.random.default_rng(1).normal(0.9, 0.02, 30)

    found = simulate_splits(scores, alpha=0.05, margin=0.005, design=None, splits=splits)

    assert found.pairs == 15
    assert found.false_alarms.low <= 0.05
    assert found.power_seen.low <= 0.8 <= found.power_seen.high + 0.03  # splits of 30 seeds hang together


def test_a_harness_that_cries_wolf_fails_it(monkeypatch):
    def cries_wolf(family, failures, **_):
        return [judgement._replace(verdict="better") for judgement in judge_family(family, failures)]

    from actbench.inference.verdict import certificate

    judge_family = certificate.judge_family
    monkeypatch.setattr(certificate, "judge_family", cries_wolf)

    found = certificate.simulate_splits(np.linspace(0.8, 0.9, 16), alpha=0.05, margin=0.005, design=None, splits=50)

    common = {"dataset": "d", "network": "n", "alpha": 0.05, "power_planned": 0.8}
    assert not Certificate(repeated=16, equal=16, **common, **found._asdict()).passed


def test_a_harness_that_does_not_repeat_fails_it():
    found = simulate_splits(np.linspace(0.8, 0.9, 12), alpha=0.05, margin=0.005, design=None, splits=20)
    common = {"dataset": "d", "network": "n", "alpha": 0.05, "power_planned": 0.8, **found._asdict()}

    assert Certificate(repeated=12, equal=12, **common).passed
    assert not Certificate(repeated=12, equal=11, **common).passed


def test_a_self_test_of_pairs_that_reach_no_p_proves_nothing():
    found = simulate_splits(np.linspace(0.8, 0.9, 10), alpha=0.05, margin=0.005, design=None, splits=20)

    of = Certificate("d", "n", 10, 10, alpha=0.05, power_planned=0.8, **found._asdict())

    assert not of.passed
    assert "too few seeds to tell" in certificate_sentence(of)


def test_a_share_has_its_exact_interval():
    # Clopper and Pearson's interval of 4 in 20, from published tables.
    assert proportion_interval(4, 20) == pytest.approx((0.2, 0.0573, 0.4366), abs=1e-4)


# --- planning ---


def test_the_smallest_difference_that_a_plan_sees_comes_from_the_records_at_hand():
    difference = np.array([0.02, -0.01, 0.03, -0.02, 0.01, 0.00, -0.01, 0.02])
    known = pl.concat([rows("relu", RELU), rows("swish", np.add(RELU, difference))])

    (of,) = forecast_power(question(replicates=30), known, pl.DataFrame(), {"Digits": 270})

    effect = TTestPower().solve_power(nobs=30, alpha=0.05, power=0.8)
    assert of.source == "records at hand"
    assert of.sd[0] == pytest.approx(difference.std(ddof=1))
    assert of.detectable[0] == pytest.approx(effect * difference.std(ddof=1), rel=1e-3)


def test_without_records_a_plan_goes_by_the_pilot_and_else_by_the_test_set():
    tried = pl.concat(
        [
            rows("relu", RELU[:4], first_seed=2 * 10**9),
            rows("swish", [0.96, 0.99, 0.95, 0.99], first_seed=2 * 10**9),
        ]
    )

    (by_pilot,) = forecast_power(question(), pl.DataFrame(), tried, {"Digits": 270})
    (by_size,) = forecast_power(question(), pl.DataFrame(), pl.DataFrame(), {"Digits": 270})
    nothing = forecast_power(question(), pl.DataFrame(), pl.DataFrame(), {"Digits": None})

    assert by_pilot.source == "the pilot"
    assert by_pilot.sd[0] == pytest.approx(np.std(np.subtract([0.96, 0.99, 0.95, 0.99], RELU[:4]), ddof=1))
    assert by_size.source == "rough bound from 270 test images, at an accuracy of 0.9"
    assert by_size.sd[0] == pytest.approx(math.sqrt(2 * 0.9 * 0.1 / 270))
    assert nothing == []


# --- files ---


@pytest.fixture
def folder(tmp_path):
    asked = question(datasets=("Digits", "MNIST"), tune={"model.optimizer.lr": [0.001, 0.01], "replicates": 2})
    swish = [None, *np.add(RELU[1:], 0.02)]
    table = pl.concat(
        [rows(arm, of, dataset=d) for d in ("Digits", "MNIST") for arm, of in {"relu": RELU, "swish": swish}.items()]
    )
    records.write_records(tmp_path / "records.parquet", table)
    tried = {"relu": SCORES["relu"], "swish": SCORES["tanh"]}
    records.write_records(tmp_path / "tuning.parquet", tuning_table(tried))
    certificate = Certificate("Digits", "MLP", 8, 8, 9, 6, 0.05, Interval(0, 0, 0.1), 0.1, 0.8, Interval(0.8, 0.7, 0.9))
    replace(History(), certificates={asked.hash: [to_json_values(certificate)]}).planned(asked).write(tmp_path)
    return tmp_path


def test_what_is_told_follows_its_schema(folder):
    results = load_results(folder)

    content = json.loads((folder / "verdict.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(content, schema())
    assert [of["sentence"] for of in content["comparisons"]] == list(results.sentences)[: len(content["comparisons"])]
    assert content["certificates"][0]["passed"]
    assert content["tuning"][0]["depends"] is False
    assert content["plan"]["as_planned"]
    assert content["level_holds"]


def test_told_again_it_is_the_same(folder):
    load_results(folder)
    before = (folder / "verdict.json").read_bytes()

    load_results(folder)

    assert (folder / "verdict.json").read_bytes() == before
    assert len(History.read(folder).looks) == 1


def test_a_report_needs_no_torch(folder):
    code = (
        "import sys; from actbench.cli import main; status = main(['report', sys.argv[1]]); "
        "assert not {'torch', 'pytorch_lightning'} & set(sys.modules), 'heavy'; sys.exit(status)"
    )

    result = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=60)

    assert result.returncode == 0, result.stderr
    assert "Over these 2 datasets" in result.stdout


@pytest.mark.parametrize("kind", ["md", "tex", "csv", "json", "svg"])
def test_a_report_in_another_format_names_its_files(folder, kind, capsys):
    assert main(["report", str(folder), "--format", kind]) == 0

    written = capsys.readouterr().out.splitlines()
    assert written
    assert all(name.endswith(f".{kind}") and Path(name).stat().st_size for name in written)


def test_a_report_writes_the_page_or_tensorboards_files(folder, capsys):
    page = main(["report", str(folder)])
    before = (folder / "report.html").is_file(), (folder / "tensorboard").exists()

    events = main(["report", str(folder), "--format", "tensorboard"])

    assert (page, events) == (0, 0)
    assert before == (True, False)
    assert list((folder / "tensorboard").rglob("events*"))
    assert capsys.readouterr().out.splitlines()[-1].startswith("tensorboard --logdir")


def test_two_studies_side_by_side_say_what_changed(folder, tmp_path_factory, capsys):
    other = tmp_path_factory.mktemp("other")
    grown = question(datasets=("Digits", "MNIST"), alpha=0.1)
    records.write_records(other / "records.parquet", records.read_records(folder / "records.parquet"))
    History().planned(grown).write(other)

    same, different = (main(["report", str(folder), str(of)]) for of in (folder, other))

    assert (same, different) == (0, 0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "nothing changed"
    assert any("alpha" in line and "0.1" in line for line in lines[1:])


@pytest.mark.parametrize("words", [["nowhere"], [], ["--format", "pdf"], ["a", "b", "c"]])
def test_a_report_of_what_is_not_there_is_refused_in_one_line(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    try:
        status = main(["report", *words])
    except SystemExit as error:
        status = error.code

    said = capsys.readouterr()
    assert (status, said.out, len(said.err.splitlines())) == (2, "", 1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "records.parquet").unlink(), "is not the folder of a study with records"),
        (lambda folder: (folder / "records.parquet").write_bytes(b"PAR1"), "damaged"),
        (lambda folder: (folder / "history.json").unlink(), "no plan in history.json"),
        (lambda folder: (folder / "history.json").write_text('{"plans": 3}'), "history.json is damaged"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_in_one_line(folder, damage, message):
    damage(folder)

    with pytest.raises(records.RecordError, match=message) as error:
        load_results(folder)

    assert "\n" not in str(error.value)


def test_a_look_is_kept_with_its_decisions(folder):
    results = load_results(folder)

    (look,) = History.read(folder).looks

    assert isinstance(look, Look)
    assert look.verdicts["Digits/MLP: swish - relu"] == results.conclusion.findings[0].judgement.verdict
    assert look.pairs["all datasets/MLP: swish - relu"] == 8
