"""What other people's DataModules yield, looked at before anything is trained."""

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast
from uuid import uuid4

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.trainer.states import RunningStage
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader

from actbench.data.batches import (
    NAME_THEM,
    PARTS,
    KeyedBatches,
    as_bytes,
    has_length,
    is_mapping,
    kind,
    only,
    parts_of,
    read_batch,
)
from actbench.data.contents import contents, hashed, sources_hash
from actbench.data.images import DataError
from actbench.data.rows import Batch
from actbench.streams import unchanged_generators

FEW = 3  # batches that are looked at of a dataset whose contents are known
UNSIZED = 1000  # batches that are looked at of a loader without a length
PATIENCE = 5  # seconds of reading before it is said


class Look(NamedTuple):
    """What a part's batches hold: shapes of their inputs, least and largest label, and a hash of what was read.

    If not all was read, there is what the rest is made from.
    """

    shapes: Sequence[tuple[int, ...]]
    labels: tuple[int, int]
    read: bytes
    rest: Sequence[Tensor | tuple[Path, ...]]


class Scout:
    """Looks at what a DataModule yields. It is looked at once.

    Args:
        data: A `ForeignData`, which is set up for it, and read from.
        again: Makes another like it, to see whether it yields the same.
    """

    def __init__(self, data: Any, again: Callable[[], Any] | None = None) -> None:
        self.data = data
        self.again = again
        self.looks: dict[str, Look] = {}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input: the inner's attribute ``input_shape``, or that of the first training batch."""
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
        """Refuse what would fail in a fit or a test.

        Args:
            parts: Those that are needed.

        Raises:
            DataError: A part has no loader, several, no labels, labels out of range or other shapes; one line.
        """
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
        looks, files = [self.look(part) for part in PARTS], dict[tuple[Path, ...], bytes]()
        return hashed(*(hashed(look.read, sources_hash(look.rest, files)) for look in looks)).hex()[:32]

    def loader(self, part: str) -> Any:
        """A part's only loader.

        Raises:
            DataError: There is none, or there are several.
        """
        name = f"{part}_dataloader"
        with unchanged_generators(), attended(self.data, part):
            self.data.prepare_data()
            if name not in vars(self.data):
                raise DataError(f"{type(self.data.inner).__name__} has no {name}, which is needed")
            self.data.setup("test" if part == "test" else "fit")
            loader = only(getattr(self.data.inner, name)())
        if isinstance(loader, list | tuple | Mapping) and any(isinstance(of, DataLoader) for of in parts_of(loader)):
            raise DataError(
                f"{name} of {type(self.data.inner).__name__} gives {len(loader)} loaders, and one is needed"
            )
        return loader

    def look(self, part: str) -> Look:
        """What a part's batches hold, which is looked at once."""
        if part not in self.looks:
            loader = self.loader(part)
            with unchanged_generators(), attended(self.data, part):
                self.looks[part] = self._look_through(part, loader)
        return self.looks[part]

    def _look_through(self, part: str, loader: Any) -> Look:
        known = contents(loader)
        labels, shapes = [known.labels] if known else [], dict[tuple[int, ...], None]()
        digests = list[bytes]()
        limit = FEW if known else None if has_length(loader) else UNSIZED + 1
        patience = time.monotonic() + PATIENCE
        for batch in itertools.islice(self._read(part, loader), limit):
            labels.append(cast(Tensor, batch.labels))
            shapes[tuple(batch.inputs.shape[1:])] = None
            digests.append(batch_digest(batch))
            if time.monotonic() > patience:
                patience = math.inf
                rank_zero_info(f"reading the {part} part of {type(self.data.inner).__name__} through, to check it")
        if not known and not has_length(loader) and len(digests) > UNSIZED:
            digests.append(uuid4().bytes)  # what comes later may be anything
            rank_zero_warn(
                f"the {part} part of {type(self.data.inner).__name__} has more than {UNSIZED:,} batches and no length: "
                "what it holds is not known, so that finished replicates are not found again"
            )
        if not shapes:
            raise DataError(f"the {part} part of {type(self.data.inner).__name__} has no batch")
        if isinstance(loader, DataLoader) and self.first(part, loader) != digests[0]:
            fresh = Scout(self.again()) if self.again else None
            if fresh is None or fresh.first(part, fresh.loader(part)) != digests[0]:
                rank_zero_warn(
                    f"the {part} part of {type(self.data.inner).__name__} differs each time it is read, because it "
                    "draws from a generator of its own: finished replicates are not found again, and arms are no pairs"
                )
        every = torch.cat(labels)
        bounds = int(every.min()), int(every.max())
        return Look([*shapes], bounds, hashed(*digests), known.sources if known else ())

    def first(self, part: str, loader: Any) -> bytes:
        """Hash of a part's first batch."""
        with unchanged_generators(), attended(self.data, part):
            return batch_digest(next(self._read(part, loader)))

    def _read(self, part: str, loader: Any) -> Iterator[Batch]:
        """Batches of a part as they are in the first epoch and in every process, on the CPU."""
        batches = KeyedBatches(loader, part, trainer=None, keys=self.data.keys, generators=self.data.generators)
        for given in batches:
            batch = self.data.on_before_batch_transfer(given, 0)
            batch = self.data.transfer_batch_to_device(batch, torch.device("cpu"), 0)
            read = read_batch(self.data.on_after_batch_transfer(batch, 0), self.data.keys)
            if read.labels is None:
                hint = f"; {NAME_THEM}" if is_mapping(given) else ""
                raise DataError(f"batches of the {part} part have no labels: {kind(given)}{hint}")
            yield read


def batch_digest(batch: Batch) -> bytes:
    """Hash of a batch."""
    return hashed(f"{tuple(batch.inputs.shape)} {batch.inputs.dtype}".encode(), *map(as_bytes, batch[:2]))


@contextmanager
def attended(datamodule: Any, part: str) -> Iterator[None]:
    """Let a DataModule have a Trainer that is at work on a part, as its hooks may ask."""
    if datamodule.trainer is not None:
        yield
        return
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    before, logger.disabled = logger.disabled, True
    try:
        trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    finally:
        logger.disabled = before
    stages = {"train": RunningStage.TRAINING, "val": RunningStage.VALIDATING, "test": RunningStage.TESTING}
    trainer.state.stage = stages[part]
    datamodule.trainer = datamodule.inner.trainer = trainer
    try:
        yield
    finally:
        datamodule.trainer = datamodule.inner.trainer = None
