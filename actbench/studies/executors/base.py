"""What every executor does: tasks, each with what came of it."""

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
TRIES = 3  # of a task whose worker dies
PAUSE_S = 0.5  # before tasks are asked again whether one is free
END = object()  # of the tasks
FULL = (errno.ENOSPC, errno.EDQUOT)
Report = Callable[[T, str], None]


class Failure(Exception):
    """A task has no result; the message says why.

    Args:
        message: One line.
        full: The error that said so, if the disk is full: other tasks would fail as well.
    """

    def __init__(self, message: str, full: OSError | None = None) -> None:
        super().__init__(message)
        self.full = full


class ExecutorError(RuntimeError):
    """An executor cannot do any task; the message says why, in one line."""


class Executor(AbstractContextManager["Executor"], ABC):
    """Does tasks. What it keeps from one run for the next ends with the ``with`` block around them, if there is one."""

    @override
    def __exit__(self, *error: object) -> None:
        """End what is kept between runs."""

    def where(self) -> str:
        """Where tasks run now, ``2 nodes, 4 workers`` say; nothing where there is nothing to say."""
        return ""

    @abstractmethod
    def run(
        self, work: Callable[[T], R], tasks: Iterable[T | None], *, report: Report[T] = lambda task, line: None
    ) -> Iterator[tuple[T, R | Failure]]:
        """Do the tasks; yields each with its result.

        A task is taken from ``tasks`` when it is about to start. None in place
        of one says that none is free now, and that there may be one later; it
        must come at once, without waiting, for meanwhile others may end. They
        are yielded as ever, and ``tasks`` is asked again after a short time.

        Closing the iterator ends what runs.

        Args:
            work: What is done.
            tasks: On what.
            report: Called with a task and one line, when it is to be tried again and why.

        Raises:
            ExecutorError: No task can be done at all.
        """


class Death(NamedTuple):
    """Of a task's worker: how it died, and what to say of the task if it is not tried again."""

    how: str
    last: str


class Workers(Executor):
    """Does tasks in other processes. A task whose process dies is tried again in another one, twice at most.

    No library does so in a way that can be used here. One dead process breaks a whole `ProcessPoolExecutor`, and hangs
    it if it dies while it sends. Ray's ``max_retries`` does not tell the driver that a task is tried again, and why.
    """

    @override
    def run(
        self, work: Callable[[T], R], tasks: Iterable[T | None], *, report: Report[T] = lambda task, line: None
    ) -> Iterator[tuple[T, R | Failure]]:
        fresh, again, ended = iter(tasks), list[tuple[T, int]](), False
        running, results = dict[Any, tuple[T, int]](), list[tuple[T, R | Failure]]()
        with self:
            try:
                while True:
                    while len(running) < self.room():
                        trial: Any = again.pop(0) if again else (next(fresh, END), 1)
                        ended = trial[0] is END
                        if ended or trial[0] is None:
                            break
                        running[self.start(work, trial[0])] = trial
                    if not running and not results:
                        if ended and not again:
                            return
                        time.sleep(PAUSE_S)
                    yield from results  # after workers have got what is next
                    results = []
                    for call, result in self.ended(list(running)) if running else ():
                        task, number = running.pop(call)
                        if not isinstance(result, Death):
                            results.append((task, result))
                        elif number == TRIES:
                            results.append((task, Failure(result.last)))
                        else:
                            again.append((task, number + 1))
                            report(task, f"{result.how}; it is tried again")
            finally:
                self.stop(list(running))

    @abstractmethod
    def room(self) -> int:
        """How many tasks may run now."""

    @abstractmethod
    def start(self, work: Callable[[Any], Any], task: Any) -> Any:
        """Start a task; returns a handle by which the other methods know this call."""

    @abstractmethod
    def ended(self, calls: Sequence[Any]) -> Iterable[tuple[Any, Any | Failure | Death]]:
        """Calls that have ended, each with what came of it; nothing if none ends within `PAUSE_S`."""

    @abstractmethod
    def stop(self, calls: Sequence[Any]) -> None:
        """End these calls, and processes that wait for a task."""


def attempt(work: Callable[[T], R], task: T) -> R | Failure:
    """The result of a task, or the error that it ended with. Interruptions go on."""
    try:
        return work(task)
    except Exception as error:
        lines = traceback.format_exception_only(error)
        full = error if isinstance(error, OSError) and error.errno in FULL else None
        return Failure(" ".join("".join(lines).split()), full)
