"""Running tasks in this process, or in several processes on this machine."""

import gc
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
from actbench.training.threads import available_cores

GRACE_S = 10  # for a worker to end before it is killed
CONTEXT: Any = multiprocessing.get_context("spawn")  # of the workers


class InProcess(Executor):
    """Runs one task after another in this process."""

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
    """Runs tasks in processes on this machine that share its cores and start only once.

    A task whose worker dies is tried again in a new worker, twice at most.

    Args:
        workers: Number of processes.

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
                self._exit_status(pipe)  # it has died since its last task
            else:
                return pipe

    @override
    def ended(self, calls: Sequence[Any]) -> Iterator[tuple[Any, Any | Failure | Death]]:
        ready: list[Any] = connection.wait(calls, PAUSE_S)
        for pipe in ready:
            try:
                result = pipe.recv()
                self.idle.append(pipe)
            except (EOFError, OSError):  # it died before it had sent the whole result
                code = self._exit_status(pipe)
                how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
                result = Death(f"its worker died with {how}", f"its worker died {TRIES} times, last with {how}")
            yield pipe, result

    @override
    def stop(self, calls: Sequence[Any]) -> None:
        for pipe, process in self.processes.items():
            pipe.close()  # which ends a process that waits for a task
            if pipe not in self.idle:
                process.terminate()  # it may save a checkpoint first
        for process in self.processes.values():
            process.join(GRACE_S)
            process.kill()
            process.join()
        self.processes.clear()
        self.idle.clear()

    def _new_process(self) -> Any:
        pipe, worker_pipe = CONTEXT.Pipe()
        process = CONTEXT.Process(target=serve, args=(worker_pipe, multiprocessing.get_start_method(allow_none=True)))
        threads = str(max(1, available_cores() // self.workers))
        # Inherited, because a worker may import torch before any line of ours runs.
        with patch.dict(os.environ, {"OMP_NUM_THREADS": threads} | os.environ):
            process.start()
        worker_pipe.close()
        self.processes[pipe] = process
        return pipe

    def _exit_status(self, pipe: Any) -> int:
        """Remove a process that has died; returns its exit status."""
        process = self.processes.pop(pipe)
        process.join()
        return int(process.exitcode)


def serve(pipe: Any, start_method: str | None) -> None:
    """Run the tasks that come through a pipe until it is closed; end at once if the parent process is killed.

    Children of this process, such as a DataLoader's workers, start as the parent's would.
    """
    multiprocessing.set_start_method(start_method, force=True)
    threading.Thread(target=end_with_parent, daemon=True).start()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # as in the parent: no character may make a task fail
    try:
        task = pipe.recv()
        gc.freeze()  # the imports of the first task, through which every cell's garbage collection would go
        while True:
            pipe.send(attempt(*task))
            task = pipe.recv()
    except (EOFError, ConnectionError, KeyboardInterrupt):
        return


def end_with_parent() -> None:
    """End this process when its parent ends, since nobody else reads its result, and another may run the task."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
