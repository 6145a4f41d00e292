import errno
import multiprocessing
import os
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from actbench.studies.executors import Failure, InProcess, LocalProcesses, local
from actbench.studies.executors.base import Death

pytestmark = pytest.mark.usefixtures("quick_workers")


def square(number):
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number**2


def process_and_threads(_):
    time.sleep(0.2)
    return os.getpid(), os.environ["OMP_NUM_THREADS"]


def die_once(path):
    """Kills its process the first time, and counts its calls."""
    with Path(path).open("a") as file:
        file.write("x")
    if len(Path(path).read_text()) == 1:
        os.kill(os.getpid(), 9)
    return "alive"


def fill(number):
    raise OSError(number, os.strerror(number))


def die_soon_after(_):
    threading.Timer(0.5, os._exit, [1]).start()
    return "done"


def in_a_child(seconds):
    """Exit status of a child, as one of a DataLoader."""
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(seconds / 1000,))
    child.start()
    child.join()
    return child.exitcode


class Unpicklable:
    def __init__(self):
        self.transform = lambda number: 2 * number

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.transform(index)


def loaded(workers):
    return [int(number) for number in DataLoader(Unpicklable(), batch_size=None, num_workers=workers)]


def die(_):
    os.kill(os.getpid(), 9)


@pytest.mark.parametrize("executor", [InProcess(), LocalProcesses(2)], ids=["here", "processes"])
def test_every_task_has_its_result_or_its_error(executor):
    results = dict(executor.run(square, [1, -2, 3]))

    assert (results[1], results[3]) == (1, 9)
    assert isinstance(results[-2], Failure)
    assert str(results[-2]) == "ValueError: -2 is negative"


def test_a_dataloader_starts_its_workers_as_in_this_process():
    assert [*LocalProcesses(1).run(loaded, [0, 1])] == [(0, [0, 2, 4]), (1, [0, 2, 4])]


@pytest.mark.slow  # processes that import torch anew
def test_processes_start_once_and_share_the_cores(monkeypatch):
    monkeypatch.setattr(local, "CONTEXT", multiprocessing.get_context("spawn"))  # as for a user

    results = [result for _, result in LocalProcesses(2).run(process_and_threads, range(6))]

    assert len({process for process, _ in results}) == 2
    assert {threads for _, threads in results} == {str(max(1, len(os.sched_getaffinity(0)) // 2))}
    assert os.getpid() not in {process for process, _ in results}


def test_a_task_whose_worker_dies_is_tried_again(tmp_path):
    task, results = str(tmp_path / "calls"), []

    ((_, result),) = LocalProcesses(2).run(die_once, [task], report=lambda *report: results.append(report))

    assert result == "alive"
    assert results == [(task, "its worker died with SIGKILL; it is tried again")]
    assert (tmp_path / "calls").read_text() == "xx"


@pytest.mark.slow
def test_a_task_that_kills_three_workers_fails_and_the_others_go_on():
    results = dict(LocalProcesses(1).run(die, [1])) | dict(LocalProcesses(1).run(square, [2]))

    assert str(results[1]) == "its worker died 3 times, last with SIGKILL"
    assert results[2] == 4


def test_a_worker_that_dies_between_tasks_is_replaced():
    finished = []

    def tasks():
        yield 1
        while not finished:
            yield None
        time.sleep(1)
        yield 2

    for number, result in LocalProcesses(1).run(die_soon_after, tasks()):
        finished.append((number, result))

    assert finished == [(1, "done"), (2, "done")]


def test_a_worker_that_dies_while_it_sends_has_no_result():
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process()
    process.start()
    os.write(there.fileno(), struct.pack("!i", 100) + b"the beginning")
    there.close()

    executor = LocalProcesses(1)
    executor.processes[here] = process

    ((_, result),) = executor.ended([here])

    assert isinstance(result, Death)
    assert not process.is_alive()


def test_tasks_may_have_processes_of_their_own():
    assert list(LocalProcesses(1).run(in_a_child, [3])) == [(3, 0)]


def test_tasks_are_taken_when_they_start():
    taken = []

    def tasks():
        for number in range(4):
            taken.append(number)
            yield number

    results = InProcess().run(square, tasks())
    next(results)
    assert taken == [0]
    results.close()
    assert taken == [0]


@pytest.mark.parametrize("executor", [InProcess(), LocalProcesses(2)], ids=["here", "processes"])
def test_results_come_while_no_task_is_free(executor):
    finished = []

    def tasks():
        yield 1
        while not finished:  # another process has the second, and gives it up
            yield None
        yield 2

    for number, result in executor.run(square, tasks()):
        finished.append((number, result))

    assert finished == [(1, 1), (2, 4)]


@pytest.mark.parametrize("executor", [InProcess(), LocalProcesses(1)], ids=["here", "processes"])
def test_a_full_disk_is_told_from_other_failures(executor):
    results = dict(executor.run(fill, [errno.ENOSPC, errno.ENOENT]))

    assert results[errno.ENOSPC].full.errno == errno.ENOSPC
    assert results[errno.ENOENT].full is None


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys, time\n"
        "from actbench.studies.executors import LocalProcesses\n"
        "def work(n):\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    list(LocalProcesses(1).run(work, [1]))\n"
    )
    parent = subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())

    parent.kill()
    parent.wait()

    deadline = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()
    parent.stdout.close()


def test_workers_are_a_positive_number():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        LocalProcesses(0)
