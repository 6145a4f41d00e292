"""The connection to a cluster, or to a Ray of our own, with all that is sent to its nodes."""

import hashlib
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import actbench
from actbench.studies.executors.base import ExecutorError
from actbench.studies.executors.nodes import FILES, Place, pack

CONNECT_S = 10  # for a cluster's first answer
LOOPBACK = "127.0.0.1"
MOST_MB = 50  # of Python files; nobody has written more


@contextmanager
def connected(address: str | None, send: Sequence[str], *, threads: int) -> Iterator[Place]:
    """Connect to a cluster, or start a Ray on this machine, whose workers have our code; yields where they work.

    Raises an ExecutorError if there is no such cluster, or it has other versions of Ray or Python.
    """
    import ray

    if ray.is_initialized():
        raise ExecutorError("this process is connected to Ray already: call ray.shutdown() first")
    if address not in (None, "auto"):
        check_reachable(str(address))
    # Not in the working_dir, for Ray takes none that is larger than a message, and reads an array in shared memory.
    archive = pack(Path.cwd(), send) if send else None
    with undisturbed(), tempfile.TemporaryDirectory() as code:
        copy_code(Path.cwd(), Path(code))
        if archive is not None:  # so that a copy of the code belongs to the files that are put beside it
            Path(code, "sent").write_text(hashlib.sha256(archive.data).hexdigest())
        variables = {
            "OMP_NUM_THREADS": str(threads),  # here, because a worker may import torch before any line of ours runs
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # else a worker without GPUs sees all of them
        }
        try:
            connect(address, {"working_dir": code, "env_vars": variables})
            yield Place(str(Path.cwd()), None if archive is None else ray.put(archive))
        finally:
            ray.shutdown()


def connect(address: str | None, runtime_env: Mapping[str, Any]) -> None:
    """Connect to a cluster, or start a Ray on this machine, which nobody reaches from another.

    Raises an ExecutorError if Ray cannot do so, or does not listen on loopback alone.
    """
    import ray
    from ray._private import ray_constants

    from actbench.training.threads import (
        available_cores,  # not above, for workers check versions before they import torch
    )

    where: dict[str, Any] = {"address": address}
    clusters = ray_constants.ENABLE_RAY_CLUSTER
    if address is None:
        where = {"address": "local", "num_cpus": available_cores(), "include_dashboard": False}
        # Ray listens on loopback only where machines cannot form clusters, and has no public option for that: it
        # replaces a loopback address by the machine's own, and then listens on every interface.
        clusters = False
    try:
        with patch.object(ray_constants, "ENABLE_RAY_CLUSTER", clusters):
            ray.init(**where, runtime_env=runtime_env, log_to_driver=False, logging_level=logging.ERROR)
        if address is None and ray.util.get_node_ip_address() != LOOPBACK:  # type: ignore[no-untyped-call]
            raise ExecutorError("this version of Ray listens on the network, not on loopback alone")
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split())[:500]
        raise ExecutorError(f"Ray at {address or 'this machine'}: {reason}") from error


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leave this process as it was, whatever Ray changes in it, and leave out what Ray prints.

    When anything dies on a node, Ray prints lines to the terminal even with ``log_to_driver=False``. The study has a
    line of its own for each death.
    """
    from ray._private import worker

    handler = signal.getsignal(signal.SIGTERM)
    variables = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # else cells would give way to all other processes of this machine
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
    """Raise an ExecutorError if nothing listens at an address: Ray itself would wait a minute for it."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise ExecutorError(f"no Ray cluster at {address}: {error}") from error


def copy_code(folder: Path, into: Path) -> None:
    """Copy this actbench, and the Python files in and below a folder; no hidden ones, and no virtual environments.

    Ray's own ``working_dir`` would put these files before all installed packages, and could not tell a virtual
    environment. Raises an ExecutorError if there are too many.
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
