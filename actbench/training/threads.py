"""How a processor is used: its threads and its memory."""

import ctypes
import gc
import os
import platform
from pathlib import Path

import torch
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.utilities import rank_zero_info

from actbench.training.classifier import Classifier
from actbench.training.stack import Stack

SMALL = 2e7
"""Multiply-adds of what is computed at once below which one thread is used.

With fewer, a second thread gained a quarter at most on an idle machine, and
lost up to a factor of 20 on a busy one: threads wait for one another.
"""


def keep_memory() -> None:
    """Let the C library keep freed memory for the next step, where it is glibc.

    Unless told, it hands blocks of more than some megabytes back to the system
    and asks for them again at every step, at the price of clearing every page:
    a tenth of a stack's time on the digits, a quarter of ConvNet's on MNIST.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(-4, 0)  # M_MMAP_MAX
        library.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def forget_peak_memory(device: torch.device) -> bool:
    """Have `peak_memory_mb` begin anew, without what was freed; False where that cannot be, as off Linux and GPUs."""
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
    """Most memory of this process, or of the GPU's tensors, since it was forgotten, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 2**10


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fitting_threads(stack: Stack, batch_size: int, devices: int = 1) -> int:
    """As many threads as batches of this size can keep busy, if so many devices share the processor."""
    return 1 if work_at_once(stack, batch_size) < SMALL else max(1, available_cores() // devices)


def work_at_once(stack: Stack, batch_size: int) -> float:
    """Multiply-adds of what a processor computes at once."""
    return stack.multiply_adds * batch_size * stack.chunk_width(batch_size, torch.device("cpu"))


def choose_threads(trainer: Trainer, model: Classifier, datamodule: LightningDataModule) -> None:
    """On a processor, use as many threads as the network can keep busy, and say so. OMP_NUM_THREADS overrides."""
    if trainer.strategy.root_device.type != "cpu" or "OMP_NUM_THREADS" in os.environ:
        return
    batch_size = getattr(datamodule, "batch_size", 64)
    threads = fitting_threads(model.stack, batch_size, trainer.num_devices)
    torch.set_num_threads(threads)
    width = model.stack.chunk_width(batch_size, torch.device("cpu"))
    rank_zero_info(
        f"threads: {threads}, for {work_at_once(model.stack, batch_size) / 1e6:.1f} million multiply-adds forward "
        f"in a batch of {batch_size}{f' in each of {width} replicates' if width > 1 else ''}; "
        "OMP_NUM_THREADS overrides"
    )
