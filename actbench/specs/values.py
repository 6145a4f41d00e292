"""Values of a config: YAML, the parameters of classes, and the canonical form that YAML and checkpoints hold."""

import dataclasses
import importlib
import inspect
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from functools import cache
from itertools import accumulate
from operator import attrgetter
from pathlib import PurePath
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader

ABSENT: Any = object()
SHOWN = 1000  # most characters of a message, which may quote the whole input
VALUES = 100_000  # most values of a config; nobody writes as many


def one_line(error: BaseException) -> str:
    """An error's message with its line breaks and indentation removed, after its type if it is a key or a word."""
    text, name = " ".join(str(error).split()), type(error).__name__
    bare = isinstance(error, KeyError) or " " not in text
    return f"{name}: {text}".removesuffix(": ") if bare else text


def readable_error(message: str) -> str:
    """A message of jsonargparse about a wrong value in one line: the option and the cause, without the types tried."""
    text = " ".join(message.split())
    text = re.sub(r'(Parser key|Problem with given class_path) "([^"]+)"( element \d+)?:', r"--\2:", text)
    text = re.sub(r"Does not validate against any of the Union subtypes Subtypes: .*? Errors: - (.*)", r"\1", text)
    text = re.sub(r" - Expected a <class 'NoneType'>.*", "", text)
    text = re.sub(r" (Given value type:|- Not a valid subclass of) .*", "", text)
    text = re.sub(r"<class '([^']+)'>", r"\1", text)
    text = re.sub(r"Not of type \w+Spec: ", "", text)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def load_yaml(text: str) -> Any:
    """The value of a text in a config; the text itself if it is not YAML."""
    try:
        return read_yaml(text)
    except ValueError:
        return text


def read_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: The text is not YAML, has a key twice, or has more values than any config, where a value
            counts once for each alias that repeats it.
    """
    sizes = dict[int, int]()

    def size(node: Any) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = VALUES  # while it is counted, so that a node that contains itself is too large
            items = [] if isinstance(node, yaml.ScalarNode) else node.value
            if isinstance(node, yaml.MappingNode):
                keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
                twice = next((key for key in keys if keys.count(key) > 1), None)
                if twice is not None:
                    raise ValueError(f"the key {twice} appears twice, in line {node.start_mark.line + 1} and below")
                items = [item for pair in node.value for item in pair]
            sizes[id(node)] = 1 + sum(map(size, items))
        return sizes[id(node)]

    try:
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if root is not None and size(root) >= VALUES:
            raise ValueError(f"it has more than {VALUES:,} values")
        return get_loader("yaml")(text)
    except ValueError:
        raise
    except Exception as error:  # of many kinds, among them the loader's
        raise ValueError(one_line(error)) from error


def dump_yaml(value: Any) -> str:
    """Plain values as YAML that is read back unchanged: a string stays a string, even if it looks like a number."""
    return str(yaml.dump(value, Dumper=TextDumper, sort_keys=False))


class TextDumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML has no types
    """YAML's safe dumper, which also quotes strings such as ``12e4`` that jsonargparse's loader reads as numbers."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """A string, in quotes where it needs them."""
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if load_yaml(text) == text else "'")


TextDumper.add_representer(str, TextDumper.represent_text)


def import_object(path: str) -> Any:
    """The object at a dotted path, also in a class; an ImportError or AttributeError says which part was not found."""
    module, _, name = path.rpartition(".")
    try:
        holder = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if "." not in str(error.name) or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module, or one that it imports, is missing
        holder = import_object(module)
        if not isinstance(holder, type):  # a module that a trusted one imports would be trusted by its path
            raise
    return getattr(holder, name)


def public_path(cls: Any) -> str:
    """The shortest path from which a class can be imported: ``torch.nn.SiLU``, not the module that defines it.

    Raises a ValueError for a class that cannot be imported, such as a class defined inside a function.
    """
    owner = getattr(cls, "__self__", None)
    if isinstance(owner, type):  # a class method, which may be inherited
        return f"{public_path(owner)}.{cls.__name__}"
    for module in accumulate(cls.__module__.split("."), "{}.{}".format):
        with suppress(AttributeError):
            if attrgetter(cls.__qualname__)(sys.modules.get(module)) is cls:
                return f"{module}.{cls.__qualname__}"
    raise ValueError(f"{cls!r} cannot be imported by name: define it at the top level of a module")


@cache
def parameters_of(cls: type) -> Mapping[str, inspect.Parameter]:
    """Parameters of a class's constructor."""
    return inspect.signature(cls).parameters


@cache
def defaults_of(cls: type) -> Mapping[str, Any]:
    """Defaults of a class's parameters; `inspect.Parameter.empty` for a parameter without one."""
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    made = {field.name: field.default_factory() for field in fields if callable(field.default_factory)}
    return {name: made.get(name, parameter.default) for name, parameter in parameters_of(cls).items()}


@cache
def hints_of(cls: type) -> Mapping[str, Any]:
    """Types of a class's parameters, as annotated."""
    try:
        return get_type_hints(cls.__init__ if isinstance(cls, type) else cls)  # type: ignore[misc]
    except Exception:  # annotations may use names that only type checkers import
        return {name: parameter.annotation for name, parameter in parameters_of(cls).items()}


def parse_values(parser: ArgumentParser, given: Any) -> tuple[Namespace, Any]:
    """Parsed values, and the given ones, in which texts that were parsed as lists or mappings are read as in a file.

    They are parsed again: in place of an element that fits no type in a union with `str`, jsonargparse takes the text
    of the whole option.
    """
    parsed = parser.parse_object(read_containers(given, given))  # a copy, since the parser changes its input
    read = read_containers(given, parsed)
    return (parsed if read == given else parser.parse_object(read_containers(read, read))), read


def read_containers(given: Any, parsed: Any) -> Any:
    """Given values, in which a text at any depth that was parsed as a list or mapping is read as YAML."""
    parsed = vars(parsed) if isinstance(parsed, Namespace) else parsed
    if isinstance(given, str) and isinstance(parsed, Mapping | list | tuple | set | frozenset):
        given = load_yaml(given)
    if isinstance(given, Mapping) and isinstance(parsed, Mapping):
        if "class_path" in parsed and as_arguments(given) is given:
            return read_containers(given, parsed.get("init_args"))
        return {name: read_containers(value, parsed.get(name)) for name, value in given.items()}
    if isinstance(given, list) and isinstance(parsed, list | tuple) and len(given) == len(parsed):
        return [read_containers(*pair) for pair in zip(given, parsed, strict=True)]
    return given


def as_arguments(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of a given class, which may be given without naming the class."""
    return (given.get("init_args") or {}) if {"class_path", "init_args"} & given.keys() else given


def correct_parsed(node: Any, given: Any = ABSENT) -> None:
    """Correct jsonargparse's values for the arguments of each class, at any depth of a parsed value, in place.

    A given whole number stays whole where ``float | int`` allows it. A default of
    1 for a float becomes 1.0, as when it is read again. Defaults that no config
    can hold, such as objects, are left to the class, except for dataclasses that
    their fields make again.
    """
    if isinstance(node, list):
        same_length = isinstance(given, list) and len(given) == len(node)
        for item, before in zip(node, given if same_length else [given] * len(node), strict=True):
            correct_parsed(item, before)
    elif isinstance(node, Namespace):
        given = given if isinstance(given, Mapping) else {}
        path, arguments = vars(node).get("class_path"), vars(node).get("init_args")
        if isinstance(path, str) and isinstance(arguments, Namespace):
            correct_arguments(import_object(path), vars(arguments), as_arguments(given))
        else:
            for name, value in vars(node).items():
                correct_parsed(value, given.get(name, ABSENT))


def correct_arguments(cls: type, arguments: dict[str, Any], given: Mapping[str, Any], *, skips: bool = False) -> None:
    """Correct the parsed arguments of one class, in place; see `correct_parsed`.

    With ``skips``, the class is built without those that are deleted; jsonargparse builds a dataclass anyway.
    """
    for name, value in list(arguments.items()):
        default, hint, before = defaults_of(cls).get(name), hints_of(cls).get(name), given.get(name, ABSENT)
        # If absent, jsonargparse builds it from the dataclass's own defaults, unlike in a union.
        grouped = dataclasses.is_dataclass(get_origin(hint) or hint) and dataclasses.is_dataclass(default)
        plain = default is inspect.Parameter.empty or is_plain(default)
        if before is ABSENT and not plain and not (grouped and makes(vars(value), default)):
            if grouped and not skips:
                raise ValueError(f"{name}: fields of {default!r}, the default, do not make it again: give all of them")
            del arguments[name]
            continue
        if grouped and isinstance(before, Mapping) and vars(value).keys() - before and not makes(vars(value), default):
            others = ", ".join(sorted(vars(value).keys() - before))
            raise ValueError(
                f"{name}: fields of {default!r}, the default, do not make it again: give all of them, also {others}"
            )
        raw = value if before is ABSENT else before
        raw = load_yaml(raw) if isinstance(raw, str) and not isinstance(value, str) else raw
        allowed = [number for number in (int, float) if any(number is kind for kind in (hint, *get_args(hint)))]
        if allowed and type(raw) is int and type(value) in (int, float):
            arguments[name] = raw if int in allowed else float(raw)
        if grouped and (before is ABSENT or isinstance(before, Mapping)):
            fields = vars(default) if before is ABSENT else {**vars(value), **before}
            correct_arguments(type(default), vars(value), fields)
        else:
            correct_parsed(value, before)


def makes(fields: Mapping[str, Any], default: Any) -> bool:
    """Whether parsed fields of a dataclass make its instance that is the default of an argument.

    They do not make one of a subclass, nor one whose ``__post_init__`` changes a field each time.
    """
    given = {field.name: getattr(default, field.name) for field in dataclasses.fields(default) if field.init}
    return given.keys() == fields.keys() and vars(type(default)(**given)) == vars(default)


def is_plain(value: Any) -> bool:
    """Whether a config can hold a value: None, a number, a string, an enum member, a path, or several of these."""
    try:
        to_plain(value)
    except ValueError:
        return False
    return True


def to_plain(value: Any, given: Any = ABSENT) -> Any:
    """A parsed value as YAML and checkpoints hold it: tuples as lists, enum members by name, paths as strings.

    Arguments of a class that are None and default to None are left out, and so are
    fields of a dataclass that no config can hold, unless they are given.

    Args:
        value: The value, parsed or given in Python.
        given: The value before it was parsed, which replaces a value of another type, such as `torch.dtype`.

    Raises:
        ValueError: No config can hold the value.
    """
    filled = isinstance(value, Namespace) and (given is ABSENT or isinstance(given, Mapping))  # with defaults
    value = vars(value) if isinstance(value, Namespace) else value
    if isinstance(value, Mapping):
        before = given if isinstance(given, Mapping) else {}
        if isinstance(value.get("class_path"), str):
            return written_class(value, before)
        kept = [name for name in value if not filled or name in before or is_plain(value[name])]
        return {name: to_plain(value[name], before.get(name, ABSENT)) for name in kept}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else list(value)
        givens = given if isinstance(given, list) and len(given) == len(items) else [ABSENT] * len(items)
        return [to_plain(item, before) for item, before in zip(items, givens, strict=True)]
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
        return to_plain(given)
    raise ValueError(f"{value!r} cannot be written to a config")


def written_class(items: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A class with its arguments as YAML holds them."""
    try:
        cls = import_object(items["class_path"])
        form: dict[str, Any] = {"class_path": public_path(cls)}
        defaults = defaults_of(cls)
    except (ImportError, AttributeError, TypeError, ValueError):  # a bare name, which is resolved elsewhere
        form, defaults = {"class_path": items["class_path"]}, {}
    for key in ("init_args", "dict_kwargs"):
        arguments, kept = items.get(key) or {}, {}
        before = as_arguments(given) if key == "init_args" else given.get(key) or {}
        for name, value in (vars(arguments) if isinstance(arguments, Namespace) else arguments).items():
            if value is None and defaults.get(name, ABSENT) is None:
                continue
            try:
                kept[name] = to_plain(value, before.get(name, ABSENT))
            except ValueError as error:
                raise ValueError(f"{form['class_path']}: {name}: {error}") from error
        if kept:
            form[key] = kept
    return form
