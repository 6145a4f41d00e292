import copy
from itertools import pairwise, product

import pytest
import torch
from torch import nn

from actbench.activations import Swish
from actbench.networks import (
    MLP,
    NETWORKS,
    ConvNet,
    ConvNet1d,
    ResNet20,
    TutorialCNN,
    build_network,
    compared_modules,
)
from actbench.studies.cells.measurements import initial_weights
from actbench.training.classifier import Classifier

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]
OF_IMAGES = [network for network in NETWORKS.values() if network is not ConvNet1d]
EACH = [*((network, (1, 8, 8)) for network in OF_IMAGES), (ConvNet1d, (1, 40))]


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("network", "shape"),
    [*product(OF_IMAGES, SHAPES), *product([ConvNet1d], [(1, 40), (2, 3), (1, 41)]), (MLP, (1, 40))],
)
def test_networks_map_images_to_logits(network, shape):
    built = build_network(network, nn.ReLU, input_shape=shape, num_classes=7, seed=0)

    logits = built(torch.rand(5, *shape))

    assert logits.shape == (5, 7)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in built.parameters())


@pytest.mark.parametrize(("network", "shape"), EACH)
def test_every_site_has_its_own_activation(network, shape):
    built = build_network(network, nn.PReLU, input_shape=shape, num_classes=10, seed=0)
    plain = build_network(network, nn.ReLU, input_shape=shape, num_classes=10, seed=0)

    slopes = [module for module in built.modules() if isinstance(module, nn.PReLU)]

    sites = [module for module in plain.modules() if isinstance(module, nn.ReLU)]
    assert len(slopes) == len(sites) > 1
    assert parameters(built) == parameters(plain) + len(sites)


@pytest.mark.parametrize(("network", "shape"), EACH)
@pytest.mark.parametrize("activation", [nn.PReLU, lambda: Swish(trainable=True), nn.Tanh])
def test_an_activation_does_not_change_the_initial_weights(network, shape, activation):
    relu = build_network(network, nn.ReLU, input_shape=shape, num_classes=10, seed=3).state_dict()

    other = build_network(network, activation, input_shape=shape, num_classes=10, seed=3).state_dict()

    assert set(relu) <= set(other)
    assert all(torch.equal(relu[name], other[name]) for name in relu)


def test_an_activation_that_draws_does_not_change_the_initial_weights():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.slope = nn.Parameter(torch.rand(1))

        def forward(self, x):
            return self.slope * x

    relu = build_network(TutorialCNN, nn.ReLU, input_shape=(1, 8, 8), num_classes=10, seed=3).state_dict()

    noisy = build_network(TutorialCNN, Noisy, input_shape=(1, 8, 8), num_classes=10, seed=3).state_dict()

    slopes = [value.item() for name, value in noisy.items() if name.endswith("slope")]
    assert len(set(slopes)) == 5
    assert all(torch.equal(relu[name], noisy[name]) for name in relu)


def test_another_seed_gives_other_weights_and_the_global_generator_does_not_matter():
    torch.manual_seed(1)
    first = build_network(TutorialCNN, nn.ReLU, input_shape=(1, 8, 8), num_classes=10, seed=0).state_dict()
    torch.manual_seed(2)
    again = build_network(TutorialCNN, nn.ReLU, input_shape=(1, 8, 8), num_classes=10, seed=0).state_dict()
    other = build_network(TutorialCNN, nn.ReLU, input_shape=(1, 8, 8), num_classes=10, seed=1).state_dict()

    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_tutorial_cnn_has_the_tutorials_layers():
    network = TutorialCNN(nn.ReLU, (1, 8, 8), 10)

    channels = [(m.in_channels, m.out_channels, m.kernel_size) for m in network.modules() if isinstance(m, nn.Conv2d)]
    widths = [(m.in_features, m.out_features) for m in network.modules() if isinstance(m, nn.Linear)]

    assert channels == [(1, 4, (3, 3)), (4, 4, (3, 3)), (4, 1, (3, 3))]
    assert widths == [(64, 128), (128, 128), (128, 10)]


def test_parameter_counts():
    conv = 9 * (1 * 32 + 32 * 64 + 64 * 128) + 2 * (32 + 64 + 128) + 128 * 10 + 10
    widths = (16, 16, 16, 16, 32, 32, 32, 64, 64, 64)
    blocks = sum(9 * (a * b + b * b) + 4 * b for a, b in pairwise(widths))
    resnet = 9 * 3 * 16 + 2 * 16 + blocks + 64 * 10 + 10

    assert parameters(ConvNet(nn.ReLU, (1, 28, 28), 10)) == conv == 94_186
    assert parameters(ResNet20(nn.ReLU, (3, 32, 32), 10)) == resnet == 269_722
    assert parameters(MLP(nn.ReLU, (1, 8, 8), 10, hidden=(3,))) == 64 * 3 + 3 + 3 * 10 + 10


def test_resnet20_has_twenty_weight_layers():
    network = ResNet20(nn.ReLU, (3, 32, 32), 10)

    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules()) == 20


@pytest.mark.parametrize("hidden", [(), (0,), (128, -1)])
def test_mlp_refuses_widths_that_are_none(hidden):
    with pytest.raises(ValueError, match="hidden"):
        MLP(nn.ReLU, (1, 8, 8), 10, hidden=hidden)


def test_convnet_refuses_images_that_it_would_pool_away():
    with pytest.raises(ValueError, match="7x9"):
        ConvNet(nn.ReLU, (1, 7, 9), 10)


def test_a_network_with_other_outputs_is_refused():
    class TwoLogits(nn.Module):
        def __init__(self, activation, input_shape, num_classes):
            super().__init__()

        def forward(self, images):
            return images.flatten(1)[:, :2]

    with pytest.raises(ValueError, match=r"TwoLogits maps inputs of shape \(2, 1, 8, 8\) to \(2, 2\)"):
        build_network(TwoLogits, nn.ReLU, input_shape=(1, 8, 8), num_classes=10, seed=0)


class Deaf(nn.Sequential):
    """Never calls the factory, or makes an activation and never calls that."""

    def __init__(self, activation, input_shape, num_classes, *, makes):
        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))
        self.__dict__["unused"] = activation() if makes else None


class Hidden(nn.Module):
    """Keeps its activation where torch does not find it."""

    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        self.linear, self.activations = nn.Linear(64, num_classes), [activation()]

    def forward(self, inputs):
        return self.activations[0](self.linear(inputs.flatten(1)))


class InTraining(Hidden):
    """Calls its activation in training alone."""

    def forward(self, inputs):
        return super().forward(inputs) if self.training else self.linear(inputs.flatten(1))


class Direct(Hidden):
    """Calls the method of its activation, past all hooks."""

    def forward(self, inputs):
        return self.activations[0].forward(self.linear(inputs.flatten(1)))


class OnLight(Hidden):
    """Calls its activation where an image is not black."""

    def forward(self, inputs):
        return super().forward(inputs) if inputs.any() else self.linear(inputs.flatten(1))


@pytest.mark.parametrize("makes", [False, True])
def test_a_network_that_calls_no_activation_is_refused_by_name(makes):
    with pytest.raises(ValueError, match=r"^Deaf never calls its activation"):
        build_network(partial_class(Deaf, makes=makes), nn.ReLU, input_shape=(1, 8, 8), num_classes=10, seed=0)


@pytest.mark.parametrize("network", [Hidden, InTraining, Direct, OnLight])
def test_a_network_may_call_its_activation_in_any_way(network):
    built = build_network(network, nn.ReLU, input_shape=(1, 8, 8), num_classes=10, seed=0).train()

    assert (built(torch.randn(9, 1, 8, 8)) >= 0).all()


def partial_class(cls, **arguments):
    return type(cls.__name__, (cls,), {"__init__": lambda self, **given: cls.__init__(self, **given, **arguments)})


class Both(nn.Sequential):
    """Has its own PReLU, and one activation in two places."""

    def __init__(self, activation, input_shape, num_classes):
        act = activation()
        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.PReLU(), act, nn.Linear(8, 10), act)


def test_what_the_factory_made_is_told_from_what_the_network_has_of_its_own():
    built = build_network(Both, nn.PReLU, input_shape=(1, 8, 8), num_classes=10, seed=0)

    assert list(compared_modules(built)) == [built[3]]
    assert len(list(compared_modules(copy.deepcopy(built)))) == 1


def test_pairs_start_from_the_same_weights_whatever_the_network_has_of_its_own():
    def fingerprints(activation):
        return initial_weights(Classifier(activation, "test_networks.Both", input_shape=(1, 8, 8), num_classes=10))

    assert fingerprints("relu") == fingerprints("prelu") == fingerprints("silu")


def test_conv_net_1d_has_the_layers_of_the_paper():
    network = ConvNet1d(nn.ReLU, (1, 40), 10)

    layers = [
        (m.in_channels, m.out_channels, m.kernel_size, m.stride, m.padding)
        for m in network.modules()
        if isinstance(m, nn.Conv1d)
    ]

    assert layers == [(inputs, 25, (kernel,), (2,), (1,)) for inputs, kernel in ((1, 5), (25, 3), (25, 3))]
    assert parameters(network) == 5 * 25 + 25 + 2 * (25 * 25 * 3 + 25) + 125 * 10 + 10


@pytest.mark.parametrize("shape", [(1, 2), (40,), (1, 8, 8)])
def test_conv_net_1d_takes_sequences_alone(shape):
    with pytest.raises(ValueError, match=r"ConvNet1d takes sequences \(channels, length\) of length 3 or more, got \("):
        build_network(ConvNet1d, nn.ReLU, input_shape=shape, num_classes=3, seed=0)
