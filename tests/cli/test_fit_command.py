"""``fit`` as a process: what it leaves, and how it goes on when it was interrupted."""

import os
import re
import signal
import time

import polars as pl
import pytest
import torch
from command_output import DIGITS_SWISH, rows
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from actbench.cli.main import main
from actbench.networks import MLP
from actbench.studies.cells.run import unchanged_process


def test_fit_leaves_logs_checkpoints_and_says_where(fitted):
    run = fitted / "lightning_logs" / "version_0"

    assert (
        (fitted / "output")
        .read_text()
        .splitlines()[-1]
        .startswith("checkpoints: lightning_logs/version_0/checkpoints: last.ckpt (last epoch), best.ckpt")
    )
    assert {file.name for file in (run / "checkpoints").iterdir()} >= {"last.ckpt", "best.ckpt"}
    assert list(run.glob("events.out.tfevents.*"))
    events = EventAccumulator(str(run)).Reload()
    assert {"train/loss", "val/loss", "val/acc", "val/ece"} <= set(events.Tags()["scalars"])
    assert events.Scalars("final/val/acc")[0].value == rows(run)[-1]["val/acc"]
    assert b"actbench.activations.Swish" in next(run.glob("events.out.tfevents.*")).read_bytes()  # a hyperparameter
    assert [row["epoch"] for row in rows(run)] == [0, 1]
    assert "threads: 1," in (fitted / "output").read_text()
    assert sorted(file.name for file in fitted.iterdir()) == ["lightning_logs", "output"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line(actbench, tmp_path):
    result = actbench("fit", "--trainer.accelerator", "gpu", "--trainer.devices", "1")

    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == "error: No supported gpu backend found!"
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_saved_config_gives_the_same_figures_bit_for_bit(actbench, fitted, tmp_path):
    run = fitted / "lightning_logs" / "version_0"

    result = actbench("fit", "--config", run / "config.yaml")

    assert result.returncode == 0
    again = tmp_path / "lightning_logs" / "version_0"
    assert (again / "metrics.csv").read_bytes() == (run / "metrics.csv").read_bytes()
    assert (again / "config.yaml").read_bytes() == (run / "config.yaml").read_bytes()


def test_another_seed_gives_other_figures(actbench, fitted, tmp_path):
    run = fitted / "lightning_logs" / "version_0"

    actbench("fit", "--config", run / "config.yaml", "--seed_everything", 6)

    assert rows(tmp_path / "lightning_logs" / "version_0")[1]["val/loss"] != rows(run)[1]["val/loss"]


def test_without_a_logger_a_run_still_has_a_folder(actbench, tmp_path):
    result = actbench("fit", "--trainer.max_epochs", 1, "--trainer.logger", "false")

    assert result.returncode == 0
    names = {file.name for file in (tmp_path / "lightning_logs" / "version_0").iterdir()}
    assert names == {"checkpoints", "config.yaml", "metrics.csv"}
    assert [file.name for file in tmp_path.iterdir()] == ["lightning_logs"]


def test_two_runs_at_once_have_folders_of_their_own(start, tmp_path):
    runs = [start("fit", "--trainer.max_epochs", 1, "--data", "FakeImages") for _ in range(3)]

    assert [run.ended().returncode for run in runs] == [0, 0, 0]
    assert len(list(tmp_path.glob("lightning_logs/version_*/checkpoints/last.ckpt"))) == 3


def test_two_processes_train_as_one(actbench, tmp_path):
    options = "--trainer.max_epochs 4 --trainer.accelerator cpu --model.network MLP --data.batch_size 100"
    one = actbench("fit", *options.split())
    two = actbench("fit", *options.split(), "--trainer.devices", 2, "--trainer.strategy", "ddp")

    assert (one.returncode, two.returncode) == (0, 0), two.stderr
    expected, figures = (rows(tmp_path / "lightning_logs" / f"version_{number}") for number in (0, 1))
    assert expected[-1]["val/acc"] > 0.6
    for name in ("train/loss", "val/loss", "val/acc", "val/ece"):
        assert [row[name] for row in figures] == pytest.approx([row[name] for row in expected], rel=1e-3, abs=1e-4)


@pytest.mark.slow
def test_two_processes_predict_every_row_once(actbench, checkpoint, tmp_path):
    predicted = actbench(
        *("predict", "--ckpt_path", checkpoint, "--output", "p.csv", "--trainer.accelerator", "cpu"),
        *("--trainer.devices", 2, "--trainer.strategy", "ddp"),
    )

    assert predicted.returncode == 0, predicted.stderr
    index = pl.read_csv(tmp_path / "p.csv")["index"].to_list()
    assert len(index) == len(set(index)) == pytest.approx(1797 * 0.15, abs=5)
    assert index == sorted(index)


@pytest.mark.parametrize("engine", ["stack", "sequence"])
def test_a_replicate_that_does_not_fit_in_memory_is_one_line(capsys, tmp_path, monkeypatch, engine):
    forward = MLP.forward

    def hungry(network, images):
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(network, images)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MLP, "forward", hungry)

    with unchanged_process(0):
        options = ["--data", "FakeImages", "--model.network", "MLP", "--trainer.accelerator", "cpu"]
        status = main(["fit", *options, "--model.engine", engine])

    errors = capsys.readouterr().err.splitlines()
    assert status == 2
    assert re.search("error: one replicate with a batch of .* does not fit in memory: .*2.00 GiB", errors[-1])
    assert not any("Traceback" in line for line in errors)


# --- interruptions ---


@pytest.fixture
def interrupted(start, tmp_path):
    """Runs a fit, sends it a signal in its third epoch, and returns the ended process."""

    def run(signum, options):
        fit = start("fit", "--config", DIGITS_SWISH, *options)
        metrics = tmp_path / "lightning_logs" / "version_0" / "metrics.csv"
        deadline = time.monotonic() + 120
        while not (metrics.exists() and len(metrics.read_text().splitlines()) > 2):
            assert fit.process.is_alive(), fit.ended()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(fit.process.pid, signum)
        return fit.ended(120)

    return run


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(actbench, interrupted, tmp_path, signum, status):
    options = ["--trainer.max_epochs", "8", "--data.batch_size", "32"]
    stopped = interrupted(signum, options)
    run = tmp_path / "lightning_logs" / "version_0"
    hint = re.search(r"to go on: python main.py (.*)", stopped.stderr)

    assert stopped.returncode == status
    assert hint, stopped.stderr
    assert "Traceback" not in stopped.stderr
    before = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert 0 < before < 8 * 40

    resumed = actbench(*hint[1].split())
    whole = actbench("fit", "--config", DIGITS_SWISH, *options)

    assert (resumed.returncode, whole.returncode) == (0, 0), resumed.stderr
    other = tmp_path / "lightning_logs" / "version_1"
    assert (run / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()
    assert (run / "config.yaml").read_bytes() == (other / "config.yaml").read_bytes()
    ours, theirs = (
        torch.load(folder / "checkpoints" / name, weights_only=True)["state_dict"]
        for folder, name in ((run, "last.ckpt"), (other, "last.ckpt"))
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for tag in ("train/loss", "val/loss"):
        first, second = (EventAccumulator(str(folder)).Reload().Scalars(tag) for folder in (run, other))
        assert [(event.step, event.value) for event in first] == [(event.step, event.value) for event in second]


def test_resuming_needs_no_config(actbench, interrupted, tmp_path):
    options = ["--trainer.max_epochs", "7", "--seed_everything", "3"]
    interrupted(signal.SIGTERM, options)

    resumed = actbench("fit", "--ckpt_path", "lightning_logs/version_0/checkpoints/last.ckpt")
    actbench("fit", "--config", DIGITS_SWISH, *options)

    assert resumed.returncode == 0, resumed.stderr
    assert rows(tmp_path / "lightning_logs" / "version_0") == rows(tmp_path / "lightning_logs" / "version_1")


def test_a_resumed_run_keeps_its_optimizer(actbench, fitted, tmp_path):
    checkpoint = fitted / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"

    refused = actbench("fit", "--ckpt_path", checkpoint, "--model.optimizer.lr", 0.5)

    assert refused.returncode == 2
    assert re.search(r"--model.optimizer contradicts the checkpoint.*lr=0.002.*lr=0.5", refused.stderr)
