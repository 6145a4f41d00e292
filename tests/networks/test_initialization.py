"""Scaled initial weights, against calculations that know nothing of ours."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook as has_hooks
from torch.utils.checkpoint import checkpoint

from actbench.networks import ResNet20, TutorialCNN, build_network, scale_by_data, scale_by_gain
from actbench.specs import NetworkSpec


class Deep(nn.Module):
    """Six wide layers."""

    def __init__(self, activation, input_shape, num_classes, bias=True):
        super().__init__()
        (width,) = input_shape
        layers = [nn.Sequential(nn.Linear(width, width, bias=bias), activation()) for _ in range(6)]
        self.layers = nn.Sequential(*layers, nn.Linear(width, num_classes, bias=bias))

    def forward(self, x):
        return self.layers(x)


class SquaredReLU(nn.Module):
    def forward(self, x):
        return F.relu(x) ** 2


def built(network, activation=nn.ReLU, shape=(1, 8, 8), seed=0):
    return build_network(network, activation, input_shape=shape, num_classes=10, seed=seed)


def test_gain_keeps_signals_of_relu_in_size_as_he_initialisation_does():
    network = built(partial(Deep, bias=False), shape=(512,))
    x = torch.randn(256, 512, generator=torch.Generator().manual_seed(0))

    before = network.layers[:-1](x).square().mean().item()
    scaled = scale_by_gain(network, x[:2], math.sqrt(2))

    assert scaled == (7, 7, 6, 0)
    # Weights of variance 1/fan_in and 2/fan_in; torch's default is 1/(3 fan_in).
    assert [layer.weight.square().mean().item() * 512 for layer in linear(network)] == pytest.approx([1] + [2] * 6)
    after = network.layers[:-1](x).square().mean().item()
    assert before < 1e-4
    assert after == pytest.approx(0.5, rel=0.3)  # E relu(z)² of a standard normal z


def linear(network):
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


@pytest.mark.parametrize(
    "scale", [scale_by_data, lambda network, x: scale_by_gain(network, x, 1.7)], ids=["data", "gain"]
)
def test_scaled_weights_are_the_draws_times_one_number_for_each_layer(scale):
    drawn, network = built(TutorialCNN), built(TutorialCNN)

    scale(network, torch.rand(64, 1, 8, 8))

    for (name, before), after in zip(drawn.named_parameters(), network.parameters(), strict=True):
        ratio = after / before
        assert torch.allclose(ratio, ratio.flatten()[0].expand_as(ratio), rtol=1e-5), name
        assert name.endswith("weight") != bool(torch.equal(before, after)), name


@pytest.mark.parametrize(
    ("network", "activation"),
    [(TutorialCNN, nn.ReLU), (TutorialCNN, SquaredReLU), (ResNet20, nn.ReLU), (ResNet20, nn.Tanh)],
)
def test_by_data_every_layer_has_outputs_of_variance_one(network, activation):
    network = built(network, activation)
    x = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    scaled = scale_by_data(network, x)

    layers = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    assert scaled[:2] == (len(layers), len(layers))
    deviations = []

    def measure(module, args, output):
        bias = 0 if module.bias is None else module.bias.view(-1, *[1] * (output.ndim - 2))
        deviations.append((output - bias).std().item())

    for layer in layers:
        layer.register_forward_hook(measure)
    network.train()(x)  # BatchNorm by the batch
    assert deviations == pytest.approx([1] * len(layers), rel=1e-3)


def test_a_network_that_is_scaled_keeps_its_modes():
    network = built(TutorialCNN)
    network.eval()
    first = next(network.children()).train()
    modes = [module.training for module in network.modules()]

    scale_by_data(network, torch.rand(8, 1, 8, 8))
    scale_by_gain(network, torch.rand(8, 1, 8, 8), 2.0)

    assert not has_hooks()  # with which torch.compile would not compile
    assert not any(module._forward_hooks for module in network.modules())
    assert first.training
    assert [module.training for module in network.modules()] == modes


def test_layers_behind_a_normalisation_or_another_layer_have_a_gain_of_one():
    class Mixed(nn.Module):
        def __init__(self, activation, input_shape, num_classes):
            super().__init__()
            self.first = nn.Conv2d(1, 8, 3, padding=1)
            self.second = nn.Conv2d(8, 8, 1)  # behind a layer
            self.act = activation()
            self.pool, self.norm = nn.MaxPool2d(2), nn.GroupNorm(2, 8)
            self.third = nn.Conv2d(8, 8, 3, padding=1, groups=2)  # behind the activation and a pool
            self.fourth = nn.Conv2d(8, 8, 3, padding=1)  # behind a normalisation
            self.up = nn.ConvTranspose2d(8, 4, 4, stride=2)
            self.out = nn.Linear(4, num_classes)

        def forward(self, x):
            y = self.pool(self.act(self.second(self.first(x))))
            y = self.up(self.fourth(self.norm(self.third(y))))
            return self.out(y.mean((2, 3)))

    network = built(Mixed)

    scaled = scale_by_gain(network, torch.rand(2, 1, 8, 8), 3.0)

    assert scaled == (6, 6, 1, 1)
    variances = {name: m.weight.square().mean().item() for name, m in network.named_children() if hasattr(m, "weight")}
    expected = {
        "first": 1 / 9,
        "second": 1 / 8,
        "third": 9 / 36,
        "fourth": 1 / 72,
        "up": 1 / (8 * 16 / 4),
        "out": 1 / 4,
    }
    assert {name: variances[name] for name in expected} == pytest.approx(expected)


def test_a_swapped_activation_counts_as_much_as_one_that_the_network_takes():
    network = built(NetworkSpec("torchvision.models.squeezenet1_1"), shape=(3, 64, 64))

    scaled = scale_by_gain(network, torch.rand(2, 3, 64, 64), math.sqrt(2))

    assert scaled == (26, 26, 25, 0)  # all but the first convolution read a ReLU


def test_what_cannot_be_known_is_refused_and_what_cannot_be_scaled_stays():
    class Checkpointed(Deep):
        def forward(self, x):
            return checkpoint(self.layers, x, use_reentrant=True) if x.requires_grad else self.layers(x)

    with pytest.raises(ValueError, match=r"runs layers\.1\.0 without gradients"):
        scale_by_gain(built(Checkpointed, shape=(8,)), torch.rand(2, 8), 1.0)

    network = built(Deep, shape=(8,))
    with torch.no_grad():
        network.layers[2][0].weight.zero_()
    assert scale_by_gain(network, torch.rand(2, 8), 1.0).scaled == 6
    assert not network.layers[2][0].weight.any()
    assert scale_by_data(network, torch.rand(4, 8)).scaled < 7
    assert all(parameter.isfinite().all() for parameter in network.parameters())
