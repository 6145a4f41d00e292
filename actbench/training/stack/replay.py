"""Replay of a training step as its recorded list of torch operations.

vmap and autograd derive the operations of a network anew in every step. For a
small network on a CPU, that takes as long as the operations themselves.
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
"""Random numbers for each replicate of a kind ("uniform" or "normal"), shape, dtype and device."""
Results = list[Tensor | None]
Step = Callable[[Draw, Sequence[Tensor]], Results]
"""New tensors, from random draws and from tensors, which the step may change in place."""

CALLS = 50  # of a kind of step before it is recorded; recording costs what a hundred replayed steps save
ALIASES = {
    torch.ops.aten.alias.default,
    torch.ops.aten.expand.default,
    torch.ops.aten.permute.default,
    torch.ops.aten.view.default,
    torch.ops.aten._unsafe_view.default,
}


class Replay:
    """Runs a step, and after ``CALLS`` calls of a kind its recorded operations instead.

    A recording is used only if it reproduces the step bit for bit on the values
    at hand. A step that depends on more than its tensors and draws, such as on a
    count that it keeps, is not replayed.
    """

    def __init__(self) -> None:
        self.calls: Counter[Hashable] = Counter()
        # Operations, and the arguments of each draw.
        self.recordings: dict[Hashable, tuple[GraphModule, list[Any]]] = {}

    def __call__(self, step: Step, draw: Draw, tensors: Sequence[Tensor], state: Hashable) -> Results:
        """Results of the step; ``state`` holds everything besides tensors that its operations depend on."""
        kind = (state, *((value.shape, value.stride(), value.dtype, value.device) for value in tensors))
        if torch.is_anomaly_enabled():  # anomaly detection needs the step itself
            return step(draw, tensors)
        if kind in self.recordings:
            graph, requests = self.recordings[kind]
            return repeat(graph, tensors, [draw(*request) for request in requests])
        self.calls[kind] += 1
        if self.calls[kind] != CALLS:
            return step(draw, tensors)

        before = [value.clone() for value in tensors]
        if any(a.stride() != b.stride() for a, b in zip(tensors, before, strict=True)):
            return step(draw, tensors)  # they overlap or have gaps, and recorded copies do not
        requests, drawn = [], []

        def recorded_draw(*request: Any) -> Tensor:
            requests.append(request)
            drawn.append(draw(*request))
            return drawn[-1]

        results = step(recorded_draw, tensors)
        try:
            graph = record(step, [value.clone() for value in before], drawn)
            repeated = repeat(graph, before, drawn)
            assert_close([*repeated, *before], [*results, *tensors], rtol=0, atol=0, equal_nan=True)
        except Exception:
            return results  # torch cannot record every step, and some recordings give other values
        self.recordings[kind] = graph, requests
        return results


def repeat(graph: GraphModule, tensors: Sequence[Tensor], drawn: Sequence[Tensor]) -> Results:
    """Results of a step's recorded operations."""
    # Autocast has already been applied in the recording.
    with torch.no_grad(), torch.autocast(tensors[0].device.type, enabled=False):
        results: Results = graph(*tensors, *drawn)
    return results


def record(step: Step, tensors: Sequence[Tensor], drawn: Sequence[Tensor]) -> GraphModule:
    """Operations of a step, as a function of its tensors followed by its draws."""

    def traced(*values: Tensor) -> Results:
        draws = iter(values[len(tensors) :])
        return step(lambda *_: next(draws), values[: len(tensors)])

    module = make_fx(traced)(*tensors, *drawn)
    if any(node.target is torch.ops.aten.as_strided.default for node in module.graph.nodes):
        raise ValueError("as_strided names memory addresses, which differ from call to call")
    for node in list(module.graph.nodes):
        if node.target in ALIASES and layout(node) == layout(node.args[0]):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def layout(node: Node) -> tuple[Any, Any] | None:
    """Shape and strides of an operation's result; None for a constant."""
    meta = node.meta.get("tensor_meta")
    return None if meta is None else (meta.shape, meta.stride)
