"""Simulations of `benchmarks/error_rates.py`: few studies here, and as many as it takes under the marker."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from actbench.inference.stats import judge_family, sign_flip, stops

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RESULTS = BENCHMARKS / "results" / "error_rates.json"
sys.path.insert(0, str(BENCHMARKS))
rates, laws = import_module("error_rates"), import_module("laws")

LAWS = pytest.mark.parametrize("law", list(laws.LAWS))
STUDIES = pytest.mark.parametrize("studies", [100, pytest.param(2_000, marks=pytest.mark.slow)])
ARMS = pytest.mark.parametrize("arms", [1, 3, pytest.param(10, marks=pytest.mark.slow)])
BOTH = rates.SIDES[:2]


def missed(rows):
    return [row for row in rows if not row.met]


@LAWS
@STUDIES
@ARMS
@pytest.mark.parametrize("pairs", [6, 12, 30, pytest.param(60, marks=pytest.mark.slow)])
def test_errors_of_a_study_keep_their_level(law, pairs, studies, arms):
    rows = rates.checked(rates.error_rates, law, pairs=pairs, arms=arms, studies=studies)

    assert [row.measure for row in rows] == ["false alarms", "false equivalents"]
    assert missed(rows) == []


@LAWS
@STUDIES
@pytest.mark.parametrize("arms", [3, *(pytest.param(arms, marks=pytest.mark.slow) for arms in (1, 10))])
def test_errors_over_ten_looks_keep_their_level(law, studies, arms):
    rows = rates.checked(rates.error_rates, law, pairs=60, looks=10, arms=arms, studies=studies)

    assert [row.measure for row in rows] == ["false alarms", "false equivalents"]
    assert missed(rows) == []


@pytest.mark.parametrize("law", list(laws.FAILING))
@STUDIES
@pytest.mark.parametrize("arms", [1, pytest.param(3, marks=pytest.mark.slow), pytest.param(7, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("pairs", "looks"),
    [(6, 1), (12, 1), *(pytest.param(*size, marks=pytest.mark.slow) for size in ((30, 1), (60, 1), (60, 10)))],
)
def test_errors_of_all_parts_together_keep_their_level(law, pairs, looks, arms, studies):
    rows = rates.checked(rates.part_errors, law, pairs=pairs, looks=looks, arms=arms, studies=studies)

    assert [row.measure for row in rows] == [
        *(f"false alarms, {part}" for part in ("all seeds", "failures", "where both train", "any part")),
        "false equivalents, any part",
    ]
    assert missed(rows) == []


@STUDIES
def test_where_both_train_no_failure_makes_a_false_alarm(studies):
    rows = rates.checked(rates.headlines, "arm fails, equal where both train", pairs=12, studies=studies)

    assert missed(rows) == []


@STUDIES
def test_a_false_verdict_on_all_seeds_hardly_leads_once_a_failure_was_seen(studies):
    rows = {row.measure: row.rate for row in rates.headlines("arm fails, baseline does not", pairs=12, studies=studies)}

    assert rows["all seeds better or worse"] > 0.15  # most of which saw no failure
    assert rows["all seeds lead, though a failure was seen"] <= 0.05


@pytest.mark.parametrize("family", list(filter(None, laws.FAMILIES)))
@pytest.mark.parametrize(
    ("law", "pairs", "looks"),
    [
        pytest.param(law, pairs, looks, marks=[pytest.mark.slow] if number and looks > 1 else [])
        for number, law in enumerate(laws.MIXED)
        for pairs, looks in ((12, 1), (60, 10))
    ],
)
@STUDIES
def test_errors_of_other_families_keep_their_level(law, family, pairs, looks, studies):
    rows = rates.checked(rates.error_rates, law, family=family, pairs=pairs, looks=looks, arms=3, studies=studies)

    assert missed(rows) == []


def test_the_families_are_what_a_study_compares():
    one = laws.all_pairs("normal", np.random.default_rng(0), studies=2, arms=2, pairs=5)
    own = laws.differences("normal", np.random.default_rng(0), studies=2, arms=2, pairs=5)
    both = laws.two_datasets("normal", np.random.default_rng(0), studies=2, arms=2, pairs=5)

    assert np.allclose(one, np.stack([own[:, 0], own[:, 1], own[:, 1] - own[:, 0]], axis=1))
    assert np.array_equal(both[:, :2], own)
    assert np.allclose(both[:, 4:], (both[:, :2] + both[:, 2:4]) / 2)


@STUDIES
@pytest.mark.parametrize("pairs", rates.PAIRS)
@pytest.mark.parametrize("law", laws.PLAIN)
def test_intervals_cover_the_mean_of_well_behaved_scores(law, pairs, studies):
    rows = rates.checked(rates.coverage, law, pairs=pairs, studies=2 * studies)

    assert missed(rows) == []


@STUDIES
def test_intervals_of_all_looks_cover_the_mean_together(studies):
    rows = rates.checked(rates.repeated_coverage, "normal", studies=2 * studies)

    assert missed(rows) == []


@STUDIES
@pytest.mark.parametrize("pairs", [10, 12, 30, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("goal", [0.5, 0.8, 0.95])
def test_power_is_what_the_formula_says(goal, pairs, studies):
    rows = rates.checked(rates.power_seen, goal, pairs=pairs, studies=4 * studies)

    assert missed(rows) == []


@STUDIES
@pytest.mark.parametrize("effect", [rates.detectable(60), 1.0])
def test_looking_saves_trainings_and_loses_little_power(effect, studies):
    rows = rates.checked(rates.looking, effect, studies=2 * studies)

    assert [row.measure for row in rows] == ["saving", "power", "loss of power"]
    assert missed(rows) == []


@pytest.mark.parametrize("law", ["normal", "accuracy on 270 images"])
@pytest.mark.parametrize("pairs", [12, 30])
def test_the_simulated_p_values_are_those_of_the_test(pairs, law):
    drawn = laws.differences(law, np.random.default_rng(0), studies=20, arms=1, pairs=pairs)[:, 0]

    p = rates.p_values(drawn, rates.SIDES)

    expected = [
        [sign_flip(side.sign * values, alternative=side.alternative) for values in drawn] for side in rates.SIDES
    ]
    assert p.tolist() == expected


@pytest.mark.parametrize("law", ["normal", "accuracy on 270 images", "one run in ten fails"])
@pytest.mark.parametrize(
    ("pairs", "design", "studies"), [(12, None, 24), pytest.param(60, rates.DESIGN, 8, marks=pytest.mark.slow)]
)
def test_the_simulated_decisions_are_those_of_a_study(pairs, design, studies, law):
    errors = rates.sequential_errors if design else rates.fixed_errors
    rng = np.random.default_rng(0)
    drawn = laws.differences(law, rng, studies=studies, arms=3, pairs=pairs)
    drawn += rng.choice([-0.002, 0.002], (studies, 1, 1))  # so that about half of them decide something
    margin = 1.0

    alarms, equivalents = errors(drawn, BOTH)

    found = [judge_family(list(study), design=design) for study in drawn]
    assert alarms.tolist() == [any(one.verdict in ("better", "worse") for one in study) for study in found]
    found = [judge_family(list(margin + study), margin=margin, design=design) for study in drawn]
    assert equivalents.tolist() == [any(one.inside_margin for one in study) for study in found]
    assert 0 < alarms.sum() + equivalents.sum() < 2 * studies


@pytest.mark.parametrize("law", list(laws.FAILING))
@pytest.mark.parametrize(
    ("pairs", "design", "studies"),
    [(12, None, 24), pytest.param(24, rates.Design(6, 24, 6), 12, marks=pytest.mark.slow)],
)
def test_the_simulated_parts_are_those_of_a_study(pairs, design, studies, law, monkeypatch):
    if design:
        monkeypatch.setattr(rates, "DESIGN", design)
    monkeypatch.setattr(rates, "ALPHA", 0.4)  # so that many of them decide something
    looks = len(design.looks) if design else 1
    key = ("parts", law, pairs, looks, 2, 0)
    drawn, failed = laws.with_failures(law, laws.generator(*key), studies=studies, arms=2, pairs=pairs)

    rows = {row.measure: row.rate for row in rates.part_errors(law, pairs=pairs, looks=looks, arms=2, studies=studies)}

    alarms = equivalents = 0
    for values, lost in zip(drawn, failed, strict=True):
        at_looks = [
            judge_family([one[:end] for one in values], [one[:end] for one in lost], alpha=0.4, design=design)
            for end in (design.looks if design else (pairs,))
        ]
        found = [part for study in at_looks for one in study for part in (one, one.failures, one.trained) if part]
        alarms += any(part.verdict in ("better", "worse") for part in found)
        shifted = judge_family([1.0 + one for one in values], list(lost), alpha=0.4, margin=1.0, design=design)
        equivalents += any(part.inside_margin for one in shifted for part in (one, one.trained) if part)
    assert rows["false alarms, any part"] == alarms / studies
    assert rows["false equivalents, any part"] == equivalents / studies
    assert 0 < alarms < studies


@pytest.mark.parametrize(
    ("name", "studies"),
    [
        *((name, 100) for name in ("3 sources: 1, 0, 0", "5 sources: 0, 0, 0, 0, 0")),
        *(pytest.param(name, 2_000, marks=pytest.mark.slow) for name in laws.EFFECTS),
    ],
)
def test_intervals_of_components_cover_the_truth(name, studies):
    rows = rates.checked(rates.component_coverage, name, studies=studies)

    assert [row.measure for row in rows] == [*rates.COMPONENT_MEASURES]
    assert missed(rows) == []


def test_the_simulated_stops_are_those_of_a_study():
    drawn = np.random.default_rng(0).normal(0.6, 1, (12, 60))

    ends = [rates.first_crossing(values) for values in drawn]

    assert ends == [stops([values], rates.DESIGN, margin=1e-6)[0][0] for values in drawn]
    assert len(set(ends)) > 3


def test_of_any_flips_none_but_those_that_may_cross_do():
    drawn = laws.differences("accuracy on 270 images", np.random.default_rng(0), studies=100, arms=1, pairs=60)[:, 0]

    may = rates.may_cross(drawn, rates.SIDES[:1], 0.2)[0]

    spending = rates.DESIGN.spending(60)
    does = [
        rates.crosses(observed, rates.boundaries(sums, spending, level=0.2))
        for observed, sums in (rates.histories(values, rates.DESIGN, "two-sided") for values in drawn)
    ]
    assert sum(does) > 5
    assert sum(does) <= sum(may) < 50
    assert all(may[does])


def test_what_misses_its_limit_is_simulated_once_more():
    asked = []

    def simulate(*, studies, trial=0):
        asked.append((studies, trial))
        row = rates.Row("false alarms", "normal", 6, 1, 1, studies, 0.05 if trial else 0.2, most=0.06)
        return [row, row._replace(rate=0.01)]

    rows = rates.checked(simulate, studies=100)

    assert asked == [(100, 0), (1_000, 1)]
    assert [(row.rate, row.first, row.studies) for row in rows] == [(0.05, 0.2, 1_000), (0.01, None, 100)]


def test_the_shipped_figures_keep_their_limits():
    rows = [rates.Row(**row) for row in json.loads(RESULTS.read_text())["rows"]]

    assert len({(row.measure, row.law, row.pairs, row.looks, row.arms) for row in rows}) == len(rows)
    assert all(row.studies >= 2_000 for row in rows)
    assert missed(rows) == []


@pytest.mark.slow
def test_the_script_writes_and_prints_what_it_simulated(tmp_path):
    path = tmp_path / "error_rates.json"
    command = [sys.executable, BENCHMARKS / "error_rates.py", f"--output={path}"]

    first = subprocess.run([*command, "--studies=4"], capture_output=True, text=True, timeout=500, check=True)
    again = subprocess.run([*command, "--markdown"], capture_output=True, text=True, timeout=60, check=True)

    shipped = json.loads(RESULTS.read_text())["rows"]
    assert [(row["measure"], row["law"]) for row in json.loads(path.read_text())["rows"]] == [
        (row["measure"], row["law"]) for row in shipped
    ]
    assert again.stdout == first.stdout
    assert first.stdout.count("|---|") >= 7
