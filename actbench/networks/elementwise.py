"""Maps of single elements among the calls of a forward pass: activations that are composed by hand, and others."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils._pytree import tree_map

from actbench.networks.calls import MODULE, Call, Trace, Value
from actbench.networks.flow import ACTIVATIONS, ELEMENTWISE, PARTS, Flow, activates

SUMS = ("add", "sub", "rsub")
FAR = 100.0  # an input at which an activation has reached its asymptote
GRID = torch.linspace(-4, 4, 48)  # inputs by which a map of elements is known


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
    inner = {value for call in calls[:-1] for value in call.outputs}
    leaks = any(reader not in calls for value in inner for reader in flow.readers[value])
    if leaks or inner & set(flow.trace.results) or not is_nonlinear(root, calls, flow.trace):
        return None
    return root, tuple(calls)


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

    Calls that follow one another are one map, as in ``log(1 + exp(x))``. It begins with the first that is nonlinear, or
    with a change of sign before. Maps of positive numbers alone, such as a root, are left out.
    """
    seen = set(taken)
    for end in reversed(flow.trace.calls):
        if id(end) in seen or not is_nonlinear_curve(own_curve(end, flow)):
            continue
        calls = [end]
        while (before := flow.maker.get(value := flow.data(calls[0])[0])) is not None:
            leaks = value in flow.trace.results or flow.readers[value] != [calls[0]]
            if leaks or id(before) in seen or own_curve(before, flow) is None:
                break
            calls.insert(0, before)
        curves = [own_curve(call, flow) for call in calls]
        first = next(index for index, curve in enumerate(curves) if is_nonlinear_curve(curve))
        if first and is_negation(curves[first - 1]):
            first -= 1
        seen |= {id(call) for call in calls}
        root, region = flow.data(calls[first])[0], tuple(calls[first:])
        y = values_at(GRID, root, region, flow.trace)
        if y is not None and not y.isnan().any():
            yield root, region


def own_curve(call: Call, flow: Flow) -> Tensor | None:
    """The `element_curve` a call that reads one value of floating-point numbers and makes one."""
    tensors = [flow.trace.tensors[value] for value in (*call.inputs, *call.outputs)]
    if len(call.inputs) != 1 or len(call.outputs) != 1 or not flow.data(call):
        return None
    return element_curve(call, flow.trace) if all(tensor.is_floating_point() for tensor in tensors) else None


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
                replayed(each.clone(), root, [call], trace) for each in (GRID, GRID.flip(0), GRID.reshape(2, 4, 2, 3))
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


def is_negation(y: Tensor | None) -> bool:
    """Whether a map of elements changes their sign alone."""
    return y is not None and torch.equal(y, -GRID)


def values_at(x: Tensor, root: Value, calls: Sequence[Call], trace: Trace) -> Tensor | None:
    """Outputs of a site's calls for other inputs; None if they cannot be computed."""
    try:
        with torch.no_grad():
            output: Tensor = replayed(x, root, calls, trace)
    except Exception:  # of any kind: a parameter for each channel, a tensor on the meta device
        return None
    return output if isinstance(output, Tensor) and output.shape == x.shape else None


def replayed(x: Tensor, root: Value, calls: Iterable[Call], trace: Trace) -> Any:
    """The output of a site's calls for another input, out of place."""
    known: dict[Value, Any] = {root: x}

    def filled(leaf: Any) -> Any:
        return known.get(leaf, trace.tensors.get(leaf)) if isinstance(leaf, Value) else leaf

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
        known |= dict.fromkeys(call.outputs, output)
    return output
