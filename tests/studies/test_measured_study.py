"""A study that asks for the mechanism: what is trained again for it, and what stays."""

import polars as pl
import pytest
import torch
from small_studies import run

from actbench.cli import main
from actbench.cli.lightning import report_mechanism
from actbench.inference.verdict import History
from actbench.records import MECHANISM, STATISTICS, same_results
from actbench.report import page
from actbench.studies.definition import Study, StudyError
from actbench.studies.grid import planned_cells
from actbench.training.mechanism import Mechanism
from actbench.training.mechanism.callback import Snapshot


def test_a_study_that_asks_trains_finished_cells_again_with_the_same_results(tmp_path):
    plain, _, _ = run(tmp_path)

    measured, ran, _ = run(tmp_path, mechanism=True)
    again, nothing, _ = run(tmp_path, mechanism=True)
    without, none, _ = run(tmp_path)

    assert len(ran) == 2
    assert nothing == none == []
    assert same_results(plain, measured)
    assert plain.select(MECHANISM).null_count().row(0) == (6,) * len(MECHANISM)
    assert measured.select(MECHANISM).null_count().row(0) == (0,) * len(MECHANISM)
    assert again.equals(measured)
    assert without.equals(plain)
    assert measured["mechanism_epochs"].to_list() == [[0, 1, 2]] * 6
    history = History.read(tmp_path / "s")
    assert (len(history.plans), len(history.looks)) == (1, 1)  # the question is the same, and so is its answer


def test_measured_cells_are_merged_and_serve_a_study_that_does_not_ask(tmp_path, capsys):
    run(tmp_path / "here", mechanism=True)

    assert main(["merge", str(tmp_path / "here"), "--root", str(tmp_path / "there")]) == 0
    _, again, _ = run(tmp_path / "there", mechanism=True)
    table, without, _ = run(tmp_path / "there")

    assert "added 2 cells" in capsys.readouterr().out
    assert again == without == []
    assert table["mechanism_sites"].null_count() == 0


def test_only_seeds_that_are_compared_are_measured(tmp_path):
    tune = {"model.optimizer.lr": [0.001, 0.002], "replicates": 1}

    table, _, _ = run(tmp_path, mechanism=True, tune=tune)
    _, again, _ = run(tmp_path, tune=tune)

    assert table["mechanism_epochs"].null_count() == 0
    assert pl.read_parquet(tmp_path / "s" / "tuning.parquet")["mechanism_epochs"].is_null().all()
    assert again == []


def test_the_models_setting_is_that_of_the_study_and_no_arm_has_its_own(tmp_path):
    config = {"model": {"mechanism": True}, "data": "FakeImages", "study": {"root": str(tmp_path)}}
    arm = {"activation": "relu", "model.mechanism": True}

    assert Study.of(config).mechanism
    assert all(entry.cell.config["model"]["mechanism"] for entry in planned_cells(Study.of(config)))
    with pytest.raises(StudyError, match=r"unknown model\.mechanism"):
        planned_cells(Study.of({"study": {"activations": [arm, "swish"]}}))


def test_a_fit_shows_its_last_measurement_and_logs_all(tmp_path, monkeypatch, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    words = "--model.network MLP --data FakeImages --data.rows 200 --trainer.accelerator cpu --model.replicates 2"

    assert main(["fit", *words.split(), "--model.mechanism", "true", "--trainer.max_epochs", "2"]) == 0

    shown = capsys.readouterr().out
    assert "mechanism after epoch 2: mean ± sd" in shown
    assert "linear layer 2" in shown
    assert "effective rank of the inputs of the last layer" in shown
    logged = EventAccumulator(str(tmp_path / "lightning_logs" / "version_0")).Reload()
    tags = [tag for tag in logged.Tags()["scalars"] if tag.startswith("mechanism/")]
    assert len(tags) == 2 * len(STATISTICS) + 1
    assert len(logged.Scalars("mechanism/dead/layers.2")) == 3


def test_names_of_calls_are_neither_cut_nor_markup(capsys):
    name = f"blocks[bold].{'x' * 300}"
    mechanism = Mechanism()
    mechanism.sites, mechanism.layers = [name], ["convolution 1"]
    mechanism.snapshots.append(Snapshot(1, torch.zeros(len(STATISTICS), 2, 1), torch.zeros(2)))

    report_mechanism(mechanism)

    assert name in capsys.readouterr().out


def test_a_resumed_fit_goes_on_measuring(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = "--model.network MLP --data FakeImages --data.rows 200 --trainer.accelerator cpu"
    main(["fit", *words.split(), "--model.mechanism", "true", "--trainer.max_epochs", "1"])

    last = "lightning_logs/version_0/checkpoints/last.ckpt"
    assert main(["fit", "--ckpt_path", last, "--trainer.max_epochs", "2"]) == 0

    assert "mechanism after epoch 2" in capsys.readouterr().out


@pytest.mark.slow
def test_the_tutorials_failures_on_the_digits_are_told(tmp_path):
    from actbench.studies import compare

    model = {"optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.002}}}
    fit = {"trainer": {"max_epochs": 20, "accelerator": "cpu"}, "data": "Digits", "model": model}
    section = {"root": str(tmp_path), "replicates": 30, "mechanism": True, "timing_s": 0}
    arms = ["relu", "leaky_relu"]

    results = compare({**fit, "study": {**section, "activations": arms}})

    lost = results.marked.group_by("arm").agg(pl.col("failed").sum()).sort("arm").rows()
    dead = results.table.filter(arm="leaky_relu")["mechanism_dead"].explode().explode()
    assert lost == [("leaky_relu", 0), ("relu", 9)]
    assert (dead == 0).all()
    line = "All 9 failed seeds of relu have 100 % dead units behind the third convolution (layers.5)"
    assert line in page(results, name="digits")
