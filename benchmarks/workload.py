"""What every arm trains: the same network, rows, epochs and optimiser; and how an arm tells what it took.

An arm is a module ``arms.NAME`` with a function ``prepare(task)``. It does all
that is not on the clock (data in memory, trial runs, workers started) and
returns a `Fit`. On the clock is what a fit is: networks made, trained, scored on
val after each epoch and on test at the end.
"""

import argparse
import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from actbench import data, networks


class Workload(NamedTuple):
    """A network and a dataset, and how they are trained unless the user says otherwise."""

    network: str
    dataset: str
    arguments: dict[str, int]  # of the dataset
    lr: float  # Adam's
    replicates: int
    epochs: int


FAKE32 = {"rows": 10_000, "channels": 3, "height": 32, "width": 32}
WORKLOADS = {
    "digits": Workload("TutorialCNN", "Digits", {}, lr=2e-3, replicates=30, epochs=40),
    "mnist": Workload("ConvNet", "MNIST", {}, lr=1e-3, replicates=4, epochs=1),
    # Made-up images of CIFAR-10's shape: their scores only show that all arms learn the same.
    "fake32": Workload("ConvNet", "FakeImages", FAKE32, lr=1e-3, replicates=30, epochs=2),
    "fake32_resnet": Workload("ResNet20", "FakeImages", FAKE32, lr=1e-3, replicates=30, epochs=2),
}


@dataclass(frozen=True)
class Task:
    """What an arm is asked to do. Replicate ``i`` has seed ``i``."""

    workload: str = "digits"
    replicates: int = 2
    epochs: int = 2
    batch_size: int = 64
    data_root: str = "data"
    accelerator: str = "cpu"  # or gpu

    @property
    def of(self) -> Workload:
        """The workload of that name."""
        return WORKLOADS[self.workload]

    @property
    def device(self) -> torch.device:
        """Where torch's arms train."""
        return torch.device("cuda" if self.accelerator == "gpu" else "cpu")

    @property
    def data_arguments(self) -> dict[str, Any]:
        """Arguments of the dataset, but for batch size, seed and replicates."""
        return {**self.of.arguments, **({"root": self.data_root} if self.of.dataset == "MNIST" else {})}


def forget_lightning() -> None:
    """Undo what importing Lightning sets in the environment, for an arm that would not import it."""
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)  # with which each step of an optimiser looks for a library


class Part(NamedTuple):
    """Images (rows, channels, height, width), float32 in [0, 1], and their classes."""

    images: Tensor
    labels: Tensor


class Images:
    """The workload's images on the device, and each replicate's split, which is that of actbench for its seed."""

    def __init__(self, task: Task) -> None:
        source = getattr(data, task.of.dataset)(replicates=task.replicates, **task.data_arguments)
        source.setup()
        self.shape: tuple[int, int, int] = source.input_shape
        self.classes: int = source.num_classes
        self.parts = source.parts
        self.tables = [
            Part(table.images.to(task.device).float() / source.white, table.labels.to(task.device))
            for table in source.tables
        ]

    def part(self, name: str, replicate: int) -> Part:
        """Train, val or test of a replicate."""
        part = self.parts[name]
        table, rows = self.tables[part.table], part.rows[replicate].to(self.tables[0].labels.device)
        return Part(table.images[rows], table.labels[rows])

    def network(self, task: Task, seed: int) -> nn.Module:
        """The network with SiLU and the initial weights of the seed."""
        return networks.build_network(
            networks.NETWORKS[task.of.network], nn.SiLU, input_shape=self.shape, num_classes=self.classes, seed=seed
        )


class Fit(NamedTuple):
    """What is on the clock: ``run`` trains and scores all replicates and returns their test accuracies."""

    run: Callable[[], Sequence[float]]
    choice: str = ""  # what the arm chose beforehand, such as the number of threads
    peak_mb: Callable[[], float] | None = None  # if not that of this process


def process_peak_mb(device: torch.device) -> float:
    """Most memory that this process has had: on a GPU what torch had there, else what is resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main(prepare: Callable[[Task], Fit], phases: Sequence[str] = ("",)) -> None:
    """Run an arm once for each phase, and write what it took as one line of JSON, alone on the standard output.

    Args:
        prepare: The arm.
        phases: ``("cold", "warm")`` for an arm that compiles: the first fit of a process, and the second.
    """
    parser = argparse.ArgumentParser()
    for field in fields(Task):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    task = Task(**vars(parser.parse_args()))
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log

    random.seed(0)
    torch.manual_seed(0)
    fit = prepare(task)
    peak_mb = fit.peak_mb or partial(process_peak_mb, task.device)
    before_mb = peak_mb()
    measured = []
    for phase in phases:
        start = time.perf_counter()
        accuracies = list(fit.run())
        time_s = time.perf_counter() - start
        measured.append({"phase": phase, "time_s": time_s, "test_acc": accuracies, "peak_mb": peak_mb()})
    gpu = torch.cuda.get_device_name() if task.device.type == "cuda" else None
    common = {"task": asdict(task), "choice": fit.choice, "before_mb": before_mb, "gpu": gpu}
    print(json.dumps({**common, "fits": measured}), file=answer, flush=True)
