"""Networks that are trained as a stack, and each alone by plain torch."""

import torch
from torch import nn
from torch.nn import functional as F

from actbench.networks import build_network
from actbench.training.engines import Stack

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=1e-3),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3),
}


def networks(network, activation, seeds, shape=(1, 8, 8)):
    return [build_network(network, activation, input_shape=shape, num_classes=10, seed=seed) for seed in seeds]


def stack(network, activation=nn.SiLU, seeds=range(4), shape=(1, 8, 8), width=None):
    return Stack(networks(network, activation, seeds, shape), seeds, input_shape=shape, width=width)


def batches(seeds, steps, batch=16, shape=(1, 8, 8), dtype=torch.float32):
    """Batches of each replicate, drawn from its seed."""
    drawn = []
    for step in range(steps):
        generators = [torch.Generator().manual_seed(1000 * seed + step) for seed in seeds]
        images = torch.stack([torch.rand(batch, *shape, generator=g, dtype=torch.float64) for g in generators])
        labels = torch.stack([torch.randint(10, (batch,), generator=g) for g in generators])
        drawn.append((images.to(dtype), labels))
    return drawn


def train(trained, steps, make=OPTIMIZERS["Adam"]):
    """Losses of each step, and logits after the last."""
    optimizer = make(trained.parameters())
    losses = []
    for images, labels in steps:
        optimizer.zero_grad()
        loss = trained.losses(images, labels)
        loss.sum().backward()
        optimizer.step()
        losses.append(loss.detach())
    trained.eval()
    return torch.stack(losses, 1), trained(steps[0][0])


def train_alone(network, steps, make):
    """Losses and logits of a plain network, with torch's own loss and none of our code."""
    optimizer = make(network.parameters())
    losses = []
    for images, labels in steps:
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    network.eval()
    with torch.no_grad():
        return torch.stack(losses), network(steps[0][0])
