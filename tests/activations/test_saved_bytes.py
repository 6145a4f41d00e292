"""Bytes that activations keep for the backward pass, against what their derivatives need."""

import pytest
import torch
from torch import nn

from actbench.activations import CATALOGUE
from actbench.activations.saved_bytes import saved_bytes


class Composed(nn.Module):
    """A formula written in single operations."""

    def __init__(self, formula):
        super().__init__()
        self.formula = formula

    def forward(self, x):
        return self.formula(x)


class Square(torch.autograd.Function):
    """x², which keeps its input twice."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x, x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        x, _ = ctx.saved_tensors
        return 2 * x * gradient


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (nn.ReLU(), 0),  # the output tells where the input was positive
        (nn.ReLU(inplace=True), 0),
        (nn.Tanh(), 0),  # 1 - y²
        (nn.Sigmoid(), 0),  # y - y²
        (nn.Identity(), 0),
        (nn.SiLU(), 4),  # x
        (nn.GELU(), 4),
        (nn.Mish(), 4),
        (nn.LeakyReLU(), 4),
        (nn.PReLU(), 4),  # x; the slope is a parameter
        (nn.Softplus(), 4),
        (nn.RReLU(), 8),  # x and the slopes that were drawn
        (Composed(lambda x: x * torch.sigmoid(x)), 8),  # x and σ(x), which two operations keep once
        (Composed(lambda x: x.sin() * 2), 4),  # x
        (Composed(lambda x: (x * 2) * torch.tensor(3.0)), 0),  # constants
        (Composed(lambda x: x.relu() ** 2), 4),  # relu(x), which is not the output here
        (Composed(lambda x: torch.where(x > 0, x, 0.1 * x)), 1),  # where x is positive, a byte
        (Composed(Square.apply), 4),
    ],
    ids=repr,
)
def test_bytes_are_those_that_the_derivative_needs(activation, expected):
    assert saved_bytes(activation) == expected


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_every_activation_of_the_catalogue_keeps_whole_bytes(name):
    activation = CATALOGUE[name]
    kept = saved_bytes(activation.cls(**activation.init_args))

    assert kept == int(kept)
    assert 0 <= kept < 200


def test_counting_changes_neither_the_activation_nor_random_numbers():
    activation = nn.Sequential(nn.BatchNorm2d(4), nn.RReLU()).eval()
    before = {name: value.clone() for name, value in activation.state_dict().items()}
    state = torch.get_rng_state()

    saved_bytes(activation)

    assert not activation.training
    assert all(torch.equal(value, before[name]) for name, value in activation.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
