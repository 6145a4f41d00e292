"""Commands with many replicates."""

import re

import numpy as np
import polars as pl
import pytest
import torch
from command_output import one_line_error
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout


@pytest.fixture(scope="module")
def many(tmp_path_factory, ended_in):
    """Folder of a run of three replicates, and what it printed."""
    folder = tmp_path_factory.mktemp("many")
    options = ["--model.replicates", 3, "--seed_everything", 5, "--trainer.max_epochs", 3, "--model.network", "MLP"]
    result = ended_in(folder, "fit", *options, "--trainer.accelerator", "cpu")
    return folder / "lightning_logs" / "version_0", result.stdout


def test_replicates_are_the_seeds_that_follow(many):
    run, output = many

    table = pl.read_csv(run / "metrics.csv")
    assert table["seed"].to_list() == [5, 6, 7] * 3
    assert table["epoch"].to_list() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert table["val/loss"].n_unique() == 9
    last = table.filter(epoch=2)["val/acc"]
    assert f"val/acc {last.mean():.4f} ± {last.std():.4f}" in output
    assert "replicate-epochs/s" in output


def test_a_lone_seed_is_the_same_as_in_company(actbench, many, tmp_path):
    options = "--trainer.max_epochs 3 --model.network MLP --trainer.accelerator cpu --model.engine stack"
    assert actbench("fit", "--seed_everything", 7, *options.split()).returncode == 0

    alone = pl.read_csv(tmp_path / "lightning_logs" / "version_0" / "metrics.csv")
    assert alone.equals(pl.read_csv(many[0] / "metrics.csv").filter(seed=7))


def test_tensorboard_shows_mean_and_band_and_final_figures(many):
    events = EventAccumulator(str(many[0]))
    events.Reload()

    tags = events.Tags()
    assert {"val/acc", "val/acc_min", "val/acc_max"} <= set(tags["scalars"])
    layout = Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    margins = {chart.title: chart.margin.series[0] for category in layout.category for chart in category.chart}
    assert set(margins) == {"train/loss", "val/loss", "val/acc", "val/ece"}
    for name, series in margins.items():
        assert (series.value, series.lower, series.upper) == (name, f"{name}_min", f"{name}_max")
        assert set(margins) | {series.lower, series.upper} <= set(tags["scalars"])
    (text,) = events.Tensors("final scores/text_summary")
    table = text.tensor_proto.string_val[0].decode()
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == ["5", "6", "7"]


def test_scoring_a_stack_shows_each_replicate_the_spread_and_the_ensemble(actbench, many):
    path = many[0] / "checkpoints" / "best.ckpt"

    result = actbench("test", "--ckpt_path", path, "--trainer.accelerator", "cpu")

    assert result.returncode == 0, result.stderr
    lines = {words[0]: words[1:] for line in result.stdout.splitlines() if (words := line.split())}
    assert lines["seed"] == ["test/loss", "test/acc", "test/ece"]
    accuracies = [float(lines[seed][1]) for seed in ("5", "6", "7")]
    assert float(lines["mean"][1]) == pytest.approx(np.mean(accuracies), abs=2e-6)
    assert float(lines["sd"][1]) == pytest.approx(np.std(accuracies, ddof=1), abs=2e-6)
    assert (float(lines["min"][1]), float(lines["max"][1])) == (min(accuracies), max(accuracies))
    assert 0.3 < float(lines["ensemble"][1]) <= 1
    assert result.stdout.splitlines()[-1].startswith("3 replicates, 0 diverged; the ensemble is")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("test --model.replicates 4", "--model.replicates contradicts the checkpoint, which has 3, not 4"),
        ("fit", "no fit can go on from .*best.ckpt"),
        ("test --data.replicates 3", "--data.replicates: its value is that of --model.replicates"),
        ("fit --model.replicates 0", "replicates must be at least 1, got 0"),
    ],
)
def test_wrong_replicates_are_refused(actbench, many, options, message):
    command, *rest = options.split()
    checkpoint = () if "replicates 0" in options else ("--ckpt_path", many[0] / "checkpoints" / "best.ckpt")

    assert re.search(message, one_line_error(actbench(command, *checkpoint, *rest)))


def test_early_stopping_on_the_command_line_is_per_replicate(actbench, tmp_path):
    stop = "--trainer.callbacks EarlyStopping --trainer.callbacks.monitor val/loss --trainer.callbacks.patience 1"
    options = f"--model.replicates 4 --trainer.max_epochs 60 --model.network MLP --model.optimizer.lr 0.03 {stop}"

    result = actbench("fit", *options.split())

    assert result.returncode == 0, result.stderr
    table = pl.read_csv(tmp_path / "lightning_logs" / "version_0" / "metrics.csv")
    lasts = table.drop_nulls("train/loss").filter(pl.col("train/loss").is_not_nan()).group_by("seed").len()
    assert lasts["len"].n_unique() > 1
    assert table["epoch"].max() < 59


def test_a_replicate_is_exported(actbench, many, tmp_path):
    result = actbench(
        "export", "--ckpt_path", many[0] / "checkpoints" / "last.ckpt", "--replicate", 2, "--output", "n.pt2"
    )

    assert result.returncode == 0, result.stderr
    assert result.stdout == "exported replicate 2, seed 7: n.pt2\n"
    assert torch.export.load(tmp_path / "n.pt2").module()(torch.rand(3, 1, 8, 8)).shape == (3, 10)
    assert one_line_error(actbench("export", "--ckpt_path", "none.ckpt", "--output", "n.pt2"))
    assert one_line_error(actbench("export", "--output", "n.pt2"))
