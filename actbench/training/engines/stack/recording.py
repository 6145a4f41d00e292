"""The torch operations of a training step, recorded as a graph while they run."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from typing_extensions import override

from actbench.training.engines.draws import Draw
from actbench.training.engines.stack.compiling import Results

Step = Callable[[Draw, Sequence[Tensor]], Results]
"""New tensors, from random draws and from tensors, which the step may change in place."""
aten = torch.ops.aten


def record(step: Step, tensors: Sequence[Tensor], drawn: Sequence[Tensor], *, merges_views: bool) -> GraphModule:
    """Operations of a step, as a function of its tensors followed by its draws."""
    recorder, draws = OperationRecorder([*tensors, *drawn], merges_views=merges_views), iter(drawn)
    caches = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)  # a value that was cast before is an operation, too
    try:
        with recorder:
            results = step(lambda *_: next(draws), tensors)
    finally:
        torch.set_autocast_cache_enabled(caches)
    return recorder.finish(results)


class OperationRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down the operations on tensors that run, in a hundredth of the time that tracing takes.

    Args:
        inputs: Tensors that the graph has as its arguments. Any other that an operation reads is a constant.
        merges_views: Whether views of views of new tensors become one operation each, which saves time in Python. A
            compiler does without.
    """

    def __init__(self, inputs: Sequence[Tensor], *, merges_views: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.merges_views = merges_views
        self.graph = Graph()
        self.constants = nn.Module()
        self.nodes = {id(value): self.graph.placeholder(f"value_{index}") for index, value in enumerate(inputs)}
        self.kept = list(inputs)  # so that no other tensor has the id of one of them
        self.owners = {memory(value): value for value in inputs}  # first tensor of each memory
        self.given = {id(value) for value in inputs}  # and constants: tensors that the step does not make

    @override
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is aten.as_strided.default:
            raise ValueError("as_strided names memory addresses, which differ from call to call")
        if func is aten.lift_fresh.default:  # a number becomes a tensor, which may be changed in place
            func = aten.clone.default
        result = func(*args, **(kwargs or {}))
        node = self.graph.call_function(func, *tree_map_only(Tensor, self._node, (args, kwargs or {})))
        if isinstance(result, Tensor):
            self._keep(result, node)
        elif isinstance(result, tuple | list):
            for index, value in enumerate(result):
                if isinstance(value, Tensor):
                    self._keep(value, self.graph.call_function(operator.getitem, (node, index)))
        return result

    def finish(self, results: Results) -> GraphModule:
        """The operations as a function that returns these results."""
        self.graph.output([None if value is None else self._node(value) for value in results])
        self.graph.eliminate_dead_code()
        return GraphModule(self.constants, self.graph)

    def _node(self, value: Tensor) -> Node:
        if id(value) not in self.nodes:
            name = f"constant_{len(self.kept)}"
            self.constants.register_buffer(name, value)
            self.kept.append(value)
            self.given.add(id(value))
            self.owners.setdefault(memory(value), value)
            self.nodes[id(value)] = self.graph.get_attr(name)
        return self.nodes[id(value)]

    def _keep(self, value: Tensor, node: Node) -> None:
        """Remember the node of a result, unless it has one because it was changed in place."""
        if id(value) not in self.nodes:
            self.kept.append(value)
            self.nodes[id(value)] = self._view(value) or node

    def _view(self, value: Tensor) -> Node | None:
        """The node of a view by the shortest way; None for any other result.

        A tensor that the step makes has the same layout whenever it is replayed, with its memory to itself. One that is
        given may be a part of another, at another place in each call.
        """
        owner = self.owners.setdefault(memory(value), value)
        if owner is value or not self.merges_views or not memory(value) or owner.dtype != value.dtype:
            return None
        if layout(value) == layout(owner):
            return self.nodes[id(owner)]
        shape, strides, offset = layout(value)
        if offset == owner.storage_offset():
            return self.graph.call_function(torch.as_strided, (self.nodes[id(owner)], shape, strides))
        if id(owner) in self.given:
            return None
        return self.graph.call_function(torch.as_strided, (self.nodes[id(owner)], shape, strides, offset))


def memory(value: Tensor) -> int:
    """Which memory a tensor is a view of; 0 for a tensor without strides."""
    return value.untyped_storage()._cdata if value.layout == torch.strided else 0


def layout(value: Tensor) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Shape, strides and offset of a tensor."""
    return tuple(value.shape), value.stride(), int(value.storage_offset())
