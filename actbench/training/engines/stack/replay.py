"""Replay of a training step as its recorded list of torch operations.

vmap and autograd derive the operations of a network anew in every step. For a
small network on a CPU, that takes as long as the operations themselves. On a GPU
a recorded step becomes a CUDA graph, and anywhere it may be compiled.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.testing import assert_close

from actbench.specs import one_line
from actbench.training.engines.draws import Draw
from actbench.training.engines.stack.bytecode import Unguarded
from actbench.training.engines.stack.compiling import CapturedStep, Results, Run, capture_on_gpu, compile_step
from actbench.training.engines.stack.guards import PythonState, python_state
from actbench.training.engines.stack.recording import Step, record

KINDS = 32  # of steps that are recorded, and of those that are counted
CALLS = 10  # of a kind of step before it is recorded; recording costs what some twenty replayed steps save


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
            graph = record(step, copies(before), drawn, merges_views=not compiles)
            # For other values than were recorded, so that none of them can have become a constant.
            stepped, others = other_values(before), other_values(before)
            draws = iter(drawn)
            expected = step(lambda *_: next(draws), stepped)
            versions = [value._version for value in others]
            repeated = repeat(graph, others, drawn)
            assert_close([*repeated, *others], [*expected, *stepped], rtol=0, atol=0, equal_nan=True)
        except Exception as error:  # torch cannot record every step, and some recordings give other values
            self.reason = str(error).partition("\n")[0]
            return results
        if len(self.recordings) == KINDS:
            del self.recordings[next(iter(self.recordings))]
        changed = [index for index, value in enumerate(others) if value._version > versions[index]]
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


def other_values(values: Sequence[Tensor]) -> list[Tensor]:
    """Copies of tensors with floating-point values in another order, and smaller."""
    others = copies(values)
    for other, value in zip(others, values, strict=True):
        if value.is_floating_point():
            other.copy_(0.9 * value.flip(*range(value.ndim)))
    return others


def repeat(run: Run, tensors: Sequence[Tensor], drawn: Sequence[Tensor]) -> Results:
    """Results of a recorded step."""
    # Autocast has already been applied in the recording.
    with torch.no_grad(), torch.autocast(tensors[0].device.type, enabled=False):
        return run(*tensors, *drawn)
