"""Copies of networks, and the tensors that modules keep of their last call."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from torch import Tensor, nn

MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))  # of every module, such as parameters and hooks


def copy_network(network: nn.Module) -> nn.Module:
    """A deep copy of a network, whose modules may keep tensors of their last call, which torch does not copy."""
    memo: dict[int, Any] = {}
    for module in network.modules():
        for name, value in vars(module).items():
            for tensor in kept_tensors(value) if name not in MODULE_ATTRIBUTES else ():
                if not tensor.is_leaf:
                    memo[id(tensor)] = tensor.detach().clone()
            if isinstance(value, ModuleType):
                memo[id(value)] = value
    return copy.deepcopy(network, memo)


def kept_tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in an attribute, at any depth of its collections."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from kept_tensors(item)


@contextmanager
def no_kept_tensors(network: nn.Module) -> Iterator[None]:
    """Remove the tensors that modules keep from a call, for a plot, say: those of a probe or of vmap mean nothing."""
    before = [(vars(module), dict(vars(module))) for module in network.modules()]
    contents = [
        (value, copy.copy(value))
        for _, values in before
        for name, value in values.items()
        if isinstance(value, list | dict) and name not in MODULE_ATTRIBUTES
    ]
    try:
        yield
    finally:
        for attributes, values in before:
            for name, value in list(attributes.items()):
                if value is not values.get(name) and any(True for _ in kept_tensors(value)):
                    if name in values:
                        attributes[name] = values[name]
                    else:
                        del attributes[name]
        for value, original in contents:
            if any(True for _ in kept_tensors(value)):
                value.clear()
                value.extend(original) if isinstance(value, list) else value.update(original)


@contextmanager
def unchanged_attributes(network: nn.Module) -> Iterator[None]:
    """Restore what modules keep in Python besides tensors, such as a count of calls, after a probe."""
    before = [(module, copy.deepcopy(plain_attributes(module))) for module in network.modules()]
    try:
        yield
    finally:
        for module, values in before:
            vars(module).update(values)


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """Attributes of a module's own that are numbers, texts, or collections of these."""
    return {
        name: value for name, value in vars(module).items() if name not in MODULE_ATTRIBUTES and is_restorable(value)
    }


def is_restorable(value: Any) -> bool:
    """Whether a value is a number, a text or None, or a collection of these."""
    if isinstance(value, dict):
        return all(map(is_restorable, value.values()))
    if isinstance(value, list | tuple | set):
        return all(map(is_restorable, value))
    return value is None or isinstance(value, bool | int | float | str)
