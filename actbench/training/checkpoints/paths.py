"""Paths in a checkpoint's state of callbacks, which must hold on other machines too."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ModelCheckpoint

from actbench.training.checkpoints.form import CheckpointError


def move_paths(checkpoint: Mapping[str, Any], callbacks: Iterable[Callback], *, to_relative: bool) -> None:
    """Make the paths in the state of each ModelCheckpoint relative to its folder, or absolute again."""
    states = checkpoint.get("callbacks", {})
    for callback in callbacks:
        key = callback.state_key
        if isinstance(callback, ModelCheckpoint) and callback.dirpath and key in states:
            if not to_relative:  # a checkpoint that is read may name any path
                check_paths(states[key])
            folders = (str(callback.dirpath), "CHECKPOINTS")
            states[key] = replace_folder(states[key], *(folders if to_relative else folders[::-1]))


def replace_folder(state: Any, old: str, new: str) -> Any:
    """A callback's state with the folder ``old`` replaced by ``new`` at the start of each path, also in keys."""
    if isinstance(state, str):
        return new + state.removeprefix(old) if state.startswith(old) else state
    if isinstance(state, dict):
        return {replace_folder(k, old, new): replace_folder(v, old, new) for k, v in state.items()}
    return state


def check_paths(state: Any) -> None:
    """Raise CheckpointError if a path in a callback's state leads out of the folder in which it may delete files."""
    if isinstance(state, str) and ".." in Path(state).parts:
        raise CheckpointError(f"the checkpoint is damaged: its callbacks have the path {state!r}")
    for item in (*state, *state.values()) if isinstance(state, Mapping) else ():
        check_paths(item)
