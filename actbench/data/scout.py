"""Inspection of a user's DataModule before anything is trained on it."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast
from uuid import uuid4

import torch
from lightning_fabric.utilities.data import sized_len
from pytorch_lightning import Trainer
from pytorch_lightning.plugins.environments import LightningEnvironment  # type: ignore[attr-defined]
from pytorch_lightning.trainer.states import RunningStage
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from actbench.data.batches import (
    BATCH_KEYS_HINT,
    PARTS,
    KeyedBatches,
    all_finite,
    as_bytes,
    combined_loaders,
    named_members,
    read_batch,
    type_name,
    unwrapped_loader,
)
from actbench.data.contents import files_hash, joint_hash, known_contents, loader_of_all_rows, sources_hash
from actbench.data.images import DataError
from actbench.data.rows import Batch
from actbench.seeding import unchanged_generators

SAMPLED = 3  # batches read from a dataset whose contents are known
MAX_UNSIZED = 1000  # batches read from a loader without a length
PATIENCE_S = 5  # of reading before a message says so


class PartSummary(NamedTuple):
    """Summary of a part's batches."""

    shapes: Sequence[tuple[int, ...]]  # of inputs
    labels: tuple[int, int]  # least and largest
    inputs: int  # number of inputs that were read
    broken_inputs: int  # those with NaN or inf
    read: bytes  # hash of the batches that were read
    sources: Sequence[Tensor | tuple[Path, ...]]  # of the dataset, if only a sample of its batches was read


class Scout:
    """Reads each part of a DataModule once, to describe and check what it yields.

    Args:
        data: A `ForeignData`, which the scout sets up and reads.
        remake: Makes another such DataModule, to see whether it yields the same batches.
    """

    def __init__(self, data: Any, remake: Callable[[], Any] | None = None) -> None:
        self.data = data
        self.name = type(data.inner).__name__
        self.remake = remake
        self.summaries: dict[str, PartSummary] = {}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input: the user's attribute ``input_shape``, or else that of the first training batch."""
        shape = getattr(self.data.inner, "input_shape", None)
        return tuple(self.summary("train").shapes[0] if shape is None else shape)

    @property
    def num_classes(self) -> int:
        """Number of classes, from the DataModule or its dataset, or else the largest training label plus one."""
        classes = getattr(self.data.inner, "num_classes", None) or getattr(self.data.inner, "classes", None)
        if classes is None:
            classes = getattr(getattr(self.loader("train"), "dataset", None), "classes", None)
        if classes is None:
            classes = self.summary("train").labels[1] + 1
        if isinstance(classes, str):
            raise DataError(f"num_classes of {self.name} is {classes!r}, and should be a whole number")
        return len(classes) if hasattr(classes, "__len__") else int(classes)

    def lacks(self, part: str) -> bool:
        """Whether a part has no loader, or a method that returns none."""
        loader = self._given_loader(part)
        return loader is None or (isinstance(loader, list | tuple | Mapping) and not loader)

    def has_labels(self, part: str) -> bool:
        """Whether a part can be read and has labels, which a test part needs only where it is scored."""
        try:
            with unchanged_generators():
                loader = self._given_loader(part)
                batch = None if loader is None else next(iter(loader), None)
        except DataError:
            raise
        except Exception:  # of any kind, in the user's code, which a fit calls for no test part
            return False
        try:
            return read_batch(batch, self.data.keys).labels is not None
        except DataError:
            return False

    def check(self, parts: Sequence[str] = PARTS) -> None:
        """Raise DataError unless each part has one loader, valid labels, and finite inputs of one shape."""
        for part in parts:
            self.loader(part)
        for part in parts:
            summary, classes = self.summary(part), self.num_classes
            for shape in summary.shapes:
                if shape != self.input_shape:
                    raise DataError(f"inputs of the {part} part have the shape {shape}, not {self.input_shape}")
            for label in summary.labels:
                if not 0 <= label < classes:
                    raise DataError(f"the {part} part has the label {label}, and there are {classes} classes")
            if summary.broken_inputs:
                count = f"{summary.broken_inputs:,} of {summary.inputs:,} inputs"
                raise DataError(
                    f"the {part} part of {self.name} has NaN or inf in {count}, with which no score would be right: "
                    "leave these inputs out, or replace the values in the DataModule"
                )

    def digest(self) -> str:
        """Hash of what the loaders yield in the first epoch, and of all training rows if later ones may yield others.

        It is the same in every process.
        """
        cached_hash = cache(files_hash)  # parts may share files
        summaries = [self.summary(part) for part in PARTS]
        parts = [joint_hash(s.read, sources_hash(s.sources, cached_hash)) for s in summaries]
        return joint_hash(*parts, *self._all_rows()).hex()[:32]

    def loader(self, part: str) -> Any:
        """The loader of a part; DataError if there is none, or more than one."""
        loader = self._given_loader(part)
        if loader is None:
            raise DataError(f"{self.name} has no {part}_dataloader, which is needed")
        return loader

    def summary(self, part: str) -> PartSummary:
        """Summary of a part's batches, which are read once."""
        if part not in self.summaries:
            loader = self.loader(part)
            with unchanged_generators(), attached_trainer(self.data, part):
                self.summaries[part] = self._summarise(part, loader)
        return self.summaries[part]

    def batches(self, part: str) -> Iterator[Batch]:
        """Labelled batches of a part in the first epoch, on the CPU."""
        loader = self.loader(part)
        with attached_trainer(self.data, part):
            yield from self._read(part, loader)

    def _given_loader(self, part: str) -> Any:
        """The loader of a part; None if its method is missing or returns None."""
        name, loader = f"{part}_dataloader", None
        with unchanged_generators(), attached_trainer(self.data, part):
            self.data.prepare_data()
            if name in vars(self.data):
                self.data.setup("test" if part == "test" else "fit")
                loader = unwrapped_loader(getattr(self.data.inner, name)())
        if loaders := combined_loaders(loader):
            raise DataError(f"{name} of {self.name} gives {len(loaders)} loaders, and one is needed")
        return loader

    def _summarise(self, part: str, loader: Any) -> PartSummary:
        known, title = known_contents(loader), f"the {part} part of {self.name}"
        labels, shapes = [known.labels] if known else [], dict[tuple[int, ...], None]()
        digests, inputs, broken_inputs = list[bytes](), 0, 0
        limit = MAX_UNSIZED + 1 if sized_len(loader) is None else None
        for batch in islice(told(self._read(part, loader), title), SAMPLED if known else limit):
            labels.append(cast(Tensor, batch.labels))
            shapes[tuple(batch.inputs.shape[1:])] = None
            inputs += len(batch.inputs)
            if not all_finite(batch.inputs):
                broken_inputs += sum(not all_finite(row) for row in batch.inputs)
            digests.append(batch_digest(batch))
        rows: list[Any] = []
        if known:
            KeyedBatches(loader, part, self.data, None).seed(0)
            rows = [*islice(loader.sampler if loader.batch_sampler is None else loader.batch_sampler, limit)]
        if max(len(digests), len(rows)) == limit:
            digests.append(uuid4().bytes)  # later batches may be anything
            rank_zero_warn(
                f"{title} has more than {MAX_UNSIZED:,} batches and no length: its contents are not known, so that "
                "finished replicates are not found again"
            )
        if not shapes:
            raise DataError(f"{title} has no batch")
        if iter(loader) is not loader and self._first_digest(part, loader) != digests[0]:
            fresh = Scout(self.remake()) if self.remake else None
            if fresh is None or fresh._first_digest(part, fresh.loader(part)) != digests[0]:
                rank_zero_warn(
                    f"{title} differs each time it is read, because it draws from a generator of its own: finished "
                    "replicates are not found again, and arms are no pairs"
                )
        all_labels = torch.cat(labels)
        bounds = int(all_labels.min()), int(all_labels.max())
        read = joint_hash(*digests, repr(rows).encode())
        return PartSummary([*shapes], bounds, inputs, broken_inputs, read, known.sources if known else ())

    def _all_rows(self) -> list[bytes]:
        """Hashes of all training rows, if the first epoch may leave out some that a later one yields."""
        loader, title, digests = self.loader("train"), f"the train part of {self.name}", list[bytes]()
        all_rows, finite = None if known_contents(loader) else loader_of_all_rows(loader), True
        if all_rows is not None:
            try:
                with unchanged_generators(), attached_trainer(self.data, "train"):
                    for batch in told(self._read("train", all_rows), title):
                        digests.append(batch_digest(batch))
                        finite = finite and all_finite(batch.inputs)
            except Exception as error:  # of any kind, in the user's code, for a row that may never be drawn
                rank_zero_warn(
                    f"the rows of {title} cannot be read one after another ({type(error).__name__}): finished "
                    "replicates are found again even if rows change that the first epoch leaves out"
                )
        if not finite:
            rank_zero_warn(f"{title} has NaN or inf in rows that the first epoch leaves out, and a later one may draw")
        return digests

    def _first_digest(self, part: str, loader: Any) -> bytes:
        """Hash of a part's first batch."""
        with unchanged_generators(), attached_trainer(self.data, part):
            return batch_digest(next(self._read(part, loader)))

    def _read(self, part: str, loader: Any) -> Iterator[Batch]:
        """Batches of a part in the first epoch, on the CPU: the same in every process."""
        for raw in KeyedBatches(loader, part, self.data, None):
            batch = self.data.on_before_batch_transfer(raw, 0)
            batch = self.data.transfer_batch_to_device(batch, torch.device("cpu"), 0)
            batch = read_batch(self.data.on_after_batch_transfer(batch, 0), self.data.keys)
            if batch.labels is None:
                hint = f"; {BATCH_KEYS_HINT}" if named_members(raw) is not None else ""
                raise DataError(f"batches of the {part} part have no labels: {type_name(raw)}{hint}")
            yield batch


def told(batches: Iterator[Batch], title: str) -> Iterator[Batch]:
    """The same batches, with a message if it takes long to read them."""
    patience = time.monotonic() + PATIENCE_S
    for batch in batches:
        yield batch
        if time.monotonic() > patience:
            patience = math.inf
            rank_zero_info(f"reading all of {title} to check it")


def batch_digest(batch: Batch) -> bytes:
    """Hash of a batch."""
    return joint_hash(f"{tuple(batch.inputs.shape)} {batch.inputs.dtype}".encode(), *map(as_bytes, batch[:2]))


@contextmanager
def attached_trainer(datamodule: Any, part: str) -> Iterator[None]:
    """Attach a Trainer in the stage of a part, for hooks that read it, to a DataModule that has none."""
    if datamodule.trainer is not None:
        yield
        return
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    before, logger.disabled = logger.disabled, True
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        alone: list[Any] = [LightningEnvironment()]  # also where SLURM has started several processes
        trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, plugins=alone)
    finally:
        logger.disabled = before
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)  # which a Trainer sets
    trainer.state.stage = RunningStage("validate" if part == "val" else part)
    datamodule.trainer = datamodule.inner.trainer = trainer
    try:
        yield
    finally:
        datamodule.trainer = datamodule.inner.trainer = None
