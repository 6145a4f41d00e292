"""Use of the CPU: threads and memory."""

import ctypes
import gc
import math
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.utilities import rank_zero_info

from actbench.training.classifier import Classifier
from actbench.training.device import choose_engine
from actbench.training.engines import Engine

THREADED_WORK = 2e7
"""Multiply-adds computed at once from which more than one thread is used.

With fewer, a second thread gained at most a quarter on an idle machine and lost
up to a factor of 20 on a busy one, because threads wait for one another.
"""


def prepare_process() -> None:
    """Spare the steps of a fit what this process would do again in each of them.

    By default, glibc returns blocks of more than some megabytes to the system and
    requests them again at every step. Clearing their pages takes a tenth of a
    stack's time on the digits, and a quarter of ConvNet's on MNIST. It keeps them.

    Each step of an optimiser asks torch whether there is a GPU. Lightning has torch
    ask NVIDIA's library; where there is none, its file is searched for each time,
    for .15 ms.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(-4, 0)  # M_MMAP_MAX
        library.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    if not torch.cuda.is_available():
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)


@contextmanager
def frozen_imports() -> Iterator[None]:
    """Keep what exists now out of garbage collections, each of which would take half a second for the imports alone."""
    frozen = gc.get_freeze_count()
    if not frozen:
        gc.collect()
        gc.freeze()
    try:
        yield
    finally:
        if not frozen:
            gc.unfreeze()


def reset_peak_memory(device: torch.device) -> bool:
    """Reset `peak_memory_mb` to the memory now in use; False where that is impossible, as on a CPU without Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory of this process, or of tensors on the GPU, since the last reset, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 2**10


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fitting_threads(engine: Engine, batch_size: int, devices: int = 1) -> int:
    """Number of threads that batches of this size can keep busy, if this many devices share the CPU."""
    return 1 if work_at_once(engine, batch_size) < THREADED_WORK else max(1, available_cores() // devices)


def work_at_once(engine: Engine, batch_size: int) -> float:
    """Multiply-adds that a CPU computes at once."""
    return engine.multiply_adds * batch_size * engine.chunk_width(batch_size, torch.device("cpu"))


def choose_threads(trainer: Trainer, model: Classifier, datamodule: LightningDataModule) -> None:
    """On a CPU, set the number of threads that the network can keep busy, and report it. OMP_NUM_THREADS overrides."""
    batch_size = getattr(datamodule, "batch_size", 64)
    choose_engine(model, trainer.strategy.root_device, batch_size)
    if trainer.strategy.root_device.type != "cpu" or "OMP_NUM_THREADS" in os.environ:
        return
    threads = fitting_threads(model.engine, batch_size, trainer.num_devices)
    torch.set_num_threads(threads)
    width = model.engine.chunk_width(batch_size, torch.device("cpu"))
    work = work_at_once(model.engine, batch_size)
    known = f"{work / 1e6:.1f} million" if work < math.inf else "an unknown number of"
    rank_zero_info(
        f"threads: {threads}, for {known} multiply-adds forward "
        f"in a batch of {batch_size}{f' in each of {width} replicates' if width > 1 else ''}; "
        "OMP_NUM_THREADS overrides"
    )
