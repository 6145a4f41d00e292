"""Steps of a stack that were recorded, and when they are recorded anew."""

import math

import pytest
import torch
from stacks import OPTIMIZERS, batches, networks, stack, train, train_alone
from torch import nn

from actbench.activations import PadeUnit
from actbench.networks import MLP, TutorialCNN
from actbench.training.engines import EngineError
from actbench.training.engines.stack import replay

pytestmark = pytest.mark.usefixtures("early_replay")


class Mixed(nn.Module):
    """A network with BatchNorm, dropout, noise and a trainable activation."""

    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        width = input_shape[1] * input_shape[2]
        self.features = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), activation(), nn.Dropout2d(0.3))
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(3 * width, num_classes))

    def forward(self, images):
        return self.head(self.features(images + 0.1 * torch.randn_like(images)))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_recorded_steps_give_what_the_steps_give(monkeypatch, precision):
    def run():
        trained = stack(Mixed, PadeUnit)
        with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
            return trained, *train(trained, batches(range(4), 40))

    replayed, *ours = run()
    monkeypatch.setattr(replay, "CALLS", math.inf)
    stepped, *theirs = run()

    assert len(replayed.replay.recordings) == 1
    assert not stepped.replay.recordings
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    ours, theirs = replayed.state_dict(), stepped.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert ours["network.features.1.num_batches_tracked"].tolist() == [40] * 4


def test_a_batch_of_another_size_is_recorded_anew():
    trained = stack(TutorialCNN)
    steps = [step for size in (16, 5) for step in batches(range(4), 12, batch=size)]
    losses, _ = train(trained, steps)

    alone = networks(TutorialCNN, nn.SiLU, [2])[0]
    expected, _ = train_alone(alone, [(images[2], labels[2]) for images, labels in steps], OPTIMIZERS["Adam"])
    assert len(trained.replay.recordings) == 2
    assert torch.allclose(losses[2], expected, rtol=1e-4)


@pytest.mark.parametrize("crop", [lambda x: x[..., :8], lambda x: x[..., :1].expand(*x.shape[:-1], 8)])
def test_images_with_gaps_in_memory_are_trained_on_as_alone(crop):
    steps = [(crop(images), labels) for images, labels in batches(range(4), 10, shape=(1, 8, 9))]

    losses, _ = train(stack(MLP), steps)

    expected, _ = train_alone(*networks(MLP, nn.SiLU, [2]), [(x[2], y[2]) for x, y in steps], OPTIMIZERS["Adam"])
    assert torch.allclose(losses[2], expected, rtol=1e-4)


def test_an_attribute_that_is_changed_between_steps_takes_effect():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = 1.0

        def forward(self, x):
            return x * self.scale

    trained = stack(MLP, Scaled)
    images, labels = batches(range(4), 1)[0]
    before = [trained.losses(images, labels) for _ in range(15)][-1]
    assert trained.replay.recordings
    for module in trained.modules():
        if isinstance(module, Scaled):
            module.scale = 0.0

    after = trained.losses(images, labels)

    trained.network.register_forward_pre_hook(lambda *_: None)  # a hook prevents replay
    assert not torch.allclose(before, after)
    assert torch.equal(after, trained.losses(images, labels))


def test_a_network_that_counts_is_not_stacked():
    calls = []

    class Counting(nn.Module):
        def forward(self, x):
            calls.append(1)
            return x * (1 + len(calls) / 1000)

    with pytest.raises(EngineError, match="its code changes values of Python"):
        stack(MLP, Counting)


def test_a_hook_that_is_added_between_steps_is_run():
    trained = stack(MLP)
    images, labels = batches(range(4), 1)[0]
    before = [trained.losses(images, labels) for _ in range(15)][-1]
    assert trained.replay.recordings

    trained.network.register_forward_hook(lambda module, args, output: output * 0)

    assert torch.allclose(trained.losses(images, labels), torch.full((4,), math.log(10)))
    assert not torch.allclose(before, torch.full((4,), math.log(10)))


def repeated(step, values):
    """A replay that has had a step for ten batches of the values, and its last results."""
    played = replay.Replay(replay.python_state(nn.Module()).values)
    results = [played(step, None, [value.clone() for value in values], nn.Module(), (), usual=True) for _ in range(10)]
    return played, results[-1]


def test_a_step_with_a_number_of_its_own_is_replayed():
    def step(draw, tensors):
        counter = torch.tensor([1.0, 2.0])
        counter += tensors[0]
        first, second = counter.split(1)
        return [torch.cat([second, first, counter.view(2)]), None]

    played, (result, nothing) = repeated(step, [torch.tensor([10.0, 20.0])])

    assert played.recordings
    assert played.reason is None
    assert result.tolist() == [22, 11, 11, 22]
    assert nothing is None


def test_views_of_what_is_given_follow_it():
    def step(draw, tensors):
        given, label = tensors
        made = given.clone()
        last = given[1:].unsqueeze(0)
        last.add_(1)
        parts = made.view(4).split(2)
        return [last.mT.squeeze(0).flatten() + label.view(2), made.T[1].detach(), parts[1].flip(0), given.detach()]

    played, _ = repeated(step, [torch.zeros(2, 2), torch.zeros(2)])
    whole, labels = torch.arange(8.0).view(4, 2), torch.tensor([10.0, 20.0, 30.0])

    results = played(step, None, [whole[2:], labels[1:]], nn.Module(), (), usual=True)

    assert len(played.recordings) == 1
    assert [result.tolist() for result in results] == [[27, 38], [5, 7], [7, 6], [[4, 5], [7, 8]]]
    assert whole.tolist() == [[0, 1], [2, 3], [4, 5], [7, 8]]


def test_views_of_complex_numbers_are_repeated():
    def step(draw, tensors):
        made = torch.complex(tensors[0], tensors[0] + 1)
        return [made.conj().imag.clone(), (made.conj() * made[0]).abs(), torch.view_as_real(made).flatten().flip(0)]

    played, (imaginary, _, flat) = repeated(step, [torch.tensor([1.0, 2.0])])

    assert played.recordings
    assert imaginary.tolist() == [-2, -3]
    assert flat.tolist() == [3, 2, 2, 1]


@pytest.mark.parametrize(
    "hidden",
    [
        lambda x: torch.from_numpy(x.numpy() * 2),  # no operation of torch
        lambda x: x * x.sum().item(),  # the operation's number would be a constant
        lambda x: x * (2 if x.sum() > 0 else 3),
        lambda x: x * 2 if torch.equal(x, x.abs()) else x,
        lambda x: x[x > 0] * 2,  # of another length, maybe
    ],
)
def test_a_step_that_hides_operations_is_not_replayed(hidden):
    played, (result,) = repeated(lambda draw, tensors: [hidden(tensors[0])], [torch.tensor([0.5, 1.5])])

    assert not played.recordings
    assert played.reason
    assert result.tolist() == [1, 3]


def test_values_that_autocast_keeps_do_not_become_constants():
    weight = torch.randn(4, 4, requires_grad=True)

    def step(draw, tensors):
        leaf = tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            return [(torch.ones(4, 4) @ weight).detach() + torch.ones(4, 4) @ leaf.detach()]

    with torch.autocast("cpu", dtype=torch.bfloat16):
        played, _ = repeated(step, [torch.randn(4, 4)])
        run = next(iter(played.recordings.values())).run
        with torch.no_grad():
            weight.zero_()

    assert run(torch.zeros(4, 4))[0].eq(0).all()
