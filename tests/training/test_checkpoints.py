import os
import pickle
from pathlib import Path

import pytest
import torch
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from actbench.activations import Swish
from actbench.data import FakeImages
from actbench.training.checkpoints import CheckpointError, describe_trainer, names_in_texts, portable, read_checkpoint
from actbench.training.classifier import Classifier


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fit")


@pytest.fixture(scope="module")
def path(folder):
    """A checkpoint made from Python, with a class and Lightning's own callback."""
    model = Classifier(activation=Swish, optimizer=torch.optim.SGD, input_shape=(1, 8, 8), num_classes=10, seed=3)
    trainer = Trainer(
        max_epochs=1,
        default_root_dir=folder,
        logger=False,
        callbacks=ModelCheckpoint(folder / "kept", monitor="val/loss"),
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(model, FakeImages(rows=200, batch_size=50, seed=3))
    path = folder / "made.ckpt"
    trainer.save_checkpoint(path)
    return path


def altered(path, name, change):
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, path.parent / name)
    return path.parent / name


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_describes_itself_in_plain_values(path):
    description, _ = read_checkpoint(path)

    assert description["seed"] == 3
    assert description["model"]["activation"]["class_path"] == "actbench.activations.Swish"
    assert description["model"]["optimizer"]["class_path"] == "torch.optim.SGD"
    assert description["model"]["input_shape"] == [1, 8, 8]
    assert description["data"]["class_path"] == "actbench.data.FakeImages"
    assert description["data"]["init_args"]["rows"] == 200
    assert description["trainer"]["max_epochs"] == 1


def test_a_checkpoint_made_from_python_loads_with_weights_only(path):
    checkpoint = torch.load(path, weights_only=True)

    assert "hyper_parameters" not in checkpoint
    assert "datamodule_hyper_parameters" not in checkpoint


def test_no_absolute_path_stands_in_a_checkpoint(path, folder):
    def texts(value):
        if isinstance(value, dict):
            return [text for pair in value.items() for item in pair for text in texts(item)]
        if isinstance(value, list | tuple):
            return [text for item in value for text in texts(item)]
        return [value] if isinstance(value, str) else []

    found = [text for text in texts(torch.load(path, weights_only=True)) if Path(text).is_absolute()]

    assert found == []
    assert str(folder).encode() not in path.read_bytes()


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_paths_come_back_when_a_run_is_resumed(path, folder):
    callback = ModelCheckpoint(folder / "kept", monitor="val/loss")
    model = Classifier(activation=Swish, optimizer=torch.optim.SGD, input_shape=(1, 8, 8), num_classes=10, seed=3)
    trainer = Trainer(
        max_epochs=1,
        default_root_dir=folder,
        logger=False,
        callbacks=callback,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )

    trainer.fit(model, FakeImages(rows=200, batch_size=50, seed=3), ckpt_path=path)

    assert Path(callback.best_model_path).parent == folder / "kept"
    assert Path(callback.best_model_path).exists()


def test_load_from_checkpoint_gives_the_same_network(path):
    checkpoint = torch.load(path, weights_only=True)

    model = Classifier.load_from_checkpoint(path)

    assert isinstance(next(m for m in model.modules() if isinstance(m, Swish)), Swish)
    assert model.seeds == range(3, 4)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in checkpoint["state_dict"].items())


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_refused_and_does_not_run(path, tmp_path, zipped):
    checkpoint = torch.load(path, weights_only=True) | {"extra": Malicious(tmp_path / "ran")}
    torch.save(checkpoint, tmp_path / "evil.ckpt", _use_new_zipfile_serialization=zipped)

    with pytest.raises(CheckpointError, match=r"would run code \(posix.mkdir\)|would run code \(nt.mkdir\)"):
        read_checkpoint(tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError, match="would run code"):
        Classifier.load_from_checkpoint(tmp_path / "evil.ckpt")

    assert not (tmp_path / "ran").exists()


def test_a_bare_pickle_is_refused_and_does_not_run(tmp_path):
    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps(Malicious(tmp_path / "ran")))

    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "evil.ckpt")

    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("place", ["activation", "network", "optimizer", "lr_scheduler"])
def test_a_class_that_is_not_trusted_is_refused_before_it_is_imported(path, tmp_path, monkeypatch, place):
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    spec = {"class_path": "evil_module.Evil"}
    evil = altered(path, f"{place}.ckpt", lambda c: c["actbench"]["model"].update({place: spec}))

    with pytest.raises(CheckpointError, match=r"names the class 'evil_module.Evil'.*--trust evil_module"):
        Classifier.load_from_checkpoint(evil)

    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("nested", [{"deep": [{"class_path": "evil_module.Evil"}]}, {"class_path": "os.system"}])
def test_class_paths_are_found_at_any_depth(path, nested):
    evil = altered(path, "deep.ckpt", lambda c: c["actbench"]["data"]["init_args"].update(transform=nested))

    with pytest.raises(CheckpointError, match="would be imported and run"):
        read_checkpoint(evil)


@pytest.mark.parametrize("name", ["torch.nnevil.X", "actbenchevil.X", "torch.hub.load", "torch"])
def test_trust_goes_by_whole_names(path, name):
    evil = altered(path, "name.ckpt", lambda c: c["actbench"]["data"].update(class_path=name))

    with pytest.raises(CheckpointError, match="would be imported and run"):
        read_checkpoint(evil)


def test_a_datamodule_that_is_replaced_need_not_be_trusted(path):
    evil = altered(path, "replaced.ckpt", lambda c: c["actbench"]["data"].update(class_path="evil_module.Evil"))

    assert read_checkpoint(evil, data="actbench.data.Digits")[0]["data"] is None
    with pytest.raises(CheckpointError, match="would be imported"):
        read_checkpoint(evil, data="evil_module.Evil")


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("model.activation", "evil_module.Evil"),
        ("model.activation", None),
        ("model.activation", {"class_path": ["evil_module.Evil"]}),
        ("model.lr_scheduler", "evil_module.Evil"),
        ("model.input_shape", None),
        ("model.input_shape", [1, "8", 8]),
        ("model.num_classes", torch.zeros(3)),
        ("model", []),
        ("data", "evil_module.Evil"),
        ("data.init_args", None),
        ("trainer", None),
        ("trainer.max_epochs", torch.zeros(3)),
        ("trainer.callbacks", []),
        ("seed", "0"),
    ],
)
def test_entries_of_another_form_are_refused(path, entry, value):
    def change(checkpoint):
        *outer, name = entry.split(".")
        place = checkpoint["actbench"]
        for key in outer:
            place = place[key]
        place[name] = value

    odd = altered(path, "odd.ckpt", change)

    with pytest.raises(CheckpointError, match="is damaged: its entry 'actbench'"):
        read_checkpoint(odd)


@pytest.mark.parametrize("entry", ["seed", "model", "data", "trainer"])
def test_a_missing_entry_is_refused(path, entry):
    odd = altered(path, "missing.ckpt", lambda c: c["actbench"].pop(entry))

    with pytest.raises(CheckpointError, match="is damaged"):
        read_checkpoint(odd)


def test_a_trusted_module_is_imported(path, tmp_path, monkeypatch):
    (tmp_path / "trusted_module.py").write_text("from torch import nn\nclass Mine(nn.SiLU): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    spec = {"class_path": "trusted_module.Mine"}
    mine = altered(path, "mine.ckpt", lambda c: c["actbench"]["model"].update(activation=spec))

    model = Classifier.load_from_checkpoint(mine, trust=["trusted_module"])

    assert any(type(module).__name__ == "Mine" for module in model.modules())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello there", "damaged or not a checkpoint"),
        (b"PK\x03\x04", "damaged or not a checkpoint"),
    ],
)
def test_files_that_are_no_checkpoints_are_named(tmp_path, content, message):
    (tmp_path / "bad.ckpt").write_bytes(content)

    with pytest.raises(CheckpointError, match=rf"bad\.ckpt.*{message}"):
        read_checkpoint(tmp_path / "bad.ckpt")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_named(path, tmp_path, share):
    content = path.read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(content[: int(len(content) * share)])

    with pytest.raises(CheckpointError, match=r"cut\.ckpt is damaged"):
        read_checkpoint(tmp_path / "cut.ckpt")


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="was not found"):
        read_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_checkpoint(tmp_path)


def test_checkpoints_of_other_programs_and_formats_are_refused(path, tmp_path):
    torch.save({"state_dict": nn.Linear(2, 2).state_dict()}, tmp_path / "other.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    newer = altered(path, "newer.ckpt", lambda c: c["actbench"].update(schema=99, version="9.0"))

    for other in ("other.ckpt", "list.ckpt"):
        with pytest.raises(CheckpointError, match="another program"):
            read_checkpoint(tmp_path / other)
    with pytest.raises(CheckpointError, match=r"format 99 by actbench 9\.0"):
        read_checkpoint(newer)


def test_paths_below_the_working_directory_are_kept_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    inner = {"class_path": "x.Files", "init_args": {"folders": ["a", "/elsewhere/b"], "size": 3}}
    arguments = {"root": str(tmp_path / "sets"), "names": ["a", "b/c"], "cache": "/elsewhere/sets", "files": inner}
    left_out = []

    kept = portable({"class_path": "x.Data", "init_args": arguments}, left_out)

    files = {"class_path": "x.Files", "init_args": {"size": 3}}
    assert kept["init_args"] == {"root": "sets", "names": ["a", "b/c"], "files": files}
    assert left_out == ["cache", "files.folders"]


def test_one_batch_is_not_all_of_them():
    trainer = Trainer(limit_val_batches=1, limit_test_batches=1.0, accelerator="cpu", logger=False)

    assert describe_trainer(trainer).get("limit_val_batches") == 1
    assert "limit_test_batches" not in describe_trainer(trainer)


def test_texts_that_are_asked_for_as_texts_are_no_names_of_code():
    files = {"class_path": "test_checkpoints.Listed", "init_args": {"files": ["a.csv", "b.csv"], "one": "c.csv"}}
    function = {"class_path": "torch.optim.lr_scheduler.LambdaLR", "init_args": {"lr_lambda": ["evil.f"]}}

    assert list(names_in_texts({"data": files})) == []
    assert list(names_in_texts({"model": function})) == ["evil.f"]


class Listed(LightningDataModule):
    def __init__(self, files: list[str], one: str):
        super().__init__()
