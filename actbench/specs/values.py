"""Values of a config: parsed to the types that a class asks for, and written down as YAML holds them."""

import importlib
import inspect
import re
import sys
from collections.abc import Mapping
from enum import Enum
from functools import cache
from itertools import accumulate
from pathlib import PurePath
from typing import Any, get_args, get_type_hints

import yaml
from jsonargparse import Namespace, get_loader

ABSENT: Any = object()
SHOWN = 1000  # characters of a message, which may hold all that was given
VALUES = 100_000  # of a config; nobody has written as many


def one_line(error: BaseException) -> str:
    """An error's message with its line breaks and indentation removed."""
    return " ".join(str(error).split()) or type(error).__name__


def readable_error(message: str) -> str:
    """What jsonargparse says of a wrong value, in one line: the option, and the cause without the types tried."""
    text = " ".join(message.split())
    text = re.sub(r'(Parser key|Problem with given class_path) "([^"]+)"( element \d+)?:', r"--\2:", text)
    text = re.sub(r"Does not validate against any of the Union subtypes Subtypes: .*? Errors: - (.*)", r"\1", text)
    text = re.sub(r" - Expected a <class 'NoneType'>.*", "", text)
    text = re.sub(r" (Given value type:|- Not a valid subclass of) .*", "", text)
    text = re.sub(r"<class '([^']+)'>", r"\1", text)
    text = re.sub(r"Not of type \w+Spec: ", "", text)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def load_yaml(text: str) -> Any:
    """The value that a text stands for, as in a config; the text itself if it is not YAML."""
    try:
        return read_yaml(text)
    except ValueError:
        return text


def read_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: The text is not YAML, says a key twice, or has more values than a config, counted as often as
            aliases repeat them.
    """
    sizes = dict[int, int]()

    def size(node: Any) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = VALUES  # while it is counted, so that one that holds itself has too many
            items = [item for pair in node.value for item in pair] if isinstance(node, yaml.MappingNode) else node.value
            keys = [key.value for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
            twice = next((key for key in keys if isinstance(key, str) and keys.count(key) > 1), None)
            if twice is not None:
                raise ValueError(f"the key {twice} is there twice, in line {node.start_mark.line + 1} and below")
            sizes[id(node)] = 1 + (0 if isinstance(items, str) else sum(map(size, items)))
        return sizes[id(node)]

    try:
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if root is not None and size(root) >= VALUES:
            raise ValueError(f"it has more than {VALUES:,} values")
        return get_loader("yaml")(text)
    except ValueError:
        raise
    except Exception as error:  # of many kinds, among them those of the loader
        raise ValueError(one_line(error)) from error


def dump_yaml(value: Any) -> str:
    """Plain values as YAML that is read back as it was written: a text stays one, also where it looks like a number."""
    return str(yaml.dump(value, Dumper=TextDumper, sort_keys=False))


class TextDumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML has no types
    """YAML's safe dumper, which quotes what the loader would not read as text, such as ``12e4``."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """A text, in quotes where it needs them."""
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if load_yaml(text) == text else "'")


TextDumper.add_representer(str, TextDumper.represent_text)


def import_object(path: str) -> Any:
    """The object that a dotted path names; an ImportError or AttributeError says which part was not found."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def public_path(cls: type) -> str:
    """Shortest path that a class can be imported by: ``torch.nn.SiLU``, not where torch defines it.

    A ValueError refuses a class that cannot be imported, such as one defined inside a function.
    """
    for module in accumulate(cls.__module__.split("."), "{}.{}".format):
        if getattr(sys.modules.get(module), cls.__qualname__, None) is cls:
            return f"{module}.{cls.__qualname__}"
    raise ValueError(f"{cls!r} cannot be imported by name: define it at the top level of a module")


@cache
def parameters_of(cls: type) -> Mapping[str, inspect.Parameter]:
    """Parameters of a class's constructor."""
    return inspect.signature(cls).parameters


@cache
def defaults_of(cls: type) -> Mapping[str, Any]:
    """Defaults of a class's parameters, `inspect.Parameter.empty` for one that has to be given."""
    return {name: parameter.default for name, parameter in parameters_of(cls).items()}


@cache
def numbers_of(cls: type) -> Mapping[str, frozenset[type]]:
    """Which of int and float the annotation of each parameter of a class allows."""
    try:
        hints = get_type_hints(cls.__init__)  # type: ignore[misc]
    except Exception:  # annotations may name what only type checkers import
        hints = {name: parameter.annotation for name, parameter in parameters_of(cls).items()}
    kinds = {name: (hint, *get_args(hint)) for name, hint in hints.items()}
    return {name: frozenset(n for n in (int, float) if any(n is k for k in of)) for name, of in kinds.items()}


def settle(node: Any, given: Any = ABSENT) -> None:
    """Mend what jsonargparse makes of the arguments of each class, at any depth of a parsed value, in place.

    A whole number that was given stays one where ``float | int`` allows it, a
    default of 1 for a float is 1.0, as it will be when it is read again, and
    defaults that no config can hold, such as objects, are left to the class.
    """
    if isinstance(node, list):
        same_length = isinstance(given, list) and len(given) == len(node)
        for item, before in zip(node, given if same_length else [given] * len(node), strict=True):
            settle(item, before)
    elif isinstance(node, Namespace):
        given = given if isinstance(given, Mapping) else {}
        path, arguments = vars(node).get("class_path"), vars(node).get("init_args")
        if isinstance(path, str) and isinstance(arguments, Namespace):
            settle_arguments(import_object(path), vars(arguments), given.get("init_args") or {})
        else:
            for name, value in vars(node).items():
                settle(value, given.get(name, ABSENT))


def settle_arguments(cls: type, arguments: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Mend the parsed arguments of one class as `settle` says, in place."""
    for name, value in list(arguments.items()):
        default = defaults_of(cls).get(name)
        if name not in given and default is not inspect.Parameter.empty and not is_plain(default):
            del arguments[name]
            continue
        raw = given.get(name, value)
        raw = load_yaml(raw) if isinstance(raw, str) and not isinstance(value, str) else raw
        allowed = numbers_of(cls).get(name)
        if allowed and type(raw) is int and type(value) in (int, float):
            arguments[name] = raw if int in allowed else float(raw)
        settle(value, given.get(name, ABSENT))


def is_plain(value: Any) -> bool:
    """Whether a config can hold a value: None, a number, text, an enumeration's member, a path, or several of these."""
    try:
        written(value)
    except ValueError:
        return False
    return True


def written(value: Any, given: Any = ABSENT) -> Any:
    """A parsed value as YAML and checkpoints hold it: tuples as lists, enumerations by name, paths as text.

    Of a class, arguments that are None by default and still None are left out.

    Args:
        value: The value, parsed or given in Python.
        given: The value before it was parsed, written in place of one of another type, such as `torch.dtype`.

    Raises:
        ValueError: No config can hold the value.
    """
    value = vars(value) if isinstance(value, Namespace) else value
    if isinstance(value, Mapping):
        before = given if isinstance(given, Mapping) else {}
        if isinstance(value.get("class_path"), str):
            return written_class(value, before)
        return {name: written(item, before.get(name, ABSENT)) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        members = sorted(value) if isinstance(value, set | frozenset) else list(value)
        givens = given if isinstance(given, list) and len(given) == len(members) else [ABSENT] * len(members)
        return [written(item, one) for item, one in zip(members, givens, strict=True)]
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, PurePath):
        return str(value)
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        return None
    if given is not ABSENT and given is not value:
        return written(given)
    raise ValueError(f"{value!r} cannot be written to a config")


def written_class(items: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A class with its arguments as YAML holds them."""
    try:
        cls = import_object(items["class_path"])
        form: dict[str, Any] = {"class_path": public_path(cls)}
        defaults = defaults_of(cls)
    except (ImportError, AttributeError, TypeError, ValueError):  # a name that is resolved elsewhere
        form, defaults = {"class_path": items["class_path"]}, {}
    for key in ("init_args", "dict_kwargs"):
        arguments, before, kept = items.get(key) or {}, given.get(key) or {}, {}
        for name, value in (vars(arguments) if isinstance(arguments, Namespace) else arguments).items():
            if value is None and defaults.get(name, ABSENT) is None:
                continue
            try:
                kept[name] = written(value, before.get(name, ABSENT))
            except ValueError as error:
                raise ValueError(f"{form['class_path']}: {name}: {error}") from error
        if kept:
            form[key] = kept
    return form
