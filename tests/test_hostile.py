"""Files that others have made, whole or damaged or meant to harm: one line, nothing outside, no end without."""

import contextlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from conftest import ROOT
from hostile import AWKWARD, doubled, guarded, mutated, nested, plant_decoy
from made_studies import golden, random_study, records, study
from pytorch_lightning import Trainer
from torch import nn

from actbench.cli.main import main
from actbench.data import FakeImages
from actbench.inference.verdict import load_results
from actbench.records import CHECKSUM, FILE, RecordError, Store, fingerprint, from_bytes, read_records, to_bytes
from actbench.specs import compose
from actbench.studies import compare
from actbench.training.checkpoints import CheckpointError
from actbench.training.classifier import Classifier

CELL = fingerprint("relu")


def table(seeds=3):
    own = records("relu", [0.9] * seeds)
    return own.drop("arm", "dataset_name", "network_name")


def planted(folder, content, name=f"{CELL}_0-2.parquet"):
    """A file in a store, whatever it holds, with a right checksum."""
    path = folder / "cells" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_bytes(content))
    return path


@pytest.mark.parametrize("cell", ["/tmp/outside", "../../outside", "..", "", "x" * 32, CELL.upper(), f"{CELL}/../x"])
def test_a_cell_that_leads_elsewhere_is_refused_and_nothing_is_written(tmp_path, capsys, monkeypatch, cell):
    monkeypatch.chdir(tmp_path)
    planted(tmp_path / "theirs", table().with_columns(cell=pl.lit(cell)))
    before = sorted(tmp_path.rglob("*"))

    status = main(["merge", "theirs", "--root", "mine"])

    assert status == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert sorted(path for path in tmp_path.rglob("*") if "mine" not in path.parts) == before
    with pytest.raises(RecordError, match="cannot be the name of a cell's file"):
        Store(tmp_path).path(cell, [0])


@pytest.mark.parametrize(
    "name",
    [
        f"{CELL}_0-99999999999.parquet",
        f"{CELL}_0-9999999999.parquet",
        f"{CELL}_5-2.parquet",
        f"{CELL}_0-{'9' * 200}.parquet",
        "x_0-2.parquet",
        f"{CELL}_٠-٢.parquet",
    ],
)
def test_a_name_that_says_too_much_is_no_file_of_a_store(tmp_path, name):
    path = planted(tmp_path, table(), name)

    assert Store(tmp_path / "cells").files() == {}
    with pytest.raises(RecordError, match="its name belongs to other records"):
        Store(tmp_path / "cells").read(path)


def test_the_names_that_are_written_are_read(tmp_path):
    store = Store(tmp_path)

    path = store.write(table(30))

    assert FILE.fullmatch(path.name)
    assert store.read(path).equals(table(30))
    assert store.files() == {CELL: [path]}


CURVE = ("curve_x", "curve_y", "curve_slope")
WRONG = {
    "a text for a number": lambda own: own.with_columns(test_accuracy=pl.lit("0.9")),
    "a list for a number": lambda own: own.with_columns(test_loss=pl.lit([0.1])),
    "a number for a text": lambda own: own.with_columns(config=pl.lit(1)),
    "a column that is missing": lambda own: own.drop("test_accuracy"),
    "a column more": lambda own: own.with_columns(more=pl.lit(1)),
    "no column": lambda own: pl.DataFrame(),
    "a null": lambda own: own.with_columns(test_accuracy=pl.lit(None, pl.Float64)),
    "a null seed": lambda own: own.with_columns(seed=pl.lit(None, pl.Int64)),
    "an accuracy of 87": lambda own: own.with_columns(test_accuracy=pl.lit(87.0)),
    "an accuracy of NaN": lambda own: own.with_columns(test_accuracy=pl.lit(float("nan"))),
    "a negative time": lambda own: own.with_columns(epoch_time_s=pl.lit(-1.0)),
    "a negative seed": lambda own: own.with_columns(seed=pl.lit(-1, pl.Int64)),
    "no class": lambda own: own.with_columns(classes=pl.lit(0, pl.Int64)),
    "a seed twice": lambda own: pl.concat([own, own.head(1)]),
    "factors that are no JSON": lambda own: own.with_columns(factors=pl.lit("{")),
    "factors that are a list": lambda own: own.with_columns(factors=pl.lit("[]")),
    "a config as deep as a well": lambda own: own.with_columns(config=pl.lit('{"a":' * 10**5)),
    "a config of fifty lists in one another": lambda own: own.with_columns(
        config=pl.lit(f'{{"a":{"[" * 50}{"]" * 50}}}')
    ),
    "a config that is no Unicode": lambda own: own.with_columns(config=pl.lit('{"a": "\\ud800"}')),
    "a config longer than any": lambda own: own.with_columns(config=pl.lit(f'{{"a": "{"x" * 2_000_000}"}}')),
    "a curve with a gap": lambda own: own.with_columns(pl.lit([0.0, None]).alias(name) for name in CURVE),
    "a curve without end": lambda own: own.with_columns(pl.lit([0.0, float("inf")]).alias(name) for name in CURVE),
    "more losses than epochs": lambda own: own.with_columns(epoch_val_loss=pl.lit([0.5] * 1000)),
    "more epochs than anybody trains": lambda own: own.with_columns(epochs=pl.lit(2**40)),
    "more rows than any study": lambda own: own[[0] * 250_001],
    "a cell of another kind": lambda own: own.with_columns(cell=pl.lit("cell")),
}


@pytest.mark.parametrize("what", WRONG)
def test_records_that_no_training_gives_are_refused_in_one_line(tmp_path, what):
    content = to_bytes(WRONG[what](table()))

    with pytest.raises(RecordError) as refused:
        from_bytes(content)

    assert len(str(refused.value).splitlines()) == 1


def test_records_without_a_checksum_are_refused_in_no_time():
    buffer = BytesIO()
    table().write_parquet(buffer, metadata={CHECKSUM: "", "padding": "x" * 10**7})

    with guarded(Path.cwd()), pytest.raises(RecordError, match="its checksum does not match"):
        from_bytes(buffer.getvalue())


@pytest.mark.parametrize("value", [1e300, 1e308, -1e308, float("inf")])
def test_losses_of_any_size_are_told_and_drawn(tmp_path, monkeypatch, capsys, value):
    monkeypatch.chdir(tmp_path)
    golden(tmp_path / "theirs")
    path = tmp_path / "theirs" / "records.parquet"
    losses = {
        "epoch_val_loss": pl.lit([value, -value]),
        "test_loss": pl.when(pl.col("seed") == 1).then(value).otherwise(0.1),
    }
    path.write_bytes(to_bytes(pl.read_parquet(path).with_columns(**losses)))

    assert main(["report", "theirs"]) == 0


def test_many_empty_files_of_a_store_take_neither_time_nor_memory(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs" / "cells").mkdir(parents=True)
    for number in range(5000):
        (tmp_path / "theirs" / "cells" / f"{CELL}_{number * 1000}-{number * 1000 + 999}.parquet").touch()

    with guarded(tmp_path):
        assert main(["merge", "theirs", "--root", "mine"]) == 2

    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("what", ["pipe", "device", "folder", "link", "sparse"])
def test_what_is_no_file_is_not_read(tmp_path, what):
    path = tmp_path / "records.parquet"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "sparse":
        path.touch()
        os.truncate(path, 200 * 2**30)
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if what == "device" else tmp_path / "absent")

    with pytest.raises((RecordError, FileNotFoundError)):
        read_records(path)


# --- checkpoints ---


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A checkpoint that a fit has written."""
    path = tmp_path_factory.mktemp("fit") / "last.ckpt"
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    data = FakeImages(rows=200)
    trainer.fit(Classifier("prelu", "MLP", input_shape=(1, 8, 8), num_classes=10), data)
    trainer.save_checkpoint(path)
    return path


def holding_itself():
    value = []
    value.append(value)
    return value


def model(**changes):
    return lambda content: content["actbench"]["model"].update(changes)


HOSTILE = {
    "a list doubled sixty times": lambda content: content["actbench"]["trainer"].update(precision=doubled(60)),
    "a list doubled sixty times elsewhere": lambda content: content.update(loops=doubled(60)),
    "two hundred mappings": lambda content: content["actbench"].update(data=nested(200)),
    "a list that holds itself": lambda content: content["actbench"].update(scores=holding_itself()),
    "a thousand million replicates": model(replicates=10**9),
    "no replicate": model(replicates=0),
    "a network that fills memory": model(
        network={"class_path": "actbench.networks.MLP", "init_args": {"hidden": [24000, 24000]}}
    ),
    "ten thousand layers": model(network={"class_path": "actbench.networks.MLP", "init_args": {"hidden": [1] * 10**4}}),
    "an image that fills memory": model(input_shape=[3, 25000, 25000]),
    "an activation that fills memory": model(
        activation={"class_path": "torch.nn.PReLU", "init_args": {"num_parameters": 10**9}}
    ),
    "no weights": lambda content: content.update(state_dict={}),
    "weights that are text": lambda content: content.update(state_dict={"stack.network.layers.1.weight": "x"}),
    "weights of another shape": lambda content: content["state_dict"].update(
        {"stack.network.layers.1.weight": torch.zeros(1, 3)}
    ),
    "a class that is not there": model(network={"class_path": "torch.nn.Nope"}),
    "an argument that is not there": model(network={"class_path": "actbench.networks.MLP", "init_args": {"depth": 3}}),
    "classes below none": model(num_classes=-1),
    "weights of one value": lambda content: content["state_dict"].update(
        {name: torch.zeros(1).expand(value.shape) for name, value in content["state_dict"].items()}
    ),
    "sparse weights": lambda content: content["state_dict"].update(
        {name: value.to_sparse() for name, value in content["state_dict"].items()}
    ),
    "an activation on a device of its own": model(
        activation={"class_path": "torch.nn.PReLU", "init_args": {"num_parameters": 5 * 10**8, "device": "cpu"}}
    ),
    "more replicates than anybody trains": model(replicates=10**12),
    "an optimiser's state of one value": lambda content: content["optimizer_states"][0]["state"][0].update(
        exp_avg=torch.zeros(1).expand(10**12)
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_checkpoint_that_would_take_all_memory_or_time_is_refused_in_a_line(honest, tmp_path, capsys, what):
    content = torch.load(honest, weights_only=True)
    HOSTILE[what](content)
    path = tmp_path / "hostile.ckpt"
    torch.save(content, path)
    before = resource.getrusage(resource.RUSAGE_SELF)

    with pytest.raises(CheckpointError) as refused:
        Classifier.load_from_checkpoint(str(path))
    assert main(["test", "--ckpt_path", str(path)]) == 2

    after = resource.getrusage(resource.RUSAGE_SELF)
    assert len(str(refused.value).splitlines()) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert after.ru_utime - before.ru_utime < 10  # both
    assert after.ru_maxrss - before.ru_maxrss < 2**20  # KiB


@pytest.mark.parametrize("rows", [3 * 10**8, 10**12, 10**30])
def test_a_checkpoint_whose_data_would_fill_memory_is_refused_in_a_line(honest, tmp_path, capsys, rows):
    content = torch.load(honest, weights_only=True)
    content["actbench"]["data"]["init_args"].update(rows=rows)
    torch.save(content, tmp_path / "hostile.ckpt")

    with guarded(tmp_path):
        assert main(["test", "--ckpt_path", str(tmp_path / "hostile.ckpt")]) == 2

    assert len(capsys.readouterr().err.splitlines()) == 1


def number(value):
    """A whole number as pickle writes it."""
    content = value.to_bytes(value.bit_length() // 8 + 1, "little")
    return b"\x8a" + bytes([len(content)]) + content


TEXT = b"X" + (10**6).to_bytes(4, "little") + b"a" * 10**6 + b"q\x01"
PICKLES = {
    "a bytearray of two gigabytes": b"cbuiltins\nbytearray\nJ" + (2 * 10**9).to_bytes(4, "little") + b"\x85R",
    "bytes made of one text": b"]("
    + TEXT
    + b"X\x05\x00\x00\x00utf-8q\x02"
    + b"c_codecs\nencode\nh\x01h\x02\x86R" * 2500
    + b"e",
    "keys that collide": b"}(" + b"".join(number(n * (2**61 - 1)) + b"N" for n in range(1, 80_000)) + b"u",
    "millions of values": b"](" + b"N" * 6_000_000 + b"e",
    "nothing": b"",
}


@pytest.mark.parametrize("what", PICKLES)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_grows_is_refused_in_a_line(honest, tmp_path, capsys, what, zipped):
    path, content = tmp_path / "hostile.ckpt", b"\x80\x02" + PICKLES[what] + b"."
    path.write_bytes(content)
    if zipped:
        with ZipFile(honest) as whole, ZipFile(path, "w") as other:
            for entry in whole.infolist():
                other.writestr(entry.filename, content if entry.filename.endswith("data.pkl") else whole.read(entry))

    with guarded(tmp_path):
        assert main(["test", "--ckpt_path", str(path)]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert "hostile.ckpt is damaged or not a checkpoint" in line


@pytest.mark.parametrize("value", [-(10**9), 10**30])
def test_a_run_that_is_nowhere_is_not_resumed(run, tmp_path, monkeypatch, capsys, value):
    monkeypatch.chdir(tmp_path)
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    content["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"] = value
    torch.save(content, tmp_path / "hostile.ckpt")

    with guarded(tmp_path):
        assert main(["fit", "--ckpt_path", "hostile.ckpt", "--trainer.max_epochs", "3"]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert "its entries are not what pytorch-lightning writes" in line


def test_a_run_is_not_resumed_through_a_link(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "theirs")
    (tmp_path / "theirs" / "checkpoints").rename(tmp_path / "outside")
    (tmp_path / "theirs" / "checkpoints").symlink_to(tmp_path / "outside")
    before = {path.name: path.read_bytes() for path in (tmp_path / "outside").iterdir()}
    path = tmp_path / "theirs" / "checkpoints" / "last.ckpt"

    assert (
        main(["fit", "--config", str(run / "config.yaml"), "--ckpt_path", str(path), "--trainer.max_epochs", "2"]) == 2
    )

    assert "checkpoints is a link, through which nothing is written" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "outside").iterdir()} == before


@pytest.mark.filterwarnings("ignore:Checkpoint directory:UserWarning")
def test_nothing_outside_is_deleted_for_a_path_in_a_callbacks_state(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor", "val/loss"]
    assert main(["fit", *FIT, "--trainer.max_epochs", "1", *options]) == 0
    (tmp_path / "lightning_logs" / "version_0").rename(tmp_path / "theirs")
    (tmp_path / "victim").mkdir()
    path = tmp_path / "theirs" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    (key,) = (key for key in content["callbacks"] if "'val/loss'" in key)
    victim, worst = "CHECKPOINTS/../../victim", torch.tensor(1e9)
    state = {"best_k_models": {victim: worst}, "kth_best_model_path": victim, "kth_value": worst}
    content["callbacks"][key].update(state, best_model_path=victim, best_model_score=worst, last_model_path=victim)
    torch.save(content, path)
    capsys.readouterr()

    assert main(["fit", "--ckpt_path", str(path), "--trainer.max_epochs", "3", *options]) == 2

    assert "its callbacks have the path 'CHECKPOINTS/../../victim'" in capsys.readouterr().err
    assert (tmp_path / "victim").exists()


@pytest.mark.parametrize("name", ["hparams.yaml", "metrics.csv", "checkpoints/last.ckpt"])
def test_no_file_is_written_through_a_link_in_a_run(run, tmp_path, capsys, name):
    shutil.copytree(run, tmp_path / "theirs")
    checkpoint = shutil.copy(run / "checkpoints" / "last.ckpt", tmp_path / "theirs" / "checkpoints" / "other.ckpt")
    (tmp_path / "theirs" / name).unlink()
    (tmp_path / "theirs" / name).symlink_to(tmp_path / "outside.yaml")

    assert main(["fit", "--ckpt_path", str(checkpoint), "--trainer.max_epochs", "2"]) == 2

    assert f"{name} is a link, through which nothing is written" in capsys.readouterr().err
    assert not (tmp_path / "outside.yaml").exists()


def twice(content):
    """An archive with a second one behind it, whose directory Python finds, and torch does not."""
    buffer = BytesIO()
    with ZipFile(buffer, "w") as other:
        other.writestr("archive/data.pkl", b"\x80\x02N.")
    end = content.rfind(b"PK\x05\x06")
    second, last = buffer.getvalue(), buffer.getvalue().rfind(b"PK\x05\x06")
    return content[:end] + second[:last] + content[end : end + 12] + second[last + 12 : last + 16] + content[end + 16 :]


@pytest.mark.parametrize("what", ["capitals", "two directories", "older format"])
def test_an_archive_that_torch_may_read_otherwise_is_refused(honest, tmp_path, capsys, what):
    path, pickled = tmp_path / "hostile.ckpt", b"\x80\x02" + PICKLES["a bytearray of two gigabytes"] + b"."
    if what == "older format":
        torch.save(torch.load(honest, weights_only=True), path, _use_new_zipfile_serialization=False)
    else:
        with ZipFile(honest) as whole, ZipFile(path, "w") as other:
            for entry in whole.infolist():
                name = entry.filename.replace("data.pkl", "DATA.PKL") if what == "capitals" else entry.filename
                other.writestr(name, pickled if name.lower().endswith("data.pkl") else whole.read(entry))
    if what == "two directories":
        path.write_bytes(twice(path.read_bytes()))

    with guarded(tmp_path):
        assert main(["test", "--ckpt_path", str(path)]) == 2

    assert len(capsys.readouterr().err.splitlines()) == 1


STATES = {
    "a step beyond all": lambda content: content.update(global_step=2**63),
    "weights that are not the network's": lambda content: content["state_dict"].update(foo=torch.zeros(2)),
    "a weight without a name": lambda content: content["state_dict"].update({1: torch.zeros(2)}),
    "epochs without end": lambda content: next(
        state for state in content["callbacks"].values() if "epochs" in state
    ).update(epochs=[{"epoch": 0}] * 500_001),
}


@pytest.mark.parametrize("what", STATES)
def test_a_run_that_no_fit_leaves_is_not_resumed(run, tmp_path, monkeypatch, capsys, what):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, tmp_path / "theirs")
    path = tmp_path / "theirs" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["state_dict"] = dict(content["state_dict"])
    STATES[what](content)
    torch.save(content, path)

    with guarded(tmp_path):
        assert main(["fit", "--ckpt_path", str(path), "--trainer.max_epochs", "2"]) == 2

    assert len([line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]) == 1


@pytest.mark.parametrize("kind", [torch.float16, torch.float64, torch.bfloat16])
def test_kept_weights_of_another_precision_are_taken(run, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    for state in content["callbacks"].values():
        if "weights" in state:
            state["weights"] = {name: value.to(kind) for name, value in state["weights"].items()}
    torch.save(content, tmp_path / "last.ckpt")

    assert main(["fit", "--ckpt_path", "last.ckpt", "--trainer.max_epochs", "2", "--trainer.logger", "false"]) == 0


def test_a_folder_in_the_place_of_a_file_is_told_in_a_line(run, tmp_path, capsys):
    words = ["predict", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--output", str(tmp_path / "x.csv")]
    (tmp_path / "x.csv").mkdir()

    assert main(words) == 2

    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_archive_that_is_larger_inside_is_refused(honest, tmp_path):
    path = tmp_path / "packed.ckpt"
    with ZipFile(honest) as whole, ZipFile(path, "w", ZIP_DEFLATED) as packed:
        for entry in whole.infolist():
            packed.writestr(entry.filename, whole.read(entry))

    with pytest.raises(CheckpointError, match=r"its entry \S+ is packed"):
        Classifier.load_from_checkpoint(str(path))


def test_an_honest_checkpoint_is_taken(honest):
    assert Classifier.load_from_checkpoint(str(honest)).seeds == range(1)


class Ramp(nn.Sequential):
    """Computes with values while it is built, as networks with stochastic depth do."""

    def __init__(self, activation, input_shape, num_classes):
        widths = [int(width.item()) for width in torch.linspace(8, 4, 2)]
        super().__init__(nn.Flatten(), nn.Linear(64, widths[0]), activation(), nn.Linear(widths[0], num_classes))


def test_a_network_that_computes_while_it_is_built_is_taken(tmp_path):
    path = tmp_path / "last.ckpt"
    options = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = Trainer(max_epochs=1, accelerator="cpu", **options)
    trainer.fit(Classifier("relu", Ramp, input_shape=(1, 8, 8), num_classes=10), FakeImages(rows=200))
    trainer.save_checkpoint(path)

    assert Classifier.load_from_checkpoint(str(path), trust=["test_hostile"]).num_classes == 10


BOOM = {"class_path": "hostile_decoy.Boom"}


def data(class_path):
    return lambda content: content["actbench"].update(data={"class_path": class_path, "init_args": {}})


LAMBDA = "torch.optim.lr_scheduler.LambdaLR"
DECOYS = {
    "the activation": model(activation=BOOM),
    "the network": model(network=BOOM),
    "an argument": model(network={"class_path": "actbench.networks.MLP", "init_args": {"hidden": BOOM}}),
    "the data": data("hostile_decoy.Boom"),
    "an argument of the data": lambda content: content["actbench"]["data"]["init_args"].update(seed=BOOM),
    "the Trainer": lambda content: content["actbench"]["trainer"].update(precision=BOOM),
    "a function": data("actbench.data.Digits.from_datasets"),
    "a class of another kind": data("torch.nn.ReLU"),
    "a function of a schedule": model(
        lr_scheduler={"class_path": LAMBDA, "init_args": {"lr_lambda": "hostile_decoy.f"}}
    ),
    "a function in a list": model(
        lr_scheduler={
            "class_path": "torch.optim.lr_scheduler.LambdaLR",
            "init_args": {"lr_lambda": ["hostile_decoy.f"]},
        }
    ),
    "a class in JSON": model(
        network={
            "class_path": "torchvision.ops.MLP",
            "init_args": {"norm_layer": '{"class_path": "hostile_decoy.Boom"}'},
        }
    ),
    "a text for a number": model(optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": "hostile_decoy.f"}}),
    "a download": model(optimizer={"class_path": "torchvision.datasets.utils.download_url"}),
}


@pytest.mark.parametrize("what", DECOYS)
def test_what_is_not_trusted_or_of_another_kind_is_not_imported(honest, tmp_path, monkeypatch, capsys, what):
    monkeypatch.chdir(tmp_path)
    content = torch.load(honest, weights_only=True)
    DECOYS[what](content)
    torch.save(content, tmp_path / "hostile.ckpt")
    plant_decoy(tmp_path)

    with guarded(tmp_path):
        assert main(["test", "--ckpt_path", "hostile.ckpt"]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert "--trust torch" not in line


# --- slips ---


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("compare --data.batch_size 0", "error: arm relu: dataset Digits: batch_size must be at least 1, got 0"),
        ("compare --data.val_fraction 2", "error: arm relu: dataset Digits: val_fraction must lie strictly between"),
        (
            f"fit --model.network MLP --model.network.hidden {[[1] * 9] * 999}",
            "error: --model.network: network actbench",
        ),
    ],
)
def test_a_wrong_value_is_named_in_a_short_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    command, option, *rest = words.split(maxsplit=2)

    assert main([command, option, *(word for word in " ".join(rest).replace(", ", ",").split())]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)
    assert len(line) < 1100


def test_a_group_that_is_null_says_nothing():
    assert compose(["--trainer", "null", "--trainer.max_epochs", "3"]) == {"trainer": {"max_epochs": "3"}}


# --- mutations: a value, wherever it stands, is changed, left out, added to or called otherwise ---

BATCH = 5
BATCHES = {
    "checkpoint": (10, 80),
    "history": (8, 60),
    "records": (6, 50),
    "fit": (4, 30),
    "compare": (3, 20),
}  # CI, slow
PLANNING = {"programs": ["git"], "decoys": (), "processor_s": 20}  # a config is code, and a trial is trained
FIT = ["--model.network", "MLP", "--data", "FakeImages", "--data.rows", "200", "--trainer.accelerator", "cpu"]


def batches(kind):
    """Seeds of a kind's mutations, in batches; those beyond the first few are slow."""
    few, many = BATCHES[kind]
    starts = range(0, many * BATCH, BATCH)
    return [
        pytest.param(range(start, start + BATCH), marks=pytest.mark.slow if start >= few * BATCH else ())
        for start in starts
    ]


def harmless(capsys, folder, words, **allowed):
    """Whether a command works, or says in one harmless line why it does not."""
    with guarded(folder, **allowed):
        status = main([str(word) for word in words])
    shown = capsys.readouterr()
    lines = [
        line for line in shown.err.splitlines() if not re.match(r"W\d{4} ", line)
    ]  # what torch logs as it is imported
    assert status in (0, 2)
    assert status == 0 or len(lines) == 1
    assert len(shown.err) < 10_000
    assert all(letter.isprintable() or letter in "\n\r\t" for letter in shown.out + shown.err)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run, as a fit leaves it."""
    folder = tmp_path_factory.mktemp("run")
    words = [
        *FIT,
        "--trainer.max_epochs",
        "1",
        "--model.lr_scheduler",
        "ExponentialLR",
        "--model.lr_scheduler.gamma",
        ".9",
    ]
    with contextlib.chdir(folder):
        assert main(["fit", *words, "--model.replicates", "2"]) == 0
    return folder / "lightning_logs" / "version_0"


def spoiled(content, rng):
    """The content of a checkpoint, in which one value is another."""
    key = str(rng.choice(list(content)))
    if rng.random() < 0.5:
        key = "actbench"
    if isinstance(content[key], dict | list) and content[key] and rng.random() < 0.9:
        content[key], what = mutated(content[key], rng)
        return f"{key}: {what}"
    content[key] = AWKWARD[rng.integers(len(AWKWARD))]
    return f"{key} = {content[key]!r:.100}"


@pytest.mark.parametrize("seeds", batches("checkpoint"))
def test_a_mutated_checkpoint_does_no_harm(run, tmp_path, monkeypatch, capsys, seeds):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, tmp_path / "theirs")
    path = tmp_path / "theirs" / "checkpoints" / "last.ckpt"
    for seed in seeds:
        content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
        content["state_dict"] = dict(content["state_dict"])
        print(seed, spoiled(content, np.random.default_rng(seed)))
        plant_decoy(tmp_path)
        torch.save(content, path)
        capsys.readouterr()

        harmless(capsys, tmp_path, ["test", "--ckpt_path", path])
        harmless(capsys, tmp_path, ["fit", "--ckpt_path", path, "--trainer.max_epochs", 2, "--trainer.logger", "false"])


@pytest.mark.parametrize("seeds", batches("history"))
def test_a_mutated_history_does_no_harm(tmp_path, monkeypatch, capsys, seeds):
    monkeypatch.chdir(tmp_path)
    golden(tmp_path / "theirs")
    random_study(tmp_path / "mine", arms=2, seeds=6)
    (tmp_path / "cells").mkdir()  # so that the two are neighbours
    honest = json.loads((tmp_path / "theirs" / "history.json").read_text())
    for seed in seeds:
        content, what = mutated(honest, np.random.default_rng(seed))
        print(seed, what)
        (tmp_path / "theirs" / "history.json").write_text(json.dumps(content))
        capsys.readouterr()

        for words in (["report", "theirs"], ["report", "mine"], ["report", "mine", "theirs"]):
            harmless(capsys, tmp_path, words)


@pytest.mark.parametrize("seeds", batches("records"))
def test_mutated_records_do_no_harm(tmp_path, monkeypatch, capsys, seeds):
    monkeypatch.chdir(tmp_path)
    golden(tmp_path / "theirs")
    path = tmp_path / "theirs" / "records.parquet"
    honest = pl.read_parquet(path)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        name, new = str(rng.choice(honest.columns)), AWKWARD[rng.integers(len(AWKWARD))]
        values = honest[name].to_list()
        values[rng.integers(len(values))] = new
        kind = honest.schema[name] if rng.random() < 0.7 else None
        try:
            path.write_bytes(to_bytes(honest.with_columns(pl.Series(name, values, dtype=kind, strict=False))))
        except Exception:  # polars has no such column
            continue
        print(seed, f"{name}: {new!r:.100}")
        capsys.readouterr()

        harmless(capsys, tmp_path, ["report", "theirs"])
        harmless(capsys, tmp_path, ["report", "theirs", "--format", "tex"])


def full_config(capsys, command, *words):
    """What ``--print_config`` prints."""
    assert main([command, *words, "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("seeds", batches("fit"))
def test_a_mutated_config_of_a_fit_ends_in_a_line(tmp_path, monkeypatch, capsys, seeds):
    monkeypatch.chdir(tmp_path)
    honest = full_config(capsys, "fit", *FIT)
    for seed in seeds:
        content, what = mutated(honest, np.random.default_rng(seed))
        (tmp_path / "fit.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        print(seed, what)
        capsys.readouterr()

        harmless(capsys, tmp_path, ["fit", "--config", "fit.yaml", "--trainer.fast_dev_run", "true"], decoys=())


@pytest.mark.parametrize("seeds", batches("compare"))
def test_a_mutated_config_of_a_study_ends_in_a_line(tmp_path, monkeypatch, capsys, seeds):
    monkeypatch.chdir(tmp_path)
    words = [*FIT, "--trainer.max_epochs", "1", "--study.activations", "[relu, swish]", "--study.replicates", "2"]
    honest = full_config(capsys, "compare", *words)
    for seed in seeds:
        content, what = mutated(honest, np.random.default_rng(seed))
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        print(seed, what)
        capsys.readouterr()

        harmless(
            capsys,
            tmp_path,
            ["compare", "--config", "study.yaml", "--dry_run"],
            programs=["git"],
            decoys=(),
            processor_s=20,
        )


# --- the machine ---


@contextlib.contextmanager
def full_disk(left=5_000):
    """Files of this process cannot grow beyond so many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "words",
    [
        ["fit", *FIT, "--trainer.max_epochs", "1", "--trainer.logger", "false"],
        ["predict", "--output", "predictions.csv"],
        ["export", "--output", "network.pt2"],
    ],
    ids=lambda words: words[0],
)
def test_a_full_disk_is_told_in_a_line_and_nothing_half_written_is_left(run, tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if words[0] in ("predict", "export"):
        words = [*words, "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]

    with full_disk():
        assert main(words) == 1

    assert len([line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]) == 1
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".ckpt", ".pt2") or "predictions" in path.name]


def test_a_full_output_is_told_in_a_line():
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, str(ROOT / "main.py"), "activations"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)

    assert ended.returncode == 1
    assert ended.stderr.splitlines() == ["error: [Errno 28] No space left on device"]


@pytest.mark.parametrize("folder", ["exports", "tensorboard"])
def test_nothing_is_written_or_deleted_through_a_link(tmp_path, monkeypatch, capsys, folder):
    monkeypatch.chdir(tmp_path)
    golden(tmp_path / "theirs")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "events.out.tfevents.1.actbench").write_text("mine")
    (tmp_path / "theirs" / folder).symlink_to(outside)

    assert main(["report", "theirs", "--format", "csv" if folder == "exports" else "tensorboard"]) == 2

    assert capsys.readouterr().err == f"error: theirs/{folder} is a link, through which nothing is written: remove it\n"
    assert [path.read_text() for path in outside.iterdir()] == ["mine"]


def test_names_are_harmless_in_tables(tmp_path, capsys):
    names = ["=1+1", "![i](http://x)", "<script>"]
    study(tmp_path, [records(name, [0.9, 0.8]) for name in names], arms=names, replicates=2)

    for format in ("csv", "md"):
        assert main(["report", str(tmp_path), "--format", format]) == 0

    exports = {path.name: path.read_text() for path in (tmp_path / "exports").iterdir()}
    assert "'=1+1" in exports["replicates.csv"]
    assert not [text for text in exports.values() if text.startswith("=") or "\n=" in text or ",=" in text]
    tables = "".join(text for name, text in exports.items() if name.endswith(".md"))
    assert "<script>" not in tables
    assert "![i]" not in tables
    assert "=1+1" in tables


@pytest.mark.parametrize("name", ["x" * 201, "a\x1b[2Jb", "a\u202eb", "a\x00b"])
def test_a_name_that_cannot_be_shown_is_refused(tmp_path, capsys, name):
    config = {"study": {"activations": [{"name": name, "activation": "relu"}, "swish"], "root": str(tmp_path)}}

    with pytest.raises(ValueError, match="a name has at most 200 letters, all of which can be printed"):
        compare(config)


def test_an_error_shows_no_letter_that_does_something_to_a_terminal(capsys):
    assert main(["\x1b[2Jfit"]) == 2

    assert "\x1b" not in capsys.readouterr().err


CONFIGS = {
    "aliases that multiply": [
        "a: &a [x, x, x, x, x, x, x, x, x]",
        *(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    ],
    "an alias of itself": ["model: &x {activation: *x}"],
    "a key twice": ["trainer: {max_epochs: 1}", "trainer: {max_epochs: 2}"],
    "a tag": ["model: !!python/object/apply:os.system [touch outside]"],
    "depth": ["model: " + "[" * 3000 + "]" * 3000],
    "keys that are no text": ["trainer: {1: 2}"],
}


@pytest.mark.parametrize("what", CONFIGS)
@pytest.mark.parametrize("command", ["fit", "compare"])
def test_a_config_that_is_none_is_refused_in_a_line(tmp_path, monkeypatch, capsys, what, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("\n".join(CONFIGS[what]))

    with guarded(tmp_path):
        assert main([command, "--config", "config.yaml"]) == 2

    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(("command", "part"), [("validate", "val"), ("test", "test"), ("predict", "predict")])
def test_a_limit_that_leaves_nothing_is_refused(run, capsys, command, part):
    words = [command, "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), f"--trainer.limit_{part}_batches", "0"]

    assert main(words) == 2

    message = f"error: --trainer.limit_{part}_batches is 0, which leaves nothing to {command}\n"
    assert capsys.readouterr().err == message


def test_a_checkpoint_says_neither_where_data_are_nor_that_they_are_downloaded(honest, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    content = torch.load(honest, weights_only=True)
    arguments = {"root": "../elsewhere", "download": True}
    content["actbench"]["data"] = {"class_path": "actbench.data.MNIST", "init_args": arguments}
    torch.save(content, tmp_path / "hostile.ckpt")

    with guarded(tmp_path):
        assert main(["test", "--ckpt_path", "hostile.ckpt"]) == 2

    assert (
        capsys.readouterr().err
        == "error: hostile.ckpt holds no paths of the machine it was made on: give --data.root\n"
    )


def test_records_of_other_cells_than_planned_are_told(tmp_path):
    results = study(
        tmp_path, [records("relu", [0.9] * 3), records("swish", [0.9] * 3, cell=fingerprint("x"))], replicates=3
    )

    assert results.faults[0] == "swish: 3 records are not of what was planned"


def measured(**changes):
    def change(content):
        (certificates,) = content["certificates"].values()
        certificates[0].update(changes)

    return change


def planned(**changes):
    return lambda content: content["plans"][-1]["question"].update(changes)


HUGE = 10**400
ENDLESS = {
    "a level of a self-test beyond all numbers": measured(alpha=HUGE),
    "pairs of a self-test beyond all numbers": measured(pairs=HUGE),
    "a share beyond all numbers": measured(false_alarms={"estimate": HUGE, "low": 0, "high": 0}),
    "a tuning of nothing": planned(tune={"replicates": 2}),
    "a tuning of two settings": planned(tune={"a": [1], "b": [2]}),
    "a million replicates": planned(replicates=10**6),
    "a million looks": planned(replicates={"min": 2, "max": 10**6, "batch": 1}),
    "a level of next to nothing": planned(alpha=1e-300),
    "thousands of arms": planned(asked=[["Digits", "MLP", f"arm {n}", CELL] for n in range(3000)]),
    "thousands of plans": lambda content: content.update(plans=content["plans"] * 10_000),
    "a command that is no Unicode": lambda content: content.update(command="\ud800"),
    "a trouble that is no Unicode": lambda content: content.update(troubles=["\ud800"]),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_a_history_that_would_take_all_time_is_refused_in_a_line(tmp_path, monkeypatch, capsys, what):
    monkeypatch.chdir(tmp_path)
    golden(tmp_path / "theirs")
    path = tmp_path / "theirs" / "history.json"
    content = json.loads(path.read_text())
    ENDLESS[what](content)
    for plan in content["plans"]:
        plan["hash"] = fingerprint(plan["question"])
    path.write_text(json.dumps(content))

    with guarded(tmp_path):
        assert main(["report", "theirs"]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert "history.json is damaged" in line


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"replicates": 10**6}, "a study has at most 100,000 replicates"),
        ({"alpha": 1e-12}, "alpha must be at least 1e-09"),
    ],
)
def test_a_study_that_no_report_could_tell_of_is_refused_beforehand(tmp_path, settings, message):
    config = {"study": {**settings, "root": str(tmp_path)}, "data": {"class_path": "FakeImages"}}

    with pytest.raises(ValueError, match=message):
        compare(config)

    assert not list(tmp_path.iterdir())


def test_a_plan_that_is_not_what_its_hash_says_is_refused(tmp_path):
    study(tmp_path, [records("relu", [0.9] * 3), records("swish", [0.8] * 3)], replicates=3)
    path = tmp_path / "history.json"
    content = json.loads(path.read_text())
    content["plans"][0]["question"]["alpha"] = 0.5
    path.write_text(json.dumps(content))

    with pytest.raises(RecordError, match="does not match the question stored with it"):
        load_results(tmp_path)


@pytest.mark.parametrize(
    "columns",
    [
        {"test_loss": pl.when(pl.col("seed") == 1).then(float("nan")).otherwise(0.1)},
        {"test_ece": pl.when(pl.col("seed") == 1).then(float("inf")).otherwise(0.1)},
        {"peak_memory_mb": pl.lit(0.0)},
    ],
    ids=lambda columns: next(iter(columns)),
)
def test_scores_and_costs_that_say_nothing_are_left_out(tmp_path, monkeypatch, capsys, columns):
    monkeypatch.chdir(tmp_path)
    golden(tmp_path / "theirs")
    path = tmp_path / "theirs" / "records.parquet"
    path.write_bytes(to_bytes(pl.read_parquet(path).with_columns(**columns)))

    assert main(["report", "theirs"]) == 0


def test_what_a_self_test_did_not_measure_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    golden(tmp_path / "theirs")
    path = tmp_path / "theirs" / "history.json"
    content = json.loads(path.read_text())
    measured(planted=None, power_planned=None)(content)
    path.write_text(json.dumps(content))

    assert main(["report", "theirs"]) == 0


def test_a_design_of_a_thousand_looks_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    random_study(tmp_path / "theirs", arms=2, seeds=8, replicates={"min": 2, "max": 1000, "batch": 1})

    assert main(["report", "theirs"]) == 0


def test_what_changed_is_printed_harmlessly(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, factors in (("theirs", '{"\\u001b[2J": 1}'), ("mine", '{"\\u001b[2J": 2}')):
        golden(tmp_path / name)
        path = tmp_path / name / "records.parquet"
        path.write_bytes(to_bytes(pl.read_parquet(path).with_columns(factors=pl.lit(factors))))

    assert main(["report", "theirs", "mine"]) == 0

    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert r"\x1b[2J" in shown
