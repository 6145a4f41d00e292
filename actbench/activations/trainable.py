"""Activations with trainable parameters that torch lacks; every site in a network has its own parameters."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from actbench.activations.fixed import check_positive


def scalar_parameter(value: float) -> nn.Parameter:
    """A trainable number with its initial value."""
    return nn.Parameter(torch.tensor(float(value)))


def scalar(value: float, *, trainable: bool) -> nn.Parameter | float:
    """A number, trainable or fixed."""
    return scalar_parameter(value) if trainable else float(value)


class Swish(nn.Module):
    """Swish: x·σ(βx).

    With β = 1 it is SiLU.

    Args:
        beta: Factor β, or its initial value if it is trained.
        trainable: Whether β is trained.

    Source:
        Ramachandran, Zoph and Le (2017), Searching for activation functions, arXiv:1710.05941.
    """

    def __init__(self, beta: float = 1.0, trainable: bool = False) -> None:
        super().__init__()
        self.beta = scalar(beta, trainable=trainable)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.beta, float) and self.beta:
            return nn.functional.silu(self.beta * x) / self.beta if self.beta != 1 else nn.functional.silu(x)
        return x * torch.sigmoid(self.beta * x)


class StarReLU(nn.Module):
    """StarReLU: s·max(0, x)² + b.

    With the defaults its output has mean 0 and variance 1 for standard normal input.

    Args:
        scale: Factor s, or its initial value if it is trained.
        bias: Shift b, or its initial value if it is trained.
        trainable: Whether s and b are trained, as in the source.

    Source:
        Yu et al. (2022), MetaFormer baselines for vision, arXiv:2210.13452.
    """

    def __init__(self, scale: float = 0.8944, bias: float = -0.4472, trainable: bool = True) -> None:
        super().__init__()
        self.scale = scalar(scale, trainable=trainable)
        self.bias = scalar(bias, trainable=trainable)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * relu(x).square() + self.bias


class AconC(nn.Module):
    """ACON-C: (p₁ - p₂)·x·σ(β(p₁ - p₂)x) + p₂x.

    p₁, p₂ and β are trained, one of each for a site in the network; in the source, one of each for a channel.

    Args:
        p1: Initial slope p₁ for large x.
        p2: Initial slope p₂ for large negative x.
        beta: Initial sharpness β of the bend.

    Source:
        Ma, Zhang, Liu and Sun (2021), Activate or not: learning customized activation, arXiv:2009.04759.
    """

    def __init__(self, p1: float = 1.0, p2: float = 0.0, beta: float = 1.0) -> None:
        super().__init__()
        self.p1 = scalar_parameter(p1)
        self.p2 = scalar_parameter(p2)
        self.beta = scalar_parameter(beta)

    def forward(self, x: Tensor) -> Tensor:
        tilted = (self.p1 - self.p2) * x
        return tilted * torch.sigmoid(self.beta * tilted) + self.p2 * x


class Snake(nn.Module):
    """Snake: x + sin²(ax) / a.

    Args:
        a: Positive frequency a, or its initial value if it is trained.
        trainable: Whether a is trained.

    Source:
        Ziyin, Hartwig and Ueda (2020), Neural networks fail to learn periodic functions and how to fix it,
        arXiv:2006.08195.
    """

    def __init__(self, a: float = 1.0, trainable: bool = False) -> None:
        super().__init__()
        check_positive(a=a)
        self.a = scalar(a, trainable=trainable)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sin(self.a * x).square() / self.a


class PELU(nn.Module):
    """PELU: (a/b)·x for x ≥ 0, a·(exp(x/b) - 1) for x < 0.

    a and b are trained. Where training takes one of them below 0.1, 0.1 is used and its gradient is 0.

    Args:
        a: Initial scale a; above 0.1.
        b: Initial width b; above 0.1.

    Source:
        Trottier, Giguère and Chaib-draa (2017), Parametric exponential linear unit for deep convolutional neural
        networks, arXiv:1605.09332.
    """

    def __init__(self, a: float = 1.0, b: float = 1.0) -> None:
        super().__init__()
        if not (a > 0.1 and b > 0.1):
            raise ValueError(f"a and b must be above 0.1, got {a} and {b}")
        self.a = scalar_parameter(a)
        self.b = scalar_parameter(b)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a.clamp(min=0.1), self.b.clamp(min=0.1)
        return torch.where(x >= 0, a / b * x, a * torch.expm1(x.clamp(max=0.0) / b))


class SReLU(nn.Module):
    """SReLU: x + (1 - aₗ)·max(0, tₗ - x) + (aᵣ - 1)·max(0, x - tᵣ).

    x between two thresholds, and a line of another slope beyond each. All four are trained, one of each for a site in
    the network; in the source, one of each for a channel.

    Args:
        left: Initial threshold tₗ; not above ``right``.
        left_slope: Initial slope aₗ.
        right: Initial threshold tᵣ.
        right_slope: Initial slope aᵣ.

    Source:
        Jin et al. (2016), Deep learning with S-shaped rectified linear activation units, AAAI, arXiv:1512.07030.
    """

    def __init__(
        self, left: float = 0.0, left_slope: float = 0.2, right: float = 1.0, right_slope: float = 1.0
    ) -> None:
        super().__init__()
        if not left <= right:
            raise ValueError(f"left must not be above right, got {left} and {right}")
        self.left = scalar_parameter(left)
        self.left_slope = scalar_parameter(left_slope)
        self.right = scalar_parameter(right)
        self.right_slope = scalar_parameter(right_slope)

    def forward(self, x: Tensor) -> Tensor:
        below, above = relu(self.left - x), relu(x - self.right)
        return x + (1 - self.left_slope) * below + (self.right_slope - 1) * above


class SinLU(nn.Module):
    """SinLU: (x + a·sin(bx))·σ(x).

    a and b are trained.

    Args:
        a: Initial amplitude a.
        b: Initial frequency b.

    Source:
        Paul et al. (2022), SinLU: sinu-sigmoidal linear unit, Mathematics 10(3), 337.
    """

    def __init__(self, a: float = 1.0, b: float = 1.0) -> None:
        super().__init__()
        self.a = scalar_parameter(a)
        self.b = scalar_parameter(b)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.a * torch.sin(self.b * x)) * torch.sigmoid(x)


class XIELU(nn.Module):
    """XIELU: αₚx² + x/2 for x > 0, αₙ(eˣ - 1 - x) + x/2 for x ≤ 0.

    αₚ and αₙ are trained: αₚ and αₙ - 1/2 are the softplus of the parameters, so they stay positive.

    Args:
        alpha_p: Initial αₚ; positive.
        alpha_n: Initial αₙ; above 0.5.

    Source:
        Huang and Schlag (2024), Deriving activation functions using integration, arXiv:2411.13010.
    """

    def __init__(self, alpha_p: float = 0.8, alpha_n: float = 0.8) -> None:
        super().__init__()
        if not (alpha_p > 0 and alpha_n > 0.5):
            raise ValueError(f"alpha_p must be positive and alpha_n above 0.5, got {alpha_p} and {alpha_n}")
        self.raw_p = scalar_parameter(inverse_softplus(alpha_p))
        self.raw_n = scalar_parameter(inverse_softplus(alpha_n - 0.5))

    def forward(self, x: Tensor) -> Tensor:
        alpha_p, alpha_n = softplus(self.raw_p), 0.5 + softplus(self.raw_n)
        negative = x.clamp(max=0.0)
        return alpha_p * relu(x).square() + alpha_n * (torch.expm1(negative) - negative) + x / 2


def inverse_softplus(value: float) -> float:
    """The number whose softplus is a positive value."""
    return value + math.log(-math.expm1(-value))


# Least-squares fit to the leaky ReLU of slope 0.01 on 601 points from -3 to 3. Ascending powers, from a₀ and from b₁.
NUMERATOR = (0.03358, 0.50501, 1.65136, 2.00457, 0.92797, 0.15154)
DENOMINATOR = (0.00008, 3.96934, 0.00006, 0.30007)


class PadeUnit(nn.Module):
    """Padé unit: (a₀ + a₁x + … + a₅x⁵) / (1 + |b₁x + … + b₄x⁴|).

    All ten coefficients are trained. Initially they approximate a leaky ReLU of slope 0.01, by a least-squares fit from
    -3 to 3 with an error of at most 0.034. Far outside that range the unit is near x/2 on both sides.

    Source:
        Molina, Schramowski and Kersting (2020), Padé activation units: end-to-end learning of flexible activation
        functions in deep networks, arXiv:1907.06732.
    """

    def __init__(self) -> None:
        super().__init__()
        self.numerator = nn.Parameter(torch.tensor(NUMERATOR))
        self.denominator = nn.Parameter(torch.tensor(DENOMINATOR))

    def forward(self, x: Tensor) -> Tensor:
        return horner(self.numerator, x) / (1 + (horner(self.denominator, x) * x).abs())


def horner(coefficients: Tensor, x: Tensor) -> Tensor:
    """Value of a polynomial with coefficients in ascending order, by Horner's method."""
    result = coefficients[-1]
    for power in range(len(coefficients) - 2, -1, -1):
        result = result * x + coefficients[power]
    return result
