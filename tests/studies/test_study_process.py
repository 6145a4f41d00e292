"""``compare`` as a process: what it prints, and what is left of it when it is broken off."""

import itertools
import os
import re
import signal
import time

import pytest
import yaml
from small_studies import run, study

from actbench import records
from actbench.records import read_records


@pytest.fixture
def config(tmp_path):
    content = study("studies", replicates=2)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def test_compare_prints_a_table_and_pairs(actbench, config):
    result = actbench("compare", "--config", "study.yaml", "--study.activations", "[relu, mish]")

    assert result.returncode == 0, result.stderr
    arms = result.stdout.partition("Comparisons")[0]
    rows = {words[0]: words[1:] for line in arms.splitlines() if (words := line.split())}
    table = read_records(config / "studies" / "s" / "records.parquet")
    for arm in ("relu", "mish"):
        own = table.filter(arm=arm)["test_accuracy"]
        low, to, high = rows[arm][2:5]
        assert [*rows[arm][:2], rows[arm][5]] == ["2", f"{100 * own.mean():.2f}", f"{100 * own.std():.2f}"]
        assert to == "to"
        assert (float(low) + float(high)) / 2 == pytest.approx(100 * own.mean(), abs=0.01)
    assert "pairs verified" in result.stdout
    assert result.stdout.splitlines()[-2:] == [
        "records: studies/s/records.parquet; verdicts: studies/s/verdict.json",
        "page: studies/s/report.html; tensorboard --logdir studies/s",
    ]
    assert (config / "studies" / "s" / "report.html").is_file()
    assert not list((config / "studies" / "running").iterdir())
    assert "Lightning" not in result.stderr + result.stdout


def test_a_dry_run_trains_nothing(actbench, config):
    result = actbench("compare", "--config", "study.yaml", "--dry_run")

    assert result.returncode == 0, result.stderr
    assert "finished: 0; missing: 4, in 2 cells" in result.stdout
    assert "an exact sign-flip test of 2 pairs gives p >= 0.5" in result.stdout
    # 300 images, of which 15 % each are held out: 4 batches of 64.
    assert re.search(r"time: about \d+\.\d min here, .*; 32 optimiser steps; \d+ MB memory", result.stdout)
    assert not (config / "studies").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--study.activations", "[relu, relo]"], "unknown activation 'relo'"),
        (["--study.baseline", "gelu"], "gelu is not among the arms"),
        (["--stud.name", "x"], "unknown option --stud"),
        (["--config", "absent.yaml"], "file absent.yaml not found"),
        (["what"], "what is what?"),
    ],
)
def test_wrong_options_are_one_line(actbench, config, options, message):
    result = actbench("compare", "--config", "study.yaml", *options)

    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_study_may_be_named_like_a_flag(actbench, config):
    result = actbench("compare", "--config", "study.yaml", "--study.name", "pilot")

    assert result.returncode == 0, result.stderr
    assert (config / "studies" / "pilot" / "report.html").is_file()


def test_fit_refuses_a_study_file(actbench, config):
    result = actbench("fit", "--config", "study.yaml")

    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "'study" in result.stderr


def test_merge_joins_studies(actbench, config, tmp_path):
    run(tmp_path / "a", activations=["relu"])
    run(tmp_path / "b", activations=["swish"])

    result = actbench("merge", "a", "b", "--root", "c")

    assert result.returncode == 0, result.stderr
    assert run(tmp_path / "c")[1] == []
    absent = actbench("merge", "a", "nowhere")
    assert (absent.returncode, len(absent.stderr.splitlines())) == (2, 1)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c_keeps_what_is_finished_and_goes_on(start, config, workers):
    options = ["--study.workers", workers, "--trainer.max_epochs", 60, "--study.replicates", 4]
    study = start("compare", "--config", "study.yaml", *options)
    deadline = time.monotonic() + 60
    while not list(config.glob("studies/running/*/metrics.csv")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(study.process.pid, signal.SIGINT)
    interrupted = study.ended(30)

    assert interrupted.returncode == 130, interrupted.stderr
    assert "go on with: python main.py compare --config" in interrupted.stderr
    again = start("compare", "--config", "study.yaml", *options).ended()
    assert again.returncode == 0, again.stderr


def kill_and_go_on(start, config, workers, name, instants):
    """Run a study in a folder of its own; it is killed at instants, in seconds after each start, until it ends first.

    Returns:
        Its records, and for each kill whether a cell had a checkpoint to go on from.
    """
    root, written, kills = config / name, {}, []
    options = ["--study.workers", workers, "--study.root", name, "--trainer.max_epochs", 500]
    while True:
        process = start("compare", "--config", "study.yaml", *options).process
        process.join(next(instants, None))
        if process.is_alive():
            process.kill()
            process.join()
            kills.append(any(root.glob("running/*/checkpoints/last.ckpt")))
        finished = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in root.glob("cells/*.parquet")}
        assert finished.items() >= written.items()  # no finished cell ran again, for it would have been written again
        written = finished
        if process.exitcode != -signal.SIGKILL:
            assert process.exitcode == 0
            return read_records(root / "s" / "records.parquet"), kills


KILLS = 50


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_study_killed_at_random_instants_ends_with_the_same_records(start, config, workers):
    began = time.monotonic()
    whole, _ = kill_and_go_on(start, config, workers, "whole", iter(()))
    needed_s = time.monotonic() - began
    # Evenly spread, in no order, over starting up and training. A start that ends before is no kill.
    instants = (needed_s * (number * 0.618 % 1) for number in itertools.count())

    kills = []
    for number in itertools.count():
        left = itertools.islice(instants, KILLS - len(kills))
        killed, new = kill_and_go_on(start, config, workers, f"killed{number}", left)
        kills += new
        assert records.same_results(killed, whole)
        if len(kills) == KILLS:
            break

    assert any(kills)


@pytest.mark.slow
def test_two_processes_share_a_study(start, config):
    options = ["--study.workers", 2, "--study.activations", "[relu, swish, tanh]", "--trainer.max_epochs", 1]
    both = [start("compare", "--config", "study.yaml", *options) for _ in range(2)]

    ended = [one.ended() for one in both]

    assert [one.returncode for one in ended] == [0, 0], ended
    assert len(list(config.glob("studies/cells/*.parquet"))) == 3
    trained = [line for one in ended for line in one.stdout.splitlines() if ": val accuracy" in line]
    assert len(trained) == 3
