"""On a Ray cluster, or on a Ray of our own on this machine."""

import importlib.util
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, NamedTuple

from typing_extensions import override

from actbench.executors.base import PAUSE_S, TRIES, Executor, ExecutorError, Failure, Queue, R, Report, T, silent
from actbench.executors.connection import connected
from actbench.executors.nodes import Place, Worker, versions

GB = 10**9
AWAIT_S = 60  # for nodes, when all are lost
LOST = "its node was lost"


class Try(NamedTuple, Generic[T]):
    """A task, and how many workers it has had."""

    task: T
    number: int


class Member(Generic[T]):
    """A worker as the driver knows it.

    Args:
        actor: The worker.
        call: A reference to the result of what it does now; None if it waits.
    """

    def __init__(self, actor: Any, call: Any) -> None:
        self.actor = actor
        self.call = call
        self.current: Try[T] | None = None  # None while it starts, too
        self.started = False


class Ray(Executor):
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
        self.members: list[Member[Any]] = []
        self.nodes: list[Mapping[str, Any]] = []
        self.looked_s = self.room_s = -math.inf  # when nodes were asked, and when they last had room
        self.never_started = 0  # workers that could not start, since one could
        self.depth = 0
        self.place: Place | None = None
        self.connection = ExitStack()

    # --- from the first run to the end of the block ---

    @override
    def __enter__(self) -> "Ray":
        self.depth += 1
        return self

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.depth -= 1
        if not self.depth and self.place:
            self._stop()

    def _start(self) -> None:
        """Connect."""
        self.looked_s = self.room_s = -math.inf
        self.never_started = 0
        with ExitStack() as connection:
            self.place = connection.enter_context(connected(self.address, self.send, threads=self.cpus))
            self.connection = connection.pop_all()

    def _stop(self) -> None:
        self._dismiss(self.members)
        self.place = None
        self.connection.close()

    # --- a run ---

    @override
    def run(
        self, work: Callable[[T], R], tasks: Iterable[T | None], *, report: Report[T] = silent
    ) -> Iterator[tuple[T, R | Failure]]:
        queue, waiting, ended = Queue(tasks), list[Try[T]](), list[tuple[T, R | Failure]]()
        with self:
            if not self.place:
                self._start()
            import ray

            given = [ray.put(work)]
            for member in self.members:  # of the run before
                member.call = member.actor.begin.remote(versions(), given)
            try:
                while True:
                    self._take(queue, waiting)
                    self._give(waiting, given)
                    yield from ended  # after workers have got what is next
                    ended = []
                    busy = {member.call: member for member in self.members if member.call is not None}
                    if queue.ended and not waiting and not any(member.current for member in self.members):
                        return
                    if not busy:
                        time.sleep(PAUSE_S)
                        continue
                    for call in ray.wait(list(busy), timeout=PAUSE_S)[0]:
                        ended += self._receive(busy[call], waiting, report)
            finally:
                # Those that have not started yet may do so for the next run.
                self._dismiss([member for member in self.members if member.current is not None])

    def _take(self, queue: Queue[T], waiting: list[Try[T]]) -> None:
        """Take as many tasks as there will soon be workers for."""
        room = self.room()
        while len(waiting) + sum(member.current is not None for member in self.members) < room:
            task = queue.take()
            if task is None:
                return
            waiting.append(Try(task, 1))

    def _give(self, waiting: list[Try[T]], given: Sequence[Any]) -> None:
        """Give tasks to workers that wait for one, and start workers for the others."""
        for member in self.members:
            if member.call is None and waiting:
                member.current = waiting.pop(0)
                member.call = member.actor.do.remote(member.current.task)
        starting = sum(member.call is not None and member.current is None for member in self.members)
        for _ in range(min(len(waiting) - starting, self.room() - len(self.members))):
            actor = self._new_actor()
            self.members.append(Member(actor, actor.begin.remote(versions(), given)))

    def _new_actor(self) -> Any:
        import ray

        kind = ray.remote(num_cpus=self.needs["CPU"], num_gpus=self.needs["GPU"], memory=self.needs["memory"])(Worker)
        return kind.remote(self.place)

    def _receive(self, member: Member[T], waiting: list[Try[T]], report: Report[T]) -> list[tuple[T, R | Failure]]:
        """What has come of a worker's call; nothing if it was to start, or its task is to be tried again."""
        import ray

        current, member.current = member.current, None
        try:
            result = ray.get(member.call)
            member.call = None
        except ray.exceptions.RayTaskError as error:  # the task, or its result, could not be sent
            result, member.call = Failure(last_words(error)), None
            if current is None:
                raise ExecutorError(f"a worker cannot start: {result}") from error
        except ray.exceptions.RayError as error:
            why = self._bury(member, error)
            if current is None:
                self.never_started += not member.started and why != LOST
                if self.never_started == TRIES:
                    raise ExecutorError(f"workers cannot start: {why}") from error
                return []
            if current.number == TRIES:
                return [(current.task, Failure(f"it was tried {TRIES} times; the last time, {why}"))]
            waiting.insert(0, Try(current.task, current.number + 1))
            report(current.task, f"{why}; it is tried again")
            return []
        if current is not None:
            return [(current.task, result)]
        if result is not None:
            raise ExecutorError(result)
        self.never_started, member.started = 0, True
        return []

    def _bury(self, member: Member[Any], error: Exception) -> str:
        """Forget a worker that is gone; returns why it is, in words."""
        import ray

        self._dismiss([member])
        if isinstance(error, ray.exceptions.OutOfMemoryError):
            used = re.search(r"IP: ([^,]+),.*? was (.+?) \(", str(error))
            return "out of memory" + (f": node {used[1]} had {used[2]}" if used else "")
        if isinstance(error, ray.exceptions.NodeDiedError) or "node has died" in str(error):
            return LOST
        if isinstance(error, ray.exceptions.ActorUnavailableError):
            return "its worker, or its node, was lost"
        if getattr(error, "actor_init_failed", False) or isinstance(error, ray.exceptions.RuntimeEnvSetupError):
            return last_words(error)
        return "its worker died"

    def _dismiss(self, members: Sequence[Member[Any]]) -> None:
        """End workers, whatever they do."""
        import ray

        for member in list(members):
            self.members.remove(member)
            ray.kill(member.actor)

    # --- the cluster ---

    def room(self) -> int:
        """How many workers there may be now.

        Raises:
            ExecutorError: No node has room for one, or none has had for a while.
        """
        import ray

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
        nodes, workers = len(self.nodes), len(self.members)
        return f"{nodes} node{'s' * (nodes != 1)}, {workers} worker{'s' * (workers != 1)}" if self.place else ""


def lies_below(name: Any) -> bool:
    """Whether a file or folder of this name is there, in the folder of this process."""
    path = Path(str(name))
    return isinstance(name, str) and path.exists() and not path.is_absolute() and ".." not in path.parts


def fitting(resources: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """How many workers that need so much fit on a node that has so much."""
    return min(int(resources.get(name, 0) / amount + 1e-9) for name, amount in needs.items() if amount)


def last_words(error: BaseException) -> str:
    """The last line of an error with a traceback in it."""
    return ([line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1]
