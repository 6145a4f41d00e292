"""DataModules of the user: shared by all replicates, checked before training, and known again by what they yield."""

import itertools
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.trainer.states import RunningStage
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

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
    seed_globally,
)
from actbench.data.contents import contents, hashed, sources_hash
from actbench.data.images import DataError, ImageData
from actbench.data.rows import Batch
from actbench.streams import unchanged_generators

FEW = 3  # batches that are looked at of a dataset whose contents are known
UNSIZED = 100  # batches that are looked at of a loader without a length
PATIENCE = 5  # seconds of reading before it is said


def adopt(datamodule: Any, *, keys: Sequence[str] | None = None) -> Any:
    """A DataModule as actbench trains on it: ours as it is, any other wrapped."""
    return datamodule if isinstance(datamodule, ImageData | ForeignData) else ForeignData(datamodule, keys=keys)


class Look(NamedTuple):
    """What a part's batches hold: shapes of their inputs, least and largest label, and a hash of what was read.

    If not all was read, there is what the rest is made from.
    """

    shapes: Sequence[tuple[int, ...]]
    labels: tuple[int, int]
    read: bytes
    rest: Sequence[Tensor | tuple[Path, ...]]


class ForeignData(LightningDataModule):
    """A LightningDataModule of the user's, of `pytorch_lightning` or of `lightning`, shared by all replicates.

    Its split and training batches depend on the epoch only, and not on which
    replicates train on them. On several devices, or when the same few batches
    are trained on again and again, Lightning has to see the loaders themselves.

    Args:
        inner: The user's.
        keys: Keys of inputs and labels, where batches are mappings with unusual names.

    Raises:
        DataError: It is no LightningDataModule.
    """

    def __init__(self, inner: Any, *, keys: Sequence[str] | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.keys = keys
        self.prepared: set[str | None] = set()
        self.trained: KeyedBatches | None = None
        self.looks: dict[str, Look] = {}
        self.generators: dict[torch.Generator, int] = {}
        theirs = next((cls for cls in type(inner).__mro__ if cls.__name__ == "LightningDataModule"), None)
        if theirs is None:
            raise DataError(f"{type(inner).__name__} is no LightningDataModule")
        for part in (*PARTS, "predict"):  # Lightning asks which a DataModule has
            name = f"{part}_dataloader"
            if name in vars(inner) or getattr(type(inner), name) is not getattr(theirs, name):
                setattr(self, name, partial(self._batches, part))
        if "predict_dataloader" not in vars(self) and "test_dataloader" in vars(self):
            vars(self)["predict_dataloader"] = partial(self._batches, "test")

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    # --- what Lightning calls ---

    @override
    def prepare_data(self) -> None:
        if "prepare" not in self.prepared:
            self.prepared.add("prepare")
            self.inner.prepare_data()

    @override
    def setup(self, stage: str | None = None) -> None:
        self.inner.trainer = self.trainer
        if stage not in self.prepared:
            self.prepared.add(stage)
            seed_globally("split")
            self.inner.setup(stage)

    @override
    def teardown(self, stage: str) -> None:
        self.inner.teardown(stage)
        self.prepared &= {"prepare"}  # it may have freed what any stage needs

    @override
    def on_exception(self, exception: BaseException) -> None:
        self.inner.on_exception(exception)

    @override
    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        trainer = self.trainer
        if trainer and trainer.training:  # batches are fetched ahead, so that what was drawn last says little
            seed_globally("augmentation", trainer.current_epoch, trainer.fit_loop.batch_idx)
        else:
            seed_globally("augmentation")
        return self.inner.on_before_batch_transfer(batch, dataloader_idx)

    @override
    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return self.inner.transfer_batch_to_device(batch, device, dataloader_idx)

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.inner.on_after_batch_transfer(batch, dataloader_idx)

    @override
    def state_dict(self) -> dict[str, Any]:
        return dict(self.inner.state_dict())

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.inner.load_state_dict(state_dict)

    def _batches(self, part: str) -> Any:
        """A part's loader as Lightning gets it."""
        loader, trainer = only(getattr(self.inner, f"{part}_dataloader")()), self.trainer
        shared = not trainer or trainer.world_size > 1 or trainer.overfit_batches  # type: ignore[attr-defined]
        if shared or not isinstance(loader, DataLoader):
            return loader
        keyed = KeyedBatches(loader, part, trainer=trainer, keys=self.keys, generators=self.generators)
        self.trained = keyed if part == "train" else self.trained
        return keyed

    # --- what actbench asks ---

    @property
    def order(self) -> str | None:
        """Fingerprint of the batches of the first epoch that were trained on; None if it is not known."""
        return (self.trained.order or None) if self.trained is not None else None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input: the inner's attribute ``input_shape``, or that of the first training batch."""
        said = getattr(self.inner, "input_shape", None)
        return tuple(self._look("train").shapes[0] if said is None else said)

    @property
    def num_classes(self) -> int:
        """Number of classes: what the DataModule or its dataset says, or else the largest training label and one."""
        said = getattr(self.inner, "num_classes", None) or getattr(self.inner, "classes", None)
        if said is None:
            said = getattr(getattr(self._loader("train"), "dataset", None), "classes", None)
        if said is None:
            said = self._look("train").labels[1] + 1
        return len(said) if hasattr(said, "__len__") else int(said)

    @property
    def parts(self) -> list[str]:
        """Of train, val and test, those that have a loader."""
        return [part for part in PARTS if f"{part}_dataloader" in vars(self)]

    def has_labels(self, part: str) -> bool:
        """Whether batches of a part have labels: a test part need not, as long as nobody scores it."""
        with unchanged_generators():
            batch = next(iter(self._loader(part)), None)
        try:
            return read_batch(batch, self.keys).labels is not None
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
            self._loader(part)
        for part in parts:
            look = self._look(part)
            other = [shape for shape in look.shapes if shape != self.input_shape]
            if other:
                raise DataError(f"inputs of the {part} part have the shape {other[0]}, not {self.input_shape}")
            classes = self.num_classes
            wrong = [label for label in look.labels if not 0 <= label < classes]
            if wrong:
                raise DataError(f"the {part} part has the label {wrong[0]}, and there are {classes} classes")

    def digest(self) -> str:
        """Hash of what the loaders yield in the first epoch, the same in every process."""
        looks, files = [self._look(part) for part in PARTS], dict[tuple[Path, ...], bytes]()
        return hashed(*(hashed(look.read, sources_hash(look.rest, files)) for look in looks)).hex()[:32]

    def _loader(self, part: str) -> Any:
        """A part's only loader.

        Raises:
            DataError: There is none, or there are several.
        """
        name = f"{part}_dataloader"
        with unchanged_generators(), attended(self, part):
            self.prepare_data()
            if name not in vars(self):
                raise DataError(f"{type(self.inner).__name__} has no {name}, which is needed")
            self.setup("test" if part == "test" else "fit")
            loader = only(getattr(self.inner, name)())
        if isinstance(loader, list | tuple | Mapping) and any(isinstance(of, DataLoader) for of in parts_of(loader)):
            raise DataError(f"{name} of {type(self.inner).__name__} gives {len(loader)} loaders, and one is needed")
        return loader

    def _look(self, part: str) -> Look:
        """What a part's batches hold, which is looked at once."""
        if part not in self.looks:
            loader = self._loader(part)
            with unchanged_generators(), attended(self, part):
                self.looks[part] = self._look_through(part, loader)
        return self.looks[part]

    def _look_through(self, part: str, loader: Any) -> Look:
        known = contents(loader)
        labels, shapes = [known.labels] if known else [], dict[tuple[int, ...], None]()
        digests = list[bytes]()
        limit = FEW if known else None if has_length(loader) else UNSIZED
        patience = time.monotonic() + PATIENCE
        for batch in itertools.islice(self._read(part, loader), limit):
            labels.append(cast(Tensor, batch.labels))
            shapes[tuple(batch.inputs.shape[1:])] = None
            digests.append(batch_digest(batch))
            if time.monotonic() > patience:
                patience = math.inf
                rank_zero_info(f"reading the {part} part of {type(self.inner).__name__} through, to check it")
        if not shapes:
            raise DataError(f"the {part} part of {type(self.inner).__name__} has no batch")
        if isinstance(loader, DataLoader):
            again = next(self._read(part, loader), None)
            if again and batch_digest(again) != digests[0]:
                rank_zero_warn(
                    f"the {part} part of {type(self.inner).__name__} differs each time it is read: it draws from a "
                    "generator of its own, so that finished replicates are not found again"
                )
        every = torch.cat(labels)
        bounds = int(every.min()), int(every.max())
        return Look([*shapes], bounds, hashed(*digests), known.sources if known else ())

    def _read(self, part: str, loader: Any) -> Iterator[Batch]:
        """Batches of a part as they are in the first epoch and in every process, on the CPU."""
        batches = KeyedBatches(loader, part, trainer=None, keys=self.keys, generators=self.generators)
        for given in batches:
            batch = self.on_before_batch_transfer(given, 0)
            batch = self.transfer_batch_to_device(batch, torch.device("cpu"), 0)
            read = read_batch(self.on_after_batch_transfer(batch, 0), self.keys)
            if read.labels is None:
                hint = f"; {NAME_THEM}" if is_mapping(given) else ""
                raise DataError(f"batches of the {part} part have no labels: {kind(given)}{hint}")
            yield read


def batch_digest(batch: Batch) -> bytes:
    """Hash of a batch."""
    return hashed(f"{tuple(batch.inputs.shape)} {batch.inputs.dtype}".encode(), *map(as_bytes, batch[:2]))


@contextmanager
def attended(datamodule: ForeignData, part: str) -> Iterator[None]:
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
