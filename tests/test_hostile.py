"""Files that others have made, whole or damaged or meant to harm: one line, nothing outside, no end without."""

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import polars as pl
import pytest
from conftest import ROOT
from hostile import FIT, guarded
from made_studies import golden, random_study, records, study

from actbench.cli.main import main
from actbench.inference.verdict import load_results
from actbench.records import CHECKSUM, FILE, RecordError, Store, fingerprint, from_bytes, read_records, to_bytes
from actbench.specs import compose
from actbench.studies import compare

CELL = fingerprint("relu")


def table(seeds=3):
    own = records("relu", [0.9] * seeds)
    return own.drop("arm", "dataset_name", "network_name")


def planted(folder, content, name=f"{CELL}_0-2.parquet"):
    """A file in a store, whatever it holds, with a right checksum."""
    path = folder / "cells" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_bytes(content))
    return path


@pytest.mark.parametrize("cell", ["/tmp/outside", "../../outside", "..", "", "x" * 32, CELL.upper(), f"{CELL}/../x"])
def test_a_cell_that_leads_elsewhere_is_refused_and_nothing_is_written(tmp_path, capsys, monkeypatch, cell):
    monkeypatch.chdir(tmp_path)
    planted(tmp_path / "theirs", table().with_columns(cell=pl.lit(cell)))
    before = sorted(tmp_path.rglob("*"))

    status = main(["merge", "theirs", "--root", "mine"])

    assert status == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert sorted(path for path in tmp_path.rglob("*") if "mine" not in path.parts) == before
    with pytest.raises(RecordError, match="cannot be the name of a cell's file"):
        Store(tmp_path).path(cell, [0])


@pytest.mark.parametrize(
    "name",
    [
        f"{CELL}_0-99999999999.parquet",
        f"{CELL}_0-9999999999.parquet",
        f"{CELL}_5-2.parquet",
        f"{CELL}_0-{'9' * 200}.parquet",
        "x_0-2.parquet",
        f"{CELL}_٠-٢.parquet",
    ],
)
def test_a_name_that_says_too_much_is_no_file_of_a_store(tmp_path, name):
    path = planted(tmp_path, table(), name)

    assert Store(tmp_path / "cells").files() == {}
    with pytest.raises(RecordError, match="its name belongs to other records"):
        Store(tmp_path / "cells").read(path)


def test_the_names_that_are_written_are_read(tmp_path):
    store = Store(tmp_path)

    path = store.write(table(30))

    assert FILE.fullmatch(path.name)
    assert store.read(path).equals(table(30))
    assert store.files() == {CELL: [path]}


CURVE = ("curve_x", "curve_y", "curve_slope")
WRONG = {
    "a text for a number": lambda own: own.with_columns(test_accuracy=pl.lit("0.9")),
    "a list for a number": lambda own: own.with_columns(test_loss=pl.lit([0.1])),
    "a number for a text": lambda own: own.with_columns(config=pl.lit(1)),
    "a column that is missing": lambda own: own.drop("test_accuracy"),
    "a column more": lambda own: own.with_columns(more=pl.lit(1)),
    "no column": lambda own: pl.DataFrame(),
    "a null": lambda own: own.with_columns(test_accuracy=pl.lit(None, pl.Float64)),
    "a null seed": lambda own: own.with_columns(seed=pl.lit(None, pl.Int64)),
    "an accuracy of 87": lambda own: own.with_columns(test_accuracy=pl.lit(87.0)),
    "an accuracy of NaN": lambda own: own.with_columns(test_accuracy=pl.lit(float("nan"))),
    "a negative time": lambda own: own.with_columns(epoch_time_s=pl.lit(-1.0)),
    "a negative seed": lambda own: own.with_columns(seed=pl.lit(-1, pl.Int64)),
    "no class": lambda own: own.with_columns(classes=pl.lit(0, pl.Int64)),
    "a seed twice": lambda own: pl.concat([own, own.head(1)]),
    "factors that are no JSON": lambda own: own.with_columns(factors=pl.lit("{")),
    "factors that are a list": lambda own: own.with_columns(factors=pl.lit("[]")),
    "a config as deep as a well": lambda own: own.with_columns(config=pl.lit('{"a":' * 10**5)),
    "a config of fifty lists in one another": lambda own: own.with_columns(
        config=pl.lit(f'{{"a":{"[" * 50}{"]" * 50}}}')
    ),
    "a config that is no Unicode": lambda own: own.with_columns(config=pl.lit('{"a": "\\ud800"}')),
    "a config longer than any": lambda own: own.with_columns(config=pl.lit(f'{{"a": "{"x" * 2_000_000}"}}')),
    "a curve with a gap": lambda own: own.with_columns(pl.lit([0.0, None]).alias(name) for name in CURVE),
    "a curve without end": lambda own: own.with_columns(pl.lit([0.0, float("inf")]).alias(name) for name in CURVE),
    "more losses than epochs": lambda own: own.with_columns(epoch_val_loss=pl.lit([0.5] * 1000)),
    "more epochs than anybody trains": lambda own: own.with_columns(epochs=pl.lit(2**40)),
    "more rows than any study": lambda own: own[[0] * 250_001],
    "a cell of another kind": lambda own: own.with_columns(cell=pl.lit("cell")),
}


@pytest.mark.parametrize("what", WRONG)
def test_records_that_no_training_gives_are_refused_in_one_line(tmp_path, what):
    content = to_bytes(WRONG[what](table()))

    with pytest.raises(RecordError) as refused:
        from_bytes(content)

    assert len(str(refused.value).splitlines()) == 1


def test_records_without_a_checksum_are_refused_in_no_time():
    buffer = BytesIO()
    table().write_parquet(buffer, metadata={CHECKSUM: "", "padding": "x" * 10**7})

    with guarded(Path.cwd()), pytest.raises(RecordError, match="its checksum does not match"):
        from_bytes(buffer.getvalue())


@pytest.mark.parametrize(
    "value", [1e308, float("inf"), *(pytest.param(value, marks=pytest.mark.slow) for value in (1e300, -1e308))]
)
def test_losses_of_any_size_are_told_and_drawn(tmp_path, monkeypatch, capsys, value):
    monkeypatch.chdir(tmp_path)
    golden(tmp_path / "theirs")
    path = tmp_path / "theirs" / "records.parquet"
    losses = {
        "epoch_val_loss": pl.lit([value, -value]),
        "test_loss": pl.when(pl.col("seed") == 1).then(value).otherwise(0.1),
    }
    path.write_bytes(to_bytes(pl.read_parquet(path).with_columns(**losses)))

    assert main(["report", "theirs"]) == 0


def test_many_empty_files_of_a_store_take_neither_time_nor_memory(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs" / "cells").mkdir(parents=True)
    for number in range(5000):
        (tmp_path / "theirs" / "cells" / f"{CELL}_{number * 1000}-{number * 1000 + 999}.parquet").touch()

    with guarded(tmp_path):
        assert main(["merge", "theirs", "--root", "mine"]) == 2

    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("what", ["pipe", "device", "folder", "link", "sparse"])
def test_what_is_no_file_is_not_read(tmp_path, what):
    path = tmp_path / "records.parquet"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "sparse":
        path.touch()
        os.truncate(path, 200 * 2**30)
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if what == "device" else tmp_path / "absent")

    with pytest.raises((RecordError, FileNotFoundError)):
        read_records(path)


# --- slips ---


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("compare --data.batch_size 0", "error: arm relu: dataset Digits: batch_size must be at least 1, got 0"),
        ("compare --data.val_fraction 2", "error: arm relu: dataset Digits: val_fraction must lie strictly between"),
        (
            f"fit --model.network MLP --model.network.hidden {[[1] * 9] * 999}",
            "error: --model.network: network actbench",
        ),
    ],
)
def test_a_wrong_value_is_named_in_a_short_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    command, option, *rest = words.split(maxsplit=2)

    assert main([command, option, *(word for word in " ".join(rest).replace(", ", ",").split())]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)
    assert len(line) < 1100


def test_a_group_that_is_null_says_nothing():
    assert compose(["--trainer", "null", "--trainer.max_epochs", "3"]) == {"trainer": {"max_epochs": "3"}}


# --- the machine ---


@contextlib.contextmanager
def full_disk(left=5_000):
    """Files of this process cannot grow beyond so many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "words",
    [
        ["fit", *FIT, "--trainer.max_epochs", "1", "--trainer.logger", "false"],
        ["predict", "--output", "predictions.csv"],
        ["export", "--output", "network.pt2"],
    ],
    ids=lambda words: words[0],
)
def test_a_full_disk_is_told_in_a_line_and_nothing_half_written_is_left(
    run_folder, tmp_path, monkeypatch, capsys, words
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if words[0] in ("predict", "export"):
        words = [*words, "--ckpt_path", str(run_folder / "checkpoints" / "last.ckpt")]

    with full_disk():
        assert main(words) == 1

    assert len([line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]) == 1
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".ckpt", ".pt2") or "predictions" in path.name]


def test_a_full_output_is_told_in_a_line():
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, str(ROOT / "main.py"), "activations"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)

    assert ended.returncode == 1
    assert ended.stderr.splitlines() == ["error: [Errno 28] No space left on device"]


@pytest.mark.parametrize("folder", ["exports", "tensorboard"])
def test_nothing_is_written_or_deleted_through_a_link(tmp_path, monkeypatch, capsys, folder):
    monkeypatch.chdir(tmp_path)
    golden(tmp_path / "theirs")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "events.out.tfevents.1.actbench").write_text("mine")
    (tmp_path / "theirs" / folder).symlink_to(outside)

    assert main(["report", "theirs", "--format", "csv" if folder == "exports" else "tensorboard"]) == 2

    assert capsys.readouterr().err == f"error: theirs/{folder} is a link, through which nothing is written: remove it\n"
    assert [path.read_text() for path in outside.iterdir()] == ["mine"]


def test_names_are_harmless_in_tables(tmp_path, capsys):
    names = ["=1+1", "![i](http://x)", "<script>"]
    study(tmp_path, [records(name, [0.9, 0.8]) for name in names], arms=names, replicates=2)

    for format in ("csv", "md"):
        assert main(["report", str(tmp_path), "--format", format]) == 0

    exports = {path.name: path.read_text() for path in (tmp_path / "exports").iterdir()}
    assert "'=1+1" in exports["replicates.csv"]
    assert not [text for text in exports.values() if text.startswith("=") or "\n=" in text or ",=" in text]
    tables = "".join(text for name, text in exports.items() if name.endswith(".md"))
    assert "<script>" not in tables
    assert "![i]" not in tables
    assert "=1+1" in tables


@pytest.mark.parametrize("name", ["x" * 201, "a\x1b[2Jb", "a\u202eb", "a\x00b"])
def test_a_name_that_cannot_be_shown_is_refused(tmp_path, capsys, name):
    config = {"study": {"activations": [{"name": name, "activation": "relu"}, "swish"], "root": str(tmp_path)}}

    with pytest.raises(ValueError, match="a name has at most 200 letters, all of which can be printed"):
        compare(config)


def test_an_error_shows_no_letter_that_does_something_to_a_terminal(capsys):
    assert main(["\x1b[2Jfit"]) == 2

    assert "\x1b" not in capsys.readouterr().err


CONFIGS = {
    "aliases that multiply": [
        "a: &a [x, x, x, x, x, x, x, x, x]",
        *(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    ],
    "an alias of itself": ["model: &x {activation: *x}"],
    "a key twice": ["trainer: {max_epochs: 1}", "trainer: {max_epochs: 2}"],
    "a tag": ["model: !!python/object/apply:os.system [touch outside]"],
    "depth": ["model: " + "[" * 3000 + "]" * 3000],
    "keys that are no text": ["trainer: {1: 2}"],
}


@pytest.mark.parametrize("what", CONFIGS)
@pytest.mark.parametrize("command", ["fit", "compare"])
def test_a_config_that_is_none_is_refused_in_a_line(tmp_path, monkeypatch, capsys, what, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("\n".join(CONFIGS[what]))

    with guarded(tmp_path):
        assert main([command, "--config", "config.yaml"]) == 2

    assert len(capsys.readouterr().err.splitlines()) == 1


def test_records_of_other_cells_than_planned_are_told(tmp_path):
    results = study(
        tmp_path, [records("relu", [0.9] * 3), records("swish", [0.9] * 3, cell=fingerprint("x"))], replicates=3
    )

    assert results.faults[0] == "swish: 3 records are not of what was planned"


def measured(**changes):
    def change(content):
        (certificates,) = content["certificates"].values()
        certificates[0].update(changes)

    return change


def planned(**changes):
    return lambda content: content["plans"][-1]["question"].update(changes)


HUGE = 10**400
ENDLESS = {
    "a level of a self-test beyond all numbers": measured(alpha=HUGE),
    "pairs of a self-test beyond all numbers": measured(pairs=HUGE),
    "a share beyond all numbers": measured(false_alarms={"estimate": HUGE, "low": 0, "high": 0}),
    "a tuning of nothing": planned(tune={"replicates": 2}),
    "a tuning of two settings": planned(tune={"a": [1], "b": [2]}),
    "a million replicates": planned(replicates=10**6),
    "a million looks": planned(replicates={"min": 2, "max": 10**6, "batch": 1}),
    "a level of next to nothing": planned(alpha=1e-300),
    "thousands of arms": planned(asked=[["Digits", "MLP", f"arm {n}", CELL] for n in range(3000)]),
    "thousands of plans": lambda content: content.update(plans=content["plans"] * 10_000),
    "a command that is no Unicode": lambda content: content.update(command="\ud800"),
    "a trouble that is no Unicode": lambda content: content.update(troubles=["\ud800"]),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_a_history_that_would_take_all_time_is_refused_in_a_line(tmp_path, monkeypatch, capsys, what):
    monkeypatch.chdir(tmp_path)
    golden(tmp_path / "theirs")
    path = tmp_path / "theirs" / "history.json"
    content = json.loads(path.read_text())
    ENDLESS[what](content)
    for plan in content["plans"]:
        plan["hash"] = fingerprint(plan["question"])
    path.write_text(json.dumps(content))

    with guarded(tmp_path):
        assert main(["report", "theirs"]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert "history.json is damaged" in line


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"replicates": 10**6}, "a study has at most 100,000 replicates"),
        ({"alpha": 1e-12}, "alpha must be at least 1e-09"),
    ],
)
def test_a_study_that_no_report_could_tell_of_is_refused_beforehand(tmp_path, settings, message):
    config = {"study": {**settings, "root": str(tmp_path)}, "data": {"class_path": "FakeImages"}}

    with pytest.raises(ValueError, match=message):
        compare(config)

    assert not list(tmp_path.iterdir())


def test_a_plan_that_is_not_what_its_hash_says_is_refused(tmp_path):
    study(tmp_path, [records("relu", [0.9] * 3), records("swish", [0.8] * 3)], replicates=3)
    path = tmp_path / "history.json"
    content = json.loads(path.read_text())
    content["plans"][0]["question"]["alpha"] = 0.5
    path.write_text(json.dumps(content))

    with pytest.raises(RecordError, match="does not match the question stored with it"):
        load_results(tmp_path)


@pytest.mark.parametrize(
    "columns",
    [
        {"test_loss": pl.when(pl.col("seed") == 1).then(float("nan")).otherwise(0.1)},
        *(
            pytest.param(columns, marks=pytest.mark.slow)
            for columns in (
                {"test_ece": pl.when(pl.col("seed") == 1).then(float("inf")).otherwise(0.1)},
                {"peak_memory_mb": pl.lit(0.0)},
            )
        ),
    ],
    ids=lambda columns: next(iter(columns)),
)
def test_scores_and_costs_that_say_nothing_are_left_out(tmp_path, monkeypatch, capsys, columns):
    monkeypatch.chdir(tmp_path)
    golden(tmp_path / "theirs")
    path = tmp_path / "theirs" / "records.parquet"
    path.write_bytes(to_bytes(pl.read_parquet(path).with_columns(**columns)))

    assert main(["report", "theirs"]) == 0


def test_what_a_self_test_did_not_measure_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    golden(tmp_path / "theirs")
    path = tmp_path / "theirs" / "history.json"
    content = json.loads(path.read_text())
    measured(planted=None, power_planned=None)(content)
    path.write_text(json.dumps(content))

    assert main(["report", "theirs"]) == 0


@pytest.mark.slow
def test_a_design_of_a_thousand_looks_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    random_study(tmp_path / "theirs", arms=2, seeds=8, replicates={"min": 2, "max": 1000, "batch": 1})

    assert main(["report", "theirs"]) == 0


def test_what_changed_is_printed_harmlessly(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, factors in (("theirs", '{"\\u001b[2J": 1}'), ("mine", '{"\\u001b[2J": 2}')):
        golden(tmp_path / name)
        path = tmp_path / name / "records.parquet"
        path.write_bytes(to_bytes(pl.read_parquet(path).with_columns(factors=pl.lit(factors))))

    assert main(["report", "theirs", "mine"]) == 0

    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert r"\x1b[2J" in shown
