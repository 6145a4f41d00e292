"""Specs: how a config names what is to be built.

A spec is a name, a class path, or a class path with arguments. It is checked
when it is made, answers in one line when it is wrong, builds a fresh object at
each call, and is written to configs and checkpoints in one canonical form.
"""

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from functools import cache, partial
from types import MappingProxyType
from typing import Any, ClassVar, get_args

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from actbench.activations import CATALOGUE
from actbench.networks import NETWORKS

SpecLike = Any  # a name, a class path, {"class_path": ..., "init_args": {...}}, a class, a partial of one, or a Spec
PROVED: set[tuple[type, type, str]] = set()  # a proof may take as long as a step of training


class Spec:
    """A class with its arguments, in plain values.

    Two specs are equal if they build the same: a name, its class path and its
    class path with the defaults written out are one spec.

    Args:
        value: A name, a class path, a mapping with ``class_path`` and ``init_args``, a class,
            or a `functools.partial` of a class with keyword arguments.

    Raises:
        ValueError: There is no such class, it is of another kind, or its arguments do not fit.
    """

    kind: ClassVar[str]
    base: ClassVar[type]
    given: ClassVar[tuple[str, ...]] = ()  # constructor arguments that the caller of the spec provides
    names: ClassVar[Mapping[str, tuple[type, Mapping[str, Any]]]] = MappingProxyType({})

    def __init__(self, value: SpecLike) -> None:
        target, arguments = self._split(value)
        self.cls, preset = self._find(target)
        self.class_path = public_path(self.cls)
        self.init_args = self._bind({**preset, **arguments})
        known = (type(self), self.cls, str(self.init_args))
        if known in PROVED:
            return
        try:
            self._prove()
        except Exception as error:
            raise ValueError(f"{self.kind} {self}: {one_line(error)}") from error
        PROVED.add(known)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Build a fresh object."""
        return self.cls(*args, **kwargs, **self.init_args)

    @classmethod
    def find(cls, value: SpecLike) -> type:
        """The class that a spec names, whatever its arguments.

        Raises:
            ValueError: There is no such class, or it is of another kind.
        """
        return cls._find(cls._split(value)[0])[0]

    @classmethod
    def takes(cls, value: SpecLike, argument: str) -> bool:
        """Whether the class that a spec names has such an argument.

        Raises:
            ValueError: There is no such class, or it is of another kind.
        """
        parameters = parameters_of(cls.find(value))
        return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def to_dict(self) -> dict[str, Any]:
        """Canonical form in plain values: the class path, and every argument that is not None."""
        spec: dict[str, Any] = {"class_path": self.class_path}
        if self.init_args:
            spec["init_args"] = {key: plain(value) for key, value in self.init_args.items()}
        return spec

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.to_dict()})"

    def __str__(self) -> str:
        arguments = ", ".join(f"{key}={value}" for key, value in self.init_args.items())
        return f"{self.class_path}({arguments})"

    @classmethod
    def _split(cls, value: SpecLike) -> tuple[Any, dict[str, Any]]:
        if isinstance(value, Spec):
            return value.cls, dict(value.init_args)
        if isinstance(value, partial) and not value.args:
            return value.func, dict(value.keywords)
        if isinstance(value, Mapping):
            unknown = set(value) - {"class_path", "init_args"}
            if not isinstance(value.get("class_path"), str) or unknown:
                raise ValueError(f"{cls.kind} takes the keys class_path and init_args, got {dict(value)}")
            arguments = value.get("init_args") or {}
            if not isinstance(arguments, Mapping):
                raise ValueError(f"{cls.kind} {value['class_path']}: init_args is a mapping, got {arguments!r}")
            return value["class_path"], dict(arguments)
        if isinstance(value, str | type):
            return value, {}
        raise ValueError(
            f"{cls.kind} is a name, a class path, a mapping or a class, so that it can be built afresh "
            f"and written down, got {value!r}"
        )

    @classmethod
    def _find(cls, target: Any) -> tuple[type, Mapping[str, Any]]:
        """The class, and the arguments that its name implies."""
        if isinstance(target, str):
            if normal(target) in cls._normal_names():
                return cls._normal_names()[normal(target)]
            target = cls._import(target)
        if not isinstance(target, type) or not issubclass(target, cls.base):
            raise ValueError(f"{target!r} is no {cls.kind}: it is not a subclass of {public_path(cls.base)}")
        return target, {}

    @classmethod
    @cache
    def _normal_names(cls) -> Mapping[str, tuple[type, Mapping[str, Any]]]:
        return {normal(name): entry for name, entry in cls.names.items()}

    @classmethod
    def _import(cls, path: str) -> Any:
        module, _, name = path.rpartition(".")
        if not module:
            close = difflib.get_close_matches(normal(path), map(normal, cls.names), n=3, cutoff=0.5)
            near = [name for name in cls.names if normal(name) in close] or list(cls.names)[:5]
            hint = f"; near it are {', '.join(near)}" if cls.names else ""
            raise ValueError(f"unknown {cls.kind} '{path}': give a name or a class path{hint}")
        try:
            return getattr(importlib.import_module(module), name)
        except Exception as error:
            raise ValueError(f"cannot import {cls.kind} '{path}': {one_line(error)}") from error

    def _bind(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Check arguments against the constructor's signature; write out plain defaults."""
        parameters = dict(parameters_of(self.cls))
        for name in self.given:
            if parameters.pop(name, None) is None:
                raise ValueError(f"{self.kind} {self.class_path} must take the argument '{name}'")
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        named = {n: p for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        unknown = [] if open_ended else [name for name in arguments if name not in named]
        missing = [n for n, p in named.items() if p.default is p.empty and n not in arguments]
        if unknown or missing:
            problem = f"unexpected {', '.join(map(str, unknown))}" if unknown else f"missing {', '.join(missing)}"
            accepted = ", ".join(named) or "none"
            raise ValueError(f"{self.kind} {self.class_path}: {problem} in init_args; accepted: {accepted}")
        bound = {name: value for name, value in defaults_of(self.cls).items() if name in named}
        for name, value in arguments.items():
            try:
                bound[name] = coerce(value, named[name].annotation if name in named else Any)
            except ValueError as error:
                raise ValueError(f"{self.kind} {self.class_path}: {name}: {error}") from error
        return {name: value for name, value in bound.items() if value is not None}

    def _prove(self) -> None:
        """Build one object to see that the arguments are right."""


@cache
def parameters_of(cls: type) -> Mapping[str, inspect.Parameter]:
    """What a class takes."""
    return inspect.signature(cls).parameters


@cache
def defaults_of(cls: type) -> Mapping[str, Any]:
    """The plain ones among a class's defaults."""
    return {n: coerce(p.default, p.annotation) for n, p in parameters_of(cls).items() if is_plain(p.default)}


class ActivationSpec(Spec):
    """An activation: a name of the catalogue (see ``main.py activations``), or a class path with arguments."""

    kind = "activation"
    base = nn.Module
    names = MappingProxyType({name: (entry.cls, entry.init_args) for name, entry in CATALOGUE.items()})

    def _prove(self) -> None:
        images = torch.linspace(-2, 2, 48).reshape(2, 4, 2, 3)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            result = self()(images)
        if not isinstance(result, torch.Tensor) or result.shape != images.shape:
            got = tuple(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
            raise ValueError(f"not an activation, it maps an input of shape {tuple(images.shape)} to {got}")


class NetworkSpec(Spec):
    """A network: TutorialCNN, MLP, ConvNet, ResNet20, or a class path with arguments."""

    kind = "network"
    base = nn.Module
    given = ("activation", "input_shape", "num_classes")
    names = MappingProxyType({name: (network, {}) for name, network in NETWORKS.items()})


class OptimizerSpec(Spec):
    """An optimiser: the class path of a `torch.optim.Optimizer`, with arguments."""

    kind = "optimizer"
    base = Optimizer
    given = ("params",)

    def _prove(self) -> None:
        self([nn.Parameter(torch.zeros(2, 2))])
        check_elementwise(self)


def check_elementwise(make: Callable[..., Optimizer]) -> None:
    """Refuse an optimiser whose step for one replicate is another in a stack than alone.

    A few steps are made with both, with gradients of very different size.

    Raises:
        ValueError: They differ, or it takes only some shapes.
    """
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 4), (3, 4, 5)):
        values = torch.randn(shape, generator=generator)
        together = nn.Parameter(values.clone())
        alone = [nn.Parameter(value.clone()) for value in values]
        try:
            optimizers = [make([together]), *(make([parameter]) for parameter in alone)]
            for _ in range(3):
                gradients = torch.randn(shape, generator=generator) * torch.tensor([1e-3, 1, 1e3]).view(
                    -1, *[1] * (len(shape) - 1)
                )
                for parameter, gradient in zip((together, *alone), (gradients, *gradients), strict=True):
                    parameter.grad = gradient.clone()
                for optimizer in optimizers:
                    optimizer.step()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"it cannot train replicates together: {one_line(error)}") from error
        if not torch.allclose(together, torch.stack(list(alone)), rtol=1e-4, atol=1e-6, equal_nan=True):
            raise ValueError(
                "it cannot train replicates together: its step for one depends on the others, because it "
                "is not element by element"
            )


class SchedulerSpec(Spec):
    """A learning-rate schedule: the class path of a `torch.optim.lr_scheduler.LRScheduler`, with arguments."""

    kind = "lr_scheduler"
    base = LRScheduler
    given = ("optimizer",)

    def _prove(self) -> None:
        self(torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1, momentum=0.9))


def public_path(cls: type) -> str:
    """Shortest path that a class can be imported by: ``torch.nn.SiLU``, not where torch defines it.

    Raises:
        ValueError: The class cannot be imported, as one defined inside a function cannot.
    """
    parts = cls.__module__.split(".")
    for end in range(1, len(parts) + 1):
        module = ".".join(parts[:end])
        if getattr(sys.modules.get(module), cls.__qualname__, None) is cls:
            return f"{module}.{cls.__qualname__}"
    raise ValueError(f"{cls!r} cannot be imported by name: define it at the top level of a module")


def normal(name: str) -> str:
    """Name without case and underscores."""
    return name.replace("_", "").lower()


def one_line(error: BaseException) -> str:
    """An error's message with its line breaks and indentation removed."""
    return " ".join(str(error).split()) or type(error).__name__


def is_plain(value: Any) -> bool:
    """Whether a value can be written to YAML and read back: bool, int, float, str, and lists and dicts of them."""
    if isinstance(value, list | tuple):
        return all(item is None or is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(k, str) and (v is None or is_plain(v)) for k, v in value.items())
    return isinstance(value, bool | int | float | str)


def plain(value: Any) -> Any:
    """The value as YAML and checkpoints hold it: tuples as lists, and numbers and text of no class of their own."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    kind = next((kind for kind in (bool, int, float, str) if isinstance(value, kind)), None)
    return kind(value) if kind else value


def coerce(value: Any, annotation: Any) -> Any:
    """An int as a float where a float is asked for, so that 2 and 2.0 are one spec.

    Raises:
        ValueError: The value is text where a number or a truth value is asked for, or cannot be written to YAML.
    """
    if value is not None and not is_plain(value):
        raise ValueError(f"{value!r} is not a plain value")
    kinds = set(get_args(annotation)) or {annotation}
    if float in kinds and type(value) is int:
        return float(value)
    if isinstance(value, str) and kinds & {int, float, bool} and str not in kinds:
        wanted = " or ".join(sorted(kind.__name__ for kind in kinds & {int, float, bool}))
        raise ValueError(f"{value!r} is not of type {wanted}")
    return value
