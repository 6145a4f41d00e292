"""DataModules of the user, shared by all replicates."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from typing_extensions import override

from actbench.data.batches import PARTS, KeyedBatches, members, only, seed_globally
from actbench.data.images import DataError, ImageData
from actbench.data.scout import Scout


def adopt(
    datamodule: Any, *, keys: Sequence[str] | None = None, again: Callable[[], "ForeignData"] | None = None
) -> Any:
    """A DataModule as actbench trains on it: ours as it is, any other wrapped; see `ForeignData`."""
    known = isinstance(datamodule, ImageData | ForeignData)
    return datamodule if known else ForeignData(datamodule, keys=keys, again=again)


class ForeignData(LightningDataModule):
    """A LightningDataModule of the user's, of `pytorch_lightning` or of `lightning`, shared by all replicates.

    Its split and training batches depend on the epoch only, and not on which
    replicates train on them. On several devices, or when the same few batches
    are trained on again and again, Lightning has to see the loaders themselves.

    Args:
        inner: The user's; DataError is raised for anything but a LightningDataModule.
        keys: Keys of inputs and labels, where batches are mappings with unusual names.
        again: Makes another like it, which is looked at in its stead: reading may change what is read later.
    """

    def __init__(
        self, inner: Any, *, keys: Sequence[str] | None = None, again: Callable[[], "ForeignData"] | None = None
    ) -> None:
        super().__init__()
        self.inner = inner
        self.keys = keys
        self.again = again
        self.prepared: set[str | None] = set()
        self.trained: KeyedBatches | None = None
        self.generators: dict[torch.Generator, int] = {}  # of loaders, with the seeds that their owners gave them
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
        if self.again:
            vars(self).pop("scout", None)  # with all that it has read
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
        if shared or isinstance(loader, list | tuple | Mapping) or members(loader):
            return loader
        keyed = KeyedBatches(loader, part, self, trainer)
        self.trained = keyed if part == "train" else self.trained
        return keyed

    # --- what actbench asks ---

    @property
    def order(self) -> str | None:
        """Fingerprint of the batches of the first epoch that were trained on; None if it is not known."""
        return (self.trained.order or None) if self.trained is not None else None

    @property
    def parts(self) -> list[str]:
        """Of train, val and test, those that have a loader."""
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
        """What is known of its batches."""
        return Scout(self.again() if self.again else self, self.again)
