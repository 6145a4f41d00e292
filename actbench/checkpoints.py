"""Checkpoints that describe themselves in plain values, and can be read without trusting them.

What built a checkpoint stands under its key ``actbench``::

    schema: 3
    version: 0.1.0
    seed: 0
    vary: [init, split, order, augmentation, dropout]
    model: {activation: ..., network: ..., optimizer: ..., lr_scheduler: ...,
            replicates: ..., input_shape: ..., num_classes: ...}
    data: {class_path: ..., init_args: {...}}
    trainer: {max_epochs: ..., precision: ..., ...}

It holds no absolute path, and nothing is imported before every class path in it is known to be trusted.
"""

import json
import os
import pickle
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from inspect import Parameter, formatannotation
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, is_zipfile

import torch
from pytorch_lightning import LightningDataModule, Trainer
from torch import Tensor

from actbench import __version__
from actbench.specs import ActivationSpec, NetworkSpec, class_paths, is_plain, one_line, public_path, written
from actbench.specs.compose import SPEC_NAMES, SPECS
from actbench.specs.values import import_object, parameters_of
from actbench.streams import SOURCES

KEY = "actbench"
WEIGHTS = "stack.network."  # how names of weights begin
VALUES, DEPTH = 3_000_000, 100  # of a checkpoint's content, in which each epoch has some
DESCRIBED = 10_000  # values of what it was made of
SCHEMA = 3
# Words of annotations for which the parser imports nothing that a text names.
TEXTUAL = {"str", "Path", "pathlib", "int", "float", "bool", "None", "Optional", "typing", "list", "tuple", "Sequence"}
TRUSTED = ("actbench", "torch.nn", "torch.optim", "torchvision")

# The Trainer's settings that change what is trained or scored, with the defaults. Devices, loggers and folders are not
# among them.
TRAINER_SETTINGS = {
    "max_epochs": None,
    "min_epochs": 0,
    "max_steps": -1,
    "min_steps": None,
    "precision": "32-true",
    "accumulate_grad_batches": 1,
    "gradient_clip_val": None,
    "gradient_clip_algorithm": None,
    "check_val_every_n_epoch": 1,
    "val_check_interval": 1.0,
    "limit_train_batches": 1.0,
    "limit_val_batches": 1.0,
    "limit_test_batches": 1.0,
    "limit_predict_batches": 1.0,
}


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, of another program, or asks for code that is not trusted."""


def describe_data(datamodule: LightningDataModule | None) -> dict[str, Any] | None:
    """Class path and arguments of a DataModule in plain values, without absolute paths; ``local`` names those left out.

    The arguments are those of its config, or, without one, those that it recorded with ``save_hyperparameters``.
    """
    if datamodule is None:
        return None
    described = vars(datamodule).get("description")
    if described is None:
        recorded = {name: value for name, value in datamodule.hparams.items() if is_plain(value)}
        cls = type(getattr(datamodule, "inner", datamodule))
        described = written({"class_path": public_path(cls), "init_args": recorded})
    return {"init_args": {}, **passed_on(described)}


def passed_on(described: Mapping[str, Any]) -> dict[str, Any]:
    """A DataModule's description without what no checkpoint may say: paths that lead elsewhere, and downloads."""
    local = list(described.get("local", []))
    portable_form: dict[str, Any] = portable({**described}, local)
    return {**portable_form, "local": local} if local else portable_form


def describe_trainer(trainer: Trainer) -> dict[str, Any]:
    """The settings of a Trainer that change what is trained or scored, and are not the defaults."""
    settings = {name: getattr(trainer, name) for name in TRAINER_SETTINGS}
    values = {name: value.value if isinstance(value, Enum) else value for name, value in settings.items()}
    return {name: written(value) for name, value in values.items() if is_plain(value) and not is_default(name, value)}


def is_default(name: str, value: Any) -> bool:
    """Whether a Trainer's setting says nothing. A limit of 1 is one batch, and of 1.0 all of them."""
    default = TRAINER_SETTINGS.get(name)
    return value is None or (value == default and type(value) is type(default))


def portable(value: Any, local: list[str], name: str = "") -> Any:
    """A class with its arguments, without downloads, in which paths are relative to the working directory.

    Arguments with a path that leads out of it are left out, and their dotted names added to ``local``. For a value that
    is no class, such a path is a LookupError.
    """
    if isinstance(value, str):
        if ".." in Path(value).parts or not Path.cwd().joinpath(value).is_relative_to(Path.cwd()):
            raise LookupError(value)
        return str(Path(value).relative_to(Path.cwd())) if Path(value).is_absolute() else value
    if isinstance(value, list):
        return [portable(item, local, name) for item in value]
    if not isinstance(value, dict):
        return value
    if "class_path" not in value:
        return {key: portable(item, local, f"{name}.{key}") for key, item in value.items()}
    arguments = {}
    for argument, item in value.get("init_args", {}).items():
        if argument == "download":
            continue
        try:
            arguments[argument] = portable(item, local, f"{name}.{argument}")
        except LookupError:
            local.append(f"{name}.{argument}".lstrip("."))
    return {**value, "init_args": arguments} if "init_args" in value else value


def replace_folder(state: Any, old: str, new: str) -> Any:
    """A callback's state with the folder ``old`` at the start of each path, in keys too, replaced by ``new``."""
    if isinstance(state, str):
        return new + state.removeprefix(old) if state.startswith(old) else state
    if isinstance(state, dict):
        return {replace_folder(k, old, new): replace_folder(v, old, new) for k, v in state.items()}
    return state


def trusted_names(option: str | None) -> list[str]:
    """Modules whose classes a checkpoint may name: those of ``--trust``, and of ACTBENCH_TRUST."""
    names = f"{option or ''},{os.environ.get('ACTBENCH_TRUST', '')}".split(",")
    return [name.strip() for name in names if name.strip()]


def read_description(path: str | Path, *, trust: Iterable[str] = (), data: str | None = None) -> dict[str, Any]:
    """What a checkpoint says it was made of, after its weights were compared with the network described.

    Nothing is imported before every class path is known to be trusted.

    Args:
        path: The checkpoint's file.
        trust: Packages or modules, besides actbench's and torch's own, that its class paths may name.
        data: Name or class path of the DataModule that will be used. If it is another than the checkpoint's, that one
            is left out, and need not be trusted.

    Raises:
        CheckpointError: The file is missing, no checkpoint of actbench, damaged, would run code, names a class that is
            not trusted, or describes what cannot be built.
    """
    checkpoint = load(path)
    description = checkpoint.get(KEY) if isinstance(checkpoint, dict) else None
    if not isinstance(description, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(f"{path} is a checkpoint of another program: it has no entry '{KEY}'")
    if description.get("schema") != SCHEMA:
        raise CheckpointError(
            f"{path} was written in format {description.get('schema')} by actbench {description.get('version')}; "
            f"actbench {__version__} reads format {SCHEMA}"
        )
    try:
        check_extent(description, DESCRIBED)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is damaged: its entry '{KEY}': {error}") from error
    if not is_description(description):
        raise CheckpointError(f"{path} is damaged: its entry '{KEY}' is not what actbench {__version__} writes")
    if not is_lightnings(checkpoint):
        raise CheckpointError(f"{path} is damaged: its entries are not what pytorch-lightning writes")
    if data and description["data"] and data.split(".")[-1] != description["data"]["class_path"].split(".")[-1]:
        description = {**description, "data": None}
    if description["data"]:
        description = {**description, "data": passed_on(description["data"])}
    check_trust(description, (*TRUSTED, *trust), path)
    check_weights(description["model"], checkpoint["state_dict"], path)
    return description


def check_trust(description: Mapping[str, Any], trusted: Sequence[str], path: str | Path) -> None:
    """Refuse, with a CheckpointError, names outside of the trusted modules and classes of another kind than meant."""
    check_names(map(str, class_paths(description)), trusted, path)
    try:
        found = {class_path: import_object(class_path) for class_path in map(str, class_paths(description))}
        for name in SPEC_NAMES:
            if description["model"][name]:
                SPECS[f"model.{name}"].find(description["model"][name]["class_path"])
        data = description["data"] and found[description["data"]["class_path"]]
        if data and "LightningDataModule" not in [cls.__name__ for cls in data.__mro__]:
            raise ValueError(f"{data.__name__} is no DataModule")
        check_names(names_in_texts(description), trusted, path)
    except CheckpointError:
        raise
    except Exception as error:  # of any kind, in a module that is not ours
        raise CheckpointError(f"{path} describes what cannot be built: {one_line(error)}") from error


def check_names(names: Iterable[str], trusted: Sequence[str], path: str | Path) -> None:
    """Refuse, with a CheckpointError, names outside of the trusted modules."""
    for name in names:
        if not any(f"{name}.".startswith(f"{module}.") for module in trusted):
            module = name.rpartition(".")[0]
            libraries = {"", "torch", "pytorch_lightning", "lightning", *sys.stdlib_module_names}
            advice = "" if module.partition(".")[0] in libraries else f": if you trust it, add --trust {module}"
            raise CheckpointError(
                f"checkpoint {path} names the class {name!r}, which would be imported and run{advice}"
            )


def names_in_texts(value: Any) -> Iterator[str]:
    """Dotted names in texts among the arguments of trusted classes, where the parser may import what a text names.

    Where an argument is annotated as text or numbers, or not at all, texts stay texts. What a class path names
    has to be a class, or there is a TypeError.
    """
    if isinstance(value, Mapping) and isinstance(value.get("class_path"), str):
        parameters = parameters_of(import_object(value["class_path"]))
        for name, given in (value.get("init_args") or {}).items():
            kind = parameters[name].annotation if name in parameters else Any
            words = set(re.findall(r"\w+", "str" if kind is Parameter.empty else formatannotation(kind)))
            if not words <= TEXTUAL or (isinstance(given, str) and given.lstrip().startswith(("{", "["))):
                yield from names_in_texts(given)
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from names_in_texts(item)
    elif isinstance(value, str):
        yield from re.findall(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+", value)


def is_description(value: Mapping[str, Any]) -> bool:
    """Whether every entry has the form that `Classifier` writes; a class path as bare text has not."""
    match value:
        case {
            "version": str(),
            "seed": int(),
            "vary": [*sources],
            "model": {
                "activation": {"class_path": str()},
                "network": {"class_path": str()},
                "optimizer": {"class_path": str()},
                "lr_scheduler": None | {"class_path": str()},
                "replicates": int(),
                "input_shape": [*sizes],
                "num_classes": int(),
            },
            "data": None | {"class_path": str(), "init_args": dict()},
            "trainer": {**settings},
            "active": Tensor(),
            "train_loss": dict(),
            "scores": {**scores},
        }:
            local = (value["data"] or {}).get("local", [])
            return (
                all(source in SOURCES for source in sources)
                and set(settings) <= set(TRAINER_SETTINGS)
                and all(map(fits_json, (settings, value["data"], value["model"])))
                and isinstance(local, list)
                and all(isinstance(name, str) for name in local)
                and all(isinstance(size, int) for size in sizes)
                and all(map(torch.is_tensor, scores.values()))
            )
    return False


def fits_json(value: Any) -> bool:
    """Whether JSON could hold a value. Nothing is imported, unlike by `is_plain`."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def is_lightnings(content: Any) -> bool:
    """Whether the entries that Lightning reads have the form that it writes."""
    match content:
        case {
            "epoch": int(epoch),
            "global_step": int(step),
            "pytorch-lightning_version": str(version),
            "loops": dict(),
            "state_dict": Mapping(),
        } if epoch >= 0 and step >= 0:
            states = content.get("callbacks", {})
            named = isinstance(states, dict) and all(isinstance(state, dict) for state in states.values())
            return named and re.fullmatch(r"\d+(\.\w+)+", version) is not None
    return False


def same_form(one: Any, other: Any) -> bool:
    """Whether two values are built alike: tensors of one shape and kind, mappings of the same keys, or one type."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        floats = one.is_floating_point() and other.is_floating_point()
        return one.shape == other.shape and (floats or one.dtype == other.dtype)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_form(value, other[name]) for name, value in one.items())
    return type(one) is type(other)


def check_state(state: Any, like: Any, what: str) -> None:
    """Refuse restored state that is not built like what is expected: nothing would go on from it.

    Raises:
        CheckpointError: The two differ in form.
    """
    if not same_form(state, like):
        raise CheckpointError(f"the checkpoint is damaged: its {what} are not those of this network and its replicates")


def load(path: str | Path) -> Any:
    """Contents of a file written by `torch.save`, tensors on the CPU. Runs no code from the file.

    Raises:
        CheckpointError: The file is missing, damaged, or holds more than plain values and tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} is {'a folder' if path.is_dir() else 'not there'}; give a .ckpt file")
    if not path.stat().st_size:
        raise CheckpointError(f"checkpoint {path} is empty")
    check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        check_extent(content, VALUES)
        return content
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)|[Uu]nsupported (?:global|class) (\S+)", str(error))
        if code:
            name = code[1] or code[2]
            raise CheckpointError(f"checkpoint {path} is refused: loading it would run code ({name})") from error
        raise CheckpointError(f"{path} is damaged or no checkpoint") from error
    except Exception as error:  # torch raises errors of many kinds for damaged files
        raise CheckpointError(f"{path} is damaged or no checkpoint: {one_line(error)[:200]}") from error


def check_weights(model: Mapping[str, Any], state: Any, path: str | Path) -> None:
    """Refuse weights that are not those of the network described, before memory is taken for the network.

    What is described is imported and built, without values, so it has to be trusted.
    """
    tensors = isinstance(state, Mapping) and all(isinstance(value, Tensor) for value in state.values())
    weights = {name: of for name, of in state.items() if str(name).startswith(WEIGHTS)} if tensors else {}
    if not weights or any(not of.ndim or len(of) != model["replicates"] for of in weights.values()):
        raise CheckpointError(f"{path} is damaged: it has no weights of {model['replicates']:,} replicates")
    try:
        with torch.device("meta"):
            activation, network = ActivationSpec(model["activation"]), NetworkSpec(model["network"])
            shape = tuple(model["input_shape"])
            built = network(activation=activation, input_shape=shape, num_classes=model["num_classes"])
    except Exception as error:  # of any kind, in what is not ours
        if "meta" in str(error):  # it computes with values while it is built, which are not there
            return
        raise CheckpointError(f"{path} describes what cannot be built: {one_line(error)}") from error
    expected = {f"{WEIGHTS}{name}": tuple(value.shape) for name, value in built.state_dict().items()}
    if expected != {name: tuple(of.shape[1:]) for name, of in weights.items()}:
        raise CheckpointError(f"{path} is damaged: its weights are not those of the network that it describes")


def check_archive(path: Path) -> None:
    """Refuse an archive that is larger inside than out, which would fill the memory: torch packs nothing."""
    try:
        with ZipFile(path) as archive:
            packed = [entry.filename for entry in archive.infolist() if entry.compress_type != ZIP_STORED]
    except BadZipFile as error:
        if is_zipfile(path):
            raise CheckpointError(f"{path} is damaged or no checkpoint: {one_line(error)}") from error
        return  # of torch's older format, or damaged: torch will say
    except Exception as error:  # zipfile raises errors of many kinds
        raise CheckpointError(f"{path} is damaged or no checkpoint: {one_line(error)}") from error
    if packed:
        raise CheckpointError(f"{path} is damaged or no checkpoint: its entry {packed[0]} is packed")


def check_extent(content: Any, most: int) -> None:
    """Refuse plain values that are too many or too deep to be gone through: parts may be shared or hold themselves."""
    waiting, count = [(content, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if count > most or depth > DEPTH:
            raise CheckpointError(f"it holds more than {most:,} values, or some more than {DEPTH} deep")
        if isinstance(value, Tensor):
            plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
            if not plain or value.untyped_storage().nbytes() < value.numel() * value.itemsize:
                raise CheckpointError("it holds a tensor that is larger than its values")
        elif isinstance(value, Mapping):
            waiting += [(item, depth + 1) for pair in value.items() for item in pair]
        elif isinstance(value, list | tuple | set | frozenset):
            waiting += [(item, depth + 1) for item in value]
