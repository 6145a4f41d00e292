"""Maps of single elements among the calls of a forward pass: activations that are composed by hand, and others."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils._pytree import tree_map

from actbench.networks.calls import MODULE, Call, Trace, Value
from actbench.networks.flow import ACTIVATIONS, CASTS, ELEMENTWISE, PARTS, Flow, activates, is_weighted

SUMS = ("add", "sub", "rsub")
FAR = 100.0  # an input at which an activation has reached its asymptote
GRID = torch.linspace(-8, 8, 48)  # inputs by which a map of elements is known
RECIPROCALS = ("rdiv", "reciprocal")
ASSIGNMENTS = ("setitem", "masked_fill", "masked_scatter", "index_put")


def composed(end: Call, flow: Flow) -> tuple[Value, tuple[Call, ...]] | None:
    """Root and calls of an activation that ends with a call and is composed by hand, such as ``x * sigmoid(x)``."""
    inputs = flow.data(end)
    if end.base not in ELEMENTWISE or len(end.outputs) != 1 or not inputs:
        return None
    if len(set(inputs)) == 1 and end.base in ("pow", "square"):  # of an activation: the square of ReLU
        before = flow.maker.get(inputs[0])
        if before is None or not activates(before) or before.base not in ELEMENTWISE or not flow.data(before):
            return None
        root = flow.data(before)[0]
    elif len(set(inputs)) > 1 or (inputs and end.base in ("where", "maximum", "minimum")):
        chain = flow.chains[end.outputs[0]]
        if not chain or joins_branches(chain[0], end, flow):
            return None
        root = chain[0]
    elif end.base in ("mul", "div", "multiply"):  # by a number, after a composed activation
        before = flow.maker.get(inputs[0])
        region = composed(before, flow) if before is not None else None
        if region is None or not normalizes(region, end, flow):
            return None
        root = region[0]
    else:
        return None
    calls = flow.between(root, end)
    if not any(activates(call) or call.base in PARTS for call in calls):
        return None
    copies = any(call.base == "clone" for call in calls)
    if copies or flow.leaks(calls) or not is_nonlinear(root, calls, flow.trace):
        return None
    return root, tuple(calls)


def assignment(end: Call, flow: Flow) -> tuple[Value, tuple[Call, ...]] | None:
    """Root and calls of an activation that ends by assigning to a value, or to zeros, where a condition on it holds.

    Such are ``x[x < 0] *= 0.1`` and ``y[x > 0] = x[x > 0]``.
    """
    target, mask = [*end.args[:2], None, None][:2]
    if isinstance(mask, tuple) and not isinstance(mask, Value):  # indices, as nonzero(x < 0, as_tuple=True) gives them
        found = flow.maker.get(mask[0]) if isinstance(mask[0], Value) else None
        mask = found.inputs[0] if found is not None and found.base in ("nonzero", "where") else None
    if end.base not in ASSIGNMENTS or not isinstance(target, Value) or not isinstance(mask, Value):
        return None
    first: Any = target
    while (maker := flow.maker.get(first)) is not None and maker.base in ASSIGNMENTS:
        first = maker.args[0]
    zeros = [maker] if maker is not None and maker.base == "zeros_like" else []
    starts = zeros[0].inputs if zeros else flow.chain(target) if target in flow.data(end) else ()
    same = [value for value in flow.chain(mask) if value in starts]
    if not same or flow.trace.tensors[mask].dtype != torch.bool:
        return None
    calls = [*zeros, *flow.between(same[0], end)]
    made = {same[0], *(value for call in calls for value in call.outputs)}
    others = any(value not in made for call in calls for value in flow.data(call))
    if others or any(is_weighted(call, flow.trace) for call in calls):
        return None
    return (same[0], tuple(calls)) if is_nonlinear(same[0], calls, flow.trace) else None


def joins_branches(root: Value, end: Call, flow: Flow) -> bool:
    """Whether a call is a sum of two branches, which is no activation; x + |x| is, twice ReLU."""
    return end.base in SUMS and {call.base for call in flow.between(root, end)} != {"add", "abs"}


def normalizes(region: tuple[Value, tuple[Call, ...]], factor: Call, flow: Flow) -> bool:
    """Whether a factor makes the slope of a composed activation 1 far from 0, as in ``x * relu6(x + 3) / 6``."""
    root, calls = region
    before, after = (slope(root, each, flow.trace) for each in (calls, (*calls, factor)))
    return after is not None and before is not None and math.isclose(after, 1, rel_tol=1e-3) and before != after


def slope(root: Value, calls: Sequence[Call], trace: Trace) -> float | None:
    """Output over input far above 0; None if it cannot be computed."""
    output = values_at(torch.tensor([FAR], dtype=torch.float64), root, calls, trace)
    return None if output is None else float(output[0]) / FAR


def is_bounded(root: Value, calls: Sequence[Call], flow: Flow) -> bool:
    """Whether an activation's output stays within 6 for large inputs, as that of ReLU6, also times a number."""
    readers = flow.readers[calls[-1].outputs[0]]
    scaled = [(*calls, call) for call in readers if call.base in ("mul", "div") and len(flow.data(call)) == 1]
    for each in (calls, *scaled):
        output = values_at(torch.tensor([-FAR, FAR], dtype=torch.float64), root, each, flow.trace)
        if output is not None and (output.abs() <= 6).all():
            return True
    return False


def is_nonlinear(root: Value, calls: Sequence[Call], trace: Trace) -> bool:
    """Whether calls compute another function of each element than a line; true where that cannot be computed."""
    x = torch.linspace(-4, 4, 9, dtype=torch.float64)
    y = values_at(x, root, calls, trace)
    return y is None or not torch.allclose(y.diff(), y.diff()[0].expand(8), atol=1e-9)


def other_maps(flow: Flow, taken: set[int]) -> Iterator[tuple[Value, tuple[Call, ...]]]:
    """Roots and calls of nonlinear maps of elements whose calls, by their ids, belong to no activation.

    Calls that follow one another are one map, as in ``log(1 + exp(x))``, and so are those that begin at one value, as
    in ``x * sin(x)``. A map begins with the first call that is nonlinear, or with a change of sign before. Reciprocals
    are left out, and maps of positive numbers alone, such as roots.
    """
    curves = dict[int, Tensor | None]()  # by the call's id

    def curve(call: Call) -> Tensor | None:
        if id(call) not in curves:
            curves[id(call)] = own_curve(call, flow)
        return curves[id(call)]

    seen = set(taken)
    for end in reversed(flow.trace.calls):
        region = None if id(end) in seen else joined(end, flow, seen)
        if region is None and (id(end) in seen or not is_nonlinear_curve(curve(end))):
            continue
        root, calls = region or (flow.data(end)[0], [end])
        lines = list[tuple[Value, Call]]()  # nearest first; on them, no map begins
        value, longer = root, calls
        while (call := flow.maker.get(value)) is not None and id(call) not in seen:
            y = curve(call)
            piece = joined(call, flow, seen) if y is None else (flow.data(call)[0], [call])
            if piece is None or flow.leaks([*piece[1], *longer]):
                break
            value, longer = piece[0], [*piece[1], *longer]
            if y is None or is_nonlinear_curve(y):
                root, calls, lines = value, longer, []
            else:
                lines.append((value, call))
        if lines and is_change_of_sign(curve(lines[0][1])):
            root, calls = lines[0][0], [lines[0][1], *calls]
        seen |= {id(call) for call in calls}
        inverts = all(call.base in RECIPROCALS for call in calls if is_nonlinear_curve(curve(call)))
        y = values_at(GRID, root, calls, flow.trace, like_scalars=True)
        if y is not None and not y.isnan().any() and not (inverts and region is None):
            yield root, tuple(calls)


def joined(end: Call, flow: Flow, seen: set[int]) -> tuple[Value, list[Call]] | None:
    """Root and calls of a nonlinear map of elements that ends by joining what was made from one value."""
    if len(flow.data(end)) < 2 or end.base not in ELEMENTWISE or len(end.outputs) != 1:
        return None
    if not flow.trace.tensors[end.outputs[0]].is_floating_point():
        return None
    for root in flow.chains[end.outputs[0]]:
        calls = flow.between(root, end)
        if any(id(call) in seen for call in calls) or flow.leaks(calls):
            return None
        if is_nonlinear_curve(values_at(GRID, root, calls, flow.trace, like_scalars=True)):
            return root, calls
    return None


def own_curve(call: Call, flow: Flow) -> Tensor | None:
    """The `element_curve` of a call that makes one value from one, both of floating-point numbers."""
    inputs = flow.data(call)
    tensors = [flow.trace.tensors[value] for value in (*inputs, *call.outputs)]
    if len(inputs) != 1 or len(call.outputs) != 1 or not all(tensor.is_floating_point() for tensor in tensors):
        return None
    return GRID if call.base in CASTS else element_curve(call, flow.trace)


def is_opaque_activation(call: Call, trace: Trace) -> bool:
    """Whether what torch does not show is an activation: a map of each element, and not along a line.

    It is a module without parameters, or an autograd function of the user's.
    """
    if call.inside & ACTIVATIONS:
        return True
    function = isinstance(call.func, type)
    if not function and (call.key.name != MODULE or any(True for _ in call.func.parameters())):
        return False
    return is_nonlinear_curve(element_curve(call, trace))


def element_curve(call: Call, trace: Trace) -> Tensor | None:
    """What a call makes of `GRID`, if it maps each element for itself; None if it does not."""
    root = next(value for value in call.inputs if trace.kinds[value] not in ("constant", "parameter", "noise"))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=()):
            y, turned, shaped = (
                replayed(each.clone(), root, [call], trace, like_scalars=True)
                for each in (GRID, GRID.flip(0), GRID.reshape(2, 4, 2, 3))
            )
            same = all(
                torch.allclose(other, y, equal_nan=True) for other in (turned.flip(0), shaped.flatten(), y.reshape(48))
            )
    except Exception:  # of any kind: it takes no such inputs, or returns no tensor
        return None
    return y if same else None


def is_nonlinear_curve(y: Tensor | None) -> bool:
    """Whether a map of elements is known, and no line."""
    return y is not None and not torch.allclose(y.diff(), y.diff()[0].expand(47), atol=1e-4)


def is_change_of_sign(y: Tensor | None) -> bool:
    """Whether a map of elements is a product with a negative number."""
    return y is not None and bool(y[-1] < 0) and torch.allclose(y, GRID * (y[-1] / GRID[-1]))


def values_at(
    x: Tensor, root: Value, calls: Sequence[Call], trace: Trace, *, like_scalars: bool = False
) -> Tensor | None:
    """Outputs of a site's calls for other inputs; None if they cannot be computed. See `replayed`."""
    try:
        with torch.no_grad():
            output: Tensor = replayed(x, root, calls, trace, like_scalars=like_scalars)
    except Exception:  # of any kind: a parameter for each channel, a tensor on the meta device
        return None
    return output if isinstance(output, Tensor) and output.shape == x.shape else None


def replayed(x: Tensor, root: Value, calls: Iterable[Call], trace: Trace, *, like_scalars: bool = False) -> Any:
    """The output of a site's calls for another input, out of place.

    With ``like_scalars``, .5 stands for every tensor of parameters, constants and noise, which may have many elements
    of any value.
    """
    known: dict[Value, Any] = {root: x}

    def filled(leaf: Any) -> Any:
        if not isinstance(leaf, Value) or leaf in known:
            return known[leaf] if isinstance(leaf, Value) else leaf
        tensor = trace.tensors.get(leaf)
        return torch.tensor(0.5).to(tensor.dtype) if like_scalars and tensor is not None else tensor

    output: Any = x
    for call in calls:
        args, kwargs = tree_map(filled, (call.args, dict(call.kwargs)), is_leaf=lambda leaf: isinstance(leaf, Value))
        if call.in_place:  # on a copy
            args = tuple(arg.clone() if isinstance(arg, Tensor) else arg for arg in args)
            kwargs = {name: arg.clone() if isinstance(arg, Tensor) else arg for name, arg in kwargs.items()}
        function: Any = call.func
        if isinstance(function, type) and issubclass(function, Function):
            function = function.apply
        output = function(*args, **kwargs)
        output = args[0] if output is None and call.in_place else output  # an assignment to elements
        several = isinstance(output, tuple | list) and len(output) == len(call.outputs)
        known |= zip(call.outputs, output if several else [output] * len(call.outputs), strict=True)
    return output
