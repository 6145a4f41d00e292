"""What runs on the nodes of a cluster: tasks, in the folder where relative paths mean what they do at the start."""

import os
import platform
import sys
import tarfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import distributions
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from actbench import __version__
from actbench.studies.executors.base import ExecutorError, Failure, attempt

FILES = "files"  # folder, beside the package actbench, of what was sent from the working folder


class Place(NamedTuple):
    """Where a worker works: the driver's working folder, and a reference to what `pack` gave, if anything is sent."""

    folder: str
    sent: Any | None = None


def do_task(place: Place, drivers: Mapping[str, str], given: Sequence[Any]) -> bytes | Failure:
    """The pickled result of a task, or the error that it ended with. Any error raised here keeps workers from starting.

    Args:
        place: Where the worker works.
        drivers: The driver's `node_versions`.
        given: References to the work and to the task, in a list, so that versions are compared before Ray reads them.

    Raises:
        ExecutorError: The versions of this node differ.
    """
    import ray  # not above: whoever never uses a cluster need not have it

    enter(place)
    here = node_versions()
    other = [name for name in drivers if drivers[name] != here.get(name)]
    if other:
        node = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        has, needs = (", ".join(f"{name} {found.get(name)}" for name in other) for found in (here, drivers))
        raise ExecutorError(f"node {node} has {has}, and the driver {needs}: install the same on both")
    work = ray.get(given[0])
    pickled: Any = ray.cloudpickle.dumps  # here, so that an error of it is the task's
    return attempt(lambda task: pickled(work(ray.get(task))), given[1])


@cache  # once a process
def enter(place: Place) -> None:
    """Let imports and relative paths mean what they do on the driver."""
    files = Path.cwd() / FILES
    sys.path.append(str(files))  # after all that is installed, as on the driver
    if place.sent is not None:
        unpack(place.sent, files)
    os.chdir(place.folder if place.sent is None and Path(place.folder).is_dir() else files)


def node_versions() -> dict[str, str]:
    """Of Python and the packages that results rest on; torch's without what it was built for."""
    torch, lightning = (
        next((found.version for found in distributions(name=name)), "missing")
        for name in ("torch", "pytorch-lightning")
    )
    return {
        "Python": platform.python_version(),
        "torch": torch.partition("+")[0],
        "pytorch-lightning": lightning,
        "actbench": __version__,
    }


def pack(folder: Path, names: Sequence[str]) -> np.ndarray:
    """An archive of files and folders below a folder, as an array, which workers of a node read in shared memory."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as archive:
        for name in names:
            archive.add(folder / name, name)
    return np.frombuffer(buffer.getbuffer(), dtype=np.uint8)


def unpack(sent: Any, files: Path) -> None:
    """Write the files of an archive into a folder that is its own, unless another worker of this node has done so."""
    import ray

    done = files / ".sent"
    with FileLock(files / ".sent.lock"):
        if not done.exists():
            with tarfile.open(fileobj=BytesIO(ray.get(sent))) as archive:
                archive.extractall(files, filter="data")
            done.touch()
