"""Training, checkpoints, export and studies of networks that activations are swapped into."""

import copy
import json
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer
from small_studies import Lines, study
from torch import nn
from torch.nn import functional as F
from torchvision import models

from actbench.cli import main
from actbench.data import FakeImages
from actbench.report import page
from actbench.specs import NetworkSpec
from actbench.studies import compare
from actbench.studies.grid import short_name
from actbench.training.checkpoints import CheckpointError, read_checkpoint
from actbench.training.classifier import Classifier
from actbench.training.export import export_replicate

NETWORK = "test_swapped.make_network"


class Small(nn.Module):
    """A block that is called twice, a functional activation, and a gate."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.squeeze = nn.Conv2d(width, width, 1)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = self.block(self.block(x))
        x = x * torch.sigmoid(self.squeeze(x.mean((2, 3), keepdim=True)))
        return self.head(self.drop(x.mean((2, 3))))


class Viewed(Small):
    """Code that takes tensors for contiguous, as they are where nobody changes their layout."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(4, num_classes)
        self.stem, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 6 * 6, num_classes)

    def forward(self, x):
        x = F.relu(self.stem(x))
        return self.head(x.view(len(x), -1))


def make_network(width: int = 4, **others) -> nn.Module:
    """A function that says what it returns, and passes on what it does not name."""
    return Small(width, **others)


def make_unsaid(num_classes: int):
    """A function that does not say what it returns."""
    return Small(4, num_classes)


def classifier(**options):
    given = {"activation": "prelu", "input_shape": (1, 8, 8), "num_classes": 10}
    network = {"class_path": "test_swapped.Small", "init_args": {"width": 4}}
    return Classifier(**{**given, "network": network, **options})


def fitted(folder, epochs, *, resume=None, **options):
    model = classifier(replicates=2, **options)
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", default_root_dir=folder, **quiet)
    trainer.fit(model, FakeImages(rows=200, batch_size=50, replicates=2), ckpt_path=resume, weights_only=True)
    path = Path(folder) / f"{epochs}.ckpt"
    trainer.save_checkpoint(path)
    return model, path


def test_replicates_in_a_stack_are_those_trained_alone():
    images, labels = torch.rand(3, 4, 1, 8, 8), torch.randint(10, (3, 4))

    losses = [
        classifier(replicates=3, engine=engine).engine.losses(images, labels, key=(0, 0)).detach()
        for engine in ("sequence", "stack")
    ]

    torch.testing.assert_close(*losses)


def test_the_layout_of_images_is_that_of_plain_torch():
    engine = classifier(network="test_swapped.Viewed", input_shape=(3, 8, 8), engine="sequence").engine

    engine.losses(torch.rand(1, 4, 3, 8, 8), torch.zeros(1, 4, dtype=torch.long)).sum().backward()


def test_steps_of_a_swapped_stack_are_replayed_bit_for_bit():
    def trained(calls):
        model = classifier(replicates=3, engine="stack", activation="swish")
        optimizer = model.engine.make_optimizer(model.optimizer)
        generator = torch.Generator().manual_seed(0)
        for step in range(calls):
            images, labels = torch.rand(3, 4, 1, 8, 8, generator=generator), torch.randint(10, (3, 4))
            optimizer.zero_grad()
            model.engine.losses(images, torch.zeros_like(labels), key=(0, step)).sum().backward()
            optimizer.step()
        return model

    model = trained(60)

    assert model.engine.remark() == "recorded steps were replayed"
    plain = classifier(replicates=3, engine="stack", activation="swish")
    plain.engine.load_state_dict(model.engine.state_dict())
    images, labels = torch.rand(3, 4, 1, 8, 8), torch.randint(10, (3, 4))
    assert torch.equal(model.engine.losses(images, labels), plain.engine.losses(images, labels))


@pytest.mark.parametrize("engine", ["sequence", "stack"])
def test_a_checkpoint_describes_the_swap_and_gives_it_back(tmp_path, engine):
    model, path = fitted(tmp_path, 1, engine=engine, sites=["block.*"])
    images = torch.rand(5, 1, 8, 8)

    loaded = Classifier.load_from_checkpoint(str(path), trust=["test_swapped"])

    assert read_checkpoint(path, trust=["test_swapped"])[0]["model"]["sites"] == ["block.*"]
    assert torch.equal(loaded.eval()(images), model.eval()(images))
    assert loaded.swap.text == "2 of 4 sites swapped: 2 hidden; kept 1 hidden, 1 gate; proved in train and eval"


@pytest.mark.parametrize("engine", ["sequence", "stack"])
def test_a_resumed_fit_is_the_uninterrupted_one(tmp_path, engine):
    whole, _ = fitted(tmp_path, 2, engine=engine)
    _, half = fitted(tmp_path, 1, engine=engine)

    resumed, _ = fitted(tmp_path, 2, engine=engine, resume=half)

    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("net.pt2", "sequence"),
        ("net.onnx", "stack"),
        pytest.param("net.pt2", "stack", marks=pytest.mark.slow),
        pytest.param("net.onnx", "sequence", marks=pytest.mark.slow),
    ],
)
def test_a_swapped_replicate_is_exported(tmp_path, engine, name):
    model = classifier(replicates=2, engine=engine, activation="swish").eval()

    export_replicate(model, 1, tmp_path / name)  # which compares the file's outputs with the replicate's

    if name == "net.pt2":
        images = torch.rand(4, 1, 8, 8)
        exported = torch.export.load(tmp_path / name).module()(images)
        torch.testing.assert_close(exported, model(images)[1])


def test_functions_of_others_are_run_only_if_trusted(tmp_path):
    path = fitted(tmp_path, 1, network=NETWORK)[1]

    with pytest.raises(CheckpointError, match="add --trust test_swapped"):
        read_checkpoint(path)
    assert read_checkpoint(path, trust=["test_swapped"])


def test_a_function_that_says_nothing_is_found_again(tmp_path):
    model, path = fitted(tmp_path, 1, network="test_swapped.make_unsaid")
    images = torch.rand(5, 1, 8, 8)

    loaded = Classifier.load_from_checkpoint(str(path), trust=["test_swapped"])

    assert torch.equal(loaded.eval()(images), model.eval()(images))


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("torchvision.datasets.utils.download_url", {"url": "x", "root": "."}, "makes no network of torchvision's"),
        ("torchvision.models.get_model", {"name": "fcn_resnet50"}, "makes no network of torchvision's"),
        ("torchvision.models.detection.fasterrcnn_resnet50_fpn", {}, "makes no network of torchvision's"),
        ("actbench.cli.main", {"args": ["fit"]}, "makes no network of torchvision's"),
        ("torchvision.models.resnet18", {"weights": "DEFAULT"}, "would download the weights"),
    ],
)
def test_a_checkpoint_runs_no_function_that_nobody_named_and_downloads_nothing(tmp_path, function, arguments, message):
    path = fitted(tmp_path, 1, network=NETWORK)[1]
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["actbench"]["model"]["network"] = {"class_path": function, "init_args": arguments}
    torch.save(checkpoint, path)

    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


def test_a_fit_prints_the_certificate_once(tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    words = f"--model.network {NETWORK} --model.replicates 2 --data FakeImages --data.rows 200 --trainer.max_epochs 1"

    with caplog.at_level("INFO", logger="pytorch_lightning"):
        assert main(["fit", *words.split(), "--trainer.accelerator", "cpu"]) == 0

    line = "3 of 4 sites swapped: 3 hidden; kept 1 gate; proved in train and eval"
    assert [record.getMessage() for record in caplog.records].count(line) == 1


def test_a_study_says_and_records_what_was_swapped(tmp_path):
    config = study(tmp_path)
    config["model"]["network"] = NETWORK

    lines = Lines()
    results = compare(config, progress=lines)
    table = results.table

    swaps = [json.loads(text) for text in table["swap"].unique()]
    line = "3 of 4 sites swapped: 3 hidden; kept 1 gate; proved in train and eval"
    assert [swap["text"] for swap in swaps] == [line]
    assert [site["name"] for site in swaps[0]["sites"] if site["swapped"]] == [".#0", "block.2#0", "block.2#1"]
    assert table.select("seed", "init_fingerprint").n_unique() == table["seed"].n_unique()  # whatever the activation
    assert [said for said in lines.said if "swapped" in said] == [f"make_network: {line}"]
    text = page(results, name="a study")
    assert line in text
    assert "block.2#1: relu, hidden, swapped" in text
    assert "kept: role gate" in text


# --- trained weights of torchvision ---


@pytest.fixture
def trained(monkeypatch):
    """Weights of a ResNet-18 for 1,000 classes, in place of those that torchvision downloads."""
    torch.manual_seed(7)
    state = models.resnet18().state_dict()
    asked = []

    def load(url, **options):
        asked.append(url)
        return copy.deepcopy(state)

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", load)
    return state, asked


@pytest.mark.parametrize("weights", ["DEFAULT", "IMAGENET1K_V1"])
def test_torchvisions_weights_are_shared_and_the_head_is_each_seeds_own(trained, weights):
    state, asked = trained
    network = {"class_path": "torchvision.models.resnet18", "init_args": {"weights": weights}}

    model = Classifier("swish", network, replicates=2, input_shape=(3, 32, 32), num_classes=10)

    assert len(asked) == 2
    first, second = (model.engine.replicate(index).network.state_dict() for index in range(2))
    for name, value in state.items():
        if not name.startswith("fc."):
            assert torch.equal(first[name], value)
            assert torch.equal(second[name], value)
    assert first["fc.weight"].shape == (10, 512)
    assert not torch.equal(first["fc.weight"], second["fc.weight"])


def test_a_checkpoint_of_trained_weights_needs_no_download(trained, tmp_path):
    _, asked = trained
    network = {"class_path": "torchvision.models.resnet18", "init_args": {"weights": "DEFAULT"}}
    model = Classifier("swish", network, input_shape=(3, 32, 32), num_classes=10)
    trainer = Trainer(max_steps=1, logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    trainer.fit(model, FakeImages(100, 3, 32, 32, batch_size=8))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    asked.clear()

    loaded = Classifier.load_from_checkpoint(tmp_path / "run.ckpt")

    assert not asked
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_weights_that_come_with_other_settings_are_refused():
    network = {"class_path": "torchvision.models.googlenet", "init_args": {"weights": "DEFAULT", "aux_logits": False}}

    with pytest.raises(ValueError, match="save their state dict"):
        NetworkSpec(network)


def test_a_network_that_is_made_by_name_has_that_name_in_tables():
    spec = {"class_path": "timm.create_model", "init_args": {"model_name": "rexnet_100"}}

    assert short_name(spec) == "rexnet_100"
    assert short_name({"class_path": "torchvision.models.resnet18"}) == "resnet18"
