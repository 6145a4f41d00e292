"""The activations by name."""

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import nn

from actbench.activations import fixed, trainable


class CatalogueEntry(NamedTuple):
    """One activation: its class and arguments, its formula, and its publication."""

    cls: type[nn.Module]
    init_args: Mapping[str, Any]
    formula: str
    source: str


def entry(cls: type[nn.Module], formula: str = "", source: str = "", **init_args: Any) -> CatalogueEntry:
    """Entry of a class; actbench's own classes give formula and source in their docstrings."""
    if not formula:
        text = inspect.getdoc(cls) or ""
        formula = text.splitlines()[0].partition(": ")[2].removesuffix(".")
        source = " ".join(text.partition("Source:")[2].split()).removesuffix(".")
    return CatalogueEntry(cls, MappingProxyType(init_args), formula, source)


def trainable_parameters(activation: CatalogueEntry) -> int:
    """Number of trainable parameters of one instance; every site in a network has its own instance."""
    return sum(parameter.numel() for parameter in activation.cls(**activation.init_args).parameters())


GELU_PAPER = "Hendrycks and Gimpel (2016), Gaussian error linear units (GELUs), arXiv:1606.08415"
MOBILENET_PAPER = "Howard et al. (2019), Searching for MobileNetV3, arXiv:1905.02244"
SHRINKAGE_PAPER = (
    "Donoho and Johnstone (1994), Ideal spatial adaptation by wavelet shrinkage, Biometrika 81(3), 425-455"
)
TORCH = "PyTorch's torch.nn; no publication known"

CATALOGUE: Mapping[str, CatalogueEntry] = MappingProxyType(
    {
        "acon_c": entry(trainable.AconC),
        "arctan": entry(fixed.Arctan),
        "bent_identity": entry(fixed.BentIdentity),
        "celu": entry(
            nn.CELU,
            "max(0, x) + min(0, exp(x) - 1)",
            "Barron (2017), Continuously differentiable exponential linear units, arXiv:1704.07483",
        ),
        "elish": entry(fixed.ELiSH),
        "elu": entry(
            nn.ELU,
            "x for x > 0, exp(x) - 1 for x ≤ 0",
            "Clevert, Unterthiner and Hochreiter (2015), Fast and accurate deep network learning by exponential linear "
            "units (ELUs), arXiv:1511.07289",
        ),
        "eswish": entry(fixed.ESwish),
        "gaussian": entry(fixed.Gaussian),
        "gcu": entry(fixed.GCU),
        "gelu": entry(nn.GELU, "x·Φ(x), Φ the standard normal distribution function", GELU_PAPER),
        "gelu_tanh": entry(nn.GELU, "x/2·(1 + tanh(√(2/π)·(x + 0.044715x³)))", GELU_PAPER, approximate="tanh"),
        "golu": entry(fixed.GoLU),
        "hardshrink": entry(nn.Hardshrink, "x for |x| > 1/2, else 0", SHRINKAGE_PAPER),
        "hardsigmoid": entry(nn.Hardsigmoid, "min(1, max(0, x/6 + 1/2))", MOBILENET_PAPER),
        "hardswish": entry(nn.Hardswish, "x·min(1, max(0, x/6 + 1/2))", MOBILENET_PAPER),
        "hardtanh": entry(
            nn.Hardtanh,
            "min(1, max(-1, x))",
            "Collobert (2004), Large scale machine learning, PhD thesis, Université Paris 6",
        ),
        "identity": entry(nn.Identity, "x", "none: the network becomes linear, as a control"),
        "isrlu": entry(fixed.ISRLU),
        "isru": entry(fixed.ISRU),
        "leaky_relu": entry(
            nn.LeakyReLU,
            "x for x > 0, 0.01x for x ≤ 0",
            "Maas, Hannun and Ng (2013), Rectifier nonlinearities improve neural network acoustic models, ICML",
        ),
        "lecun_tanh": entry(fixed.LeCunTanh),
        "lisht": entry(fixed.LiSHT),
        "log_sigmoid": entry(nn.LogSigmoid, "ln(σ(x))", TORCH),
        "logish": entry(fixed.Logish),
        "mish": entry(
            nn.Mish,
            "x·tanh(ln(1 + exp(x)))",
            "Misra (2019), Mish: a self regularized non-monotonic activation function, arXiv:1908.08681",
        ),
        "nlrelu": entry(fixed.NLReLU),
        "pade": entry(trainable.PadeUnit),
        "pelu": entry(trainable.PELU),
        "phish": entry(fixed.Phish),
        "prelu": entry(
            nn.PReLU,
            "x for x > 0, ax for x ≤ 0, a trained from 0.25",
            "He, Zhang, Ren and Sun (2015), Delving deep into rectifiers, arXiv:1502.01852",
        ),
        "quick_gelu": entry(fixed.QuickGELU),
        "relu": entry(
            nn.ReLU,
            "max(0, x)",
            "Nair and Hinton (2010), Rectified linear units improve restricted Boltzmann machines, ICML",
        ),
        "relu6": entry(
            nn.ReLU6,
            "min(6, max(0, x))",
            "Krizhevsky (2010), Convolutional deep belief networks on CIFAR-10, unpublished",
        ),
        "rrelu": entry(
            nn.RReLU,
            "x for x > 0, ax for x ≤ 0, a drawn from 1/8 to 1/3 in training, else the middle of that range",
            "Xu, Wang, Chen and Li (2015), Empirical evaluation of rectified activations in convolutional network, "
            "arXiv:1505.00853",
        ),
        "selu": entry(
            nn.SELU,
            "1.0507·x for x > 0, 1.0507·1.6733·(exp(x) - 1) for x ≤ 0",
            "Klambauer, Unterthiner, Mayr and Hochreiter (2017), Self-normalizing neural networks, arXiv:1706.02515",
        ),
        "serf": entry(fixed.Serf),
        "sigmoid": entry(
            nn.Sigmoid,
            "σ(x) = 1 / (1 + exp(-x))",
            "Rumelhart, Hinton and Williams (1986), Learning representations by back-propagating errors, Nature 323, "
            "533-536",
        ),
        "silu": entry(
            nn.SiLU,
            "x·σ(x)",
            "Elfwing, Uchibe and Doya (2017), Sigmoid-weighted linear units for neural network function approximation "
            "in reinforcement learning, arXiv:1702.03118",
        ),
        "sine": entry(fixed.Sine),
        "sinlu": entry(trainable.SinLU),
        "smelu": entry(fixed.SmeLU),
        "smish": entry(fixed.Smish),
        "snake": entry(trainable.Snake),
        "snake_trainable": entry(trainable.Snake, trainable=True),
        "softplus": entry(
            nn.Softplus,
            "ln(1 + exp(x))",
            "Dugas, Bengio, Bélisle, Nadeau and Garcia (2000), Incorporating second-order functional knowledge for "
            "better option pricing, NIPS",
        ),
        "softshrink": entry(nn.Softshrink, "x - 1/2 for x > 1/2, x + 1/2 for x < -1/2, else 0", SHRINKAGE_PAPER),
        "softsign": entry(
            nn.Softsign,
            "x / (1 + |x|)",
            "Bergstra, Desjardins, Lamblin and Bengio (2009), Quadratic polynomials learn better image features, "
            "Université de Montréal, report 1337",
        ),
        "squared_relu": entry(fixed.SquaredReLU),
        "squareplus": entry(fixed.Squareplus),
        "srelu": entry(trainable.SReLU),
        "star_relu": entry(trainable.StarReLU),
        "swish": entry(trainable.Swish),
        "swish_trainable": entry(trainable.Swish, trainable=True),
        "tanh": entry(
            nn.Tanh,
            "tanh(x)",
            "LeCun, Bottou, Orr and Müller (1998), Efficient backprop, in: Neural networks: tricks of the trade, "
            "Springer",
        ),
        "tanhexp": entry(fixed.TanhExp),
        "tanhshrink": entry(nn.Tanhshrink, "x - tanh(x)", TORCH),
        "telu": entry(fixed.TanhExp),
        "threshold": entry(
            nn.Threshold,
            "x for x > 1, else 0",
            "Konda, Memisevic and Krueger (2014), Zero-bias autoencoders and the benefits of co-adapting features, "
            "arXiv:1402.3337",
            threshold=1.0,
            value=0.0,
        ),
        "xielu": entry(trainable.XIELU),
    }
)
