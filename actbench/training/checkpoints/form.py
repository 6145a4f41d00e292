"""Checks that a checkpoint's content has the form in which it is written."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from actbench.seeding import SOURCES
from actbench.training.checkpoints.description import TRAINER_SETTINGS

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DIGEST = "sha256:"  # begins the digest that stands in a description for a file of initial weights
MAX_COUNT = 2**40  # epochs, steps or batches of a run


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, from another program, or names code that is not trusted."""


def is_description(value: Mapping[str, Any]) -> bool:
    """Whether every entry has the form that `Classifier` writes, which excludes class paths as bare text."""
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
                "engine": "stack" | "sequence",
                "compile": bool() | "auto",
                "input_shape": [*sizes],
                "num_classes": int(),
            },
            "data": None | {"class_path": str(), "init_args": dict()},
            "trainer": {**settings},
            "active": Tensor(),
            "train_loss": dict(),
            "scores": {**scores},
            "unfolded": None | [*_],
        }:
            local = (value["data"] or {}).get("local", [])
            frozen, weights = value["model"].get("freeze", []), value["model"].get("weights", DIGEST + "0" * 64)
            return (
                all(source in SOURCES for source in sources)
                and is_subset(value.get("crossed", []), sources)
                and set(settings) <= set(TRAINER_SETTINGS)
                and all(map(fits_json, (settings, value["data"], value["model"])))
                and isinstance(value["model"].get("mechanism", False), bool)
                and value["model"].get("lr_interval") in (None, "epoch", "step")
                and isinstance(local, list)
                and isinstance(frozen, list)
                and all(isinstance(name, str) for name in (*local, *frozen))
                and re.fullmatch(f"{DIGEST}[0-9a-f]{{64}}", str(weights)) is not None
                and all(isinstance(size, int) for size in sizes)
                and all(map(torch.is_tensor, scores.values()))
                and all(map(is_layer, value["unfolded"] or ()))
                and is_normalization(value.get("normalization"), (value["model"]["replicates"], *sizes[:1]))
            )
    return False


def is_subset(values: Any, allowed: Sequence[Any]) -> bool:
    """Whether a value is a list of some of those that are allowed."""
    return isinstance(values, list) and all(value in allowed for value in values)


def is_normalization(value: Any, shape: tuple[int, ...]) -> bool:
    """Whether a value says how images are normalised, as `ImageData` does, or is None if that is not known."""
    match value:
        case None | {"kind": "none"}:
            return True
        case {"kind": "imagenet" | "train", "mean": Tensor() as mean, "deviation": Tensor() as deviation}:
            return all(
                values.shape == shape and values.dtype == torch.float32 and bool(values.isfinite().all())
                for values in (mean, deviation)
            ) and bool((deviation > 0).all())
    return False


def is_layer(value: Any) -> bool:
    """Whether a value describes a convolution: its shapes and settings, five lists of whole numbers."""
    match value:
        case [[*images], [*weight], [int(), int()], [int(), int()], [int(), int()]]:
            return all(isinstance(size, int) for size in (*images, *weight))
    return False


def fits_json(value: Any) -> bool:
    """Whether JSON can hold a value. Imports nothing, unlike `is_plain`."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def has_lightning_form(content: Any) -> bool:
    """Whether the entries that Lightning reads have the form in which it writes them."""
    match content:
        case {
            "epoch": int(epoch),
            "global_step": int(step),
            "pytorch-lightning_version": str(version),
            "loops": dict(loops),
            "state_dict": Mapping(),
        } if 0 <= epoch <= MAX_COUNT and 0 <= step <= MAX_COUNT:
            states = content.get("callbacks", {})
            if not all(0 <= number <= MAX_COUNT for number in whole_numbers(loops)):
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


def same_form(a: Any, b: Any) -> bool:
    """Whether two values are tensors of the same shape and kind, mappings of the same keys, or of the same type."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        floats = a.dtype in FLOATS and b.dtype in FLOATS
        return a.shape == b.shape and (floats or a.dtype == b.dtype)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same_form(value, b[name]) for name, value in a.items())
    return type(a) is type(b)


def check_state(state: Any, expected: Any, title: str) -> None:
    """Raise CheckpointError if restored state has another form than expected, so that training could not resume."""
    if not same_form(state, expected):
        raise CheckpointError(
            f"the checkpoint is damaged: its {title} do not belong to this network and its replicates"
        )
