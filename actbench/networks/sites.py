"""The sites of a network: where it calls activations, and what for."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from actbench.networks.calls import ATTENTION, RECURRENT, Call, Key, Trace, Value
from actbench.networks.elementwise import (
    FAR,
    assignment,
    composed,
    is_bounded,
    is_opaque_activation,
    other_maps,
    values_at,
)
from actbench.networks.flow import CLAMPS, PRODUCTS, ROLES, SOFTMAX, Flow, Role, activates
from actbench.networks.tracing import storage

Identity = tuple[Any, ...]


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
        region = None if id(call) in taken else composed(call, flow) or assignment(call, flow)
        if region:
            found.append(region)
            taken |= {id(part) for part in region[1]}
    for call in trace.calls:
        if id(call) in taken or not flow.data(call):
            continue
        if activates(call) or call.base in ATTENTION | RECURRENT or is_opaque_activation(call, trace):
            found.append((flow.data(call)[0], (call,)))
    others = list(other_maps(flow, {id(part) for _, calls in found for part in calls}))
    order = flow.order
    sites = []
    changes = [(order[id(call)], changed_memory(call, trace)) for call in trace.calls if call.in_place]
    for root, calls in sorted([*found, *others], key=lambda site: order[id(site[1][-1])]):
        output = calls[-1].outputs[0]
        role = site_role(root, calls, flow)
        if (root, calls) in others:
            if role in ("scale", "head") or is_measured(output, flow):
                continue
            role = "other"
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


def is_measured(value: Value, flow: Flow) -> bool:
    """Whether a value is part of a normalisation: what is summed up to a scale, or becomes one, or a factor of more."""
    tensors = flow.trace.tensors
    return (
        flow.is_scale(value, clamp=False, through=CLAMPS)
        or flow.only_scales(value)
        or all(
            call.base in PRODUCTS and tensors[call.outputs[0]].numel() > tensors[value].numel()
            for call in flow.readers[value]
        )
    )


def changed_memory(call: Call, trace: Trace) -> int:
    """The memory that a call in place changes."""
    return storage(trace.tensors[call.outputs[0]])


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
