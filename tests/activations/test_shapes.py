"""Inputs that are not images, compared with plain torch."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from actbench.networks import NETWORKS, build_network
from actbench.training.engines.stack import Stack

SHAPES = [(5,), (3, 8), (8, 8), (2, 3, 4, 5)]


class Rows(nn.Sequential):
    """Convolves, normalises and drops along the last axis."""

    def __init__(self, activation, input_shape, num_classes):
        channels, length = input_shape
        layers = nn.Conv1d(channels, 4, 3, padding=1), nn.BatchNorm1d(4), activation()
        super().__init__(*layers, nn.Flatten(), nn.Linear(4 * length, num_classes))


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("network", "shape"), [*((NETWORKS["MLP"], shape) for shape in SHAPES), (Rows, (3, 8))])
def test_inputs_of_any_shape_are_trained_on_as_torch_does(network, shape, shared, width):
    alone = [build_network(network, nn.SiLU, input_shape=shape, num_classes=3, seed=seed) for seed in range(3)]
    stack = Stack([build_network(network, nn.SiLU, input_shape=shape, num_classes=3, seed=seed) for seed in range(3)],
                  range(3), input_shape=shape, width=width)  # fmt: skip
    inputs = torch.rand(*([] if shared else [3]), 6, *shape)
    labels = torch.arange(math.prod(inputs.shape[: -len(shape)])).view(inputs.shape[: -len(shape)]) % 3

    losses = stack.losses(inputs, labels)
    losses.sum().backward()

    for seed, plain in enumerate(alone):
        own = (inputs, labels) if shared else (inputs[seed], labels[seed])
        loss = cross_entropy(plain(own[0]), own[1])
        loss.backward()
        assert losses[seed].item() == pytest.approx(loss.item(), rel=1e-5)
        for ours, theirs in zip(stack.parameters(), plain.parameters(), strict=True):
            assert torch.allclose(ours.grad[seed], theirs.grad, atol=1e-5)


@pytest.mark.parametrize("name", ["TutorialCNN", "ConvNet", "ResNet20"])
def test_a_network_of_images_says_that_it_takes_no_others(name):
    with pytest.raises(ValueError, match=rf"^{name} fails for inputs of shape \(5,\): .*channels, height, width"):
        build_network(NETWORKS[name], nn.ReLU, input_shape=(5,), num_classes=3, seed=0)


def test_a_network_of_the_users_that_fails_is_named_with_the_shape_and_the_reason():
    with pytest.raises(ValueError, match=r"^Rows fails for inputs of shape \(5,\): not enough values to unpack"):
        build_network(Rows, nn.ReLU, input_shape=(5,), num_classes=3, seed=0)
