"""Batches of the user's own loaders: read in many forms, and drawn from keyed streams."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from actbench.data.images import DataError
from actbench.data.rows import Batch
from actbench.seeding import seed_globally, stream_seed

SEED = 0  # keys everything that replicates share
PARTS = ("train", "val", "test")
INPUT_KEYS = (
    "image",
    "images",
    "img",
    "imgs",
    "pixel_values",
    "input",
    "inputs",
    "input_values",
    "x",
    "data",
    "features",
)
LABEL_KEYS = ("label", "labels", "target", "targets", "y", "class", "classes")
BATCH_KEYS_HINT = "name the keys of inputs and labels with --model.batch_keys '[IMAGE, LABEL]'"


def read_batch(batch: Any, keys: Sequence[str] | None = None) -> Batch:
    """Inputs and int64 labels of a batch that all replicates share: ``(x, y, ...)``, x alone, or members with names.

    A `Batch` is returned as it is. ``keys`` name the inputs and labels among members that have unusual names. Without
    them, a namedtuple without usual names for both is read as a plain tuple. Any other batch raises DataError, in one
    line.
    """
    if isinstance(batch, Batch):
        return batch
    values, named = batch, named_members(batch)
    if named is not None:
        names: list[Sequence[str]] = [[key] for key in keys] if keys else [INPUT_KEYS, LABEL_KEYS]
        present = [next((key for key in options if key in named), None) for options in names]
        if keys or all(present) or not isinstance(batch, tuple):
            if present[0] is None:
                raise DataError(f"no inputs in a batch that is a {type_name(batch)}; {BATCH_KEYS_HINT}")
            values = [named[key] for key in present if key is not None]
    inputs, labels, *_ = (*values, None, None) if isinstance(values, list | tuple) else (values, None)
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.ndim < 2:
        raise DataError(
            "batches must be (inputs, labels) with floating-point inputs, such as ToTensor gives, "
            f"not {type_name(batch)}"
        )
    if not isinstance(labels, Tensor):
        return Batch(inputs, None, None)
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.is_floating_point() or labels.is_complex() or flat.shape != inputs.shape[:1]:
        raise DataError(f"labels must be one whole number for each of {len(inputs)} inputs, not {type_name(labels)}")
    return Batch(inputs, flat.long(), None)


def named_members(batch: Any) -> Any:
    """The members of a mapping, dataclass or namedtuple by their names; None for a batch of another kind."""
    if isinstance(batch, tuple):
        return batch._asdict() if hasattr(batch, "_asdict") else None
    if hasattr(batch, "keys") and hasattr(batch, "__getitem__"):  # not every mapping inherits from Mapping
        return batch
    if is_dataclass(batch) and not isinstance(batch, type):
        return {field.name: getattr(batch, field.name) for field in fields(batch)}
    return None


def type_name(batch: Any) -> str:
    """Type of a batch and of its members, in a few words."""
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')} {tuple(batch.shape)}"
    if (named := named_members(batch)) is not None:
        return f"{type(batch).__name__} of {', '.join(map(str, named.keys()))}"
    if isinstance(batch, list | tuple):
        names = [*dict.fromkeys(map(type_name, batch))]
        return f"{type(batch).__name__} of {', '.join(names[:4]) or 'nothing'}{', ...' if len(names) > 4 else ''}"
    return type(batch).__name__


def as_bytes(values: Tensor | None) -> bytes:
    """Bytes of a tensor; no bytes for None."""
    return b"" if values is None else values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def all_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite. The extremes tell, without the copies and the time that `isfinite` takes."""
    floating = values.is_floating_point() and values.numel() > 0
    return not floating or all(bound.isfinite() for bound in values.aminmax())


class KeyedBatches:
    """A loader whose batches depend on the epoch only, and which can resume in the middle of an epoch.

    Epoch and batch number seed the global generators. The loader's own
    generator is seeded with the epoch and the seed that its owner gave it. Only
    training has epochs; other parts are the same each time.

    Args:
        loader: The loader that replicates share.
        part: ``train``, ``val``, ``test`` or ``predict``.
        data: The `ForeignData` that the loader belongs to.
        trainer: The Trainer, for its current epoch; None stands for the first epoch.
    """

    def __init__(self, loader: Any, part: str, data: Any, trainer: Any) -> None:
        self.loader = loader
        self.index = () if part == "train" else ((*PARTS, "predict").index(part),)
        self.data = data
        self.trainer = trainer
        self.epoch = 0
        self.batches = 0  # handed out in this epoch
        self.resumed = False
        self.orders = deque([(0, "")], maxlen=8)  # numbers of batches of the first epoch, with a chained hash of them

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
        if isinstance(self.loader, DataLoader):
            self.loader._iterator = None  # ends persistent workers: a resumed run lacks their state of earlier epochs
        self.seed(epoch)
        iterator = iter(self.loader)
        while True:
            seed_globally(SEED, "order", epoch, self.batches, *self.index)
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.batches += 1
            if self.batches > first:
                if epoch == 0 and not self.index:
                    self._chain(batch)
                yield batch

    @property
    def order(self) -> str:
        """Fingerprint of the batches of the first epoch that were handed out."""
        return self.orders[-1][1]

    def _chain(self, batch: Any) -> None:
        """Add a batch's labels, and a sample of its inputs, to the fingerprint of the order."""
        inputs, labels, _ = read_batch(batch, self.data.keys)
        sample = inputs.flatten()[:: max(1, inputs.numel() // 1024)]
        order = sha256(self.order.encode() + as_bytes(labels) + as_bytes(sample)).hexdigest()[:32]
        self.orders.append((self.batches, order))

    def seed(self, epoch: int) -> None:
        """Seed the global generators, and those of the loader and its samplers, for an epoch."""
        seed_globally(SEED, "order", epoch, *self.index)
        samplers = [getattr(self.loader, name, None) for name in ("sampler", "batch_sampler")]
        samplers.append(getattr(samplers[1], "sampler", None))
        for holder in (self.loader, *samplers):
            generator = getattr(holder, "generator", None)
            if isinstance(generator, torch.Generator):
                seed = self.data.generators.setdefault(generator, generator.initial_seed())
                generator.manual_seed(stream_seed(seed, "order", epoch, *self.index))

    def state_dict(self) -> dict[str, Any]:
        """The position in the epoch. Of a loader without a length, Lightning has fetched a batch ahead."""
        batches = self.batches
        if self.trainer and not self.index and self.trainer.current_epoch == self.epoch:
            batches = min(batches, self.trainer.fit_loop.epoch_loop.batch_progress.current.ready)
        order = next((order for number, order in reversed(self.orders) if number <= batches), self.order)
        return {"epoch": self.epoch, "batches": batches, "order": order if self.epoch == 0 else self.order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start the next iteration at this position, if it runs over the same epoch."""
        self.epoch, self.batches, self.resumed = state["epoch"], state["batches"], True
        self.orders.append((self.batches, state.get("order", "")))


def combined_loaders(loader: Any) -> list[Any]:
    """The loaders in a list or mapping with a DataLoader, or in Lightning's CombinedLoader; empty for anything else."""
    if hasattr(loader, "flattened"):
        return [*loader.flattened]
    loaders = list(loader.values()) if isinstance(loader, Mapping) else loader
    several = isinstance(loaders, list | tuple) and any(isinstance(member, DataLoader) for member in loaders)
    return [*loaders] if several else []


def unwrapped_loader(loader: Any) -> Any:
    """The only loader in a list or mapping of one; anything else as it is."""
    loaders = combined_loaders(loader)
    return loaders[0] if len(loaders) == 1 else loader
