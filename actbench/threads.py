"""How many threads of the processor to train with."""

import os

import torch
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.utilities import rank_zero_info

from actbench.classifier import Classifier

SMALL = 2e7
"""Multiply-adds of what is computed at once below which one thread is used.

With fewer, a second thread gained a quarter at most on an idle machine, and
lost up to a factor of 20 on a busy one: threads wait for one another.
"""


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_threads(trainer: Trainer, model: Classifier, datamodule: LightningDataModule) -> None:
    """On a processor, use as many threads as the network can keep busy, and say so. OMP_NUM_THREADS overrides."""
    if trainer.strategy.root_device.type != "cpu" or "OMP_NUM_THREADS" in os.environ:
        return
    batch_size = getattr(datamodule, "batch_size", 64)
    width = model.stack.chunk_width(batch_size, torch.device("cpu"))
    work = model.stack.multiply_adds * batch_size * width
    threads = 1 if work < SMALL else max(1, available_cores() // trainer.num_devices)
    torch.set_num_threads(threads)
    rank_zero_info(
        f"threads: {threads}, for {work / 1e6:.1f} million multiply-adds forward in a batch of {batch_size}"
        f"{f' in each of {width} replicates' if width > 1 else ''}; "
        "OMP_NUM_THREADS overrides"
    )
