"""What a study file may say, and how a study answers what makes no sense."""

from concurrent.futures import ThreadPoolExecutor
from io import StringIO

import made_studies
import polars as pl
import pytest
import torch
import yaml
from pytorch_lightning import LightningDataModule
from rich.console import Console
from small_studies import Lines, Ran, run, study

from actbench.cli import compare as command
from actbench.cli.main import main
from actbench.cli.report import print_results, print_table
from actbench.inference.verdict import pairing_faults
from actbench.inference.verdict.pairing import other_networks, pairing_sentence
from actbench.records import Store
from actbench.report.tables import tables
from actbench.specs import compose
from actbench.studies import Study, Wanted, arms, compare, make_plan, planned_cells, read_wanted, rehearse
from actbench.studies.cells import Cell, cell_config
from actbench.studies.forecast import forecast
from actbench.studies.run import write_arms
from actbench.training.preflight import planned_epochs

ONE_CYCLE = {"class_path": "torch.optim.lr_scheduler.OneCycleLR", "init_args": {"max_lr": 0.1, "total_steps": 8}}


class Untrainable(torch.nn.Module):
    """Fails in training alone."""

    def forward(self, x):
        if x.requires_grad:
            raise RuntimeError("no gradient, please")
        return x


class Broken(LightningDataModule):
    """Cannot fetch its data."""

    def __init__(self, batch_size=8):
        super().__init__()

    def prepare_data(self):
        raise RuntimeError("no\nserver")


def refused(capsys, tmp_path, content, *options):
    """What is said of a study file that makes no sense: one line, before anything is written."""
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    status = main(["compare", "--config", str(tmp_path / "study.yaml"), *options])
    said = capsys.readouterr()
    assert (status, said.out) == (2, "")
    assert len(said.err.splitlines()) == 1
    assert not (tmp_path / "studies").exists()
    return said.err


# --- arms ---


def test_nested_settings_of_an_arm_are_its_own(tmp_path):
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
    nested = {"name": "sw", "activation": "swish", "model": {"optimizer": optimizer}, "trainer": {"max_epochs": 1}}

    _, entry = planned_cells(Study.of(study(tmp_path, activations=["relu", nested])))

    assert entry.cell.config["model"]["activation"]["class_path"] == "actbench.activations.Swish"
    assert entry.cell.config["model"]["network"]["class_path"] == "actbench.networks.MLP"
    assert entry.cell.config["model"]["optimizer"]["init_args"]["lr"] == 0.1
    assert entry.cell.config["trainer"]["max_epochs"] == 1


def test_a_class_of_an_arm_is_set_before_its_arguments_in_any_order(tmp_path):
    arm = {"activation": "swish", "model.optimizer.lr": 0.5, "model.optimizer": "torch.optim.SGD"}

    (entry,) = planned_cells(Study.of(study(tmp_path, activations=[arm])))

    assert entry.cell.config["model"]["optimizer"]["class_path"] == "torch.optim.SGD"
    assert entry.cell.config["model"]["optimizer"]["init_args"]["lr"] == 0.5


def test_names_tell_arms_apart_by_arguments_and_by_settings():
    beta = {"class_path": "actbench.activations.Swish", "init_args": {"beta": 1.5}}
    rates = [{"activation": "gelu", "model.optimizer.lr": rate} for rate in (1e-3, 1e-2)]
    sgd = {"activation": "gelu", "model.optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}}

    named = [name for name, _ in arms(Study(["swish", beta, *rates, sgd, {"name": 3, "activation": "relu"}]))]

    assert named == ["swish", "Swish(beta=1.5)", "gelu(lr=0.001)", "gelu(lr=0.01)", "gelu(optimizer=SGD(lr=0.1))", "3"]


# --- arguments beside a list ---


def test_files_of_arms_are_those_of_the_plan_whoever_else_writes_them(tmp_path):
    before, after = (Study.of(study(tmp_path, activations=names)) for names in (["relu", "mish"], ["relu", "swish"]))
    write_arms(before, [Wanted(entry, before.seeds) for entry in planned_cells(before)], {})
    wanted = [Wanted(entry, after.seeds) for entry in planned_cells(after)]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: write_arms(after, wanted, {}), range(40)))

    assert sorted(path.name for path in (after.folder / "arms").iterdir()) == ["relu.yaml", "swish.yaml"]


@pytest.mark.parametrize(
    ("data", "sizes"),
    [
        ({"init_args": {"batch_size": 32}}, [32, 32, 16]),
        ({"class_path": "Digits", "init_args": {}}, [64, 64, 16]),
        ({"class_path": "FakeImages", "init_args": {"rows": 500}}, [64, 64, 16]),
    ],
)
def test_arguments_under_data_hold_for_each_dataset_that_takes_them(tmp_path, data, sizes):
    listed = ["Digits", "FakeImages", {"class_path": "FakeImages", "init_args": {"batch_size": 16}}]
    config = study(tmp_path, activations=["relu"], datasets=listed) | {"data": data}

    compared = planned_cells(Study.of(config))

    assert [entry.cell.config["data"]["init_args"]["batch_size"] for entry in compared] == sizes
    rows = data["init_args"].get("rows", 1024)
    assert [entry.cell.config["data"]["init_args"].get("rows") for entry in compared] == [None, rows, rows]
    assert [entry.dataset for entry in compared] == ["Digits", "FakeImages", "FakeImages(batch_size=16)"]


def test_arguments_under_network_hold_for_each_network_that_takes_them(tmp_path, capsys):
    config = study(tmp_path, activations=["relu"], networks=["TutorialCNN", "MLP"])
    config["model"] = {"network": {"init_args": {"hidden": [8]}}}

    first, second = planned_cells(Study.of(config))

    assert "init_args" not in first.cell.config["model"]["network"]
    assert second.cell.config["model"]["network"]["init_args"]["hidden"] == [8]


# --- what makes no sense ---


@pytest.mark.parametrize(
    ("changes", "section", "message"),
    [
        ({}, {"activations": [{"activation": "relu", "model": "swish"}]}, "arm relu: --model: file swish not found"),
        ({}, {"activations": ["relu", {"activation": "relu", "model": {"activation": "gelu"}}]}, "model.activation"),
        ({}, {"activations": ["relu", None]}, "none of them null"),
        ({"model": "relu"}, {}, "--model: file relu not found"),
        ({"trainer": 5}, {}, "trainer is a mapping of settings, got 5"),
        ({"study": "foo"}, {}, "--study: file foo not found"),
        ({"study": ["foo"]}, {}, "study is a mapping of settings, got ['foo']"),
        ({"model": {"activation": {"init_args": {"beta": 2}}}}, {}, "model.activation.beta: give it in"),
        ({"data": {"init_args": {"size": 3}}}, {"datasets": ["Digits"]}, "data.size: none of Digits takes it"),
        (
            {"data": {"class_path": "FakeImages", "init_args": {"batch_size": 3}}},
            {"datasets": ["FakeImages", "Digits"]},
            "data gives batch_size to FakeImages, not to Digits, which takes it too",
        ),
        ({}, {"root": 5}, "--study.root: Expected a str. Got value: 5"),
        ({}, {"records": [5]}, "--study.records: Expected a str. Got value: 5"),
        ({}, {"name": ".."}, "study.name must be"),
        ({}, {"name": ""}, "study.name must be"),
        ({"seed_everything": -1}, {}, "--seed_everything: "),
        ({"trainer": {"max_epochs": 0}}, {}, "max_epochs is 0, and a cell needs at least one epoch or step"),
        ({"trainer": {"limit_test_batches": 0}}, {}, "limit_test_batches is 0, and every seed is scored on test"),
        ({"trainer": {"max_steps": 0}}, {}, "max_steps is 0, and a cell needs at least one epoch or step"),
        ({"trainer": {"max_epochs": -1}}, {}, "nothing else ends the training"),
        ({"data": {"class_path": "FakeImages", "init_args": {"rows": 12}}}, {}, "12 images are too few"),
        ({"data": "test_study_files.Broken"}, {}, "dataset Broken: no server"),
        ({}, {"activations": ["test_study_files.Untrainable"]}, "Untrainable in MLP: no gradient, please"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--dry_run"]], ids=["run", "dry"])
def test_a_study_file_that_makes_no_sense_is_answered_in_one_line(
    capsys, tmp_path, monkeypatch, changes, section, message, options
):
    monkeypatch.chdir(tmp_path)

    content = study("studies")
    content["study"] |= section

    assert message in refused(capsys, tmp_path, content | changes, *options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer", "5"], "--trainer: file 5 not found"),
        (["--data.batch_size", "5", "--study.datasets", "[Digits]"], "data gives batch_size to FakeImages"),
    ],
)
def test_an_option_that_makes_no_sense_is_answered_in_one_line(capsys, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)

    assert message in refused(capsys, tmp_path, study("studies"), *options)


# --- several files ---


def test_a_second_file_adds_to_the_first_and_another_dataset_keeps_no_argument(tmp_path):
    files = {
        "a": {"data": {"class_path": "MNIST", "init_args": {"root": "x"}}, "trainer": {"max_epochs": 2}},
        "b": {"data": {"class_path": "MNIST", "init_args": {"batch_size": 8}}, "model": None},
        "c": {"data": {"class_path": "Digits"}, "study": {"activations": ["relu"]}, "trainer": {"min_epochs": 1}},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(yaml.safe_dump(content))

    both, all_three = (
        compose([word for name in names for word in ("--config", str(tmp_path / name))]) for names in ("ab", "abc")
    )

    assert both["data"] == {"class_path": "actbench.data.MNIST", "init_args": {"root": "x", "batch_size": 8}}
    assert all_three["data"] == {"class_path": "actbench.data.Digits"}
    assert all_three["trainer"] == {"max_epochs": 2, "min_epochs": 1}


def test_files_without_a_study_are_refused(capsys, tmp_path):
    (tmp_path / "fit.yaml").write_text("data: Digits")

    assert main(["compare", "--config", str(tmp_path / "fit.yaml")]) == 2
    assert "has no section 'study'" in capsys.readouterr().err


# --- plans ---


def test_a_forecast_counts_the_steps_that_limits_leave():
    assert planned_epochs({"max_epochs": None}, 4) == 1000
    assert planned_epochs({"max_epochs": None, "max_steps": 8}, 4) == 2
    assert planned_epochs({"max_epochs": -1, "max_steps": 6}, 4) == 1.5
    assert planned_epochs({"max_epochs": 1, "max_steps": 8}, 4) == 1
    assert planned_epochs({"max_epochs": -1, "max_time": "00:00:01:00"}, 4) is None


@pytest.mark.parametrize(
    ("trainer", "steps"),
    [
        pytest.param({"max_epochs": 2}, 24, marks=pytest.mark.slow),  # 4 batches of 64, 3 replicates
        ({"max_epochs": -1, "max_steps": 6}, 18),
        ({"max_epochs": 2, "limit_train_batches": 3, "accumulate_grad_batches": 2}, 12),
    ],
)
def test_a_dry_run_foresees_a_schedule_that_ends(tmp_path, trainer, steps):
    config = study(tmp_path, activations=["relu"]) | {"trainer": {**trainer, "accelerator": "cpu"}}
    whole = {"max_lr": 0.1, "total_steps": steps // 3}
    config["model"] = {"network": "MLP", "lr_scheduler": ONE_CYCLE | {"init_args": whole}}
    plan = make_plan(Study.of(config))

    will = forecast(plan.missing, pl.DataFrame(), rehearse(plan, print))

    assert will.steps == steps
    assert will.minutes > 0


def test_precisions_that_lightning_treats_alike_are_one():
    config = cell_config({})

    def digest(precision):
        return Cell({**config, "trainer": {**config["trainer"], "precision": precision}}, range(1)).hash

    assert digest(32) == digest("32") == digest("32-true") == Cell(config, range(1)).hash
    assert digest(16) == digest("16-mixed")
    assert digest("bf16") == digest("bf16-mixed")
    assert digest(64) == digest("64-true")
    assert len({digest(name) for name in (16, 32, 64, "bf16", "bf16-true")}) == 5


# --- damaged files ---


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_file_of_a_folder_that_is_only_read_stays_and_is_not_counted(tmp_path):
    run(tmp_path / "other")
    damaged = sorted((tmp_path / "other" / "cells").glob("*.parquet"))[0]
    damage(damaged)
    before = sorted((tmp_path / "other" / "cells").iterdir())

    table, ran, lines = run(tmp_path / "own", records=[str(tmp_path / "other")])

    assert sorted((tmp_path / "other" / "cells").iterdir()) == before
    assert len(ran) == 1
    assert len(table) == 6
    assert any("left as it is, and not used" in line for line in lines)


@pytest.mark.parametrize("method", ["read", "set_aside"])
def test_a_damaged_file_that_another_process_has_just_set_aside_is_missing(tmp_path, monkeypatch, method):
    run(tmp_path)
    path = sorted((tmp_path / "cells").glob("*.parquet"))[0]
    damage(path)
    before = getattr(Store, method)

    def later(store, of):
        if of == path:
            path.rename(path.with_suffix(".damaged"))
        return before(store, of)

    monkeypatch.setattr(Store, method, later)
    config, said = Study.of(study(tmp_path)), []

    table = read_wanted(config, make_plan(config).wanted, said.append)

    assert (len(table), said) == (3, [])


def test_a_dry_run_renames_nothing(tmp_path):
    run(tmp_path)
    damage(sorted((tmp_path / "cells").glob("*.parquet"))[0])
    before, said = sorted((tmp_path / "cells").iterdir()), []
    config = Study.of(study(tmp_path, replicates=4))

    read_wanted(config, make_plan(config).wanted, said.append, change=False)

    assert sorted((tmp_path / "cells").iterdir()) == before
    assert len(said) == 1


@pytest.mark.parametrize("words", [["merge", "{a}", "--root", "{file}"], ["merge", "{a}", "--root", "{file}/b"]])
def test_a_folder_that_cannot_be_written_is_one_line(capsys, tmp_path, words):
    run(tmp_path / "a", activations=["relu"])
    (tmp_path / "file").write_text("")
    capsys.readouterr()

    status = main([word.format(a=tmp_path / "a", file=tmp_path / "file") for word in words])

    assert status == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_export_that_cannot_be_written_is_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit = ["fit", "--data", "FakeImages", "--model.network", "MLP", "--trainer.max_epochs", "1"]
    assert main([*fit, "--trainer.accelerator", "cpu"]) == 0
    (tmp_path / "file").write_text("")
    capsys.readouterr()

    checkpoint = "lightning_logs/version_0/checkpoints/last.ckpt"
    status = main(["export", "--ckpt_path", checkpoint, "--output", "file/net.pt2"])

    assert status == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


# --- what is said ---


def test_the_command_that_goes_on_can_be_pasted_and_says_what_is_done(capsys, tmp_path, monkeypatch):
    run(tmp_path / "studies", activations=["relu"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b.yaml").write_text(yaml.safe_dump(study("studies")))

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "compare", interrupted)
    capsys.readouterr()

    assert main(["compare", "--config", "a b.yaml", "--study.activations", "[relu, mish]"]) == 130
    said = capsys.readouterr().err
    assert "compare --config 'a b.yaml' --study.activations '[relu, mish]'" in said
    assert "3 of 6 replicates are finished" in said


@pytest.mark.parametrize("width", [40, 60, 80, 300])
@pytest.mark.parametrize("arm", ["relu", "Hardtanh(min_val=-0.5, max_val=0.5) of a long name"])
def test_no_number_is_cut_at_any_width(tmp_path, width, arm):
    datasets, scores = ["Digits", "FashionMNIST"], {"tanh": [0.91, 0.12, 0.5, 0.6], arm: [0.95, 0.2, 0.45, 0.7]}
    rows = [made_studies.records(name, of, dataset=dataset) for name, of in scores.items() for dataset in datasets]
    results = made_studies.study(tmp_path, rows, arms=["tanh", arm], datasets=datasets, comparisons="all")
    shown = Console(file=StringIO(), width=width, markup=False)

    for table in tables(results):
        print_table(shown, table)

    text = shown.file.getvalue()
    estimates = {
        "arms": "test accuracy",
        "comparisons": "difference",
        "failures": "arm failed",
        "secondary": "p",
        "standings": "mean rank",
    }
    for table in tables(results):
        (place,) = [number for number, column in enumerate(table.columns) if column.name == estimates[table.name]]
        assert all(f" {row[place].text} " in text for row in table.rows)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert ("left out" in text) == (width < 300)


def test_tables_are_whole_in_a_pipe_and_one_arm_is_no_pair(capsys, tmp_path):
    results = compare(Study.of(study(tmp_path, activations=["relu"])), work=Ran(), progress=Lines())

    print_results(results, tmp_path / "s")

    said = capsys.readouterr().out
    assert "parameters" in said
    assert "left out" not in said
    assert "pairs verified" not in said
    assert "no pairs: there is one arm" in said


def test_weights_are_compared_only_in_the_same_network(tmp_path):
    wide = {"name": "wide", "activation": "swish", "model.network.hidden": [16]}
    results = compare(Study.of(study(tmp_path, activations=["relu", "prelu", wide])), work=Ran(), progress=Lines())

    other = results.table.with_columns(init_fingerprint=pl.col("seed").cast(pl.String) + pl.col("arm"))

    assert results.faults == []
    assert other_networks(results.table, "relu") == ["wide"]
    assert pairing_sentence(results.table, "relu").endswith(
        "weights of their own, in another network or from another file: wide"
    )
    assert pairing_faults(other, "relu") == ["prelu: 3 seeds have another initial weights than relu, or an unknown one"]


def test_a_forecast_has_a_time_where_an_epoch_is_longer_than_a_trial(tmp_path):
    config = study(tmp_path, activations=["relu", "tanh"], replicates=2)
    config["data"]["init_args"] |= {"rows": 4000, "batch_size": 8}
    config["model"]["engine"] = "sequence"
    made = Study.of(config)
    plan = make_plan(made, [Wanted(entry, made.seeds) for entry in planned_cells(made)])

    will = forecast(plan.missing, pl.DataFrame(), rehearse(plan, print))

    assert will.minutes is not None
    assert will.minutes > 0
