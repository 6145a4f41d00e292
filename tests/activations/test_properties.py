import math

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import nn

from actbench.activations import CATALOGUE, SmeLU
from actbench.activations.properties import curve_properties

inf = math.inf


@pytest.mark.parametrize(
    ("activation", "low", "high", "monotone", "smoothness", "places"),
    [  # by hand
        (nn.Identity(), -inf, inf, "increasing", "smooth", ()),
        (nn.ReLU(), 0, inf, "increasing", "kinks", (0,)),
        (nn.ReLU6(), 0, 6, "increasing", "kinks", (0, 6)),
        (nn.Hardswish(), -3 / 8, inf, "no", "kinks", (-3, 3)),
        (nn.Hardsigmoid(), 0, 1, "increasing", "kinks", (-3, 3)),
        (nn.Threshold(1, 0), 0, inf, "increasing", "jumps", (1,)),
        (nn.Hardshrink(), -inf, inf, "increasing", "jumps", (-0.5, 0.5)),
        (nn.ELU(), -1, inf, "increasing", "curvature jumps", (0,)),
        (nn.ELU(2.0), -2, inf, "increasing", "kinks", (0,)),
        (SmeLU(), 0, inf, "increasing", "curvature jumps", (-1, 1)),
        (nn.Softsign(), -1, 1, "increasing", "curvature jumps", (0,)),
        (nn.Tanh(), -1, 1, "increasing", "smooth", ()),
        (nn.LogSigmoid(), -inf, 0, "increasing", "smooth", ()),
        (torch.cos, -1, 1, "no", "smooth", ()),
        (torch.sign, -1, 1, "increasing", "jumps", (0,)),
        (torch.abs, 0, inf, "no", "kinks", (0,)),
        (lambda x: -x.exp(), -inf, 0, "decreasing", "smooth", ()),
        (lambda x: 0 * x + 2, 2, 2, "constant", "smooth", ()),
        (lambda x: torch.log1p(x.abs()), 0, inf, "no", "kinks", (0,)),  # slower than any power
        (lambda x: torch.sin(100 * x), -1, 1, "no", "smooth", ()),
        (lambda x: x.exp() / (1 + x.exp()), 0, 1, "increasing", "smooth", ()),  # NaN from 710 on
        (lambda x: x.relu() ** 3, 0, inf, "increasing", "smooth", ()),  # of which only the third derivative jumps
        (lambda x: torch.relu(x - 1.2345) + x, -inf, inf, "increasing", "kinks", (1.2345,)),
        (lambda x: x + 1e-3 * torch.sign(x), -inf, inf, "increasing", "jumps", (0,)),
    ],
)
def test_properties_are_those_found_by_hand(activation, low, high, monotone, smoothness, places):
    found = curve_properties(activation)

    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-5)
    assert (found.monotone, found.smoothness) == (monotone, smoothness)
    assert found.places == pytest.approx(places, abs=1e-6)


@pytest.mark.parametrize("name", ["silu", "gelu", "mish", "serf", "golu", "xielu"])
def test_the_lower_bound_is_the_minimum_that_scipy_finds(name):
    activation = CATALOGUE[name].cls(**CATALOGUE[name].init_args).double()
    found = optimize.minimize_scalar(
        lambda x: activation(torch.tensor([x], dtype=torch.float64)).item(), bounds=(-3, 0), method="bounded"
    )

    assert curve_properties(activation).low == pytest.approx(found.fun, abs=1e-5)


class Once(torch.autograd.Function):
    """Sine, whose backward pass cannot be differentiated."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0].cos()


class StraightThrough(torch.autograd.Function):
    """ReLU with the slope 1."""

    @staticmethod
    def forward(ctx, x):
        return x.relu()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@pytest.mark.parametrize(("function", "known"), [(Once.apply, "no kinks"), (StraightThrough.apply, "no jumps")])
def test_a_derivative_that_torch_does_not_compute_is_not_claimed(function, known):
    found = curve_properties(function)

    assert (found.smoothness, found.places) == (known, ())


def test_the_module_stays_as_it_is():
    module = nn.PReLU().train()
    state = torch.get_rng_state()

    curve_properties(module)
    curve_properties(nn.RReLU())

    assert module.training
    assert module.weight.requires_grad
    assert module.weight.dtype == torch.float32
    assert np.array_equal(torch.get_rng_state(), state)
