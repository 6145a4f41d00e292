"""Bytes that activations keep for the backward pass, against what their derivatives need."""

import pytest
import torch
from torch import nn
from torch.nn.functional import relu, softplus

from actbench.activations import CATALOGUE, PELU, SquaredReLU, Swish
from actbench.activations.saved_bytes import saved_bytes


def tanh_gelu(x):
    return 0.5 * x * (1 + torch.tanh(0.79788 * (x + 0.044715 * x**3)))


class Remembering(torch.autograd.Function):
    """The square, which keeps its input in half precision."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.half())
        return x.square()

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0].float() * gradient


@pytest.mark.parametrize(
    ("activation", "kept"),
    [  # by hand, from the derivatives: which tensors of four bytes an element, and masks of one, these need
        (nn.Identity(), 0),
        (nn.ReLU(), 0),  # the output's sign
        (nn.ReLU(inplace=True), 0),
        (nn.LeakyReLU(0.1, inplace=True), 0),
        (nn.Tanh(), 0),  # 1 - y²
        (nn.Sigmoid(), 0),  # y(1 - y)
        (torch.exp, 0),
        (nn.LeakyReLU(), 4),  # x
        (nn.GELU(), 4),
        (nn.SiLU(), 4),
        (nn.Mish(), 4),
        (nn.PReLU(), 4),
        (torch.sin, 4),
        (lambda x: -x.sin(), 4),
        (SquaredReLU(), 4),  # relu(x)
        (Swish(), 4),
        (Swish(beta=1.5), 4),  # βx
        (nn.RReLU(), 8),  # x and the slope that was drawn
        (Swish(trainable=True), 8),  # x and σ(βx), from which the derivatives to x and β both follow
        (lambda x: x * torch.sigmoid(x), 8),  # x and σ(x)
        (lambda x: x * torch.tanh(softplus(x)), 8),  # x, for two operations, and the tanh
        (lambda x: torch.where(x > 0, x, 0 * x), 1),  # the mask
        (lambda x: x.view(2, -1).view_as(x) * 1, 0),
        (PELU(), 13),  # the mask, x, x / b, and expm1 of it
        (tanh_gelu, 16),  # x, x/2, tanh, and 1 + tanh
        (Remembering.apply, 2),
        (lambda x: (x * 2) * torch.tensor(3.0), 0),  # constants
        (lambda x: x.relu() ** 2, 4),  # relu(x), which is not the output here
        (lambda x: relu(x) + 1, 4),  # relu(x), which is not the output
    ],
)
def test_the_bytes_are_those_that_the_derivative_needs(activation, kept):
    assert saved_bytes(activation) == kept


def test_bytes_depend_on_the_dtype_and_not_on_parameters():
    assert saved_bytes(nn.SiLU(), dtype=torch.bfloat16) == 2
    assert saved_bytes(nn.PReLU().bfloat16(), dtype=torch.bfloat16) == 2
    assert saved_bytes(nn.SiLU(), dtype=torch.float64) == 8


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
