"""The interface of executors, and running tasks in other processes with retries."""

import errno
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeVar

from typing_extensions import override

T = TypeVar("T")
R = TypeVar("R")
TRIES = 3  # runs of a task whose worker dies
PAUSE_S = 0.5  # between two looks for a free task
END = object()  # after the last task
FULL = (errno.ENOSPC, errno.EDQUOT)
Report = Callable[[T, str], None]


class Failure(Exception):
    """A task has no result; the message says why.

    Args:
        message: One line.
        full: The error of a full disk, with which other tasks would fail as well.
    """

    def __init__(self, message: str, full: OSError | None = None) -> None:
        super().__init__(message)
        self.full = full


class ExecutorError(RuntimeError):
    """An executor cannot do any task; the message says why, in one line."""


class Executor(AbstractContextManager["Executor"], ABC):
    """Runs tasks. A ``with`` block around several runs may keep resources, such as a connection, between them."""

    @override
    def __exit__(self, *error: object) -> None:
        """Release resources that are kept between runs."""

    def where(self) -> str:
        """Where tasks run now, such as ``2 nodes, 4 workers``; empty if they run in this process or on this machine."""
        return ""

    @abstractmethod
    def run(
        self, work: Callable[[T], R], tasks: Iterable[T | None], *, report: Report[T] = lambda task, line: None
    ) -> Iterator[tuple[T, R | Failure]]:
        """Run the tasks; yields each with its result, in the order in which they end.

        A task is taken from ``tasks`` when it is about to start. None instead of
        a task means that no task is free now, but one may be later. ``tasks``
        must yield None without waiting, because running tasks may end meanwhile,
        and is asked again after a short time.

        Closing the iterator ends running tasks.

        Args:
            work: Function of a task.
            tasks: The tasks.
            report: Called with a task that is tried again and one line that says why.

        Raises:
            ExecutorError: No task can run.
        """


class Death(NamedTuple):
    """How a task's worker died, and the message of the task's failure if it is not tried again."""

    how: str
    message: str


class Workers(Executor):
    """Runs tasks in other processes. A task whose process dies is tried again in another process, twice at most.

    No library does this. A dead process breaks a whole `ProcessPoolExecutor`, and hangs it if the process dies while it
    sends. Ray's ``max_retries`` does not tell the driver that a task is tried again, and why.
    """

    @override
    def run(
        self, work: Callable[[T], R], tasks: Iterable[T | None], *, report: Report[T] = lambda task, line: None
    ) -> Iterator[tuple[T, R | Failure]]:
        fresh, retries, exhausted = iter(tasks), list[tuple[T, int]](), False
        running, results = dict[Any, tuple[T, int]](), list[tuple[T, R | Failure]]()
        with self:
            try:
                while True:
                    while len(running) < self.room():
                        trial: Any = retries.pop(0) if retries else (next(fresh, END), 1)
                        exhausted = trial[0] is END
                        if exhausted or trial[0] is None:
                            break
                        running[self.start(work, trial[0])] = trial
                    if not running and not results:
                        if exhausted and not retries:
                            return
                        time.sleep(PAUSE_S)
                    yield from results  # only now, so that idle workers have got their next task
                    results = []
                    for call, result in self.ended(list(running)) if running else ():
                        task, number = running.pop(call)
                        if not isinstance(result, Death):
                            results.append((task, result))
                        elif number == TRIES:
                            results.append((task, Failure(result.message)))
                        else:
                            retries.append((task, number + 1))
                            report(task, f"{result.how}; it is tried again")
            finally:
                self.stop(list(running))

    @abstractmethod
    def room(self) -> int:
        """How many tasks may run now."""

    @abstractmethod
    def start(self, work: Callable[[Any], Any], task: Any) -> Any:
        """Start a task; returns a handle that identifies this call to the other methods."""

    @abstractmethod
    def ended(self, calls: Sequence[Any]) -> Iterable[tuple[Any, Any | Failure | Death]]:
        """Calls that have ended, each with its result; none if no call ends within `PAUSE_S`."""

    @abstractmethod
    def stop(self, calls: Sequence[Any]) -> None:
        """End these calls, and processes that wait for a task."""


def attempt(work: Callable[[T], R], task: T) -> R | Failure:
    """The result of a task, or the error that it ended with; interruptions are not caught."""
    try:
        return work(task)
    except Exception as error:
        lines = traceback.format_exception_only(error)
        full = error if isinstance(error, OSError) and error.errno in FULL else None
        return Failure(" ".join("".join(lines).split()), full)
