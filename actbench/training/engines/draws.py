"""Random numbers of a network that runs: drawn the same way, and to the same values, by both engines."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from typing_extensions import override

SELU_FLOOR = -1.7580993408473766  # alpha dropout's value for dropped elements: SELU's limit at -inf
Kind = Literal["uniform", "normal"] | float
"""Of random numbers: uniform in [0, 1), standard normal, or 1 with this probability, else 0."""
Draw = Callable[[Kind, tuple[int, ...], torch.dtype, torch.device], Tensor]
"""Random numbers for each replicate of a kind, shape, dtype and device."""


class Draws(TorchFunctionMode):
    """Draws the random numbers of torch's functions, in the order of a contiguous tensor.

    Torch itself draws in the order of memory, which depends on the engine.

    Args:
        draws: Returns random numbers (replicates, *shape), each replicate's from its own generator.
        anchor: A number for each replicate, which makes vmap batch every draw over replicates.
    """

    def __init__(self, draws: Draw, anchor: Tensor) -> None:
        super().__init__()
        self.draws = draws
        self.anchor = anchor

    @override
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        rule = RANDOM.get(func)
        return rule(self, *args, **kwargs or {}) if rule else func(*args, **kwargs or {})

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


def fill(values: Tensor, kind: Kind, generator: torch.Generator | None = None) -> Tensor:
    """Random numbers of a kind, in place, from a generator or torch's global one."""
    if kind == "uniform":
        return values.uniform_(generator=generator)
    if kind == "normal":
        return values.normal_(generator=generator)
    return values.bernoulli_(kind, generator=generator)


def global_draws(kind: Kind, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Random numbers for one replicate from torch's global generator."""
    return fill(torch.empty(1, *shape, dtype=dtype, device=device), kind)


# --- random functions, with the parameters of torch's own ---


def dropping(
    drop: Callable[[Tensor, Tensor, float], Tensor], *, channels: bool = False, batched: int = 0, trains: bool = True
) -> Callable[..., Tensor]:
    """Rule for a kind of dropout of elements or whole channels; ``trains`` is its default of ``training``.

    ``drop`` computes the output from the input, a mask with 1 for kept elements, and the share that is dropped.
    """

    def rule(rules: Draws, input: Tensor, p: float = 0.5, training: bool = trains, inplace: bool = False) -> Tensor:
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        if not training or p == 0:
            return input
        axes = 1 if input.ndim < batched else 2
        shape = (*input.shape[:axes], *[1] * (input.ndim - axes)) if channels else input.shape
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


def random_like(rules: Draws, input: Tensor, *, kind: Kind, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    """Random numbers with the input's shape."""
    return rules.draw(kind, input if dtype is None else input.to(dtype))


def bernoulli(rules: Draws, input: Tensor, p: float | None = None, **_: Any) -> Tensor:
    """Ones with the given probabilities, else zeros."""
    like = input if input.is_floating_point() else input.float()
    ones: Tensor = rules.draw("uniform", like) < (input if p is None else p)
    return ones.to(input.dtype)


def rrelu(
    rules: Draws,
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
    F.dropout1d: dropping(zeroed, channels=True, batched=3),
    F.dropout2d: dropping(zeroed, channels=True),
    F.dropout3d: dropping(zeroed, channels=True, batched=5),
    F.alpha_dropout: dropping(floored, trains=False),
    F.feature_alpha_dropout: dropping(floored, channels=True, trains=False),
    F.rrelu: rrelu,
    torch.rand_like: partial(random_like, kind="uniform"),
    torch.randn_like: partial(random_like, kind="normal"),
    torch.bernoulli: bernoulli,
}
