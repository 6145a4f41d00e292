"""The command line, as processes where it must be one."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from actbench.cli.main import COMMANDS, main
from actbench.networks import MLP
from actbench.studies.cells.run import unchanged_process

ROOT = Path(__file__).parents[2]
DIGITS_SWISH = ROOT / "configs" / "digits_swish.yaml"

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


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def table(output):
    """Figures of the first replicate in the table that validate and test print."""
    lines = [line.split() for line in output.splitlines()]
    place = next((place for place, words in enumerate(lines) if words[:1] == ["seed"]), None)
    assert place is not None, output
    figures = next(words for words in lines[place + 1 :] if words and words[0].isdigit())
    return {name: float(value) for name, value in zip(lines[place][1:], figures[1:], strict=True)}


def resolved(capsys, *args):
    """What ``fit --print_config`` prints."""
    assert main(["fit", *map(str, args), "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, ended_in):
    """Folder of a run of two epochs with other settings than the defaults, made by a process."""
    folder = tmp_path_factory.mktemp("fitted")
    options = "--trainer.max_epochs 2 --seed_everything 5 --data.val_fraction 0.2 --data.batch_size 50"
    result = ended_in(folder, "fit", "--config", DIGITS_SWISH, *options.split())
    (folder / "output").write_text(result.stderr + result.stdout)
    return folder


@pytest.fixture
def checkpoint(fitted):
    return fitted / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"


# --- help and dispatch ---


def test_help_is_quick_names_every_command_and_imports_nothing_heavy():
    code = "import sys; from actbench.cli import main; main(['--help']); print(sorted(sys.modules))"
    start = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start

    text, modules = result.stdout.rsplit("\n", 2)[:2]
    assert all(re.search(rf"^  {command} +\w", text, re.MULTILINE) for command in COMMANDS)
    assert not {"torch", "pytorch_lightning", "jsonargparse", "numpy"} & set(re.findall(r"'(\w+)'", modules))
    assert seconds < 1


def test_fit_help_lists_our_options_before_the_trainers(actbench):
    text = actbench("fit", "--help").stdout  # a process, in which no test has defined callbacks, which it would list

    places = [text.index(option) for option in ("--model.activation ", "--data ", "--trainer.accelerator ")]
    assert places == sorted(places)
    assert len(text.splitlines()) < 600


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["help"]])
def test_help_exits_with_0(capsys, args):
    assert main(args) == 0
    assert "usage:" in capsys.readouterr().out


def test_the_program_has_three_names(tmp_path):
    expected = subprocess.run([sys.executable, ROOT / "main.py", "--version"], capture_output=True, text=True).stdout
    module = subprocess.run([sys.executable, "-m", "actbench", "--version"], capture_output=True, text=True).stdout
    script = Path(sys.executable).with_name("actbench")

    assert expected.startswith("actbench ")
    assert module == expected
    assert subprocess.run([script, "--version"], capture_output=True, text=True, cwd=tmp_path).stdout == expected


def test_activations_are_listed_with_formula_parameters_and_source(capsys):
    assert main(["activations"]) == 0

    lines = capsys.readouterr().out.splitlines()
    (prelu,) = [line for line in lines if line.split()[:1] == ["prelu"]]
    assert len(lines) > 40
    assert " 1 " in prelu
    assert " 1.372 " in prelu  # by hand: 1/√((1 + .25²)/2)
    assert "2015" in prelu


def test_activations_take_no_options(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["activations", "relu"])

    assert capsys.readouterr().err == "error: unrecognized arguments: relu\n"


# --- fit ---


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


def test_fit_without_config_asks_the_tutorials_question(capsys):
    config = resolved(capsys)

    assert config["model"]["activation"]["class_path"] == "torch.nn.ReLU"
    assert config["model"]["network"]["class_path"] == "actbench.networks.TutorialCNN"
    assert config["model"]["optimizer"]["class_path"] == "torch.optim.Adam"
    assert config["data"]["class_path"] == "actbench.data.Digits"
    assert config["trainer"]["max_epochs"] == 100
    assert config["seed_everything"] == 0


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

    path = tmp_path / "lightning_logs" / "version_1" / "checkpoints" / "last.ckpt"
    predicted = actbench(
        *("predict", "--ckpt_path", path, "--output", "p.csv", "--trainer.accelerator", "cpu"),
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
    """Runs a fit, sends it a signal in its sixth epoch, and returns the ended process."""

    def run(signum, options):
        fit = start("fit", "--config", DIGITS_SWISH, *options)
        metrics = tmp_path / "lightning_logs" / "version_0" / "metrics.csv"
        deadline = time.monotonic() + 120
        while not (metrics.exists() and len(metrics.read_text().splitlines()) > 5):
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
    options = ["--trainer.max_epochs", "12", "--data.batch_size", "16"]
    stopped = interrupted(signum, options)
    run = tmp_path / "lightning_logs" / "version_0"
    hint = re.search(r"to go on: python main.py (.*)", stopped.stderr)

    assert stopped.returncode == status
    assert hint, stopped.stderr
    assert "Traceback" not in stopped.stderr
    before = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert 0 < before < 12 * 79

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
    options = ["--trainer.max_epochs", "9", "--seed_everything", "3"]
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


# --- validate, test, predict ---


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


def one_line_error(result):
    """The error of a command that was refused: all that it says, but for what a run says at its start."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    start = ("Seed set to", "GPU available", "threads:")
    (line,) = [line for line in result.stderr.splitlines() if line and not line.startswith(start)]
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model.activation mish", r"--model.activation contradicts.*Swish.*torch.nn.Mish"),
        ("--model.activation.init_args.beta 2", r"--model.activation contradicts.*beta=1.0.*beta=2.0"),
        ("--model.network MLP", r"--model.network contradicts.*TutorialCNN.*MLP"),
        ("--seed_everything 6", r"--seed_everything contradicts.*has 5, not 6"),
        ("--data FakeImages --data.height 9", r"FakeImages does not fit.*\(1, 9, 8\).*\(1, 8, 8\)"),
        ("--data FakeImages --data.num_classes 4", r"FakeImages does not fit.* 4 classes.* 10"),
    ],
)
def test_what_contradicts_the_checkpoint_is_refused(actbench, checkpoint, options, message):
    error = one_line_error(actbench("validate", "--ckpt_path", checkpoint, *options.split()))

    assert re.search(message, error)


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


def test_a_users_own_classes_work_and_need_trust(actbench, tmp_path):
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

    assert re.search(r"names the class 'my_acts.Foo'.*--trust my_acts", error)
    assert not (tmp_path / "imported").exists()
    expected = rows(tmp_path / "lightning_logs" / "version_0")[-1]["val/loss"]
    for trusting in (
        actbench(*validate, "--trust", "my_acts,their_pkg"),
        actbench(*validate, environment={"ACTBENCH_TRUST": "their_pkg,my_acts"}),
        actbench(*validate, "--config", "mine.yaml"),
    ):
        assert trusting.returncode == 0, trusting.stderr
        assert table(trusting.stdout)["val/loss"] == pytest.approx(expected, abs=1e-6)


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


# --- options ---


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


# --- replicates ---


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
