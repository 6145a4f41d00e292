"""The connection to a cluster, or to a Ray of our own, with all that is sent to its nodes."""

import hashlib
import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actbench.executors.base import ExecutorError
from actbench.executors.code import copy_code
from actbench.executors.nodes import Place, pack

CONNECT_S = 10  # for a cluster's first answer
LOOPBACK = "127.0.0.1"


@contextmanager
def connected(address: str | None, send: Sequence[str], *, threads: int) -> Iterator[Place]:
    """Be connected to a cluster, whose workers have our code; yields where they work.

    Args:
        address: As in `Ray`.
        send: As there.
        threads: Of a worker.

    Raises:
        ExecutorError: There is no such cluster, or it has other versions of Ray or Python.
    """
    import ray

    if ray.is_initialized():
        raise ExecutorError("this process is connected to Ray already: call ray.shutdown() first")
    if address not in (None, "auto"):
        check_reachable(str(address))
    archive = pack(Path.cwd(), send) if send else None
    with undisturbed(), tempfile.TemporaryDirectory() as code:
        copy_code(Path.cwd(), Path(code))
        if archive is not None:  # so that a copy of the code belongs to the files that are put beside it
            Path(code, "sent").write_text(hashlib.sha256(archive.data).hexdigest())
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        variables = {
            "OMP_NUM_THREADS": str(threads),  # here, because a worker may import torch before any line of ours runs
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # else a worker without GPUs sees all of them
        }
        settings: dict[str, Any] = {
            "runtime_env": {"working_dir": code, "env_vars": variables},
            "log_to_driver": False,
            "logging_level": logging.ERROR,
        }
        try:
            try:
                start_here(settings) if address is None else ray.init(address=address, **settings)
            except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                raise ExecutorError(f"Ray at {address or 'this machine'}: {first_words(error)}") from error
            yield Place(str(Path.cwd()), None if archive is None else ray.put(archive))
        finally:
            ray.shutdown()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leave this process as it was, whatever Ray changes in it; and leave out what Ray says.

    Whatever dies on a node, Ray prints lines to the terminal, also if told to keep the nodes' logs to itself; the
    study has a line of its own for it.
    """
    from ray._private import worker

    handler = signal.getsignal(signal.SIGTERM)
    environment = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
    says = worker.print_to_stdstream
    worker.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        worker.print_to_stdstream = says
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            del os.environ[name]
        os.environ.update(environment)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def check_reachable(address: str) -> None:
    """Ask whether anything listens at an address: Ray itself would wait a minute for it.

    Raises:
        ExecutorError: Nothing does.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise ExecutorError(f"no Ray cluster at {address}: {error}") from error


def start_here(settings: Mapping[str, Any]) -> None:
    """Start a Ray on this machine, which nobody reaches from another.

    Raises:
        ExecutorError: It can be reached.
    """
    import ray

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with on_loopback():
        ray.init(
            address="local",
            num_cpus=cores,
            include_dashboard=False,
            _system_config={"worker_niceness": 0},  # else cells would give way to all others of this machine
            **settings,
        )
    if ray.util.get_node_ip_address() != LOOPBACK:  # type: ignore[no-untyped-call]
        ray.shutdown()
        raise ExecutorError("this version of Ray listens on the network, not on loopback alone")


@contextmanager
def on_loopback() -> Iterator[None]:
    """Let a Ray that starts listen on loopback only.

    Where machines cannot form clusters, it does; elsewhere it replaces a loopback address that it is given by the
    machine's own, and then listens on every interface.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def first_words(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(str(error).split())[:500]
