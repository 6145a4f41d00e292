"""The activations by name."""

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import nn

from actbench.activations import fixed, trainable


class Entry(NamedTuple):
    """One activation: how it is built, its formula, and who published it."""

    cls: type[nn.Module]
    init_args: Mapping[str, Any]
    formula: str
    source: str


def described(cls: type[nn.Module], **init_args: Any) -> Entry:
    """Entry of one of our classes, formula and source from its docstring."""
    text = inspect.getdoc(cls) or ""
    formula = text.splitlines()[0].partition(": ")[2].removesuffix(".")
    source = " ".join(text.partition("Source:")[2].split()).removesuffix(".")
    return Entry(cls, MappingProxyType(init_args), formula, source)


def trainable_parameters(entry: Entry) -> int:
    """Trainable parameters of one instance: each place in a network has so many of its own."""
    return sum(parameter.numel() for parameter in entry.cls(**entry.init_args).parameters())


def torchs(cls: type[nn.Module], formula: str, source: str, **init_args: Any) -> Entry:
    """Entry of one of torch's classes."""
    return Entry(cls, MappingProxyType(init_args), formula, source)


GELU_PAPER = "Hendrycks and Gimpel (2016), Gaussian error linear units (GELUs), arXiv:1606.08415"
TORCH = "PyTorch's torch.nn; no publication known"

CATALOGUE: Mapping[str, Entry] = MappingProxyType(
    {
        "acon_c": described(trainable.AconC),
        "arctan": described(fixed.Arctan),
        "bent_identity": described(fixed.BentIdentity),
        "celu": torchs(
            nn.CELU,
            "max(0, x) + min(0, exp(x) - 1)",
            "Barron (2017), Continuously differentiable exponential linear units, arXiv:1704.07483",
        ),
        "elish": described(fixed.ELiSH),
        "elu": torchs(
            nn.ELU,
            "x for x > 0, exp(x) - 1 for x ≤ 0",
            "Clevert, Unterthiner and Hochreiter (2015), Fast and accurate deep network learning by exponential linear "
            "units (ELUs), arXiv:1511.07289",
        ),
        "eswish": described(fixed.ESwish),
        "gaussian": described(fixed.Gaussian),
        "gcu": described(fixed.GCU),
        "gelu": torchs(nn.GELU, "x·Φ(x), Φ the standard normal distribution function", GELU_PAPER),
        "gelu_tanh": torchs(nn.GELU, "x/2·(1 + tanh(√(2/π)·(x + 0.044715x³)))", GELU_PAPER, approximate="tanh"),
        "golu": described(fixed.GoLU),
        "hardshrink": torchs(
            nn.Hardshrink,
            "x for |x| > 1/2, else 0",
            "Donoho and Johnstone (1994), Ideal spatial adaptation by wavelet shrinkage, Biometrika 81(3), 425-455",
        ),
        "hardsigmoid": torchs(
            nn.Hardsigmoid,
            "min(1, max(0, x/6 + 1/2))",
            "Howard et al. (2019), Searching for MobileNetV3, arXiv:1905.02244",
        ),
        "hardswish": torchs(
            nn.Hardswish,
            "x·min(1, max(0, x/6 + 1/2))",
            "Howard et al. (2019), Searching for MobileNetV3, arXiv:1905.02244",
        ),
        "hardtanh": torchs(
            nn.Hardtanh,
            "min(1, max(-1, x))",
            "Collobert (2004), Large scale machine learning, PhD thesis, Université Paris 6",
        ),
        "identity": torchs(nn.Identity, "x", "none: the network becomes linear, as a control"),
        "isrlu": described(fixed.ISRLU),
        "isru": described(fixed.ISRU),
        "leaky_relu": torchs(
            nn.LeakyReLU,
            "x for x > 0, 0.01x for x ≤ 0",
            "Maas, Hannun and Ng (2013), Rectifier nonlinearities improve neural network acoustic models, ICML",
        ),
        "lecun_tanh": described(fixed.LeCunTanh),
        "lisht": described(fixed.LiSHT),
        "log_sigmoid": torchs(nn.LogSigmoid, "ln(σ(x))", TORCH),
        "logish": described(fixed.Logish),
        "mish": torchs(
            nn.Mish,
            "x·tanh(ln(1 + exp(x)))",
            "Misra (2019), Mish: a self regularized non-monotonic activation function, arXiv:1908.08681",
        ),
        "nlrelu": described(fixed.NLReLU),
        "pade": described(trainable.PadeUnit),
        "pelu": described(trainable.PELU),
        "phish": described(fixed.Phish),
        "prelu": torchs(
            nn.PReLU,
            "x for x > 0, ax for x ≤ 0, a trained from 0.25",
            "He, Zhang, Ren and Sun (2015), Delving deep into rectifiers, arXiv:1502.01852",
        ),
        "quick_gelu": described(fixed.QuickGELU),
        "relu": torchs(
            nn.ReLU,
            "max(0, x)",
            "Nair and Hinton (2010), Rectified linear units improve restricted Boltzmann machines, ICML",
        ),
        "relu6": torchs(
            nn.ReLU6,
            "min(6, max(0, x))",
            "Krizhevsky (2010), Convolutional deep belief networks on CIFAR-10, unpublished",
        ),
        "rrelu": described(fixed.RReLU),
        "selu": torchs(
            nn.SELU,
            "1.0507·x for x > 0, 1.0507·1.6733·(exp(x) - 1) for x ≤ 0",
            "Klambauer, Unterthiner, Mayr and Hochreiter (2017), Self-normalizing neural networks, arXiv:1706.02515",
        ),
        "serf": described(fixed.Serf),
        "sigmoid": torchs(
            nn.Sigmoid,
            "σ(x) = 1 / (1 + exp(-x))",
            "Rumelhart, Hinton and Williams (1986), Learning representations by back-propagating errors, Nature 323, "
            "533-536",
        ),
        "silu": torchs(
            nn.SiLU,
            "x·σ(x)",
            "Elfwing, Uchibe and Doya (2017), Sigmoid-weighted linear units for neural network function approximation "
            "in reinforcement learning, arXiv:1702.03118",
        ),
        "sine": described(fixed.Sine),
        "sinlu": described(trainable.SinLU),
        "smelu": described(fixed.SmeLU),
        "smish": described(fixed.Smish),
        "snake": described(trainable.Snake),
        "snake_trainable": described(trainable.Snake, trainable=True),
        "softplus": torchs(
            nn.Softplus,
            "ln(1 + exp(x))",
            "Dugas, Bengio, Bélisle, Nadeau and Garcia (2000), Incorporating second-order functional knowledge for "
            "better option pricing, NIPS",
        ),
        "softshrink": torchs(
            nn.Softshrink,
            "x - 1/2 for x > 1/2, x + 1/2 for x < -1/2, else 0",
            "Donoho and Johnstone (1994), Ideal spatial adaptation by wavelet shrinkage, Biometrika 81(3), 425-455",
        ),
        "softsign": torchs(
            nn.Softsign,
            "x / (1 + |x|)",
            "Bergstra, Desjardins, Lamblin and Bengio (2009), Quadratic polynomials learn better image features, "
            "Université de Montréal, report 1337",
        ),
        "squared_relu": described(fixed.SquaredReLU),
        "squareplus": described(fixed.Squareplus),
        "srelu": described(trainable.SReLU),
        "star_relu": described(trainable.StarReLU),
        "swish": described(trainable.Swish),
        "swish_trainable": described(trainable.Swish, trainable=True),
        "tanh": torchs(
            nn.Tanh,
            "tanh(x)",
            "LeCun, Bottou, Orr and Müller (1998), Efficient backprop, in: Neural networks: tricks of the trade, "
            "Springer",
        ),
        "tanhexp": described(fixed.TanhExp),
        "tanhshrink": torchs(nn.Tanhshrink, "x - tanh(x)", TORCH),
        "telu": described(fixed.TanhExp),
        "threshold": torchs(
            nn.Threshold,
            "x for x > 1, else 0",
            "Konda, Memisevic and Krueger (2014), Zero-bias autoencoders and the benefits of co-adapting features, "
            "arXiv:1402.3337",
            threshold=1.0,
            value=0.0,
        ),
        "xielu": described(trainable.XIELU),
    }
)
