"""Composing everything that a user gives into one plain nested mapping.

Config files, files of one group (``--model model.yaml``) and dotted options are
layers. Adjacent options are one layer, whatever their order. Each layer is
merged over the layers before it by one rule: **another class starts with no
arguments, and the arguments of the same class add up.** The parser, which knows
the types, interprets the values.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pytorch_lightning import callbacks, loggers

from actbench.specs.optimizers import OptimizerSpec, SchedulerSpec
from actbench.specs.spec import ActivationSpec, NetworkSpec, Spec, arguments_parser
from actbench.specs.values import import_object, load_yaml, one_line, read_yaml

SPECS: dict[str, type[Spec]] = {
    "model.activation": ActivationSpec,
    "model.network": NetworkSpec,
    "model.optimizer": OptimizerSpec,
    "model.lr_scheduler": SchedulerSpec,
}
SPEC_NAMES = [key.removeprefix("model.") for key in SPECS]
GROUPS = ("", "model", "trainer", "study")  # mappings of settings, which always add up
CLASSES = (*SPECS, "data", "study.executor", "trainer.logger", "trainer.callbacks")  # settings that are classes
BARE = {"trainer.logger": loggers, "trainer.callbacks": callbacks}  # the modules of bare class names
FILES = (".yaml", ".yml", ".json")
LARGEST = 2**22  # bytes of a file


class UsageError(ValueError):
    """A command cannot be run with its options."""


class Items(dict[str, Any]):
    """Items of a mapping, or arguments of a class, that were given one by one: they add up with earlier items."""


def options(words: Sequence[str], flags: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Name (without dashes) and value of each option of a command line; the value of a flag is True."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if word == "-c":
            name = "config"
        elif not word.startswith("--") or not name:
            raise UsageError(f"what is {word}? Options are --config FILE and --NAME VALUE")
        if equals:
            yield name, value
        elif name in flags:
            yield name, True
        elif rest and not rest[0].startswith("--"):
            yield name, rest.pop(0)
        else:
            raise UsageError(f"--{name}: a value is missing")


def compose(words: Sequence[str], flags: Sequence[str] = ()) -> dict[str, Any]:
    """Config files and options as one mapping, in which the later of two options or files wins.

    Raises:
        UsageError: A word is not an option, an option lacks its value, or a file is missing or not a YAML mapping.
    """
    config, layer = dict[str, Any](), dict[str, Any]()  # adjacent options are one layer
    given = list(options(words, flags))
    for name, value in given:
        if name == "config":
            config, layer = merge_config(merge_config(config, layer), read_file(value, "--config")), {}
        else:
            layer = merge_config(layer, nest(name, value))
    config = merge_config(config, layer)
    for name, value in given:
        if isinstance(value, str):
            read_open_argument(config, name, value)
    return config


def read_open_argument(config: dict[str, Any], name: str, value: str) -> None:
    """Read an option as YAML, as in a file, if its class takes it by ``**kwargs``, where no signature has its type."""
    key = next((key for key in SPECS if name.startswith(f"{key}.")), None)
    form = setting(config, key) if key else None
    if not key or not isinstance(form, Mapping) or not isinstance(form.get("class_path"), str):
        return
    *parents, last = name.removeprefix(f"{key}.").removeprefix("init_args.").split(".")
    try:
        typed = arguments_parser(find_class(key, form["class_path"])[0], ())[1]
    except Exception:  # of any kind, in a module of the user's; the parser reports it
        return
    holder = setting(form, ".".join(["init_args", *parents]))
    if (*parents, last)[0] not in typed and isinstance(holder, dict) and holder.get(last) == value:
        holder[last] = load_yaml(value)


def read_file(path: str, option: str) -> dict[str, Any]:
    """Content of a config file; a UsageError if the file was not found, or is not a YAML mapping."""
    if not os.path.isfile(path):  # noqa: PTH113  # unlike pathlib's, never an error
        raise UsageError(f"{option}: file {path} not found")
    if os.path.getsize(path) > LARGEST:  # noqa: PTH202  # as above
        raise UsageError(f"{option} {path} is larger than any config")
    try:
        content = read_yaml(Path(path).read_text()) or {}
    except (ValueError, OSError) as error:
        raise UsageError(f"{option} {path} is not YAML: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{option} {path} is not a mapping of options to values")
    return content


def nest(name: str, value: Any) -> dict[str, Any]:
    """A dotted setting as a nested mapping, whose items add up with earlier items."""
    for part in reversed(name.split(".")):
        value = Items({part: value})
    return dict(value)


def merge_config(old: Any, new: Any, *, key: str = "") -> dict[str, Any]:
    """A config merged over an earlier one, or the group of settings ``key`` over an earlier one; neither is changed.

    Null adds nothing. A string is YAML or names a file. A UsageError names a group that is not a mapping.
    """
    if isinstance(new, str):
        content = load_yaml(new)
        new = content if content is None or isinstance(content, Mapping) else read_file(new, f"--{key}")
    for value in (old, new):
        if value is not None and not isinstance(value, Mapping):
            raise UsageError(f"{key} is a mapping of settings, got {value!r}")
    result = dict(old or {})
    for name, value in (new or {}).items():
        inner = f"{key}.{name}".lstrip(".")
        if inner in GROUPS:
            result[name] = merge_config(result.get(name), value, key=inner)
        elif inner.endswith("+"):
            result[name[:-1]] = appended(inner[:-1], result.get(name[:-1]), value)
        elif inner in CLASSES:
            result[name] = merged_class(inner, result.get(name), value)
        else:
            result[name] = merged_value(result.get(name), value)
    return result


def loaded(value: Any) -> Any:
    """The value of a string in place of a class: YAML, the content of a file, or a name."""
    if isinstance(value, str) and Path(value).suffix in FILES and os.path.isfile(value):  # noqa: PTH113
        try:
            return read_yaml(Path(value).read_text())
        except (ValueError, OSError) as error:
            raise UsageError(f"{value} is not YAML: {error}") from error
    return load_yaml(value) if isinstance(value, str) else value


def appended(key: str, old: Any, new: Any) -> list[Any]:
    """The list of a setting with one item, or several, at its end."""
    items = [*items_of(old), *items_of(new)]
    return [merged_class(key, None, item) for item in items] if key in CLASSES else items


def items_of(value: Any) -> list[Any]:
    """The items of a list, which may be YAML; any other value but null is an item itself."""
    content = loaded(value)
    return content if isinstance(content, list) else [] if content is None else [value]


def merged_class(key: str, old: Any, new: Any) -> Any:
    """A class with its arguments merged over an earlier value of the same dotted setting, by the rule of this module.

    Each value is a name, a mapping in which ``class_path`` or ``init_args`` may be missing, or a list of these.
    """
    new = loaded(new)
    if isinstance(new, list):
        return [merged_class(key, None, item) for item in new]
    if isinstance(old, list) and isinstance(new, Items) and old:  # arguments of the last class
        return [*old[:-1], merged_class(key, old[-1], new)]
    if not isinstance(new, str | Mapping):
        return new
    given = as_class(key, new)
    before = as_class(key, old) if isinstance(old, str | Mapping) else {}
    path, old_path = given.get("class_path"), before.get("class_path")
    if path is not None and old_path is not None and not same_class(key, old_path, path):
        before = {}
    result: dict[str, Any] = {"class_path": path or old_path} if path or old_path else {}
    for name in ("init_args", "dict_kwargs"):
        arguments = dict(before.get(name) or {})
        for argument, value in (given.get(name) or {}).items():
            adds_up = is_group(key, result.get("class_path"), argument)
            merge_item(arguments, argument, value, adds_up=adds_up)
        if arguments:
            result[name] = arguments
    return result


def as_class(key: str, value: str | Mapping[str, Any]) -> dict[str, Any]:
    """A class as a mapping of ``class_path``, ``init_args`` and ``dict_kwargs``, as far as they are given."""
    if isinstance(value, str):
        return {"class_path": full_path(key, value)}
    form: dict[str, Any] = {"init_args": Items()}
    for name, item in value.items():
        if name == "class_path":
            form[name] = full_path(key, item) if isinstance(item, str) else item
        elif name in ("init_args", "dict_kwargs"):
            item = load_yaml(item) if isinstance(item, str) else item
            if item is not None and not isinstance(item, Mapping):
                raise UsageError(f"--{key}: {name} is a mapping of arguments, got {item!r}")
            form[name] = Items({**form.get(name, {}), **(item or {})})
        else:
            form["init_args"][name] = item
    return form


def merged_value(old: Any, new: Any, *, adds_up: bool = False) -> Any:
    """A value merged over an earlier one; a class among the arguments of a class follows the rule too.

    Items given one by one add up with earlier items. A whole mapping adds up only if ``adds_up`` is true.
    """
    before = loaded(old) if isinstance(old, str) and isinstance(new, Items) else old
    is_class = any(isinstance(value, Mapping) and "class_path" in value for value in (before, new))
    if is_class or (isinstance(before, str) and isinstance(new, Items)):
        return merged_class("", before, new)
    if isinstance(new, Items) or (adds_up and isinstance(new, Mapping) and isinstance(before, Mapping)):
        result = dict(before) if isinstance(before, Mapping) else {}
        for name, value in new.items():
            merge_item(result, name, value)
        return result
    return new


def merge_item(items: dict[str, Any], name: str, value: Any, *, adds_up: bool = False) -> None:
    """Merge one of a mapping's items, or of a class's arguments; see `merged_value`."""
    if name.endswith("+"):
        items[name[:-1]] = appended("", items.get(name[:-1]), value)
    else:
        items[name] = merged_value(items.get(name), value, adds_up=adds_up)


def full_path(key: str, name: str) -> str:
    """The class path of a bare name of ours or Lightning's; any other name unchanged."""
    if "." in name:
        return name
    if key == "data":
        from actbench import data  # imported late, because it imports much

        return f"actbench.data.{name}" if name in [cls.__name__ for cls in data.DATASETS] else name
    module = BARE.get(key)
    return f"{module.__name__}.{name}" if module and hasattr(module, name) else name


def find_class(key: str, path: str) -> tuple[type, Mapping[str, Any]]:
    """The class that a name or class path means in a setting, and the arguments that the name implies."""
    return SPECS[key].find(path) if key in SPECS else (import_object(path), {})


def same_class(key: str, first: str, second: str) -> bool:
    """Whether two names mean the same class and imply the same arguments."""
    try:
        return first == second or find_class(key, first) == find_class(key, second)
    except Exception:  # of any kind, in a module of the user's; the parser reports it
        return False


def is_group(key: str, class_path: str | None, argument: str) -> bool:
    """Whether a class's argument is a dataclass, whose fields add up as settings do."""
    try:
        hint = get_type_hints(find_class(key, class_path or "")[0].__init__)[argument]  # type: ignore[misc]
    except Exception:  # as above, or the signature does not name the argument
        return False
    return any(dataclasses.is_dataclass(kind) for kind in (hint, *get_args(hint)))


def setting(config: Any, key: str) -> Any:
    """The value of a dotted setting in a config; None if the config does not give one."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def without(config: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """A mapping without the named keys."""
    return {name: value for name, value in config.items() if name not in names}


def class_paths(value: Any) -> Iterator[Any]:
    """Class paths at any depth of a config, which need not be strings if the config is wrong."""
    if isinstance(value, Mapping):
        if value.get("class_path") is not None:
            yield value["class_path"]
        value = [*value.values()]
    for item in value if isinstance(value, list | tuple) else ():
        yield from class_paths(item)
