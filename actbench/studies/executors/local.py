"""In this process, or in several on this machine."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import TextIOWrapper
from multiprocessing import connection
from typing import Any
from unittest.mock import patch

from typing_extensions import override

from actbench.studies.executors.base import PAUSE_S, TRIES, Death, Executor, Failure, R, Report, T, Workers, attempt

GRACE_S = 10  # for a worker that is told to end


class InProcess(Executor):
    """One task after another, in this process."""

    @override
    def run(
        self, work: Callable[[T], R], tasks: Iterable[T | None], *, report: Report[T] = lambda task, line: None
    ) -> Iterator[tuple[T, R | Failure]]:
        for task in tasks:
            if task is None:
                time.sleep(PAUSE_S)
            else:
                yield task, attempt(work, task)


class LocalProcesses(Workers):
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
        self.processes = dict[Any, Any]()  # by the pipes to them
        self.idle = list[Any]()  # pipes

    @override
    def room(self) -> int:
        return self.workers

    @override
    def start(self, work: Callable[[T], Any], task: T) -> Any:
        while True:
            pipe = self.idle.pop() if self.idle else self._new_process()
            try:
                pipe.send((work, task))
            except OSError:
                self._bury(pipe)  # it has died since its last task
            else:
                return pipe

    @override
    def ended(self, calls: Sequence[Any]) -> Iterator[tuple[Any, Any | Failure | Death]]:
        ready: list[Any] = connection.wait(calls, PAUSE_S)
        for pipe in ready:
            try:
                result = pipe.recv()
                self.idle.append(pipe)
            except (EOFError, OSError):  # it has not sent all of the result
                code = self._bury(pipe)
                how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
                result = Death(f"its worker died with {how}", f"its worker died {TRIES} times, last with {how}")
            yield pipe, result

    @override
    def stop(self, calls: Sequence[Any]) -> None:
        for pipe, process in self.processes.items():
            pipe.close()  # ends those that wait for a task
            if pipe not in self.idle:
                process.terminate()  # it may first save what it has
        for process in self.processes.values():
            process.join(GRACE_S)
            process.kill()
            process.join()
        self.processes.clear()
        self.idle.clear()

    def _new_process(self) -> Any:
        from actbench.training.threads import available_cores  # not above: workers that import this have no use for it

        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(there,))
        threads = str(max(1, available_cores() // self.workers))
        # Inherited, because a worker may import torch before any line of ours runs.
        with patch.dict(os.environ, {"OMP_NUM_THREADS": threads} | os.environ):
            process.start()
        there.close()
        self.processes[here] = process
        return here

    def _bury(self, pipe: Any) -> int:
        """Forget a process that has died; returns its exit status."""
        process = self.processes.pop(pipe)
        process.join()
        return int(process.exitcode)


def serve(pipe: Any) -> None:
    """Do the tasks that come through the pipe, until it is closed. Ends at once if the process that asked is killed."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # as in the process that asked: what a task prints may not fail it
    try:
        while True:
            pipe.send(attempt(*pipe.recv()))
    except (EOFError, ConnectionError, KeyboardInterrupt):
        return


def end_with_parent() -> None:
    """End this process when its parent has ended: nobody else would take the result, or may run the task meanwhile."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
