"""Reading a command line ahead of its parsing, and folding dotted arguments into one value.

LightningCLI's users give a class its arguments one by one
(``--model.activation.init_args.beta 1.5``, ``--model.optimizer.lr 1e-3``). A spec
is one value, so that no argument leaks from one class to the next; `fold_specs`
turns the one into the other.
"""

import difflib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import get_loader

from actbench.specs import one_line

SPEC_KEYS = ("model.activation", "model.network", "model.optimizer", "model.lr_scheduler")
CLASS_KEYS = (*SPEC_KEYS, "data")


class UsageError(ValueError):
    """A command cannot be run as it was given."""


def load_yaml(text: str) -> Any:
    """The value that a text stands for, as in a config.

    Raises:
        UsageError: It is not YAML.
    """
    try:
        return get_loader("yaml")(text)
    except Exception as error:
        raise UsageError(f"'{text}' is not YAML: {one_line(error)}") from error


class Option(NamedTuple):
    """An option as it stands on the command line: its name without dashes, its value, and the words it is made of."""

    name: str
    value: str
    words: Sequence[str]


def options(args: Sequence[str]) -> Iterator[Option]:
    """Every option with a value, and every other word as an option without a name, in order."""
    place = 0
    while place < len(args):
        word, rest = args[place], args[place + 1 : place + 2]
        name, equals, value = word.partition("=")
        if word.startswith("--") and equals:
            option = Option(name[2:], value, [word])
        elif (word.startswith("--") or word == "-c") and rest and not rest[0].startswith("--"):
            option = Option("config" if word == "-c" else word[2:], rest[0], [word, *rest])
        else:
            option = Option("", word, [word])
        yield option
        place += len(option.words)


def read_config(path: str) -> dict[str, Any]:
    """Contents of a config file.

    Raises:
        UsageError: It is not there, or is not a YAML mapping.
    """
    if not Path(path).is_file():
        raise UsageError(f"--config: there is no file {path}")
    try:
        content = get_loader("yaml")(Path(path).read_text()) or {}
    except Exception as error:  # the loader's own kinds among them
        raise UsageError(f"--config {path} is not YAML: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise UsageError(f"--config {path} is not a mapping of options to values")
    return content


def assignments(args: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """What each option is set to, in the order in which it takes effect, the contents of configs in place.

    Raises:
        UsageError: A config file is not there, or is not a YAML mapping.
    """
    for name, value, _ in options(args):
        if name == "config":
            config = read_config(value)
            yield from config.items()
            model = config.get("model")
            yield from ((f"model.{key}", spec) for key, spec in (model if isinstance(model, dict) else {}).items())
        elif name:
            yield name, value


def last(args: Sequence[str], name: str) -> Any:
    """The value that an option ends up with, None if it is not given."""
    return next((value for key, value in reversed(list(assignments(args))) if key == name), None)


def class_paths(args: Sequence[str], keys: Sequence[str] = CLASS_KEYS) -> Iterator[str]:
    """Every name and class path that is given for the keys."""
    for name, value in assignments(args):
        if name.removesuffix(".class_path") in keys:
            spec = load_yaml(value) if isinstance(value, str) else value
            path = spec.get("class_path") if isinstance(spec, dict) else spec
            if isinstance(path, str):
                yield path


def given_to(args: Sequence[str], key: str) -> Iterator[str]:
    """Names of the arguments that are given to a class, such as ``seed`` or ``init_args.seed``."""
    for name, value in assignments(args):
        if name.startswith(f"{key}."):
            yield name.removeprefix(f"{key}.")
        elif name == key and isinstance(value, dict):
            yield from value
            yield from (f"init_args.{argument}" for argument in value.get("init_args") or {})


def fold_specs(args: Sequence[str], defaults: Mapping[str, Any]) -> list[str]:
    """The command line with each spec's dotted arguments folded into one option at its end.

    Args:
        args: The command line after the command.
        defaults: For each of `SPEC_KEYS`, the class path with arguments that holds unless the command or a config
            says otherwise, or None.

    Raises:
        UsageError: Arguments are given for a class that is not.
    """
    words = list(args)
    for key in SPEC_KEYS:
        dotted = [option for option in options(words) if option.name.startswith(f"{key}.")]
        if not dotted:
            continue
        spec = {"class_path": None, **(defaults[key] or {})}
        for name, value in assignments(words):
            argument = name.removeprefix(f"{key}.").removeprefix("init_args.")
            if name == key:
                given = load_yaml(value) if isinstance(value, str) else value
                spec = {"class_path": None, **given} if isinstance(given, dict) else {"class_path": given}
            elif name == f"{key}.class_path":
                spec = spec if spec["class_path"] == value else {"class_path": value}
            elif name.startswith(f"{key}."):
                spec = {**spec, "init_args": {**(spec.get("init_args") or {}), argument: load_yaml(value)}}
        if spec["class_path"] is None:
            raise UsageError(f"--{dotted[0].name}: give --{key} too, the class that takes it")
        others = [option for option in options(words) if not f"{option.name}.".startswith(f"{key}.")]
        words = [word for option in others for word in option.words] + [f"--{key}={json.dumps(spec)}"]
    return words


def reset_data(args: Sequence[str], default: str) -> list[str]:
    """The command line with ``--data=null`` before each word that changes the DataModule's class.

    Else jsonargparse keeps the arguments of the class before that the new one has, too.

    Args:
        args: The command line after the command.
        default: Name or class path of the DataModule that holds unless the command or a config says otherwise.
    """
    words, current = [], default
    for option in options(args):
        for name in class_paths(option.words, ["data"]):
            if name.split(".")[-1] != current.split(".")[-1] or (name != current and "." in name and "." in current):
                words.append("--data=null")
            current = name
        words += option.words
    return words


def check_data(options: Sequence[str], datasets: Sequence[str]) -> None:
    """Refuse what jsonargparse would say at length, or nothing about.

    Raises:
        UsageError: The dataset has no known name, or is given a seed of its own.
    """
    for name in class_paths(options, ["data"]):
        if "." not in name and name not in datasets:
            near = difflib.get_close_matches(name.lower(), map(str.lower, datasets), n=3, cutoff=0.5)
            hint = [known for known in datasets if known.lower() in near] or datasets
            raise UsageError(f"--data: unknown dataset '{name}'; give a class path or one of {', '.join(hint)}")
    given = {name.removeprefix("init_args.") for name in given_to(options, "data")}
    if "seed" in given:
        raise UsageError("--data.seed: the seed of a run is one, that of --seed_everything")
    if "replicates" in given:
        raise UsageError("--data.replicates: as many as --model.replicates")


def trusted(options: Sequence[str]) -> tuple[str, ...]:
    """Modules that a checkpoint may name: by --trust, by ACTBENCH_TRUST, and by being named in the same command."""
    lists = (last(options, "trust"), os.environ.get("ACTBENCH_TRUST"))
    said = [name.strip() for names in lists for name in str(names or "").split(",") if name.strip()]
    return (*said, *(path.split(".")[0] for path in class_paths(options) if "." in path))
