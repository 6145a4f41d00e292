"""Whether a checkpoint's content has the form that it is written in."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actbench.seeding import SOURCES
from actbench.training.checkpoints.description import TRAINER_SETTINGS

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MOST = 2**40  # epochs, steps or batches of a run


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, of another program, or asks for code that is not trusted."""


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
            "loops": dict(loops),
            "state_dict": Mapping(),
        } if 0 <= epoch <= MOST and 0 <= step <= MOST:
            states = content.get("callbacks", {})
            if not all(0 <= number <= MOST for number in whole_numbers(loops)):
                return False
            named = isinstance(states, dict) and all(isinstance(state, dict) for state in states.values())
            return named and re.fullmatch(r"\d+(\.\w+)+", version) is not None
    return False


def whole_numbers(value: Any) -> Iterator[int]:
    """All whole numbers among plain values."""
    if isinstance(value, int):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from whole_numbers(item)


def same_form(one: Any, other: Any) -> bool:
    """Whether two values are built alike: tensors of one shape and kind, mappings of the same keys, or one type."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        floats = one.dtype in FLOATS and other.dtype in FLOATS
        return one.shape == other.shape and (floats or one.dtype == other.dtype)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_form(value, other[name]) for name, value in one.items())
    return type(one) is type(other)


def check_paths(state: Any) -> None:
    """Refuse a callback's state in which a path leads up, out of the folder whose files the callback may delete.

    Raises:
        CheckpointError: There is such a path.
    """
    if isinstance(state, str) and ".." in Path(state).parts:
        raise CheckpointError(f"the checkpoint is damaged: its callbacks have the path {state!r}")
    for item in (*state, *state.values()) if isinstance(state, Mapping) else ():
        check_paths(item)


def check_state(state: Any, like: Any, what: str) -> None:
    """Refuse restored state that is not built like what is expected: nothing would go on from it.

    Raises:
        CheckpointError: The two differ in form.
    """
    if not same_form(state, like):
        raise CheckpointError(f"the checkpoint is damaged: its {what} are not those of this network and its replicates")
