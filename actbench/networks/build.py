"""A network built around an activation, with the initial weights of a seed."""

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import count

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

from actbench.networks.copies import copy_network
from actbench.seeding import global_stream

Activation = Callable[[], nn.Module]
MARK = "_is_compared"  # attribute of modules made by the activation's factory


def build_network(
    network: Callable[..., nn.Module],
    activation: Activation,
    *,
    input_shape: Sequence[int],
    num_classes: int,
    seed: int,
) -> nn.Module:
    """A network whose initial weights are drawn from the seed's ``init`` stream.

    Each activation is made in its own stream, so networks that differ only in
    their activation start from the same weights.

    Raises:
        ValueError: The network does not map such inputs to one logit per class, or never calls ``activation``.
    """
    sites, shape = count(), tuple(input_shape)
    name = getattr(getattr(network, "cls", network), "__name__", type(network).__name__)

    def activation_at_site() -> nn.Module:
        with global_stream(seed, "activation", next(sites)):
            module = activation()
        setattr(module, MARK, True)
        return module

    try:
        with global_stream(seed, "init"):
            built = network(activation=activation_at_site, input_shape=shape, num_classes=num_classes)
            lazy = any(map(is_lazy, (*built.parameters(), *built.buffers())))  # its first call makes its parameters
            with torch.no_grad():
                logits = (built if lazy else copy_network(built)).eval()(torch.zeros(2, *shape))
    except Exception as error:  # users' classes raise errors of any kind
        raise ValueError(f"{name} fails for inputs of shape {shape}: {' '.join(str(error).split())}") from error
    if not isinstance(logits, Tensor):
        raise ValueError(f"{name} returns a {type(logits).__name__}, which should be a tensor: one logit per class")
    if logits.shape != (2, num_classes):
        raise ValueError(
            f"{name} maps inputs of shape {(2, *shape)} to {tuple(logits.shape)}, "
            f"which should be (2, {num_classes}): one logit per class"
        )
    if next(sites) == 0:
        raise ValueError(f"{name} never calls its argument activation: it is the same network for every activation")
    return built.train()


def compared_modules(network: nn.Module) -> Iterator[nn.Module]:
    """Modules of a network made by its activation's factory, each once."""
    return (module for module in network.modules() if hasattr(module, MARK))


def calls_activation(network: nn.Module, inputs: Float[Tensor, "batch ..."]) -> bool:
    """Whether a plain network in training calls any module made by its activation's factory."""
    called: list[bool] = []
    # A hook on all modules, because a network may hold an activation in a plain list.
    hook = register_module_forward_pre_hook(lambda module, _: called.append(hasattr(module, MARK)))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=()):
            copy.deepcopy(network).train()(inputs)
    finally:
        hook.remove()
    return any(called)
