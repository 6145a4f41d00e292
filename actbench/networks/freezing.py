"""Parameters that training leaves as they are, and the running statistics that belong to them."""

import difflib
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from actbench.networks.copies import copy_network
from actbench.networks.swap import SwappedNetwork, network_name

HELD = "_is_held"  # attribute of normalisation layers that keep and use their running statistics in training


def freeze_parameters(networks: Sequence[nn.Module], patterns: Sequence[str], *, input_shape: Sequence[int]) -> None:
    """Freeze the parameters of networks whose names match a pattern, such as ``stages.0.*``.

    A parameter with two names is frozen if either matches. If a pattern matches
    the name of a normalisation layer's ``running_mean``, as ``stages.0.*`` does,
    the layer keeps its running statistics and uses them in training too, as in
    evaluation; see `hold_statistics`. A network that activations are swapped into
    keeps its names; an activation has the name of the module in which it runs,
    and as another one ``activations.`` and its number.

    Args:
        networks: The networks, which are changed in place.
        patterns: Patterns of `fnmatch`, case-sensitive; ``*`` matches any text, dots included.
        input_shape: Shape of an input, without the batch.

    Raises:
        ValueError: A pattern matches no name, or only names of activations that no longer run, or no parameter is left
            to train.
    """
    idle = idle_parameters(networks[0], input_shape) if patterns else set[str]()
    for network in networks:
        freeze_one(network, patterns, idle)


def freeze_one(network: nn.Module, patterns: Sequence[str], idle: Collection[str]) -> None:
    """Freeze the parameters of one network, in which some are idle; see `freeze_parameters`."""
    parameters = dict(network.named_parameters(remove_duplicate=False))
    layers = {
        f"{path}.running_mean".lstrip("."): module
        for path, module in network.named_modules()
        if isinstance(module, _NormBase) and module.running_mean is not None
    }
    plain = {name: plain_name(network, name) for name in (*parameters, *layers)}
    title = network_name(network)
    for pattern in patterns:
        matching = [
            name
            for name in plain
            if fnmatchcase(plain[name], pattern) or (is_swapped_in(network, name) and fnmatchcase(name, pattern))
        ]
        if not matching:
            names = [plain[name] for name in parameters]
            close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4) or names[:3]
            raise ValueError(
                f"model.freeze: {pattern!r} matches no parameter of {title}; the nearest are {', '.join(close)}"
            )
        if idle and {*matching} <= {*idle}:
            raise ValueError(
                f"model.freeze: {pattern!r} matches only {', '.join(plain[name] for name in matching[:3])} of {title}, "
                "which is not used: another activation runs there"
            )
        for name in matching:
            if name in parameters:
                parameters[name].requires_grad_(False)
            else:
                setattr(layers[name], HELD, True)
    if patterns and not any(value.requires_grad for name, value in parameters.items() if name not in idle):
        raise ValueError(
            f"model.freeze leaves nothing to train: all {len(parameters)} parameters of {title} are frozen"
        )
    hold_statistics(network)


def plain_name(network: nn.Module, name: str) -> str:
    """A parameter's name as the author of a network knows it, whether or not activations are swapped into it.

    A parameter of an activation that was swapped in has the name that it would have in the module where it runs.
    """
    if not isinstance(network, SwappedNetwork):
        return name
    if not is_swapped_in(network, name):
        return name.removeprefix("network.")
    _, index, rest = name.split(".", 2)
    return f"{site_paths(network)[int(index)]}.{rest}".lstrip(".")


def is_swapped_in(network: nn.Module, name: str) -> bool:
    """Whether a name belongs to an activation that was swapped into a network."""
    return isinstance(network, SwappedNetwork) and name.startswith("activations.")


def site_paths(network: SwappedNetwork) -> list[str]:
    """Paths of the modules in which swapped activations run, in the order of the activations."""
    names = [site.name for site in network.certificate.sites if site.swapped]
    return [name.partition("#")[0].strip(".") for name in names]


def idle_parameters(network: nn.Module, input_shape: Sequence[int]) -> set[str]:
    """Names of parameters of a network's own activations that nothing depends on, because others run there.

    Args:
        network: The network, which is run in evaluation, as a copy.
        input_shape: Shape of an input, without the batch.
    """
    if not isinstance(network, SwappedNetwork):
        return set()
    copied = copy_network(network).eval()
    modules = [copied.get_submodule(f"network.{path}".rstrip(".")) for path in site_paths(network)]
    at_sites = {id(parameter) for module in modules for parameter in module.parameters(recurse=False)}
    named = [pair for pair in copied.named_parameters(remove_duplicate=False) if id(pair[1]) in at_sites]
    if not named:
        return set()
    with torch.enable_grad(), torch.random.fork_rng(devices=()):
        for _, parameter in named:
            parameter.requires_grad_(True)
        output = copied(torch.zeros(2, *input_shape)).sum()
    if not output.requires_grad:
        return {name for name, _ in named}
    gradients = torch.autograd.grad(output, [parameter for _, parameter in named], allow_unused=True)
    return {name for (name, _), gradient in zip(named, gradients, strict=True) if gradient is None}


def hold_statistics(network: nn.Module) -> None:
    """Put the layers of a network that keep their running statistics into evaluation mode."""
    for module in network.modules():
        if hasattr(module, HELD):
            module.training = False
