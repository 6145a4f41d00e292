"""The sites of a network: where it calls activations, and what for."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils._pytree import tree_map

from actbench.networks.calls import ATTENTION, MODULE, RECURRENT, Call, Key, Trace, Value
from actbench.networks.flow import ACTIVATIONS, CLAMPS, ELEMENTWISE, PARTS, ROLES, SOFTMAX, Flow, Role, activates
from actbench.networks.tracing import storage

Identity = tuple[Any, ...]
SUMS = ("add", "sub", "rsub")
FAR = 100.0  # an input at which an activation has reached its asymptote


@dataclass(frozen=True)
class Site:
    """One call of an activation in a forward pass.

    Args:
        root: Its input.
        calls: Its calls in order: one, or those of an activation that is composed by hand.
        role: What it is for.
        reaches: Whether the network's output depends on it.
        written: Whether the input's memory, which it changes, is read afterwards.
        input_changes: Whether the input is changed in place later on, so that an activation must not keep it.
        output_changes: The same of the output.
        sources: The nearest calls with weights before it, by which it is known in another mode.
        unclear: Whether its module makes some of such calls at random in training, so that their turns do not tell it.
    """

    root: Value
    calls: tuple[Call, ...]
    role: Role
    reaches: bool
    written: bool
    input_changes: bool
    output_changes: bool
    sources: frozenset[Key]
    unclear: bool = False

    @property
    def key(self) -> Key:
        """The last call, which gives the output."""
        return self.calls[-1].key

    @property
    def fixed(self) -> str:
        """Why no other activation can be put there; "" if one can."""
        call = self.calls[-1]
        if call.base in ATTENTION:
            return "inside of a fused attention"
        if call.base in RECURRENT:
            return f"inside of torch's fused {call.base}"
        if call.base == "glu":
            return "it halves the channels"
        if call.vmapped:
            return "inside of vmap"
        if isinstance(call.func, type) or call.within_function:
            return "inside of an autograd function"
        if self.unclear:
            return f"one of several calls of {call.base} in that module, between which training chooses at random"
        return ""

    @property
    def in_place(self) -> bool:
        """Whether it changes its input's memory."""
        return any(call.in_place for call in self.calls)

    @property
    def text(self) -> str:
        """Its functions, such as ``relu`` or ``sigmoid, mul``."""
        if isinstance(self.calls[-1].func, nn.Module):
            return type(self.calls[-1].func).__name__
        return ", ".join(call.base for call in self.calls)


def find_sites(trace: Trace) -> list[Site]:
    """The sites in a forward pass, in the order of their outputs."""
    flow = Flow(trace)
    taken = set[int]()  # ids of calls that belong to a site
    found = list[tuple[Value, tuple[Call, ...]]]()
    for call in reversed(trace.calls):
        region = None if id(call) in taken else composed(call, flow)
        if region:
            found.append(region)
            taken |= {id(part) for part in region[1]}
    for call in trace.calls:
        if id(call) in taken or not flow.data(call):
            continue
        if activates(call) or call.base in ATTENTION | RECURRENT or is_opaque_activation(call, trace):
            found.append((flow.data(call)[0], (call,)))
    order = {id(call): index for index, call in enumerate(trace.calls)}
    found.sort(key=lambda site: order[id(site[1][-1])])
    sites = []
    changes = [(order[id(call)], changed_memory(call, trace)) for call in trace.calls if call.in_place]
    for root, calls in found:
        output = calls[-1].outputs[0]
        role = site_role(root, calls, flow)
        start, end = order[id(calls[0])], order[id(calls[-1])]
        later = {
            memory for index, memory in changes if index > end or (index > start and trace.calls[index] not in calls)
        }
        source = set[int]() if calls[-1].in_place else {storage(trace.tensors[root])}
        sites.append(
            Site(
                root,
                calls,
                role,
                reaches=flow.reaches_output(output),
                written=calls[-1].in_place and end in trace.stale,
                input_changes=bool(source & later),
                output_changes=storage(trace.tensors[output]) in later,
                sources=flow.sources(root),
            )
        )
    return sites


def site_role(root: Value, calls: Sequence[Call], flow: Flow) -> Role:
    """What a site with such a root and calls is for."""
    last = calls[-1]
    if last.base in ATTENTION | SOFTMAX:
        return "softmax"
    if last.base in RECURRENT:
        return "recurrent"
    if last.base == "glu":
        return "gate"
    if last.vmapped:
        return "hidden"  # as far as is known: what follows cannot be seen
    clamp = len(calls) == 1 and last.base in CLAMPS
    bounded = is_bounded(root, calls, flow)
    low = values_at(torch.tensor([-FAR], dtype=torch.float64), root, calls, flow.trace) if bounded else None
    signed = low is not None and bool(low[0] < 0)
    return flow.role(last.outputs[0], bounded=bounded, signed=signed, clamp=clamp)


def changed_memory(call: Call, trace: Trace) -> int:
    """The memory that a call in place changes."""
    return storage(trace.tensors[call.outputs[0]])


# --- activations that are composed by hand ---


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


def is_opaque_activation(call: Call, trace: Trace) -> bool:
    """Whether what torch does not show is an activation: a map of each element, and not along a line.

    It is a module without parameters, or an autograd function of the user's.
    """
    if call.inside & ACTIVATIONS:
        return True
    function = isinstance(call.func, type)
    if not function and (call.key.name != MODULE or any(True for _ in call.func.parameters())):
        return False
    root = next(value for value in call.inputs if trace.kinds[value] not in ("constant", "parameter", "noise"))
    x = torch.linspace(-4, 4, 48)
    try:
        with torch.no_grad():
            y, turned, shaped = (
                replayed(each.clone(), root, [call], trace) for each in (x, x.flip(0), x.reshape(2, 4, 2, 3))
            )
            same = y.shape == x.shape and torch.allclose(turned.flip(0), y) and torch.allclose(shaped.flatten(), y)
    except Exception:  # of any kind: it takes no such inputs, or returns no tensor
        return False
    return same and not torch.allclose(y.diff(), y.diff()[0].expand(47), atol=1e-4)


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
        known |= dict.fromkeys(call.outputs, output)
    return output


def identified(sites: Iterable[Site]) -> dict[Identity, Site]:
    """Sites by what is the same in training and in evaluation: module, functions, sources, and order among equals."""
    found, seen = dict[Identity, Site](), Counter[Identity]()
    for site in sites:
        identity = (site.key.path, site.text, site.sources)
        found[*identity, seen[identity]] = site
        seen[identity] += 1
    return found


def site_counts(roles: Iterable[str]) -> Mapping[str, int]:
    """How many sites have each role, in the order of `ROLES`."""
    given = list(roles)
    return {role: given.count(role) for role in ROLES if role in given}
