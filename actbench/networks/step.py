"""The training step of a network, and what of it its activations take."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from actbench.activations.timing import training_pass
from actbench.networks.build import compared_modules


def step_and_sites(
    network: nn.Module, inputs: Tensor, labels: Tensor
) -> tuple[Callable[[], object], Callable[[], object]]:
    """A training step of a network, and its activations alone, as functions to be timed.

    The step is a forward pass, cross-entropy, a backward pass and a step of Adam. The activations run forward and
    backward at the inputs that they have in such a step, one site after another.
    """
    optimizer = torch.optim.Adam(network.parameters())
    calls: list[tuple[nn.Module, Tensor]] = []

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(cross_entropy(network(inputs), labels))
        optimizer.step()

    hooks = [
        module.register_forward_pre_hook(lambda module, given: calls.append((module, given[0].detach().clone())))
        for module in compared_modules(network)
    ]
    step()
    for hook in hooks:
        hook.remove()
    passes = [training_pass(module, given) for module, given in calls]

    def sites() -> None:
        for run in passes:
            run()

    return step, sites
