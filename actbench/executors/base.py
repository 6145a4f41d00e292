"""What every executor does: tasks, each with what came of it."""

import errno
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Generic, TypeVar

from typing_extensions import override

T = TypeVar("T")
R = TypeVar("R")
TRIES = 3  # of a task whose worker dies
PAUSE_S = 0.5  # before tasks are asked again whether one is free
FULL = (errno.ENOSPC, errno.EDQUOT)
Report = Callable[[T, str], None]


def silent(task: Any, line: str) -> None:
    """Report nothing."""


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
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what is kept between runs."""

    def where(self) -> str:
        """Where tasks run now, ``2 nodes, 4 workers`` say; nothing where there is nothing to say."""
        return ""

    @abstractmethod
    def run(
        self, work: Callable[[T], R], tasks: Iterable[T | None], *, report: Report[T] = silent
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


class Queue(Generic[T]):
    """Tasks that come one by one."""

    def __init__(self, tasks: Iterable[T | None]) -> None:
        self.tasks = iter(tasks)
        self.ended = False

    def take(self) -> T | None:
        """The next task; None if none is free now, or after the last."""
        for task in self.tasks:
            return task
        self.ended = True
        return None


def attempt(work: Callable[[T], R], task: T) -> R | Failure:
    """The result of a task, or the error that it ended with. Interruptions go on."""
    try:
        return work(task)
    except Exception as error:
        lines = traceback.format_exception_only(error)
        full = error if isinstance(error, OSError) and error.errno in FULL else None
        return Failure(" ".join("".join(lines).split()), full)
