"""How many threads of the processor to train with."""

import os

import torch
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.utilities import rank_zero_info
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from actbench.classifier import Classifier

SMALL = 2e7
"""Multiply-adds of a batch below which one thread is used.

With fewer, a second thread gained a quarter at most on an idle machine, and
lost up to a factor of 20 on a busy one: threads wait for one another.
"""


def multiply_adds(network: nn.Module, input_shape: tuple[int, ...]) -> float:
    """Multiply-adds of a forward pass over one image, in convolutions and matrix products."""
    training = network.training
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(2, *input_shape))
    network.train(training)
    return float(counter.get_total_flops()) / 2 / 2  # two images, and two operations for each


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_threads(trainer: Trainer, model: Classifier, datamodule: LightningDataModule) -> None:
    """On a processor, use as many threads as the network can keep busy, and say so. OMP_NUM_THREADS overrides."""
    if trainer.strategy.root_device.type != "cpu" or "OMP_NUM_THREADS" in os.environ:
        return
    batch_size = getattr(datamodule, "batch_size", 64)
    work = multiply_adds(model.network, model.input_shape) * batch_size
    threads = 1 if work < SMALL else max(1, available_cores() // trainer.num_devices)
    torch.set_num_threads(threads)
    rank_zero_info(
        f"threads: {threads}, for {work / 1e6:.1f} million multiply-adds forward in a batch of {batch_size}; "
        "OMP_NUM_THREADS overrides"
    )
