"""Networks whose calls change from pass to pass, from seed to seed, or with the size of the batch."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from actbench.cli import main
from actbench.networks import SwapError, build_network
from actbench.seeding import global_stream
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


class Annealed(Base):
    """Counts its passes in training; outputs and the slope of an activation follow from the count."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.passes, self.seen = 0, {"shapes": []}

    def middle(self, x):
        if self.training:
            self.passes += 1
            self.seen["shapes"].append(tuple(x.shape))
        return self.c(F.leaky_relu(self.b(F.relu(x)) * (1 + self.passes / 100), 0.1 + self.passes / 100))


def test_a_network_that_counts_its_passes_is_swapped_and_starts_at_none():
    network = swapped("test_changing.Annealed")

    assert len(network.activations) == 2
    assert network.network.passes == 0
    assert network.network.seen == {"shapes": []}


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


class OtherBranch(Base):
    """One of two calls in training, always the first in evaluation."""

    def middle(self, x):
        return F.relu(self.b(x)) if not self.training or torch.rand(()) < 0.5 else F.relu(self.c(x))


@pytest.mark.parametrize(("cls", "site"), [(OftenSkipped, r"\.#0"), (OtherBranch, r"\.")])
def test_calls_that_one_module_makes_at_random_are_refused_by_their_site(cls, site):
    message = f"{cls.__name__}: {site} .relu. cannot be swapped: .* between which training chooses at random"

    with pytest.raises(SwapError, match=message):
        swapped(cls)


class Dropped(nn.Module):
    """A block that leaves itself out, by torch's or NumPy's generator, and calls two functions and a module."""

    def __init__(self, draw):
        super().__init__()
        self.draw, self.act = draw, nn.ReLU()
        self.a, self.b = nn.Linear(32, 32), nn.Linear(32, 32)

    def kept(self):
        return not self.training or self.draw() >= 0.6

    def forward(self, x):
        if not self.kept():
            return x
        return x + F.relu(self.b(self.act(x).add(1))) * torch.sigmoid(self.a(F.relu(self.a(x))))


def draw_torch():
    return torch.rand(())


def draw_numpy():
    return np.random.rand()  # noqa: NPY002  # as users do


class LayerDrop(Base):
    """Layer drop by torch's generator; all activations are inside of what is dropped."""

    draw = staticmethod(draw_torch)

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.blocks = nn.Sequential(*(Dropped(self.draw) for _ in range(4)))

    def middle(self, x):
        return self.blocks(x)


class DropByNumPy(LayerDrop):
    """The same by NumPy's generator, because the checks of shapes in tests draw from Python's."""

    draw = staticmethod(draw_numpy)


class DropWithTail(LayerDrop):
    """Whether blocks ran before decides which calls with weights come before an activation."""

    def middle(self, x):
        return self.b(F.relu(self.blocks(x)))


class MixedDrop(LayerDrop):
    """Its own calls are skipped one by one, those of its blocks together."""

    def middle(self, x):
        x = self.blocks(x)
        for layer in (self.b, self.c):
            if not self.training or torch.rand(()) < 0.5:
                x = x + F.relu(layer(x))
        return x


def by_hand(own, x, act):
    """What the network computes with the activation, written out."""
    x = own.a(x.flatten(1))
    for block in own.blocks:
        if block.kept():
            x = x + act(block.b(act(x).add(1))) * torch.sigmoid(block.a(act(block.a(x))))
    x = own.b(act(x)) if isinstance(own, DropWithTail) else x
    return own.head(x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("cls", [LayerDrop, DropByNumPy, DropWithTail])
def test_blocks_that_are_dropped_at_random_are_swapped(cls, training):
    network, x = swapped(cls).train(training), torch.randn(4, *SHAPE)

    for seed in range(40):  # of which about five drop all blocks
        with global_stream(seed, "dropout"):
            output = network(x)
        with global_stream(seed, "dropout"):
            torch.testing.assert_close(output, by_hand(network.network, x, F.mish))

    assert network.certificate.proved == ("train", "eval")
    assert all(site.swapped == (site.role != "gate") for site in network.certificate.sites)
    assert len(network.activations) == 4 * 3 + (cls is DropWithTail)


def test_calls_that_cannot_be_told_apart_may_be_left_out():
    network, x = swapped(MixedDrop, sites=["blocks.*"]), torch.randn(4, *SHAPE)

    for _ in range(10):
        network(x)

    assert [site.name for site in network.certificate.sites if not site.swapped] == [".#0", ".#1"]


@pytest.mark.parametrize("network", ["LayerDrop", "DropByNumPy"])
def test_replicates_with_layer_drop_are_trained_as_each_alone(network):
    images, labels = torch.rand(2, 4, *SHAPE), torch.randint(5, (2, 4))
    options = {"input_shape": SHAPE, "num_classes": 5, "engine": "sequence"}
    both, *each = (
        Classifier("prelu", f"test_changing.{network}", seed=seed, replicates=count, **options)
        for seed, count in ((0, 2), (0, 1), (1, 1))
    )

    for step in range(5):
        losses = both.engine.losses(images, labels, key=(0, step))
        alone = [one.engine.losses(images[n], labels[n], key=(0, step)) for n, one in enumerate(each)]

        assert torch.equal(losses.detach(), torch.cat(alone).detach())


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


# --- the size of the batch ---


class EachImage(Base):
    def middle(self, x):
        return torch.stack([F.relu(self.b(row)) for row in x])


class OtherForMany(Base):
    def middle(self, x):
        return F.relu(self.b(x)) if len(x) < 4 else F.gelu(self.b(x))


class Pairs(Base):
    """It takes even numbers of images only."""

    def middle(self, x):
        return F.relu(self.b(x.view(-1, 2, 32))).flatten(0, 1)


class InEights(Base):
    """The number of calls grows with batches that are larger than those examined."""

    def middle(self, x):
        return torch.cat([F.relu(self.b(part)) for part in x.split(8)])


@pytest.mark.parametrize("cls", [EachImage, OtherForMany])
def test_calls_that_depend_on_the_size_of_the_batch_are_refused(cls):
    with pytest.raises(SwapError, match=f"{cls.__name__}: .* depends on the size of the batch in train"):
        swapped(cls)


def test_a_network_that_takes_few_sizes_of_batch_is_swapped():
    assert swapped(Pairs)(torch.randn(6, *SHAPE)).shape == (6, 5)


def test_a_fit_whose_calls_change_ends_in_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "fit --model.network test_changing.InEights --model.activation mish --data FakeImages --data.rows 300"

    assert main([*words.split(), "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]) == 2

    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: the last batch that is scored has 50 of 1000 rows, with which InEights fails: ")
    assert "InEights calls torch.nn.functional.relu in its forward more often than when it was examined" in last


# --- vmap ---


class Vmapped(Base):
    def middle(self, x):
        return torch.func.vmap(lambda row: F.relu(self.b(row)))(x)


class VmappedGradient(Base):
    def middle(self, x):
        return torch.func.vmap(torch.func.grad(lambda row: F.softplus(self.b(row)).sum()))(x)


@pytest.mark.parametrize("cls", [Vmapped, VmappedGradient])
def test_an_activation_under_vmap_is_refused_for_what_it_is(cls):
    with pytest.raises(SwapError, match=r"\(\w+\) cannot be swapped: it is inside of vmap"):
        swapped(cls)
