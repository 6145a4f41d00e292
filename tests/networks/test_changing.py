"""Networks whose calls change from pass to pass, from seed to seed, or with the size of the batch."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from actbench.networks import SwapError, build_network
from actbench.specs import NetworkSpec
from actbench.training import Classifier

SHAPE = (1, 8, 8)


def swapped(network, activation=nn.Mish, *, seed=0, **options):
    return build_network(NetworkSpec(network), activation, input_shape=SHAPE, num_classes=5, seed=seed, **options)


class Base(nn.Module):
    """Four linear layers, between which `middle` computes."""

    def __init__(self, num_classes):
        super().__init__()
        self.a = nn.Linear(64, 32)
        self.b, self.c, self.d = (nn.Linear(32, 32) for _ in range(3))
        self.head = nn.Linear(32, num_classes)

    def middle(self, x):
        return x

    def forward(self, x):
        return self.head(self.middle(self.a(x.flatten(1))))


# --- skipped at random ---


class RarelySkipped(Base):
    """The block of the first call is left out in one pass of a thousand, or when it is told to."""

    skip = False

    def middle(self, x):
        if self.training and (self.skip or torch.rand(()) < 1e-3):
            return x + F.relu(self.c(x)).mean(-1, keepdim=True)
        return x + self.b(F.relu(x)) + F.relu(self.c(x)).mean(-1, keepdim=True)


class OftenSkipped(Base):
    """Layer drop."""

    def middle(self, x):
        for layer in (self.b, self.c, self.d):
            if not self.training or torch.rand(()) < 0.5:
                x = x + F.relu(layer(x))
        return x


class Block(nn.Sequential):
    """A block with an activation of its own."""

    def __init__(self, *_):
        super().__init__(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))


class SkippedWhole(Base):
    """A module is left out as a whole, when it is told to."""

    skip = False

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.block = Block()

    def middle(self, x):
        x = F.relu(x)
        return x if self.skip else x + self.block(x)


@pytest.mark.parametrize("sites", ["hidden", [".#0"]])
def test_a_skipped_call_does_not_pass_its_activation_on_to_the_next(sites):
    network = swapped(RarelySkipped, sites=sites).train()
    network(torch.randn(4, *SHAPE))
    network.network.skip = True

    with pytest.raises(SwapError, match="1 times, and 2 times when it was examined: calls that change from pass to"):
        network(torch.randn(4, *SHAPE))

    network.eval()(torch.randn(4, *SHAPE))  # in which nothing is skipped


def test_a_module_may_be_skipped_as_a_whole():
    network = swapped(SkippedWhole)
    own, x = network.network, torch.randn(4, *SHAPE)
    own.skip = True

    expected = own.head(F.mish(own.a(x.flatten(1))))

    torch.testing.assert_close(network(x), expected)


def test_layer_drop_is_refused_for_what_it_is():
    with pytest.raises(SwapError, match=r"OftenSkipped: calls .* are skipped at random in training"):
        swapped(OftenSkipped)


# --- wired by the seed ---


class WiredBySeed(Base):
    """Which of two calls of ReLU is hidden, and which is the head, depends on the seed."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.first = bool(torch.rand(()) < 0.5)

    def forward(self, x):
        x = self.a(x.flatten(1))
        if self.first:
            return self.head(F.relu(x)) + F.relu(x).mean(-1, keepdim=True)
        return F.relu(x).mean(-1, keepdim=True) + self.head(F.relu(x))


def wirings():
    """The first two seeds whose networks are wired in different ways."""
    first = [swapped(WiredBySeed, seed=seed).network.first for seed in range(20)]
    return first.index(True), first.index(False)


def test_a_network_that_its_seed_wires_has_a_plan_of_its_own():
    for seed in (*wirings(), *reversed(wirings())):
        network = swapped(WiredBySeed, seed=seed).eval()
        own, x = network.network, torch.randn(4, *SHAPE)
        h = own.a(x.flatten(1))

        expected = own.head(F.mish(h)) + F.relu(h).mean(-1, keepdim=True)

        torch.testing.assert_close(network(x), expected)


def test_replicates_with_other_sites_are_refused_by_their_seed():
    low = min(wirings())
    high = max(wirings())

    with pytest.raises(SwapError, match=f"WiredBySeed has other sites with seed {high} than with seed {low}"):
        Classifier(
            "mish", NetworkSpec(WiredBySeed), input_shape=SHAPE, num_classes=5, seed=low, replicates=high - low + 1
        )
