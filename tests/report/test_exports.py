import csv
import json
import re
import struct
import subprocess
import sys
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from made_records import SCORES, question, rows, tuning_table
from PIL import Image
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata as hparams

from actbench import records
from actbench.inference.verdict import History, load_results, p_value, points
from actbench.inference.verdict.changes import factor_values, spans, study_changes
from actbench.report.exports import FORMATS, all_figures, write_exports
from actbench.report.figures import figures_by_file, render
from actbench.report.figures.figure import file_name
from actbench.report.tensorboard import CURVES, write_tensorboard

RELU = np.array([0.95, 0.96, 0.94, 0.95, 0.97, 0.93, 0.95, 0.96])
ARMS = {"relu": RELU, "swish": RELU + [0.01, 0.02] * 4, "tanh": [None, *RELU[1:] - 0.001]}
TRICKY = r"a_b & 50% #1 $x$ {y} ~z^2 \end"
EPOCHS = 12


def factors(arm, lr=0.002):
    """As a cell has them."""
    return {
        "activation": {"class_path": f"acts.{arm}", "init_args": {"inplace": False}},
        "data": {"class_path": "actbench.data.Digits", "init_args": {"batch_size": 64}},
        "lr_scheduler": None,
        "network": {"class_path": "actbench.networks.MLP"},
        "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"betas": [0.9, 0.999], "lr": lr}},
        "trainer": {"max_epochs": 50},
        "weights": "last",
    }


def arm_rows(arm, accuracies, *, lr=0.002, **settings):
    """Records with curves by epoch, and a shape of the activation; tanh learns its own for each seed."""
    table = rows(arm, accuracies, factors=json.dumps(factors(arm, lr)), device="a CPU", threads=1, **settings)
    rng = np.random.default_rng(len(arm))
    x = np.linspace(-3, 3, 31)

    def by_epoch(scale):
        found = scale * rng.random((len(table), EPOCHS))
        found[:1, -1] = np.nan
        return found.tolist()

    slopes = np.arange(len(table)) if arm == "tanh" else np.zeros(len(table))
    new = {
        "epoch_train_loss": by_epoch(2),
        "epoch_val_loss": by_epoch(3),
        "epoch_val_accuracy": by_epoch(1),
        "curve_x": [x.tolist()] * len(table),
        "curve_y": [(slope * x + np.maximum(x, 0)).tolist() for slope in slopes],
        "curve_slope": [(slope + (x > 0)).tolist() for slope in slopes],
    }
    kind = pl.List(pl.Float64)
    return table.with_columns(pl.Series(name, values, dtype=kind) for name, values in new.items())


def written(folder, asked, tables, tuning=None):
    """A study's folder."""
    records.write_records(folder / "records.parquet", pl.concat(tables))
    if tuning is not None:
        records.write_records(folder / "tuning.parquet", tuning)
    History().planned(asked).write(folder)
    return folder


def made(folder, arms=ARMS, **settings):
    """What a study with one dataset says."""
    tables = [arm_rows(arm, list(scores)) for arm, scores in arms.items()]
    return load_results(written(folder, question(arms=tuple(arms), **settings), tables))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def results(folder):
    return made(folder)


@pytest.fixture(scope="module")
def vectors(results):
    return {name: render(figures, "svg") for name, figures in drawn(results).items()}


@pytest.fixture(scope="module")
def board(results, folder):
    """Its folder for TensorBoard."""
    write_tensorboard(results, folder)
    return folder / "tensorboard"


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- tables ---


def test_every_format_gives_files_and_another_is_refused(results, folder):
    found = {
        form: [path.name for path in write_exports(results, folder, form)] for form in ("md", "tex", "csv", "json")
    }

    assert found == {
        "md": ["comparisons.md", "failures.md", "secondary.md", "arms.md"],
        "tex": ["comparisons.tex", "failures.tex", "secondary.tex", "arms.tex"],
        "csv": ["comparisons.csv", "failures.csv", "arms.csv", "replicates.csv"],
        "json": ["verdict.json"],
    }
    assert all((folder / "exports" / name).is_file() for names in found.values() for name in names)
    assert set(FORMATS) == {*found, "png", "svg"}
    with pytest.raises(ValueError, match="'pdf' is not a format; choose from md, tex"):
        write_exports(results, folder, "pdf")


def test_json_is_the_verdict(results, folder):
    (path,) = write_exports(results, folder, "json")

    assert json.loads(path.read_text()) == json.loads((folder / "verdict.json").read_text())


def test_csv_has_the_numbers_in_full(results, folder):
    comparisons, failures, arms, replicates = map(read, write_exports(results, folder, "csv"))

    difference = np.subtract(ARMS["swish"], RELU)
    low, high = stats.t.interval(0.95, 7, difference.mean(), stats.sem(difference))
    swish = comparisons[0]
    assert (swish["arm"], swish["baseline"], swish["verdict"]) == ("swish", "relu", "better")
    assert [float(swish[name]) for name in ("difference", "difference_low", "difference_high")] == pytest.approx(
        [difference.mean(), low, high]
    )
    assert float(swish["test_loss_difference"]) == pytest.approx(-difference.mean())
    assert float(swish["test_loss_difference_p"]) == 2 / 2**8  # all differences have one sign
    assert (swish["fits"], swish["memory_ratio_p"], swish["memory_ratio_low"]) == ("1", "1.0", "")
    assert float(swish["adjusted_p"]) == results.conclusion.findings[0].judgement.adjusted_p
    guessed = [0.1, *ARMS["tanh"][1:]]
    assert float(arms[2]["test_accuracy"]) == pytest.approx(np.mean(guessed))
    assert float(arms[2]["test_loss"]) == pytest.approx(np.mean(1 - np.array(guessed[1:])))
    assert (arms[2]["failed"], arms[2]["diverged"]) == ("1", "1")
    (tanh,) = failures
    assert (tanh["arm"], tanh["arm_failed"], tanh["baseline_failed"], tanh["trained_pairs"]) == ("tanh", "1", "0", "7")
    assert float(tanh["trained_difference"]) == pytest.approx(-0.001)
    assert [float(row["test_accuracy"]) for row in replicates[:8]] == list(RELU)
    assert len(replicates) == 24


def test_csv_leaves_unknown_numbers_empty(tmp_path):
    results = made(tmp_path, {"relu": RELU[:1], "swish": RELU[:1]}, replicates=1)

    comparisons, arms, _ = map(read, write_exports(results, tmp_path, "csv"))

    assert (comparisons[0]["difference"], comparisons[0]["effect"], comparisons[0]["pairs"]) == ("", "", "1")
    assert (arms[0]["test_accuracy"], arms[0]["test_accuracy_low"], arms[0]["test_accuracy_sd"]) == ("0.95", "", "")


def test_markdown_parses_back(results, folder):
    path, *_ = write_exports(results, folder, "md")

    lines = [line.strip("| ").split(" | ") for line in path.read_text().splitlines() if line.startswith("|")]
    table = [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
    for row, finding in zip(table, results.conclusion.findings, strict=True):
        of = finding.judgement
        assert row["arm"] == finding.comparison.arm
        assert float(row["difference (points)"]) == pytest.approx(100 * of.difference.estimate, abs=0.06)
        assert row["adjusted p"].replace("\\", "") == p_value(of.adjusted_p).removeprefix("= ")
        assert of.verdict in row["verdict"]


def test_latex_parses_back_and_escapes_names(tmp_path):
    results = made(tmp_path, {"relu": RELU, TRICKY: ARMS["swish"]})

    path, *_ = write_exports(results, tmp_path, "tex")

    text = path.read_text()
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    head, row = re.findall(r"^(?!%)(.*) \\\\$", text, re.M)
    cells = dict(zip(re.split(r"(?<!\\)&", head), re.split(r"(?<!\\)&", row), strict=True))
    cells = {name.strip(): cell.strip() for name, cell in cells.items()}
    assert cells["arm"] == r"a\_b \& 50\% \#1 \$x\$ \{y\} \textasciitilde{}z\textasciicircum{}2 \textbackslash{}end"
    difference = results.conclusion.findings[0].judgement.difference.estimate
    assert float(cells["difference (points)"]) == pytest.approx(100 * difference, abs=0.006)


# --- figures ---


def marks(content, name):
    """Marks, or lines, of the views of an SVG that have this name."""
    groups = [
        of for of in ElementTree.fromstring(content).iter() if re.search(rf"\b{name}(_\d)?_marks", of.get("class", ""))
    ]
    return sum(len(group) for group in groups)


def words(content):
    """Texts of an SVG."""
    return {
        "".join(of.itertext()) for of in ElementTree.fromstring(content).iter() if of.tag.endswith(("}text", "}tspan"))
    }


def drawn(results):
    return figures_by_file(all_figures(results))


def test_a_figure_is_drawn_in_png_and_svg(results, folder, monkeypatch):
    forest = drawn(results)["forest"]
    monkeypatch.setattr("actbench.report.exports.all_figures", lambda results: forest)

    (image,), (vector,) = (write_exports(results, folder, form) for form in ("png", "svg"))

    assert (image.name, vector.name) == ("forest.png", "forest.svg")
    picture = Image.open(image)
    pixels = np.array(picture.convert("L"))
    assert min(pixels.shape) > 200
    assert 0.005 < (pixels < 200).mean() < 0.5
    width = float(ElementTree.parse(vector).getroot().get("width").removesuffix("in"))
    assert width == pytest.approx(5, abs=0.05)  # inches: one column and a half
    assert (picture.width / width, *picture.info["dpi"]) == pytest.approx((300, 300, 300), rel=0.01)


def test_all_figures_are_what_vega_lite_allows(results):
    for figure in all_figures(results):
        figure.chart.to_dict(validate=True)  # raises for what is not in the schema


def test_all_figures_are_there_and_none_is_blank(results):
    found = drawn(results)

    assert list(found) == ["forest", "pairs", "curves", "cost", "activations"]
    for figures in found.values():
        pixels = np.array(Image.open(BytesIO(render(figures, "png", dpi=60))).convert("L"))
        assert 0.005 < (pixels < 200).mean() < 0.5


def test_a_forest_has_a_mark_for_each_comparison_in_the_shape_of_its_verdict(results, vectors):
    content = vectors["forest"]

    assert [finding.judgement.verdict for finding in results.conclusion.findings] == ["better", "worse"]
    assert marks(content, "estimates") == 2
    (group,) = (of for of in ElementTree.fromstring(content).iter() if "estimates_marks" in of.get("class", ""))
    assert len({(mark.get("d"), mark.get("fill")) for mark in group}) == 2
    of = results.conclusion.findings[0].judgement.difference
    numbers = f"{points(of.estimate)} ({points(of.low)} to {points(of.high)})"
    expected = {"swish", "tanh", numbers, "percentage points", "arm minus relu", "within the margin", "better", "worse"}
    assert expected <= words(content)


def test_pairs_have_a_dot_for_each_replicate_and_crosses_for_diverged_ones(vectors):
    content = vectors["pairs"]

    assert marks(content, "baseline") == 16
    assert marks(content, "own") == 16
    (group,) = (of for of in ElementTree.fromstring(content).iter() if "own_marks" in of.get("class", ""))
    shapes = [mark.get("d") for mark in group]
    assert sorted(map(shapes.count, set(shapes))) == [1, 15]
    assert {"swish", "tanh", "relu, above", "arm, below", "diverged"} <= words(content)


def test_curves_costs_and_shapes_are_all_there(vectors):
    assert marks(vectors["curves"], "means") == 9  # three arms, three scores
    assert marks(vectors["cost"], "named") == 6  # three arms, time and memory
    assert marks(vectors["activations"], "shapes") == 2 * (2 + 5)  # tanh as five seeds have learned it
    expected = {"val accuracy, %", "val loss, nats", "train loss, nats", "bands: 95 % interval", *ARMS}
    assert expected <= words(vectors["curves"])


def test_the_tuned_setting_is_drawn_with_the_chosen_values(tmp_path):
    asked = question(arms=("relu", "tanh"), tune={"model.optimizer.lr": [0.001, 0.01], "replicates": 2})
    tables = [arm_rows(arm, RELU) for arm in asked.arms]
    results = load_results(written(tmp_path, asked, tables, tuning_table(SCORES)))

    content = render(drawn(results)["tuning"], "svg")

    assert marks(content, "marks") == 6
    assert marks(content, "chosen") == 2
    assert {"0.001", "0.01", "0.1", "model.optimizer.lr", "ringed: chosen"} <= words(content)


def test_several_datasets_have_figures_of_their_own(tmp_path):
    asked = question(datasets=("Digits", "MNIST"))
    tables = [arm_rows(arm, RELU, dataset=dataset) for dataset in asked.datasets for arm in asked.arms]

    names = list(drawn(load_results(written(tmp_path, asked, tables))))

    assert names[:3] == ["forest_all_MLP", "forest_Digits_MLP", "forest_MNIST_MLP"]
    assert {"pairs_Digits_MLP", "curves_MNIST_MLP", "cost_MNIST_MLP"} <= set(names)


def test_names_are_text_whatever_they_hold(tmp_path):
    names = ["relu", TRICKY, "_hidden", "激活 <b>&amp;", 200 * "x"]
    results = made(tmp_path, {name: RELU + place / 1000 for place, name in enumerate(names)})

    found = drawn(results)

    for name in ("forest", "cost"):  # names of rows, and those of a legend
        assert {"_hidden", "激活 <b>&amp;"} <= words(render(found[name], "svg"))
    render(found["forest"], "png", dpi=60)  # with boxes, but without a warning


def test_the_same_figure_gives_the_same_file(results):
    for figures in drawn(results).values():
        assert render(figures, "svg") == render(figures, "svg")


def test_file_names_are_plain():
    assert file_name("forest", "a/b:c", "..", "Ünï") == "forest_a_b_c_Ünï"


def test_a_study_without_records_has_a_forest_only(tmp_path):
    asked = question()
    results = load_results(written(tmp_path, asked, [arm_rows("relu", [])]))

    assert list(drawn(results)) == ["forest"]
    assert [path.name for path in write_exports(results, tmp_path, "csv")] == ["comparisons.csv"]
    write_tensorboard(results, tmp_path)


# --- TensorBoard ---


@pytest.fixture
def unpainted(monkeypatch):
    """Pictures take most of the time."""
    for name in ("forest_figures", "shape_figures"):
        monkeypatch.setattr(f"actbench.report.tensorboard.{name}", lambda results: [])


def accumulated(folder):
    found = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0, "images": 0})
    return found.Reload()


def content_of(events, tag):
    return events.SummaryMetadata(tag).plugin_data.content


def scalars(events, tag):
    return {event.step: event.value for event in events.Scalars(tag)}


def test_custom_scalars_chart_means_and_bands(board):
    events = accumulated(board)
    layout = layout_pb2.Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    first, second = layout.category
    assert first.title == "replicates: mean, least and largest"  # as for a fit
    assert second.title == "mean, 95 % interval"
    (line,) = first.chart[1].margin.series
    assert (line.value, line.lower, line.upper) == ("val/loss", "val/loss_min", "val/loss_max")
    assert [chart.title for chart in first.chart] == list(CURVES)


def test_scalars_are_means_over_seeds(results, board):
    for arm in ARMS:
        events = accumulated(board / arm)
        own = results.table.filter(arm=arm)
        for tag, column in list(CURVES.items())[:3]:
            values = np.array(own[column].to_list())
            expected = {
                "": np.nanmean(values, axis=0),
                "_min": np.nanmin(values, axis=0),
                "_max": np.nanmax(values, axis=0),
            }
            for end, of in expected.items():
                found = scalars(events, tag + end)
                assert list(found) == list(range(1, EPOCHS + 1))
                assert list(found.values()) == pytest.approx(list(of), rel=1e-6)
        assert "val/ece" not in events.Tags()["scalars"]  # the records hold none


def test_the_band_of_the_mean_is_students_interval(results, board):
    values = np.array(results.table.filter(arm="swish")["epoch_train_loss"].to_list())[:, :-1]
    low, high = stats.t.interval(0.95, 7, values.mean(axis=0), stats.sem(values, axis=0))
    events = accumulated(board / "swish")
    assert list(scalars(events, "train/loss_low").values())[:-1] == pytest.approx(list(low), rel=1e-5)
    assert list(scalars(events, "train/loss_high").values())[:-1] == pytest.approx(list(high), rel=1e-5)


def test_hparams_have_a_session_for_each_arm_with_its_factors(board):
    top = accumulated(board)
    asked = hparams.parse_experiment_plugin_data(content_of(top, hparams.EXPERIMENT_TAG))
    events = accumulated(board / "tanh")
    session = hparams.parse_session_start_info_plugin_data(content_of(events, hparams.SESSION_START_INFO_TAG))
    found = {name: getattr(value, value.WhichOneof("kind")) for name, value in session.hparams.items()}
    assert found == {
        "arm": "tanh",
        "dataset": "Digits",
        "network": "MLP",
        "activation": "acts.tanh",
        "activation.inplace": False,
        "optimizer": "torch.optim.Adam",
        "optimizer.lr": 0.002,
        "optimizer.betas": "[0.9, 0.999]",
        "data": "actbench.data.Digits",
        "data.batch_size": 64,
        "trainer.max_epochs": 50,
        "epochs": 50,
        "weights": "last",
    }
    assert {of.name for of in asked.hparam_infos} == set(found)
    assert hparams.parse_session_end_info_plugin_data(content_of(events, hparams.SESSION_END_INFO_TAG)).status
    metrics = {of.name.tag for of in asked.metric_infos}
    assert {"final/test/acc", "final/test/loss", "final/val/acc", "cost/epoch_time_s"} <= metrics
    (score,) = scalars(events, "final/test/acc").values()
    assert score == pytest.approx(np.mean([0.1, *ARMS["tanh"][1:]]))  # a diverged one guesses


@pytest.mark.usefixtures("unpainted")
def test_csv_and_hparams_leave_out_what_the_tables_leave_out(tmp_path):
    lost = arm_rows("tanh", [None, 0.9]).with_columns(
        epochs=pl.Series([EPOCHS, 50]), epoch_time_s=pl.Series([0.01, 9.0]), busy=pl.Series([False, True])
    )
    results = load_results(written(tmp_path, question(arms=("relu", "tanh")), [arm_rows("relu", RELU[:2]), lost]))

    _, _, arms, _ = map(read, write_exports(results, tmp_path, "csv"))
    write_tensorboard(results, tmp_path)

    events = accumulated(tmp_path / "tensorboard" / "tanh")
    session = hparams.parse_session_start_info_plugin_data(content_of(events, hparams.SESSION_START_INFO_TAG))
    final = {"final/test/loss": 0.1, "final/val/acc": 0.9, "cost/epoch_time_s": 0.01}
    assert float(arms[1]["epochs"]) == session.hparams["epochs"].number_value == 50
    assert {tag: next(iter(scalars(events, tag).values())) for tag in final} == pytest.approx(final)


@pytest.mark.usefixtures("unpainted")
def test_hparams_have_the_tuned_setting_and_what_differs(tmp_path):
    asked = question(arms=("relu", "tanh"), tune={"model.optimizer.lr": [0.001, 0.01], "replicates": 2})
    tables = [arm_rows("relu", RELU, lr=0.01), arm_rows("tanh", RELU, lr=0.001)]
    results = load_results(written(tmp_path, asked, tables, tuning_table(SCORES)))

    write_tensorboard(results, tmp_path)

    for arm, chosen in {"relu": 0.01, "tanh": 0.001}.items():
        events = accumulated(tmp_path / "tensorboard" / arm)
        session = hparams.parse_session_start_info_plugin_data(content_of(events, hparams.SESSION_START_INFO_TAG))
        assert session.hparams["optimizer.lr"].number_value == chosen


def test_the_pictures_are_there(board):
    events = accumulated(board)
    for tag in ("forest", "activations"):
        assert events.SummaryMetadata(tag).plugin_data.plugin_name == "images"
        width, height, content = events.Tensors(tag)[0].tensor_proto.string_val
        assert (int(width), int(height)) == struct.unpack(">II", content[16:24])
        assert Image.open(BytesIO(content)).size == (int(width), int(height))


@pytest.mark.usefixtures("unpainted")
def test_each_dataset_has_its_runs_and_names_are_folders(tmp_path):
    arms = ("relu", "A/b", "a_b", "..")
    asked = question(arms=arms, datasets=("Digits", "MNIST"))
    tables = [arm_rows(arm, RELU, dataset=dataset) for dataset in asked.datasets for arm in arms]

    write_tensorboard(load_results(written(tmp_path, asked, tables)), tmp_path)

    folders = {path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*tfevents*")}
    expected = {f"tensorboard/{d}/{arm}" for d in asked.datasets for arm in ("relu", "A_b", "a_b (2)", "unnamed")}
    assert folders == {"tensorboard", *expected}


@pytest.mark.usefixtures("unpainted")
def test_written_again_the_study_is_there_once_and_nothing_else_is_touched(results, tmp_path):
    write_tensorboard(results, tmp_path)
    before = set(tmp_path.rglob("*tfevents*"))
    mine = tmp_path / "tensorboard" / "tanh" / "notes.txt"
    mine.write_text("keep")
    foreign = tmp_path / "tensorboard" / "relu" / "events.out.tfevents.1.host.2.0"
    foreign.write_bytes(b"")
    gone = results._replace(table=results.table.filter(pl.col("arm") != "swish"))

    write_tensorboard(gone, tmp_path)

    after = set(tmp_path.rglob("*tfevents*"))
    assert not before & after
    assert {path.parent.name for path in after} == {"tensorboard", "relu", "tanh"}
    assert mine.exists()
    assert foreign.exists()
    assert not (tmp_path / "tensorboard" / "swish").exists()


def test_exports_need_no_torch(results, folder):
    code = (
        "import sys; from pathlib import Path; from actbench.inference.verdict import load_results\n"
        "from actbench.report.exports import write_exports\n"
        "from actbench.report.tensorboard import write_tensorboard\n"
        "folder = Path(sys.argv[1]); results = load_results(folder); write_tensorboard(results, folder)\n"
        "write_exports(results, folder, 'tex')\n"
        "heavy = {'torch', 'pytorch_lightning', 'tensorflow', 'matplotlib.pyplot'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )

    result = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=60)

    assert result.returncode == 0, result.stderr


# --- two studies ---


def test_a_study_is_like_itself(results):
    assert study_changes(results, results) == ["nothing changed"]


def study_of(folder, arms, *, lr=0.002, device="a CPU", **settings):
    folder.mkdir()
    tables = [arm_rows(arm, list(scores), lr=lr).with_columns(device=pl.lit(device)) for arm, scores in arms.items()]
    return load_results(written(folder, question(arms=tuple(arms), **settings), tables))


BASE = RELU - [0.01, *[0] * 7]  # its mean is .95


def test_what_changed_is_told_line_by_line(tmp_path):
    before = study_of(tmp_path / "a", {"relu": BASE, "swish": BASE, "tanh": BASE})
    more = {"relu": BASE, "swish": BASE + [0.001, -0.001] * 4, "gelu": BASE + 0.02}
    after = study_of(tmp_path / "b", more, lr=0.01, device="a GPU", alpha=0.04, replicates=9)

    assert study_changes(before, after) == [
        "arms added: gelu",
        "arms gone: tanh",
        "plan, replicates: 9, was 8",
        "plan, alpha: 0.04, was 0.05",
        "all arms: settings, optimizer.lr: 0.01, was 0.002",
        "device: a GPU, was a CPU",
    ]


def test_a_verdict_that_changed_is_told_with_both_estimates(tmp_path):
    before = study_of(tmp_path / "a", {"relu": BASE, "swish": BASE + [0.02, -0.02] * 4})
    after = study_of(tmp_path / "b", {"relu": BASE, "swish": BASE + [0.01, 0.02] * 4})

    # By hand: means 0 and 1.5 points, sd 2.138 and .5345, t(7) 2.365.
    assert study_changes(before, after) == [
        "swish against relu on Digits with MLP: better (+1.5 points, +1.1 to +1.9, 8 pairs), "
        "was undecided (+0.00 points, -1.8 to +1.8, 8 pairs)",
        "swish on Digits with MLP: mean test accuracy 96.50 % of 8 seeds, was 95.00 % of 8 seeds",
    ]


def test_seeds_and_settings_of_one_arm_are_told_of_it(tmp_path):
    before = study_of(tmp_path / "a", {"relu": RELU, "swish": RELU})
    after = before._replace(
        table=pl.concat([arm_rows("relu", RELU), arm_rows("swish", RELU[:6], lr=0.1)]).with_columns(
            device=pl.lit("a CPU")
        )
    )

    lines = study_changes(before, after)

    assert "swish on Digits with MLP: settings, optimizer.lr: 0.1, was 0.002" in lines
    assert "swish on Digits with MLP: seeds: 0 to 5, was 0 to 7" in lines


def test_settings_have_the_names_that_configs_use():
    found = factor_values(json.dumps(factors("relu")))

    assert found["activation"] == "acts.relu"
    assert found["optimizer.betas"] == [0.9, 0.999]
    assert found["trainer.max_epochs"] == 50
    assert found["lr_scheduler"] is None
    assert factor_values(None) == {}


@pytest.mark.parametrize(
    ("seeds", "expected"), [([], ""), ([3], "3"), ([0, 1, 2, 7], "0 to 2 and 7"), ([0, 2, 3, 9], "0, 2 to 3 and 9")]
)
def test_seeds_are_told_in_spans(seeds, expected):
    assert spans(seeds) == expected
