"""Images that fit in memory, kept as tensors on the device that trains."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64, UInt8
from pytorch_lightning import LightningDataModule
from torch import Tensor
from typing_extensions import override

from actbench.data.rows import RowBatches, Rows, stratified_split
from actbench.streams import stream

SCORED_ROWS = 1000  # of a batch that is only scored: its size changes the speed, not the score


class DataError(ValueError):
    """A dataset's files are missing or damaged, could not be fetched, or hold too few images. One line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines()))


class Table(NamedTuple):
    """Images as they were read, and their classes."""

    images: UInt8[Tensor, "rows channels height width"]
    labels: Int64[Tensor, " rows"]

    def to(self, device: torch.device) -> "Table":
        """The table on a device; itself if it is there already."""
        return self._replace(images=self.images.to(device), labels=self.labels.to(device))


class Part(NamedTuple):
    """Rows that belong together, of one of a dataset's tables."""

    table: int
    rows: Int64[Tensor, " part"]


class ImageData(LightningDataModule, ABC):
    """Images that fit in memory, kept as tensors on the device that trains.

    Loaders yield `Rows`; images are gathered on the device, in
    ``transfer_batch_to_device``, because a DataLoader that fetches image by
    image takes 15 to 320 times longer. A step sees ``(images, labels)``, images
    float32 in [0, 1]; when predicting ``(images, labels, rows)``, of the test
    part, with row numbers in the table that the part is from.

    The split, the order of each epoch, and augmentation follow from ``seed``
    alone, so they do not depend on batch size, device or what ran before.

    After ``setup``, ``tables`` holds what was read (all rows, or the training
    rows and the official test rows) and ``parts`` the rows of train, val, test
    and predict.

    Args:
        batch_size: Images per optimiser step, over all devices together.
        val_fraction: Share of the images held out for validation.
        test_fraction: Share held out for testing; None if the test images have a table of their own.
        seed: Keys the split, the batch order and augmentation.

    Raises:
        ValueError: An argument is out of range.
        DataError: In ``setup``: a part lacks a class.
    """

    input_shape: tuple[int, int, int]
    num_classes: int
    white: int = 255  # the largest value of a pixel

    def __init__(self, *, batch_size: int, val_fraction: float, test_fraction: float | None, seed: int) -> None:
        super().__init__()
        fractions = {"val_fraction": val_fraction}
        if test_fraction is not None:
            fractions["test_fraction"] = test_fraction
        check_at_least(1, batch_size=batch_size)
        for name, value in fractions.items():
            if not 0 < value < 1:
                raise ValueError(f"{name} must lie strictly between 0 and 1, got {value}")
        if sum(fractions.values()) >= 1:
            raise ValueError(f"{' + '.join(fractions)} must be below 1, got {' + '.join(map(str, fractions.values()))}")
        # For checkpoints, without the seed, which the model records. The model logs them.
        self.save_hyperparameters({"batch_size": batch_size, **fractions}, logger=False)
        self.batch_size = batch_size
        self.fractions = fractions
        self.seed = seed
        self.tables: list[Table] = []
        self.parts: dict[str, Part] = {}

    @abstractmethod
    def read(self) -> list[Table]:
        """Read all images, in one table or in two: for training, and the official ones for testing."""

    def augmented(
        self, images: UInt8[Tensor, "batch channels height width"], rows: Int64[Tensor, " batch"]
    ) -> UInt8[Tensor, "batch channels height width"]:
        """A training batch changed at random; here, unchanged."""
        return images

    @property
    def epoch(self) -> int:
        """The Trainer's epoch, 0 if there is no Trainer."""
        return self.trainer.current_epoch if self.trainer else 0

    @override
    def prepare_data(self) -> None:
        self.tables = self.tables or self.read()

    @override
    def setup(self, stage: str | None = None) -> None:
        if self.parts:
            return
        self.prepare_data()  # which Lightning calls on one process of several only
        labels = self.tables[0].labels
        shares = (1 - sum(self.fractions.values()), *self.fractions.values())
        train, val, *rest = stratified_split(labels, shares, stream(self.seed, "split"))
        test = rest[0] if rest else torch.arange(len(self.tables[-1].labels))
        parts = {"train": Part(0, train), "val": Part(0, val), "test": Part(len(self.tables) - 1, test)}
        for name, part in parts.items():
            self._check_classes(name, self.tables[part.table].labels[part.rows])
        self.parts = {**parts, "predict": parts["test"]}

    def _check_classes(self, part: str, labels: Int64[Tensor, " part"]) -> None:
        counts = labels.bincount(minlength=self.num_classes)
        if not counts.all():
            split = ", ".join(f"{name} {value}" for name, value in self.fractions.items())
            raise DataError(
                f"the {part} part of {type(self).__name__} has no image of class {int(counts.argmin())}: "
                f"{len(self.tables[0].labels)} images are too few for {split}"
            )

    def _batches(self, part: str, batch_size: int, seed: int | None = None) -> RowBatches:
        return RowBatches(part, self.parts[part].rows, batch_size, seed=seed, trainer=self.trainer)

    @override
    def train_dataloader(self) -> RowBatches:
        return self._batches("train", self.batch_size, self.seed)

    @override
    def val_dataloader(self) -> RowBatches:
        return self._batches("val", SCORED_ROWS)

    @override
    def test_dataloader(self) -> RowBatches:
        return self._batches("test", SCORED_ROWS)

    @override
    def predict_dataloader(self) -> RowBatches:
        return self._batches("predict", SCORED_ROWS)

    @override
    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        if not isinstance(batch, Rows):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        number = self.parts[batch.part].table
        table = self.tables[number] = self.tables[number].to(device)
        rows = batch.rows.to(device)
        images, labels = table.images.index_select(0, rows), table.labels[rows]  # on a CPU, 6 times faster than [rows]
        if batch.part == "train":
            images = self.augmented(images, rows)
        scaled = images.float() / self.white
        return (scaled, labels, rows) if batch.part == "predict" else (scaled, labels)


def check_at_least(least: int, **options: int) -> None:
    """Refuse options that are too small.

    Raises:
        ValueError: One is; the message names it.
    """
    for name, value in options.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
