"""Convolutions of a stack: banded, and as products with unfolded images."""

import copy

import pytest
import torch
from pytorch_lightning import Trainer
from stacks import batches, stack
from torch import nn
from torch.nn import functional as F

from actbench.networks import ConvNet, ResNet20
from actbench.training.checkpoints.form import is_description
from actbench.training.classifier import Classifier
from actbench.training.engines.stack import convolution
from actbench.training.engines.stack.convolution import convolve


@pytest.mark.parametrize(
    ("size", "kernel", "padding"),
    [
        ((8, 8), (3, 3), (1, 1)),
        ((5, 9), (3, 5), (1, 2)),
        ((6, 4), (2, 3), (0, 1)),
        ((7, 7), (7, 7), (0, 0)),
        ((4, 5), (1, 1), (0, 0)),
        ((4, 5), (1, 3), (0, 1)),
    ],
)
@pytest.mark.parametrize("out_channels", [5, 1])  # with fewer than the images have, the output's rows are gathered
def test_a_banded_convolution_is_torchs(size, kernel, padding, out_channels):
    images = torch.rand(4, 2, 3, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(4, out_channels, 3, *kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.rand(4, out_channels, dtype=torch.float64, requires_grad=True)
    inputs = images, weight, bias

    ours = torch.func.vmap(lambda i, w, b: convolve(i, w, b, padding))(*inputs)
    theirs = torch.stack([F.conv2d(i, w, b, padding=padding) for i, w, b in zip(*inputs, strict=True)])

    assert torch.allclose(ours, theirs)
    outer = torch.rand_like(ours)
    for ours_gradient, theirs_gradient in zip(
        torch.autograd.grad(ours, inputs, outer), torch.autograd.grad(theirs, inputs, outer), strict=True
    ):
        assert torch.allclose(ours_gradient, theirs_gradient)


CONVOLUTIONS = {
    "plain": nn.Conv2d(2, 3, 3),
    "padded": nn.Conv2d(2, 3, 3, padding=1),
    "by steps": nn.Conv2d(2, 3, (3, 5), stride=(2, 1), padding=(0, 2)),
    "dilated": nn.Conv2d(2, 3, 3, dilation=2, padding=1, bias=False),
    "single pixels": nn.Conv2d(2, 3, 1, stride=2),
}


class OneConvolution(nn.Module):
    def __init__(self, layer, activation, input_shape, num_classes):
        super().__init__()
        self.layer = layer
        self.head, self.activation = nn.Linear(3, num_classes), activation()
        nn.init.normal_(self.layer.weight)

    def forward(self, images):
        return self.head(self.activation(self.layer(images)).mean((2, 3)))


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_of_unfolded_images_is_the_convolution(name):
    def network(**arguments):
        return OneConvolution(copy.deepcopy(CONVOLUTIONS[name]), **arguments)

    shape = (2, 9, 8)
    plain, unfolding = stack(network, shape=shape), stack(network, shape=shape)
    images, labels = batches(range(4), 1, shape=shape)[0]
    met = []
    unfolding.unfolded = Everything(met)

    for trained in (plain, unfolding):
        trained.losses(images, labels).sum().backward()

    assert met
    torch.testing.assert_close(unfolding(images), plain(images))
    for own, other in zip(unfolding.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)


class Everything:
    """A set that holds all that is looked for."""

    def __init__(self, met):
        self.met = met

    def __contains__(self, layer):
        self.met.append(layer)
        return True


def test_a_trial_chooses_the_faster_form_of_each_convolution(monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(convolution, "perf_counter", lambda: next(clock) * cost["of"])
    cost = {"of": 1}

    def unfold(*args):
        cost["of"] = 0.5 if args[4] == (2, 2) else 1
        return nn.functional.unfold(*args)

    def grouped(*args):
        cost["of"] = 1
        return nn.functional.conv2d(*args)

    monkeypatch.setattr(convolution, "unfold", unfold)
    monkeypatch.setattr(convolution, "conv2d", grouped)
    trained = stack(ResNet20, seeds=range(2))

    trained.choose_convolutions(torch.zeros(2, 1, 8, 8))

    assert {layer.stride for layer in trained.unfolded} == {(2, 2)}
    assert len(trained.unfolded) == 2


def test_the_chosen_convolutions_are_kept_in_a_checkpoint():
    def classifier():
        return Classifier("swish", ConvNet, replicates=2, engine="stack", input_shape=(1, 8, 8), num_classes=10)

    chosen, resumed = classifier(), classifier()
    chosen.engine.unfolded = {convolution.Layer((64, 1, 8, 8), (32, 1, 3, 3), (1, 1), (1, 1), (1, 1))}
    checkpoint = {"state_dict": {}}
    chosen.trainer = resumed.trainer = Trainer(logger=False, enable_checkpointing=False)

    chosen.on_save_checkpoint(checkpoint)
    resumed.on_load_checkpoint(copy.deepcopy(checkpoint))

    assert resumed.engine.unfolded == chosen.engine.unfolded
    assert is_description(checkpoint["actbench"])
