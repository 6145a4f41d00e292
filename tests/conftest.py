"""Fixtures for the whole suite."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def one_thread():
    """Tests run side by side; threads that wait for one another would only slow them down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def actbench(tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``python main.py ...`` as a process in an empty folder, and returns it when it has ended."""

    def run(*args: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "main.py"), *map(str, args)]
        # Threads are chosen by the program, as for a user.
        variables = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        return subprocess.run(
            command, cwd=tmp_path, env=variables | (environment or {}), capture_output=True, text=True, timeout=300
        )

    return run
