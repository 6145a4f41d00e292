import pytest
import torch
from torch import nn
from torch.nn.functional import elu, leaky_relu, relu, rrelu, softplus

from actbench.activations import CATALOGUE, AconC, ESwish, QuickGELU, Swish
from actbench.activations.twins import same_as


class Float(nn.Module):
    """Swish, whose β is trained, or is a buffer in single precision."""

    def __init__(self, beta, trained=False):
        super().__init__()
        if trained:
            self.beta = nn.Parameter(torch.tensor(beta))
        else:
            self.register_buffer("beta", torch.tensor(beta))

    def forward(self, x):
        return x * torch.sigmoid(self.beta * x)


class Moody(nn.Module):
    """ReLU in evaluation, and another function in training."""

    def forward(self, x):
        return relu(x) if not self.training else relu(x) + 1e-3 * x


class StraightThrough(torch.autograd.Function):
    """Has ReLU's values, and the slope 1."""

    @staticmethod
    def forward(ctx, x):
        return x.relu()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (lambda x: x * torch.tanh(softplus(x)), "torch.nn.Mish"),
        (lambda x: x * torch.tanh(torch.log(1 + torch.exp(x))), "torch.nn.Mish"),
        (lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)), "torch.nn.GELU"),
        (lambda x: x.clamp(0, 6), "torch.nn.ReLU6"),
        (lambda x: x.clamp_(min=0), "torch.nn.ReLU"),
        (lambda x: relu(x) ** 2, "actbench.activations.SquaredReLU"),
        (lambda x: x * torch.sigmoid(1.2 * x), "actbench.activations.Swish(beta=1.2)"),
        (Float(0.7), "actbench.activations.Swish(beta=0.7)"),
        (QuickGELU(), "actbench.activations.Swish(beta=1.702)"),
        (lambda x: leaky_relu(x, 0.3), "torch.nn.LeakyReLU(negative_slope=0.3)"),
        (lambda x: elu(x, 0.37), "torch.nn.ELU(alpha=0.37)"),
        (lambda x: torch.sin(30 * x), "actbench.activations.Sine(omega=30.0)"),
        (lambda x: x + torch.sin(5 * x) ** 2 / 5, "actbench.activations.Snake(a=5.0)"),
        (lambda x: softplus(4 * x) / 4, "torch.nn.Softplus(beta=4.0)"),
    ],
)
def test_a_formula_is_recognised(activation, name):
    (first, *_) = same_as(activation)

    assert first.name == name
    assert first.difference < 1e-6
    assert not first.initially


@pytest.mark.parametrize(
    "activation",
    [
        nn.ReLU(),
        nn.Identity(),
        nn.GELU("tanh"),  # within .0005 of the exact one
        nn.RReLU(),
        Moody(),
        StraightThrough.apply,
        torch.abs,
        lambda x: x.clamp(-8, 8) + (x - x.clamp(-8, 8)) * 0.999,  # the identity near 0
        lambda x: x.clamp(0, 40),  # ReLU up to 40
        lambda x: x * torch.sigmoid(1.2 * x) + 2e-6,
        lambda x: rrelu(x, training=True),  # at random in evaluation, too
    ],
)
def test_what_equals_nothing_has_no_twin(activation):
    assert same_as(activation) == []


@pytest.mark.parametrize("beta", [0.0213, 0.31, 1.7, 17.3, 88.1])
def test_any_argument_of_a_family_is_found(beta):
    activation, name = Float(beta), f"actbench.activations.Swish(beta={beta})"

    assert [twin.name for twin in same_as(activation)] == [name]


def test_what_is_trained_is_only_equal_at_first():
    found = same_as(Float(1.0, trained=True))

    assert [twin.name for twin in found] == [
        "torch.nn.SiLU",
        "actbench.activations.Swish",
        "actbench.activations.Swish(trainable=True)",
    ]
    assert all(twin.initially for twin in found)
    assert same_as(Float(1.25, trained=True))[0].name == "actbench.activations.Swish(beta=1.25)"


def test_nothing_with_more_parameters_is_a_twin():
    assert [twin.cls for twin in same_as(nn.SiLU())] == [Swish]
    assert nn.SiLU in [twin.cls for twin in same_as(AconC())]


@pytest.mark.slow
def test_every_twin_has_the_values_that_it_is_said_to_have():
    x = torch.linspace(-4, 4, 101)

    for name, entry in CATALOGUE.items():
        activation = entry.cls(**entry.init_args).eval()
        for twin in same_as(activation):
            other = twin.cls(**twin.init_args).eval()
            assert torch.allclose(activation(x), other(x), atol=1e-5), (name, twin.name)


def test_a_curve_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        same_as(lambda x: 1 / (x - 0.0013))
    assert same_as(ESwish(1.25)) == []
