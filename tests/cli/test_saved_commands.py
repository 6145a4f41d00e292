"""``validate``, ``test`` and ``predict``, and whose code a checkpoint may run."""

import os
import re

import polars as pl
import pytest
import torch
from command_output import DIGITS_SWISH, one_line_error, rows, table

MY_ACTS = """
import pathlib
import torch
pathlib.Path("imported").touch()
class Foo(torch.nn.Module):
    def __init__(self, slope: float = 0.5):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(slope))
    def forward(self, x):
        return torch.where(x > 0, x, self.slope * x)
class Net(torch.nn.Sequential):
    def __init__(self, activation, input_shape, num_classes, width: int = 8):
        pixels = input_shape[0] * input_shape[1] * input_shape[2]
        linear = torch.nn.Linear
        super().__init__(torch.nn.Flatten(), linear(pixels, width), activation(), linear(width, num_classes))
"""


THEIR_PKG = """
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset
class TheirDataModule(LightningDataModule):
    def __init__(self, rows: int = 120, batch_size: int = 32):
        super().__init__()
        self.rows, self.batch_size = rows, batch_size
    def setup(self, stage):
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(self.rows, 1, 9, 11, generator=generator)
        self.dataset = TensorDataset(images, torch.arange(self.rows) % 4)
    def train_dataloader(self):
        return DataLoader(self.dataset, batch_size=self.batch_size)
    val_dataloader = test_dataloader = predict_dataloader = train_dataloader
"""


def test_validate_prints_what_fit_logged(actbench, fitted, checkpoint, tmp_path):
    result = actbench("validate", "--ckpt_path", checkpoint)

    assert result.returncode == 0, result.stderr
    last = rows(fitted / "lightning_logs" / "version_0")[-1]
    figures = table(result.stdout)
    assert set(figures) == {"val/loss", "val/acc", "val/ece"}
    assert all(figures[name] == pytest.approx(last[name], abs=1e-6) for name in figures)
    assert list(tmp_path.iterdir()) == []


def test_predictions_agree_with_test(actbench, checkpoint, tmp_path):
    scores = table(actbench("test", "--ckpt_path", checkpoint).stdout)
    predicted = actbench("predict", "--ckpt_path", checkpoint, "--output", "tables/p.parquet")

    assert predicted.stdout.splitlines()[-1] == "predictions: tables/p.parquet"
    predictions = pl.read_parquet(tmp_path / "tables" / "p.parquet")
    assert predictions.columns == ["seed", "index", "label", "predicted", *(f"probability_{n}" for n in range(10))]
    assert (predictions["label"] == predictions["predicted"]).mean() == pytest.approx(scores["test/acc"], abs=1e-6)
    assert predictions.select(pl.sum_horizontal("^probability_.*$")).to_series().to_numpy() == pytest.approx(
        1, abs=1e-5
    )


def test_predictions_lie_beside_the_checkpoint_unless_told(actbench, checkpoint):
    assert actbench("predict", "--ckpt_path", checkpoint).returncode == 0

    assert checkpoint.with_name("predictions.csv").exists()


def test_the_command_line_overrides_the_checkpoints_data(actbench, fitted, checkpoint):
    other_batch = actbench("validate", "--ckpt_path", checkpoint, "--data.batch_size", 7)
    other_data = actbench("validate", "--ckpt_path", checkpoint, "--data", "FakeImages")

    last = rows(fitted / "lightning_logs" / "version_0")[-1]
    assert table(other_batch.stdout)["val/loss"] == pytest.approx(last["val/loss"], abs=1e-6)
    assert other_data.returncode == 0, other_data.stderr
    assert table(other_data.stdout)["val/loss"] != pytest.approx(last["val/loss"], abs=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model.activation mish", r"--model.activation contradicts.*Swish.*torch.nn.Mish"),
        ("--model.activation.init_args.beta 2", r"--model.activation contradicts.*beta=1.0.*beta=2.0"),
        ("--model.network MLP", r"--model.network contradicts.*TutorialCNN.*MLP"),
        ("--model.lr_interval step", r"--model.lr_interval contradicts the checkpoint, which has none, not step"),
        ("--model.optimizer SGD", r"which has torch.optim.\w+, not torch.optim.SGD: leave it out, or fit anew"),
        ("--model.optimizer.lr 0.5", r"which has lr=0.002, not lr=0.5: leave it out, or fit anew"),
        (
            " ".join(f"--model.optimizer.{name}" for name in ("lr 0.5", "eps 0.1", "weight_decay 1", "amsgrad true")),
            r"which has amsgrad=False, eps=1e-08, lr=0.002, \.\.\., not amsgrad=True, eps=0.1, lr=0.5, \.\.\.: ",
        ),
        ("--seed_everything 6", r"--seed_everything contradicts.*has 5, not 6"),
        ("--data FakeImages --data.height 9", r"FakeImages does not fit.*\(1, 9, 8\).*\(1, 8, 8\)"),
        ("--data FakeImages --data.num_classes 4", r"FakeImages does not fit.* 4 classes.* 10"),
    ],
)
def test_what_contradicts_the_checkpoint_is_refused(actbench, checkpoint, options, message):
    error = one_line_error(actbench("validate", "--ckpt_path", checkpoint, *options.split()))

    assert re.search(message, error)
    assert len(error) < 170


def test_repeating_what_the_checkpoint_says_is_no_contradiction(actbench, checkpoint):
    result = actbench("test", "--ckpt_path", checkpoint, "--config", DIGITS_SWISH, "--seed_everything", 5)

    assert result.returncode == 0, result.stderr


def test_a_checkpoint_of_another_version_of_torch_is_no_contradiction(actbench, checkpoint, tmp_path):
    contents = torch.load(checkpoint, weights_only=True)
    del contents["actbench"]["model"]["optimizer"]["init_args"]["amsgrad"]  # as if torch had added it since
    torch.save(contents, tmp_path / "older.ckpt")

    result = actbench("test", "--ckpt_path", "older.ckpt")

    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_an_untrained_network_is_not_scored(actbench, command):
    error = one_line_error(actbench(command))

    assert error == f"error: {command} needs --ckpt_path: without it, it would score an untrained network"


# --- a user's own classes, and trust ---


def test_a_users_own_classes_work_and_need_trust(actbench, tmp_path, monkeypatch):
    (tmp_path / "my_acts.py").write_text(MY_ACTS)
    (tmp_path / "their_pkg.py").write_text(THEIR_PKG)
    (tmp_path / "mine.yaml").write_text(
        "model:\n"
        "  activation: {class_path: my_acts.Foo, init_args: {slope: 0.25}}\n"
        "  network: {class_path: my_acts.Net, init_args: {width: 5}}\n"
        "data: {class_path: their_pkg.TheirDataModule, init_args: {rows: 60}}\n"
    )
    fit = actbench("fit", "--config", "mine.yaml", "--trainer.max_epochs", 1)
    assert fit.returncode == 0, fit.stderr
    (tmp_path / "imported").unlink()
    validate = ("validate", "--ckpt_path", "lightning_logs/version_0/checkpoints/last.ckpt")

    error = one_line_error(actbench(*validate))

    assert re.search(r"names the class 'my_acts.Foo'.*--trust my_acts,their_pkg$", error)
    partly = one_line_error(actbench(*validate, "--trust", "their_pkg"))
    assert partly.endswith("add --trust their_pkg,my_acts")
    assert not (tmp_path / "imported").exists()
    expected = rows(tmp_path / "lightning_logs" / "version_0")[-1]["val/loss"]
    trusting = [actbench(*validate, "--trust", "my_acts,their_pkg"), actbench(*validate, "--config", "mine.yaml")]
    monkeypatch.setenv("ACTBENCH_TRUST", "their_pkg,my_acts")
    trusting.append(actbench(*validate))
    for result in trusting:
        assert result.returncode == 0, result.stderr
        assert table(result.stdout)["val/loss"] == pytest.approx(expected, abs=1e-6)


class Malicious:
    """Pickled, makes a folder when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_no_command_runs_code_from_a_checkpoint(actbench, checkpoint, tmp_path, command):
    contents = torch.load(checkpoint, weights_only=True)
    torch.save(contents | {"extra": Malicious(tmp_path / "ran")}, tmp_path / "pickled.ckpt")
    contents["actbench"]["data"] = {"class_path": "evil_module.Evil", "init_args": {}}
    torch.save(contents, tmp_path / "named.ckpt")
    (tmp_path / "evil_module.py").write_text("open('ran', 'w')\n")

    pickled = one_line_error(actbench(command, "--ckpt_path", "pickled.ckpt"))
    named = one_line_error(actbench(command, "--ckpt_path", "named.ckpt"))

    assert "would run code (posix.mkdir)" in pickled
    assert "names the class 'evil_module.Evil'" in named
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "lightning_logs").exists()


def test_a_config_may_not_name_what_only_harms(actbench, tmp_path):
    (tmp_path / "evil.yaml").write_text("data: {class_path: os.system}\n")

    assert "os.system" in one_line_error(actbench("fit", "--config", "evil.yaml"))
