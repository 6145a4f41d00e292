"""What the page, the tables and the exports say of a mechanism."""

import polars as pl
import pytest
from made_studies import failing_study, measured_study, with_mechanism

from actbench.records import MECHANISM, STATISTICS
from actbench.report import markdown, page, tables
from actbench.report.embedded import embed_records
from actbench.report.exports import write_exports
from actbench.report.figures import mechanism_figures
from actbench.report.figures.figure import render
from actbench.report.sections import stories


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def results(folder):
    return measured_study(folder)


def test_the_page_has_a_section_only_where_it_was_measured(results, tmp_path):
    shown, plain = page(results, name="s"), [story.name for story in stories(failing_study(tmp_path))]

    assert '<section id="mechanism"' in shown
    assert "All 9 failed seeds of relu have 100 % dead units" in shown
    assert "outside the family" in shown
    assert "not a cause" in shown
    assert "mechanism" not in plain


def test_each_statistic_is_drawn_by_depth_and_over_epochs(results):
    names = [figure.name for figure in mechanism_figures(results)]

    along = [f"mechanism-{name}-0-{x}" for name in STATISTICS for x in ("depth", "epochs")]
    assert names == [*along, "mechanism-rank-0-epochs"]


def test_a_figure_shows_the_call_at_which_arms_differ_most(results):
    depth, epochs = (figure.data for figure in mechanism_figures(results)[:2])

    dead = depth.filter(arm="relu").sort("depth")["mean"].to_list()
    assert dead == pytest.approx([0, 30])  # 9 of 30 seeds
    assert set(epochs["site"]) == {"layers.3"}
    assert epochs.filter(arm="relu").sort("epoch")["mean"].to_list() == pytest.approx([0, 30, 30, 30])


def test_gradients_over_many_orders_of_magnitude_are_drawn(results):
    tiny = [[[1e-12, 0.0]] * 4, [[1e-3, 1.0]] * 4] * 45
    table = results.table.with_columns(
        pl.Series("mechanism_gradient", tiny, dtype=results.table.schema["mechanism_gradient"])
    )

    figures = {figure.name: figure for figure in mechanism_figures(results._replace(table=table))}
    figure = figures["mechanism-gradient-0-depth"]

    assert (figure.data["low"] > 0).all()
    assert render([figure], "svg")


def test_tables_have_a_row_for_each_call_with_intervals(results):
    found = {table.name: table for table in tables(results)}

    differences = found["mechanism-difference"]
    rows = {(row[0].text, row[1].text): row for row in differences.rows}
    assert rows["swish", "layers.3"][4].text.startswith("-30.0 (")
    assert len(differences.rows) == 2 * 3  # two arms, two calls and the inputs of the last layer
    assert "outside the family" in differences.title
    assert "not a cause" in markdown(found["mechanism-correlation"])


def test_csv_has_all_means_and_differences(results, folder):
    paths = {path.stem: path for path in write_exports(results, folder, "csv")}

    means, differences = (pl.read_csv(paths[name]) for name in ("mechanism", "mechanism_differences"))
    assert len(means) == 3 * 4 * (2 * len(STATISTICS) + 1)
    assert len(differences) == 2 * (2 * len(STATISTICS) + 1)


def test_the_page_holds_no_lists_of_lists(results):
    assert not set(embed_records(results).columns) & set(MECHANISM)


def test_an_arm_with_other_calls_than_the_baseline_has_no_difference(results):
    other = with_mechanism(results.table.filter(arm="swish")).with_columns(
        pl.Series("mechanism_sites", [["a", "b"]] * 30)
    )
    table = pl.concat([results.table.filter(pl.col("arm") != "swish"), other])

    found = {table.name: table for table in tables(results._replace(table=table))}

    assert [row[1].text for row in found["mechanism-difference"].rows if row[0].text == "swish"] == [
        "inputs of the last layer"
    ]


def test_an_arm_of_which_no_call_was_measured_is_named(results):
    table = results.table
    columns = [name for name in MECHANISM if name not in ("mechanism_epochs", "mechanism_rank")]
    nothing = {
        name: pl.lit([] if table.schema[name] == pl.List(pl.String) else [[]] * 4, dtype=table.schema[name])
        for name in columns
    }
    swish = pl.col("arm") == "swish"
    emptied = table.with_columns(
        pl.when(swish).then(value).otherwise(pl.col(name)).alias(name) for name, value in nothing.items()
    )

    notes = next(story.notes for story in stories(results._replace(table=emptied)) if story.name == "mechanism")

    assert any(note.startswith("No call of swish could be measured: the network keeps it where") for note in notes)
    assert not any("No call of relu" in note for note in notes)
