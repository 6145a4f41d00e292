"""The plain loop's seeds shared out over worker processes, in the fastest mix of processes and threads.

Workers are started, have imported and hold the data before the clock starts.
The mix is the one with most steps a second in short trials, all workers at once.
"""

import multiprocessing
import os
from typing import Any

import torch

from arms import loop
from workload import Fit, Images, Task, forget_lightning, main, process_peak_mb

worker: dict[str, Any] = {}  # of this process: its task, images and barrier


def start_worker(task: Task, threads: int, barrier: Any) -> None:
    """Make this process ready."""
    forget_lightning()
    torch.set_num_threads(threads)
    worker.update(task=task, images=Images(task), barrier=barrier)


def try_adam(adam: str) -> float:
    """Seconds of a trial that begins in all workers at once."""
    worker["barrier"].wait()
    return loop.trial(worker["task"], worker["images"], adam)


def fit_replicate(replicate: int, adam: str) -> float:
    """Train one replicate here."""
    return loop.fit_replicate(worker["task"], worker["images"], replicate, adam)


def worker_peak_mb(_: int) -> float:
    """Most memory that this worker has had."""
    worker["barrier"].wait()
    return process_peak_mb(worker["task"].device)


class Workers:
    """Processes that train replicates.

    Args:
        task: What they are asked to do.
        processes: How many.
        threads: Threads of each.
    """

    def __init__(self, task: Task, processes: int, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.task, self.processes, self.threads = task, processes, threads
        self.pool = context.Pool(processes, start_worker, (task, threads, context.Barrier(processes)))
        self.step_s, self.adam = min((self.step_time_s(adam), adam) for adam in loop.ADAMS)

    def step_time_s(self, adam: str) -> float:
        """Seconds per step in a trial, of all workers together."""
        times = self.pool.map(try_adam, [adam] * self.processes, chunksize=1)
        return max(times) / loop.TRIAL_STEPS / self.processes

    def fit(self) -> list[float]:
        """Train all replicates; returns their accuracies on test."""
        return self.pool.starmap(fit_replicate, [(i, self.adam) for i in range(self.task.replicates)], chunksize=1)

    def peak_mb(self) -> float:
        """Sum of the workers' peaks. Pages that they share, such as libraries, count for each."""
        return sum(self.pool.map(worker_peak_mb, range(self.processes), chunksize=1))


def prepare(task: Task) -> Fit:
    """Choose the mix of processes and threads by trials."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    best: Workers | None = None
    for processes in sorted({2**power for power in range(cores.bit_length()) if 2**power <= cores} | {cores}):
        workers = Workers(task, processes, cores // processes)
        if best is None or workers.step_s < best.step_s:
            best, workers = workers, best
        if workers:
            workers.pool.terminate()
    assert best is not None
    choice = f"{best.processes} processes of {best.threads} threads, {best.adam}"
    return Fit(best.fit, choice, best.peak_mb)


if __name__ == "__main__":
    main(prepare)
