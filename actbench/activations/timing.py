"""What an activation costs in time: functions that are measured in turn, so that all meet the same machine."""

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

BLOCK_S = 0.005  # seconds of calls whose median is one time
ROUNDS = 5  # at least


def interleaved_times(runs: Mapping[str, Callable[[], object]], *, seconds: float) -> dict[str, list[float]]:
    """Seconds that a call of each function takes on one thread, in each of several rounds.

    A round measures all functions by torch's benchmark tool, which waits for a GPU, in one order and then in the
    reverse one. So a machine that slows down evenly changes no ratio of two times of one round.

    Args:
        runs: The functions by name.
        seconds: How long to go on; there are five rounds at least.
    """
    from torch.utils.benchmark import Timer  # here, because it warns of a CUDA toolkit on a machine without a GPU

    timers = {name: Timer("run()", globals={"run": run}) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()  # the first call chooses kernels and claims memory
    end_s = time.perf_counter() + seconds
    while len(times[next(iter(runs))]) < ROUNDS or time.perf_counter() < end_s:
        forth = {name: timers[name].blocked_autorange(min_run_time=BLOCK_S).median for name in runs}
        back = {name: timers[name].blocked_autorange(min_run_time=BLOCK_S).median for name in reversed(list(runs))}
        for name, found in times.items():
            found.append((forth[name] + back[name]) / 2)
    return times


def training_pass(activation: nn.Module, inputs: Tensor) -> Callable[[], object]:
    """A forward and a backward pass of an activation, also to its parameters, as a function to be timed.

    One that changes its input in place is given a copy each time, which counts.
    """
    leaf = inputs.detach().clone().requires_grad_()
    wanted = [leaf, *(parameter for parameter in activation.parameters() if parameter.requires_grad)]
    handed = leaf * 1
    output = activation(handed)
    in_place = not torch.equal(handed, leaf)
    gradient = torch.ones_like(output)

    def run() -> object:
        output = activation(leaf.clone() if in_place else leaf)
        return torch.autograd.grad(output, wanted, gradient, allow_unused=True)

    return run
