"""A user's own DataModule, shared by all replicates."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.trainer.connectors.data_connector import _resolve_overfit_batches
from pytorch_lightning.trainer.states import RunningStage, TrainerFn
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from typing_extensions import override

from actbench.data.batches import PARTS, SEED, KeyedBatches, combined_loaders, unwrapped_loader
from actbench.data.images import DataError, ImageData
from actbench.data.scout import Scout
from actbench.seeding import seed_globally


def adopt(
    datamodule: Any, *, keys: Sequence[str] | None = None, remake: Callable[[], "ForeignData"] | None = None
) -> Any:
    """One of actbench's DataModules as it is, or any other wrapped in `ForeignData`."""
    if isinstance(datamodule, ImageData | ForeignData):
        return datamodule
    return ForeignData(datamodule, keys=keys, remake=remake)


class ForeignData(LightningDataModule):
    """A user's LightningDataModule, from `pytorch_lightning` or `lightning`, shared by all replicates.

    Its split does not depend on which replicates train on it, and its training
    batches depend on the epoch only. On several devices, Lightning has to see the
    loaders themselves.

    Args:
        inner: The user's DataModule; DataError is raised for anything else.
        keys: Names of inputs and labels, where batches are mappings, dataclasses or namedtuples with unusual ones.
        remake: Makes another such DataModule to inspect in its place, because reading may change later batches.
    """

    def __init__(
        self, inner: Any, *, keys: Sequence[str] | None = None, remake: Callable[[], "ForeignData"] | None = None
    ) -> None:
        super().__init__()
        self.inner = inner
        self.keys = keys
        self.remake = remake
        self.prepared: set[str | None] = set()
        self.trained: KeyedBatches | None = None
        self.generators: dict[torch.Generator, int] = {}  # of loaders, with the seeds that their owners gave them
        base = next((cls for cls in type(inner).__mro__ if cls.__name__ == "LightningDataModule"), None)
        if base is None:
            raise DataError(f"{type(inner).__name__} is not a LightningDataModule")
        for part in (*PARTS, "predict"):  # Lightning asks which loaders a DataModule has
            name = f"{part}_dataloader"
            if getattr(inner, name) and (name in vars(inner) or getattr(type(inner), name) is not getattr(base, name)):
                setattr(self, name, partial(self._batches, part))
        if "predict_dataloader" not in vars(self) and "test_dataloader" in vars(self):
            vars(self)["predict_dataloader"] = partial(self._batches, "test")

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    # --- called by Lightning ---

    @override
    def prepare_data(self) -> None:
        if "prepare" not in self.prepared:
            self.prepared.add("prepare")
            self.inner.prepare_data()

    @override
    def setup(self, stage: str | None = None) -> None:
        self.inner.trainer = self.trainer
        if self.remake:
            vars(self).pop("scout", None)  # frees all that it has read
        if stage not in self.prepared:
            self.prepared.add(stage)
            seed_globally(SEED, "split")
            self.inner.setup(stage)

    @override
    def teardown(self, stage: str) -> None:
        self.inner.teardown(stage)
        self.prepared &= {"prepare"}  # it may have freed data that other stages need

    @override
    def on_exception(self, exception: BaseException) -> None:
        self.inner.on_exception(exception)

    @override
    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        trainer = self.trainer
        if trainer and trainer.training:  # batches are fetched ahead, so the generator's state is not this batch's
            seed_globally(SEED, "augmentation", trainer.current_epoch, trainer.fit_loop.batch_idx)
        else:
            seed_globally(SEED, "augmentation")
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
        """A part's loader for Lightning, with keyed batches where possible."""
        loader, trainer = unwrapped_loader(getattr(self.inner, f"{part}_dataloader")()), self.trainer
        several = isinstance(loader, list | tuple | Mapping) or combined_loaders(loader)
        if several or trainer is None or trainer.world_size > 1:
            return loader
        if trainer.overfit_batches and trainer.state.fn == TrainerFn.FITTING:  # type: ignore[attr-defined]
            loaders = CombinedLoader(loader)
            stage = RunningStage.TRAINING if part == "train" else RunningStage.VALIDATING
            _resolve_overfit_batches(loaders, stage)  # not left to Lightning, which would change no keyed loader
            (loader,) = loaders.flattened
        keyed = KeyedBatches(loader, part, self, trainer)
        self.trained = keyed if part == "train" else self.trained
        return keyed

    # --- called by actbench ---

    @property
    def order(self) -> str | None:
        """Fingerprint of the first epoch's training batches; None if it is not known."""
        return (self.trained.order or None) if self.trained is not None else None

    @property
    def parts(self) -> list[str]:
        """Those of train, val and test that have a loader."""
        return [part for part in PARTS if f"{part}_dataloader" in vars(self)]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input; see `Scout`."""
        return self.scout.input_shape

    @property
    def num_classes(self) -> int:
        """Number of classes; see `Scout`."""
        return self.scout.num_classes

    @cached_property
    def scout(self) -> Scout:
        """Inspects the batches."""
        return Scout(self.remake() if self.remake else self, self.remake)
