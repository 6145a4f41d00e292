"""What an activation's curve is like, found numerically on grids: bounds, monotonicity and smoothness."""

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

WIDTH, STEP = 12.0, 1 / 128  # the dense part of the grid, from -12 to 12
FAR, FARTHEST_POWER = 1e6, 9.0  # what still grows by a thousandth from 1e6 to 1e9 is unbounded
HALVINGS = 26  # of a step, after which only a jump is left of a difference
JUMP = 1e-4  # of the largest value, from which a difference is a jump
BREAKS = "jumps", "kinks", "curvature jumps"  # of the function and of its first and second derivative
Monotonicity = Literal["increasing", "decreasing", "constant", "no"]


class CurveProperties(NamedTuple):
    """Properties of an activation's curve in evaluation, at its initial parameters, as far as a grid shows them."""

    low: float
    """Greatest lower bound; -inf if there is none."""
    high: float
    """Least upper bound; inf if there is none."""
    monotone: Monotonicity
    """An increasing function may have level parts."""
    smoothness: str
    """The first of `BREAKS` that the function has, or "smooth"; "no jumps" or "no kinks" if no more is known."""
    places: tuple[float, ...]
    """Where those are, from -12 to 12."""


def curve_properties(activation: Callable[[Tensor], Tensor]) -> CurveProperties:
    """Bounds, monotonicity and smoothness of an element-wise activation.

    They are found on a grid from -12 to 12 in steps of 1/128, and bounds also at up to a billion, in double precision.
    A jump of a derivative that is below a ten-thousandth of its largest value, or beyond 12, is not seen.
    """
    inputs, values = far_values(activation)
    near = values[inputs.abs() <= FAR]
    low, high = values.min().item(), values.max().item()
    room = 1e-3 * max(1, near.abs().max().item())
    if low < near.min().item() - room:
        low = -math.inf
    if high > near.max().item() + room:
        high = math.inf
    smoothness, places = find_breaks(activation)
    return CurveProperties(low, high, monotonicity(values), smoothness, places)


def on_curve(activation: Callable[[Tensor], Tensor], *, training: bool = False) -> Callable[[Tensor], Tensor]:
    """An activation as a function of doubles that changes neither its argument nor the module, and draws alike."""
    function = activation
    if isinstance(activation, nn.Module):
        function = copy.deepcopy(activation).double().cpu().train(training).requires_grad_(False)

    def values(inputs: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(0)  # torch.manual_seed takes 100 times longer, for devices
            return function(inputs * 1)  # which may be changed in place

    return values


def far_values(activation: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Inputs near and far in ascending order, and finite or infinite values there."""
    outer = torch.logspace(math.log10(WIDTH), FARTHEST_POWER, 2000, dtype=torch.float64)
    inputs = torch.cat([-outer.flip(0), dense_grid(), outer])
    with torch.no_grad():
        values = on_curve(activation)(inputs)
    known = ~values.isnan()  # a formula such as exp(x)/(1 + exp(x)) fails far out, where it says nothing
    return inputs[known], values[known]


def dense_grid() -> Tensor:
    """Inputs from -12 to 12, which include the whole numbers."""
    return torch.linspace(-WIDTH, WIDTH, round(2 * WIDTH / STEP) + 1, dtype=torch.float64)


def monotonicity(values: Tensor) -> Monotonicity:
    """Whether values rise or fall; by a billionth, rounding may make them do the contrary."""
    steps = values.diff().nan_to_num()  # two infinite values
    noise = 1e-9 * values[1:].abs().clamp(min=1).nan_to_num(posinf=1)
    rises, falls = bool((steps > noise).any()), bool((steps < -noise).any())
    if rises and falls:
        return "no"
    return "increasing" if rises else "decreasing" if falls else "constant"


def find_breaks(activation: Callable[[Tensor], Tensor]) -> tuple[str, tuple[float, ...]]:
    """The first of `BREAKS` that a function has, and where."""
    function = on_curve(activation)
    for order, name in enumerate(BREAKS):
        try:
            places = jumps(partial(derivative, function, order=order))
            known = order == 0 or is_derivative(function, order)
        except (RuntimeError, NotImplementedError):  # torch has no derivative of the derivative
            known = False
        if not known:
            return f"no {BREAKS[order - 1]}", ()
        if places:
            return name, places
    return "smooth", ()


def derivative(function: Callable[[Tensor], Tensor], inputs: Tensor, *, order: int) -> Tensor:
    """The function itself, or a derivative of an element-wise function."""
    inputs = inputs.detach().requires_grad_()
    with torch.enable_grad():
        values = function(inputs)
        for left in reversed(range(order)):
            if not values.requires_grad:
                return torch.zeros_like(inputs)
            values = torch.autograd.grad(values.sum(), inputs, create_graph=left > 0)[0]
    return values.detach()


def is_derivative(function: Callable[[Tensor], Tensor], order: int) -> bool:
    """Whether torch's derivative is that of the values: a backward pass that is written by hand may give another."""
    grid, step = dense_grid() + STEP / 3, 1e-4
    above, below = (derivative(function, grid + side, order=order - 1) for side in (step, -step))
    slope = derivative(function, grid, order=order)
    agrees = (slope - (above - below) / (2 * step)).abs() <= 1e-3 * (1 + slope.abs().max())
    return bool(agrees.double().mean() > 0.99)  # a jump may be next to a point


def jumps(function: Callable[[Tensor], Tensor]) -> tuple[float, ...]:
    """Where a function jumps: each step of the grid is halved towards its larger difference until it is tiny."""
    grid = dense_grid() + STEP / 3  # breaks are at round numbers, where no value should be
    left, right = grid[:-1], grid[1:]
    values = function(grid)
    low, high = values[:-1], values[1:]
    for _ in range(HALVINGS):
        middle = (left + right) / 2
        value = function(middle)
        first = (value - low).abs() >= (high - value).abs()
        left, low = torch.where(first, left, middle), torch.where(first, low, value)
        right, high = torch.where(first, middle, right), torch.where(first, value, high)
    found = (high - low).abs() > JUMP * (1 + values.abs().max())
    return tuple(dict.fromkeys(round(jump, 6) + 0.0 for jump in left[found].tolist()))
