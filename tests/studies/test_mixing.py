"""Callbacks and schedules that see all seeds at once, and may mix them."""

import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EarlyStopping
from small_studies import Lines, scores_of, study

from actbench.cli.main import main
from actbench.studies import StudyError, compare

ALONE = "each seed is trained alone"


class ClipNorm(Callback):
    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        torch.nn.utils.clip_grad_norm_(pl_module.parameters(), 0.05)


class Late(Callback):
    """Past autograd, as much code does it, which torch does not count as a change, and after the first epoch."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch:
            for parameter in pl_module.parameters():
                parameter.data.mul_(min(1.0, 0.5 / parameter.data.norm().item()))


class StopsEarly(EarlyStopping):
    """Has no hook of its own."""


class Reads(Callback):
    mixes_seeds = False

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.norm = sum(parameter.grad.norm() for parameter in pl_module.parameters())

    def on_validation_end(self, trainer, pl_module):
        self.best = min(trainer.callback_metrics["val/loss"], getattr(self, "best", 9))


def trained(root, callback, replicates, arguments=None, **section):
    config = study(root, replicates=replicates, **section)
    path = f"{callback.__module__}.{callback.__name__}"
    config["trainer"]["callbacks"] = {"class_path": path, "init_args": arguments or {}}
    lines = Lines()
    table = compare(config, progress=lines).table
    return table.sort("arm", "seed").select("arm", "seed", "test_loss", "val_loss"), lines.said


STOPS = {"monitor": "val/loss", "patience": 9, "stopping_threshold": 2.2935}


@pytest.mark.parametrize(
    ("callback", "arguments"),
    [(StopsEarly, STOPS), *(pytest.param(each, {}, marks=pytest.mark.slow) for each in (Late, ClipNorm))],
)
def test_a_callback_that_may_mix_seeds_sees_each_alone(tmp_path, callback, arguments):
    few, said = trained(tmp_path / "a", callback, 1, arguments)
    more, said_of_more = trained(tmp_path / "b", callback, 3, arguments)
    grown, _ = trained(tmp_path / "a", callback, 3, arguments)

    assert more.filter(pl.col("seed") == 0).equals(few)
    assert grown.equals(more)
    assert [line for line in said_of_more if ALONE in line] == [
        f"{callback.__name__} sees all seeds of a fit at once, so {ALONE}"
    ]
    assert not any(ALONE in line for line in said)  # there is no other seed


def test_a_plateau_is_that_of_each_seed(tmp_path):
    plateau = {"class_path": "ReduceLROnPlateau", "init_args": {"patience": 0, "threshold": 0.05, "factor": 0.1}}

    def losses(replicates, root):
        config = study(root, replicates=replicates)
        config["model"]["lr_scheduler"], config["trainer"]["max_epochs"] = plateau, 4
        lines = Lines()
        table = compare(config, progress=lines).table.sort("arm", "seed").select("arm", "seed", "val_loss")
        return table, [line for line in lines.said if ALONE in line]

    table, said = losses(3, tmp_path / "a")

    assert table.filter(pl.col("seed") == 0).equals(losses(1, tmp_path / "b")[0])
    assert said == [f"ReduceLROnPlateau sets one rate for all seeds of a fit, so {ALONE}"]


def test_the_yaml_of_an_arm_trains_what_the_study_trained_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table, _ = trained("studies", ClipNorm, 3)
    path = Path("studies", "s", "arms", "swish.yaml")
    written = path.read_text()

    first = scores_of("fit", "--config", path)
    third = scores_of("fit", "--config", path, "--seed_everything", 2)

    losses = table.filter(arm="swish")["val_loss"].to_list()
    assert [first["val/loss"].tolist(), third["val/loss"].tolist()] == [losses[:1], losses[2:]]
    assert written.splitlines()[2] == "# For the next seed, add --seed_everything 1."


@pytest.mark.parametrize(("callback", "arguments"), [(Reads, {}), (EarlyStopping, STOPS)])
def test_a_callback_that_mixes_nothing_leaves_seeds_together(tmp_path, callback, arguments):
    _, said = trained(tmp_path, callback, 3, arguments)

    assert not any(ALONE in line for line in said)
    assert len([line for line in said if "seeds 0-2" in line]) == 2


@pytest.mark.parametrize("finder", ["BatchSizeFinder", "LearningRateFinder"])
def test_callbacks_that_choose_a_setting_for_each_arm_are_refused(tmp_path, finder):
    config = study(tmp_path)
    config["trainer"]["callbacks"] = finder

    with pytest.raises(StudyError, match=f"{finder} chooses a setting for each arm"):
        compare(config)


@pytest.mark.parametrize(("replicates", "said"), [("1", False), ("3", True)])
def test_a_fit_of_several_seeds_says_that_a_callback_may_mix_them(tmp_path, monkeypatch, capsys, replicates, said):
    monkeypatch.chdir(tmp_path)
    words = "--data FakeImages --model.network MLP --trainer.max_epochs 1 --trainer.accelerator cpu"

    fit = ["fit", *words.split(), "--trainer.callbacks", "test_mixing.ClipNorm", "--model.replicates", replicates]
    assert main(fit) == 0

    lines = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("ClipNorm sees all seeds at once")
    ]
    assert len(lines) == said
    assert all("--model.replicates 1" in line for line in lines)


def test_a_pruned_network_is_trained_and_scored(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = (
        "--data FakeImages --model.network MLP --trainer.max_epochs 2 --trainer.accelerator cpu --trainer.callbacks "
    )
    words += "ModelPruning --trainer.callbacks.pruning_fn l1_unstructured --trainer.callbacks.amount 0.5"

    assert main(["fit", *words.split()]) == 0
    (last,) = tmp_path.rglob("checkpoints/*")  # which has no best.ckpt
    assert main(["validate", "--ckpt_path", str(last)]) == 0

    weights = [value for name, value in torch.load(last)["state_dict"].items() if name.endswith("weight")]
    zeros = sum((value == 0).sum().item() for value in weights)
    assert 0.7 < zeros / sum(value.numel() for value in weights) < 0.8  # half, and half of the rest


class Jitters(Callback):
    """Draws from each global generator."""

    def on_train_epoch_start(self, trainer, pl_module):
        for parameter in pl_module.parameters():
            parameter.data += 0.01 * (torch.randn(parameter.shape) + random.random() + np.random.random())  # noqa: NPY002


def test_what_a_callback_draws_does_not_depend_on_where_a_fit_was_resumed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = (
        "fit --data FakeImages --model.network MLP --trainer.accelerator cpu --trainer.callbacks test_mixing.Jitters"
    )

    def weights(epochs, *more):
        assert main([*words.split(), "--trainer.max_epochs", str(epochs), *more]) == 0
        return torch.load(sorted(tmp_path.glob("*/*/checkpoints/last.ckpt"))[-1])["state_dict"]

    whole = weights(3)
    weights(1)
    resumed = weights(3, "--ckpt_path", "lightning_logs/version_1/checkpoints/last.ckpt", "--trust", "test_mixing")

    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
