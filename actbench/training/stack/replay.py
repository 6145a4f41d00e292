"""Steps that repeat, run again as the list of torch operations that they came to.

vmap and autograd find out anew at every step which operations a network comes
to. For a small network on a processor, that takes as long as the operations.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

Draw = Callable[[str, tuple[int, ...], torch.dtype, torch.device], Tensor]
"""Random numbers for each replicate, of a kind ("uniform" or "normal"), shape, type and device."""
Results = list[Tensor | None]
Step = Callable[[Draw, Sequence[Tensor]], Results]
"""From tensors, which it may change in place, and what it draws, to new tensors."""

CALLS = 50  # of a kind before it is recorded, which takes as long as a hundred steps gain
ALIASES = {
    torch.ops.aten.alias.default,
    torch.ops.aten.expand.default,
    torch.ops.aten.permute.default,
    torch.ops.aten.view.default,
    torch.ops.aten._unsafe_view.default,
}


class Replay:
    """Runs a step, and after some calls of a kind its operations in its place.

    These are used only if they give what the step gives, bit for bit, on the
    values at hand: a step whose results follow from more than its tensors and
    what it draws, such as a count that it keeps, goes on as it is.
    """

    def __init__(self) -> None:
        self.calls: Counter[Hashable] = Counter()
        self.recordings: dict[Hashable, tuple[GraphModule, list[Any]]] = {}  # operations, and arguments of each draw

    def __call__(self, step: Step, draw: Draw, tensors: Sequence[Tensor], state: Hashable) -> Results:
        """The step's results; ``state`` is all that its operations depend on besides the tensors."""
        kind = (state, *((value.shape, value.stride(), value.dtype, value.device) for value in tensors))
        if torch.is_anomaly_enabled():  # it wants to see the step itself
            return step(draw, tensors)
        if kind in self.recordings:
            graph, requests = self.recordings[kind]
            return repeat(graph, tensors, [draw(*request) for request in requests])
        self.calls[kind] += 1
        if self.calls[kind] != CALLS:
            return step(draw, tensors)

        before = [value.clone() for value in tensors]
        if any(a.stride() != b.stride() for a, b in zip(tensors, before, strict=True)):
            return step(draw, tensors)  # they overlap or have gaps, and the copies that are recorded have neither
        requests, drawn = [], []

        def listen(*request: Any) -> Tensor:
            requests.append(request)
            drawn.append(draw(*request))
            return drawn[-1]

        results = step(listen, tensors)
        try:
            graph = record(step, [value.clone() for value in before], drawn)
            repeated = repeat(graph, before, drawn)
            assert_close([*repeated, *before], [*results, *tensors], rtol=0, atol=0, equal_nan=True)
        except Exception:
            return results  # torch cannot record everything that it can run, and a recording may give other values
        self.recordings[kind] = graph, requests
        return results


def repeat(graph: GraphModule, tensors: Sequence[Tensor], drawn: Sequence[Tensor]) -> Results:
    """Results of a step's operations."""
    # Autocast has had its say while the operations were recorded.
    with torch.no_grad(), torch.autocast(tensors[0].device.type, enabled=False):
        results: Results = graph(*tensors, *drawn)
    return results


def record(step: Step, tensors: Sequence[Tensor], drawn: Sequence[Tensor]) -> GraphModule:
    """The operations of a step on these values, as a function of its tensors and then of what it draws."""

    def traced(*values: Tensor) -> Results:
        answers = iter(values[len(tensors) :])
        return step(lambda *_: next(answers), values[: len(tensors)])

    module = make_fx(traced)(*tensors, *drawn)
    if any(node.target is torch.ops.aten.as_strided.default for node in module.graph.nodes):
        raise ValueError("as_strided names places in memory, which differ from call to call")
    for node in list(module.graph.nodes):
        if node.target in ALIASES and layout(node) == layout(node.args[0]):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def layout(node: Node) -> tuple[Any, Any] | None:
    """Shape and strides of what an operation gives; None for a constant."""
    meta = node.meta.get("tensor_meta")
    return None if meta is None else (meta.shape, meta.stride)
