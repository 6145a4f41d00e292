"""Every shipped config, run on small files in its dataset's own format."""

import re
from pathlib import Path
from statistics import median

import pytest
import yaml
from command_output import table
from conftest import ROOT
from datasets import write_dataset
from PIL import Image

from actbench.cli.main import main
from actbench.studies import Study, make_plan

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
STUDIES = sorted((CONFIGS[0].parent / "studies").glob("*.yaml"))


def test_configs_are_the_ones_promised():
    names = {path.stem for path in CONFIGS}

    assert names >= {"digits_relu", "digits_swish", "mnist_swish", "fashion_mnist_swish", "cifar10_swish", "tutorial"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_short_and_says_how_it_is_run(path):
    lines = path.read_text().splitlines()

    assert len(lines) < 30
    assert lines[0].startswith("# ")
    assert any(f"python main.py fit --config configs/{path.name}" in line for line in lines)
    assert not any(word in path.read_text() for word in ("MINUTES", "SECONDS"))
    assert isinstance(yaml.safe_load(path.read_text()), dict)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_fitted_and_tested(path, tmp_path, monkeypatch):
    dataset = yaml.safe_load(path.read_text()).get("data", "Digits")
    dataset = dataset if isinstance(dataset, str) else dataset["class_path"]
    files = [] if dataset == "Digits" else ["--data.root", str(tmp_path)]
    if files:
        write_dataset(dataset, tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)

    assert main(["fit", "--config", str(path), *files, "--trainer.fast_dev_run", "true"]) == 0
    assert not (tmp_path / "lightning_logs").exists()
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]
    fit = main(["fit", "--config", str(path), *files, *short])
    test = main(["test", "--ckpt_path", "lightning_logs/version_0/checkpoints/last.ckpt", *files])

    assert (fit, test) == (0, 0)


def with_small_files(dataset, root, monkeypatch):
    """A config's dataset, with small files in its own format to be read."""
    dataset = {"class_path": dataset} if isinstance(dataset, str) else dataset or {"class_path": "Digits"}
    name = dataset["class_path"]
    if name in ("Digits", "MNIST1D"):
        return dataset
    if name == "ImageFolder":
        root = write_pictures(root / "pictures")
    else:
        write_dataset(name, root, monkeypatch)
    return {**dataset, "init_args": {**dataset.get("init_args", {}), "root": str(root)}}


def write_pictures(folder):
    """Twenty pictures of 32x32 pixels for training and two for testing, in each of two classes."""
    for part, count in {"train": 20, "test": 2}.items():
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for index in range(count):
                colour = (index, count, 255 if name == "cat" else 0)
                Image.new("RGB", (32, 32), colour).save(folder / part / name / f"{index}.png")
    return folder


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_is_short_and_makes_sense(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(ROOT)  # as main.py does, for what lies in examples/
    lines = path.read_text().splitlines()
    content = yaml.safe_load(path.read_text())
    content["data"] = with_small_files(content.get("data"), tmp_path, monkeypatch)
    study = Study.of(content)

    assert len(lines) < 30
    command = re.compile(rf"#   python main.py (compare|judge \S+) --config configs/studies/{path.name}")
    assert any(map(command.match, lines))
    assert study.name == path.stem
    arms, blocks = len(study.activations), -(-study.most // 32)
    assert (make_plan(study).cached, len(make_plan(study).missing)) == (0, arms * blocks)


def test_studies_are_the_ones_promised():
    assert {path.stem for path in STUDIES} >= {"tutorial", "digits", "mnist", "fashion_mnist", "cifar10"}


@pytest.mark.slow
def test_digits_swish_reaches_its_accuracy(actbench, tmp_path):
    accuracies = []
    for seed in range(5):
        assert (
            actbench("fit", "--config", CONFIGS[0].parent / "digits_swish.yaml", "--seed_everything", seed).returncode
            == 0
        )
        result = actbench("test", "--ckpt_path", f"lightning_logs/version_{seed}/checkpoints/last.ckpt")
        accuracies.append(table(result.stdout)["test/acc"])

    assert median(accuracies) >= 0.96
