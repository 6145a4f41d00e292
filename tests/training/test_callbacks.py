import csv
import errno
import os
import shutil
import signal
import time
from pathlib import Path

import polars as pl
import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from actbench.data import FakeImages
from actbench.records import replace_file
from actbench.training.callbacks import (
    BestCheckpoint,
    CheckpointCopy,
    EpochLines,
    Interruption,
    LastCheckpoint,
    ReplicateRuns,
    RunFolder,
    RunLogger,
)
from actbench.training.classifier import Classifier


def fit(tmp_path, *callbacks, replicates=1, lr=0.001, ckpt_path=None, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 3}
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", callbacks=list(callbacks), **quiet | options)
    optimizer = {"class_path": "torch.optim.Adam", "init_args": {"lr": lr}}
    model = Classifier(input_shape=(1, 8, 8), num_classes=10, replicates=replicates, optimizer=optimizer)
    trainer.fit(model, FakeImages(rows=200, replicates=replicates), ckpt_path=ckpt_path)
    return trainer


def test_a_run_folder_holds_config_table_and_checkpoints(tmp_path):
    trainer = fit(tmp_path, RunFolder("trainer: {}\n"), BestCheckpoint(), LastCheckpoint())

    run = tmp_path / "lightning_logs" / "version_0"
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert (run / "config.yaml").read_text() == "trainer: {}\n"
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2]
    assert [int(row["seed"]) for row in rows] == [0, 0, 0]
    assert float(rows[-1]["val/loss"]) == trainer.callback_metrics["val/loss"].item()
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["epoch"] == 2


def test_scores_of_an_earlier_epoch_are_not_in_an_epochs_row(tmp_path):
    folder = RunFolder()
    fit(tmp_path, folder, check_val_every_n_epoch=2)

    with (folder.path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["val/loss"]) for row in rows] == [False, True, False]
    assert all(row["train/loss"] for row in rows)


def test_an_epochs_row_has_the_scores_of_its_last_validation(tmp_path):
    folder = RunFolder()
    trainer = fit(tmp_path, folder, val_check_interval=2, limit_train_batches=3)

    table = pl.read_csv(folder.path / "metrics.csv")
    assert table["step"].to_list() == [3, 6, 9]
    assert table["val/loss"].n_unique() == 3
    assert table["val/loss"][-1] == trainer.callback_metrics["val/loss"].item()


def test_each_replicates_best_weights_are_those_of_its_lowest_loss(tmp_path):
    class Remember(Callback):
        def __init__(self):
            self.weights = []

        def on_train_epoch_end(self, trainer, pl_module):
            self.weights.append({k: v.clone() for k, v in pl_module.engine.state_dict().items()})

    folder, remember, best = RunFolder(), Remember(), BestCheckpoint()
    fit(tmp_path, folder, remember, best, LastCheckpoint(), max_epochs=8, replicates=3, lr=0.1)

    losses = torch.stack([epoch["scores"]["val/loss"] for epoch in folder.epochs])
    saved = torch.load(folder.path / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert best.epoch.tolist() == losses.argmin(0).tolist()
    assert len(set(best.epoch.tolist())) > 1
    for name in remember.weights[0]:
        for replicate, epoch in enumerate(losses.argmin(0)):
            assert torch.equal(saved[f"engine.{name}"][replicate], remember.weights[epoch][name][replicate])


def test_without_validation_nothing_is_called_best(tmp_path):
    folder = RunFolder()
    fit(tmp_path, folder, BestCheckpoint(), LastCheckpoint(), limit_val_batches=0)

    assert [path.name for path in (folder.path / "checkpoints").iterdir()] == ["last.ckpt"]


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    last = LastCheckpoint()
    trainer = fit(tmp_path, last)
    before = last.path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        last.save(trainer, trainer.lightning_module)

    assert last.path.read_bytes() == before
    assert [path.name for path in last.path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("folder", ["memory://copies", "{}/copies", "file://{}/copies"])
def test_a_copy_of_a_checkpoint_is_kept_where_others_reach_it(tmp_path, folder):
    copy, fetched = CheckpointCopy(folder.format(tmp_path) + "/running/cell.ckpt"), tmp_path / "fetched" / "last.ckpt"
    copy.get(fetched)
    assert not fetched.exists()

    last = LastCheckpoint(copy=copy)
    fit(tmp_path, last)
    copy.get(fetched)

    assert fetched.read_bytes() == last.path.read_bytes()
    assert [path.rpartition("/")[2] for path in copy.filesystem.ls(copy.path.rpartition("/")[0], detail=False)] == [
        "cell.ckpt"
    ]
    copy.remove()
    copy.remove()
    assert not copy.filesystem.exists(copy.path)


class Reads(Callback):
    """Keeps the scores that it finds at the end of each epoch."""

    def __init__(self):
        self.read, self.after = [], []

    def on_train_epoch_end(self, trainer, pl_module):
        self.read.append(("train/loss", trainer.callback_metrics.get("train/loss")))
        self.after.append(pl_module.replicate_scores()["train/loss"].item())

    def on_validation_epoch_end(self, trainer, pl_module):
        self.read.append(("val/loss", trainer.callback_metrics.get("val/loss")))

    def on_validation_end(self, trainer, pl_module):
        self.after.append(trainer.callback_metrics["val/loss"].item())

    def on_test_epoch_end(self, trainer, pl_module):
        self.read.append(("test/acc", trainer.callback_metrics.get("test/acc")))


def test_at_an_epochs_end_callbacks_read_the_scores_of_that_epoch(tmp_path):
    reads = Reads()

    trainer = fit(tmp_path, reads, max_epochs=3)
    (scores,) = trainer.test(trainer.lightning_module, trainer.datamodule, verbose=False)

    assert [name for name, _ in reads.read] == ["val/loss", *["val/loss", "train/loss"] * 3, "test/acc"]
    assert [value.item() for _, value in reads.read] == [*reads.after, scores["test/acc"]]
    assert len(set(reads.after)) == 7


def test_folders_are_numbered_and_never_shared(tmp_path):
    loggers = [RunLogger(tmp_path) for _ in range(3)]

    assert [logger.version for logger in loggers] == [0, 1, 2]


@pytest.mark.parametrize(
    ("hook", "step"),
    [("on_train_batch_end", 10), ("on_validation_end", 12), ("on_train_epoch_end", 12), ("on_train_batch_start", 13)],
)
def test_wherever_a_signal_comes_the_run_is_saved_and_goes_on(tmp_path, hook, step):
    class Signal(Callback):
        pass

    def send(self, trainer, *_):
        if trainer.global_step >= 10 and trainer.current_epoch == (4 if hook == "on_train_batch_start" else 3):
            os.kill(os.getpid(), signal.SIGINT)

    setattr(Signal, hook, send)
    reports = []
    callbacks = [Signal(), Interruption(lambda path, trainer: reports.append(path)), BestCheckpoint(), LastCheckpoint()]
    with pytest.raises(SystemExit, match="130"):
        fit(tmp_path, *callbacks, max_epochs=6)
    assert torch.load(reports[0], weights_only=True)["global_step"] == step

    whole, resumed = (fit(tmp_path, BestCheckpoint(), max_epochs=6, ckpt_path=path) for path in (None, reports[0]))
    ours, theirs = (trainer.lightning_module.state_dict() for trainer in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


class Shout(Callback):
    """Acts at the start of each epoch."""

    def on_train_epoch_start(self, trainer, pl_module):
        self.factor = 1 + trainer.current_epoch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        trainer.optimizers[0].param_groups[0]["lr"] = 0.001 * self.factor


@pytest.mark.filterwarnings("ignore:.*accumulate_grad_batches")
@pytest.mark.parametrize(
    "make",
    [
        lambda: StochasticWeightAveraging(0.05, swa_epoch_start=1, annealing_epochs=2),
        lambda: GradientAccumulationScheduler({0: 1, 2: 2, 4: 1}),
        Shout,
    ],
    ids=["SWA", "accumulation", "own"],
)
def test_what_acts_at_the_start_of_an_epoch_resumes_there(tmp_path, make):
    class Signal(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.current_epoch == 3 and batch_idx == 0:
                os.kill(os.getpid(), signal.SIGINT)

    reports = []
    interruption = Interruption(lambda path, trainer: reports.append(path))
    with pytest.raises(SystemExit, match="130"):
        fit(tmp_path, make(), Signal(), interruption, LastCheckpoint(seconds=0), max_epochs=6)
    assert torch.load(reports[0], weights_only=True)["epoch"] == 2

    options = {"max_epochs": 6, "enable_checkpointing": False}
    whole, resumed = (fit(tmp_path, make(), ckpt_path=path, **options) for path in (None, reports[0]))
    ours, theirs = (trainer.lightning_module.state_dict() for trainer in (resumed, whole))
    assert resumed.global_step == whole.global_step
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_fit_that_resumes_without_the_start_of_its_epoch_says_so(tmp_path):
    class Save(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 5:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")

    fit(tmp_path, Save(), StochasticWeightAveraging(0.05), enable_checkpointing=False)

    with pytest.warns(UserWarning, match="StochasticWeightAveraging acts at the start .* resumes within one"):
        fit(tmp_path, StochasticWeightAveraging(0.05), ckpt_path=tmp_path / "middle.ckpt", enable_checkpointing=False)


def test_progress_in_plain_lines_shows_the_first_and_the_last_epoch(tmp_path, capsys):
    fit(tmp_path, EpochLines(seconds=1000), max_epochs=5, enable_checkpointing=False)

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["1/5", "5/5"]
    assert "val/acc" in lines[0]


@pytest.mark.parametrize("cls", [EarlyStopping, ModelCheckpoint])
@pytest.mark.parametrize(("monitor", "options"), [("val_loss", {}), ("val/acc", {"limit_val_batches": 0})])
def test_a_score_that_nothing_logs_is_refused_before_the_first_step(tmp_path, cls, monitor, options):
    with pytest.raises(MisconfigurationException, match=f"{cls.__name__} watches {monitor}, which is not logged"):
        fit(tmp_path, cls(monitor=monitor), **options)


class Logs(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        pl_module.log("mine", float(trainer.current_epoch))


def test_scores_of_a_fit_and_of_a_users_callback_are_watched(tmp_path):
    watching = [ModelCheckpoint(tmp_path / "sd", monitor="val/acc_sd"), EarlyStopping("train/loss", patience=9)]

    several = fit(tmp_path, *watching, replicates=2)
    own = fit(tmp_path, Logs(), ModelCheckpoint(tmp_path / "mine", monitor="mine", mode="max"))

    assert several.current_epoch == own.current_epoch == 3
    assert own.checkpoint_callback.best_model_score == 2


def test_the_last_epoch_of_a_fit_that_stops_early_is_shown(tmp_path, capsys):
    stop = EarlyStopping("val/loss", patience=2, min_delta=10)

    trainer = fit(tmp_path, EpochLines(seconds=1000), stop, max_epochs=9, enable_checkpointing=False)

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["1/9", "3/9"]
    assert f"val/loss {trainer.callback_metrics['val/loss']:.4f}" in lines[1]


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file.txt"

    replace_file(path, b"first")
    replace_file(path, b"second")

    assert path.read_text() == "second"
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


def test_replicates_are_runs_of_tensorboard_for_those_who_ask(tmp_path):
    folder = RunFolder()
    fit(tmp_path, folder, ReplicateRuns(), replicates=3, logger=RunLogger(tmp_path), log_every_n_steps=1)

    for place in range(3):
        events = EventAccumulator(str(folder.path / f"seed_{place}")).Reload()
        for name in ("train/loss", "val/loss", "val/acc", "val/ece"):
            expected = [epoch["scores"][name][place].item() for epoch in folder.epochs]
            assert [event.value for event in events.Scalars(name)] == expected
            assert [event.step for event in events.Scalars(name)] == [epoch["step"] - 1 for epoch in folder.epochs]


def test_a_replicates_run_has_each_epoch_once_after_resuming(tmp_path):
    logger, folder = RunLogger(tmp_path), RunFolder()
    fit(tmp_path, folder, LastCheckpoint(), ReplicateRuns(), logger=logger, log_every_n_steps=1, max_epochs=1)
    first = shutil.copy(folder.path / "checkpoints" / "last.ckpt", tmp_path)

    for _ in range(2):  # the second time, the event files hold epochs that came after the checkpoint
        time.sleep(1)  # files of one second are read in the order of a number in their names, 10 before 9
        callbacks = RunFolder(), LastCheckpoint(), ReplicateRuns()
        fit(tmp_path, *callbacks, logger=logger, log_every_n_steps=1, ckpt_path=first)

    steps = [event.step for event in EventAccumulator(str(folder.path / "seed_0")).Reload().Scalars("val/acc")]
    assert len(steps) == len(set(steps)) == 3


def test_replicates_as_runs_need_a_folder_to_log_to(tmp_path):
    with pytest.raises(MisconfigurationException, match="a logger that has a folder"):
        fit(tmp_path, ReplicateRuns(), logger=False)


def test_a_csv_logger_and_our_own_table_are_two_files(tmp_path):
    logger = CSVLogger(tmp_path)
    settings = {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1}
    trainer = Trainer(max_epochs=2, logger=logger, callbacks=[RunFolder()], **settings)
    model = Classifier("relu", "MLP", replicates=2, input_shape=(1, 8, 8), num_classes=10)
    trainer.fit(model, FakeImages(replicates=2))

    theirs, ours = (pl.read_csv(Path(logger.log_dir, name)) for name in ("metrics.csv", "replicates.csv"))
    assert ours["seed"].to_list() == [0, 1, 0, 1]
    assert "val/loss" in theirs.columns
    assert "seed" not in theirs.columns


@pytest.mark.parametrize(("every", "steps"), [(1, 4), (2, 2)])
def test_a_plateau_schedule_steps_after_each_validation_and_never_on_a_stale_loss(every, steps):
    schedule = {"class_path": "ReduceLROnPlateau", "init_args": {"patience": 0, "factor": 0.5, "threshold": 1e9}}
    model = Classifier("relu", "MLP", lr_scheduler=schedule, input_shape=(1, 8, 8), num_classes=10)
    trainer = Trainer(
        max_epochs=4, logger=False, accelerator="cpu", enable_progress_bar=False, enable_checkpointing=False,
        check_val_every_n_epoch=every,
    )  # fmt: skip

    trainer.fit(model, FakeImages())

    # No loss is 1e9 times better than the best, not even the first: each step halves the rate.
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-3 * 0.5**steps)


@pytest.mark.parametrize("limits", [{"limit_val_batches": 0}, {"check_val_every_n_epoch": 5}])
def test_a_plateau_schedule_without_any_validation_is_refused_before_training(limits):
    model = Classifier("relu", "MLP", lr_scheduler="ReduceLROnPlateau", input_shape=(1, 8, 8), num_classes=10)
    trainer = Trainer(
        max_epochs=4, logger=False, accelerator="cpu", enable_progress_bar=False, enable_checkpointing=False, **limits
    )

    with pytest.raises(MisconfigurationException, match="limit_val_batches"):
        trainer.fit(model, FakeImages())

    assert trainer.global_step == 0
