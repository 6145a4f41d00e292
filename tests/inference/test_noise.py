"""Where the noise is: what a study says of crossed seeds."""

import json

import jsonschema
import numpy as np
import polars as pl
import pytest
from made_records import question, rows
from made_studies import crossed_factors, noisy_study, records
from made_studies import study as made_study

from actbench.inference.stats import REST, Interval, pairs_needed, variance_components
from actbench.inference.verdict import VARIANCE, load_results, schema
from actbench.inference.verdict.noise import noise_lines, noise_sources, pairs_to_spend
from actbench.records import RecordError, write_records
from actbench.report.exports import write_exports
from actbench.report.sections import stories
from actbench.report.tables import tables
from actbench.seeding import levels

SOURCES = ("init", "split", "order")
FACTORS = crossed_factors()


def effects(sds, seed):
    """A score for each crossed replicate: effects of these sds by source, and of the rest."""
    rng = np.random.default_rng(seed)
    parts = [rng.normal(0, sds.get(source, 0), 5)[[*levels(column)]] for column, source in enumerate(SOURCES)]
    return sum(parts) + rng.normal(0, sds[REST], 25)


BASE = 0.8 + effects({"init": 0.02, REST: 0.005}, 1)
DIFFERENCE = 0.03 + effects({"split": 0.02, REST: 0.004}, 2)


def crossed_table(made=rows, **columns):
    columns = {"factors": FACTORS, **columns}
    return pl.concat([made("relu", BASE.tolist(), **columns), made("swish", (BASE + DIFFERENCE).tolist(), **columns)])


def test_components_are_those_of_arms_and_of_differences():
    relu, swish, difference = noise_sources(crossed_table(), question())

    crossed = {source: np.array(levels(column)) for column, source in enumerate(SOURCES)}
    assert [(each.arm, each.baseline, each.seeds) for each in (relu, swish, difference)] == [
        ("relu", None, 5),
        ("swish", None, 5),
        ("swish", "relu", 5),
    ]
    for noise, scores in ((relu, BASE), (swish, BASE + DIFFERENCE), (difference, DIFFERENCE)):
        expected = variance_components(scores, crossed)
        assert noise.components.total == pytest.approx(expected.total)
        for source in SOURCES:
            assert noise.components.parts[source].share == pytest.approx(expected.parts[source].share)
    assert difference.dominant == "split" == difference.largest
    assert relu.largest == "init"
    assert relu.pairs is None


def test_the_next_study_spends_what_the_components_ask_for():
    *_, difference = noise_sources(crossed_table(), question(margin=0.01, alpha=0.1))

    variance = difference.components.total
    assert difference.pairs == tuple(pairs_needed(0.01 / np.sqrt(value), alpha=0.1) for value in variance)
    assert difference.pairs.fewest < difference.pairs.estimate < difference.pairs.most


def test_a_difference_is_told_with_what_to_spend():
    asked = question(margin=0.01)
    noise = noise_sources(crossed_table(), asked)

    (line,) = noise_lines(noise, asked)

    part = noise[-1].components.parts["split"]
    pairs = noise[-1].pairs
    error = 100 * np.sqrt(part.variance.estimate / 5)
    assert line.startswith("On Digits with MLP, the difference of swish to relu has an sd of ")
    assert "25 pairs that cross 5 seeds each of init, split and order); split dominates: init " in line
    assert f"in {pairs.estimate:,} pairs ({pairs.fewest:,} to {pairs.most:,}), each with a new seed of every" in line
    assert f"New seeds matter most for split: if all pairs shared 5 of them, a standard error of {error:.2f} " in line
    assert error < 0.995  # above, one decimal is enough
    assert f"would fall by {100 * (1 - np.sqrt(1 - part.share.estimate)):.0f} %" in line


def test_without_evidence_no_source_is_named():
    scores = (0.8 + effects({REST: 0.01}, 5)).tolist()
    table = pl.concat([rows("relu", [0.8] * 25, factors=FACTORS), rows("swish", scores, factors=FACTORS)])

    (line,) = noise_lines(noise_sources(table, question()), question())

    assert "no part surely dominates" in line or "the rest dominates" in line
    assert "so none is worth more seeds than another." in line
    assert "New seeds matter" not in line


def test_equal_differences_are_told_as_such():
    table = pl.concat([rows(arm, [0.1 * shift] * 25, factors=FACTORS) for arm, shift in (("relu", 1), ("swish", 3))])

    *_, difference = noise_sources(table, question())

    assert difference.pairs is None
    assert noise_lines([difference], question()) == [
        "On Digits with MLP, the difference of swish to relu is the same in all 25 crossed pairs."
    ]


def test_failures_are_counted_and_told():
    scores = (BASE + DIFFERENCE).tolist()
    scores[3] = None
    table = pl.concat([rows("relu", BASE.tolist(), factors=FACTORS), rows("swish", scores, factors=FACTORS)])

    relu, swish, difference = noise_sources(table, question())

    assert (relu.failed, swish.failed, difference.failed) == (0, 1, 1)
    assert (
        "In 1 pair of them, a replicate failed to train, so that effects are not normal"
        in (noise_lines([difference], question())[0])
    )


def test_what_is_incomplete_or_crossed_in_another_way_is_not_compared():
    whole = crossed_table()
    unfinished = whole.filter((pl.col("arm") == "relu") | (pl.col("seed") < 24))
    other = pl.concat(
        [whole.filter(arm="relu"), rows("swish", BASE.tolist(), factors=crossed_factors(("init", "order", "split")))]
    )
    mixed = pl.concat(
        [whole.filter(pl.col("seed") < 24), rows("relu", [0.8], first_seed=24, factors=crossed_factors(first=5))]
    )

    assert [(each.arm, each.baseline) for each in noise_sources(unfinished, question())] == [("relu", None)]
    assert [(each.arm, each.baseline) for each in noise_sources(other, question())] == [("relu", None), ("swish", None)]
    assert noise_sources(mixed, question()) == []


def test_levels_count_from_the_first_seed():
    shifted = pl.concat(
        [
            rows(arm, scores.tolist(), first_seed=40, factors=crossed_factors(first=40))
            for arm, scores in (("relu", BASE), ("swish", BASE + DIFFERENCE))
        ]
    )

    assert [each.components for each in noise_sources(shifted, question(seed=40))] == [
        each.components for each in noise_sources(crossed_table(), question())
    ]


def test_every_view_of_a_study_shows_its_noise(tmp_path):
    results = noisy_study(tmp_path)

    (line,) = noise_lines(results.noise, results.question)
    assert results.sentences[-1] == line
    content = json.loads((tmp_path / "verdict.json").read_text())
    jsonschema.validate(content, schema())
    assert [entry["baseline"] for entry in content["variance"]] == [None, None, "relu"]
    assert content["variance"][2]["dominant"] == "split"
    assert " ".join(content["variance"][2]["sentences"]) == line
    assert [len(finding.means) for finding in results.conclusion.findings] == [2]  # the family is as before

    (table,) = (table for table in tables(results) if table.name == "variance")
    assert [row[0].text for row in table.rows[::5]] == ["relu", "swish", "swish – relu"]
    assert [row[1].text for row in table.rows[:5]] == [*SOURCES, "rest", "total"]
    for form in ("md", "tex", "csv"):
        paths = {path.stem: path.read_text() for path in write_exports(results, tmp_path, form)}
        assert "split" in paths["variance"]
    assert pl.read_csv(tmp_path / "exports" / "variance.csv")["sd"].is_not_null().all()
    (story,) = (story for story in stories(results) if story.name == "noise")
    assert story.notes == [line]
    (figure,) = story.figures
    assert figure.data["part"].to_list() == [*SOURCES, "rest", "total"]


def test_a_study_without_crossed_seeds_says_nothing_of_noise(tmp_path):
    results = made_study(tmp_path, [records("relu", [0.8, 0.81] * 4), records("swish", [0.82, 0.84] * 4)])

    assert results.noise == []
    assert "variance" not in {table.name for table in tables(results)}
    assert "noise" not in {story.name for story in stories(results)}
    assert json.loads((tmp_path / "verdict.json").read_text())["variance"] == []


def test_crossed_pairs_that_are_no_pairs_are_a_fault(tmp_path):
    made_study(tmp_path, [records("relu", [0.8, 0.81] * 4), records("swish", [0.82, 0.84] * 4)])
    table = crossed_table(made=records).with_columns(
        order_fingerprint=pl.when(pl.col("arm") == "swish").then(pl.lit("another")).otherwise("order_fingerprint")
    )
    write_records(tmp_path / VARIANCE, table)

    assert load_results(tmp_path).faults == [
        "crossed seeds, swish: 25 seeds have another batch order than relu, or an unknown one"
    ]


@pytest.mark.parametrize(
    "factors",
    [
        '{"crossed": 3, "first_seed": 0}',
        '{"crossed": [["init", [0, 1, 0]]], "first_seed": 0}',
        '{"crossed": [["init", []]], "first_seed": 0}',
        '{"crossed": [["init", [0, 1]]], "first_seed": "0"}',
        '{"crossed": [["init", [0, 0, 1, 1]]]}',
    ],
)
def test_records_with_another_design_are_refused_in_a_line(tmp_path, factors):
    made_study(tmp_path, [records("relu", [0.8, 0.81] * 4), records("swish", [0.82, 0.84] * 4)])
    write_records(tmp_path / VARIANCE, crossed_table(made=records, factors=factors))

    with pytest.raises(RecordError, match=r"variance.parquet: not records of crossed seeds \([^\n]*\)"):
        load_results(tmp_path)


def test_records_that_lack_columns_are_refused_in_a_line(tmp_path):
    made_study(tmp_path, [records("relu", [0.8, 0.81] * 4), records("swish", [0.82, 0.84] * 4)])
    write_records(tmp_path / VARIANCE, crossed_table(made=records).drop("network_name"))

    with pytest.raises(RecordError, match=r"variance.parquet lacks network_name; run its study again"):
        load_results(tmp_path)


def test_no_fewer_pairs_are_advised_than_the_exact_test_needs():
    pairs = pairs_to_spend(Interval(1e-8, 1e-9, 1e-6), 0.005, 0.05)

    assert pairs == (6, 6, 6)  # 2 / 2^6 of the flips is below .05, 2 / 2^5 is not
