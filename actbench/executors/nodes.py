"""What runs on the nodes of a cluster: a worker, in the folder where relative paths mean what they do at the start."""

import os
import platform
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from actbench import __version__
from actbench.executors.base import Failure, attempt

FILES = "files"  # folder, beside the package actbench, of what was sent from the working folder


class Place(NamedTuple):
    """Where a worker works.

    Args:
        folder: The driver's working folder.
        sent: A reference to an archive of files that are sent to each node, if there are any; see `pack`.
    """

    folder: str
    sent: Any | None = None


class Worker:
    """Does one task after another, in a process of its own on a node. Ray makes an actor of it.

    Args:
        place: Where.
    """

    def __init__(self, place: Place) -> None:
        files = Path.cwd() / FILES
        sys.path.append(str(files))  # after all that is installed, as on the driver
        if place.sent is not None:
            unpack(place.sent, files)
        os.chdir(place.folder if place.sent is None and Path(place.folder).is_dir() else files)

    def begin(self, drivers: Mapping[str, str], work: Sequence[Any]) -> str | None:
        """Get ready, so that tasks find everything imported.

        Args:
            drivers: The driver's `versions`.
            work: A reference to what is done with a task; in a list, so that versions are compared before it is read.

        Returns:
            In words, what is other here than on the driver; None if nothing is.
        """
        import ray  # not above: whoever never uses a cluster need not have it

        other = differences(drivers, versions(), node=ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        if other is None:
            self.work: Callable[[Any], Any] = ray.get(work[0])
        return other

    def do(self, task: Any) -> Any | Failure:
        """The result of a task, or the error that it ended with."""
        return attempt(self.work, task)


def versions() -> dict[str, str]:
    """Of Python and the packages that results rest on; torch's without what it was built for."""
    return {
        "Python": platform.python_version(),
        "torch": installed("torch").partition("+")[0],
        "pytorch-lightning": installed("pytorch-lightning"),
        "actbench": __version__,
    }


def installed(package: str) -> str:
    """Version of a package, in words if it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def differences(drivers: Mapping[str, str], nodes: Mapping[str, str], *, node: str) -> str | None:
    """In words, which versions differ between the driver and a node; None if none do."""
    other = [name for name in drivers if drivers[name] != nodes.get(name)]
    if not other:
        return None
    here, there = (", ".join(f"{name} {of.get(name)}" for name in other) for of in (drivers, nodes))
    return f"node {node} has {there}, and the driver {here}: install the same on both"


def pack(folder: Path, names: Sequence[str]) -> np.ndarray:
    """An archive of files and folders below a folder, as an array, which workers of a node read in shared memory."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as archive:
        for name in names:
            archive.add(folder / name, name)
    return np.frombuffer(buffer.getbuffer(), dtype=np.uint8)


def unpack(sent: Any, files: Path) -> None:
    """Write the files of an archive, unless another worker of this node has done so.

    Args:
        sent: A reference to the archive.
        files: The folder for them. It belongs to this archive, for it is named by the content of all that was sent.
    """
    import ray

    done = files / ".sent"
    with FileLock(files / ".sent.lock"):
        if not done.exists():
            with tarfile.open(fileobj=BytesIO(ray.get(sent))) as archive:
                archive.extractall(files, filter="data")
            done.touch()
