import copy
import os
import signal
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from datasets import write_mnist
from pytorch_lightning import Callback, LightningDataModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, default_collate, random_split

from actbench import data, records
from actbench.networks import MLP
from actbench.seeding import SOURCES
from actbench.specs import merge_config
from actbench.studies.cells import Cell, cell_config, data_digest, device_name, measurements, run_cell
from actbench.studies.cells.measurements import curve
from actbench.training.classifier import Classifier

FIT = {"model": {"network": "MLP"}, "data": "FakeImages", "trainer": {"max_epochs": 4, "accelerator": "cpu"}}


def cell(seeds=range(3), weights="last", vary=SOURCES, fixed_seed=0, **settings):
    config = copy.deepcopy(FIT)
    for key, value in settings.items():
        section, _, name = key.partition("__")
        if name:
            config[section] = {**config[section], name: value}
        else:
            config[section] = value
    config = cell_config(merge_config({}, config))
    return Cell(config, seeds, data_digest(config), weights, vary, fixed_seed)


class LearnedSlope(nn.Module):
    """Trainable, with parameters of its own."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.25))

    def forward(self, x):
        return torch.where(x > 0, x, self.slope * x)


class ForImages(nn.Module):
    """Takes images only."""

    def forward(self, x):
        assert x.ndim > 1
        return x.relu()


class Gated(nn.Module):
    """No function of one number: an output depends on other inputs."""

    def forward(self, x):
        return x * x.softmax(dim=1)


SAME = {
    "the seeds": {"seeds": range(8, 9)},
    "a default written out": {"model__optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}}},
    "a class path for a name": {"data": {"class_path": "actbench.data.FakeImages"}},
    "another name for it": {"model__activation": "torch.nn.ReLU"},
    "the width of the stack": {"model__stack_width": 2},
    "the device": {"trainer__accelerator": "auto"},
    "the number of devices": {"trainer__devices": 1},
    "what is logged": {"trainer__log_every_n_steps": 7},
    "a Trainer's default": {"trainer__limit_val_batches": 1.0},
    "another of them": {"trainer__overfit_batches": 0.0},
    "a logger": {"trainer__logger": True},
    "a folder": {"trainer__default_root_dir": "elsewhere"},
    "the order in which sources of randomness are named": {"vary": ["dropout", *SOURCES[:-1]]},
}
OTHER = {
    "the activation": {"model__activation": "swish"},
    "its arguments": {"model__activation": {"class_path": "torch.nn.LeakyReLU", "init_args": {"negative_slope": 0.1}}},
    "the network": {"model__network": "TutorialCNN"},
    "one batch to train on": {"trainer__limit_train_batches": 1},
    "the sources of randomness": {"vary": ["init"]},
    "what the others are fixed at": {"vary": ["init"], "fixed_seed": 1},
    "the learning rate": {"model__optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 2e-3}}},
    "the optimiser": {"model__optimizer": {"class_path": "torch.optim.NAdam", "init_args": {"lr": 1e-3}}},
    "a schedule": {
        "model__lr_scheduler": {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1}}
    },
    "the dataset": {"data": "Digits"},
    "the batch size": {"data": {"class_path": "FakeImages", "init_args": {"batch_size": 32}}},
    "the split": {"data": {"class_path": "FakeImages", "init_args": {"val_fraction": 0.2}}},
    "epochs": {"trainer__max_epochs": 5},
    "precision": {"trainer__precision": "bf16-mixed"},
    "clipping": {"trainer__gradient_clip_val": 1.0},
    "limits": {"trainer__limit_train_batches": 2},
    "overfitting": {"trainer__overfit_batches": 2},
    "a callback": {"trainer__callbacks": [{"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss"}}]},
    "the weights that are scored": {"weights": "best"},
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_the_hash_does_not_follow_from(change):
    assert cell(**change).hash == cell().hash


def test_the_hash_follows_from_the_images_and_not_from_where_they_are(tmp_path):
    def hash_in(folder, **arguments):
        return cell(data={"class_path": "MNIST", "init_args": {"root": str(tmp_path / folder), **arguments}}).hash

    for folder in ("a", "b", "c"):
        write_mnist(tmp_path / folder)
    labels = tmp_path / "c" / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\0")

    assert hash_in("b", download=True) == hash_in("a") != hash_in("c")


def test_the_hash_follows_from_the_users_own_code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    source = "from torch import nn\n\nclass {}(nn.Module):\n    def forward(self, x):\n        return {} * x\n"
    (tmp_path / "my_acts.py").write_text(source.format("Mine", 2))
    before = cell(model__activation="my_acts.Mine").hash

    (tmp_path / "my_acts.py").write_text(source.format("Mine", 3))
    monkeypatch.delitem(sys.modules, "my_acts")
    changed = cell(model__activation="my_acts.Mine").hash
    (tmp_path / "my_acts.py").write_text(source.format("Mine", 2))
    monkeypatch.delitem(sys.modules, "my_acts")

    assert changed != before
    assert cell(model__activation="my_acts.Mine").hash == before


def test_a_cell_trains_the_code_that_was_planned_or_fails(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    code = "from torch import nn\nclass Planned(nn.Module):\n    def forward(self, x):\n        return x.{}()\n"
    (tmp_path / "planned_acts.py").write_text(code.format("relu"))
    planned = cell(model__activation="planned_acts.Planned")
    assert planned.hash

    (tmp_path / "planned_acts.py").write_text(code.format("sigmoid"))

    here = run_cell(planned, tmp_path / "here")
    assert (
        here["test_loss"].to_list()
        == run_cell(cell(model__activation="relu"), tmp_path / "relu")["test_loss"].to_list()
    )
    monkeypatch.delitem(sys.modules, "planned_acts")  # as in a worker that starts later
    with pytest.raises(
        ValueError, match=r"planned_acts\.py has changed since the study was planned: start the study a"
    ):
        run_cell(planned, tmp_path / "elsewhere")


def test_the_hash_follows_from_all_that_matters():
    hashes = [cell(**change).hash for change in OTHER.values()] + [cell().hash]

    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": {"activation": "relo"}}, "unknown activation 'relo'"),
        ({"model": {"aktivation": "relu"}}, "unknown option --model.aktivation; did you mean --model.activation"),
        ({"optimizer": "Adam"}, "use --model.optimizer"),
        ({"trainer": {"max_epoch": 3}}, "max_epoch"),
        ({"trainer": {"max_epochs": "many"}}, "--trainer.max_epochs: "),
        ({"trainer": {"fast_dev_run": True}}, "trainer.fast_dev_run: a study trains whole fits"),
        ({"trainer": {"devices": 2}}, "trainer.devices: a cell runs on one device, got 2; use study.workers"),
        ({"trainer": {"devices": -1}}, "a cell runs on one device"),
        ({"trainer": {"devices": [0, 1]}}, "a cell runs on one device"),
        ({"trainer": {"num_nodes": 2}}, "trainer.num_nodes: a cell runs on one device"),
        ({"data": "Digitz"}, "unknown dataset 'Digitz'"),
        ({"data": {"class_path": "Digits", "init_args": {"seed": 3}}}, "--data.seed: a run has one seed"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(config, message):
    with pytest.raises(ValueError, match=message) as error:
        cell_config(merge_config({}, config))

    assert "\n" not in str(error.value)


@pytest.mark.parametrize("trainer", [{}, {"devices": "auto"}])
def test_a_cell_runs_on_one_device_unless_told(trainer):
    assert cell_config({"trainer": trainer})["trainer"]["devices"] == 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_cell(cell(), tmp_path_factory.mktemp("cell"))


def test_a_record_holds_what_a_fit_and_a_test_give(finished):
    assert finished.columns == list(records.COLUMNS)
    assert finished["seed"].to_list() == [0, 1, 2]
    assert finished["epoch_val_accuracy"].list.len().to_list() == [4] * 3
    assert finished["val_accuracy"].to_list() == finished["epoch_val_accuracy"].list.last().to_list()
    network = MLP(nn.ReLU, input_shape=(1, 8, 8), num_classes=10)
    assert finished["parameters"].to_list() == [sum(weights.numel() for weights in network.parameters())] * 3
    assert finished["diverged"].to_list() == [False] * 3
    assert all(finished["epoch_time_s"] > 0)
    rows = len(data_of(range(1)).parts["train"].rows[0])
    batches = -(-rows // 64)
    expected = finished["epoch_time_s"] * finished["examples_per_s"]
    assert expected.to_list() == pytest.approx([batches * 64] * 3)


def test_a_record_says_how_large_val_is_and_how_often_its_most_frequent_class_occurs(finished):
    images = data_of(range(3))

    val = images.parts["val"]
    for replicate, rows in enumerate(val.rows):
        counts = torch.bincount(images.tables[val.table].labels[rows], minlength=10)
        assert finished["val_rows"][replicate] == len(rows)
        assert finished["val_guess"][replicate] == counts.max().item() / len(rows)


def data_of(seeds):
    images = data.FakeImages(seed=seeds[0], replicates=len(seeds))
    images.setup()
    return images


def test_a_cell_run_again_or_in_other_company_gives_the_same(finished, tmp_path):
    torch.manual_seed(99)

    again = run_cell(cell(), tmp_path / "again")
    alone = run_cell(cell(range(1, 2), model__engine="stack"), tmp_path / "alone")

    assert records.same_results(finished, again)
    assert records.same_results(finished.filter(seed=1), alone)


class Foreign(LightningDataModule):
    """Splits, shuffles and augments by the global generators, at every setup."""

    def setup(self, stage):
        images, labels = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(200) % 10
        self.train, self.val = random_split(TensorDataset(images, labels), [160, 40])

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=32, shuffle=True, collate_fn=noisy)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=40)

    test_dataloader = val_dataloader


def noisy(rows):
    images, labels = default_collate(rows)
    return images + 0.1 * torch.randn_like(images), labels


def test_a_foreign_datamodules_batches_do_not_follow_from_the_replicates(tmp_path):
    settings = {"data": "test_cells.Foreign", "model__engine": "stack"}
    together = run_cell(cell(**settings), tmp_path / "together")
    alone = run_cell(cell(range(1, 2), **settings), tmp_path / "alone")

    assert records.same_results(together.filter(seed=1), alone)
    assert together["val_loss"].to_list() == together["epoch_val_loss"].list.last().to_list()


@pytest.mark.parametrize("steps", [10, *(pytest.param(steps, marks=pytest.mark.slow) for steps in (7, 13))])
def test_a_foreign_datamodule_is_resumed_bit_for_bit(tmp_path, steps):
    settings = {"data": "test_cells.Foreign", "trainer__val_check_interval": 2}  # batches, of the 5 of an epoch
    whole = run_cell(cell(**settings), tmp_path / "whole")

    with pytest.raises(SystemExit):
        run_cell(cell(**settings), tmp_path / "cell", [Signal(steps)])

    assert records.same_results(whole, run_cell(cell(**settings), tmp_path / "cell"))


class Signal(Callback):
    """Ctrl-C after some steps."""

    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.steps:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("steps", [0, 17, 25])
def test_an_interrupted_cell_goes_on_bit_for_bit(finished, tmp_path, steps):
    with pytest.raises(SystemExit):
        run_cell(cell(), tmp_path / "cell", [Signal(steps)])
    assert (tmp_path / "cell" / "checkpoints" / "last.ckpt").exists()

    assert records.same_results(finished, run_cell(cell(), tmp_path / "cell"))


def test_a_cell_whose_checkpoint_is_damaged_starts_over(finished, tmp_path):
    with pytest.raises(SystemExit):
        run_cell(cell(), tmp_path / "cell", [Signal(17)])
    last = tmp_path / "cell" / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-1000])

    assert records.same_results(finished, run_cell(cell(), tmp_path / "cell"))


def test_the_best_weights_are_scored_if_asked_for(tmp_path):
    # A learning rate at which the last epoch is not each replicate's best.
    optimizer = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.2}}

    table = run_cell(cell(weights="best", model__optimizer=optimizer), tmp_path)

    assert table["val_loss"].to_list() == pytest.approx(table["epoch_val_loss"].list.min().to_list(), rel=1e-6)
    assert table["val_loss"].to_list() != table["epoch_val_loss"].list.last().to_list()
    assert table["weights"].to_list() == ["best"] * 3


@pytest.mark.parametrize("weights", ["last", "best"])
def test_scores_on_val_are_those_of_the_weights_that_are_scored(tmp_path, weights):
    every = run_cell(cell(trainer__max_epochs=3, weights="last"), tmp_path / "every")

    second = run_cell(
        cell(trainer__max_epochs=3, trainer__check_val_every_n_epoch=2, weights=weights), tmp_path / "two"
    )

    scored = 1 if weights == "best" else 2
    for name in ("loss", "accuracy", "ece"):
        expected = every[f"epoch_val_{name}"].to_list()
        assert second[f"val_{name}"].to_list() == [epochs[scored] for epochs in expected]
        assert second[f"epoch_val_{name}"].to_list() == [[None, epochs[1], None] for epochs in expected]
    assert (weights == "best") == (second["test_loss"].to_list() != every["test_loss"].to_list())


@pytest.mark.parametrize(
    ("interval", "every", "validated"),
    [
        pytest.param(3, 1, [9, 20, 31], marks=pytest.mark.slow),
        (0.5, 1, [10, 21, 32]),
        (15, None, [None, 15, 30]),
    ],
)
def test_an_epochs_scores_on_val_are_those_of_its_last_validation(tmp_path, interval, every, validated):
    settings = {"trainer__max_epochs": 3, "trainer__limit_train_batches": 11}
    within = {"trainer__val_check_interval": interval, "trainer__check_val_every_n_epoch": every}

    table = run_cell(cell(**settings, **within), tmp_path / "within")

    for epoch, step in enumerate(validated):
        ended = step and run_cell(cell(**settings, trainer__max_steps=step), tmp_path / str(step))
        for name in ("loss", "accuracy", "ece"):
            scores = table[f"epoch_val_{name}"].list.get(epoch).to_list()
            assert scores == ([None] * 3 if ended is None else ended[f"val_{name}"].to_list())
    metrics = pl.read_csv(tmp_path / "within" / "metrics.csv")
    assert metrics["val/loss"].to_list() == [
        loss for losses in zip(*table["epoch_val_loss"], strict=True) for loss in losses
    ]
    assert table["val_loss"].to_list() != table["epoch_val_loss"].list.last().to_list()  # of the weights at the end


def test_a_cell_that_is_interrupted_after_a_validation_within_an_epoch_keeps_its_scores(tmp_path):
    settings = {"trainer__max_epochs": 2, "trainer__val_check_interval": 7}  # batches, of the 12 of an epoch
    whole = run_cell(cell(**settings), tmp_path / "whole")

    with pytest.raises(SystemExit):
        run_cell(cell(**settings), tmp_path / "cell", [Signal(20)])

    assert whole["epoch_val_loss"].explode().null_count() == 0
    assert records.same_results(whole, run_cell(cell(**settings), tmp_path / "cell"))


def test_divergence_is_seen_in_a_validation_within_an_epoch(tmp_path):
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1e30}}

    table = run_cell(cell(trainer__val_check_interval=5, model__optimizer=optimizer), tmp_path)

    assert table["diverged"].to_list() == [True] * 3
    assert table["diverged_epoch"].to_list() == [0] * 3


def test_without_validation_there_are_no_scores_on_val(tmp_path):
    table = run_cell(cell(trainer__limit_val_batches=0), tmp_path)

    for name in ("loss", "accuracy", "ece"):
        assert table[f"val_{name}"].to_list() == [None] * 3
        assert table[f"epoch_val_{name}"].to_list() == [[None] * 4] * 3
    assert table["val_rows"].to_list() == table["val_guess"].to_list() == [None] * 3
    assert all(table["test_accuracy"] > 0)
    assert table["diverged"].to_list() == [False] * 3


@pytest.mark.parametrize("engine", ["stack", "sequence"])
def test_a_replicate_that_is_stopped_early_has_the_record_that_it_has_alone(tmp_path, engine):
    stopping = [{"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "patience": 1}}]
    optimizer = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1}}
    settings = {"trainer__callbacks": stopping, "trainer__max_epochs": 12, "model__optimizer": optimizer}
    settings["model__engine"] = engine

    together = run_cell(cell(range(4), **settings), tmp_path / "together")

    assert together["epochs"].n_unique() > 1
    assert together["epochs"].to_list() == together["epoch_val_loss"].list.len().to_list()
    for seed in (together["epochs"].arg_min(), together["epochs"].arg_max()):
        alone = run_cell(cell(range(seed, seed + 1), **settings), tmp_path / f"{seed}")
        assert records.same_results(together.filter(seed=seed), alone)


@pytest.mark.parametrize(
    "vary", [["order", "split"], *(pytest.param(vary, marks=pytest.mark.slow) for vary in (["init"], ["split"]))]
)
def test_sources_of_randomness_vary_alone(tmp_path, vary):
    table = run_cell(cell(vary=vary, fixed_seed=5), tmp_path / "cell")
    reference = run_cell(cell(seeds=range(5, 6)), tmp_path / "reference")

    assert table["init_fingerprint"].n_unique() == (3 if "init" in vary else 1)
    assert table["order_fingerprint"].n_unique() == (1 if vary == ["init"] else 3)
    assert table["val_loss"].n_unique() == 3
    fixed = "order_fingerprint" if vary == ["init"] else "init_fingerprint"
    assert table[fixed][0] == reference[fixed][0]


def test_a_replicate_that_diverges_is_a_result(tmp_path):
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1e30}}

    table = run_cell(cell(model__optimizer=optimizer), tmp_path)

    assert table["diverged"].to_list() == [True] * 3
    assert table["diverged_epoch"].to_list() == [0] * 3


def test_fingerprints_are_the_same_for_every_activation_and_another_for_every_seed(finished, tmp_path):
    trained = run_cell(cell(model__activation="test_cells.LearnedSlope"), tmp_path)

    for column in ("init_fingerprint", "order_fingerprint"):
        assert trained[column].to_list() == finished[column].to_list()
        assert finished[column].n_unique() == 3
    assert trained["parameters"][0] > finished["parameters"][0]


def test_a_network_with_counters_has_fingerprints(tmp_path):
    table = run_cell(cell(model__network="ResNet20", trainer__limit_train_batches=1), tmp_path / "cell")

    assert table["init_fingerprint"].n_unique() == 3


def test_a_fingerprint_follows_from_weights_and_order(finished, tmp_path):
    other = run_cell(cell(model__network="TutorialCNN"), tmp_path / "network")
    split = {"class_path": "FakeImages", "init_args": {"val_fraction": 0.2}}
    another = run_cell(cell(data=split), tmp_path / "split")

    assert not set(other["init_fingerprint"]) & set(finished["init_fingerprint"])
    assert other["order_fingerprint"].to_list() == finished["order_fingerprint"].to_list()
    assert not set(another["order_fingerprint"]) & set(finished["order_fingerprint"])


def test_nothing_leaks_from_a_cell(tmp_path):
    seed_everything(3, verbose=False)
    torch.set_num_threads(1)
    before = torch.get_rng_state(), dict(os.environ), torch.are_deterministic_algorithms_enabled()
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    run_cell(cell(range(1), trainer__max_epochs=1), tmp_path)

    assert torch.equal(torch.get_rng_state(), before[0])
    assert dict(os.environ) == before[1]
    assert torch.are_deterministic_algorithms_enabled() == before[2]
    assert torch.get_num_threads() == 1
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_records_of_a_cell_agree_with_lightnings_own_fit(finished):
    model = Classifier("relu", "MLP", replicates=3, input_shape=(1, 8, 8), num_classes=10)
    trainer = Trainer(
        max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    images = data_of(range(3))
    trainer.fit(model, images)
    trainer.test(model, images, verbose=False)

    assert finished["test_accuracy"].to_list() == model.evaluated["test/acc"].tolist()
    assert finished["test_loss"].to_list() == model.evaluated["test/loss"].tolist()


def test_a_record_holds_the_shape_of_its_activation_after_training(finished, tmp_path):
    trained = run_cell(cell(model__activation="test_cells.LearnedSlope"), tmp_path / "trained")
    gated = run_cell(cell(model__activation="test_cells.Gated", trainer__max_epochs=1), tmp_path / "gated")

    x = finished["curve_x"][0].to_numpy()
    assert finished["curve_y"][0].to_list() == np.maximum(x, 0).tolist()
    assert finished["curve_slope"][0].to_list() == (x > 0).astype(float).tolist()
    slopes = [slope[0] for slope in trained["curve_slope"]]
    assert len(set(slopes)) == 3  # each replicate has learned its own
    assert [y[0] for y in trained["curve_y"]] == pytest.approx([-5 * slope for slope in slopes])
    assert gated["curve_y"].to_list() == [None] * 3


def test_an_activation_that_refuses_a_curve_has_none():
    assert curve(ForImages()) == {"curve_x": None, "curve_y": None, "curve_slope": None}


def test_what_callbacks_write_lies_in_the_folder_of_the_cell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = []

    class Written(Callback):
        def on_train_end(self, trainer, pl_module):
            written.extend(path for path in tmp_path.rglob("epoch=*.ckpt"))

    run_cell(cell(trainer__callbacks=["ModelCheckpoint"]), tmp_path / "cell", [Written()])

    assert [path.is_relative_to(tmp_path / "cell") for path in written] == [True]
    assert [path.name for path in tmp_path.iterdir()] == ["cell"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell")
def test_the_memory_of_a_fit_is_its_own(finished, tmp_path):
    torch.ones(100_000_000)

    again = run_cell(cell(), tmp_path / "again")

    assert again["peak_memory_mb"][0] < finished["peak_memory_mb"][0] + 100


@pytest.mark.parametrize(("cores", "expected"), [(1, "1 core"), (2, "2 cores")])
def test_a_processor_is_named_by_its_cores(monkeypatch, cores, expected):
    monkeypatch.setattr(measurements, "available_cores", lambda: cores)

    assert device_name(torch.device("cpu")).endswith(f", {expected}")
