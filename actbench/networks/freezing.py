"""Parameters that training leaves as they are, and the running statistics that belong to them."""

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from actbench.networks.swap import SwappedNetwork, network_name

HELD = "_is_held"  # attribute of normalisation layers that keep and use their running statistics in training


def freeze_parameters(networks: Iterable[nn.Module], patterns: Sequence[str]) -> None:
    """Freeze the parameters of networks whose names match a pattern, such as ``stages.0.*``.

    A parameter with two names is frozen if either matches. If a pattern matches
    the name of a normalisation layer's ``running_mean``, as ``stages.0.*`` does,
    the layer keeps its running statistics and uses them in training too, as in
    evaluation; see `hold_statistics`. A network that activations are swapped into
    keeps its names; those of the activations begin with ``activations.``.

    Args:
        networks: The networks, which are changed in place.
        patterns: Patterns of `fnmatch`, case-sensitive; ``*`` matches any text, dots included.

    Raises:
        ValueError: A pattern matches no name, or no parameter is left to train.
    """
    for network in networks:
        freeze_one(network, patterns)


def freeze_one(network: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze the parameters of one network; see `freeze_parameters`."""
    prefix = "network." if isinstance(network, SwappedNetwork) else ""
    parameters = {
        name.removeprefix(prefix): parameter for name, parameter in network.named_parameters(remove_duplicate=False)
    }
    layers = {
        f"{path}.running_mean".lstrip(".").removeprefix(prefix): module
        for path, module in network.named_modules()
        if isinstance(module, _NormBase) and module.running_mean is not None
    }
    title = network_name(network)
    for pattern in patterns:
        matching = [name for name in (*parameters, *layers) if fnmatchcase(name, pattern)]
        if not matching:
            close = difflib.get_close_matches(pattern, parameters, n=3, cutoff=0.4) or [*parameters][:3]
            raise ValueError(
                f"model.freeze: {pattern!r} matches no parameter of {title}; the nearest are {', '.join(close)}"
            )
        for name in matching:
            if name in parameters:
                parameters[name].requires_grad_(False)
            else:
                setattr(layers[name], HELD, True)
    if patterns and not any(parameter.requires_grad for parameter in parameters.values()):
        raise ValueError(
            f"model.freeze leaves nothing to train: all {len(parameters)} parameters of {title} are frozen"
        )
    hold_statistics(network)


def hold_statistics(network: nn.Module) -> None:
    """Put the layers of a network that keep their running statistics into evaluation mode."""
    for module in network.modules():
        if hasattr(module, HELD):
            module.training = False
