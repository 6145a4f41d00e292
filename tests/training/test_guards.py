"""A replayed step is the step that would have run, whatever Python the user's modules read."""

import copyreg
import runpy

import pytest
import torch
from adversarial import FAST, SLOW, NumpyRandom, PythonRandom
from conftest import ROOT
from torch import nn
from torch.nn import functional as F

from actbench.activations import CATALOGUE
from actbench.networks import MLP, NETWORKS, build_network
from actbench.specs import ActivationSpec, OptimizerSpec
from actbench.training.engines import EngineError, SequenceEngine, Stack, choose
from actbench.training.engines.stack import replay
from actbench.training.engines.stack.bytecode import Unguarded
from actbench.training.engines.stack.guards import python_state

SHAPE = (1, 4, 4)


def networks(activation, count=3, network=MLP):
    return [build_network(network, activation, input_shape=SHAPE, num_classes=3, seed=seed) for seed in range(count)]


def trained(activation, steps=26):
    """A stack that is trained for some steps while its activation is disturbed; its losses, and the recordings."""
    engine = Stack(networks(activation), range(3), input_shape=SHAPE, width=None)
    optimizer = torch.optim.SGD(engine.parameters(), lr=0.1)
    generator, losses = torch.Generator().manual_seed(0), []
    for step in range(steps):
        getattr(activation, "disturb", lambda network, step: None)(engine, step)
        images, labels = torch.rand(3, 8, *SHAPE, generator=generator), torch.arange(24).view(3, 8) % 3
        optimizer.zero_grad()
        loss = engine.losses(images, labels, key=(step,))
        loss.sum().backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses), engine.replay.recordings


@pytest.mark.parametrize("activation", FAST, ids=lambda cls: cls.__name__)
def test_what_is_replayed_is_what_would_run(activation, monkeypatch):
    getattr(activation, "disturb", lambda network, step: None)(nn.Module(), 0)
    bend = vars(activation).get("bend")
    monkeypatch.setattr(replay, "CALLS", 10**9)
    expected, none = trained(activation)
    if bend:
        activation.bend = bend
    monkeypatch.setattr(replay, "CALLS", 4)

    losses, recordings = trained(activation)

    assert not none
    assert recordings, "it was never replayed"
    assert torch.equal(losses, expected)
    assert len(losses.unique()) > 65


@pytest.mark.parametrize("activation", SLOW, ids=lambda cls: cls.__name__)
def test_what_cannot_be_followed_is_trained_as_plain_modules(activation):
    sequence = SequenceEngine(networks(activation), range(3), input_shape=SHAPE)

    engine, reason = choose(sequence, batch=8, device=torch.device("cpu"), optimizer=OptimizerSpec("SGD"), width=None)

    assert engine is sequence
    assert "MLP cannot be stacked: " in reason


@pytest.mark.parametrize("activation", [PythonRandom, NumpyRandom])
def test_a_stack_refuses_draws_that_cannot_follow_a_seed(activation):
    with pytest.raises(EngineError, match=r"MLP cannot be stacked: it .*[rR]andom"):
        Stack(networks(activation), range(3), input_shape=SHAPE, width=None)


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_activation_of_the_catalogue_is_guarded(name):
    python_state(networks(ActivationSpec(name), 1)[0])


@pytest.mark.parametrize("network", NETWORKS.values(), ids=list(NETWORKS))
def test_every_network_of_ours_is_guarded(network):
    shape = (1, 40) if network is NETWORKS["ConvNet1d"] else (1, 8, 8)
    plain = build_network(network, nn.SiLU, input_shape=shape, num_classes=3, seed=0)

    assert python_state(plain).values == python_state(plain).values


def published(x):
    return x * torch.sigmoid(x)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.beta = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return F.softplus(x) * torch.tanh(self.beta * x) + published(x) if x.ndim > 1 else x


def test_an_ordinary_activation_of_a_user_is_guarded():
    python_state(networks(Plain, 1)[0])


@pytest.mark.parametrize(("file", "name"), [("own_activation", "Cubic"), ("own_network", "Branches")])
def test_the_examples_are_guarded(file, name):
    example = runpy.run_path(str(ROOT / "examples" / f"{file}.py"))[name]

    python_state(networks(example, 1)[0] if name == "Cubic" else networks(nn.SiLU, 1, example)[0])


class Later(nn.Module):
    """It branches on values, but only once a callback has told it to."""

    later = False

    def forward(self, x):
        return x / x.max() if self.later and x.max() > 1 else x


def test_code_that_cannot_be_stacked_and_runs_later_is_one_line(monkeypatch):
    engine = Stack(networks(Later), range(3), input_shape=SHAPE, width=None)
    images, labels = torch.rand(3, 8, *SHAPE), torch.arange(24).view(3, 8) % 3
    engine.losses(images, labels)

    monkeypatch.setattr(Later, "later", True)

    with pytest.raises(EngineError, match=r"MLP cannot be stacked: vmap: .*; set model.engine to sequence"):
        engine.losses(images, labels)


def test_a_reason_says_what_is_read():
    with pytest.raises(Unguarded, match="it calls random, which"):
        python_state(networks(PythonRandom, 1)[0])


class SignByList(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x * torch.tensor([float(value > 0) for value in x.flatten().tolist()]).view(x.shape)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (ctx.saved_tensors[0] > 0)

    @staticmethod
    def vmap(info, in_dims, x):
        return SignByList.apply(x), in_dims[0]


class ByList(nn.Module):
    def forward(self, x):
        return SignByList.apply(x)


def test_values_that_a_rule_of_vmap_reads_unseen_are_not_guarded():
    network = build_network(MLP, ByList, input_shape=(1, 8, 8), num_classes=10, seed=0)

    with pytest.raises(Unguarded, match="reads tolist, which hands values to Python unseen"):
        python_state(network)


def test_a_warning_of_torch_changes_nothing_that_is_guarded(monkeypatch):
    network = build_network(MLP, nn.SiLU, input_shape=(1, 8, 8), num_classes=10, seed=0)
    monkeypatch.delitem(vars(torch.nn.functional), "__warningregistry__", raising=False)
    before = python_state(network).values

    monkeypatch.setitem(vars(torch.nn.functional), "__warningregistry__", {})

    assert python_state(network).values == before


def test_the_first_pickled_tensor_changes_nothing_that_is_guarded():
    network = build_network(MLP, nn.SiLU, input_shape=(1, 8, 8), num_classes=10, seed=0)
    if "__slotnames__" in vars(torch.Tensor):
        del torch.Tensor.__slotnames__
    before = python_state(network).values

    copyreg._slotnames(torch.Tensor)  # which pickle and copy call

    assert "__slotnames__" in vars(torch.Tensor)
    assert python_state(network).values == before
