"""Activations that run where no mode for torch's functions sees them."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from actbench.networks import SwapError, build_network
from actbench.specs import NetworkSpec

SHAPE = (1, 8, 8)


def swapped(network, **options):
    return build_network(NetworkSpec(network), nn.Mish, input_shape=SHAPE, num_classes=5, seed=0, **options)


class Unseen(nn.Module):
    """A ReLU, and an activation that is not seen."""

    def __init__(self, num_classes):
        super().__init__()
        self.a, self.b = nn.Linear(64, 32), nn.Linear(32, 32)
        self.head = nn.Linear(32, num_classes)
        self.block = Block(self)

    def forward(self, x):
        return self.head(F.relu(self.b(self.block(x))))

    def unseen(self, x):
        return x


class Block(nn.Module):
    def __init__(self, outer):
        super().__init__()
        self.a, self.function = outer.a, type(outer).unseen

    def forward(self, x):
        return self.function(self, self.a(x.flatten(1)))


def swish(x):
    return x.mul(x.sigmoid())


with warnings.catch_warnings():
    warnings.filterwarnings("ignore", ".*torch.jit.script", FutureWarning)
    scripted_swish = torch.jit.script(swish)


class ScriptedFunction(Unseen):
    def unseen(self, x):
        return scripted_swish(x)


class Overload(Unseen):
    def unseen(self, x):
        return torch.ops.aten.silu.default(x)


class Cut(torch.autograd.Function):
    """ReLU of no function that is an activation."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * (x > 0)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (x > 0)


class Doubled(torch.autograd.Function):
    """No activation: a line."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class BareFunction(Unseen):
    def unseen(self, x):
        return Cut.apply(x)


cut = Cut.apply  # as published code names it


class Alias(Unseen):
    def unseen(self, x):
        return cut(x)


class Line(Unseen):
    def unseen(self, x):
        return Doubled.apply(x)


class SwishModule(nn.Module):
    def forward(self, x):
        return scripted_swish(x)


class ScriptedInModule(Unseen):
    """A module whose only content is a scripted function can be replaced as a whole."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.block.swish = SwishModule()

    def unseen(self, x):
        return self.swish(x)


@pytest.mark.parametrize("sites", ["hidden", "all"])
def test_an_activation_that_cannot_be_intercepted_is_refused_by_its_path(sites):
    with pytest.raises(SwapError, match=r"ScriptedFunction: block runs aten.sigmoid where it cannot be intercepted"):
        swapped(ScriptedFunction, sites=sites)


def test_an_autograd_function_that_is_an_activation_is_refused_unless_it_is_left_out():
    with pytest.raises(SwapError, match=r"block .Cut. cannot be swapped: it is inside of an autograd function; leave"):
        swapped(BareFunction)

    network = swapped(BareFunction, sites=["."])

    assert [(site.name, site.swapped) for site in network.certificate.sites] == [("block", False), (".", True)]


def test_an_autograd_function_is_known_under_another_name():
    with pytest.raises(SwapError, match=r"block .gt, mul. cannot be swapped: it is inside of an autograd function"):
        swapped(Alias)


def test_an_autograd_function_along_a_line_is_no_site():
    assert len(swapped(Line).certificate.sites) == 1


def test_an_operator_of_torch_is_swapped_as_its_function_is():
    network, x = swapped(Overload), torch.randn(4, *SHAPE)
    own = network.network

    expected = own.head(F.mish(own.b(F.mish(own.a(x.flatten(1))))))

    torch.testing.assert_close(network(x), expected)


def test_a_module_around_a_scripted_function_is_swapped():
    network, x = swapped(ScriptedInModule), torch.randn(4, *SHAPE)
    own = network.network

    expected = own.head(F.mish(own.b(F.mish(own.a(x.flatten(1))))))

    torch.testing.assert_close(network(x), expected)
