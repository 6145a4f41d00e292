"""Inputs as users write them: what is trained and scored is what plain torch trains and scores.

The user's files stand in ``own.py``. Its data come in one order and its networks start from fixed weights, so that a
loop of plain torch, `plain`, ends at the same scores.
"""

import csv
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import datasets
import made_studies
import numpy as np
import polars as pl
import pytest
import torch
import yaml
from torch import nn
from torch.nn.functional import cross_entropy

ROOT = Path(__file__).parent.parent
SGD = ["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", 0.1]
STUDY = [
    "--study.activations",
    "[relu, swish]",
    "--study.replicates",
    3,
    "--study.name",
    "study",
    "--study.timing_s",
    0,
]

MINE = """
from helper import f
from torch import nn
class Mine(nn.Module):
    def forward(self, x):
        return f(x)
"""


@pytest.fixture(autouse=True)
def own(tmp_path):
    """The user's classes, whose file lies in the folder."""
    path = shutil.copy(ROOT / "tests" / "own.py", tmp_path)
    return SimpleNamespace(**runpy.run_path(path))


@pytest.fixture
def done(actbench):
    """Runs a command that must end well; returns what it printed."""

    def run(*args, **options):
        result = actbench(*args, **options)
        assert result.returncode == 0, result.stderr[-2000:]
        return result.stdout + result.stderr

    return run


def plain(data, network, *, epochs, lr=0.1, clip=None, plateau=None):
    """Train a network by SGD as torch's tutorials do; returns it, and the loss on val and test after the last epoch."""
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    schedule = plateau and torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **plateau["arguments"])
    for epoch in range(1, epochs + 1):
        for inputs, labels, *_ in data.train_dataloader():
            optimizer.zero_grad()
            cross_entropy(network(inputs), labels.long()).backward()
            if clip:
                nn.utils.clip_grad_norm_(network.parameters(), clip)
            optimizer.step()
        if schedule and epoch % plateau["every"] == 0:
            schedule.step(scored(network, data.val_dataloader()))
    losses = {"val": scored(network, data.val_dataloader())}
    if hasattr(type(data), "part"):
        losses["test"] = scored(network, data.test_dataloader())
    return SimpleNamespace(network=network, **losses)


def scored(network, batches):
    """Mean loss over rows."""
    with torch.no_grad():
        losses = [cross_entropy(network(x), y.long(), reduction="none") for x, y, *_ in batches]
    return torch.cat(losses).mean().item()


def metrics(folder, name="metrics.csv"):
    """Rows of the table that the last fit wrote, one for each epoch and replicate."""
    path = max(folder.glob(f"lightning_logs/version_*/{name}"), key=lambda of: int(of.parent.name.split("_")[1]))
    with path.open() as file:
        return [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(file)]


def last_losses(folder):
    """Loss on val of every replicate after the last epoch."""
    rows = metrics(folder)
    return [row["val/loss"] for row in rows if row["epoch"] == rows[-1]["epoch"]]


def records(folder, name="study", root="studies"):
    """A study's records, by arm and seed."""
    return pl.read_parquet(folder / root / name / "records.parquet").sort("arm", "seed")


def of_arm(table, arm, column):
    return table.filter(arm=arm)[column].to_list()


def checkpoint(folder):
    return max(folder.rglob("last.ckpt"), key=lambda path: path.stat().st_mtime)


def printed(output, heading):
    """A column of the table of scores that validate and test print, of the first replicate."""
    lines = [line.split() for line in output.splitlines() if line.strip()]
    place = next(place for place, words in enumerate(lines) if words[:1] == ["seed"])
    return float(next(words for words in lines[place + 1 :] if words[0] == "0")[lines[place].index(heading)])


def near(value):
    return pytest.approx(value, rel=1e-3)


def refused(result, *words):
    """Whether a command was refused in one line that names all of these."""
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert [word for word in words if word.lower() not in line.lower()] == []


# --- data and batches ---


def test_a_datamodule_of_ones_own_trains_beyond_the_first_steps_as_in_torch(done, tmp_path, own):
    given = ["--data", "own.Data", "--model.network", "own.Net", "--trainer.max_epochs", 10, *SGD]

    done("fit", *given, "--model.replicates", 2)  # 60 steps
    said = done("compare", *given, *STUDY)

    relu, swish = (plain(own.Data(), own.Net(of, (1, 8, 8), 3), epochs=10).val for of in (nn.ReLU, nn.SiLU))
    assert last_losses(tmp_path) == near([relu] * 2)
    assert of_arm(records(tmp_path), "relu", "val_loss") == near([relu] * 3)
    assert of_arm(records(tmp_path), "swish", "val_loss") == near([swish] * 3)
    assert "pairs verified" in said


@pytest.mark.parametrize(
    "data", ["Named", *(pytest.param(name, marks=pytest.mark.slow) for name in ("Signals", "Index", "Int32", "Table"))]
)
def test_batches_of_many_kinds_are_trained_as_in_torch(done, tmp_path, own, data):
    given = ["--data", f"own.{data}", "--model.network", "own.Net", "--trainer.max_epochs", 2, *SGD]

    done("fit", *given)
    said = done("compare", *given, *STUDY)

    module = getattr(own, data)()
    expected = plain(module, own.Net(nn.ReLU, module.shape, 3), epochs=2)
    assert last_losses(tmp_path) == near([expected.val])
    assert of_arm(records(tmp_path), "relu", "val_loss") == near([expected.val] * 3)
    assert of_arm(records(tmp_path), "relu", "test_loss") == near([expected.test] * 3)
    assert "pairs verified" in said


def test_a_datamodule_without_test_rows_is_refused_before_training(actbench, tmp_path):
    result = actbench("compare", "--data", "own.NoTest", "--model.network", "own.Net", *STUDY)

    refused(result, "test_dataloader")
    assert "epoch" not in result.stdout + result.stderr
    assert list(tmp_path.rglob("*.parquet")) == []


def test_predictions_of_pictures_with_names_and_without_labels(done, tmp_path, own):
    done("fit", "--data", "own.Pictures", "--model.network", "own.Net", "--trainer.max_epochs", 2, *SGD)

    done("predict", "--ckpt_path", checkpoint(tmp_path), "--trust", "own", "--output", "p.csv")

    network = plain(own.Data(), own.Net(nn.ReLU, (1, 8, 8), 3), epochs=2).network
    table = pl.read_csv(tmp_path / "p.csv")
    inputs, _ = own.blobs(40, 5)
    expected = network(inputs).softmax(-1).detach().numpy()
    assert len(table) == 40
    probabilities = table.select([name for name in table.columns if name.startswith("probability")])
    np.testing.assert_allclose(probabilities, expected, rtol=1e-3, atol=1e-5)


# --- what is given comes back as it was ---


def test_a_group_file_keeps_what_a_dotted_option_does_not_change(done, tmp_path):
    model = {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5, "momentum": 0.9}}}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(model))
    given = ["--model", "model.yaml", "--model.optimizer.lr", 0.1, "--data", "FakeImages"]

    shown = yaml.safe_load(done("fit", *given, "--print_config"))["model"]
    done("compare", *given, *STUDY, "--trainer.max_epochs", 1, "--model.network", "MLP")

    table = records(tmp_path)
    used = [yaml.safe_load(config)["model"]["optimizer"] for config in table["config"]]
    assert len(used) == 6
    for optimizer in [shown["optimizer"], *used]:
        assert optimizer["class_path"] == "torch.optim.SGD"
        assert (optimizer["init_args"]["lr"], optimizer["init_args"]["momentum"]) == (0.1, 0.9)


@pytest.mark.parametrize("given", [60, pytest.param(0.5, marks=pytest.mark.slow)])
def test_an_int_stays_an_int_and_a_float_a_float(done, tmp_path, own, given):
    options = ["--data", "own.Counts", "--data.val_split", given, "--model.network", "own.Net", *SGD]
    module = own.Data()
    module.val_dataloader = lambda: module.part(1, 60 if given == 60 else 150)
    expected = plain(module, own.Net(nn.ReLU, (1, 8, 8), 3), epochs=1).val

    done("fit", *options, "--trainer.max_epochs", 1)
    given_to_fit = (tmp_path / "given").read_text()
    (tmp_path / "given").unlink()
    done("compare", *options, "--trainer.max_epochs", 1, *STUDY)

    assert given_to_fit == (tmp_path / "given").read_text() == repr(given)
    assert last_losses(tmp_path) == near([expected])
    assert of_arm(records(tmp_path), "relu", "val_loss") == near([expected] * 3)


def test_a_path_comes_back_from_a_checkpoint_and_in_a_study(done, tmp_path, own):
    for name, shift in {"mine": "0", "other": "1"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "shift").write_text(shift)
    given = ["--data", "own.Folder", "--data.root", "mine", "--model.network", "own.Net", "--trainer.max_epochs", 2]

    done("fit", *given, *SGD)
    tested = done("test", "--ckpt_path", checkpoint(tmp_path), "--trust", "own")
    done("compare", *given, *SGD, *STUDY)

    expected = plain(own.Data(), own.Net(nn.ReLU, (1, 8, 8), 3), epochs=2)
    assert printed(tested, "test/loss") == near(expected.test)
    assert of_arm(records(tmp_path), "relu", "test_loss") == near([expected.test] * 3)


def test_an_enum_and_a_tuple_come_back_from_a_checkpoint_and_in_a_study(done, tmp_path, own):
    given = ["--data", "own.Data", "--model.network", "own.Pooled", "--trainer.max_epochs", 2, *SGD]

    done("fit", *given)
    validated = done("validate", "--ckpt_path", checkpoint(tmp_path), "--trust", "own")
    done("compare", *given, *STUDY)

    expected = plain(own.Data(), own.Pooled(nn.ReLU, (1, 8, 8), 3), epochs=2).val
    assert [*last_losses(tmp_path), printed(validated, "val/loss")] == near([expected] * 2)
    assert of_arm(records(tmp_path), "relu", "val_loss") == near([expected] * 3)


@pytest.mark.parametrize("more", [None, pytest.param("{scale: {by: 5}, parts: [x, y]}", marks=pytest.mark.slow)])
def test_a_dataclass_reaches_data_and_callbacks_as_it_is_given_or_as_python_has_it(done, tmp_path, more):
    given = ["--data", "own.Scaled", "--trainer.callbacks", "own.Watch", "--trainer.max_epochs", 1, *SGD]
    if more:
        given += ["--data.more", more, "--trainer.callbacks.more", more]

    done("fit", *given)
    done("validate", "--ckpt_path", checkpoint(tmp_path), "--trust", "own")
    done("compare", *given, *STUDY)
    done("fit", "--config", "studies/study/arms/relu.yaml")

    alone = yaml.safe_load((tmp_path / "studies/study/arms/relu.yaml").read_text())
    default = "Options(scale=Scale(by=0.5), parts=['b'])"
    received = "Options(scale=Scale(by=5.0), parts=['x', 'y'])" if more else None
    assert {*(tmp_path / "given").read_text().splitlines()} == {f"{default} {received}"}
    assert alone["data"]["init_args"]["options"] == {"scale": {"by": 0.5}, "parts": ["b"]}


def test_an_enum_and_a_tuple_can_be_given(done, tmp_path, own):
    options = ["--model.network.hidden", "[8, 8]", "--model.network.pool", "MEAN", "--trainer.max_epochs", 2]

    done("fit", "--data", "own.Data", "--model.network", "own.Pooled", *options, *SGD)
    validated = done("validate", "--ckpt_path", checkpoint(tmp_path), "--trust", "own")

    network = own.Pooled(nn.ReLU, (1, 8, 8), 3, own.Pool.MEAN, (8, 8))
    expected = plain(own.Data(), network, epochs=2).val
    assert [*last_losses(tmp_path), printed(validated, "val/loss")] == near([expected] * 2)


# --- modules ---


def test_a_layer_in_two_places_is_trained_as_in_torch(done, tmp_path, own):
    given = ["--model.network", "own.Tied", "--model.replicates", 2, "--trainer.max_epochs", 2]

    done("fit", "--data", "own.Data", *given, *SGD)

    expected = plain(own.Data(), own.Tied(nn.ReLU, (1, 8, 8), 3), epochs=2).val
    assert last_losses(tmp_path) == near([expected] * 2)


def test_a_module_that_keeps_its_output_is_trained_as_in_torch(done, tmp_path, own):
    given = ["--data", "own.Data", "--model.network", "own.Net", "--trainer.max_epochs", 2, *SGD]

    done("compare", *given, *STUDY[2:], "--study.activations", "[tanh, own.Keep]")
    done("fit", *given, "--model.activation", "own.Keep")
    tested = done("test", "--ckpt_path", checkpoint(tmp_path), "--trust", "own")

    expected = plain(own.Data(), own.Net(nn.ReLU, (1, 8, 8), 3), epochs=2)
    assert of_arm(records(tmp_path), "Keep", "test_loss") == near([expected.test] * 3)
    assert last_losses(tmp_path) == near([expected.val])
    assert printed(tested, "test/loss") == near(expected.test)


@pytest.mark.parametrize("network", ["OwnPReLU", pytest.param("TwoPlaces", marks=pytest.mark.slow)])
def test_parameters_of_the_network_are_not_the_activations(done, tmp_path, own, network):
    given = ["--data", "own.Data", "--model.network", f"own.{network}", "--trainer.max_epochs", 2, *SGD]

    said = done("compare", *given, *STUDY[2:], "--study.activations", "[relu, prelu]")

    table = records(tmp_path)
    assert "pairs verified" in said
    assert of_arm(table, "relu", "init_fingerprint") == of_arm(table, "prelu", "init_fingerprint")
    assert table["parameters"].to_list() == [table["parameters"].min() + 1] * 3 + [table["parameters"].min()] * 3
    for arm, of in {"relu": nn.ReLU, "prelu": nn.PReLU}.items():
        expected = plain(own.Data(), getattr(own, network)(of, (1, 8, 8), 3), epochs=2).val
        assert of_arm(table, arm, "val_loss") == near([expected] * 3)


def test_a_network_without_its_activation_is_refused_before_training(actbench, tmp_path):
    result = actbench("compare", "--data", "FakeImages", "--model.network", "own.Deaf", *STUDY)

    refused(result, "Deaf", "activation")
    assert list(tmp_path.rglob("*.parquet")) == []


# --- results that no longer hold ---


def test_an_edited_helper_of_an_activation_is_trained_anew(done, tmp_path, own):
    helper = tmp_path / "helper.py"
    helper.write_text("from torch import relu as f\n")
    (tmp_path / "mine.py").write_text(MINE)
    given = ["--data", "own.Data", "--model.network", "own.Net", "--trainer.max_epochs", 2, *SGD]
    given += [*STUDY[2:], "--study.activations", "[tanh, mine.Mine]"]

    done("compare", *given)
    before = of_arm(records(tmp_path), "Mine", "val_loss")
    helper.write_text("from torch import sigmoid as f\n")
    done("compare", *given)
    after = of_arm(records(tmp_path), "Mine", "val_loss")

    relu, sigmoid = (plain(own.Data(), own.Net(of, (1, 8, 8), 3), epochs=2).val for of in (nn.ReLU, nn.Sigmoid))
    assert before == near([relu] * 3)
    assert after == near([sigmoid] * 3)


def test_files_of_the_same_names_with_other_labels_are_another_dataset(done, tmp_path):
    for root in ("a", "b"):
        datasets.write_mnist(tmp_path / root)
    labels = tmp_path / "b" / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    datasets.write_idx(labels, np.flip(np.arange(50) % 10))
    given = ["--data", "MNIST", "--model.network", "MLP", "--trainer.max_epochs", 1, *STUDY]

    for name, root, cells in (("a", "a", "studies"), ("b", "b", "studies"), ("b", "b", "fresh")):
        done("compare", *given, "--data.root", root, "--study.name", name, "--study.root", cells)

    a, b, fresh = (records(tmp_path, *of)["test_loss"].to_list() for of in [("a",), ("b",), ("b", "fresh")])
    assert b == fresh
    assert a != b


# --- what others wrote for Lightning ---


def test_lightnings_progress_bar_works_in_a_file(done, tmp_path, own):
    bar = {"trainer": {"max_epochs": 2, "callbacks": [{"class_path": "pytorch_lightning.callbacks.RichProgressBar"}]}}
    (tmp_path / "bar.yaml").write_text(yaml.safe_dump(bar))
    given = ["--config", "bar.yaml", "--data", "own.Data", "--model.network", "own.Net", *SGD]

    done("fit", *given)
    done("compare", *given, *STUDY)

    expected = plain(own.Data(), own.Net(nn.ReLU, (1, 8, 8), 3), epochs=2).val
    assert last_losses(tmp_path) == near([expected])
    assert of_arm(records(tmp_path), "relu", "val_loss") == near([expected] * 3)


def test_a_csv_logger_and_our_table_are_two_files(done, tmp_path, own):
    logger = ["--trainer.logger", "pytorch_lightning.loggers.CSVLogger", "--trainer.logger.save_dir", "logs"]

    done("fit", "--data", "own.Data", "--model.network", "own.Net", "--trainer.max_epochs", 2, *logger, *SGD)

    expected = plain(own.Data(), own.Net(nn.ReLU, (1, 8, 8), 3), epochs=2).val
    tables = [pl.read_csv(path) for path in tmp_path.rglob("*.csv")]
    assert checkpoint(tmp_path).exists()
    assert len(tables) == 2
    for table in tables:
        assert table["val/loss"].drop_nulls()[-1] == near(expected)
    assert sorted("seed" in table.columns for table in tables) == [False, True]


def test_a_datamodule_and_a_callback_of_the_package_lightning(done, tmp_path, own):
    pytest.importorskip("lightning")
    theirs = (tmp_path / "own.py").read_text().replace("from pytorch_lightning import", "from lightning import")
    (tmp_path / "theirs.py").write_text(theirs)
    stop = [
        "--trainer.callbacks",
        "lightning.pytorch.callbacks.EarlyStopping",
        "--trainer.callbacks.monitor",
        "val/loss",
    ]
    given = ["--data", "theirs.Data", "--model.network", "theirs.Net", "--trainer.max_epochs", 2, *SGD]

    done("fit", *given, *stop)
    tested = done("test", "--ckpt_path", checkpoint(tmp_path), "--trust", "theirs")
    done("compare", *given, *STUDY)

    expected = plain(own.Data(), own.Net(nn.ReLU, (1, 8, 8), 3), epochs=2)
    assert last_losses(tmp_path) == near([expected.val])
    assert printed(tested, "test/loss") == near(expected.test)
    assert of_arm(records(tmp_path), "relu", "test_loss") == near([expected.test] * 3)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_early_stopping_before_min_epochs_stops_no_replicate(done, tmp_path, own, clip):
    stop = ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/loss"]
    stop += ["--trainer.callbacks.patience", 1, "--trainer.callbacks.min_delta", 10]  # stops after the second epoch
    limits = ["--trainer.max_epochs", 8, "--trainer.min_epochs", 5, "--model.replicates", 3]
    clipping = ["--trainer.gradient_clip_val", clip] if clip else []

    done("fit", "--data", "own.Data", "--model.network", "own.Net", *stop, *limits, *clipping, *SGD)

    rows = metrics(tmp_path)
    assert [row["epoch"] for row in rows] == [epoch for epoch in range(5) for _ in range(3)]
    assert np.isfinite([row["train/loss"] for row in rows]).all()
    expected = plain(own.Data(), own.Net(nn.ReLU, (1, 8, 8), 3), epochs=5, clip=clip).val
    assert last_losses(tmp_path) == near([expected] * 3)


PLATEAU = ["--model.lr_scheduler", "torch.optim.lr_scheduler.ReduceLROnPlateau", "--model.lr_scheduler.patience", 0]
PLATEAU += ["--model.lr_scheduler.threshold", 10, "--model.lr_scheduler.threshold_mode", "abs"]  # never better


def test_a_plateau_is_looked_at_after_each_validation(done, tmp_path, own):
    every = ["--trainer.check_val_every_n_epoch", 2, "--trainer.max_epochs", 6]

    done("fit", "--data", "own.Data", "--model.network", "own.Net", *every, *PLATEAU, *SGD)

    plateau = {"every": 2, "arguments": {"patience": 0, "threshold": 10, "threshold_mode": "abs"}}
    expected = plain(own.Data(), own.Net(nn.ReLU, (1, 8, 8), 3), epochs=6, plateau=plateau).val
    assert last_losses(tmp_path) == near([expected])


def test_a_plateau_without_validation_is_refused(actbench, tmp_path):
    result = actbench(
        "fit", "--data", "FakeImages", "--model.network", "MLP", *PLATEAU, "--trainer.limit_val_batches", 0
    )

    refused(result, "limit_val_batches")
    assert list(tmp_path.rglob("*.ckpt")) == []


# --- output ---


@pytest.mark.parametrize("args", [["--help"], ["activations"], ["fit", "--print_config"]])
def test_a_command_whose_output_nobody_reads_ends_quietly(start, args):
    result = start(*args, unread=True).ended()

    assert result.returncode in (1, 141)
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("command", "buffering"),
    [
        ("main.py --help", {}),
        ("main.py --help", {"PYTHONUNBUFFERED": "1"}),
        ("main.py report studies/study", {}),
        pytest.param("main.py report nowhere", {"PYTHONUNBUFFERED": "1"}, marks=pytest.mark.slow),
        pytest.param("main.py report studies/study", {"PYTHONUNBUFFERED": "1"}, marks=pytest.mark.slow),
        pytest.param("main.py report nowhere", {}, marks=pytest.mark.slow),
    ],
)
def test_head_ends_a_command_quietly(tmp_path, command, buffering):
    results = made_studies.golden(tmp_path)
    head = f"{sys.executable} {ROOT}/{command.replace('studies/study', str(tmp_path))} | true; exit ${{PIPESTATUS[0]}}"
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | buffering

    result = subprocess.run(["bash", "-c", head], cwd=tmp_path, env=variables, capture_output=True, text=True)

    if "nowhere" in command:  # an error is said even so
        refused(result, "nowhere")
    else:
        assert results.sentences
        assert result.returncode in (1, 141)
        assert result.stderr == ""


def test_a_command_without_an_output_does_its_work(tmp_path):
    result = subprocess.run(["bash", "-c", f"{sys.executable} {ROOT}/main.py activations >&-"], cwd=tmp_path)

    assert result.returncode == 0


@pytest.mark.slow
def test_a_study_whose_output_nobody_reads_keeps_the_cells_that_have_ended(start, done, tmp_path):
    given = ["compare", "--data", "FakeImages", "--model.network", "MLP", "--trainer.max_epochs", 1, *STUDY]

    unread = start(*given, unread=True).ended()
    cells = list((tmp_path / "studies" / "cells").iterdir())
    done(*given)
    third = done(*given)

    assert unread.returncode in (1, 141)
    assert unread.stderr == ""
    assert len(cells) == 1
    assert cells[0] in (tmp_path / "studies" / "cells").iterdir()
    assert "nothing was missing" in third


PRINTS = """
from torch import nn
class 激活(nn.SiLU):
    def __init__(self):
        super().__init__()
        print("an activation: 激活")
"""


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_letters_that_the_output_does_not_know_are_replaced(done, tmp_path, workers, monkeypatch):
    names = tmp_path / "Aktivität.py"
    names.write_text(PRINTS, encoding="utf-8")
    given = ["--data", "FakeImages", "--model.network", "MLP", "--trainer.max_epochs", 1]
    given += [*STUDY[2:], "--study.activations", "[relu, Aktivität.激活]", "--study.workers", workers]

    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    said = done("compare", *given)

    assert "an activation: ??\n" in said
    assert len(records(tmp_path)) == 6
