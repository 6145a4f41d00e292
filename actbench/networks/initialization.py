"""Initial weights that are scaled, so that signals keep their size on their way through a network."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from actbench.networks.build import compared_modules
from actbench.networks.swap import network_name

Init = Literal["as_is", "gain", "data"]


class Scaled(NamedTuple):
    """What became of the layers of a network whose weights were scaled.

    Args:
        layers: How many layers have weights: linear ones and convolutions.
        scaled: How many of them were scaled.
        behind: How many of them read what the compared activation made; only by gain.
        normalized: How many are followed by a normalisation, where the scale of weights changes no output; only by
            gain.
    """

    layers: int
    scaled: int
    behind: int = 0
    normalized: int = 0


def scale_by_gain(network: nn.Module, inputs: Float[Tensor, "batch ..."], gain: float) -> Scaled:
    """Scale each layer's weights to the variance gain²/fan_in, in place, for signals that keep their size.

    The gain holds for layers that read what the compared activation made, also
    through pooling, dropout or a sum, but not through another layer with weights
    or a normalisation. The variance of any other layer is 1/fan_in. Weights are
    multiplied by one number for each layer, so networks that start from the same
    draws still do. Biases stay as they were drawn, and weights that are all 0 stay
    0, as those that end a residual branch may be.

    Args:
        network: The network. It runs in evaluation, but BatchNorm normalises by the batch, as in training.
        inputs: A batch that shows which layer reads what; its values do not count.
        gain: That of the activation; see `actbench.activations.gaussian_moments`.

    Raises:
        ValueError: A layer runs without gradients, so that what it reads is not known.

    Source:
        He et al. (2015), Delving deep into rectifiers, ICCV, arXiv:1502.01852, for
        ReLU.
    """
    compared = set(map(id, compared_modules(network)))
    paths = {id(module): path for path, module in network.named_modules()}
    behind = dict[nn.Linear | _ConvNd, bool]()  # whether a layer reads what the activation made
    activations, weighted, normalizations, normalized = (set[Node]() for _ in range(4))

    def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given = next(iter((*args, *kwargs.values())), None)
        if not isinstance(output, Tensor) or not isinstance(given, Tensor):
            return
        if id(module) in compared:
            activations.update(nodes_of(output))
        elif has_weights(module):
            if not given.requires_grad:
                raise ValueError(
                    f"model.init is gain, but {network_name(network)} runs {paths[id(module)]} without gradients, so "
                    "what this layer reads is not known; a reentrant checkpoint does so"
                )
            behind.setdefault(module, bool(reached(given, activations, weighted | normalizations)))
            weighted.update(nodes_of(output))
        elif "Norm" in type(module).__name__ and not weighted_layers(module):
            normalized.update(reached(given, weighted, activations | normalizations))
            normalizations.update(nodes_of(output))

    with hooked(network, note), torch.enable_grad():
        network(inputs.detach().clone().requires_grad_())
    scaled = set[int]()  # ids of weights, which layers may share
    for module, reads in behind.items():
        weight = module.weight
        rms = float(weight.detach().double().square().mean().sqrt())
        if rms > 0 and id(weight) not in scaled:
            weight.detach().mul_((gain if reads else 1) / (math.sqrt(fan_in(module)) * rms))
            scaled.add(id(weight))
    return Scaled(weighted_layers(network), len(scaled), sum(behind.values()), len(normalized))


def scale_by_data(network: nn.Module, inputs: Float[Tensor, "batch ..."]) -> Scaled:
    """Scale each layer's weights, in the order in which layers run, so that its output on a batch has variance 1.

    The output counts without the layer's bias, over all inputs, channels and
    positions. Weights are multiplied by one number for each layer, so networks
    that start from the same draws still do. Biases stay as they were drawn. A layer
    whose output does not vary, behind an activation that is 0 everywhere, say, or
    overflows, stays as it is.

    Args:
        network: The network. It runs in evaluation, but BatchNorm normalises by the batch, as in training.
        inputs: The batch.

    Source:
        Mishkin and Matas (2016), All you need is a good init, ICLR,
        arXiv:1511.06422, whose draws are orthonormal.
    """
    met, scaled = set[int](), set[int]()  # ids of weights, which layers may share

    def scale(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Tensor | None:
        if not has_weights(module) or id(module.weight) in met:
            return None
        met.add(id(module.weight))
        bias, module.bias = module.bias, None
        deviation = float(module.forward(*args, **kwargs).double().std())
        module.bias = bias
        if math.isfinite(deviation) and deviation > 0:
            module.weight /= deviation
            scaled.add(id(module.weight))
        result: Tensor = module.forward(*args, **kwargs)
        return result

    with hooked(network, scale), torch.no_grad():
        network(inputs)
    return Scaled(weighted_layers(network), len(scaled))


def has_weights(module: nn.Module) -> TypeGuard[nn.Linear | _ConvNd]:
    """Whether a module is a linear layer or a convolution with weights of its own, which no parametrisation makes."""
    return isinstance(module, nn.Linear | _ConvNd) and "weight" in module._parameters


def weighted_layers(network: nn.Module) -> int:
    """How many layers of a network have weights that could be scaled."""
    return sum(map(has_weights, network.modules()))


def fan_in(layer: nn.Linear | _ConvNd) -> float:
    """How many products each output of a layer sums up, away from the borders."""
    weight = layer.weight
    if isinstance(layer, _ConvTransposeNd):  # (in, out / groups, *kernel), spread over the stride
        return weight[:, 0].numel() / layer.groups / math.prod(layer.stride)
    return float(weight[0].numel())


def nodes_of(result: Tensor) -> list[Node]:
    """The node of the graph that made a result; none if it was made without gradients."""
    return [] if result.grad_fn is None else [result.grad_fn]


def reached(result: Tensor, goals: set[Node], ends: set[Node]) -> set[Node]:
    """The goals from which a result was computed, back to the ends, which are not passed."""
    found, seen, waiting = set[Node](), set[Node](), nodes_of(result)
    while waiting:
        node = waiting.pop()
        if node in goals:
            found.add(node)
        elif node not in ends:
            new = {parent for parent, _ in node.next_functions if parent is not None} - seen
            seen |= new
            waiting += new
    return found


@contextmanager
def hooked(network: nn.Module, hook: Callable[[nn.Module, Any, Any, Any], Any]) -> Iterator[None]:
    """Call a hook after each module of a network; the hook may return another output.

    Meanwhile, the network is in evaluation, but BatchNorm normalises by the batch, as in training.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    for module, _ in modes:
        module.training = "BatchNorm" in type(module).__name__
    # Not a hook for all modules, of which torch.compile would be told even after it is removed.
    handles = [module.register_forward_hook(hook, with_kwargs=True) for module, _ in modes]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
