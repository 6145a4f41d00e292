"""In this process, or in several on this machine."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from multiprocessing import connection
from typing import Any, Generic

from typing_extensions import override

from actbench.executors.base import PAUSE_S, TRIES, Executor, Failure, Queue, R, Report, T, attempt, silent

GRACE_S = 10  # for a worker that is told to end
DEAD = object()  # in place of a result


class InProcess(Executor):
    """One task after another, in this process."""

    @override
    def run(
        self, work: Callable[[T], R], tasks: Iterable[T | None], *, report: Report[T] = silent
    ) -> Iterator[tuple[T, R | Failure]]:
        for task in tasks:
            if task is None:
                time.sleep(PAUSE_S)
            else:
                yield task, attempt(work, task)


@dataclass
class Worker(Generic[T]):
    """A process that does one task at a time."""

    process: Any
    pipe: Any
    task: T | None = None
    tries: int = 0

    def begin(self, task: T, tries: int) -> bool:
        """Give it a task; False if it has died since its last one."""
        try:
            self.pipe.send(task)
        except OSError:
            self.process.join()
            return False
        self.task, self.tries = task, tries
        return True

    def end(self) -> tuple[T, Any]:
        """Its task, and the result; `DEAD` if it died before it had sent all of that."""
        task, self.task = self.task, None
        assert task is not None
        try:
            return task, self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            return task, DEAD


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
        self, work: Callable[[T], R], tasks: Iterable[T | None], *, report: Report[T] = silent
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
                    if worker.begin(task, tries + 1):
                        continue
                    running.remove(worker)
                    retries.append((task, tries))
                busy = {worker.pipe: worker for worker in running if worker.task is not None}
                if not busy and queue.ended:
                    return
                if not busy:
                    time.sleep(PAUSE_S)
                for pipe in connection.wait(list(busy), PAUSE_S) if busy else ():
                    worker = busy[pipe]
                    task, result = worker.end()
                    if result is DEAD:
                        running.remove(worker)
                        how = died(worker.process)
                        if worker.tries < TRIES:
                            retries.append((task, worker.tries))
                            report(task, f"its worker died with {how}; it is tried again")
                            continue
                        result = Failure(f"its worker died {TRIES} times, last with {how}")
                    yield task, result
        finally:
            end(running)

    def _start(self, work: Callable[[T], R], running: list[Worker[T]]) -> Worker[T]:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        process = context.Process(target=serve, args=(work, there))
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
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # as in the process that asked: what a task prints may not fail it
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


def died(process: Any) -> str:
    """How a process ended."""
    code = process.exitcode
    return signal.Signals(-code).name if code and code < 0 else f"exit status {code}"
