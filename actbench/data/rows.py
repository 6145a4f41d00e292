"""Rows of a dataset: their split into parts, and their order in batches."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from actbench.seeding import stream


class Rows(NamedTuple):
    """A batch before its images are gathered: a part, and each replicate's row numbers in that part's table."""

    part: str
    rows: Int64[Tensor, "replicates batch"]


class Batch(NamedTuple):
    """A batch: one for each replicate, with a leading axis for replicates, or one that all share."""

    inputs: Tensor
    labels: Tensor | None
    rows: Tensor | None  # row numbers in the part's table, where they are known


class RowBatches:
    """Batches of rows, shared among devices. A loader can resume in the middle of an epoch.

    Epoch, device and number of devices are those of the Trainer when the first
    batch is asked for. Batches are the same for any number of devices: device
    ``r`` of ``w`` takes every w-th row, beginning with the r-th, so that no row
    is seen twice. A device may get no row of a small last batch.

    Args:
        part: Name of the part.
        rows: Row numbers of the part, for each replicate.
        batch_size: Rows in a batch, over all devices together; the last batch may have fewer.
        seeds: Key each replicate's order, which is new each epoch. None keeps the order of ``rows``, as does
            ``overfit_batches``.
        drop_last: Leave out a last batch with fewer rows.
        trainer: The Trainer. None stands for epoch 0 on one device.
    """

    def __init__(
        self,
        part: str,
        rows: Int64[Tensor, "replicates part"],
        batch_size: int,
        *,
        seeds: Sequence[int] | None = None,
        drop_last: bool = False,
        trainer: Any = None,
    ) -> None:
        self.part = part
        self.rows = rows
        self.batch_size = batch_size
        self.seeds = seeds
        self.drop_last = drop_last
        self.trainer = trainer
        self.epoch = 0
        self.batches = 0  # handed out in this epoch
        self.resumed = False

    def __len__(self) -> int:
        rows = self.rows.shape[1]
        return rows // self.batch_size if self.drop_last else -(-rows // self.batch_size)

    def __iter__(self) -> Iterator[Rows]:
        # A generator: nothing runs before the first batch is asked for. Lightning makes iterators early.
        trainer = self.trainer
        epoch, rank, world = (trainer.current_epoch, trainer.global_rank, trainer.world_size) if trainer else (0, 0, 1)
        # With limit_train_batches an epoch may end before its last batch: its position is not the next epoch's.
        first = self.batches if self.resumed and self.epoch == epoch else 0
        self.epoch, self.resumed = epoch, False

        rows = self.rows
        if self.seeds is not None and not (trainer and trainer.overfit_batches):
            streams = [stream(seed, "order", epoch) for seed in self.seeds]
            order = torch.stack([torch.randperm(rows.shape[1], generator=generator) for generator in streams])
            rows = rows.gather(1, order)
        batches = torch.split(rows, self.batch_size, dim=1)[first : len(self)]
        for number, batch in enumerate(batches, start=first + 1):
            self.batches = number
            yield Rows(self.part, batch[:, rank::world])

    def state_dict(self) -> dict[str, int]:
        """The position in the epoch: how many of its batches were handed out, 0 after the last."""
        return {"epoch": self.epoch, "batches": self.batches % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next iteration at this position, if it runs over the same epoch."""
        self.epoch, self.batches, self.resumed = state["epoch"], state["batches"], True


def stratified_split(
    labels: Int64[Tensor, " rows"], fractions: Sequence[float], generator: torch.Generator
) -> list[Int64[Tensor, " _"]]:
    """Random partition of all rows, with every class in proportion in each part, to within one row.

    Args:
        labels: Class of each row.
        fractions: Share of each part. They are positive and sum to 1, or ValueError is raised.
        generator: Draws the rows of each part.

    Returns:
        Row numbers of each part, in ascending order.
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions must be positive and sum to 1, got {tuple(fractions)}")
    order = torch.randperm(len(labels), generator=generator)
    bounds = torch.tensor(fractions, dtype=torch.float64).cumsum(0)[:-1]
    parts = [[order[:0]] for _ in fractions]
    for label in torch.unique(labels):
        rows = order[labels[order] == label]
        for part, share in zip(parts, rows.tensor_split((bounds * len(rows)).round().long()), strict=True):
            part.append(share)
    return [torch.cat(part).sort().values for part in parts]
