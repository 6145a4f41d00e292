"""The nodes of a cluster: connecting to them, what they are sent, and what runs there."""

import hashlib
import logging
import os
import platform
import shutil
import signal
import socket
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import distributions
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from filelock import FileLock

import actbench
from actbench.specs import one_line
from actbench.studies.executors.base import ExecutorError, Failure, attempt
from actbench.training.threads import available_cores

CONNECT_S = 10  # for a cluster's first answer
LOOPBACK = "127.0.0.1"
MOST_MB = 50  # of Python files; nobody writes more
FILES = "files"  # folder beside the package actbench that holds the files sent from the working folder


class Workspace(NamedTuple):
    """The driver's working folder, and a reference to the archive of `pack` if anything is sent."""

    folder: str
    archive: Any | None = None


# --- on the driver ---


@contextmanager
def connected(address: str | None, send: Sequence[str], *, threads: int) -> Iterator[Workspace]:
    """Connect to a cluster, or start Ray on this machine, and send our code to the workers; yields their workspace.

    Raises an ExecutorError if the cluster was not found, or has other versions of Ray or Python.
    """
    import ray

    if ray.is_initialized():
        raise ExecutorError("this process is connected to Ray already: call ray.shutdown() first")
    if address not in (None, "auto"):
        check_reachable(str(address))
    # Not in the working_dir, which Ray limits to the size of a message; workers read an array in shared memory.
    archive = pack(Path.cwd(), send) if send else None
    with undisturbed(), tempfile.TemporaryDirectory() as code:
        copy_code(Path.cwd(), Path(code))
        if archive is not None:  # so that Ray makes another copy of the code for other files
            Path(code, "sent").write_text(hashlib.sha256(archive.data).hexdigest())
        variables = {
            "OMP_NUM_THREADS": str(threads),  # set here, because a worker may import torch before any line of ours runs
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # else a worker without GPUs sees all of them
            **{name: os.environ[name] for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY") if name in os.environ},
        }
        try:
            connect(address, {"working_dir": code, "env_vars": variables})
            yield Workspace(str(Path.cwd()), None if archive is None else ray.put(archive))
        finally:
            ray.shutdown()


def connect(address: str | None, runtime_env: Mapping[str, Any]) -> None:
    """Connect to a cluster, or start Ray on this machine, where no other machine can reach it.

    Raises an ExecutorError if Ray fails, or listens on other addresses than loopback.
    """
    import ray
    from ray._private import ray_constants

    target: dict[str, Any] = {"address": address}
    clusters = ray_constants.ENABLE_RAY_CLUSTER
    if address is None:
        target = {"address": "local", "num_cpus": available_cores(), "include_dashboard": False}
        # Ray listens on loopback alone only where machines cannot form clusters, and no public option sets that.
        # Else it replaces a loopback address by the machine's own, and listens on every interface.
        clusters = False
    try:
        with patch.object(ray_constants, "ENABLE_RAY_CLUSTER", clusters):
            ray.init(**target, runtime_env=runtime_env, log_to_driver=False, logging_level=logging.ERROR)
        if address is None and ray.util.get_node_ip_address() != LOOPBACK:  # type: ignore[no-untyped-call]
            raise ExecutorError("this version of Ray listens on the network, not on loopback alone")
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ExecutorError(f"Ray at {address or 'this machine'}: {one_line(error)[:500]}") from error


@contextmanager
def undisturbed() -> Iterator[None]:
    """Undo Ray's changes to this process afterwards, and silence Ray.

    When a process dies on a node, Ray prints to the terminal even with ``log_to_driver=False``. The study prints its
    own line for each death.
    """
    from ray._private import worker

    handler = signal.getsignal(signal.SIGTERM)
    variables = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # else all other processes of this machine go before cells
    }
    try:
        with (
            patch.dict(os.environ, variables | os.environ),
            patch.object(worker, "print_to_stdstream", lambda *_, **__: None),
        ):
            yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def check_reachable(address: str) -> None:
    """Raise an ExecutorError if nothing listens at an address, for which Ray itself would wait a minute."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise ExecutorError(f"no Ray cluster at {address}: {error}") from error


def copy_code(folder: Path, into: Path) -> None:
    """Copy this actbench, and the Python files below a folder except hidden ones and those of virtual environments.

    Ray's own ``working_dir`` would import these files before installed packages, and would include virtual
    environments. Raises an ExecutorError if the files are too large.
    """
    package = Path(actbench.__file__).parent
    shutil.copytree(package, into / "actbench", ignore=shutil.ignore_patterns("__pycache__"))
    (into / FILES).mkdir()
    size = 0
    for path, folders, names in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if not name.startswith((".", "__pycache__")) and not Path(path, name, "pyvenv.cfg").exists()
        ]
        for file in (Path(path, name) for name in names if name.endswith(".py") and not name.startswith(".")):
            if not file.is_file():
                continue
            size += file.stat().st_size
            if size > MOST_MB * 2**20:
                raise ExecutorError(f"{folder} holds over {MOST_MB} MB of Python files: start from a folder of its own")
            copy = into / FILES / file.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


# --- on a node ---


def do_task(workspace: Workspace, driver_versions: Mapping[str, str], references: Sequence[Any]) -> bytes | Failure:
    """The pickled result of a task, or the error that it ended with. An error raised here means that no worker starts.

    Args:
        workspace: Where the worker works.
        driver_versions: The driver's `node_versions`.
        references: To the work and the task, in a list, so that versions are compared before Ray reads them.

    Raises:
        ExecutorError: The versions of this node differ from the driver's.
    """
    import ray  # an optional dependency

    enter(workspace)
    versions = node_versions()
    different = [name for name in driver_versions if driver_versions[name] != versions.get(name)]
    if different:
        node = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        has, needs = (
            ", ".join(f"{name} {side.get(name)}" for name in different) for side in (versions, driver_versions)
        )
        raise ExecutorError(f"node {node} has {has}, and the driver {needs}: install the same on both")
    work = ray.get(references[0])
    pickled: Any = ray.cloudpickle.dumps  # within the attempt, so that the task fails if its result cannot be pickled
    return attempt(lambda task: pickled(work(ray.get(task))), references[1])


@cache  # once a process
def enter(workspace: Workspace) -> None:
    """Make imports and relative paths work as on the driver."""
    files = Path.cwd() / FILES
    sys.path.append(str(files))  # after all installed packages, as on the driver
    if workspace.archive is not None:
        unpack(workspace.archive, files)
    os.chdir(workspace.folder if workspace.archive is None and Path(workspace.folder).is_dir() else files)


def node_versions() -> dict[str, str]:
    """Versions of Python and the packages that results depend on; torch's without its build, such as +cu126."""
    installed = {
        name: next((distribution.version for distribution in distributions(name=name)), "missing").partition("+")[0]
        for name in ("torch", "pytorch-lightning")
    }
    return {"Python": platform.python_version(), **installed, "actbench": actbench.__version__}


def pack(folder: Path, names: Sequence[str]) -> np.ndarray:
    """An archive of files and folders below a folder, as an array that workers of a node read in shared memory."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as archive:
        for name in names:
            archive.add(folder / name, name)
    return np.frombuffer(buffer.getbuffer(), dtype=np.uint8)


def unpack(reference: Any, files: Path) -> None:
    """Write the files of an archive to its folder, unless another worker of this node has done so."""
    import ray

    done = files / ".sent"
    with FileLock(files / ".sent.lock"):
        if not done.exists():
            with tarfile.open(fileobj=BytesIO(ray.get(reference))) as archive:
                archive.extractall(files, filter="data")
            done.touch()
