"""Gradients that autograd gives to several parameters at once: each is scaled, clipped and added up once.

torch itself clips and adds up such gradients once for each parameter, so they are taken here by `torch.autograd.grad`.
"""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from actbench.training.engines import SequenceEngine, Stack

SHAPE, CLASSES, LIMIT = (1, 2, 2), 3, 0.1

pytestmark = pytest.mark.usefixtures("early_replay")


class Sums(nn.Module):
    """A network whose parameters have a gradient, or its memory, in common; that of one is the same everywhere."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(math.prod(SHAPE), CLASSES)
        self.first, self.second = nn.Parameter(torch.randn(CLASSES)), nn.Parameter(torch.randn(CLASSES))
        self.row = nn.Parameter(torch.randn(1, CLASSES))
        self.factors = nn.Parameter(torch.randn(5))

    def forward(self, images):
        shift = self.first + self.second + self.row.view(-1)
        return self.layer(images.flatten(1)) * self.factors.sum() + (shift + self.layer.bias)


def gradients(network, images, labels):
    """Gradients of a network's mean loss, by name."""
    names, parameters = zip(*network.named_parameters(), strict=True)
    loss = cross_entropy(network(images), labels)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.mark.parametrize("replicates", [1, 2])
@pytest.mark.parametrize("engine", [partial(Stack, width=None), SequenceEngine], ids=["stack", "sequence"])
@pytest.mark.parametrize("changed", ["scaled", "clipped", "added"])
def test_gradients_that_parameters_share_are_changed_once(engine, changed, replicates):
    networks = [Sums() for _ in range(replicates)]
    trained = engine(copy.deepcopy(networks), range(replicates), input_shape=SHAPE)
    images, labels = torch.randn(replicates, 6, *SHAPE), torch.randint(CLASSES, (replicates, 6))

    for _ in range(4):  # the last of them replayed in a stack
        trained.zero_grad()
        for _ in range(2 if changed == "added" else 1):
            losses = trained.losses(images, labels, scaled=changed == "scaled")
            trained.backward((losses * (0.5 if changed == "scaled" else 1)).sum())
        if changed == "clipped":
            trained.clip_gradients(LIMIT, by_value=False)

    for index, network in enumerate(networks):
        plain = gradients(network, images[index], labels[index])
        norm = torch.cat([gradient.flatten() for gradient in plain.values()]).norm()
        factor = {"scaled": 0.5, "clipped": LIMIT / norm, "added": 2}[changed]
        for name, gradient in plain.items():
            if isinstance(trained, Stack):
                got = trained.network.get_parameter(name).grad[index]
            else:
                got = trained.networks[index].get_parameter(name).grad
            torch.testing.assert_close(got, gradient * factor, rtol=1e-4, atol=1e-6, msg=name)
