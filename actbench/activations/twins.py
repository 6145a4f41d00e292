"""What an activation equals: another of the catalogue, or a member of a family with one argument."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from actbench.activations import fixed, trainable
from actbench.activations.catalogue import CATALOGUE
from actbench.activations.properties import derivative, on_curve

Curve = Float[np.ndarray, " numbers"]
TOLERANCE = 1e-6  # relative to 1 + |value|; constants in single precision are off by 6e-8
FAMILIES: tuple[tuple[type[nn.Module], str], ...] = (
    (trainable.Swish, "beta"),
    (nn.LeakyReLU, "negative_slope"),
    (nn.ELU, "alpha"),
    (nn.CELU, "alpha"),
    (nn.Softplus, "beta"),
    (nn.Softshrink, "lambd"),
    (fixed.ESwish, "beta"),
    (fixed.SmeLU, "beta"),
    (fixed.Squareplus, "b"),
    (fixed.ISRU, "alpha"),
    (fixed.ISRLU, "alpha"),
    (fixed.NLReLU, "beta"),
    (fixed.Sine, "omega"),
    (trainable.Snake, "a"),
)
LEAST, MOST, TRIED = 0.01, 100.0, 81  # a family's argument: values on a logarithmic scale, before the best is refined


class Twin(NamedTuple):
    """An activation that another one equals on a grid, in values and slopes, in training and in evaluation."""

    cls: type[nn.Module]
    init_args: Mapping[str, Any]
    difference: float
    """The largest on the grid, relative to 1 + |value|."""
    initially: bool
    """Whether they are only known to be equal at first, because the activation has trainable parameters."""

    @property
    def name(self) -> str:
        """Class path and arguments, as in ``torch.nn.Mish`` or ``actbench.activations.Swish(beta=1.2)``."""
        module = "torch.nn" if self.cls.__module__.startswith("torch.nn.") else "actbench.activations"
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.init_args.items())
        return f"{module}.{self.cls.__name__}{f'({arguments})' if arguments else ''}"


def same_as(activation: Callable[[Tensor], Tensor]) -> list[Twin]:
    """What an activation equals: others of the catalogue, which has those of torch, or members of `FAMILIES`.

    They are compared at inputs from -12 to 12 and at some up to 100, in double precision: this is evidence, no proof.
    Random activations are compared with one seed. One with the same class and parameters is not listed, nor one with
    more trainable parameters. Families are only searched where nothing of the catalogue is equal.

    Args:
        activation: An element-wise function or module.

    Returns:
        What it equals, in the order of the catalogue or of the families; nothing if nothing is equal.

    Raises:
        ValueError: The activation is not finite on the grid.
    """
    evaluated, in_training = curve_of(activation), curve_of(activation, training=True)
    if not np.isfinite([evaluated, in_training]).all():
        raise ValueError("it is not finite for some inputs from -100 to 100")
    parameters = list(activation.parameters()) if isinstance(activation, nn.Module) else []
    count = sum(parameter.numel() for parameter in parameters)
    found = dict[str, Twin]()
    for other, init_args, curves in catalogue_curves():
        theirs = sum(parameter.numel() for parameter in other.parameters())
        difference = max(distance(evaluated, curves[0]), distance(in_training, curves[1]))
        same = type(other) is type(activation) and theirs == count
        if difference <= TOLERANCE and theirs <= count and not same:
            twin = Twin(type(other), init_args, difference, initially=count > 0)
            found[twin.name] = twin
    straight = np.ptp(evaluated[len(twin_grid()) :]) <= TOLERANCE  # a line, which is a leaky ReLU of slope 1
    if not found and not straight and distance(evaluated, in_training) <= TOLERANCE:
        for number, (cls, _) in enumerate(FAMILIES):
            if cls is not type(activation):
                found |= {twin.name: twin for twin in family_member(evaluated, number, initially=count > 0)}
    return list(found.values())


def curve_of(activation: Callable[[Tensor], Tensor], *, training: bool = False, points: Tensor | None = None) -> Curve:
    """Values and slopes of an activation, one after the other, at given points or on the grid of `same_as`."""
    function, points = on_curve(activation, training=training), twin_grid() if points is None else points
    return torch.cat([derivative(function, points, order=order) for order in (0, 1)]).numpy()


@cache
def twin_grid() -> Tensor:
    """Inputs from -12 to 12, none of them round, since conventions differ at a kink, and some near 0 and up to 100."""
    others = torch.tensor([0.0013, 0.0041, 0.011, 15.1, 20.3, 50.7, 99.9], dtype=torch.float64)
    return torch.cat([-others, others, torch.linspace(-11.97, 11.93, 383, dtype=torch.float64)])


@cache
def catalogue_curves() -> list[tuple[nn.Module, Mapping[str, Any], tuple[Curve, Curve]]]:
    """The activations of the catalogue with their arguments, and their curves in evaluation and in training."""
    modules = [(entry.cls(**entry.init_args), entry.init_args) for entry in CATALOGUE.values()]
    return [(module, given, (curve_of(module), curve_of(module, training=True))) for module, given in modules]


@cache
def family_curves(number: int) -> Float[np.ndarray, "tried numbers"]:
    """Curves of members of a family, which is given by its place in `FAMILIES`."""
    cls, argument = FAMILIES[number]
    return np.stack([curve_of(cls(**{argument: value})) for value in np.geomspace(LEAST, MOST, TRIED)])


def distance(curve: Curve, other: Curve) -> float:
    """Largest difference of two curves, relative to 1 + |value|."""
    return float(np.max(np.abs(curve - other) / (1 + np.abs(other))))


def family_member(curve: Curve, number: int, *, initially: bool) -> Iterator[Twin]:
    """The member of a family that has a curve, if there is one, with the argument in as few digits as will do."""
    cls, argument = FAMILIES[number]
    points = np.tile(twin_grid().numpy(), 2)
    weights = 1 / (1 + points**2) ** 2  # near 0, a curve that oscillates has one best argument

    def misfit(other: Float[np.ndarray, "... numbers"], target: Curve = curve) -> Any:
        return np.average(np.abs(target - other) / (1 + np.abs(target)), weights=weights, axis=-1)

    members = family_curves(number)
    misfits = misfit(members)
    best = int(np.argmin(misfits))
    if misfits[best] > misfit(members[max(best - 1, 0) : best + 2], members[best]).max():
        return  # what lies between the best and the next is nearer to the best than the next is
    step = math.log(MOST / LEAST) / (TRIED - 1)
    middle = math.log(LEAST) + best * step
    fitted = minimize_scalar(
        lambda power: misfit(curve_of(cls(**{argument: math.exp(power)}))),
        bounds=(middle - step, middle + step),
        method="bounded",
        options={"xatol": 1e-10},
    )
    for digits in range(1, 9):
        value = float(f"{math.exp(fitted.x):.{digits}g}")
        difference = distance(curve, curve_of(cls(**{argument: value})))
        if difference <= TOLERANCE:
            yield Twin(cls, {argument: value}, difference, initially)
            return
