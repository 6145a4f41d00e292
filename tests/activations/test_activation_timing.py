import time
from statistics import median

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import relu

from actbench.activations import Swish
from actbench.activations.timing import interleaved_times, training_pass
from actbench.networks import build_network
from actbench.networks.step import step_and_sites
from actbench.specs import ActivationSpec, NetworkSpec


class Foreign(nn.Module):
    """A network that knows nothing of actbench."""

    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 5, 3), nn.Linear(180, 7), nn.Linear(7, num_classes)

    def forward(self, x):
        return self.third(relu(self.second(relu(self.first(x)).flatten(1))))


def test_all_functions_are_measured_in_each_round_forth_and_back():
    called = []

    def run(name, seconds):
        called.append(name)
        time.sleep(seconds)

    times = interleaved_times({"short": lambda: run("short", 0.002), "long": lambda: run("long", 0.01)}, seconds=0.1)

    turns = [name for name, before in zip(called, [None, *called], strict=False) if name != before]
    assert len(times["short"]) == len(times["long"]) >= 5
    # Where a round turns back, and where the next one begins, a function is its own successor.
    assert turns == ["short", "long"] * (1 + len(times["long"])) + ["short"]
    assert median(np.divide(times["long"], times["short"])) > 1.5  # 5 on an idle machine


def test_a_pass_goes_back_to_the_input_and_to_the_parameters():
    inputs, activation = torch.linspace(-2, 2, 9), Swish(trainable=True)
    leaf = inputs.clone().requires_grad_()

    gradients = training_pass(activation, inputs)()

    activation(leaf).sum().backward()
    assert torch.equal(gradients[0], leaf.grad)
    assert torch.equal(gradients[1], activation.beta.grad)


@pytest.mark.parametrize("activation", [nn.ReLU(inplace=True), nn.LeakyReLU(0.5, inplace=True)])
def test_an_activation_that_writes_in_place_meets_the_same_input_each_time(activation):
    run = training_pass(activation, torch.linspace(-2, 2, 9))

    first = run()[0]

    assert torch.equal(run()[0], first)
    assert first[0] < 1


def test_a_step_trains_and_its_sites_do_not():
    options = {"input_shape": (1, 8, 8), "num_classes": 10, "seed": 0}
    network = build_network(NetworkSpec("TutorialCNN"), ActivationSpec("prelu"), **options)
    called = []
    step, sites = step_and_sites(network, torch.rand(4, 1, 8, 8), torch.arange(4))
    for module in network.modules():
        if isinstance(module, nn.PReLU):
            module.register_forward_pre_hook(lambda module, given: called.append(tuple(given[0].shape)))
    before = [parameter.clone() for parameter in network.parameters()]

    sites()

    assert called == [(4, 4, 8, 8), (4, 4, 8, 8), (4, 1, 8, 8), (4, 128), (4, 128)]
    assert all(torch.equal(*pair) for pair in zip(before, network.parameters(), strict=True))
    step()
    assert not any(torch.equal(*pair) for pair in zip(before, network.parameters(), strict=True))


def test_the_sites_of_a_swapped_network_are_those_that_were_swapped():
    options = {"input_shape": (3, 8, 8), "num_classes": 10, "seed": 0}
    network = build_network(NetworkSpec(Foreign), ActivationSpec("silu"), **options)
    called = []

    _, sites = step_and_sites(network, torch.rand(2, 3, 8, 8), torch.arange(2))
    for module in network.activations:
        module.register_forward_pre_hook(lambda module, given: called.append(tuple(given[0].shape)))
    sites()

    assert called == [(2, 5, 6, 6), (2, 7)]
