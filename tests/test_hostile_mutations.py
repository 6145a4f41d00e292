"""Honest files in which one value, wherever it stands, is changed, left out, added to or called otherwise."""

import json
import re
import shutil

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from hostile import AWKWARD, FIT, guarded, mutated, plant_decoy
from made_studies import golden, random_study, timed_study, with_mechanism

from actbench.cli.main import main
from actbench.records import to_bytes

BATCH = 5
BATCHES = {
    "checkpoint": (2, 80),
    "history": (1, 60),
    "records": (1, 50),
    "timings": (1, 40),
    "fit": (1, 30),
    "compare": (1, 20),
}  # CI, slow
PLANNING = {"programs": ["git"], "decoys": (), "processor_s": 20}  # a config is code, and a trial is trained


def batches(kind):
    """Seeds of a kind's mutations, in batches; those beyond the first few are slow."""
    few, many = BATCHES[kind]
    starts = range(0, many * BATCH, BATCH)
    return [
        pytest.param(range(start, start + BATCH), marks=pytest.mark.slow if start >= few * BATCH else ())
        for start in starts
    ]


def harmless(capsys, folder, words, **allowed):
    """Whether a command works, or says in one harmless line why it does not."""
    with guarded(folder, **allowed):
        status = main([str(word) for word in words])
    shown = capsys.readouterr()
    lines = [
        line for line in shown.err.splitlines() if not re.match(r"W\d{4} ", line)
    ]  # what torch logs as it is imported
    assert status in (0, 2)
    assert status == 0 or len(lines) == 1
    assert len(shown.err) < 10_000
    assert all(letter.isprintable() or letter in "\n\r\t" for letter in shown.out + shown.err)


def spoiled(content, rng):
    """The content of a checkpoint, in which one value is another."""
    key = str(rng.choice(list(content)))
    if rng.random() < 0.5:
        key = "actbench"
    if isinstance(content[key], dict | list) and content[key] and rng.random() < 0.9:
        content[key], what = mutated(content[key], rng)
        return f"{key}: {what}"
    content[key] = AWKWARD[rng.integers(len(AWKWARD))]
    return f"{key} = {content[key]!r:.100}"


@pytest.mark.parametrize("seeds", batches("checkpoint"))
def test_a_mutated_checkpoint_does_no_harm(run_folder, tmp_path, monkeypatch, capsys, seeds):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run_folder, tmp_path / "theirs")
    path = tmp_path / "theirs" / "checkpoints" / "last.ckpt"
    for seed in seeds:
        content = torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)
        content["state_dict"] = dict(content["state_dict"])
        print(seed, spoiled(content, np.random.default_rng(seed)))
        plant_decoy(tmp_path)
        torch.save(content, path)
        capsys.readouterr()

        harmless(capsys, tmp_path, ["test", "--ckpt_path", path])
        harmless(capsys, tmp_path, ["fit", "--ckpt_path", path, "--trainer.max_epochs", 2, "--trainer.logger", "false"])


@pytest.mark.parametrize("seeds", batches("history"))
def test_a_mutated_history_does_no_harm(tmp_path, monkeypatch, capsys, seeds):
    monkeypatch.chdir(tmp_path)
    golden(tmp_path / "theirs")
    random_study(tmp_path / "mine", arms=2, seeds=6)
    (tmp_path / "cells").mkdir()  # so that the two are neighbours
    honest = json.loads((tmp_path / "theirs" / "history.json").read_text())
    for seed in seeds:
        content, what = mutated(honest, np.random.default_rng(seed))
        print(seed, what)
        (tmp_path / "theirs" / "history.json").write_text(json.dumps(content))
        capsys.readouterr()

        for words in (["report", "theirs"], ["report", "mine"], ["report", "mine", "theirs"]):
            harmless(capsys, tmp_path, words)


@pytest.mark.parametrize("seeds", batches("timings"))
def test_mutated_timings_do_no_harm(tmp_path, monkeypatch, capsys, seeds):
    monkeypatch.chdir(tmp_path)
    timed_study(tmp_path / "theirs")
    path = tmp_path / "theirs" / "timing.json"
    honest = json.loads(path.read_text())
    for seed in seeds:
        content, what = mutated(honest, np.random.default_rng(seed))
        print(seed, what)
        path.write_text(json.dumps(content))
        capsys.readouterr()

        harmless(capsys, tmp_path, ["report", "theirs"])


@pytest.mark.parametrize("seeds", batches("records"))
def test_mutated_records_do_no_harm(tmp_path, monkeypatch, capsys, seeds):
    monkeypatch.chdir(tmp_path)
    golden(tmp_path / "theirs")
    path = tmp_path / "theirs" / "records.parquet"
    honest = with_mechanism(pl.read_parquet(path))
    for seed in seeds:
        rng = np.random.default_rng(seed)
        name, new = str(rng.choice(honest.columns)), AWKWARD[rng.integers(len(AWKWARD))]
        values = honest[name].to_list()
        values[rng.integers(len(values))] = new
        kind = honest.schema[name] if rng.random() < 0.7 else None
        try:
            path.write_bytes(to_bytes(honest.with_columns(pl.Series(name, values, dtype=kind, strict=False))))
        except Exception:  # polars has no such column
            continue
        print(seed, f"{name}: {new!r:.100}")
        capsys.readouterr()

        harmless(capsys, tmp_path, ["report", "theirs"])
        harmless(capsys, tmp_path, ["report", "theirs", "--format", "tex"])


def full_config(capsys, command, *words):
    """What ``--print_config`` prints."""
    assert main([command, *words, "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("seeds", batches("fit"))
def test_a_mutated_config_of_a_fit_ends_in_a_line(tmp_path, monkeypatch, capsys, seeds):
    monkeypatch.chdir(tmp_path)
    honest = full_config(capsys, "fit", *FIT)
    for seed in seeds:
        content, what = mutated(honest, np.random.default_rng(seed))
        (tmp_path / "fit.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        print(seed, what)
        capsys.readouterr()

        harmless(capsys, tmp_path, ["fit", "--config", "fit.yaml", "--trainer.fast_dev_run", "true"], decoys=())


@pytest.mark.parametrize("seeds", batches("compare"))
def test_a_mutated_config_of_a_study_ends_in_a_line(tmp_path, monkeypatch, capsys, seeds):
    monkeypatch.chdir(tmp_path)
    words = [*FIT, "--trainer.max_epochs", "1", "--study.activations", "[relu, swish]", "--study.replicates", "2"]
    honest = full_config(capsys, "compare", *words)
    for seed in seeds:
        content, what = mutated(honest, np.random.default_rng(seed))
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        print(seed, what)
        capsys.readouterr()

        harmless(
            capsys,
            tmp_path,
            ["compare", "--config", "study.yaml", "--dry_run"],
            **PLANNING,
        )
