import errno
import os
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml
from filelock import FileLock
from rich.console import Console
from small_studies import Lines, Ran, run, study

from actbench import networks, records
from actbench.activations import Swish
from actbench.inference.verdict import pairing_faults
from actbench.records import Store, blocks, read_records
from actbench.specs import UsageError
from actbench.studies import (
    MissingError,
    Study,
    StudyError,
    arms,
    compare,
    make_plan,
    planned_cells,
    rehearse,
    train,
)
from actbench.studies.executors import Failure, InProcess, LocalProcesses
from actbench.studies.forecast import forecast
from actbench.studies.plan import Wanted
from actbench.studies.progress import Bars
from actbench.studies.training import RunContext, run_wanted
from actbench.training import Classifier

ROOT = Path(__file__).parents[2]


# --- what a study wants ---


def test_arms_are_named_by_what_was_given_and_told_apart_by_arguments():
    given = Study(
        [
            "relu",
            {"class_path": "actbench.activations.Swish", "init_args": {"beta": 1.5}},
            {"class_path": "actbench.activations.Swish", "init_args": {"beta": 2.0}},
            {"name": "slow", "activation": "relu", "model.optimizer.lr": 1e-4},
        ]
    )

    assert [name for name, _ in arms(given)] == ["relu", "Swish(beta=1.5)", "Swish(beta=2.0)", "slow"]


def test_a_setting_of_an_arm_is_its_own(tmp_path):
    slow = {"name": "slow", "activation": "relu", "model.optimizer.lr": 1e-4, "data.batch_size": 32}
    normal, own = planned_cells(Study.of(study(tmp_path, activations=["relu", slow])))

    assert own.cell.config["model"]["optimizer"]["init_args"]["lr"] == 1e-4
    assert own.cell.config["data"]["init_args"]["batch_size"] == 32
    assert own.cell.config["data"]["init_args"]["rows"] == 300
    assert normal.cell.config["model"]["optimizer"]["init_args"]["lr"] == 1e-3
    assert normal.cell.config["model"]["activation"] == own.cell.config["model"]["activation"]


def test_classes_and_functions_may_stand_in_place_of_their_paths(tmp_path):
    def cells(network, *activations):
        config = study(tmp_path, activations=list(activations))
        return planned_cells(Study.of({**config, "model": {"network": network}}))

    given = cells(networks.MLP, torch.nn.ReLU, {"class_path": Swish, "init_args": {"beta": 2.0}})
    written = cells("MLP", "torch.nn.ReLU", {"class_path": "Swish", "init_args": {"beta": 2.0}})

    assert [entry.cell.hash for entry in given] == [entry.cell.hash for entry in written]
    assert [entry.arm for entry in given] == ["ReLU", "Swish"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"activations": ["relu", lambda x: x]}, "<lambda> at .* cannot be imported by name: define it at the top"),
        ({"activations": ["relu", torch.nn.functional.silu]}, "but a function: write a torch.nn.Module"),
        ({"activations": ["relu", torch.nn.ReLU()]}, r"so that it can be built afresh and written down, got ReLU\(\)"),
        ({"activations": ["relu", "relo"]}, "arm relo: .*unknown activation 'relo'"),
        ({"activations": ["relu", "relu"]}, "relu appears twice"),
        ({"activations": ["relu", "torch.nn.ReLU"]}, "Digits/MLP/relu and .*/ReLU are the same"),
        ({"activations": []}, "at least"),
        ({"activations": "relu"}, "--study.activations: Expected a list"),
        ({"activations": [{"name": "x"}]}, "an arm needs an activation"),
        ({"activations": [{"activation": "relu", "lr": 0.1}]}, "arm relu: unknown lr"),
        (
            {"activations": [{"activation": "relu", "trainer.max_epoch": 1}]},
            "unknown option --trainer.max_epoch; did you",
        ),
        ({"replicates": 0}, "--study.replicates: .*0"),
        ({"baseline": "gelu"}, "study.baseline: gelu is not among the arms relu, swish"),
        ({"datasets": ["Digits", "Digitz"]}, "unknown dataset 'Digitz'"),
        ({"datasets": [{"class_path": "MNIST", "init_args": {"root": "nowhere"}}]}, "dataset MNIST: .*nowhere"),
        ({"networks": ["MLPP"]}, "unknown network 'MLPP'"),
        ({"seeds": 3}, "unknown option --study.seeds"),
        ({"executor": "InProces"}, "--study.executor: unknown executor 'InProces'"),
        ({"executor": {"class_path": "LocalProcesses", "init_args": {"workers": 0}}}, "at least 1, got 0"),
        ({"checkpoints": 3}, "--study.checkpoints: Expected a str"),
        ({"checkpoints": "nowhere://x"}, "study.checkpoints: Protocol not known: nowhere"),
        ({"weights": "first"}, "--study.weights: .*last.*best"),
        ({"name": "../x"}, "the name of a folder"),
        ({"alpha": 1e-12}, "study: alpha must be at least 1e-09, got 1e-12"),
        ({"replicates": 10**8}, "study: a study has at most .* replicates, got 100,000,000"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused_before_anything_is_written(tmp_path, section, message):
    config = study(tmp_path / "studies", **section)
    if "same" in message:
        config["data"] = "Digits"

    with pytest.raises(StudyError, match=message) as error:
        compare(config)

    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("removed", [[0], [1], [0, 2], [1, 2]])
def test_blocks_stay_as_they_are_when_some_are_finished(removed):
    whole = list(blocks(range(5, 105), width=32))
    assert whole == [range(5, 37), range(37, 69), range(69, 101), range(101, 105)]

    rest = [block for place, block in enumerate(whole) if place not in removed]
    assert list(blocks([seed for block in rest for seed in block], width=32)) == rest


# --- running one ---


def test_a_module_may_be_edited_during_a_study_and_not_between_two(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    code = "from torch import nn\nclass Scaled(nn.Module):\n    def forward(self, x):\n        return {} * x.relu()\n"
    file = tmp_path / "acts_of_study.py"
    file.write_text(code.format(2))
    config = study(tmp_path, activations=["relu", "acts_of_study.Scaled"], replicates={"min": 6, "max": 12, "batch": 6})
    alphas = {"alpha": 1e-9}  # never decided, so that there are two looks

    def edit(results):
        file.write_text(code.format(3))

    config["study"] |= alphas
    first = compare(config, progress=Lines(), show=edit).table

    assert len(first) == 24
    assert first["cell"].n_unique() == 2
    with pytest.raises(UsageError, match=r"acts_of_study\.py has changed since it was imported"):
        compare(config, progress=Lines())


@pytest.mark.parametrize("data", [{}, {"data": {"class_path": "own_data.Own"}}], ids=["ours", "foreign"])
def test_a_cell_trains_alone_in_a_job_of_several_tasks(tmp_path, monkeypatch, data):
    def losses(name):
        return compare({**study(tmp_path / name, replicates=2), **data}, progress=Lines()).table["test_loss"].to_list()

    expected = losses("alone")
    job = {"JOB_ID": 1, "JOB_NAME": "job", "NTASKS": 2, "PROCID": 1, "LOCALID": 0, "NODEID": 1}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))

    assert losses("job") == expected


def test_what_is_finished_is_never_done_twice(tmp_path):
    six, ran, _ = run(tmp_path, replicates=6)
    assert ran == [("ReLU", list(range(6))), ("Swish", list(range(6)))]
    assert run(tmp_path, replicates=6)[1] == []

    twelve, ran, _ = run(tmp_path, replicates=12)
    assert ran == [("ReLU", list(range(6, 12))), ("Swish", list(range(6, 12)))]
    assert records.same_results(twelve.filter(pl.col("seed") < 6).select(six.columns), six)

    _, ran, _ = run(tmp_path, replicates=12, activations=["relu", "swish", "gelu"], name="other")
    assert ran == [("GELU", list(range(12)))]
    table, ran, _ = run(tmp_path, replicates=2, datasets=["Digits", study(tmp_path)["data"]])
    assert ran == [("ReLU", [0, 1]), ("Swish", [0, 1])]
    assert table["dataset_name"].to_list() == ["Digits"] * 4 + ["FakeImages"] * 4


def test_the_folder_holds_the_study_and_its_records(tmp_path):
    table, _, lines = run(tmp_path)

    assert read_records(tmp_path / "s" / "records.parquet").equals(table)
    again = Study.of(yaml.safe_load((tmp_path / "s" / "study.yaml").read_text()))
    assert make_plan(again).missing == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells", "running", "s"]
    assert not [path for path in (tmp_path / "running").iterdir() if path.is_dir()]
    assert [line.split(":")[0] for line in lines] == [
        "1/2 FakeImages/MLP/relu seeds 0-2",
        "2/2 FakeImages/MLP/swish seeds 0-2",
    ]


def test_processes_give_the_same_records_as_this_one(quick_workers, tmp_path):
    here = compare(study(tmp_path / "here")).table

    executor = {"class_path": "LocalProcesses", "init_args": {"workers": 2}}
    there = compare(study(tmp_path / "there", executor=executor)).table

    assert records.same_results(here, there)


def test_cells_in_another_order_give_the_same_records(tmp_path):
    here = compare(study(tmp_path / "here")).table
    compare(study(tmp_path / "there", activations=["swish", "relu"]))

    there = compare(study(tmp_path / "there")).table

    assert records.same_results(here, there)


def test_a_damaged_file_is_set_aside_and_its_cell_run_again(tmp_path):
    before, _, _ = run(tmp_path)
    path = sorted((tmp_path / "cells").glob("*.parquet"))[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    after, ran, lines = run(tmp_path)

    assert len(ran) == 1
    assert any("set aside as" in line for line in lines)
    assert path.with_suffix(".damaged").read_bytes() == content
    assert records.same_results(before, after)


def test_a_cell_that_fails_is_named_and_tried_again(tmp_path):
    def fails(task):
        if "Swish" in task[0].factors["activation"]["class_path"]:
            raise RuntimeError("no luck")
        return train(task)

    lines = Lines()
    with pytest.raises(MissingError, match="a cell has failed; the same command tries again") as missing:
        compare(study(tmp_path), work=fails, progress=lines)

    reason = "FakeImages/MLP/swish seeds 0-2: RuntimeError: no luck"
    assert missing.value.failures == [reason]
    assert [line for line in lines.said if "no luck" in line] == [f"2/2 {reason} (failed)"]

    assert run(tmp_path)[1] == [("Swish", [0, 1, 2])]


def test_a_full_disk_damages_nothing(tmp_path, monkeypatch):
    run(tmp_path, activations=["relu"])

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            run(tmp_path)

    assert run(tmp_path)[1] == [("Swish", [0, 1, 2])]


def test_a_cell_that_another_process_runs_is_left_to_it(tmp_path):
    config = Study.of(study(tmp_path))
    first = make_plan(config).missing[0]
    store = Store(tmp_path / "cells")
    (tmp_path / "running").mkdir()
    lock = FileLock(tmp_path / "running" / f"{store.path(first.hash, first.seeds).stem}.lock")
    lock.acquire()
    ran = Ran()

    def work(task):
        table = ran(task)
        if len(ran) == 1:  # the other process has finished meanwhile
            store.write(train((first, tmp_path / "other")))
            lock.release()
        return table

    table = compare(config, work=work).table

    assert ran == [("Swish", [0, 1, 2])]
    assert table["arm"].to_list() == ["relu"] * 3 + ["swish"] * 3


def test_pairs_are_verified(tmp_path):
    table, _, _ = run(tmp_path)
    assert pairing_faults(table, "relu") == []

    column = pl.when(pl.col("arm").eq("swish") & pl.col("seed").eq(1)).then(pl.lit("other"))
    other = table.with_columns(column.otherwise("order_fingerprint").alias("order_fingerprint"))
    assert pairing_faults(other, "relu") == ["swish: 1 seeds have another batch order than relu, or an unknown one"]


@pytest.mark.parametrize("executor", [InProcess(), LocalProcesses(1)], ids=["here", "processes"])
def test_errors_of_cells_are_told_by_every_executor(quick_workers, executor, tmp_path):
    ((_, result),) = executor.run(train, [(None, tmp_path)])

    assert isinstance(result, Failure)


def test_bars_show_cells_and_epochs(tmp_path):
    terminal = Console(file=StringIO(), force_terminal=True, width=100)

    compare(study(tmp_path), progress=Bars(terminal))

    shown = terminal.file.getvalue()
    assert "1/2 FakeImages/MLP/relu seeds 0-2: val accuracy" in shown
    assert "ReLU seeds 0-2" in shown
    assert "Swish seeds 0-2" in shown
    assert "6/6" in shown.splitlines()[-1] + shown.splitlines()[-2]  # replicates


def test_a_long_cell_tells_of_its_epochs(tmp_path):
    lines = Lines()
    lines.seconds = 0

    compare(study(tmp_path, activations=["relu"]), progress=lines)

    assert lines.said[:2] == [f"1/1 ReLU seeds 0-2: epoch {epoch}/2" for epoch in (1, 2)]


def test_a_forecast_is_near_what_cells_take(tmp_path):
    config = study(tmp_path, activations=["relu"])
    config["data"] = "FakeImages"
    config["trainer"] = {"max_epochs": 12, "accelerator": "cpu"}
    plan = make_plan(Study.of(config))
    cells, epoch_steps = plan.missing, rehearse(plan, print)

    expected = forecast(cells, pl.DataFrame(), epoch_steps)
    (table,) = (train((cell, tmp_path / "cell")) for cell in cells)

    training_s = 12 * len(table) * table["epoch_time_s"][0]
    assert training_s / 4 < 60 * expected.minutes < training_s * 4
    assert expected.steps == 12 * 3 * 12  # 716 to 718 images to train on, by 64
    size = sum(path.stat().st_size for path in [Store(tmp_path / "cells").write(table)])
    assert size / 3 < expected.disk_mb * 2**20 < size * 3

    known = table.with_columns(pl.lit(2.0).alias("epoch_time_s"), pl.lit(value=False).alias("busy"))
    assert forecast(cells, known, epoch_steps).minutes == 2 * 12 * 3 / 60
    busy = known.with_columns(pl.lit(value=True).alias("busy"))
    assert forecast(cells, busy, epoch_steps).minutes < 1


def test_cells_of_a_grid_have_the_configs_that_they_have_alone(tmp_path):
    networks = [{"class_path": "MLP", "init_args": {"hidden": [width]}} for width in (8, 16)]
    arms = [
        "relu",
        {"name": "fast", "activation": "tanh", "model.optimizer.lr": 0.1},
        {"name": "wide", "activation": "tanh", "model.network.hidden": [64]},
    ]

    def cells(networks, arms):
        planned = planned_cells(Study.of(study(tmp_path, networks=networks, activations=arms)))
        return [(entry.cell.config, entry.cell.hash) for entry in planned]

    with pytest.raises(StudyError, match="are the same"):  # the wide arm makes both networks one
        cells(networks, arms)
    alone = [cell for network in networks for arm in arms[:2] for cell in cells([network], [arm])]
    assert cells(networks, arms[:2]) == alone
    assert cells(networks[:1], arms) == [*alone[:2], *cells(networks[:1], arms[2:])]


@pytest.mark.slow
def test_ten_thousand_finished_cells_are_planned_in_seconds(tmp_path):
    networks = [{"class_path": "MLP", "init_args": {"hidden": [width]}} for width in range(1, 101)]
    rates = [{"name": f"lr {lr}", "activation": "relu", "model.optimizer.lr": lr} for lr in range(1, 101)]
    config = study(tmp_path, networks=networks, activations=rates, replicates=2)
    store = Store(tmp_path / "cells")
    store.folder.mkdir()
    for entry in planned_cells(Study.of(config)):
        store.path(entry.cell.hash, [0, 1]).write_bytes(b"a plan reads no record")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(config))

    said, seconds, memory_mb = dry_run(tmp_path)
    one = {"activations": rates[:1], "networks": networks[:1]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study(tmp_path, replicates=2, **one)))
    said_of_one, least_seconds, least_mb = dry_run(tmp_path)

    assert "finished: 20,000; missing: 0, in 0 cells" in said
    assert "finished: 2; missing: 0, in 0 cells" in said_of_one
    # How fast a machine is differs, so planning is held against starting up, which is imports for the most part.
    assert seconds < 1.7 * least_seconds
    assert memory_mb - least_mb < 200  # torch and Lightning alone take 900


def dry_run(folder):
    """What it says, seconds of the processor, and MiB of memory at most."""
    command = [sys.executable, ROOT / "main.py", *["compare", "--config", "study.yaml", "--dry_run"]]
    # A small process starts it: the system counts to a process the memory of the one that it was forked from.
    measured = [sys.executable, "-c", MEASURED, *command]
    run = subprocess.run(measured, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    *said, seconds, memory_mb = run.stdout.splitlines()
    return "\n".join(said), float(seconds), float(memory_mb)


MEASURED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 2**10, sep="\\n")
"""


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_a_signal_to_end_is_obeyed_at_whatever_stage_it_comes(tmp_path, monkeypatch, stage):
    hook = "on_test_epoch_end" if stage == "test" else "on_validation_epoch_end"
    original = getattr(Classifier, hook)

    def signalled(classifier):
        if classifier.trainer.state.fn == stage:
            os.kill(os.getpid(), signal.SIGTERM)
        original(classifier)

    monkeypatch.setattr(Classifier, hook, signalled)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whatever another test has left

    try:
        with pytest.raises(SystemExit) as ended:  # in the rehearsal, which trains one batch
            compare(study(tmp_path), progress=Lines())
    finally:
        signal.signal(signal.SIGTERM, before)

    assert ended.value.code == 128 + signal.SIGTERM
    assert not (tmp_path / "cells").exists() or not list((tmp_path / "cells").iterdir())


def test_a_full_disk_ends_a_study_at_once(tmp_path):
    ran = []

    def full(task):
        ran.append(task)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        compare(study(tmp_path), work=full)

    assert len(ran) == 1


def test_bars_show_how_many_cells_run():
    terminal = Console(file=StringIO(), force_terminal=True, width=100)

    with Bars(terminal) as bars:
        bars.begin(4, 12)
        bars.running(2)

    assert "replicates of 4 cells, 2 running" in terminal.file.getvalue()


def test_a_study_without_validation_says_so_without_a_traceback(tmp_path):
    config = study(tmp_path, activations=["relu"])
    config["trainer"]["limit_val_batches"] = 0
    lines = Lines()

    run_wanted(*wanted_of(config), RunContext(InProcess(), lines, train))

    assert lines.said == ["1/1 FakeImages/MLP/relu seeds 0-2"]


def wanted_of(config):
    """A study, and all that it wants."""
    asked = Study.of(config)
    return asked, [Wanted(entry, asked.seeds) for entry in planned_cells(asked)]


def test_a_study_whose_records_cannot_be_read_ends_in_a_line(tmp_path):
    def impossible(task):
        return Ran()(task).with_columns(test_accuracy=pl.lit(1.5))

    with pytest.raises(StudyError, match="none of the records that were just written can be read"):
        compare(study(tmp_path), work=impossible, progress=Lines())


def test_a_study_that_ends_by_the_clock_says_so(tmp_path, capsys):
    config = study(tmp_path, activations=["relu"])
    config["trainer"]["max_time"] = "00:00:10:00"

    rehearse(make_plan(Study.of(config)), print)

    assert "trainer.max_time ends fits by the clock" in capsys.readouterr().out
