"""Checkpoints read so that nothing in them runs, and nothing in them takes all memory or time."""

import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickletools import genops
from typing import IO, Any
from zipfile import ZIP_STORED, ZipFile

import torch
from torch import Tensor

from actbench import __version__
from actbench.specs import ActivationSpec, NetworkSpec, one_line
from actbench.training.checkpoints.description import passed_on
from actbench.training.checkpoints.form import CheckpointError, is_description, is_lightnings
from actbench.training.checkpoints.trust import TRUSTED, check_trust

KEY = "actbench"
SCHEMA = 3
WEIGHTS = "stack.network."  # how names of weights begin
VALUES, DEPTH = 1_000_000, 100  # of a checkpoint's content, in which each epoch has some
DESCRIBED = 10_000  # values of what it was made of
REFUSED = {"builtins bytearray": "a bytearray", "torch._utils _rebuild_sparse_tensor": "a sparse tensor"}
PLAIN = ("torch", "collections", "_codecs", "builtins", "__builtin__")  # whose names torch checks itself
STEPS = 3_000_000  # of unpickling
LARGE = 1000  # numbers above 2^61
BYTES = 2**28  # that may be made from texts


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


def load_checkpoint(path: str | Path) -> Any:
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
    if (
        len(weights) < len(state)
        or not weights
        or any(not of.ndim or len(of) != model["replicates"] for of in weights.values())
    ):
        raise CheckpointError(f"{path} is damaged: it has no weights of {model['replicates']:,} replicates")
    try:
        with torch.device("meta"):
            activation = ActivationSpec(without_devices(model["activation"]))
            network = NetworkSpec(without_devices(model["network"]))
            shape = tuple(model["input_shape"])
            built = network(activation=activation, input_shape=shape, num_classes=model["num_classes"])
    except Exception as error:  # of any kind, in what is not ours
        if "meta" in str(error):  # it computes with values while it is built, which are not there
            return
        raise CheckpointError(f"{path} describes what cannot be built: {one_line(error)}") from error
    expected = {f"{WEIGHTS}{name}": tuple(value.shape) for name, value in built.state_dict().items()}
    if expected != {name: tuple(of.shape[1:]) for name, of in weights.items()}:
        raise CheckpointError(f"{path} is damaged: its weights are not those of the network that it describes")


def without_devices(value: Any) -> Any:
    """Plain values without the arguments that say on which device something is built."""
    if isinstance(value, Mapping):
        return {name: without_devices(item) for name, item in value.items() if name != "device"}
    return [without_devices(item) for item in value] if isinstance(value, list) else value


def check_archive(path: Path) -> None:
    """Refuse a file whose values would take more time or memory to unpickle than they are worth.

    Torch and Python have to find the same entries in an archive. So it begins with the first of them, and two do not
    differ in case alone.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) != b"PK\3\4":  # of torch's older format, which is five pickles and then the tensors
                file.seek(0)
                names = [name for _ in range(5) for name in check_pickle(file)]
                code = next((name for name in names if name.partition(".")[0] not in PLAIN), None)
                why = (
                    f"loading it would run code ({code})"
                    if code
                    else "it is of torch's older format, which no run writes"
                )
                raise CheckpointError(why)
        with ZipFile(path) as archive:
            entries = archive.infolist()
            packed = [entry.filename for entry in entries if entry.compress_type != ZIP_STORED]
            if packed:  # what is larger inside than out would fill the memory
                raise CheckpointError(f"its entry {packed[0]} is packed, and torch packs nothing")
            names = [entry.filename.lower() for entry in entries]
            if len({*names}) < len(names) or min(entry.header_offset for entry in entries):
                raise CheckpointError("its archive can be read in two ways")
            for entry in entries:
                if entry.filename.lower().endswith("data.pkl"):
                    with archive.open(entry) as file:
                        check_pickle(file)
    except Exception as error:  # zipfile and pickletools raise errors of many kinds
        raise CheckpointError(f"{path} is damaged or no checkpoint: {one_line(error)[:200]}") from error


def check_pickle(file: IO[bytes]) -> list[str]:
    """Refuse a pickle that is too long, or that grows while it is read; returns what it names, functions and classes.

    Bytes that are made from texts and bytearrays of any size may take much more memory than the file. Keys above 2^61
    can be chosen so that all of them collide.
    """
    made, longest, large = 0, 0, 0
    texts, names = [""], list[str]()
    for number, (code, argument, _) in enumerate(genops(file)):
        if code.name == "GLOBAL" and argument in REFUSED:
            raise CheckpointError(f"it holds {REFUSED[argument]}, which no checkpoint of actbench does")
        if code.name == "GLOBAL":
            names.append(str(argument).replace(" ", "."))
        elif code.name == "STACK_GLOBAL":
            names.append(".".join(texts[-2:]))
        elif isinstance(argument, str):
            texts.append(argument)
        made += code.name == "REDUCE"
        longest = max(longest, len(argument) if isinstance(argument, str | bytes) else 0)
        large += isinstance(argument, int) and abs(argument) >= 2**61
        if number > STEPS or large > LARGE or made * longest > BYTES:
            raise CheckpointError("it takes too long to unpickle, or grows meanwhile")
    return names


def check_extent(content: Any, most: int) -> None:
    """Refuse plain values that are too many or too deep to be gone through: parts may be shared or hold themselves."""
    waiting, count = [(content, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if count > most or depth > DEPTH:
            raise CheckpointError(f"it holds more than {most:,} values, or some more than {DEPTH} deep")
        if isinstance(value, str | int | float):  # most of them, and what is asked below takes longer
            continue
        if isinstance(value, Tensor):
            plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
            if not plain or value.untyped_storage().nbytes() < value.numel() * value.itemsize:
                raise CheckpointError("it holds a tensor that is larger than its values")
        elif isinstance(value, dict):
            waiting += [(item, depth + 1) for pair in value.items() for item in pair]
        elif isinstance(value, list | tuple | set | frozenset):
            waiting += [(item, depth + 1) for item in value]
