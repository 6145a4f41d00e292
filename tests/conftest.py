"""Fixtures for the whole suite."""

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import cast

import pytest
import torch

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 300


@pytest.fixture(autouse=True)
def one_thread():
    """Tests run side by side; threads that wait for one another would only slow them down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def forked():
    """Starts processes that have imported already what every command does, which takes 5 s."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["actbench.cli.lightning", "actbench.cli.compare"])
    return context


def run_main(args: Sequence[str], folder: Path, variables: Mapping[str, str]) -> None:
    """In a process of its own: ``python main.py ...`` in a folder, whose output goes to files there."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(folder.with_name(f"{folder.name}.{name}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    main = str(ROOT / "main.py")
    sys.argv = [main, *args]
    sys.path[:] = [str(ROOT), *(path for path in sys.path if path and not path.startswith(str(ROOT / "tests")))]
    runpy.run_path(main, run_name="__main__")


@pytest.fixture
def start(tmp_path, forked) -> Callable[..., BaseProcess]:
    """Starts ``python main.py ...`` as a process in an empty folder, and returns it."""

    def run(*args: object) -> BaseProcess:
        process: BaseProcess = forked.Process(target=run_main, args=([*map(str, args)], tmp_path, chosen_by_itself()))
        process.start()
        return process

    return run


@pytest.fixture
def actbench(tmp_path, start) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``python main.py ...`` as a process in an empty folder, and returns it when it has ended.

    With an environment, the process has imported nothing before.
    """

    def run(*args: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        words = list(map(str, args))
        if environment is not None:
            command, variables = [sys.executable, str(ROOT / "main.py"), *words], chosen_by_itself() | environment
            return subprocess.run(
                command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=TIMEOUT_S
            )
        process = start(*words)
        process.join(TIMEOUT_S)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, TIMEOUT_S)
        said = [tmp_path.with_name(f"{tmp_path.name}.{name}").read_text() for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess(words, cast(int, process.exitcode), *said)

    return run


def chosen_by_itself() -> dict[str, str]:
    """The environment, in which the program chooses the number of threads, as it does for a user."""
    return {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
