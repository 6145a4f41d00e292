import json
import re
import subprocess
import sys
import time
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import altair
import numpy as np
import polars as pl
import pytest
import vl_convert
from made_studies import golden, random_study, record, records, study, with_shapes
from scipy import stats

from actbench import __version__
from actbench.cli.report import print_results
from actbench.inference.stats import Interval
from actbench.records import MECHANISM, to_frame
from actbench.report import embedded, figures, latex, markdown, page, tables, write_page
from actbench.report.embedded import MOST_VALUES, embed_records
from actbench.report.exports import all_figures
from actbench.report.figures import palette
from actbench.report.figures.curves import SHAPES

GOLDEN = Path(__file__).parent / "golden" / "report.txt"
COMMAND = "python main.py compare --config study.yaml --study.name 'a & b'"
BLOCKS = {"p", "h1", "h2", "h3", "li", "dt", "dd", "th", "tr", "td", "legend", "label", "summary", "pre", "figcaption"}
BLOCKS |= {"button", "option", "title", "div"}


class Text(HTMLParser):
    """The words of a page, a line for each block, and the content of its scripts."""

    def __init__(self, content):
        super().__init__()
        self.lines, self.scripts, self.inside = [""], [], None
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        if tag in ("script", "style"):
            self.inside = dict(attributes).get("type", tag)
        elif tag in BLOCKS:
            self.lines.append("")

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self.inside = None
        elif tag in BLOCKS:
            self.lines.append("")

    def handle_data(self, text):
        if self.inside is None:
            self.lines[-1] += text
        elif self.inside == "application/json":
            self.scripts.append(text)


def lines_of(results):
    """The words of a study's page, a line for each block."""
    found = Text(page(results._replace(command=COMMAND), name="a study")).lines
    return [" ".join(line.split()).replace(__version__, "VERSION") for line in found if line.strip()]


def figure_of(figures, name):
    return next(figure for figure in figures if figure.name == name)


def test_fits_that_the_clock_ended_are_told_first(tmp_path):
    timed = json.dumps({"trainer": {"max_time": "00:00:00:03"}})
    tables = [records(arm, [0.9] * 8, epochs=epochs, factors=timed) for arm, epochs in (("relu", 59), ("swish", 60))]

    told = page(study(tmp_path / "timed", tables), name="a study")
    silent = page(golden(tmp_path / "golden"), name="a study")

    line = "so no run repeats; median epochs that were trained: relu 59 and swish 60."
    assert line in told
    assert "by the clock" not in silent


def test_the_words_of_the_golden_study_are_as_they_were(tmp_path):
    lines = lines_of(golden(tmp_path))

    # To accept a change, look at each line that differs, then write `lines` there.
    assert lines == GOLDEN.read_text(encoding="utf-8").splitlines()


def test_nothing_is_minus_zero(tmp_path, capsys):
    luck = 1e-7 * np.array(
        [1, 2, -9, 3, 4, -8, 2, 1]
    )  # differences whose means and bounds are tiny, on either side of 0
    results = study(
        tmp_path,
        [
            with_shapes(records("relu", [0.9] * 8)).with_columns(test_loss=pl.lit(-0.0)),
            with_shapes(records("swish", (0.9 + luck).tolist()).with_columns(test_loss=pl.Series(luck))),
        ],
    )

    print_results(results, tmp_path)

    printed = capsys.readouterr().out.replace(str(tmp_path), "")
    words = "\n".join([*lines_of(results), *map(markdown, tables(results)), printed])
    assert re.findall(r".*[-−]0(?:\.0+)?(?![.\d]).*", words) == []


def test_the_page_is_one_file_that_is_told_where(tmp_path):
    results = golden(tmp_path)

    path = write_page(results._replace(command=None), tmp_path)

    assert path == tmp_path / "report.html"
    assert sorted(of.name for of in tmp_path.iterdir() if of.name.startswith("report")) == ["report.html"]
    assert f"<b>{tmp_path.name}</b>" in path.read_text(encoding="utf-8")


def test_a_page_that_cannot_be_made_leaves_the_last_one(tmp_path, monkeypatch):
    results = golden(tmp_path)
    before = write_page(results._replace(command=None), tmp_path).read_bytes()

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_page(results._replace(command="another"), tmp_path)

    assert (tmp_path / "report.html").read_bytes() == before
    assert not list(tmp_path.glob(".report*"))


def test_nothing_heavy_is_imported_for_a_page():
    code = (
        "import sys, actbench.report.figures, actbench.report; "
        "sys.exit(bool({'torch', 'pytorch_lightning', 'torchvision'} & set(sys.modules)))"
    )

    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


NAMES = ["<script>alert(1)</script>", "\"quoted' & </td> {{ 7 * 7 }} $x$", "激活函数 Ελληνικά", "x" * 200, "a|b_c\\d%"]


def test_names_are_text(tmp_path):
    results = study(tmp_path, [with_shapes(records(arm, [0.9, 0.91, 0.93])) for arm in NAMES], arms=NAMES, replicates=3)

    content = page(results._replace(command="echo '<i>'"), name="<b>name</b>")

    text = Text(content)
    assert "alert(1)</script>" not in content.replace("&lt;script&gt;alert(1)&lt;/script&gt;", "")
    for name in [*NAMES, "<b>name</b>", "echo '<i>'"]:
        assert any(name in " ".join(line.split()) for line in text.lines), name
    assert all(json.loads(script) is not None for script in text.scripts)


@pytest.mark.parametrize(
    ("tables", "settings", "expected"),
    [
        ([], {}, ["Nothing has finished yet.", "relu on Digits with MLP has 0 of 8 seeds"]),
        ([("relu", [0.9] * 3), ("swish", [0.8])], {}, ["This study is unfinished.", "has 1 of 8 seeds"]),
        ([("relu", [None] * 8), ("swish", [None] * 8)], {}, ["Every replicate has diverged", "16 in all, of which 16"]),
        ([("relu", [0.9] * 8)], {"arms": ["relu"]}, ["How does relu do on Digits with MLP?", "90.0 % on test"]),
        ([("relu", [0.9]), ("swish", [0.8])], {"replicates": 1}, ["a verdict needs two pairs at least"]),
        (
            [("relu", [0.9] * 4), ("swish", [0.8] * 4)],
            {"replicates": {"min": 6, "max": 12, "batch": 6}},
            ["This study is unfinished.", "Digits with MLP: swish against relu goes on"],
        ),
    ],
)
def test_what_there_is_is_shown_and_what_is_missing_is_said(tmp_path, tables, settings, expected):
    made = [records(arm, scores) for arm, scores in tables] or [records("relu", [0.9]).head(0)]

    text = "\n".join(lines_of(study(tmp_path, made, **settings)))

    for line in expected:
        assert line in text


@pytest.mark.parametrize(
    ("difference", "answer"),
    [
        (0.02, "Yes: swish beats relu by 2.0 points."),
        (-0.02, "No: swish falls short of relu by 2.0 points."),
        (0.0, "No: the two are equivalent, within 0.50 points."),
    ],
)
def test_the_answer_is_a_sentence(tmp_path, difference, answer):
    relu = np.array([0.9, 0.91, 0.92, 0.9, 0.91, 0.92, 0.9, 0.91])
    noise = np.array([0.001, -0.001] * 4)

    results = study(tmp_path, [records("relu", relu.tolist()), records("swish", (relu + difference + noise).tolist())])

    assert answer in lines_of(results)


def test_the_line_under_the_answer_speaks_of_the_same_arm(tmp_path):
    relu = np.full(8, 0.8)
    swish, tanh = relu + 0.01 + [0.001, -0.001] * 4, relu + 0.03 + [0.1, -0.1] * 4

    results = study(
        tmp_path,
        [records(arm, scores.tolist()) for arm, scores in (("relu", relu), ("swish", swish), ("tanh", tanh))],
        arms=("relu", "swish", "tanh"),
    )

    lines = lines_of(results)
    assert "Yes: swish beats relu by 1.0 points." in lines  # that tanh is more than that is undecided
    assert any(line.startswith("swish minus relu: +1.0 points") for line in lines)


def test_a_winner_that_depends_on_the_tuned_value_is_said_once_with_all_datasets(tmp_path):
    results = golden(tmp_path)
    (tuning,) = results.tunings
    known = {"relu": Interval(0.8, 0.79, 0.81), "swish": Interval(0.9, 0.89, 0.91)}
    arms = [arm._replace(val_accuracy={0.001: known.get(arm.arm, known["relu"])}) for arm in tuning.arms]
    unsettled = tuning._replace(winner="relu", winners={0.001: "swish"}, arms=arms)

    lines = lines_of(results._replace(tunings=[unsettled, unsettled._replace(dataset="MNIST")]))

    said = [line for line in lines if line.startswith("The winner on val depends") and "see below" in line]
    assert said == [f"The winner on val depends on {tuning.setting}, on Digits with MLP and MNIST with MLP; see below."]


# --- tables ---


def test_the_tables_hold_the_numbers_of_verdict_json(tmp_path):
    results = random_study(tmp_path, arms=3, seeds=8, datasets=2)
    comparisons = json.loads((tmp_path / "verdict.json").read_text())["comparisons"]

    table = next(of for of in tables(results) if of.name == "comparisons")

    names = [column.name for column in table.columns]
    for row, of in zip(table.rows, comparisons, strict=True):
        cells = {name: cell.value for name, cell in zip(names, row, strict=True)}
        assert cells["arm"] == of["arm"]
        assert cells["dataset"] == (of["dataset"] or "mean of all")
        assert cells["verdict"] == of["verdict"]
        assert cells["difference"] == of["difference"]["estimate"]
        assert cells["interval"] == of["difference"]["low"]
        assert (cells["p"], cells["adjusted p"], cells["pairs"]) == (of["p"], of["adjusted_p"], of["pairs"])


def test_what_is_beside_accuracy_stands_in_a_table_with_its_tests(tmp_path):
    results = random_study(tmp_path, arms=3, seeds=8, datasets=2)
    comparisons = json.loads((tmp_path / "verdict.json").read_text())["comparisons"]

    (table,) = (of for of in tables(results) if of.name == "secondary")

    names = [column.name for column in table.columns]
    rows = [{name: cell.value for name, cell in zip(names, row, strict=True)} for row in table.rows]
    for of in comparisons:
        own = {
            row["measure"]: row
            for row in rows
            if (row["arm"], row["dataset"]) == (of["arm"], of["dataset"] or "mean of all")
        }
        loss, *_ = of["secondary"]
        shown = own["test loss"]
        assert (shown["arm against baseline"], shown["interval"]) == (
            loss["difference"]["estimate"],
            loss["difference"]["low"],
        )
        assert (shown["p"], shown["effect"], shown["pairs"]) == (loss["p"], loss["effect"], loss["pairs"])
        if of["dataset"]:
            memory, shown = of["cost"]["memory"], own["peak memory"]
            assert (shown["arm against baseline"], shown["p"]) == (memory["ratio"]["estimate"], memory["p"])


def test_markdown_and_latex_have_every_row_and_escape_names(tmp_path):
    results = study(tmp_path, [records(arm, [0.9, 0.91, 0.93]) for arm in NAMES], arms=NAMES, replicates=3)

    arms = next(table for table in tables(results) if table.name == "arms")

    rows = markdown(arms).splitlines()[4:]
    assert len(rows) == len(NAMES)
    assert all(len(re.findall(r"(?<!\\)\|", row)) == len(arms.columns) + 1 for row in rows)
    text = latex(arms)
    assert r"a|b\_c\textbackslash{}d\%" in text
    assert text.count(r"\\") == len(NAMES) + 1
    assert r"\$x\$" in text


# --- figures ---


def test_the_forest_has_a_mark_for_each_comparison_where_it_belongs(tmp_path):
    results = random_study(tmp_path, arms=4, seeds=8, datasets=2)

    forests = figures.forest_figures(results)

    marks = {}
    for figure, dataset in zip(forests, [None, "Data0", "Data1"], strict=True):
        for row in figure.data.to_dicts():
            marks[dataset, figure.params["names"][row["row"]]] = (row["verdict"], row["estimate"])
    for finding in results.conclusion.findings:
        of = finding.judgement
        mark = marks.pop((finding.comparison.dataset, finding.comparison.arm))
        assert mark == (of.verdict, pytest.approx(100 * of.difference.estimate))
    assert not marks


def test_every_replicate_is_a_dot(tmp_path):
    results = golden(tmp_path)

    (figure,) = figures.pair_figures(results)

    swish, tanh = (figure.data.filter(arm=arm) for arm in ("swish", "tanh"))
    for arm, column in {"swish": "score", "relu": "baseline"}.items():
        own = results.table.filter(arm=arm).sort("seed")
        assert swish["seed"].to_list() == own["seed"].to_list()
        assert swish[column].to_list() == pytest.approx(100 * own["test_accuracy"].to_numpy(), rel=1e-6)
    assert len(figure.data) == 2 * 8
    assert tanh["state"].to_list() == ["trained"] * 7 + ["diverged"]
    assert set(tanh["baseline_state"]) == {"trained"}
    assert "swish with 8 of 8 seeds" in figure.finding


def test_a_curve_is_the_mean_over_seeds_with_students_interval(tmp_path):
    results = study(tmp_path, [records("relu", [0.9, 0.8, 0.85]), records("swish", [0.9])], replicates=3)

    figure = figure_of(figures.curve_figures(results), "curves-0-epoch-val-accuracy")

    last = figure.data.filter(arm="relu").row(-1, named=True)
    values = np.array([0.9, 0.8, 0.85]) * (1 - 0.5**4) * 100
    interval = stats.ttest_1samp(values, 0).confidence_interval()
    assert last["mean"] == pytest.approx(values.mean(), rel=1e-5)
    assert (last["low"], last["high"]) == pytest.approx((interval.low, interval.high), rel=1e-5)
    assert last["seconds"] == pytest.approx(4 * 0.014)
    alone = figure.data.filter(arm="swish")
    assert (len(alone), alone["low"].null_count(), alone["high"].null_count()) == (4, 4, 4)


def test_a_loss_without_bound_does_not_flatten_the_others(tmp_path):
    table = records("relu", [0.9] * 3, epoch_val_loss=[2.0, 1e30])

    results = study(tmp_path, [table, records("swish", [0.9] * 3)], replicates=3)

    figure = figure_of(figures.curve_figures(results), "curves-0-epoch-val-loss")
    for layer in figure.chart.to_dict()["layer"]:
        assert layer["encoding"]["y"]["scale"]["domain"] == pytest.approx([0, 2 * np.log(10)])
        assert layer["mark"]["clip"]


def test_chosen_values_are_marked(tmp_path):
    (figure,) = figures.tuning_figures(golden(tmp_path))

    rings = figure.data.filter("chosen")
    assert rings.select("value", "mean").rows() == [(0.01, pytest.approx(94))] * 3
    assert figure.chart.to_dict()["layer"][0]["encoding"]["x"]["scale"]["type"] == "log"
    assert "was tuned on val with 2 seeds a value: relu 0.01, swish 0.01, tanh 0.01." in figure.finding


def test_the_front_is_marked_and_so_is_a_busy_machine(tmp_path):
    figure = figure_of(figures.cost_figures(golden(tmp_path)), "cost-0-time")

    assert figure.data.filter("front")["arm"].to_list() == ["relu", "swish"]
    assert figure.data.filter("busy")["arm"].to_list() == ["tanh"]
    assert figure.data.filter("front")["cost"].to_list() == pytest.approx([14, 15])
    assert "busy with other things during all fits of tanh" in figure.finding


def test_learned_shapes_are_drawn_for_a_few_seeds_and_fixed_ones_once(tmp_path):
    function, slope = figures.shape_figures(golden(tmp_path))

    drawn = function.data.select("arm", "seed").unique(maintain_order=True).rows()
    assert drawn == [("relu", None), *(("swish", seed) for seed in range(5)), ("tanh", None)]
    assert slope.data.filter(arm="swish", seed=1)["y"][:2].to_list() == pytest.approx([0.1, 0.1])


def test_without_stored_shapes_there_is_no_such_section(tmp_path):
    results = study(tmp_path, [records("relu", [0.9] * 3), records("swish", [0.9] * 3)], replicates=3)

    assert figures.shape_figures(results) == []
    assert "The activations" not in lines_of(results)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_told_from_the_paper(scheme):
    def luminance(colour):
        parts = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    def contrast(tone):
        low, high = sorted(luminance(getattr(of, scheme)) for of in (tone, palette.PAPER))
        return (high + 0.05) / (low + 0.05)

    # WCAG 2.2: 4.5 for text, 3 for lines and marks.
    assert all(contrast(tone) >= 4.5 for tone in (palette.INK, palette.QUIET, *palette.VERDICTS.values()))
    assert all(contrast(tone) >= 3 for tone in palette.ARMS)


def test_forty_arms_look_different_without_colour_too():
    names = [f"arm{number}" for number in range(41)]

    found = palette.arm_styles(names, "arm0").values()

    assert len({(of.dash, of.shape) for of in found}) == 41


def test_verdicts_differ_in_shape_too():
    assert len(set(palette.SYMBOLS.values())) == len(set(palette.SIGNS.values())) == 4


def test_long_names_that_begin_and_end_alike_have_labels_of_their_own():
    names = [f"{'x' * 100}{middle}{'y' * 100}" for middle in "abc"]

    assert len(set(figures.figure.labels(names))) == 3


# --- what the page holds ---


def test_held_records_are_those_of_the_study(tmp_path):
    results = golden(tmp_path)

    held = embed_records(results)

    table = results.table.sort("seed", maintain_order=True)
    unpacked = {
        name: [of["levels"][code] for code in of["codes"]] if "codes" in of else of["values"]
        for name, of in held.columns.items()
    }
    assert (held.records, held.seeds, set(unpacked)) == (True, None, {*table.columns} - {*MECHANISM})
    assert unpacked["test_accuracy"] == table["test_accuracy"].to_list()
    assert unpacked["commit"] == table["commit"].to_list()
    assert {row for row, lost in zip(unpacked["val_loss"], table["diverged"], strict=True) if lost} == {"inf"}
    nan_for_null = [[np.nan if value is None else value for value in curve] for curve in unpacked["epoch_val_loss"]]
    assert np.array(nan_for_null) == pytest.approx(np.array(table["epoch_val_loss"].to_list()), rel=1e-5, nan_ok=True)


def test_of_many_records_the_curves_are_thinned(tmp_path):
    many = MOST_VALUES // (3 * 40)
    rows = [record("relu", seed, 0.9, epochs=40) for seed in range(20)]
    results = study(tmp_path, [records("relu", [0.9])], arms=["relu"], replicates=1)
    table = (
        to_frame(rows)
        .sample(2 * many, with_replacement=True, seed=0)
        .with_columns(
            arm=np.array(["relu", "swish"]).repeat(many),
            dataset_name=np.array(["d"] * 2 * many),
            network_name=np.array(["n"] * 2 * many),
        )
    )

    held = embed_records(results._replace(table=table))

    curves = held.columns["epoch_val_loss"]
    kept = [curves["levels"][code] if "codes" in curves else None for code in curves["codes"]]
    assert held.seeds == many // 2
    assert sum(of is not None for of in kept) == 2 * held.seeds


def test_where_shapes_alone_have_no_room_no_curve_is_said_to_be_missing(tmp_path, monkeypatch):
    results = study(tmp_path, [records("relu", [0.9, 0.8])], arms=["relu"], replicates=2)
    table = results.table.with_columns(
        pl.Series(name, [[0.0] * 50] * 2, dtype=results.table.schema[name]) for name in SHAPES
    )
    monkeypatch.setattr(embedded, "MOST_VALUES", 200)

    held = embed_records(results._replace(table=table))

    assert held.seeds is None
    assert "curve_x" not in held.columns
    curves = held.columns["epoch_val_loss"]
    assert None not in curves.get("levels", curves.get("values"))


@pytest.mark.slow
def test_a_large_study_makes_a_page_that_is_not(tmp_path):
    results = random_study(tmp_path, arms=40, seeds=300, epochs=50)

    before = time.perf_counter()
    path = write_page(results._replace(command=None), tmp_path)

    assert time.perf_counter() - before < 10
    assert path.stat().st_size < 3_000_000


def test_an_ordinary_page_is_small(tmp_path):
    results = random_study(tmp_path, arms=8, seeds=30, epochs=50)

    assert len(page(results._replace(command=None), name="s").encode()) < 2_000_000


def test_figures_are_described_in_the_language_of_what_draws_them():
    major = altair.SCHEMA_VERSION.removeprefix("v").split(".")[0]

    assert vl_convert.get_vegalite_versions()[-1].split(".")[0] == major


def test_the_scripts_of_others_come_with_their_licences(tmp_path):
    content = page(golden(tmp_path), name="s")

    for holder in ("University of Washington Interactive Data Lab", "Mike Bostock", "Mapbox"):
        assert holder in content


def test_results_show_themselves_in_a_notebook(tmp_path):
    names = ["<b>relu</b>", "swish"]
    results = study(tmp_path, [records(name, [0.9, 0.8, 0.85, 0.7]) for name in names], arms=names, replicates=4)

    shown = results._repr_html_()

    assert str(results) == repr(results) == "\n".join(results.sentences)
    assert "&lt;b&gt;relu&lt;/b&gt;" in shown
    assert "<b>" not in shown
    (image,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', shown)
    assert b"<svg" in b64decode(image)


@pytest.mark.parametrize("letter", ["𝕏", "🚀", "深", "x"])
def test_names_of_any_letters_are_drawn(tmp_path, letter):
    names = [f"{letter * 190} {number}" for number in range(3)]
    results = study(tmp_path, [records(name, [0.9, 0.8, 0.85, 0.7]) for name in names], arms=names, replicates=4)

    for figure in figures.forest_figures(results) + figures.cost_figures(results):
        assert figures.render([figure], "png").startswith(b"\x89PNG")


def test_figures_have_names_of_their_own(tmp_path):
    names = [figure.name for figure in all_figures(golden(tmp_path))]

    assert len(set(names)) == len(names) == 10
