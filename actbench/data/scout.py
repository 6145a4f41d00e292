"""What other people's DataModules yield, looked at before anything is trained."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast
from uuid import uuid4

import torch
from lightning_fabric.utilities.data import sized_len
from pytorch_lightning import Trainer
from pytorch_lightning.trainer.states import RunningStage
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader

from actbench.data.batches import NAME_THEM, PARTS, KeyedBatches, as_bytes, is_mapping, kind, members, only, read_batch
from actbench.data.contents import contents, files_hash, hashed, sources_hash
from actbench.data.images import DataError
from actbench.data.rows import Batch
from actbench.seeding import unchanged_generators

FEW = 3  # batches that are looked at of a dataset whose contents are known
UNSIZED = 1000  # batches that are looked at of a loader without a length
PATIENCE = 5  # seconds of reading before it is said


class PartSummary(NamedTuple):
    """What a part's batches hold."""

    shapes: Sequence[tuple[int, ...]]  # of inputs
    labels: tuple[int, int]  # the least and the largest
    read: bytes  # hash of the batches that were read
    rest: Sequence[Tensor | tuple[Path, ...]]  # what the others are made from, if not all were read


class Scout:
    """Looks, once, at what a DataModule yields.

    Args:
        data: A `ForeignData`, which the scout sets up and reads.
        again: Makes another like it, to see whether it yields the same.
    """

    def __init__(self, data: Any, again: Callable[[], Any] | None = None) -> None:
        self.data = data
        self.name = type(data.inner).__name__
        self.again = again
        self.looks: dict[str, PartSummary] = {}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input: the user's attribute ``input_shape``, or else that of the first training batch."""
        said = getattr(self.data.inner, "input_shape", None)
        return tuple(self.look("train").shapes[0] if said is None else said)

    @property
    def num_classes(self) -> int:
        """Number of classes: what the DataModule or its dataset says, or else the largest training label and one."""
        said = getattr(self.data.inner, "num_classes", None) or getattr(self.data.inner, "classes", None)
        if said is None:
            said = getattr(getattr(self.loader("train"), "dataset", None), "classes", None)
        if said is None:
            said = self.look("train").labels[1] + 1
        if isinstance(said, str):
            raise DataError(f"num_classes of {self.name} is {said!r}, and should be a whole number")
        return len(said) if hasattr(said, "__len__") else int(said)

    def has_labels(self, part: str) -> bool:
        """Whether batches of a part have labels: a test part need not, as long as nobody scores it."""
        with unchanged_generators():
            batch = next(iter(self.loader(part)), None)
        try:
            return read_batch(batch, self.data.keys).labels is not None
        except DataError:
            return False

    def check(self, parts: Sequence[str] = PARTS) -> None:
        """Raise DataError if a part has no loader, several, no labels, wrong labels, or inputs of another shape."""
        for part in parts:
            self.loader(part)
        for part in parts:
            look = self.look(part)
            other = [shape for shape in look.shapes if shape != self.input_shape]
            if other:
                raise DataError(f"inputs of the {part} part have the shape {other[0]}, not {self.input_shape}")
            classes = self.num_classes
            wrong = [label for label in look.labels if not 0 <= label < classes]
            if wrong:
                raise DataError(f"the {part} part has the label {wrong[0]}, and there are {classes} classes")

    def digest(self) -> str:
        """Hash of what the loaders yield in the first epoch, the same in every process."""
        looks, read_once = [self.look(part) for part in PARTS], cache(files_hash)  # parts may share files
        return hashed(*(hashed(look.read, sources_hash(look.rest, read_once)) for look in looks)).hex()[:32]

    def loader(self, part: str) -> Any:
        """The loader of a part that has one, and not several."""
        name = f"{part}_dataloader"
        with unchanged_generators(), attended(self.data, part):
            self.data.prepare_data()
            if name not in vars(self.data):
                raise DataError(f"{self.name} has no {name}, which is needed")
            self.data.setup("test" if part == "test" else "fit")
            loader = only(getattr(self.data.inner, name)())
        if held := members(loader):
            raise DataError(f"{name} of {self.name} gives {len(held)} loaders, and one is needed")
        return loader

    def look(self, part: str) -> PartSummary:
        """What a part's batches hold, which is looked at once."""
        if part not in self.looks:
            loader = self.loader(part)
            with unchanged_generators(), attended(self.data, part):
                self.looks[part] = self._look_through(part, loader)
        return self.looks[part]

    def _look_through(self, part: str, loader: Any) -> PartSummary:
        known, what = contents(loader), f"the {part} part of {self.name}"
        labels, shapes = [known.labels] if known else [], dict[tuple[int, ...], None]()
        digests = list[bytes]()
        most = UNSIZED + 1 if sized_len(loader) is None else None
        patience = time.monotonic() + PATIENCE
        for batch in islice(self._read(part, loader), FEW if known else most):
            labels.append(cast(Tensor, batch.labels))
            shapes[tuple(batch.inputs.shape[1:])] = None
            digests.append(batch_digest(batch))
            if time.monotonic() > patience:
                patience = math.inf
                rank_zero_info(f"reading {what} through, to check it")
        rows = [*islice(rows_of(loader, part, self.data), most)] if known else []
        if max(len(digests), len(rows)) == most:
            digests.append(uuid4().bytes)  # what comes later may be anything
            rank_zero_warn(
                f"{what} has more than {UNSIZED:,} batches and no length: what it holds is not known, so that finished "
                "replicates are not found again"
            )
        if not shapes:
            raise DataError(f"{what} has no batch")
        if iter(loader) is not loader and self.first(part, loader) != digests[0]:
            fresh = Scout(self.again()) if self.again else None
            if fresh is None or fresh.first(part, fresh.loader(part)) != digests[0]:
                rank_zero_warn(
                    f"{what} differs each time it is read, because it draws from a generator of its own: finished "
                    "replicates are not found again, and arms are no pairs"
                )
        every = torch.cat(labels)
        bounds = int(every.min()), int(every.max())
        return PartSummary([*shapes], bounds, hashed(*digests, repr(rows).encode()), known.sources if known else ())

    def first(self, part: str, loader: Any) -> bytes:
        """Hash of a part's first batch."""
        with unchanged_generators(), attended(self.data, part):
            return batch_digest(next(self._read(part, loader)))

    def _read(self, part: str, loader: Any) -> Iterator[Batch]:
        """Batches of a part as they are in the first epoch and in every process, on the CPU."""
        for given in KeyedBatches(loader, part, self.data, None):
            batch = self.data.on_before_batch_transfer(given, 0)
            batch = self.data.transfer_batch_to_device(batch, torch.device("cpu"), 0)
            read = read_batch(self.data.on_after_batch_transfer(batch, 0), self.data.keys)
            if read.labels is None:
                hint = f"; {NAME_THEM}" if is_mapping(given) else ""
                raise DataError(f"batches of the {part} part have no labels: {kind(given)}{hint}")
            yield read


def rows_of(loader: DataLoader, part: str, data: Any) -> Iterator[Any]:
    """The rows of each batch of the first epoch, without their images."""
    KeyedBatches(loader, part, data, None).seed(0)
    yield from loader.sampler if loader.batch_sampler is None else loader.batch_sampler


def batch_digest(batch: Batch) -> bytes:
    """Hash of a batch."""
    return hashed(f"{tuple(batch.inputs.shape)} {batch.inputs.dtype}".encode(), *map(as_bytes, batch[:2]))


@contextmanager
def attended(datamodule: Any, part: str) -> Iterator[None]:
    """Give a DataModule that has no Trainer one that is at work on a part, as its hooks may ask."""
    if datamodule.trainer is not None:
        yield
        return
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    before, logger.disabled = logger.disabled, True
    try:
        trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    finally:
        logger.disabled = before
    trainer.state.stage = RunningStage("validate" if part == "val" else part)
    datamodule.trainer = datamodule.inner.trainer = trainer
    try:
        yield
    finally:
        datamodule.trainer = datamodule.inner.trainer = None
