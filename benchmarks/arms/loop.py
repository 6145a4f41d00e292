"""A plain PyTorch loop over resident tensors, one seed after another.

Threads and the form of Adam are those that are fastest in short trials before
the clock starts.
"""

import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from workload import Fit, Images, Part, Task, forget_lightning, main

ADAMS: dict[str, dict[str, Any]] = {"Adam": {}, "foreach Adam": {"foreach": True}, "fused Adam": {"fused": True}}
TRIAL_STEPS = 20


def steps(
    network: nn.Module, optimizer: torch.optim.Optimizer, train: Part, batch_size: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """One epoch, step by step; yields the losses."""
    network.train()
    order = torch.randperm(len(train.labels), generator=generator).to(train.labels.device)
    for rows in order.split(batch_size):
        optimizer.zero_grad()
        loss = cross_entropy(network(train.images[rows]), train.labels[rows])
        loss.backward()
        optimizer.step()
        yield loss.detach()


@torch.inference_mode()
def score(network: nn.Module, part: Part) -> tuple[float, float]:
    """Mean loss in nats, and accuracy."""
    network.eval()
    logits = torch.cat([network(images) for images in part.images.split(1000)])
    return cross_entropy(logits, part.labels).item(), (logits.argmax(1) == part.labels).float().mean().item()


def fit_replicate(task: Task, images: Images, replicate: int, adam: str) -> float:
    """Train and score one replicate; returns its accuracy on test."""
    network = images.network(task, replicate).to(task.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=task.of.lr, **ADAMS[adam])
    generator = torch.Generator().manual_seed(replicate)
    train, val, test = (images.part(name, replicate) for name in ("train", "val", "test"))
    for _ in range(task.epochs):
        for _loss in steps(network, optimizer, train, task.batch_size, generator):
            pass
        score(network, val)
    return score(network, test)[1]


def trial(task: Task, images: Images, adam: str) -> float:
    """Seconds of some training steps, after some that do not count."""
    network = images.network(task, 0).to(task.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=task.of.lr, **ADAMS[adam])
    train, generator = images.part("train", 0), torch.Generator().manual_seed(0)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        losses = list(islice(epochs(network, optimizer, train, task, generator), TRIAL_STEPS))
        losses[-1].item()  # waits for a GPU
        times.append(time.perf_counter() - start)
    return min(times)


def epochs(
    network: nn.Module, optimizer: torch.optim.Optimizer, train: Part, task: Task, generator: torch.Generator
) -> Iterator[Tensor]:
    """Epochs without end, step by step."""
    while True:
        yield from steps(network, optimizer, train, task.batch_size, generator)


def prepare(task: Task) -> Fit:
    """Choose threads and Adam by trials."""
    forget_lightning()
    images = Images(task)
    cores = torch.get_num_threads()

    def seconds(threads: int, adam: str) -> float:
        torch.set_num_threads(threads)
        return trial(task, images, adam)

    ways = [(threads, adam) for threads in sorted({1, 2, cores} & set(range(1, cores + 1))) for adam in ADAMS]
    threads, adam = min(ways, key=lambda way: seconds(*way))
    torch.set_num_threads(threads)
    choice = f"{threads} threads, {adam}"
    return Fit(lambda: [fit_replicate(task, images, i, adam) for i in range(task.replicates)], choice)


if __name__ == "__main__":
    main(prepare)
