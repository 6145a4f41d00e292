"""Replay of a training step as its recorded list of torch operations.

vmap and autograd derive the operations of a network anew in every step. For a
small network on a CPU, that takes as long as the operations themselves.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

from actbench.training.engines.draws import Draw
from actbench.training.engines.stack.bytecode import Unguarded
from actbench.training.engines.stack.guards import PythonState, python_state

Results = list[Tensor | None]
Step = Callable[[Draw, Sequence[Tensor]], Results]
"""New tensors, from random draws and from tensors, which the step may change in place."""

KINDS = 32  # of steps that are recorded, and of those that are counted
CALLS = 50  # of a kind of step before it is recorded; recording costs what a hundred replayed steps save
ALIASES = {
    torch.ops.aten.alias.default,
    torch.ops.aten.expand.default,
    torch.ops.aten.permute.default,
    torch.ops.aten.view.default,
    torch.ops.aten._unsafe_view.default,
}


class Recording(NamedTuple):
    """Operations of a step, the arguments of each draw, and what the network's code read."""

    graph: GraphModule
    requests: list[Any]
    python: PythonState


class Replay:
    """Runs a step, and after ``CALLS`` calls of a kind its recorded operations instead.

    A recording is used only while all that the network's Python code may read is
    what it was, and only if it reproduced the step bit for bit on the values at
    hand. A network whose code reads what cannot be followed is never replayed.
    """

    def __init__(self) -> None:
        self.calls: Counter[Hashable] = Counter()
        self.recordings: dict[Hashable, Recording] = {}
        self.reason: str | None = None  # why steps are not replayed

    def __call__(
        self, step: Step, draw: Draw, tensors: Sequence[Tensor], network: nn.Module, state: Hashable
    ) -> Results:
        """Results of the step; ``state`` holds what its operations depend on besides tensors and the network."""
        if torch.is_anomaly_enabled():  # anomaly detection needs the step itself
            return step(draw, tensors)
        try:
            python = python_state(network)
        except Unguarded as error:
            self.reason = str(error)
            return step(draw, tensors)
        kind = (state, python.values, *((value.shape, value.stride(), value.dtype, value.device) for value in tensors))
        if kind in self.recordings:
            graph, requests, _ = self.recordings[kind]
            return repeat(graph, tensors, [draw(*request) for request in requests])
        if len(self.calls) > KINDS:  # what the code reads changes all the time
            self.calls.clear()
        self.calls[kind] += 1
        before = [value.clone() for value in tensors] if self.calls[kind] == CALLS else []
        # Tensors that overlap or have gaps are not recorded, because copies have neither.
        if not before or any(a.stride() != b.stride() for a, b in zip(tensors, before, strict=True)):
            return step(draw, tensors)
        return self._record(step, draw, tensors, before, kind, python, network)

    def _record(
        self,
        step: Step,
        draw: Draw,
        tensors: Sequence[Tensor],
        before: Sequence[Tensor],
        kind: Hashable,
        python: PythonState,
        network: nn.Module,
    ) -> Results:
        """Results of the step, which is recorded if that gives them again from the tensors' values ``before`` it."""
        requests, drawn = list[Any](), list[Tensor]()

        def recorded_draw(*request: Any) -> Tensor:
            requests.append(request)
            drawn.append(draw(*request))
            return drawn[-1]

        results = step(recorded_draw, tensors)
        try:
            if python_state(network).values != python.values:
                raise Unguarded("its code changes values of Python")
            graph = record(step, [value.clone() for value in before], drawn)
            repeated = repeat(graph, before, drawn)
            assert_close([*repeated, *before], [*results, *tensors], rtol=0, atol=0, equal_nan=True)
        except Exception as error:  # torch cannot record every step, and some recordings give other values
            self.reason = str(error).partition("\n")[0]
        else:
            if len(self.recordings) == KINDS:
                del self.recordings[next(iter(self.recordings))]
            self.recordings[kind] = Recording(graph, requests, python)
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
