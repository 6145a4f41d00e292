"""A foreign DataModule's batches, which all replicates share: they depend on the epoch, and on no replicate's seed."""

from collections.abc import Iterator
from typing import Any, cast

from pytorch_lightning import LightningDataModule, seed_everything
from torch.utils.data import DataLoader

from actbench.streams import Purpose, stream_seed

SEED = 0  # of what replicates share


class SharedBatches:
    """A loader whose batches depend on the epoch only, and that can be resumed inside one.

    What it draws from the global generators is keyed by epoch and batch.

    Args:
        loader: What is shared.
        trainer: Says which epoch it is.
    """

    def __init__(self, loader: DataLoader[Any], trainer: Any) -> None:
        self.loader = loader
        self.trainer = trainer
        self.epoch = 0
        self.batches = 0  # handed out in this epoch
        self.resumed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        # A generator: nothing runs before the first batch is asked for. Lightning makes iterators early.
        epoch = self.trainer.current_epoch
        first = self.batches if self.resumed and self.epoch == epoch else 0
        self.epoch, self.batches, self.resumed = epoch, 0, False
        seed_globally("order", epoch)
        iterator = iter(self.loader)
        while True:
            seed_globally("order", epoch, self.batches)
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.batches += 1
            if self.batches > first:
                yield batch

    def state_dict(self) -> dict[str, int]:
        """The place in the epoch."""
        return {"epoch": self.epoch, "batches": self.batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration start at this place, if it is one over the same epoch."""
        self.epoch, self.batches, self.resumed = state["epoch"], state["batches"], True


def share(datamodule: LightningDataModule) -> None:
    """Let a DataModule's split and training batches be the same whichever replicates train on them.

    On several devices, or when the same few batches are trained on again and
    again, Lightning has to see the loader itself, and its batches follow from the run's seed.
    """
    setup, train_dataloader = datamodule.setup, datamodule.train_dataloader

    def keyed_setup(stage: str | None = None) -> None:
        seed_globally("split")
        setup(stage)  # type: ignore[arg-type]

    def shared_batches() -> Any:
        loader, trainer = train_dataloader(), cast(Any, datamodule.trainer)
        shares = trainer and trainer.world_size == 1 and not trainer.overfit_batches
        return SharedBatches(loader, trainer) if shares and isinstance(loader, DataLoader) else loader

    vars(datamodule).update(setup=keyed_setup, train_dataloader=shared_batches)


def seed_globally(purpose: Purpose, *index: int) -> None:
    """Seed the global generators with what replicates share."""
    seed_everything(stream_seed(SEED, purpose, *index) % 2**32, verbose=False)
