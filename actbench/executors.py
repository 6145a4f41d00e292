"""Where work is done: in this process, or in several on this machine.

An executor takes a function and tasks, and yields each task with what came of
it, in the order in which they end. It knows nothing of what the work is.
"""

import errno
import multiprocessing
import os
import signal
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any, Generic, TypeVar

from typing_extensions import override

T = TypeVar("T")
R = TypeVar("R")
TRIES = 3  # of a task whose worker dies
GRACE_S = 10  # for a worker that is told to end
PAUSE_S = 0.5  # before tasks are asked again whether one is free
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


class Executor(ABC):
    """Does tasks."""

    @abstractmethod
    def run(
        self, work: Callable[[T], R], tasks: Iterable[T | None], *, report: Report[T] | None = None
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
        """


class InProcess(Executor):
    """One task after another, in this process."""

    @override
    def run(
        self, work: Callable[[T], R], tasks: Iterable[T | None], *, report: Report[T] | None = None
    ) -> Iterator[tuple[T, R | Failure]]:
        for task in tasks:
            if task is None:
                time.sleep(PAUSE_S)
            else:
                yield task, attempt(work, task)


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


@dataclass
class Worker(Generic[T]):
    """A process that does one task at a time."""

    process: Any
    pipe: Any
    task: T | None = None
    tries: int = 0


class LocalProcesses(Executor):
    """Processes on this machine that share its cores. They start once, so what they import is imported once.

    A task whose worker dies is tried again in a new one, twice at most.

    Args:
        workers: How many.

    Raises:
        ValueError: ``workers`` is less than one.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self.workers = workers

    @override
    def run(
        self, work: Callable[[T], R], tasks: Iterable[T | None], *, report: Report[T] | None = None
    ) -> Iterator[tuple[T, R | Failure]]:
        queue, retries = Queue(tasks), list[tuple[T, int]]()
        running: list[Worker[T]] = []
        try:
            while True:
                idle = [worker for worker in running if worker.task is None]
                while len(running) - len(idle) < self.workers:
                    task, tries = retries.pop() if retries else (queue.take(), 0)
                    if task is None:
                        break
                    worker = idle.pop() if idle else self._start(work, running)
                    worker.task, worker.tries = task, tries + 1
                    worker.pipe.send(task)
                busy = {worker.pipe: worker for worker in running if worker.task is not None}
                if not busy and queue.ended:
                    return
                if not busy:
                    time.sleep(PAUSE_S)
                for pipe in connection.wait(list(busy), PAUSE_S) if busy else ():
                    worker = busy[pipe]
                    task, worker.task = worker.task, None
                    assert task is not None
                    try:
                        yield task, worker.pipe.recv()
                    except (EOFError, ConnectionError):
                        worker.process.join()
                        running.remove(worker)
                        how = died(worker.process)
                        if worker.tries == TRIES:
                            yield task, Failure(f"its worker died {TRIES} times, last with {how}")
                            continue
                        retries.append((task, worker.tries))
                        if report:
                            report(task, f"its worker died with {how}; it is tried again")
        finally:
            end(running)

    def _start(self, work: Callable[[T], R], running: list[Worker[T]]) -> Worker[T]:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        process = context.Process(target=serve, args=(work, there), daemon=True)
        given = os.environ.get("OMP_NUM_THREADS")
        # Inherited, because a worker may import torch before any line of ours runs.
        os.environ["OMP_NUM_THREADS"] = given or str(max(1, cores // self.workers))
        try:
            process.start()
        finally:
            if given is None:
                del os.environ["OMP_NUM_THREADS"]
        there.close()
        running.append(Worker(process, here))
        return running[-1]


def end(workers: Iterable[Worker[Any]]) -> None:
    """End workers; those that are at work may first save what they have."""
    for worker in workers:
        worker.pipe.close()  # ends those that wait for a task
        if worker.task is not None:
            worker.process.terminate()
    for worker in workers:
        worker.process.join(GRACE_S)
        worker.process.kill()
        worker.process.join()


def serve(work: Callable[[Any], Any], pipe: Any) -> None:
    """Do the tasks that come through the pipe, until it is closed. Ends at once if the process that asked is killed."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        while True:
            task = pipe.recv()
            pipe.send(attempt(work, task))
    except (EOFError, ConnectionError, KeyboardInterrupt):
        return


def end_with_parent() -> None:
    """End this process when its parent has ended: nobody else would take the result, or may run the task meanwhile."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def attempt(work: Callable[[T], R], task: T) -> R | Failure:
    """The result of a task, or the error that it ended with. Interruptions go on."""
    try:
        return work(task)
    except Exception as error:
        lines = traceback.format_exception_only(error)
        full = error if isinstance(error, OSError) and error.errno in FULL else None
        return Failure(" ".join("".join(lines).split()), full)


def died(process: Any) -> str:
    """How a process ended."""
    code = process.exitcode
    return signal.Signals(-code).name if code and code < 0 else f"exit status {code}"
