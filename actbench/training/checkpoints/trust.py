"""Trust: the code that a checkpoint may name."""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from inspect import Parameter, formatannotation
from pathlib import Path
from typing import Any, get_type_hints

from torch import nn

from actbench.specs import class_paths, one_line
from actbench.specs.compose import SPEC_NAMES, SPECS
from actbench.specs.values import import_object, parameters_of
from actbench.training.checkpoints.form import CheckpointError

# Words of annotations for which the parser never imports what a text names.
TEXTUAL = {
    *("str", "Path", "pathlib", "_local"),  # pathlib._local.Path in Python 3.13
    *("int", "float", "bool", "None", "Optional", "typing", "list", "tuple", "Sequence"),
}
TRUSTED = ("actbench", "torch.nn", "torch.optim", "torchvision")


def trusted_names(option: str | None) -> list[str]:
    """Modules whose classes a checkpoint may name, from ``--trust`` and ACTBENCH_TRUST."""
    names = f"{option or ''},{os.environ.get('ACTBENCH_TRUST', '')}".split(",")
    return [name.strip() for name in names if name.strip()]


def check_trust(description: Mapping[str, Any], trusted: Sequence[str], path: str | Path) -> None:
    """Raise CheckpointError for names outside of the trusted modules, and for classes of the wrong kind."""
    check_names(map(str, class_paths(description)), trusted, path)
    try:
        classes = {class_path: import_object(class_path) for class_path in map(str, class_paths(description))}
        for name in SPEC_NAMES:
            if description["model"][name]:
                found, _ = SPECS[f"model.{name}"].find(description["model"][name]["class_path"])
                if not isinstance(found, type):
                    check_function(found, description["model"][name], trusted, path)
        data = description["data"] and classes[description["data"]["class_path"]]
        if data and "LightningDataModule" not in [cls.__name__ for cls in data.__mro__]:
            raise ValueError(f"{data.__name__} is not a DataModule")
        check_names(names_in_texts(description), trusted, path)
    except CheckpointError:
        raise
    except Exception as error:  # users' modules raise errors of any kind
        raise CheckpointError(f"{path} describes what cannot be built: {one_line(error)}") from error


def check_function(
    function: Callable[..., Any], described: Mapping[str, Any], trusted: Sequence[str], path: str | Path
) -> None:
    """Raise CheckpointError for a function that nobody named, unless it makes one of torchvision's networks.

    A checkpoint holds its weights: it needs no download.
    """
    name, named = str(described["class_path"]), [module for module in trusted if module not in TRUSTED]
    if any(f"{name}.".startswith(f"{module}.") for module in named):
        return
    made = get_type_hints(function).get("return")
    is_builder = isinstance(made, type) and issubclass(made, nn.Module) and made is not nn.Module
    if not re.fullmatch(r"torchvision\.models\.\w+", name) or not is_builder:
        raise CheckpointError(f"checkpoint {path} names the function {name!r}, which makes no network of torchvision's")
    if (described.get("init_args") or {}).get("weights") is not None:
        raise CheckpointError(
            f"checkpoint {path} would download the weights of {name}: if you want that, --trust {name}"
        )


def check_names(names: Iterable[str], trusted: Sequence[str], path: str | Path) -> None:
    """Raise CheckpointError for a name outside of the trusted modules; it tells how to trust all such names."""
    unknown = [name for name in names if not any(f"{name}.".startswith(f"{module}.") for module in trusted)]
    if unknown:
        libraries = {"", "torch", "pytorch_lightning", "lightning", *sys.stdlib_module_names}
        modules = [name.rpartition(".")[0] for name in unknown]
        needed = ",".join(dict.fromkeys([*(module for module in trusted if module not in TRUSTED), *modules]))
        harmful = any(module.partition(".")[0] in libraries for module in modules)
        advice = "" if harmful else f": if you trust it, add --trust {needed}"
        raise CheckpointError(
            f"checkpoint {path} names the class {unknown[0]!r}, which would be imported and run{advice}"
        )


def names_in_texts(value: Any) -> Iterator[str]:
    """Dotted names in texts among the arguments of trusted classes, where the parser may import what a text names.

    An argument annotated as text or numbers, or not at all, is skipped, because its texts stay texts. TypeError is
    raised if a class path names something other than a class.
    """
    if isinstance(value, Mapping) and isinstance(value.get("class_path"), str):
        parameters = parameters_of(import_object(value["class_path"]))
        for name, argument in (value.get("init_args") or {}).items():
            annotation = parameters[name].annotation if name in parameters else Any
            text = "str" if annotation is Parameter.empty else formatannotation(annotation)
            words = set(re.findall(r"\w+", text))
            if not words <= TEXTUAL or (isinstance(argument, str) and argument.lstrip().startswith(("{", "["))):
                yield from names_in_texts(argument)
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from names_in_texts(item)
    elif isinstance(value, str):
        yield from re.findall(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+", value)
