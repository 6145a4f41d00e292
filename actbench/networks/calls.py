"""What is recorded of a forward pass: calls of torch's functions, and the values that they read and make."""

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import resolve_name
from torch.utils._pytree import tree_flatten

MODULE = "module"  # name of a call of a whole module, whose inside torch does not show


class SwapError(ValueError):
    """An activation cannot be put into a network; the message names the place and says why."""


class Key(NamedTuple):
    """A call in a forward pass: module path, function, and how often that path called that function before."""

    path: str
    name: str
    turn: int


class Value(NamedTuple):
    """Reference to a tensor's content at one time."""

    id: int


@dataclass(frozen=True, eq=False)
class Call:
    """One call; its arguments have a `Value` in place of each tensor."""

    key: Key
    func: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    in_place: bool
    inside: frozenset[str] = frozenset()
    """Bare names of the functions that a user's autograd function calls."""
    vmapped: bool = False
    within_function: bool = False
    """Whether a user's autograd function makes it, in its forward."""

    @property
    def base(self) -> str:
        """The function's name without the module, and without the underscores of a variant in place or reflected."""
        base = base_name(self.key.name)
        second, third = [*self.args[1:3], None, None][:2]
        if base == "setitem" and isinstance(second, Value) and isinstance(third, int | float):
            return "masked_fill"  # if the second is a mask: other indices are not made from what they are put into
        if base in ("fmax", "fmin"):
            return f"{base[1:]}imum"
        # Of two tensors, these are other functions than of one.
        return f"{base}imum" if base in ("max", "min") and isinstance(second, Value) else base


@dataclass
class Trace:
    """One forward pass: its calls in order, and what its values are."""

    calls: list[Call] = field(default_factory=list)
    kinds: dict[Value, str] = field(default_factory=dict)
    """input, parameter (or made from parameters by no layer with weights), constant, noise, or computed."""
    tensors: dict[Value, Tensor] = field(default_factory=dict)
    results: tuple[Value, ...] = ()
    turns: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often each module path called each function, also inside of a user's autograd function."""
    stale: set[int] = field(default_factory=set)
    """Indices of calls in place, after which the tensor was read by another reference than the result."""

    checkpointed: bool = False
    """Whether `torch.utils.checkpoint` computes a part of it a second time, in the backward pass."""
    draws: bool = False
    """Whether it drew from a global generator."""
    uncaught: list[tuple[str, str, Call | None]] = field(default_factory=list)
    """Module path and operator of activations that ran outside of recorded calls, and the module that is one call."""

    @property
    def wiring(self) -> Hashable:
        """What the calls compute from which values, with plain arguments; equal for networks wired alike."""
        return tuple(
            (
                call.key,
                call.inputs,
                call.outputs,
                tuple(
                    repr(leaf)
                    for leaf in tree_flatten((call.args, call.kwargs))[0]
                    if leaf is None or isinstance(leaf, bool | int | float | str)
                ),
            )
            for call in self.calls
        ), self.results


def bare_names(text: str) -> frozenset[str]:
    """The bare names of functions in a text."""
    return frozenset(text.split())


ATTENTION = bare_names("scaled_dot_product_attention multi_head_attention_forward")
RECURRENT = bare_names("lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell")
WEIGHTED = (
    ATTENTION
    | RECURRENT
    | bare_names(
        "linear bilinear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d embedding "
        "matmul mm bmm mv addmm addbmm baddbmm einsum tensordot"
    )
)
"""Functions that compute with weights, or multiply matrices."""
CONSTANTS = bare_names("zeros_like ones_like full_like new_zeros new_ones new_full new_empty empty_like")
"""Functions that make constants, whatever the values they read."""
NOISE = bare_names("rand randn rand_like randn_like randint randint_like bernoulli normal uniform exponential random")
"""Functions that draw, from no value that is computed."""


@lru_cache(maxsize=4096)
def function_name(func: Any) -> str:
    """The public name of one of torch's functions, such as ``torch.nn.functional.relu`` or ``torch.Tensor.mul``."""
    if isinstance(func, OpOverload):
        return f"torch.ops.{func.overloadpacket}"
    return str(resolve_name(func) or f"{getattr(func, '__module__', '')}.{getattr(func, '__name__', func)}")


@lru_cache(maxsize=4096)
def base_name(name: str) -> str:
    """A function's bare name: ``relu`` for ``torch.Tensor.relu_``, ``sub`` for ``torch.Tensor.__rsub__``."""
    base = name.rpartition(".")[2]
    if base.startswith("__"):
        base = base.strip("_")
        base = base[1:] if base in ("radd", "rsub", "rmul", "rdiv", "rtruediv", "rpow", "rmatmul") else base
        base = {"truediv": "div", "iadd": "add", "imul": "mul", "isub": "sub"}.get(base, base)
        return "rsub" if name.endswith("__rsub__") else "rdiv" if name.endswith("__rtruediv__") else base
    return base.rstrip("_")
