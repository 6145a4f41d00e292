import ctypes
import gc
import os
import platform
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import count_frozen
from torch import nn

from actbench.cli import main
from actbench.networks import MLP, TutorialCNN
from actbench.training import threads
from actbench.training.classifier import Classifier
from actbench.training.engines import multiply_adds
from actbench.training.threads import (
    available_cores,
    choose_threads,
    frozen_imports,
    peak_memory_mb,
    prepare_process,
    reset_peak_memory,
)


def test_multiply_adds_are_those_of_a_hand_calculation():
    mlp = 64 * 128 + 128 * 128 + 128 * 10
    cnn = 64 * 9 * (1 * 4 + 4 * 4 + 4 * 1) + 64 * 128 + 128 * 128 + 128 * 10

    assert multiply_adds(MLP(nn.ReLU, (1, 8, 8), 10), (1, 8, 8)) == mlp
    assert multiply_adds(TutorialCNN(nn.ReLU, (1, 8, 8), 10), (1, 8, 8)) == cnn


def test_counting_leaves_a_network_as_it_was():
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 2))

    multiply_adds(network, (1, 8, 8))

    assert network.training
    assert network[0].num_batches_tracked == 0


@pytest.mark.parametrize(
    ("batch_size", "devices", "variable", "expected"),
    [
        (64, 1, None, 1),
        (100_000, 1, None, available_cores()),
        (100_000, 1000, None, 1),
        (100_000, 1, "1", 3),
    ],
    ids=["small", "large", "many devices", "told otherwise"],
)
def test_threads_follow_from_the_work_of_a_step(monkeypatch, batch_size, devices, variable, expected):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    torch.set_num_threads(3)
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")), num_devices=devices)

    choose_threads(trainer, Classifier(input_shape=(1, 8, 8), num_classes=10), SimpleNamespace(batch_size=batch_size))

    assert torch.get_num_threads() == expected


TOUCH = """
import resource, sys, torch
from actbench.training.threads import prepare_process
if sys.argv[1] == "kept":
    prepare_process()
for _ in range(3):
    torch.ones(12_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(12_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is an option of glibc")
def test_freed_memory_is_kept_for_the_next_step():
    faults = {
        how: int(
            subprocess.run([sys.executable, "-c", TOUCH, how], capture_output=True, check=True, timeout=200).stdout
        )
        for how in ("kept", "given back")
    }

    assert faults["kept"] < 1000 < faults["given back"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell")
def test_peak_memory_begins_anew_without_what_was_freed():
    cpu = torch.device("cpu")
    before = reset_peak_memory(cpu) and peak_memory_mb(cpu)

    torch.ones(50_000_000)
    with_it = peak_memory_mb(cpu)
    forgotten = reset_peak_memory(cpu) and peak_memory_mb(cpu)

    assert with_it - before == pytest.approx(50_000_000 * 4 / 2**20, rel=0.2)
    assert forgotten - before < 50


def test_threads_follow_from_all_replicates_that_run_at_once(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")), num_devices=1)
    model = Classifier(input_shape=(1, 8, 8), num_classes=10, replicates=30)

    choose_threads(trainer, model, SimpleNamespace(batch_size=64))

    assert torch.get_num_threads() == available_cores()


@pytest.mark.parametrize(
    ("given", "spins"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, None)]
)
def test_threads_that_wait_sleep_soon_unless_the_user_says_otherwise(monkeypatch, capsys, given, spins):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is set back afterwards
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    main(["activations"])

    assert os.environ.get("GOMP_SPINCOUNT") == spins


def test_collections_leave_out_what_was_imported_and_find_new_garbage(monkeypatch):
    monkeypatch.setattr(gc, "get_freeze_count", count_frozen)
    before = gc.get_freeze_count()
    gc.unfreeze()
    try:
        with frozen_imports():
            frozen = gc.get_freeze_count()
            with frozen_imports():  # as in a study within another
                pass
            assert abs(gc.get_freeze_count() - frozen) < 100 < frozen  # a few may have ended meanwhile
            cycle = nn.Module()
            cycle.itself, found = cycle, weakref.ref(cycle)
            del cycle
            gc.collect()
            assert found() is None

        assert gc.get_freeze_count() == 0
    finally:
        if before:
            gc.freeze()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_step_looks_for_the_library_of_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # as Lightning sets it
    monkeypatch.setattr(threads.platform, "libc_ver", lambda: ("", ""))  # memory of this process stays as it is
    prepare_process()
    opened = []
    monkeypatch.setattr(ctypes.CDLL, "__init__", lambda self, *args, **kwargs: opened.append(args))
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)

    torch.optim.Adam([parameter]).step()

    assert not opened
