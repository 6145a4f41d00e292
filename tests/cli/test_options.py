"""Options and files of ``fit``: what they mean together, and which are wrong."""

import re

import pytest
import yaml
from command_output import DIGITS_SWISH, one_line_error

from actbench.cli.main import main

MY_ACTS = """
import torch
class Foo(torch.nn.Module):
    def __init__(self, slope: float = 0.5):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(slope))
    def forward(self, x):
        return torch.where(x > 0, x, self.slope * x)
"""


def resolved(capsys, *args):
    """What ``fit --print_config`` prints."""
    assert main(["fit", *map(str, args), "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_fit_without_config_asks_the_tutorials_question(capsys):
    config = resolved(capsys)

    assert config["model"]["activation"]["class_path"] == "torch.nn.ReLU"
    assert config["model"]["network"]["class_path"] == "actbench.networks.TutorialCNN"
    assert config["model"]["optimizer"]["class_path"] == "torch.optim.Adam"
    assert config["data"]["class_path"] == "actbench.data.Digits"
    assert config["trainer"]["max_epochs"] == 100
    assert config["seed_everything"] == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--model.activation mish", {"class_path": "torch.nn.Mish"}),
        ("--model.activation torch.nn.GELU", {"class_path": "torch.nn.GELU"}),
        ("--model.activation=swish --model.activation.beta=3", {"init_args": {"beta": 3.0, "trainable": False}}),
        (
            "--model.activation.class_path actbench.activations.Swish --model.activation.init_args.beta 1.5",
            {"class_path": "actbench.activations.Swish", "init_args": {"beta": 1.5, "trainable": False}},
        ),
        (
            "--model.activation {class_path:\x20swish,init_args:\x20{beta:\x202}}",
            {"class_path": "actbench.activations.Swish", "init_args": {"beta": 2.0, "trainable": False}},
        ),
    ],
)
def test_activations_are_given_in_every_way(capsys, options, expected):
    words = [word.replace("\x1f", " ") for word in options.replace(":\x20", ":\x1f").split(" ")]

    activation = resolved(capsys, *words)["model"]["activation"]

    assert activation | expected == activation


def test_a_users_activation_is_found_in_the_working_directory(capsys, tmp_path, monkeypatch):
    (tmp_path / "acts_of_mine.py").write_text(MY_ACTS)
    monkeypatch.chdir(tmp_path)

    config = resolved(capsys, "--model.activation", "acts_of_mine.Foo")

    assert config["model"]["activation"] == {"class_path": "acts_of_mine.Foo", "init_args": {"slope": 0.5}}


def test_optimizer_and_schedule_take_dotted_arguments(capsys):
    model = resolved(
        capsys,
        *("--model.optimizer", "torch.optim.AdamW", "--model.optimizer.lr", "1e-3"),
        *("--model.lr_scheduler", "torch.optim.lr_scheduler.StepLR", "--model.lr_scheduler.step_size", 10),
    )["model"]

    assert model["optimizer"]["class_path"] == "torch.optim.AdamW"
    assert model["optimizer"]["init_args"]["lr"] == 0.001
    assert model["lr_scheduler"]["class_path"] == "torch.optim.lr_scheduler.StepLR"
    assert model["lr_scheduler"]["init_args"]["step_size"] == 10


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "base.yaml"
    path.write_text(
        "model:\n"
        "  activation: {class_path: actbench.activations.Swish, init_args: {beta: 7}}\n"
        "  optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.5, momentum: 0.9, weight_decay: 0.25}}\n"
        "data: {class_path: Digits, init_args: {batch_size: 7}}\n"
    )
    return path


def test_no_argument_leaks_from_one_class_to_the_next(capsys, base):
    config = resolved(
        capsys,
        *("--config", base, "--model.activation", "torch.nn.Softplus"),
        *("--model.optimizer", "torch.optim.AdamW", "--data", "MNIST"),
    )

    assert config["model"]["activation"]["init_args"]["beta"] == 1.0
    assert config["model"]["optimizer"]["init_args"]["weight_decay"] == 0.01
    assert config["data"]["init_args"]["batch_size"] == 64


def test_no_argument_leaks_from_one_config_to_the_next(capsys, base, tmp_path):
    (tmp_path / "later.yaml").write_text("data: {class_path: FakeImages, init_args: {rows: 99}}\n")

    config = resolved(capsys, "--config", base, "--config", tmp_path / "later.yaml")

    assert config["data"]["init_args"]["batch_size"] == 64
    assert config["data"]["init_args"]["rows"] == 99


def test_arguments_stay_while_the_class_stays(capsys, base, tmp_path):
    (tmp_path / "later.yaml").write_text("data: {class_path: actbench.data.Digits, init_args: {val_fraction: 0.2}}\n")

    config = resolved(
        capsys, "--config", base, "--config", tmp_path / "later.yaml", "--data.test_fraction", 0.1,
        "--model.optimizer.lr", "0.25",
    )  # fmt: skip

    assert config["data"]["init_args"] == {
        "batch_size": 7,
        "val_fraction": 0.2,
        "test_fraction": 0.1,
        "drop_last": False,
    }
    assert config["model"]["optimizer"]["init_args"]["lr"] == 0.25
    assert config["model"]["optimizer"]["init_args"]["momentum"] == 0.9


def test_the_later_config_wins(capsys, tmp_path):
    (tmp_path / "a.yaml").write_text("seed_everything: 1\ntrainer: {max_epochs: 3, min_epochs: 2}\n")
    (tmp_path / "b.yaml").write_text("trainer: {max_epochs: 4}\n")

    config = resolved(capsys, "--config", tmp_path / "a.yaml", "--config", tmp_path / "b.yaml")

    assert config["seed_everything"] == 1
    assert (config["trainer"]["max_epochs"], config["trainer"]["min_epochs"]) == (4, 2)


def test_a_printed_config_is_one_that_can_be_run(capsys, tmp_path):
    first = resolved(capsys, "--config", DIGITS_SWISH, "--model.activation.beta", 2, "--data.batch_size", 9)
    (tmp_path / "printed.yaml").write_text(yaml.safe_dump(first))

    assert resolved(capsys, "--config", tmp_path / "printed.yaml") == first


# --- wrong input ---


WRONG = {
    "unknown activation": ("fit --model.activation swsh", r"unknown activation 'swsh'.*swish"),
    "no activation": ("fit --model.activation torch.nn.Linear", r"torch.nn.Linear.*missing in_features"),
    "no such class": ("fit --model.activation torch.nn.Silu", r"cannot import activation 'torch.nn.Silu'"),
    "no such module": ("fit --model.activation nowhere.Foo", r"No module named 'nowhere'"),
    "wrong argument": ("fit --model.activation swish --model.activation.bta 2", r"unexpected bta.*accepted: beta"),
    "wrong type": ("fit --model.activation swish --model.activation.beta x", r"beta: Expected a float. Got value: x"),
    "missing argument": ("fit --model.activation torch.nn.Threshold", r"missing threshold, value"),
    "unknown network": ("fit --model.network TutorialCN", r"unknown network 'TutorialCN'.*TutorialCNN"),
    "unknown dataset": ("fit --data MNST", r"--data: unknown dataset 'MNST'.*MNIST"),
    "no such datamodule": ("fit --data nowhere.Data", r"nowhere"),
    "no root": (
        "fit --data MNIST --data.root nowhere",
        r"MNIST: the folder nowhere was not found.*--data.download true",
    ),
    "batch size": ("fit --data.batch_size 0", r"batch_size must be at least 1, got 0"),
    "fraction": ("fit --data.val_fraction 1.5", r"val_fraction must lie strictly between 0 and 1, got 1.5"),
    "fractions": ("fit --data.val_fraction 0.6 --data.test_fraction 0.6", r"must be below 1"),
    "text for a number": ("fit --data.batch_size many", r"data.*batch_size.*many"),
    "unknown option": ("fit --data.batchsize 3", r"batchsize"),
    "unknown trainer option": ("fit --trainer.max_epoch 3", r"max_epoch"),
    "seed": ("fit --seed_everything -1", r"--seed_everything.*-1"),
    "seed that is none": ("fit --seed_everything true", r"--seed_everything.*[Tt]rue"),
    "optimizer's place": ("fit --optimizer torch.optim.SGD", r"use --model.optimizer"),
    "schedule's place": ("fit --lr_scheduler.gamma 1", r"use --model.lr_scheduler"),
    "argument without class": ("fit --model.lr_scheduler.gamma 1", r"give --model.lr_scheduler too"),
    "interval without schedule": ("fit --model.lr_interval step", r"lr_interval needs an lr_scheduler"),
    "two seeds": ("fit --data.seed 3", r"--data.seed: a run has one seed, that of --seed_everything"),
    "seed of the model": ("fit --model.seed 3", r"unknown option --model.seed"),
    "too few images": ("fit --data FakeImages --data.rows 12", r"val part of FakeImages has no image of class"),
    "learning rate": ("fit --model.optimizer.lr -1", r"Invalid learning rate: -1"),
    "no config": ("fit --config nowhere.yaml", r"file nowhere.yaml not found"),
    "no YAML": ("fit --config broken.yaml", r"broken.yaml is not YAML: .*line 2"),
    "no text": ("fit --config text.bin", r"text.bin is not YAML: "),
    "value that is no YAML": (
        "fit --model.activation swish --model.activation.beta [",
        r"beta: Expected a float. Got value: \[",
    ),
    "no mapping": ("fit --config list.yaml", r"list.yaml is not a mapping"),
    "unknown key": ("fit --config key.yaml", r"modle"),
    "no checkpoint": ("validate --ckpt_path nowhere.ckpt", r"checkpoint nowhere.ckpt was not found"),
    "empty checkpoint": ("test --ckpt_path empty.ckpt", r"checkpoint empty.ckpt is empty"),
    "text checkpoint": ("predict --ckpt_path text.ckpt", r"text.ckpt is damaged or not a checkpoint"),
    "table's format": ("predict --ckpt_path made.ckpt --output p.txt", r"--output: p.txt must end in .csv or .parquet"),
    "unknown command": ("fti", r"unknown command 'fti': did you mean 'fit'\?"),
}


def test_what_lightning_does_not_take_of_a_cluster_is_one_line(capsys, monkeypatch):
    for name, value in {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "job"}.items():
        monkeypatch.setenv(name, value)

    assert main(["fit", "--data", "FakeImages"]) == 2
    assert re.fullmatch(r"error: You set `--ntasks=4` in your SLURM bash script.*\n", capsys.readouterr().err)


@pytest.mark.parametrize(("command", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_line_and_writes_nothing(actbench, checkpoint, tmp_path, command, message):
    files = {
        "broken.yaml": b"model: {activation: [",
        "list.yaml": b"- 1\n",
        "key.yaml": b"modle: {activation: swish}\n",
        "empty.ckpt": b"",
        "text.bin": bytes(range(256)),
        "text.ckpt": b"hello there",
        "made.ckpt": checkpoint.read_bytes(),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)

    error = one_line_error(actbench(*command.split()))

    assert re.search(message, error), error
    assert {file.name for file in tmp_path.iterdir()} == set(files)
