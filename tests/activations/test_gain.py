import math
from itertools import pairwise

import pytest
import torch
from scipy import integrate, stats
from torch import nn

from actbench.activations import CATALOGUE, SquaredReLU, gaussian_moments


class Cubic(nn.Module):
    """An activation as users write it, with a parameter in single precision."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return self.scale * x**3


@pytest.mark.parametrize(
    ("activation", "mean", "mean_square", "slope_square"),
    [  # by hand
        (nn.Identity(), 0, 1, 1),
        (nn.ReLU(), 1 / math.sqrt(2 * math.pi), 1 / 2, 1 / 2),
        (nn.ReLU(inplace=True), 1 / math.sqrt(2 * math.pi), 1 / 2, 1 / 2),
        (nn.LeakyReLU(0.01), 0.99 / math.sqrt(2 * math.pi), 1.0001 / 2, 1.0001 / 2),
        (SquaredReLU(), 1 / 2, 3 / 2, 2),
        (Cubic(), 0, 15 / 4, 27 / 4),
        (torch.exp, math.exp(0.5), math.exp(2), math.exp(2)),
        (lambda x: torch.sin(30 * x), 0, 1 / 2, 450),
        (lambda x: torch.sin(100 * x), 0, 1 / 2, 5000),
        (torch.abs, math.sqrt(2 / math.pi), 1, 1),
        (torch.sign, 0, 1, 0),
        (lambda x: x.detach(), 0, 1, 0),
    ],
)
def test_moments_are_those_computed_by_hand(activation, mean, mean_square, slope_square):
    found = gaussian_moments(activation)

    assert found == pytest.approx((mean, mean_square, slope_square), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_mean_squares_are_those_of_an_adaptive_quadrature(name):
    activation = CATALOGUE[name].cls(**CATALOGUE[name].init_args).double().eval()

    def density(x, power):
        return activation(torch.tensor([x], dtype=torch.float64)).item() ** power * stats.norm.pdf(x)

    found = gaussian_moments(activation)

    ends = [-9, -3, -1, 0, 1, 3, 9]
    for power, moment in ((1, found.mean), (2, found.mean_square)):
        parts = [integrate.quad(density, *pair, args=(power,), epsrel=1e-7)[0] for pair in pairwise(ends)]
        assert moment == pytest.approx(sum(parts), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("activation", "constant"),
    # The constants of NFNets, which Brock et al. estimated from random numbers, as timm's nfnet.py has them.
    [
        (nn.ReLU(), 1.7139588594436646),
        (nn.GELU(), 1.7015043497085571),
        (nn.SiLU(), 1.7881293296813965),
        (nn.Tanh(), 1.5939117670059204),
        (nn.ELU(), 1.2716004848480225),
        (nn.Sigmoid(), 4.803835391998291),
        (nn.Softplus(), 1.9203323125839233),
    ],
)
def test_inverse_deviations_are_the_constants_of_nfnets(activation, constant):
    assert gaussian_moments(activation).inverse_deviation == pytest.approx(constant, rel=2e-3)


@pytest.mark.parametrize(
    ("activation", "name", "argument"),
    [(nn.Identity(), "linear", None), (nn.ReLU(), "relu", None), (nn.LeakyReLU(0.2), "leaky_relu", 0.2)],
)
def test_gains_are_those_of_torch_where_it_has_exact_ones(activation, name, argument):
    assert gaussian_moments(activation).gain == pytest.approx(nn.init.calculate_gain(name, argument), rel=1e-6)


@pytest.mark.parametrize("name", ["relu", "gelu", "tanh", "squared_relu"])
def test_weights_times_the_gain_keep_signals_at_their_size_and_gradients_grow_as_said(name):
    activation = CATALOGUE[name].cls(**CATALOGUE[name].init_args)
    generator = torch.Generator().manual_seed(0)
    moments, width = gaussian_moments(activation), 1024
    signals = torch.randn(64, width, generator=generator, requires_grad=True)
    weights = torch.randn(width, width, generator=generator) * moments.gain / math.sqrt(width)

    outputs = activation(signals) @ weights
    outputs.backward(torch.randn(64, width, generator=generator))

    assert outputs.square().mean().item() == pytest.approx(1, rel=0.1)
    assert signals.grad.square().mean().item() == pytest.approx(moments.gradient_growth, rel=0.1)


def test_what_is_0_or_constant_has_no_gain():
    zero, constant = gaussian_moments(lambda x: 0 * x), gaussian_moments(lambda x: 0 * x + 3)

    assert (zero.gain, zero.inverse_deviation) == (math.inf, math.inf)
    assert math.isnan(zero.gradient_growth)
    assert (constant.gain, constant.inverse_deviation) == (pytest.approx(1 / 3), math.inf)


def test_the_module_stays_as_it_is():
    module = Cubic().train()

    with torch.no_grad():
        gaussian_moments(module)

    assert module.training
    assert module.scale.dtype == torch.float32
    assert module.scale.grad is None


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        (nn.Softmax(0), "Softmax is not element-wise"),
        (nn.GLU(), "GLU is not element-wise"),
        (nn.PReLU(3), "PReLU fails for a vector: "),
        (nn.Linear(2, 2), "Linear fails for a vector: "),
        (lambda x: torch.exp(x**2), "grows too fast: E f is not finite"),
        (lambda x: torch.exp(x**2 / 4), "grows too fast: E f² is not finite"),
        (torch.log, "log has no finite moments: f is not finite"),
    ],
)
def test_what_has_no_moments_is_refused_in_one_line(activation, message):
    with pytest.raises(ValueError, match=r"\A[^\n]*\Z") as error:
        gaussian_moments(activation)

    assert message in str(error.value)
