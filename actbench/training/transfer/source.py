"""The weights in a file, which is not trusted."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn.modules.module import _EXTRA_STATE_KEY_SUFFIX

from actbench.training import checkpoints

WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which files hold a state dict
OWN_MODULE = re.compile(r"engine\.network(s\.0)?\.")  # before the path of a module, in our checkpoints
ALONE = "if you trust the file, load it without weights_only and save its state_dict() alone"
SHOWN_NAMES, LONGEST_NAME = 3, 200


class Source(NamedTuple):
    """The weights in a file."""

    state: Mapping[str, Any]
    """Tensors, and what modules save as their extra state."""
    versions: Mapping[str, Any]
    """What the file says of the versions of modules, by their paths with a dot at the end."""
    seeds: range | None = None  # of replicates, for which each tensor has a leading axis
    activation: str | None = None  # class path, if it is known
    report: Sequence[str] = ()  # what else the file holds, in lines

    def state_of(self, seed: int, path: str | Path) -> Mapping[str, Any]:
        """The state dict for a seed; a ValueError if the file has none."""
        if self.seeds is None:
            return self.state
        if seed not in self.seeds and len(self.seeds) > 1:
            first, last = self.seeds[0], self.seeds[-1]
            raise ValueError(f"{path} holds weights of the seeds {first} to {last}, and none of seed {seed}")
        index = seed - self.seeds[0] if len(self.seeds) > 1 else 0
        return {name: value[index] for name, value in self.state.items()}


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
    report = list[str]()
    while isinstance(content, Mapping) and (inner := wrapped_states(content)):
        name, *others = sorted(inner, key=lambda each: WRAPPERS.index(each) if each in WRAPPERS else len(WRAPPERS))
        listed = first_names([*map(str, others)])
        if others and name not in WRAPPERS:
            names = f"{first_names([str(name)])}, {listed}"
            raise checkpoints.CheckpointError(f"{path} holds several state dicts, under {names}: save one alone")
        if others:
            report.append(f"{path}: not used, because the file has {name}: {len(others)} ({listed})")
        content = inner[name]
    if not isinstance(content, Mapping) or not tensors(content):
        raise checkpoints.CheckpointError(f"{path} holds no state dict, alone or under {', '.join(WRAPPERS)}")
    extra = {name: value for name, value in content.items() if is_extra_state(name)}
    # torch.compile adds a prefix, which may stand anywhere in a name.
    return Source(
        {name.replace("_orig_mod.", ""): value for name, value in (tensors(content) | extra).items()},
        {path.replace("_orig_mod.", ""): value for path, value in versions(content).items()},
        report=report,
    )


def wrapped_states(content: Mapping[Any, Any]) -> dict[Any, Any]:
    """The mappings in a file's content that have tensors, or a usual key of a state dict."""
    mappings = {name: value for name, value in content.items() if isinstance(value, Mapping)}
    return {
        name: value
        for name, value in mappings.items()
        if name in WRAPPERS or (tensors(value) and not is_extra_state(name))
    }


def is_extra_state(name: object) -> bool:
    """Whether a name in a state dict is that of a module's extra state, which may be any value."""
    return isinstance(name, str) and name.endswith(_EXTRA_STATE_KEY_SUFFIX)


def versions(state: Any) -> dict[str, Any]:
    """What torch notes in a state dict of the versions of modules, by their paths with a dot at the end."""
    metadata = getattr(state, "_metadata", None)
    items = dict.items(metadata) if isinstance(metadata, dict) else ()
    return {f"{path}." if path else "": value for path, value in items if isinstance(value, dict)}


def of_checkpoint(state: Any, description: Any, path: str | Path) -> Source:
    """The weights of a checkpoint of actbench, whose class paths are not imported."""
    if not isinstance(description, Mapping) or not checkpoints.is_description(description):
        raise checkpoints.CheckpointError(f"{path} is damaged: its entry '{checkpoints.KEY}' is not what a run writes")
    replicates, first = description["model"]["replicates"], description["seed"]
    stacked = tensors(state) if isinstance(state, Mapping) else {}
    stacked = {name.removeprefix(checkpoints.WEIGHTS): value for name, value in stacked.items()}
    if not stacked or any(not value.ndim or len(value) != replicates for value in stacked.values()):
        raise checkpoints.CheckpointError(f"{path} is damaged: it has no weights of {replicates:,} replicates")
    return Source(
        stacked,
        {OWN_MODULE.sub("", name, 1): value for name, value in versions(state).items() if OWN_MODULE.match(name)},
        range(first, first + replicates),
        description["model"]["activation"]["class_path"],
    )


def tensors(state: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict by name."""
    return {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}


def first_names(names: Sequence[str]) -> str:
    """The first few names, as far as they can be printed, and an ellipsis for others."""
    shown = ["".join(filter(str.isprintable, name[:LONGEST_NAME])) for name in names[:SHOWN_NAMES]]
    return ", ".join(shown) + (", ..." if len(names) > SHOWN_NAMES else "")
