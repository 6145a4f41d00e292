"""On a Ray cluster, or on a Ray of our own on this machine."""

import importlib.util
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from typing_extensions import override

from actbench.studies.executors.base import PAUSE_S, TRIES, Death, ExecutorError, Failure, T, Workers
from actbench.studies.executors.connection import connected
from actbench.studies.executors.nodes import Place, do_task, node_versions

GB = 10**9
AWAIT_S = 60  # for nodes, when all are lost


class Ray(Workers):
    """Workers on a Ray cluster, each a process that does one cell at a time.

    A cell whose worker dies is tried again on another, twice at most. Relative paths, of datasets say, begin on each
    node in the folder that the study was started in, if the node has that folder, and else in a copy of its Python
    files.

    Args:
        address: Of the cluster: ``auto`` for the one that this machine belongs to, or HOST:PORT. Unless given, a Ray
            on this machine alone is started, and stopped at the end.
        cpus: Processors of a worker, and so its threads.
        gpus: GPUs of a worker; 0.5 lets two share one.
        memory: GB that a worker needs; it starts where so much is promised to no other.
        workers: How many at most; unless given, as many as the nodes have room for. Give it where a cluster grows on
            demand: it is the demand.
        send: Files and folders, in that which the study is started in, that are sent to each node once, such as a
            dataset's folder that the nodes do not have.

    Raises:
        ValueError: Ray is not installed, or an argument makes no sense.
    """

    def __init__(
        self,
        address: str | None = None,
        cpus: int = 1,
        gpus: float = 0.0,
        memory: float | None = None,
        workers: int | None = None,
        send: Sequence[str] = (),
    ) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ValueError("it needs Ray: pip install 'actbench[ray]'")
        if (address not in (None, "auto") and not str(address).rpartition(":")[2].isdecimal()) or "/" in str(address):
            raise ValueError(f"address is auto or HOST:PORT, got {address!r}")
        if not isinstance(cpus, int) or cpus < 1:
            raise ValueError(f"cpus is a whole number of at least 1, got {cpus!r}")
        if not 0 <= gpus < math.inf or (gpus > 1 and gpus != int(gpus)):
            raise ValueError(f"gpus is a whole number, or a share of one, got {gpus!r}")
        if memory is not None and not 0 < memory < math.inf:
            raise ValueError(f"memory is a number of GB, got {memory!r}")
        if workers is not None and (not isinstance(workers, int) or workers < 1):
            raise ValueError(f"workers is a whole number of at least 1, got {workers!r}")
        if not isinstance(send, list | tuple) or not all(map(lies_below, send)):
            raise ValueError(f"send is a list of files and folders below this one, got {send!r}")
        self.address = address
        self.cpus = cpus
        self.workers = workers
        self.send = send
        self.needs = {"CPU": cpus, "GPU": gpus, "memory": int((memory or 0) * GB)}
        self.nodes: list[Mapping[str, Any]] = []
        self.looked_s = self.room_s = -math.inf  # when nodes were asked, and when they last had room
        self.calls = set[Any]()
        self.busiest = 0  # most calls at once
        self.depth = 0
        self.place: Place | None = None
        self.connection = ExitStack()

    # --- from the first run to the end of the block ---

    @override
    def __enter__(self) -> "Ray":
        self.depth += 1
        return self

    @override
    def __exit__(self, *error: object) -> None:
        self.depth -= 1
        if not self.depth:
            self.place = None
            self.connection.close()

    # --- a task ---

    @override
    def start(self, work: Callable[[T], Any], task: T) -> Any:
        import ray

        cpus, gpus, memory = self.needs.values()
        # Ray starts a process for each task that needs GPUs, and else uses one for many.
        function: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, memory=memory, max_retries=0)(do_task)
        call = function.remote(self.place, node_versions(), [ray.put(work), ray.put(task)])
        self.calls.add(call)
        self.busiest = max(self.busiest, len(self.calls))
        return call

    @override
    def ended(self, calls: Sequence[Any]) -> Iterator[tuple[Any, Any | Failure | Death]]:
        import ray

        for call in ray.wait(list(calls), timeout=PAUSE_S)[0]:
            self.calls.discard(call)
            try:
                result = ray.get(call)
                yield call, result if isinstance(result, Failure) else ray.cloudpickle.loads(result)
            except (ray.exceptions.RayTaskError, ray.exceptions.RuntimeEnvSetupError) as error:
                cause = getattr(error, "cause", None)
                if isinstance(cause, ExecutorError):
                    raise ExecutorError(str(cause)) from error
                raise ExecutorError(f"a worker cannot start: {str(error).strip().splitlines()[-1]}") from error
            except ray.exceptions.RayError as error:
                how = why_lost(error)
                yield call, Death(how, f"it was tried {TRIES} times; the last time, {how}")

    @override
    def stop(self, calls: Sequence[Any]) -> None:
        # They end with the connection. `ray.cancel` may end this process instead, if the call is just ending.
        self.calls.clear()

    # --- the cluster ---

    @override
    def room(self) -> int:
        """How many workers there may be now; an ExecutorError if no node has had room for one for a while."""
        import ray

        if not self.place:
            self.looked_s = self.room_s = -math.inf
            self.busiest = 0
            self.place = self.connection.enter_context(connected(self.address, self.send, threads=self.cpus))
        if time.monotonic() > self.looked_s + PAUSE_S:
            self.nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
            self.looked_s = time.monotonic()
        if self.workers and self.address:
            return self.workers
        room = sum(fitting(node["Resources"], self.needs) for node in self.nodes)
        if room:
            self.room_s = self.looked_s
        elif self.looked_s > self.room_s + AWAIT_S:
            asked = ", ".join(f"{name} {amount:g}" for name, amount in self.needs.items() if amount)
            there = "; ".join(
                ", ".join(f"{name} {node['Resources'].get(name, 0):g}" for name in self.needs) for node in self.nodes
            )
            raise ExecutorError(f"no node has room for a worker of {asked}; nodes have {there}")
        return min(room, self.workers or room)

    @override
    def where(self) -> str:
        nodes, workers = len(self.nodes), self.busiest
        return f"{nodes} node{'s' * (nodes != 1)}, {workers} worker{'s' * (workers != 1)}" if self.place else ""


def lies_below(name: Any) -> bool:
    """Whether a file or folder of this name is there, in the folder of this process."""
    path = Path(str(name))
    return isinstance(name, str) and path.exists() and not path.is_absolute() and ".." not in path.parts


def fitting(resources: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """How many workers that need so much fit on a node that has so much."""
    return min(int(resources.get(name, 0) / amount + 1e-9) for name, amount in needs.items() if amount)


def why_lost(error: Exception) -> str:
    """Why a worker is gone, in words."""
    import ray

    if isinstance(error, ray.exceptions.OutOfMemoryError):
        used = re.search(r"IP: ([^,]+),.*? was (.+?) \(", str(error))
        return "out of memory" + (f": node {used[1]} had {used[2]}" if used else "")
    if isinstance(error, ray.exceptions.NodeDiedError) or "node has died" in str(error):
        return "its node was lost"
    return "its worker died"
