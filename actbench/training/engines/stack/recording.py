"""The torch operations of a training step, recorded as a graph while they run."""

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary
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


def reads_values(func: Any, args: Sequence[Any]) -> bool:
    """Whether an operation hands values of tensors to Python, or has a result whose shape depends on them."""
    if {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags):
        indices = args[1] if func is aten.index.Tensor else None
        return indices is None or any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices
        )
    return False


class Memory(NamedTuple):
    """A tensor that was the first to use some memory, and its node."""

    storage: StorageWeakRef  # so that no other memory gets its address
    node: Node
    layout: tuple[tuple[int, ...], tuple[int, ...], int]
    dtype: torch.dtype
    given: bool  # to the step, or as a constant


class OperationRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down the operations on tensors that run, in a tenth of the time that tracing takes.

    It keeps no tensors.

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
        self.nodes = WeakTensorKeyDictionary()
        self.memories: dict[int, Memory] = {}
        for index, value in enumerate(inputs):
            self._keep(value, self.graph.placeholder(f"value_{index}"), given=True)

    @override
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is aten.as_strided.default:
            raise ValueError("as_strided names memory addresses, which differ from call to call")
        if reads_values(func, args):
            raise ValueError("its code goes by the values of tensors, which differ from call to call")
        if torch.Tag.inplace_view in func.tags:  # the layout of a tensor that is known changes
            self.merges_views = False
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
        if value not in self.nodes:
            name = f"constant_{len(self.graph.nodes)}"
            self.constants.register_buffer(name, value)
            self._keep(value, self.graph.get_attr(name), given=True)
        node: Node = self.nodes[value]
        return node

    def _keep(self, value: Tensor, node: Node, *, given: bool = False) -> None:
        """Remember the node of a tensor, unless it has one because it was changed in place."""
        if value not in self.nodes:
            self.nodes[value] = self._view(value, node, given=given)

    def _view(self, value: Tensor, node: Node, *, given: bool) -> Node:
        """The node of a view by the shortest way, or the node at hand.

        A tensor that the step makes has the same layout whenever it is replayed, with its memory to itself. One that is
        given may be a part of another, at another place in each call.
        """
        if not self.merges_views or value.layout != torch.strided:
            return node
        shape, strides, offset = layout = tuple(value.shape), value.stride(), int(value.storage_offset())
        storage = StorageWeakRef(value.untyped_storage())  # type: ignore[no-untyped-call]
        owner = self.memories.setdefault(storage.cdata, Memory(storage, node, layout, value.dtype, given))
        if owner.node is node or owner.dtype != value.dtype or value.is_conj() or value.is_neg():
            return node
        if layout == owner.layout:
            return owner.node
        if offset == owner.layout[2]:
            return self.graph.call_function(torch.as_strided, (owner.node, shape, strides))
        if owner.given:
            return node
        return self.graph.call_function(torch.as_strided, (owner.node, shape, strides, offset))
