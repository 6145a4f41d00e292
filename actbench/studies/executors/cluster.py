"""Running tasks on a Ray cluster, or with Ray on this machine alone."""

import importlib.util
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from typing_extensions import override

from actbench.inference.verdict.phrases import count
from actbench.studies.executors.base import PAUSE_S, TRIES, Death, ExecutorError, Failure, T, Workers
from actbench.studies.executors.nodes import Workspace, connected, do_task, node_versions

GB = 10**9
AWAIT_S = 60  # for a node with room


class Ray(Workers):
    """Workers on a Ray cluster, each a process that runs one cell at a time.

    A cell whose worker dies is tried again on another worker, twice at most. On each node, relative paths, such as a
    dataset's, start from the folder in which the study was started, or from a copy of its Python files if the node
    does not have that folder.

    Args:
        address: Address of the cluster: HOST:PORT, or ``auto`` for the cluster that this machine belongs to. By
            default, Ray starts on this machine alone, and stops at the end.
        cpus: Processors of a worker, and so its threads.
        gpus: GPUs of a worker; with 0.5, two workers share a GPU.
        memory: GB of memory of a worker; it starts only where that much is not reserved for other workers.
        workers: Most workers at once; by default, as many as the nodes have room for. A cluster that grows on demand
            grows to this number.
        send: Files and folders below the folder in which the study was started that each node gets once, such as a
            dataset that the nodes do not have.

    Raises:
        ValueError: Ray is not installed, or an argument is not valid.
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
            raise ValueError("it needs Ray: pip install 'lightning-actbench[ray]', or '.[ray]' in a checkout")
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
        self.looked_s = self.room_s = -math.inf  # when the list of nodes was read, and when a node last had room
        self.calls = set[Any]()
        self.busiest = 0  # most calls at once
        self.depth = 0
        self.workspace: Workspace | None = None
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
            self.workspace = None
            self.connection.close()

    # --- a task ---

    @override
    def start(self, work: Callable[[T], Any], task: T) -> Any:
        import ray

        cpus, gpus, memory = self.needs.values()
        # Ray starts a process for each task that needs GPUs, and else reuses processes.
        function: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, memory=memory, max_retries=0)(do_task)
        call = function.remote(self.workspace, node_versions(), [ray.put(work), ray.put(task)])
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
                how = cause_of_death(error)
                yield call, Death(how, f"it was tried {TRIES} times; the last time, {how}")

    @override
    def stop(self, calls: Sequence[Any]) -> None:
        # Calls end with the connection. `ray.cancel` may end this process instead if a call is just ending.
        self.calls.clear()

    # --- the cluster ---

    @override
    def room(self) -> int:
        """How many workers may run now; an ExecutorError if no node has had room for one for `AWAIT_S`."""
        import ray

        if not self.workspace:
            self.looked_s = self.room_s = -math.inf
            self.busiest = 0
            self.workspace = self.connection.enter_context(connected(self.address, self.send, threads=self.cpus))
        if time.monotonic() > self.looked_s + PAUSE_S:
            self.nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
            self.looked_s = time.monotonic()
        if self.workers and self.address:
            return self.workers
        needs = {name: amount for name, amount in self.needs.items() if amount}
        resources = [node["Resources"] for node in self.nodes]
        room = sum(min(int(node.get(name, 0) / needs[name] + 1e-9) for name in needs) for node in resources)
        if room:
            self.room_s = self.looked_s
        elif self.looked_s > self.room_s + AWAIT_S:
            needed = ", ".join(f"{name} {amount:g}" for name, amount in needs.items())
            available = "; ".join(
                ", ".join(f"{name} {node.get(name, 0):g}" for name in self.needs) for node in resources
            )
            raise ExecutorError(f"no node has room for a worker of {needed}; nodes have {available}")
        return min(room, self.workers or room)

    @override
    def where(self) -> str:
        return f"{count(len(self.nodes), 'node')}, {count(self.busiest, 'worker')}" if self.workspace else ""


def lies_below(name: Any) -> bool:
    """Whether a name is the relative path of a file or folder below the working folder."""
    path = Path(str(name))
    return isinstance(name, str) and path.exists() and not path.is_absolute() and ".." not in path.parts


def cause_of_death(error: Exception) -> str:
    """Why a worker was lost, in words."""
    import ray

    if isinstance(error, ray.exceptions.OutOfMemoryError):
        used = re.search(r"IP: ([^,]+),.*? was (.+?) \(", str(error))
        return "out of memory" + (f": node {used[1]} had {used[2]}" if used else "")
    if isinstance(error, ray.exceptions.NodeDiedError) or "node has died" in str(error):
        return "its node was lost"
    return "its worker died"
