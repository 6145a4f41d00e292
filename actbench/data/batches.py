"""Batches of other people's loaders: read in whatever form they come, and drawn from keyed streams."""

import random
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from actbench.data.images import DataError
from actbench.data.rows import Batch
from actbench.seeding import Purpose, stream_seed

SEED = 0  # of what replicates share
PARTS = ("train", "val", "test")
KEYS = (  # of inputs and of labels, where batches are mappings
    ("image", "images", "img", "imgs", "pixel_values", "input", "inputs", "input_values", "x", "data", "features"),
    ("label", "labels", "target", "targets", "y", "class", "classes"),
)
NAME_THEM = "name the keys of inputs and labels with --model.batch_keys '[IMAGE, LABEL]'"


def read_batch(batch: Any, keys: Sequence[str] | None = None) -> Batch:
    """Inputs and int64 labels of a batch that all replicates share: ``(x, y, ...)``, x alone, or a mapping.

    A `Batch` is returned as it is. ``keys`` name the inputs and labels of a mapping that has unusual names. Any other
    batch raises DataError, in one line.
    """
    if isinstance(batch, Batch):
        return batch
    given = batch
    if is_mapping(batch):
        options = [[key] for key in keys] if keys else KEYS
        found = [next((key for key in names if key in batch), None) for names in options]
        if found[0] is None:
            raise DataError(f"no inputs in a batch that is a {kind(batch)}; {NAME_THEM}")
        batch = [batch[key] for key in found if key is not None]
    inputs, labels, *_ = (*batch, None, None) if isinstance(batch, list | tuple) else (batch, None)
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.ndim < 2:
        raise DataError(
            f"batches must be (inputs, labels), inputs of floating point as ToTensor gives them, not {kind(given)}"
        )
    if not isinstance(labels, Tensor):
        return Batch(inputs, None, None)
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.is_floating_point() or labels.is_complex() or flat.shape != inputs.shape[:1]:
        raise DataError(f"labels must be one whole number for each of {len(inputs)} inputs, not {kind(labels)}")
    return Batch(inputs, flat.long(), None)


def is_mapping(batch: Any) -> bool:
    """Whether a batch is a mapping, of whatever kind."""
    return hasattr(batch, "keys") and hasattr(batch, "__getitem__")


def kind(batch: Any) -> str:
    """What a batch is made of, in a few words."""
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')} {tuple(batch.shape)}"
    if is_mapping(batch):
        return f"{type(batch).__name__} of {', '.join(map(str, batch.keys()))}"
    if isinstance(batch, list | tuple):
        kinds = [*dict.fromkeys(map(kind, batch))]
        return f"{type(batch).__name__} of {', '.join(kinds[:4]) or 'nothing'}{', ...' if len(kinds) > 4 else ''}"
    return type(batch).__name__


def as_bytes(values: Tensor | None) -> bytes:
    """Bytes of a tensor; none of None."""
    return b"" if values is None else values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def seed_globally(purpose: Purpose, *index: int) -> None:
    """Seed the global generators of Python, NumPy and torch with what replicates share."""
    seed = stream_seed(SEED, purpose, *index) % 2**32
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - what users write draws from it
    torch.manual_seed(seed)


class KeyedBatches:
    """A loader whose batches depend on the epoch only, and that can be resumed inside one.

    The global generators are seeded with epoch and batch, a generator of the
    loader's own with the epoch and the seed that its owner gave it. Only
    training has epochs: other parts are the same each time.

    Args:
        loader: The loader that replicates share.
        part: ``train``, ``val``, ``test`` or ``predict``.
        data: The `ForeignData` that the loader is from.
        trainer: Knows the epoch; None stands for the first.
    """

    def __init__(self, loader: Any, part: str, data: Any, trainer: Any) -> None:
        self.loader = loader
        self.index = () if part == "train" else ((*PARTS, "predict").index(part),)
        self.data = data
        self.trainer = trainer
        self.epoch = 0
        self.batches = 0  # handed out in this epoch
        self.resumed = False
        self.order = ""  # chained hash of the first epoch's batches

    def __getattr__(self, name: str) -> Any:
        if name == "loader":
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        # A generator: nothing runs before the first batch is asked for. Lightning makes iterators early.
        epoch = self.trainer.current_epoch if self.trainer and not self.index else 0
        first = self.batches if self.resumed and self.epoch == epoch else 0
        self.epoch, self.batches, self.resumed = epoch, 0, False
        self.seed(epoch)
        iterator = iter(self.loader)
        while True:
            seed_globally("order", epoch, self.batches, *self.index)
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.batches += 1
            if self.batches > first:
                if epoch == 0 and not self.index:
                    self._chain(batch)
                yield batch

    def _chain(self, batch: Any) -> None:
        """Add a batch to the fingerprint of the order: its labels, and a sample of its inputs."""
        read = read_batch(batch, self.data.keys)
        sample = read.inputs.flatten()[:: max(1, read.inputs.numel() // 1024)]
        self.order = sha256(self.order.encode() + as_bytes(read.labels) + as_bytes(sample)).hexdigest()[:32]

    def seed(self, epoch: int) -> None:
        """Seed the global generators, and those that the loader or its samplers have of their own, with an epoch."""
        seed_globally("order", epoch, *self.index)
        samplers = [getattr(self.loader, name, None) for name in ("sampler", "batch_sampler")]
        samplers.append(getattr(samplers[1], "sampler", None))
        for holder in (self.loader, *samplers):
            generator = getattr(holder, "generator", None)
            if isinstance(generator, torch.Generator):
                seed = self.data.generators.setdefault(generator, generator.initial_seed())
                generator.manual_seed(stream_seed(seed, "order", epoch, *self.index))

    def state_dict(self) -> dict[str, Any]:
        """The place in the epoch."""
        return {"epoch": self.epoch, "batches": self.batches, "order": self.order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration start at this place, if it is one over the same epoch."""
        self.epoch, self.batches, self.resumed = state["epoch"], state["batches"], True
        self.order = state.get("order", "")


def members(loader: Any) -> list[Any]:
    """What a list or mapping with a DataLoader holds, or Lightning's CombinedLoader; nothing for anything else."""
    if hasattr(loader, "flattened"):
        return [*loader.flattened]
    held = list(loader.values()) if isinstance(loader, Mapping) else loader
    return [*held] if isinstance(held, list | tuple) and any(isinstance(one, DataLoader) for one in held) else []


def only(loader: Any) -> Any:
    """The loader of a list or a mapping of one; anything else as it is."""
    held = members(loader)
    return held[0] if len(held) == 1 else loader
