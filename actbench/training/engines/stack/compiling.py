"""Recorded steps compiled by Inductor, and recorded steps as CUDA graphs."""

import shutil
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.testing import assert_close

Results = list[Tensor | None]
Run = Callable[..., Results]
"""A recorded step: new tensors from its tensors, which it may change in place, and its draws."""
NEAR = 0.01  # of a gradient's norm: rounding may make max pooling choose the other of two equal pixels


def missing_compiler() -> str | None:
    """Why Inductor cannot compile for this machine's CPU; None if it can."""
    from torch._inductor.cpp_builder import get_cpp_compiler  # here, because importing Inductor takes seconds
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        compiler = get_cpp_compiler()
    except InvalidCxxCompiler:
        compiler = ""
    return None if compiler and shutil.which(compiler) else "no C++ compiler was found, such as g++"


def compile_step(run: Run, values: Sequence[Tensor], expected: Results) -> Run:
    """A recorded step compiled by Inductor for values like these, which are changed as the step changes them.

    ``expected`` holds the losses and the gradients that the step has for the values. Raises an error if Inductor fails,
    or if the compiled step has others.
    """
    compiled: Run = torch.compile(run, dynamic=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\._inductor\.")  # of its own code
        losses, *gradients = compiled(*values)
    assert_close(losses, expected[0], rtol=1e-4, atol=1e-5, equal_nan=True)
    for gradient, right in zip(gradients, expected[1:], strict=True):
        if gradient is not None and right is not None and right.isfinite().all():
            error, norm = float((gradient - right).norm()), float(right.norm())
            if not error <= NEAR * norm + 1e-6:
                raise ValueError(f"a compiled gradient differs from the right one by {error / norm:.1%}")
    return compiled


class CapturedStep:
    """A recorded step that a GPU repeats as one graph, without a launch for each operation.

    The graph has tensors of its own, at fixed addresses. Values are copied there
    before it runs, and what it changes in place is copied back.

    Args:
        run: The step.
        values: Its tensors and draws.
        changed: Indices of the tensors that it changes in place.
        capture: Runs a function and returns another that repeats it at the same addresses.
    """

    def __init__(
        self,
        run: Run,
        values: Sequence[Tensor],
        changed: Sequence[int],
        capture: Callable[[Callable[[], None]], Callable[[], None]],
    ) -> None:
        self.values = [value.clone() for value in values]
        self.changed = changed
        self.results: Results = []

        def step() -> None:
            self.results = run(*self.values)

        self.repeat = capture(step)

    def __call__(self, *values: Tensor) -> Results:
        torch._foreach_copy_(self.values, values)
        self.repeat()
        for index in self.changed:
            values[index].copy_(self.values[index])
        return [None if result is None else result.clone() for result in self.results]


def capture_on_gpu(step: Callable[[], None]) -> Callable[[], None]:
    """Run a step a few times to warm up, and capture it as a CUDA graph; returns what repeats it."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # libraries choose their kernels and workspaces
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
