"""What a study with a ``timing.json`` says of prices: sentences, tables, page, CSV and JSON."""

import csv
import json
import math
import re
from html import escape

import jsonschema
import numpy as np
import pytest
from made_studies import SLOW_LOGS, timed_study
from scipy import stats

from actbench.inference.frames import COMPARISON_COLUMNS, PRICE_COLUMNS, comparison_frame, price_frame
from actbench.inference.verdict import schema
from actbench.inference.verdict.price_words import NO_DIFFERENCE
from actbench.inference.verdict.timing import Timings
from actbench.records import fingerprint
from actbench.report import figures, page, tables
from actbench.report.exports import write_exports
from actbench.report.sections import stories

TIME = re.compile(r"dominat|faster|slower|sooner|(more|less|equal) time|trade-off|time was seen|training step")
SLOW_RATIO = math.exp(np.mean(SLOW_LOGS))


def rows_of(results, name):
    """Rows of a table by arm, texts by heading."""
    (table,) = (table for table in tables(results) if table.name == name)
    rows = [{of.heading: cell.text for of, cell in zip(table.columns, row, strict=True)} for row in table.rows]
    return {row["arm"]: row for row in rows}


def verdict_json(folder):
    return json.loads((folder / "verdict.json").read_text())


def test_a_twin_is_no_better_and_no_difference_in_time_was_seen(tmp_path):
    results = timed_study(tmp_path)

    twin = results.conclusion.findings[0]
    about_twin = [line for line in results.sentences if line.startswith("twin beside relu")]
    cells = [*rows_of(results, "comparisons")["twin"].values(), *rows_of(results, "price")["twin"].values()]
    assert twin.judgement.verdict in ("equivalent", "undecided")
    assert len(about_twin) == 1
    assert f"twin beside relu: {NO_DIFFERENCE} (ratio 1.000" in about_twin[0]
    assert cells.count(NO_DIFFERENCE) == 2
    assert not re.search("dominat|faster|slower|more time|less time|trade-off", " ".join([*about_twin, *cells]))


def test_prices_follow_the_verdicts_and_stand_in_the_section_on_cost(tmp_path):
    results = timed_study(tmp_path)

    (cost,) = (story for story in stories(results) if story.name == "cost")
    content = page(results._replace(command=None), name="s")

    assert [line.split(" ")[0] for line in results.sentences[2:]] == ["twin", "swish"]
    assert list(cost.notes) == results.sentences[2:]
    assert all(f"<li>{escape(line)}</li>" in content for line in cost.notes)


def test_the_numbers_are_those_of_a_calculation_by_hand(tmp_path):
    results = timed_study(tmp_path)

    _, swish = price_frame(results).to_dicts()

    ends = stats.t.interval(0.95, 5, np.mean(SLOW_LOGS), stats.sem(SLOW_LOGS))
    expected = [SLOW_RATIO, math.exp(ends[0]) / 1.02, math.exp(ends[1]) * 1.02]
    assert [swish[f"step_time_ratio{end}"] for end in ("", "_low", "_high")] == pytest.approx(expected)
    assert (swish["rounds"], swish["replicates"], swish["clock"]) == (6, 8, "processor time")
    assert (swish["arm_epochs"], swish["baseline_epochs"]) == pytest.approx((4 / SLOW_RATIO, 4))
    score = np.array([0.95, 0.96, 0.94, 0.95, 0.97, 0.93, 0.95, 0.96])
    rise = 1 - 0.5 ** np.arange(5)
    better = score + 0.02 + np.array([0.001, -0.001] * 4)
    epochs = np.arange(1, 5)
    at_end = [np.interp(4 / SLOW_RATIO, epochs, scale * rise[1:]) for scale in better]
    assert swish["equal_time_difference"] == pytest.approx(np.mean(at_end - score * rise[-1]))
    assert swish["equal_time_verdict"] == "worse"
    assert swish["target"] == pytest.approx(np.median(score * rise[-1]))
    assert (swish["seeds"], swish["arm_reached"], swish["baseline_reached"]) == (
        8,
        7,
        6,
    )  # of 93.0 to 97.0 %, 95.0 % is the median
    arm_s = swish["arm_epochs_to_target"] * SLOW_RATIO * 0.02 * 10 / 8
    assert swish["arm_time_to_target_s"] == pytest.approx(arm_s)
    assert (swish["arm_saved_bytes"], swish["baseline_saved_bytes"]) == (4, 0)


def test_an_arm_that_is_better_and_slower_is_a_trade_off(tmp_path):
    results = timed_study(tmp_path)

    row = rows_of(results, "price")["swish"]

    assert rows_of(results, "comparisons")["swish"]["with time"] == "trade-off"
    assert comparison_frame(results)["with_time"].to_list() == [NO_DIFFERENCE, "trade-off"]
    assert (row["a step (ratio)"], row["time"]) == ("1.997", "99.7 % more time")
    assert (row["epochs"], row["reached by (seeds)"], row["kept (bytes an element)"]) == ("2 / 4", "7 / 6", "4 / 0")
    assert "a training step takes 99.7 % more time (ratio 1.997" in page(results._replace(command=None), name="s")


def test_csv_has_the_columns_that_are_documented(tmp_path):
    results = timed_study(tmp_path)

    (path,) = (path for path in write_exports(results, tmp_path, "csv") if path.name == "price.csv")

    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    frame = price_frame(results)
    assert list(rows[0]) == frame.columns == list(PRICE_COLUMNS)
    assert frame.schema == {name: column.type for name, column in PRICE_COLUMNS.items()}
    assert all(column.meaning for column in PRICE_COLUMNS.values())
    assert float(rows[1]["step_time_ratio"]) == pytest.approx(SLOW_RATIO)
    assert [path.name for path in write_exports(results, tmp_path, "md")][1] == "price.md"
    assert "time" not in " ".join(name for name in COMPARISON_COLUMNS if name != "with_time")


def test_json_holds_prices_as_the_schema_says(tmp_path):
    results = timed_study(tmp_path, ("Digits", "MNIST"))

    content = verdict_json(tmp_path)

    jsonschema.validate(content, schema())
    prices = {(of["dataset"], of["arm"]): of["price"] for of in content["comparisons"]}
    assert prices[None, "swish"] is None
    assert prices["MNIST", "twin"]["with_time"] == NO_DIFFERENCE
    swish = prices["Digits", "swish"]
    assert swish["timing"]["ratio"]["estimate"] == pytest.approx(SLOW_RATIO)
    assert swish["equal_time"]["judgement"]["verdict"] == "worse"
    assert swish["target"]["epochs"]["relu"]["reached"] == 6
    assert swish["saved_bytes"] == {"swish": 4, "relu": 0}
    assert all(sentence in " ".join(results.sentences) for sentence in swish["sentences"])


def test_of_several_datasets_each_price_names_its_own(tmp_path):
    results = timed_study(tmp_path, ("Digits", "MNIST"))

    starts = [line for line in results.sentences if "beside relu" in line]

    assert [line.split(":")[0] for line in starts] == [
        f"On {dataset} with MLP, {arm} beside relu" for dataset in ("Digits", "MNIST") for arm in ("twin", "swish")
    ]


def test_the_figure_of_costs_shows_timed_steps(tmp_path):
    results = timed_study(tmp_path)

    (figure,) = (figure for figure in figures.cost_figures(results) if figure.name == "cost-0-time")

    step_ms = 1000 * 0.02 * 10 / 8
    costs = dict(figure.data.select("arm", "cost").iter_rows())
    assert costs == pytest.approx({"relu": step_ms, "twin": step_ms, "swish": SLOW_RATIO * step_ms})
    assert "timed in turns" in figure.finding


def test_where_an_arm_was_not_timed_the_figure_shows_fits(tmp_path):
    timings = timed_study(tmp_path / "whole").conclusion.findings and Timings.read(tmp_path / "whole")

    results = timed_study(tmp_path / "part", timings=Timings(timings.timings[:1], timings.saved_bytes))

    (figure,) = (figure for figure in figures.cost_figures(results) if figure.name == "cost-0-time")
    costs = dict(figure.data.select("arm", "cost").iter_rows())
    assert costs == pytest.approx({"relu": 14, "twin": 14, "swish": 15})
    assert "timed in turns" not in figure.finding


def test_without_a_timing_file_nothing_is_said_of_time(tmp_path):
    results = timed_study(tmp_path, timings=None)

    content = verdict_json(tmp_path)
    jsonschema.validate(content, schema())
    assert [of["price"] for of in content["comparisons"]] == [None, None]
    assert "price" not in [table.name for table in tables(results)]
    assert len(price_frame(results)) == 0
    assert not TIME.search(" ".join(results.sentences))
    assert comparison_frame(results)["with_time"].null_count() == 2


def test_where_nothing_was_timed_epochs_and_bytes_are_known(tmp_path):
    saved = {fingerprint(arm): size for arm, size in {"relu": 0.0, "twin": None, "swish": 4.0}.items()}

    results = timed_study(tmp_path, timings=Timings([], saved))

    jsonschema.validate(verdict_json(tmp_path), schema())
    text = " ".join(results.sentences[2:])
    assert "needed fewer epochs" in text
    assert "swish keeps 4 bytes for the backward pass" in text
    assert "twin keeps" not in text
    assert not TIME.search(text)
    row = rows_of(results, "price")["swish"]
    assert (row["time"], row["val at equal time (points)"], row["kept (bytes an element)"]) == ("–", "–", "4 / 0")
