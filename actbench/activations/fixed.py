"""Activations without trainable parameters that torch lacks."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, relu, softplus


def check_positive(**arguments: float) -> None:
    """Raise ValueError for the first argument that is not positive and finite."""
    for name, value in arguments.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")


class ESwish(nn.Module):
    """E-Swish: β·x·σ(x).

    Args:
        beta: Factor β; the paper tries 1 to 2.

    Source:
        Alcaide (2018), E-swish: adjusting activations to different network depths, arXiv:1801.07145.
    """

    def __init__(self, beta: float = 1.5) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        return self.beta * x * torch.sigmoid(x)


class TanhExp(nn.Module):
    """TanhExp: x·tanh(eˣ).

    Published a second time as TeLU.

    Source:
        Liu and Di (2020), TanhExp: a smooth activation function with high convergence speed for lightweight neural
        networks, arXiv:2003.09855; Fernandez and Mali (2024), TeLU activation function for fast and stable deep
        learning, arXiv:2412.20269.
    """

    def forward(self, x: Tensor) -> Tensor:
        # tanh(e⁵) is 1 in every precision; a larger exponential only makes the gradient 0 · ∞.
        return x * torch.tanh(torch.exp(x.clamp(max=5.0)))


class Serf(nn.Module):
    """Serf: x·erf(ln(1 + eˣ)).

    Source:
        Nag and Bhattacharyya (2021), SERF: towards better training of deep neural networks using log-softplus error
        activation function, arXiv:2108.09598.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.erf(softplus(x))


class Smish(nn.Module):
    """Smish: x·tanh(ln(1 + σ(x))).

    Source:
        Wang, Ren and Wang (2022), Smish: a novel activation function for deep learning methods, Electronics 11(4), 540.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tanh(torch.log1p(torch.sigmoid(x)))


class Logish(nn.Module):
    """Logish: x·ln(1 + σ(x)).

    Source:
        Zhu, Zeng, Liu and Zhang (2021), Logish: a new nonlinear nonmonotonic activation function for convolutional
        neural network, Neurocomputing 458, 490-499.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.log1p(torch.sigmoid(x))


class SquaredReLU(nn.Module):
    """Squared ReLU: max(0, x)².

    Source:
        So et al. (2021), Primer: searching for efficient transformers for language modeling, arXiv:2109.08668.
    """

    def forward(self, x: Tensor) -> Tensor:
        return relu(x).square()


class Squareplus(nn.Module):
    """Squareplus: (x + √(x² + b)) / 2.

    Args:
        b: Positive width b of the bend; 4 gives softplus's curvature at 0, and the value 1 there.

    Source:
        Barron (2021), Squareplus: a softplus-like algebraic rectifier, arXiv:2112.11687.
    """

    def __init__(self, b: float = 4.0) -> None:
        super().__init__()
        check_positive(b=b)
        self.b = b

    def forward(self, x: Tensor) -> Tensor:
        # Rearranged, because for large negative x the formula subtracts two almost equal numbers.
        size = x.abs()
        return (x + size + self.b / (torch.sqrt(x.square() + self.b) + size)) / 2


class SmeLU(nn.Module):
    """SmeLU: 0 for x ≤ -β, (x + β)² / 4β for |x| < β, x for x ≥ β.

    Args:
        beta: Positive half-width β of the bend.

    Source:
        Shamir, Lin and Coviello (2020), Smooth activations and reproducibility in deep networks, arXiv:2010.09931.
    """

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        check_positive(beta=beta)
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.abs() < self.beta, (x + self.beta).square() / (4 * self.beta), relu(x))


class GCU(nn.Module):
    """GCU: x·cos(x).

    Source:
        Noel et al. (2021), Growing cosine unit: a novel oscillatory activation function that can speedup training and
        reduce parameters in convolutional neural networks, arXiv:2108.12943.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.cos(x)


class ISRU(nn.Module):
    """ISRU: x / √(1 + αx²).

    Args:
        alpha: Positive; sets the bound, 1/√α.

    Source:
        Carlile, Delamarter, Kinney, Marti and Whitney (2017), Improving deep learning by inverse square root linear
        units (ISRLUs), arXiv:1710.09967.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        check_positive(alpha=alpha)
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(1 + self.alpha * x.square())


class ISRLU(nn.Module):
    """ISRLU: x for x ≥ 0, x / √(1 + αx²) for x < 0.

    Args:
        alpha: Positive; sets the lower bound, -1/√α.

    Source:
        Carlile, Delamarter, Kinney, Marti and Whitney (2017), Improving deep learning by inverse square root linear
        units (ISRLUs), arXiv:1710.09967.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        check_positive(alpha=alpha)
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(1 + self.alpha * x.clamp(max=0.0).square())


class BentIdentity(nn.Module):
    """Bent identity: (√(x² + 1) - 1) / 2 + x.

    Its origin is unknown; the source lists it.

    Source:
        Kunc and Kléma (2024), Three decades of activations: a comprehensive survey of 400 activation functions for
        neural networks, arXiv:2402.09092.
    """

    def forward(self, x: Tensor) -> Tensor:
        return (torch.sqrt(x.square() + 1) - 1) / 2 + x


class GoLU(nn.Module):
    """GoLU: x·exp(-exp(-x)).

    Source:
        Das et al. (2025), Gompertz linear units: leveraging asymmetry for enhanced learning dynamics, arXiv:2502.03654.
    """

    def forward(self, x: Tensor) -> Tensor:
        # exp(-exp(7)) is 0 in every precision; a larger exponential only makes the gradient 0 · ∞.
        return x * torch.exp(-torch.exp(-x.clamp(min=-7.0)))


class Phish(nn.Module):
    """Phish: x·tanh(GELU(x)).

    Source:
        Naveen (2022), Phish: a novel hyper-optimizable activation function, TechRxiv.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tanh(gelu(x))


class LiSHT(nn.Module):
    """LiSHT: x·tanh(x).

    Source:
        Roy, Manna, Dubey and Chaudhuri (2019), LiSHT: non-parametric linearly scaled hyperbolic tangent activation
        function for neural networks, arXiv:1901.05894.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tanh(x)


class QuickGELU(nn.Module):
    """Quick GELU: x·σ(1.702x).

    The GELU paper gives it as an approximation.

    Source:
        Hendrycks and Gimpel (2016), Gaussian error linear units (GELUs), arXiv:1606.08415.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class LeCunTanh(nn.Module):
    """LeCun's tanh: 1.7159·tanh(2x/3).

    Source:
        LeCun, Bottou, Orr and Müller (1998), Efficient backprop, in: Neural networks: tricks of the trade, Springer.
    """

    def forward(self, x: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(x * (2 / 3))


class Sine(nn.Module):
    """Sine: sin(ωx).

    Args:
        omega: Frequency ω. The source uses 30 on coordinates, with weights initialised to suit; 1 suits images.

    Source:
        Sitzmann, Martel, Bergman, Lindell and Wetzstein (2020), Implicit neural representations with periodic
        activation functions, arXiv:2006.09661.
    """

    def __init__(self, omega: float = 1.0) -> None:
        super().__init__()
        self.omega = omega

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.omega * x)


class Gaussian(nn.Module):
    """Gaussian: exp(-x²).

    Source:
        Broomhead and Lowe (1988), Multivariable functional interpolation and adaptive networks, Complex Systems 2,
        321-355.
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(-x.square())


class Arctan(nn.Module):
    """Arctan: arctan(x).

    Source:
        Kunc and Kléma (2024), Three decades of activations: a comprehensive survey of 400 activation functions for
        neural networks, arXiv:2402.09092.
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.atan(x)


class NLReLU(nn.Module):
    """NLReLU: ln(1 + β·max(0, x)).

    Args:
        beta: Positive factor β.

    Source:
        Liu et al. (2019), Natural-logarithm-rectified activation function in convolutional neural
        networks, arXiv:1908.03682.
    """

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        check_positive(beta=beta)
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        return torch.log1p(self.beta * relu(x))


class ELiSH(nn.Module):
    """ELiSH: x·σ(x) for x ≥ 0, (eˣ - 1)·σ(x) for x < 0.

    Source:
        Basirat and Roth (2018), The quest for the golden activation function, arXiv:1808.00783.
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x >= 0, x, torch.expm1(x.clamp(max=0.0))) * torch.sigmoid(x)
