"""Transfer learning: networks that start from the weights in a file."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import file_digest
from pathlib import Path
from typing import Any, NamedTuple

from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from actbench.networks import compared_modules, network_name
from actbench.seeding import source_seed
from actbench.specs import one_line
from actbench.training import checkpoints

WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which files hold a state dict
WORDS = {"module", "model", "network"}  # which wrappers of a network put before its names
WRAPPED = re.compile(rf"^((?:{'|'.join(sorted(WORDS))})\.)+")
SHOWN_NAMES, LONGEST_NAME = 3, 200
LEAST = 0.5  # fraction of a network's parameters that a file must have
ALONE = "if you trust the file, load it without weights_only and save its state_dict() alone"


class Start(NamedTuple):
    """Where the initial weights of a classifier come from."""

    digest: str | None = None
    """Of the file's content, ``sha256:...``; None if all weights were drawn."""
    loaded: bool = True
    """False if only the digest was given, so that a checkpoint has to bring the weights."""
    report: Sequence[str] = ()
    """What was loaded and what was not, a line for each kind; `load_weights` logs them."""


class Source(NamedTuple):
    """The weights in a file."""

    state: Mapping[str, Tensor]
    seeds: range | None = None  # of replicates, for which each tensor has a leading axis
    activation: str | None = None  # class path, if it is known

    def state_of(self, seed: int, path: str | Path) -> Mapping[str, Tensor]:
        """The state dict for a seed; a ValueError if the file has none."""
        if self.seeds is None:
            return self.state
        if seed not in self.seeds and len(self.seeds) > 1:
            first, last = self.seeds[0], self.seeds[-1]
            raise ValueError(f"{path} holds weights of the seeds {first} to {last}, and none of seed {seed}")
        index = seed - self.seeds[0] if len(self.seeds) > 1 else 0
        return {name: value[index] for name, value in self.state.items()}


def weights_digest(path: str | Path) -> str:
    """The digest of a file of weights, ``sha256:`` and 64 digits.

    Raises:
        ValueError: The file was not found, or is a digest itself.
    """
    if str(path).startswith(checkpoints.DIGEST):
        raise ValueError(f"model.weights: {path} is the digest of a file, from a checkpoint: give the file")
    if not Path(path).is_file():
        raise ValueError(f"model.weights: {path} {'is a folder' if Path(path).is_dir() else 'was not found'}")
    with Path(path).open("rb") as file:
        return f"{checkpoints.DIGEST}{file_digest(file, 'sha256').hexdigest()}"


def digest_beside(path: str | None, saved: str | None) -> str | None:
    """The digest of a file of weights that is named beside a checkpoint, which has the digest ``saved``.

    The file may be gone, because the checkpoint holds what was loaded from it.
    """
    if path is None or not Path(path).is_file():
        gone = path is not None and not path.startswith(checkpoints.DIGEST)
        return saved if gone and saved else path
    return weights_digest(path)


def load_weights(
    networks: Sequence[nn.Module], seeds: Sequence[int], path: str | Path | None, *, activation: str, num_classes: int
) -> Start:
    """Load a file's weights into networks that differ in their values alone.

    A file may hold a state dict, alone or in a training checkpoint, or be a
    checkpoint of actbench. A checkpoint of several replicates gives each seed the
    weights of the same seed; any other file gives all networks the same weights.
    Where the names in the file have a prefix, such as ``module.``, it is removed. A
    file may also hold a part of the network, such as its backbone.

    What a file lacks, a head for another number of classes, and parameters of
    the activation with another shape, stay as they were drawn. If the file is a
    checkpoint of another activation, all parameters of the activation do.

    Args:
        networks: One network for each seed, changed in place.
        seeds: The seeds.
        path: The file, or a digest, with which nothing is loaded; see `Start`.
        activation: Class path of the networks' activation.
        num_classes: Number of classes of the networks.

    Raises:
        ValueError: The file was not found, is damaged, would run code, lacks a seed, holds NaN, or holds the weights of
            another network.
    """
    if path is None:
        return Start()
    if str(path).startswith(checkpoints.DIGEST):
        return Start(str(path), loaded=False)
    digest, source = weights_digest(path), read_weights(path)
    report: list[str] = []
    for network, seed in zip(networks, seeds, strict=True):
        state = source.state_of(source_seed(seed, "init"), path)
        own = source.activation in (None, activation)
        report = load_state(network, state, path, load_activation=own, num_classes=num_classes)
    for line in report:
        rank_zero_info(line)
    return Start(digest, report=report)


# --- the file ---


def read_weights(path: str | Path) -> Source:
    """The weights in a file; a CheckpointError says why it holds none, or why it is not read."""
    if Path(path).suffix == ".safetensors":
        raise ValueError(f"{path} is not a file of torch.save: load it with safetensors, and save the state dict")
    try:
        content = checkpoints.load_checkpoint(path, older=True)
    except checkpoints.CheckpointError as error:
        hint = f"; {ALONE}" if "would run code" in str(error) else ""
        raise checkpoints.CheckpointError(f"{error}{hint}") from error
    description = content.get(checkpoints.KEY) if isinstance(content, Mapping) else None
    if description is not None:
        return of_checkpoint(content.get("state_dict"), description, path)
    while isinstance(content, Mapping):
        inner = next((content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise checkpoints.CheckpointError(f"{path} holds no state dict, alone or under {', '.join(WRAPPERS)}")
    # torch.compile adds a prefix, which may stand anywhere in a name.
    return Source({name.replace("_orig_mod.", ""): value for name, value in tensors(content).items()})


def of_checkpoint(state: Any, description: Any, path: str | Path) -> Source:
    """The weights of a checkpoint of actbench, whose class paths are not imported."""
    if not isinstance(description, Mapping) or not checkpoints.is_description(description):
        raise checkpoints.CheckpointError(f"{path} is damaged: its entry '{checkpoints.KEY}' is not what a run writes")
    replicates, first = description["model"]["replicates"], description["seed"]
    stacked = tensors(state) if isinstance(state, Mapping) else {}
    stacked = {name.removeprefix(checkpoints.WEIGHTS): value for name, value in stacked.items()}
    if not stacked or any(not value.ndim or len(value) != replicates for value in stacked.values()):
        raise checkpoints.CheckpointError(f"{path} is damaged: it has no weights of {replicates:,} replicates")
    return Source(stacked, range(first, first + replicates), description["model"]["activation"]["class_path"])


def tensors(state: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict by name."""
    return {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}


def common_prefix(names: Iterable[str], wanted: Collection[str], path: str | Path) -> str:
    """The prefix without which most names are wanted; "" if none is.

    A ValueError names the prefixes between which the file leaves the choice open.
    """
    counts, longest = Counter[str](), max(map(len, wanted), default=0)
    for name in names:
        starts = [0, *(index + 1 for index, letter in enumerate(name) if letter == ".")]
        short = [start for start in starts if len(name) - start <= longest]  # a stranger's name may have any length
        counts.update(name[:start] for start in short if name[start:] in wanted)
    most = max(counts.values(), default=0)
    best = [prefix for prefix, count in counts.items() if count == most]
    usual = [prefix for prefix in best if set(prefix.split(".")[:-1]) <= WORDS]
    if "" in best or not best:
        return ""
    if len(best) > 1 and len(usual) != 1:
        raise ValueError(
            f"{path}: names match without each of the prefixes {first_names(sorted(best))}: "
            "save the state dict of one network"
        )
    return (usual if len(best) > 1 else best)[0]


# --- the network ---


def load_state(
    network: nn.Module, state: Mapping[str, Tensor], path: str | Path, *, load_activation: bool, num_classes: int
) -> list[str]:
    """Load a state dict into a network, and say in a line for each kind what was loaded and what was not."""
    wanted = tensors(network.state_dict(keep_vars=True))
    prefix = common_prefix(state, wanted, path)
    renamed = {name: name.removeprefix(prefix) for name in state if name.startswith(prefix)}
    part = ""
    if not wanted.keys() & {*renamed.values()}:
        bare = {name: WRAPPED.sub("", name) for name in state}
        renamed = bare if len({*bare.values()}) == len(bare) else renamed
        part = common_prefix(wanted, {*renamed.values()}, path)
    given = {part + new: state[name] for name, new in renamed.items()}
    compared = {id(v) for module in compared_modules(network) for v in (*module.parameters(), *module.buffers())}
    activation = {name for name, value in wanted.items() if id(value) in compared}
    head, drawn, loaded = list[str](), list[str](), dict[str, Tensor]()
    misfits = list[str]()
    for name in (name for name in wanted if name in given):
        value, shape = given[name], None if is_lazy(wanted[name]) else wanted[name].shape
        if name in activation and (value.shape != shape or not load_activation):
            drawn.append(name)
        elif shape in (None, value.shape):
            loaded[name] = value
        elif shape[:1] == (num_classes,) and value.ndim and value.shape[1:] == shape[1:]:
            head.append(name)
        else:
            misfits.append(f"{name} has the shape {tuple(value.shape)} there and {tuple(shape)} in the network")
    if misfits:
        raise ValueError(f"{path} holds weights of another network than {network_name(network)}: {misfits[0]}")
    check_found(network, path, [*loaded, *head], given, activation)
    check_values(loaded, wanted, path)
    try:
        network.load_state_dict(loaded, strict=False)
    except Exception as error:  # users' modules may load their values themselves
        raise ValueError(f"{path} cannot be loaded into {network_name(network)}: {one_line(error)}") from error
    missing = [name for name in wanted if name not in given and name not in activation]
    drawn += [name for name in activation if name not in given]
    unused = [name for name in state if part + renamed.get(name, name) not in wanted or name not in renamed]
    removed = f", without the prefix {first_names([prefix])}" if prefix else ""
    kinds = {
        f"loaded{removed}{f', into {part}' if part else ''}": [*loaded],
        f"not loaded, because the head is for {num_classes} classes": head,
        "not loaded, because they belong to the activation": sorted(drawn),
        "missing in the file": missing,
        "unused in the file": unused,
    }
    return [f"{path}: {kind}: {len(names)} ({first_names(names)})" for kind, names in kinds.items() if names]


def check_found(
    network: nn.Module, path: str | Path, found: Sequence[str], given: Iterable[str], activation: set[str]
) -> None:
    """Raise a ValueError if a file has too few of a network's parameters to be meant for it."""
    parameters = [name for name, _ in network.named_parameters() if name not in activation]
    there = [name for name in parameters if name in found]
    if len(there) < LEAST * len(parameters):
        lacking = [name for name in parameters if name not in found]
        raise ValueError(
            f"{path} holds weights of another network than {network_name(network)}: {len(there)} of "
            f"{len(parameters)} parameters fit; {first_names(lacking)} do not, and the file has {first_names([*given])}"
        )


def check_values(loaded: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise a ValueError for a value of another kind than the network's, and for NaN."""
    for name, value in loaded.items():
        kinds = [(tensor.is_floating_point(), tensor.is_complex()) for tensor in (value, wanted[name])]
        if kinds[0] != kinds[1]:
            raise ValueError(f"{path}: {name} is of type {value.dtype}, and in the network of {wanted[name].dtype}")
        if value.isnan().any():
            raise ValueError(f"{path}: {name} holds NaN, as the weights of a training that diverged do")


def first_names(names: Sequence[str]) -> str:
    """The first few names, as far as they can be printed, and an ellipsis for others."""
    shown = ["".join(filter(str.isprintable, name[:LONGEST_NAME])) for name in names[:SHOWN_NAMES]]
    return ", ".join(shown) + (", ..." if len(names) > SHOWN_NAMES else "")
