"""Specs: how a config names what is to be built.

A spec is a name, a class path, or a class path with arguments. It is checked
when it is made, and reports an error in one line. It builds a fresh object at
each call. Configs and checkpoints hold it in one canonical form.
"""

import difflib
import math
import sys
from collections.abc import Mapping
from functools import cache, partial
from types import FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any, ClassVar

import torch
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from jsonargparse.typing import register_type
from torch import nn
from torch.nn.parameter import is_lazy

from actbench.activations import CATALOGUE
from actbench.networks import NETWORKS, with_new_head
from actbench.specs.values import (
    ABSENT,
    correct_arguments,
    import_object,
    is_plain,
    one_line,
    parameters_of,
    parse_values,
    public_path,
    readable_error,
    to_plain,
)

OWN_ARGUMENTS = ("activation", "input_shape", "num_classes")  # of networks that are written for actbench
CHANNELS = ("in_chans", "in_channels")
FOLLOWING = ("num_classes", *CHANNELS)  # arguments of other networks that follow from the data
FORWARDED = {"timm.create_model": ("num_classes", "in_chans"), "torchvision.models.get_model": ("num_classes",)}
LISTS = {  # functions that make a network by its name: the argument, and a function that lists the names
    "timm.create_model": ("model_name", "timm.list_models"),
    "torchvision.models.get_model": ("name", "torchvision.models.list_models"),
}
TRANSFORMING = ("googlenet", "inception_v3")  # networks of torchvision that have other settings with trained weights
PROVED: set[tuple[type, type, str]] = set()  # specs that were built once; building may take as long as a training step


class Spec:
    """A class with its arguments, in plain values.

    Two specs are equal if they build equal objects: a name, its class path, and
    its class path with the defaults written out are equal.

    Args:
        value: A name, a class path, a mapping with ``class_path`` and ``init_args``, a class,
            a `functools.partial` of a class with keyword arguments, or a spec. Networks and
            schedules may also be made by a function.

    Raises:
        ValueError: The class was not found, is of another kind, or does not accept the arguments.
    """

    kind: ClassVar[str]
    base: ClassVar[type]
    given: ClassVar[tuple[str, ...]] = ()  # constructor arguments that the caller of the spec provides
    names: ClassVar[Mapping[str, Any]]  # the class, or partial of a class, of each name
    by_function: ClassVar[bool] = False  # whether a function may make it

    def __init_subclass__(cls) -> None:
        register_type(cls, serializer=cls.to_dict, type_check=isinstance)

    def __init__(self, value: Any) -> None:
        target, arguments = self._split(value)
        self.cls, preset = self.find(target)
        self.class_path = public_path(self.cls)
        self.init_args = self._bind({**preset, **arguments})
        key = (type(self), self.cls, str(self.init_args))
        if key not in PROVED:
            try:
                self._prove()
            except Exception as error:
                raise ValueError(f"{self.kind} {self}: {one_line(error)}") from error
            PROVED.add(key)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Build a fresh object."""
        arguments = dict(self.init_args)
        holders = Namespace | list | tuple | dict  # of classes, perhaps
        if any(isinstance(value, holders) for value in arguments.values()):
            parser, names = arguments_parser(self.cls, self.skipped)
            named = Namespace({name: value for name, value in arguments.items() if name in names})  # type: ignore[no-untyped-call]
            arguments |= vars(parser.instantiate(named))
        return self.cls(*args, **kwargs, **arguments)

    def to_dict(self) -> dict[str, Any]:
        """Canonical form in plain values: the class path, and every argument that a config can hold."""
        form: dict[str, Any] = to_plain({"class_path": self.class_path, "init_args": self.init_args}, self.raw)
        return form

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
    def _split(cls, value: Any) -> tuple[Any, dict[str, Any]]:
        if isinstance(value, Spec):
            return value.cls, dict(value.to_dict().get("init_args", {}))
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
        if isinstance(value, str | type) or (cls.by_function and isinstance(value, FunctionType | MethodType)):
            return value, {}
        raise ValueError(
            f"{cls.kind} is a name, a class path, a mapping or a class, so that it can be built afresh "
            f"and written down, got {value!r}"
        )

    @classmethod
    def find(cls, target: Any) -> tuple[type, Mapping[str, Any]]:
        """The class of a name or a class path, and the arguments that the name implies.

        Raises a ValueError if the class was not found, or is of another kind.
        """
        if isinstance(target, str):
            names = {normalized(name): name for name in cls.names}
            if normalized(target) in names:
                return cls._split(cls.names[names[normalized(target)]])
            if "." not in target:
                close = difflib.get_close_matches(normalized(target), names, n=3, cutoff=0.5)
                near = ", ".join([names[name] for name in names if name in close] or list(cls.names)[:5])
                raise ValueError(f"unknown {cls.kind} '{target}': give a name or a class path; near it are {near}")
            try:
                target = import_object(target)
            except Exception as error:
                paths = near_paths(target)
                hint = f"; near it are {', '.join(paths)}" if paths else ""
                raise ValueError(f"cannot import {cls.kind} '{target}': {one_line(error)}{hint}") from error
        cls._check_kind(target)
        return target, {}

    @classmethod
    def _check_kind(cls, target: Any) -> None:
        """Raise a ValueError for an object that is not of the spec's kind."""
        if not isinstance(target, type) or not issubclass(target, cls.base):
            name = public_path(target) if hasattr(target, "__qualname__") else f"of type {type(target).__name__}"
            advice = ""
            if isinstance(target, cls.base):
                advice = ", but an instance of one: name its class"
            elif callable(target) and not isinstance(target, type) and cls.base is nn.Module:
                advice = ", but a function: write a torch.nn.Module whose forward calls it"
            raise ValueError(f"{cls.kind} {name} is not a subclass of {public_path(cls.base)}{advice}")

    def _bind(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments with plain defaults written out, after checking them against the constructor's signature."""
        parameters = dict(parameters_of(self.cls))
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        for name in self.given:
            if parameters.pop(name, None) is None and not open_ended:
                raise ValueError(f"{self.kind} {self.class_path} must take the argument '{name}'")
        named = {n: p for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        unknown = [] if open_ended else [name for name in arguments if name not in named]
        missing = [n for n, p in named.items() if p.default is p.empty and n not in arguments]
        if unknown or missing:
            problem = f"unexpected {', '.join(map(str, unknown))}" if unknown else f"missing {', '.join(missing)}"
            accepted = ", ".join(named) or "none"
            raise ValueError(f"{self.kind} {self.class_path}: {problem} in init_args; accepted: {accepted}")
        names = arguments_parser(self.cls, self.given)[1]
        # What **kwargs are passed on to keeps its own defaults.
        skipped = (*self.given, *sorted(names - parameters.keys() - arguments.keys()))
        parser, names = arguments_parser(self.cls, skipped)
        typed = {name: value for name, value in arguments.items() if name in names}
        try:
            parsed, typed = parse_values(parser, typed)
        except ArgumentError as error:
            problem = readable_error(str(error)).removeprefix("--")
            raise ValueError(f"{self.kind} {self.class_path}: {problem}") from error
        bound = vars(parsed)
        correct_arguments(self.cls, bound, typed, skips=True)
        bound |= {name: value for name, value in arguments.items() if name not in typed}
        self.raw = {"init_args": {**arguments, **typed}}
        defaults = {name: parameter.default for name, parameter in parameters.items()}
        # What **kwargs take has a default that no signature tells: None may differ from it.
        bound = {n: value for n, value in bound.items() if value is not None or defaults.get(n, ABSENT) is not None}
        for name, value in bound.items():
            if not is_plain(value) and not is_plain(arguments.get(name)):
                raise ValueError(f"{self.kind} {self.class_path}: {name}: {value!r} is not a plain value")
        # If parsed, a dataclass that is left to the class would be built from the dataclass's own defaults.
        self.skipped = (*skipped, *sorted(names & parameters.keys() - bound.keys()))
        return bound

    def _prove(self) -> None:
        """Build an object once, to check the arguments."""


@cache
def arguments_parser(cls: type, skipped: tuple[str, ...]) -> tuple[ArgumentParser, frozenset[str]]:
    """Parser of the arguments of a class or function except those that are skipped, and the names that it parses."""
    parser = ArgumentParser(exit_on_error=False)
    add = parser.add_class_arguments if isinstance(cls, type) else parser.add_function_arguments
    add(cls, skip=set(skipped), fail_untyped=False)
    return parser, frozenset(action.dest for action in parser._actions)


class ActivationSpec(Spec):
    """An activation: a name of the catalogue (see ``main.py activations``), or a class path with arguments."""

    kind = "activation"
    base = nn.Module
    names = MappingProxyType({name: partial(entry.cls, **entry.init_args) for name, entry in CATALOGUE.items()})

    def _prove(self) -> None:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            module = self()
            try:
                check_shape(module, (2, 4, 2, 3))
            except Exception:  # of any kind: a parameter for each channel fits only as many
                values = (*module.parameters(), *module.buffers())
                sizes = {size for value in values if not is_lazy(value) for size in value.shape if size > 1}
                if not any(fits(module, shape) for size in sizes for shape in ((2, size, 2, 3), (2, size))):
                    raise


def check_shape(module: nn.Module, shape: tuple[int, ...]) -> None:
    """Raise a ValueError if an activation maps an input of this shape to anything else."""
    inputs = torch.linspace(-2, 2, math.prod(shape)).reshape(shape)
    result = module(inputs)
    got = tuple(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
    if got != shape:
        raise ValueError(f"not an activation: it maps an input of shape {shape} to {got}")


def fits(module: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether an activation takes an input of this shape."""
    try:
        check_shape(module, shape)
    except Exception:  # of any kind, in the user's code
        return False
    return True


class NetworkSpec(Spec):
    """A network: TutorialCNN, MLP, ConvNet, ResNet20, or the path of a class or function, with arguments.

    A class that takes ``activation``, ``input_shape`` and ``num_classes`` is given
    all three. Anything else that makes a network is foreign: activations are
    swapped into what it makes (`actbench.networks.build_network`), and it is given
    the number of classes and of input channels where it takes them, and the shape
    of an input where it asks for ``input_shape``.
    """

    kind = "network"
    base = nn.Module
    given: tuple[str, ...] = OWN_ARGUMENTS  # type: ignore[misc]  # of foreign networks, those that they take
    names = NETWORKS
    by_function = True

    def __init__(self, value: Any) -> None:
        target, arguments = self._split(value)
        made = self.find(target)[0]
        accepts = accepted_names(made)
        self.foreign = not accepts.issuperset(OWN_ARGUMENTS)
        if self.foreign:
            shape = parameters_of(made).get("input_shape")  # with a default, nobody knows which axes it has
            following = [*FOLLOWING, *(["input_shape"] if shape and shape.default is shape.empty else [])]
            self.given = tuple(name for name in following if name in accepts and name not in arguments)
        super().__init__(value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Build a fresh network; a foreign one gets what it takes and what its arguments do not give.

        A network of torchvision with its trained ``weights`` has as many classes as these. It gets a new last layer.
        """
        classes = kwargs.get("num_classes")
        if self.foreign:
            kwargs |= dict.fromkeys(CHANNELS, kwargs["input_shape"][0])
            kwargs = {name: value for name, value in kwargs.items() if name in self.given}
        if not self.pretrained:
            return super().__call__(*args, **kwargs)
        kwargs.pop("num_classes", None)
        return with_new_head(super().__call__(*args, **kwargs), int(str(classes)))

    @property
    def pretrained(self) -> bool:
        """Whether torchvision downloads trained weights for the network."""
        return self.class_path.startswith("torchvision.models.") and self.init_args.get("weights") is not None

    def trained_form(self) -> dict[str, Any]:
        """The form in a checkpoint, which holds the weights itself."""
        form = self.to_dict()
        return {**form, "init_args": {**form["init_args"], "weights": None}} if self.pretrained else form

    @classmethod
    def _check_kind(cls, target: Any) -> None:
        named = callable(target) and hasattr(target, "__qualname__")
        if not named or (isinstance(target, type) and not issubclass(target, cls.base)):
            what, advice = repr(target), ""
            if isinstance(target, ModuleType):
                what, advice = target.__name__, ", but a module: name what makes the network in it"
            raise ValueError(f"network {what} is neither a subclass of torch.nn.Module nor a function{advice}")

    def _bind(self, arguments: dict[str, Any]) -> dict[str, Any]:
        activation = parameters_of(self.cls).get("activation")
        if self.foreign and activation and activation.default is activation.empty and "activation" not in arguments:
            missing = next(name for name in OWN_ARGUMENTS if name not in parameters_of(self.cls))
            raise ValueError(f"network {self.class_path} must take the argument '{missing}'")
        return super()._bind(arguments)

    def _prove(self) -> None:
        if self.pretrained and self.class_path.rpartition(".")[2] in TRANSFORMING:
            raise ValueError(
                "its trained weights also change how it scales images: save their state dict, and give it by "
                "--model.weights with --model.network.transform_input true"
            )
        listed = LISTS.get(self.class_path)
        if listed:
            argument, path = listed
            names, name = import_object(path)(), str(self.init_args[argument])
            if name.partition(".")[0].partition(":")[0] not in (*names, "hf-hub", "hf_hub", "local-dir"):
                close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
                raise ValueError(f"unknown model '{name}'; near it are {', '.join(close) or ', '.join(names[:3])}")


@cache
def accepted_names(target: Any) -> frozenset[str]:
    """Names of the arguments that a network's class or function takes, also those that it passes on."""
    parameters = parameters_of(target)
    passed_on = arguments_parser(target, ())[1] - parameters.keys() - {"help"}
    names = {*parameters, *passed_on, *FORWARDED.get(public_path(target), ())}
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()) and not passed_on
    if isinstance(target, type) and open_ended and not names & {*OWN_ARGUMENTS, *FOLLOWING}:
        names |= set(OWN_ARGUMENTS)  # nothing is known of what it passes on
    return frozenset(names)


def near_paths(path: str) -> list[str]:
    """Paths of a module's public objects whose names resemble that at the end of a dotted path."""
    module, _, name = path.rpartition(".")
    found = vars(sys.modules[module]) if module in sys.modules else {}
    public = [
        other for other, value in found.items() if not other.startswith("_") and not isinstance(value, ModuleType)
    ]
    return [f"{module}.{other}" for other in difflib.get_close_matches(name, public, n=3, cutoff=0.6)]


def normalized(name: str) -> str:
    """A name in lower case without underscores."""
    return name.replace("_", "").lower()
