import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TASK = ("--replicates=2", "--epochs=3")


def fits(arm, folder):
    """What an arm says that it took."""
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS)}
    command = [sys.executable, "-m", f"arms.{arm}", *TASK]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)["fits"]


@pytest.mark.slow
def test_the_engine_alone_does_what_the_command_does(tmp_path):
    ((command,), (engine,)) = (fits(arm, tmp_path) for arm in ("actbench", "engine"))

    assert command["test_acc"] == engine["test_acc"]
    assert len(set(command["test_acc"])) == 2


@pytest.mark.slow
def test_the_benchmark_measures_all_arms(tmp_path):
    for package in ("jax", "equinox", "optax", "skorch", "matplotlib"):  # the extra actbench[bench]
        pytest.importorskip(package)
    options = ["--repetitions=2", "--replicates=2", "--epochs=2", "--scaling", "1", "2", f"--output={tmp_path}"]

    result = subprocess.run(
        [sys.executable, BENCHMARKS / "engine.py", *options], cwd=tmp_path, capture_output=True, text=True, timeout=900
    )

    assert result.returncode == 0, result.stderr
    measured = json.loads((tmp_path / "digits.json").read_text())
    arms = {path.stem for path in (BENCHMARKS / "arms").glob("*.py")} - {"__init__"}
    assert {row["arm"] for row in measured["arms"]} == arms
    assert all(row["time_ms"] > 0 and 0 <= row["test_acc"] <= 1 for row in measured["arms"])
    assert (tmp_path / "digits.png").stat().st_size > 10_000
    assert sum(line.startswith("| ") for line in result.stdout.splitlines()) == 2 + 13 + 2  # headings, arms, scaling


@pytest.mark.slow
def test_the_cost_of_measuring_a_mechanism_is_told(tmp_path):
    options = ["--repetitions=2", "--replicates=2", "--epochs=1"]

    result = subprocess.run(
        [sys.executable, BENCHMARKS / "mechanism.py", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert result.returncode == 0, result.stderr
    assert "2 measurements of " in result.stdout
