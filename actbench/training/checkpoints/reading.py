"""Reading of checkpoints that neither runs code from them nor takes unbounded memory or time."""

import pickle
import re
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from pickletools import genops
from typing import IO, Any
from zipfile import ZIP_STORED, ZipFile

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from actbench import __version__
from actbench.specs import ActivationSpec, NetworkSpec, one_line
from actbench.training.checkpoints.description import SCHEMA, passed_on
from actbench.training.checkpoints.form import CheckpointError, has_lightning_form, is_description
from actbench.training.checkpoints.trust import TRUSTED, check_trust

KEY = "actbench"
WEIGHTS = "engine.network."  # prefix of the names of weights
MAX_VALUES, MAX_DEPTH = 1_000_000, 100  # of a checkpoint's content, which grows with each epoch
MAX_DESCRIPTION = 10_000  # values
REFUSED = {"builtins bytearray": "a bytearray", "torch._utils _rebuild_sparse_tensor": "a sparse tensor"}
PLAIN = ("torch", "collections", "_codecs", "builtins", "__builtin__")  # modules whose names torch itself checks
MAX_STEPS = 3_000_000  # of unpickling
MAX_LARGE = 1000  # numbers above 2^61
MAX_BYTES = 2**28  # made from texts


def read_checkpoint(
    path: str | Path, *, trust: Iterable[str] = (), data: str | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A checkpoint's description and its whole content, after a check that the weights belong to the described network.

    Nothing is imported before every class path has proved to be trusted.

    Args:
        path: File of the checkpoint.
        trust: Packages or modules, besides actbench and torch, that class paths may name.
        data: Name or class path of the DataModule that will be used. If it differs from the checkpoint's, the latter
            is left out and need not be trusted.

    Raises:
        CheckpointError: The file is missing, damaged, not a checkpoint of actbench, would run code, names a class that
            is not trusted, or describes a network that cannot be built.
    """
    checkpoint = load_checkpoint(path)
    description = checkpoint.get(KEY) if isinstance(checkpoint, dict) else None
    if not isinstance(description, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(f"{path} is a checkpoint of another program: it has no entry '{KEY}'")
    if description.get("schema") != SCHEMA:
        raise CheckpointError(
            f"{path} was written in format {description.get('schema')} by actbench {description.get('version')}; "
            f"actbench {__version__} reads format {SCHEMA}"
        )
    try:
        check_extent(description, MAX_DESCRIPTION)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is damaged: its entry '{KEY}': {error}") from error
    if not is_description(description):
        raise CheckpointError(f"{path} is damaged: its entry '{KEY}' is not what actbench {__version__} writes")
    if not has_lightning_form(checkpoint):
        raise CheckpointError(f"{path} is damaged: its entries are not what pytorch-lightning writes")
    if data and description["data"] and data.split(".")[-1] != description["data"]["class_path"].split(".")[-1]:
        description = {**description, "data": None}
    if description["data"]:
        description = {**description, "data": passed_on(description["data"])}
    check_trust(description, (*TRUSTED, *trust), path)
    check_weights(description["model"], checkpoint["state_dict"], path)
    return description, checkpoint


def load_checkpoint(path: str | Path, *, older: bool = False) -> Any:
    """Contents of a file written by `torch.save`, tensors on the CPU. Runs no code from the file.

    Args:
        path: The file.
        older: Whether the file may be in torch's format of before version 1.6, as some published weights are.

    Raises:
        CheckpointError: The file is missing, damaged, or holds more than plain values and tensors.
    """
    path = Path(path)
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "was not found"
        raise CheckpointError(f"checkpoint {path} {problem}; give a .ckpt file")
    if not path.stat().st_size:
        raise CheckpointError(f"checkpoint {path} is empty")
    check_archive(path, older=older)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        check_extent(content, MAX_VALUES)
        return content
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)|[Uu]nsupported (?:global|class) (\S+)", str(error))
        if code:
            name = code[1] or code[2]
            raise CheckpointError(f"checkpoint {path} is refused: loading it would run code ({name})") from error
        raise CheckpointError(f"{path} is damaged or not a checkpoint") from error
    except Exception as error:  # torch raises errors of many kinds for damaged files
        raise CheckpointError(f"{path} is damaged or not a checkpoint: {one_line(error)[:200]}") from error


def check_weights(model: Mapping[str, Any], state: Any, path: str | Path) -> None:
    """Raise CheckpointError unless the weights fit the described network, before memory is taken for it.

    The network is imported and built without values, so its class paths must be trusted.
    """
    tensors = isinstance(state, Mapping) and all(isinstance(value, Tensor) for value in state.values())
    weights = {name: value for name, value in state.items() if str(name).startswith(WEIGHTS)} if tensors else {}
    misfits = any(not value.ndim or len(value) != model["replicates"] for value in weights.values())
    if not weights or len(weights) < len(state) or misfits:
        raise CheckpointError(f"{path} is damaged: it has no weights of {model['replicates']:,} replicates")
    try:
        with torch.device("meta"):
            activation = ActivationSpec(without_devices(model["activation"]))
            network = NetworkSpec(without_devices(model["network"]))
            shape = tuple(model["input_shape"])
            built = network(activation=activation, input_shape=shape, num_classes=model["num_classes"])
    except Exception as error:  # users' classes raise errors of any kind
        if "meta" in str(error):  # its constructor computes with values, which the meta device lacks
            return
        raise CheckpointError(f"{path} describes what cannot be built: {one_line(error)}") from error
    if any(map(is_lazy, (*built.parameters(), *built.buffers()))):
        return
    prefix = f"{WEIGHTS}network." if network.foreign else WEIGHTS  # an activation that is swapped in stands beside it
    expected = {f"{prefix}{name}": tuple(value.shape) for name, value in built.state_dict().items()}
    if network.foreign:
        numbers = {name.split(".")[3] for name in weights if name.startswith(f"{WEIGHTS}activations.")}
        each = {name: tuple(value.shape) for name, value in activation().state_dict().items()}
        expected |= {f"{WEIGHTS}activations.{number}.{name}": each[name] for number in numbers for name in each}
    if expected != {name: tuple(value.shape[1:]) for name, value in weights.items()}:
        raise CheckpointError(f"{path} is damaged: its weights do not belong to the network that it describes")


def without_devices(value: Any) -> Any:
    """Plain values without ``device`` arguments."""
    if isinstance(value, Mapping):
        return {name: without_devices(item) for name, item in value.items() if name != "device"}
    return [without_devices(item) for item in value] if isinstance(value, list) else value


def check_archive(path: Path, *, older: bool = False) -> None:
    """Raise CheckpointError for a file that would take too much time or memory to unpickle.

    Torch and Python must find the same entries in an archive, so it must begin with its first entry, and no two names
    may differ only in case.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) != b"PK\3\4":  # torch's older format: five pickles, then the tensors
                file.seek(0)
                names = [name for _ in range(5) for name in check_pickle(file)]
                code = next((name for name in names if name.partition(".")[0] not in PLAIN), None)
                if older and code is None:
                    return
                reason = "it is in torch's older format, which no run writes"
                raise CheckpointError(f"loading it would run code ({code})" if code else reason)
        with ZipFile(path) as archive:
            entries = archive.infolist()
            packed = [entry.filename for entry in entries if entry.compress_type != ZIP_STORED]
            if packed:  # an entry could fill the memory when unpacked
                raise CheckpointError(f"its entry {packed[0]} is packed, and torch packs nothing")
            names = [entry.filename.lower() for entry in entries]
            if len({*names}) < len(names) or min(entry.header_offset for entry in entries):
                raise CheckpointError("its archive can be read in two ways")
            for entry in entries:
                if entry.filename.lower().endswith("data.pkl"):
                    if entry.file_size > MAX_BYTES:
                        raise CheckpointError("what it would unpickle is too long")
                    check_pickle(BytesIO(archive.read(entry)))  # in memory, where single bytes are read quickly
    except Exception as error:  # zipfile and pickletools raise errors of many kinds
        raise CheckpointError(f"{path} is damaged or not a checkpoint: {one_line(error)[:200]}") from error


def check_pickle(file: IO[bytes]) -> list[str]:
    """Names of functions and classes in a pickle; CheckpointError if it is too long, or grows while it is read.

    Bytes made from texts, and bytearrays, may take much more memory than the file. Keys above 2^61 can be chosen so
    that all of them collide.
    """
    calls, longest, large = 0, 0, 0
    texts, names = [""], list[str]()
    for step, (code, argument, _) in enumerate(genops(file)):
        if argument is None and step <= MAX_STEPS and code.name not in ("REDUCE", "STACK_GLOBAL"):
            continue  # quickly, for there may be millions
        if code.name == "GLOBAL" and argument in REFUSED:
            raise CheckpointError(f"it holds {REFUSED[argument]}, which no checkpoint of actbench does")
        if code.name == "GLOBAL":
            names.append(str(argument).replace(" ", "."))
        elif code.name == "STACK_GLOBAL":
            names.append(".".join(texts[-2:]))
        elif isinstance(argument, str):
            texts.append(argument)
        calls += code.name == "REDUCE"
        longest = max(longest, len(argument) if isinstance(argument, str | bytes) else 0)
        large += isinstance(argument, int) and abs(argument) >= 2**61
        if step > MAX_STEPS or large > MAX_LARGE or calls * longest > MAX_BYTES:
            raise CheckpointError("it takes too long to unpickle, or grows meanwhile")
    return names


def check_extent(content: Any, limit: int) -> None:
    """Raise CheckpointError for too many or too deep plain values, which may be shared or contain themselves."""
    waiting, count = [(content, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if count > limit or depth > MAX_DEPTH:
            raise CheckpointError(f"it holds more than {limit:,} values, or some more than {MAX_DEPTH} deep")
        if isinstance(value, str | int | float):  # most values, which need no slower check
            continue
        if isinstance(value, Tensor):
            plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
            if not plain or value.untyped_storage().nbytes() < value.numel() * value.itemsize:
                raise CheckpointError("it holds a tensor that is larger than its values")
        elif isinstance(value, dict):
            waiting += [(item, depth + 1) for pair in value.items() for item in pair]
        elif isinstance(value, list | tuple | set | frozenset):
            waiting += [(item, depth + 1) for item in value]
