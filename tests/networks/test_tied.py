"""Networks that hold a layer or a parameter in two places."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from actbench.training.classifier import Classifier


class SameLayer(nn.Sequential):
    """One layer in two places."""

    def __init__(self, activation, input_shape, num_classes):
        layer = nn.Linear(16, 16)
        first, last = nn.Linear(math.prod(input_shape), 16), nn.Linear(16, num_classes)
        super().__init__(nn.Flatten(), first, activation(), layer, activation(), layer, last)


class SameWeight(nn.Sequential):
    """One weight in two layers."""

    def __init__(self, activation, input_shape, num_classes):
        first, one, other = nn.Linear(math.prod(input_shape), 16), nn.Linear(16, 16), nn.Linear(16, 16)
        other.weight = one.weight
        super().__init__(nn.Flatten(), first, activation(), one, activation(), other, nn.Linear(16, num_classes))


@pytest.mark.parametrize("network", ["test_tied.SameLayer", "test_tied.SameWeight"])
def test_tied_values_are_trained_as_torch_trains_them(network):
    model = Classifier("tanh", network, replicates=3, engine="stack", input_shape=(1, 4, 4), num_classes=3).double()
    images, labels = torch.rand(6, 1, 4, 4, dtype=torch.float64), torch.arange(6) % 3

    for _ in range(2):
        model.zero_grad()
        losses = model.engine.losses(images, labels)
        losses.sum().backward()

    for number in range(3):
        alone = model.engine.replicate(number)
        loss = cross_entropy(alone(images), labels)
        loss.backward()
        assert losses[number].item() == pytest.approx(loss.item())
        for (name, ours), theirs in zip(model.engine.network.named_parameters(), alone.parameters(), strict=True):
            assert torch.allclose(ours.grad[number], theirs.grad), name
