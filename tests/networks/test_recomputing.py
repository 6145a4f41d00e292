"""Networks parts of which `torch.utils.checkpoint` runs a second time, in the backward pass."""

import contextlib

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from actbench.networks import SwapError, build, build_network, swap
from actbench.specs import NetworkSpec
from actbench.training import Classifier

SHAPE = (1, 8, 8)
pytestmark = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")


class Block(nn.Module):
    """A module that is called twice, a function, and a product by hand."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)
        self.act, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.3)

    def forward(self, x):
        x = self.act(self.b(F.silu(self.act(self.a(x)))))
        return self.drop(x * torch.sigmoid(self.a(x)))


class Checkpointed(nn.Module):
    """Blocks in checkpoints, one of them in another one's."""

    def __init__(self, num_classes, reentrant=False, keeps=False):
        super().__init__()
        self.reentrant, self.keeps = reentrant, keeps
        self.stem, self.head = nn.Linear(64, 16), nn.Linear(16, num_classes)
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def run(self, function, *inputs):
        return function(*inputs) if self.keeps else checkpoint(function, *inputs, use_reentrant=self.reentrant)

    def last(self, x):
        return self.run(self.blocks[2], self.blocks[1](F.relu(x)))

    def forward(self, x):
        x = self.run(self.blocks[0], F.relu(self.stem(x.flatten(1))))
        return self.head(F.relu(self.run(self.last, x)))


def made(activation=nn.PReLU, **options):
    spec = NetworkSpec({"class_path": "test_recomputing.Checkpointed", "init_args": options})
    return build_network(spec, activation, input_shape=SHAPE, num_classes=5, seed=0)


def gradients(network):
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)  # of the dropout
    network(torch.randn(6, *SHAPE, generator=generator)).square().sum().backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("activation", [nn.PReLU, nn.Mish, nn.Tanh])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_are_those_without_checkpoints(activation, reentrant):
    network, kept = made(activation, reentrant=reentrant), made(activation, keeps=True)

    ours, expected = gradients(network), gradients(kept)

    assert len(network.activations) == 3 * 3 + 3
    assert network.certificate == kept.certificate
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], gradient) for name, gradient in expected.items())


@pytest.mark.parametrize("reentrant", [False, True])
def test_each_call_runs_its_own_activation_again(reentrant):
    network = made(reentrant=reentrant)
    times = dict.fromkeys(network.activations, 0)
    for module in network.activations:
        module.register_forward_hook(lambda module, *_: times.__setitem__(module, times[module] + 1))

    output = network(torch.randn(6, *SHAPE))
    forward = [*times.values()]
    output.sum().backward()

    assert forward == [1] * 12
    assert sorted(times.values())[:3] == [1, 1, 2]  # two are outside of checkpoints


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_second_run_with_other_activations_is_found_out(reentrant, monkeypatch):
    monkeypatch.setattr(build, "SWAPS", {})  # proved before
    monkeypatch.setattr(swap, "recomputed_as", lambda again: contextlib.nullcontext())

    with pytest.raises(SwapError, match=r"(gives other gradients|cannot be trained) in train"):
        made(reentrant=reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
def test_replicates_are_trained_as_without_checkpoints(reentrant):
    images, labels = torch.rand(2, 4, *SHAPE), torch.randint(5, (2, 4))

    def trained(**options):
        network = {"class_path": "test_recomputing.Checkpointed", "init_args": options}
        sgd = {"class_path": "SGD", "init_args": {"lr": 0.1}}
        model = Classifier("prelu", network, sgd, input_shape=SHAPE, num_classes=5, replicates=2, engine="sequence")
        optimizer = model.engine.make_optimizer(model.optimizer)
        for step in range(3):
            optimizer.zero_grad()
            model.engine.backward(model.engine.losses(images, labels, key=(0, step)).sum())
            optimizer.step()
        return model.state_dict()

    torch.testing.assert_close(trained(reentrant=reentrant), trained(keeps=True), rtol=0, atol=0)


def checkpointed_timm(num_classes):
    import timm

    network = timm.create_model("test_vit", num_classes=num_classes, img_size=32)
    network.set_grad_checkpointing()
    return network


@pytest.mark.slow
def test_timm_trains_with_checkpoints():
    arguments = {"model_name": "test_vit", "img_size": 32}
    specs = ("test_recomputing.checkpointed_timm", {"class_path": "timm.create_model", "init_args": arguments})
    ours, plain = (
        build_network(NetworkSpec(spec), nn.Mish, input_shape=(3, 32, 32), num_classes=5, seed=0) for spec in specs
    )
    images = torch.rand(2, 3, 32, 32)

    for network in (ours, plain):
        network(images).square().sum().backward()

    assert ours.certificate == plain.certificate
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
