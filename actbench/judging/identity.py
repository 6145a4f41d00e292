"""By what a candidate is known again: its values, or where those do not say all, its source and its start."""

import copy
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from actbench.activations.properties import derivative, on_curve
from actbench.activations.twins import curve_of
from actbench.judging.ledger import SAME
from actbench.records import fingerprint

SHAPES = ((2, 4, 2, 3), (3, 4))
FAR = 12  # beyond, single precision may differ
FARTHER = (300.0, 1e3, 1e4, 1e5)  # where functions may be cut off
NAN, INFINITY = 1e300, 2e300  # as a ledger has them
SINGLE = 1e-4  # largest difference between precisions, relative and absolute
CALLS = 300  # after which a function is still the same
MOVES = (0.0, 0.1, 0.2)  # of trainable parameters: where they are, and twice elsewhere, as training may take them
MOST = 1000  # trainable parameters whose function is known by its values


@cache
def grid() -> Tensor:
    """Inputs near 0 and far from it, none of them round, since conventions differ at a kink; a ledger keeps them."""
    far = torch.tensor([0.0013, 0.041, 12.3, 20.3, 50.7, 99.9], dtype=torch.float64)
    return torch.cat([-far, far, torch.linspace(-11.97, 11.93, 89, dtype=torch.float64)])


def outputs_and_slopes(module: nn.Module, *, training: bool) -> np.ndarray | None:
    """Values and slopes of an activation on the grid; None if it does not take single numbers."""
    try:
        curve = curve_of(module, training=training, points=grid())
    except Exception:  # of any kind, in the user's code, as of one parameter for each channel
        return None
    return curve if curve.shape == (2 * len(grid()),) else None


def known_values(module: nn.Module) -> list[float] | None:
    """What no other function has: values and slopes on the grid, and values farther out, in both modes.

    A function with trainable parameters is known by these, and by what it is after
    they have moved. None if it is not the same for each number, or is not finite.
    """
    if any(map(is_lazy, module.parameters())):  # it gets its shape from the network
        return None
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    if trained > MOST or not is_elementwise(module):
        return None
    farther = torch.tensor([*FARTHER, *(-far for far in FARTHER)], dtype=torch.float64)
    parts = list[np.ndarray]()
    try:
        for move in MOVES if trained else MOVES[:1]:
            other = moved(module, move)
            parts += [parameter.detach().double().flatten().numpy() for parameter in other.parameters() if trained]
            for training in (False, True):
                parts.append(curve_of(other, training=training, points=grid()))
                beyond = derivative(on_curve(other, training=training), farther, order=0)
                parts.append(np.nan_to_num(beyond.numpy(), nan=NAN, posinf=INFINITY, neginf=-INFINITY))
    except Exception:  # of any kind, in the user's code, as of values that parameters may not have
        return None
    values = np.concatenate(parts)
    return [float(f"{value:.9g}") for value in values] if np.isfinite(values).all() else None


def moved(module: nn.Module, move: float) -> nn.Module:
    """A copy whose trainable parameters are each larger by a number of their own."""
    other = copy.deepcopy(module)
    first = 0
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.requires_grad:
                steps = torch.arange(first, first + parameter.numel(), dtype=parameter.dtype).view(parameter.shape)
                parameter.add_(move * (1 + steps / MOST))
                first += parameter.numel()
    return other


def is_elementwise(module: nn.Module) -> bool:
    """Whether an activation treats each number by itself, in any shape and either precision, however often called."""
    inputs = grid()[torch.randperm(len(grid()), generator=torch.Generator().manual_seed(0))][:96]
    inputs = inputs[inputs.abs() < FAR]
    inputs = inputs[: len(inputs) // 16 * 16]
    for training in (False, True):
        function = copy.deepcopy(module).double().train(training).requires_grad_(requires_grad=False)
        single = copy.deepcopy(module).float().train(training).requires_grad_(requires_grad=False)
        before = start_state(function)
        try:
            expected = function(inputs * 1)
            for shape in ((-1, 4), (4, -1), (2, 4, 2, -1)):
                if not torch.allclose(function(inputs.reshape(shape)).flatten(), expected, rtol=SAME, atol=SAME):
                    return False
                values = single(inputs.reshape(shape).float())
                if values.dtype != torch.float32:
                    return False
                if not torch.allclose(values.flatten().double(), expected, rtol=SINGLE, atol=SINGLE):
                    return False
            for _ in range(CALLS):
                function(inputs * 1)
            if not torch.equal(function(inputs * 1), expected) or start_state(function) != before:
                return False
        except Exception:  # of any kind, in the user's code
            return False
    return True


def start_of(module: nn.Module) -> str:
    """Digest of what a candidate is at first, which its source alone does not say if it reads its environment."""
    outputs = [value for training in (False, True) for value in start_outputs(module, training=training)]
    return fingerprint([start_state(module), outputs])


def start_state(module: nn.Module) -> list[Any]:
    """Parameters, buffers and plain attributes of a module and its parts, in plain values."""
    named = chain(module.named_parameters(), module.named_buffers())
    tensors = [[name, value.detach().flatten().tolist()] for name, value in named if not is_lazy(value)]
    plain = [
        [f"{path}.{name}", repr(value)]
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, bool | int | float | str)
    ]
    return tensors + plain


def start_outputs(module: nn.Module, *, training: bool) -> Iterator[Sequence[str]]:
    """Outputs for the shapes that a candidate takes, in six digits; none that it would not give again."""
    for shape in SHAPES:
        inputs = torch.linspace(-3, 3, int(np.prod(shape))).reshape(shape)
        try:
            first, again = (on_single(module, inputs, training=training) for _ in range(2))
        except Exception:  # of any kind: it needs another shape, in which it is tried later
            continue
        if torch.equal(first, again):
            yield [f"{value:.6g}" for value in first.flatten().tolist()]


def on_single(module: nn.Module, inputs: Tensor, *, training: bool) -> Tensor:
    """Outputs of a copy in single precision, with one seed."""
    with torch.random.fork_rng(devices=()), torch.no_grad():
        torch.manual_seed(0)
        outputs: Tensor = copy.deepcopy(module).train(training)(inputs * 1)
        return outputs
