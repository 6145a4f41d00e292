"""Values of a file are loaded into a network, as torch does it."""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from actbench.networks import SwappedNetwork, compared_modules, network_name, plain_name, site_paths
from actbench.specs import one_line
from actbench.training.transfer.names import INNER, match_network
from actbench.training.transfer.source import Source, first_names

LEAST = 0.5  # fraction of a network's parameters that a file must have


class Fitting:
    """Takes what does not fit out of a state dict, after a module has migrated it and before it is loaded.

    It is a hook for `torch.nn.Module.register_load_state_dict_pre_hook`.
    """

    def __init__(self, network: nn.Module, *, load_activation: bool, num_classes: int) -> None:
        self.network, self.load_activation, self.num_classes = network, load_activation, num_classes
        self.compared = {id(v) for each in compared_modules(network) for v in (*each.parameters(), *each.buffers())}
        self.root = ""  # of names in the network
        self.head, self.drawn = list[str](), list[str]()
        self.misfits, self.faults = list[str](), list[str]()

    def __call__(self, module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        buffers = module.named_buffers(recurse=False, remove_duplicate=False)
        saved = [pair for pair in buffers if pair[0] not in module._non_persistent_buffers_set]
        for name, initial in (*module.named_parameters(recurse=False, remove_duplicate=False), *saved):
            value = state.get(prefix + name)
            if isinstance(value, Tensor) and not self.fits(f"{self.root}{prefix}{name}", value, initial):
                del state[prefix + name]

    def fits(self, name: str, value: Tensor, initial: Tensor) -> bool:
        """Whether a value in the file is loaded in place of the network's own."""
        same = value.shape == initial.shape or (not initial.ndim and value.shape == (1,))  # as torch loads it
        title, classes = plain_name(self.network, name), (self.num_classes,)
        if id(initial) in self.compared and not (same and self.load_activation):
            self.drawn.append(name)
        elif not same and initial.shape[:1] == classes and value.ndim and value.shape[1:] == initial.shape[1:]:
            self.head.append(name)
        elif not same:
            shapes = f"{tuple(value.shape)} there and {tuple(initial.shape)} in the network"
            self.misfits.append(f"{title} has the shape {shapes}")
        elif fault := value_fault(title, value, initial):
            self.faults.append(fault)
        else:
            return True
        return False


def load_state(
    state: Mapping[str, Any], source: Source, path: str | Path, *, fitting: Fitting, idle: Collection[str]
) -> list[str]:
    """Load a state dict into a network, and say in a line for each kind what was loaded and what was not."""
    network = fitting.network
    wanted = network.state_dict(keep_vars=True)
    match = match_network(network, state, path)
    names, places = match.names(state), match.names(source.versions)
    values = {new: state[name] for new, name in names.items()}
    missing, unexpected = load_values(
        values, {new: source.versions[name] for new, name in places.items()}, fitting, path
    )
    title = network_name(network)
    if fitting.misfits:
        raise ValueError(f"{path} holds weights of another network than {title}: {fitting.misfits[0]}")
    activation = {name for name, value in wanted.items() if id(value) in fitting.compared}
    loaded = [name for name in wanted if name not in missing]
    check_found(network, path, [*loaded, *fitting.head], state, activation)
    if fitting.faults:
        raise ValueError(f"{path}: {fitting.faults[0]}")
    lacking = [name for name in wanted if name in missing and name not in (*fitting.head, *fitting.drawn)]
    used = {plain_name(network, name) for name in loaded if name not in idle}
    removed = f", without the prefix {first_names([match.removed])}" if match.removed else ""
    part = plain_name(network, match.part)
    kinds = {
        f"loaded{removed}{f', into {part}' if part else ''}": [name for name in loaded if name not in idle],
        f"not loaded, because the head is for {fitting.num_classes} classes": fitting.head,
        "not loaded, because they belong to the activation": sorted(
            [*fitting.drawn, *(name for name in lacking if name in activation)]
        ),
        "missing in the file": [name for name in lacking if name not in activation],
        "not used, because another activation runs there": [
            name for name in loaded if name in idle and plain_name(network, name) not in used
        ],
    }
    shown = {kind: [*dict.fromkeys(plain_name(network, name) for name in each)] for kind, each in kinds.items()}
    strangers = [name for name in state if name not in names.values()]
    shown["unused in the file"] = strangers + [names.get(name, name) for name in unexpected]
    return [f"{path}: {kind}: {len(each)} ({first_names(each)})" for kind, each in shown.items() if each]


def load_values(
    values: dict[str, Any], metadata: dict[str, Any], fitting: Fitting, path: str | Path
) -> tuple[set[str], list[str]]:
    """Load values as torch does, which migrates them, and return what is missing and what is unused."""
    network, roots = fitting.network, {"": fitting.network}
    if isinstance(network, SwappedNetwork):
        roots = {INNER: network.network, "activations.": network.activations}
        for entries in (values, metadata):
            share_with_swapped(network, entries)
    missing, unused = set[str](), list[str]()
    for root, module in roots.items():
        fitting.root = root
        state = OrderedDict((name.removeprefix(root), value) for name, value in values.items() if name.startswith(root))
        there = [name for name in metadata if name.startswith(root)]
        if there:
            vars(state)["_metadata"] = {name.removeprefix(root).removesuffix("."): metadata[name] for name in there}
        hooks = [each.register_load_state_dict_pre_hook(fitting) for each in module.modules()]  # type: ignore[no-untyped-call]
        try:
            result = module.load_state_dict(state, strict=False)
        except Exception as error:  # users' modules may load their values themselves
            raise ValueError(f"{path} cannot be loaded into {network_name(network)}: {one_line(error)}") from error
        finally:
            for hook in hooks:
                hook.remove()
        missing |= {root + name for name in result.missing_keys}
        unused += [root + name for name in result.unexpected_keys]
    return missing, unused


def share_with_swapped(network: SwappedNetwork, entries: dict[str, Any]) -> None:
    """Give what is there for a network's own activations to those of the same class that run in their place."""
    for index, path in enumerate(site_paths(network)):
        if type(network.network.get_submodule(path)) is type(network.activations[index]):
            start = f"{INNER}{path}."
            for name in [name for name in entries if name.startswith(start)]:
                entries.setdefault(f"activations.{index}.{name.removeprefix(start)}", entries[name])


def check_found(
    network: nn.Module, path: str | Path, found: Sequence[str], given: Iterable[str], activation: set[str]
) -> None:
    """Raise a ValueError if a file has too few of a network's parameters to be meant for it."""
    parameters = [name for name, _ in network.named_parameters() if name not in activation]
    lacking = [name for name in parameters if name not in found]
    if len(lacking) > (1 - LEAST) * len(parameters):
        others = first_names([plain_name(network, name) for name in lacking])
        raise ValueError(
            f"{path} holds weights of another network than {network_name(network)}: {len(parameters) - len(lacking)} "
            f"of {len(parameters)} parameters fit; {others} do not, and the file has {first_names([*given])}"
        )


def value_fault(name: str, value: Tensor, initial: Tensor) -> str:
    """Why a value cannot take the place of a network's own, such as NaN; "" if it can."""
    kinds = [(tensor.is_floating_point(), tensor.is_complex()) for tensor in (value, initial)]
    counts = kinds == [(True, False), (False, False)] and torch.equal(value.to(initial.dtype).to(value.dtype), value)
    if kinds[0] != kinds[1] and not counts:  # counts of batches are floating-point numbers after ``.double()``
        return f"{name} is of type {value.dtype}, and in the network of {initial.dtype}"
    converted = value.to(initial.dtype)
    if initial.isfinite().all() and not converted.isfinite().all():
        number = "NaN" if converted.isnan().any() else "inf"
        return f"{name} holds {number}, as the weights of a training that diverged do"
    if name.rpartition(".")[2] == "running_var" and (converted < 0).any():
        return f"{name} holds {converted.min().item():g}, and a variance is not negative"
    return ""
