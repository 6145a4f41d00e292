"""Replacements for torch functions while a network runs as part of a stack."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from actbench.training.engines.stack.convolution import convolve
from actbench.training.engines.stack.replay import Draw, Kind

SELU_FLOOR = -1.7580993408473766  # alpha dropout's value for dropped elements: SELU's limit at -inf


class Rules(TorchFunctionMode):
    """Draws random numbers for each replicate separately, and computes convolutions as matrix products.

    Args:
        draws: Returns random numbers (replicates, *shape), each replicate's from its own generator.
        anchor: A number for each replicate, which makes vmap batch every draw over replicates.
    """

    def __init__(self, draws: Draw, anchor: Tensor) -> None:
        super().__init__()
        self.draws = draws
        self.anchor = anchor

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Called by torch in place of each torch function."""
        kwargs = kwargs or {}
        if func in (F.conv2d, F.linear):
            call = conv2d if func is F.conv2d else func
            return in_autocast_precision(call, args, kwargs)
        if func is F.batch_norm:
            return batch_norm(*args, **kwargs)
        rule = RANDOM.get(func)
        return rule(self, *args, **kwargs) if rule else func(*args, **kwargs)

    def draw(self, kind: Kind, like: Tensor, shape: Sequence[int] | None = None) -> Tensor:
        """Random numbers for a replicate, with dtype and device of ``like``."""
        shape = tuple(like.shape if shape is None else shape)
        numbers: Tensor = ReplicateDraw.apply(self.anchor, self.draws, (kind, shape, like.dtype, like.device))
        return numbers


class ReplicateDraw(torch.autograd.Function):
    """Random numbers for one replicate, or under vmap for each."""

    @staticmethod
    def forward(anchor: Tensor, draws: Draw, request: Any) -> Tensor:
        return draws(*request)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return (None,) * 3

    @staticmethod
    def vmap(info: Any, in_dims: Any, anchor: Tensor, draws: Draw, request: Any) -> tuple[Tensor, int]:
        return draws(*request), 0


def in_autocast_precision(call: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Call with tensors in autocast's dtype if autocast is on, because under vmap it misses decomposed functions."""
    device = args[0].device.type if args else "cpu"
    if not args or not torch.is_autocast_enabled(device):
        return call(*args, **kwargs)
    dtype = torch.get_autocast_dtype(device)
    args = tuple(value.to(dtype) if isinstance(value, Tensor) else value for value in args)
    kwargs = {name: value.to(dtype) if isinstance(value, Tensor) else value for name, value in kwargs.items()}
    with torch.autocast(device, enabled=False):
        return call(*args, **kwargs)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv2d`, by matrix products where that is possible."""
    zeros = pair(padding)
    if (
        isinstance(padding, str)
        or (pair(stride), pair(dilation), groups) != ((1, 1), (1, 1), 1)
        or input.device.type != "cpu"
        or input.ndim != 4
        or any(2 * z >= size for z, size in zip(zeros, weight.shape[-2:], strict=True))
        or any(size > full for size, full in zip(weight.shape[-2:], input.shape[-2:], strict=True))
    ):
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    return convolve(input, weight, bias, zeros)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """`torch.nn.functional.batch_norm`, which under vmap refuses images of lower precision than its weights."""
    images = input if weight is None else input.to(weight.dtype)
    return F.batch_norm(images, running_mean, running_var, weight, *args, **kwargs).to(input.dtype)


def pair(value: Any) -> Any:
    """Height and width of an argument that may be one number for both."""
    if isinstance(value, int):
        return (value, value)
    return tuple(value) * 2 if len(value) == 1 else tuple(value)


# --- random functions, with the parameters of torch's own ---


def dropping(
    drop: Callable[[Tensor, Tensor, float], Tensor], *, channels: bool = False, trains: bool = True
) -> Callable[..., Tensor]:
    """Rule for a kind of dropout of elements or whole channels; ``trains`` is its default of ``training``.

    ``drop`` computes the output from the input, a mask with 1 for kept elements, and the share that is dropped.
    """

    def rule(rules: Rules, input: Tensor, p: float = 0.5, training: bool = trains, inplace: bool = False) -> Tensor:
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        if not training or p == 0:
            return input
        shape = (*input.shape[:2], *[1] * (input.ndim - 2)) if channels else input.shape
        result = input * 0 if p == 1 else drop(input, rules.draw(1 - p, input, shape), p)
        return input.copy_(result) if inplace else result

    return rule


def zeroed(input: Tensor, kept: Tensor, p: float) -> Tensor:
    """Input with zeros in place of dropped elements, scaled to keep its mean."""
    return input * (kept / (1 - p))


def floored(input: Tensor, kept: Tensor, p: float) -> Tensor:
    """Input with SELU's floor in place of dropped elements, scaled and shifted to keep mean 0 and variance 1."""
    scale: float = ((SELU_FLOOR**2 * p + 1) * (1 - p)) ** -0.5
    return scale * torch.where(kept > 0, input, SELU_FLOOR) - scale * SELU_FLOOR * p


def random_like(rules: Rules, input: Tensor, *, kind: Kind, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    """Random numbers with the input's shape."""
    return rules.draw(kind, input if dtype is None else input.to(dtype))


def bernoulli(rules: Rules, input: Tensor, p: float | None = None, **_: Any) -> Tensor:
    """Ones with the given probabilities, else zeros."""
    like = input if input.is_floating_point() else input.float()
    ones: Tensor = rules.draw("uniform", like) < (input if p is None else p)
    return ones.to(input.dtype)


def rrelu(
    rules: Rules,
    input: Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """`torch.nn.functional.rrelu`, for which vmap has no rule."""
    share = rules.draw("uniform", input) if training else 0.5
    result = torch.where(input > 0, input, input * (lower + (upper - lower) * share))
    return input.copy_(result) if inplace else result


RANDOM: dict[Any, Callable[..., Tensor]] = {
    F.dropout: dropping(zeroed),
    torch.dropout: lambda rules, input, p, train: RANDOM[F.dropout](rules, input, p, train),
    **dict.fromkeys((F.dropout1d, F.dropout2d, F.dropout3d), dropping(zeroed, channels=True)),
    F.alpha_dropout: dropping(floored, trains=False),
    F.feature_alpha_dropout: dropping(floored, channels=True, trains=False),
    F.rrelu: rrelu,
    torch.rand_like: partial(random_like, kind="uniform"),
    torch.randn_like: partial(random_like, kind="normal"),
    torch.bernoulli: bernoulli,
}
