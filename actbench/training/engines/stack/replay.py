"""Replay of a training step as its recorded list of torch operations.

vmap and autograd derive the operations of a network anew in every step. For a
small network on a CPU, that takes as long as the operations themselves. On a GPU
a recorded step becomes a CUDA graph, and anywhere it may be compiled.
"""

import operator
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from typing_extensions import override

from actbench.specs import one_line
from actbench.training.engines.draws import Draw
from actbench.training.engines.stack.bytecode import Unguarded
from actbench.training.engines.stack.compiling import CapturedStep, Results, Run, capture_on_gpu, compile_step
from actbench.training.engines.stack.guards import PythonState, python_state

Step = Callable[[Draw, Sequence[Tensor]], Results]
"""New tensors, from random draws and from tensors, which the step may change in place."""

KINDS = 32  # of steps that are recorded, and of those that are counted
CALLS = 10  # of a kind of step before it is recorded; recording costs what some twenty replayed steps save
aten = torch.ops.aten
ALIASES = {
    aten.alias.default,
    aten.detach.default,
    aten.expand.default,
    aten.permute.default,
    aten.view.default,
    aten._unsafe_view.default,
}


class Recording(NamedTuple):
    """What repeats a step, the arguments of each draw, and what the network's code read."""

    run: Run
    requests: list[Any]
    python: PythonState


class Replay:
    """Runs a step, and after ``CALLS`` calls of a kind its recorded operations instead.

    A recording is used only while all that the network's Python code may read is
    what it was, and only if it reproduced the step bit for bit on the values at
    hand. A network whose code reads what cannot be followed is never replayed.

    A recording may also be compiled, which changes results by rounding. Then no
    step of its kind runs in any other way, so that a resumed run gives the same:
    it is recorded at its first call, and only if the network's Python values are
    those that it was built with.

    Args:
        built: What the network's code read when the network was built.
        compiles: Whether recordings are compiled.
        calls: Calls of a kind of step before it is recorded without being compiled.
    """

    def __init__(self, built: Hashable, *, compiles: bool = False, calls: int | None = None) -> None:
        self.built = built
        self.compiles = compiles
        self.least = calls
        self.calls: Counter[Hashable] = Counter()
        self.recordings: dict[Hashable, Recording] = {}
        self.reason: str | None = None  # why steps are not replayed
        self.slow: str | None = None  # why recorded steps are not compiled, or not captured as a CUDA graph

    def __call__(
        self, step: Step, draw: Draw, tensors: Sequence[Tensor], network: nn.Module, state: Hashable, *, usual: bool
    ) -> Results:
        """Results of the step; ``state`` holds what its operations depend on besides tensors and the network.

        A ``usual`` step is of as many replicates as most steps, and may be compiled.
        """
        if torch.is_anomaly_enabled():  # anomaly detection needs the step itself
            return step(draw, tensors)
        try:
            python = python_state(network)
        except Unguarded as error:
            self.reason = str(error)
            return step(draw, tensors)
        kind = (state, python.values, *((value.shape, value.stride(), value.dtype, value.device) for value in tensors))
        if kind in self.recordings:
            run, requests, _ = self.recordings[kind]
            return repeat(run, tensors, [draw(*request) for request in requests])
        if len(self.calls) > KINDS:  # what the code reads changes all the time
            self.calls.clear()
        self.calls[kind] += 1
        compiles = self.compiles and usual and python.values == self.built
        before = copies(tensors) if self.calls[kind] == (1 if compiles else self.least or CALLS) else []
        # Tensors that overlap or have gaps are not recorded, because copies have neither.
        if not before or any(a.stride() != b.stride() for a, b in zip(tensors, before, strict=True)):
            return step(draw, tensors)
        return self._record(step, draw, tensors, before, kind, python, network, compiles=compiles)

    def _record(
        self,
        step: Step,
        draw: Draw,
        tensors: Sequence[Tensor],
        before: Sequence[Tensor],
        kind: Hashable,
        python: PythonState,
        network: nn.Module,
        *,
        compiles: bool,
    ) -> Results:
        """Results of the step, which is recorded if its operations alone give what it gives for other values."""
        requests, drawn = list[Any](), list[Tensor]()

        def recorded_draw(*request: Any) -> Tensor:
            requests.append(request)
            drawn.append(draw(*request))
            return drawn[-1]

        results = step(recorded_draw, tensors)
        try:
            if python_state(network).values != python.values:
                raise Unguarded("its code changes values of Python")
            graph = record(step, copies(before), drawn)
            # Of other values than were recorded, so that none of them can have become a constant.
            stepped, others = ([v * 0.9 if v.is_floating_point() else v.clone() for v in before] for _ in range(2))
            draws = iter(drawn)
            expected = step(lambda *_: next(draws), stepped)
            repeated = repeat(graph, others, drawn)
            assert_close([*repeated, *others], [*expected, *stepped], rtol=0, atol=0, equal_nan=True)
        except Exception as error:  # torch cannot record every step, and some recordings give other values
            self.reason = str(error).partition("\n")[0]
            return results
        if len(self.recordings) == KINDS:
            del self.recordings[next(iter(self.recordings))]
        changed = [index for index, value in enumerate(others) if value._version]
        run = self._quicken(graph, [*before, *drawn], changed, results, compiles=compiles)
        self.recordings[kind] = Recording(run, requests, python)
        if compiles and run is not graph:  # no step of this kind runs in another form
            values = copies(before)
            results = repeat(run, values, drawn)
            for index in changed:
                tensors[index].copy_(values[index])
        return results

    def _quicken(
        self, graph: GraphModule, values: Sequence[Tensor], changed: Sequence[int], results: Results, *, compiles: bool
    ) -> Run:
        """A recorded step in its fastest form, from the values before the step and its results."""
        run: Run = graph
        try:
            with torch.no_grad(), torch.autocast(values[0].device.type, enabled=False):
                if compiles:
                    run = compile_step(graph, copies(values), results)
                if values[0].device.type == "cuda":
                    captured = CapturedStep(run, values, changed, capture_on_gpu)
                    first, second = copies(values), copies(values)
                    assert_close([*captured(*first), *first], [*run(*second), *second], rtol=0, atol=0, equal_nan=True)
                    run = captured
        except Exception as error:  # of any kind, in the compiler and in CUDA
            self.slow = one_line(error)[:200]
        return run


def copies(values: Sequence[Tensor]) -> list[Tensor]:
    """Copies of tensors, which a step may change."""
    return [value.clone() for value in values]


def repeat(run: Run, tensors: Sequence[Tensor], drawn: Sequence[Tensor]) -> Results:
    """Results of a recorded step."""
    # Autocast has already been applied in the recording.
    with torch.no_grad(), torch.autocast(tensors[0].device.type, enabled=False):
        return run(*tensors, *drawn)


def record(step: Step, tensors: Sequence[Tensor], drawn: Sequence[Tensor]) -> GraphModule:
    """Operations of a step, as a function of its tensors followed by its draws."""
    recorder, draws = Recorder([*tensors, *drawn]), iter(drawn)
    caches = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)  # a value that was cast before is an operation, too
    try:
        with recorder:
            results = step(lambda *_: next(draws), tensors)
    finally:
        torch.set_autocast_cache_enabled(caches)
    return recorder.finish(results)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down the operations on tensors that run, as a graph, which takes a hundredth of what tracing takes.

    Args:
        inputs: Tensors that the graph has as its arguments. Any other that an operation reads is a constant.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = Graph()
        self.constants = nn.Module()
        self.nodes = {id(value): self.graph.placeholder(f"value_{index}") for index, value in enumerate(inputs)}
        self.kept = list(inputs)  # so that no other tensor has the id of one of them

    @override
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is aten.as_strided.default:
            raise ValueError("as_strided names memory addresses, which differ from call to call")
        if func is aten.lift_fresh.default:  # a number becomes a tensor, which may be changed in place
            func = aten.clone.default
        result = func(*args, **(kwargs or {}))
        if func in ALIASES and (result.shape, result.stride()) == (args[0].shape, args[0].stride()):
            self._keep(result, self._node(args[0]))
            return result
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

    def _keep(self, value: Tensor, node: Node) -> None:
        if id(value) not in self.nodes:  # what was changed in place has a node
            self.nodes[id(value)] = node
            self.kept.append(value)

    def _node(self, value: Tensor) -> Node:
        if id(value) not in self.nodes:
            name = f"constant_{len(self.kept)}"
            self.constants.register_buffer(name, value)
            self._keep(value, self.graph.get_attr(name))
        return self.nodes[id(value)]
