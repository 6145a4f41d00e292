"""Images that fit in memory, kept as tensors on the device that trains."""

from abc import ABC, abstractmethod
from hashlib import sha256
from itertools import chain
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64, UInt8
from pytorch_lightning import LightningDataModule
from torch import Tensor
from typing_extensions import override

from actbench.data.rows import Batch, RowBatches, Rows, stratified_split
from actbench.seeding import stream

MAX_REPLICATES = 100_000  # of a run
SCORED_ROWS = 1000  # in a batch that is only scored, whose size changes the speed but not the score
SCORED_IMAGES = 30_000  # in such a batch, over all replicates


class DataError(ValueError):
    """A dataset's files are missing or damaged, could not be fetched, or hold too few images. One line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines()))


class LabelledImages(NamedTuple):
    """Images as read, and their classes."""

    images: UInt8[Tensor, "rows channels height width"]
    labels: Int64[Tensor, " rows"]


class Part(NamedTuple):
    """Row numbers of a part, for each replicate, in one of the dataset's tables."""

    table: int
    rows: Int64[Tensor, "replicates part"]


class ImageData(LightningDataModule, ABC):
    """Images that fit in memory, kept as tensors on the device that trains.

    Loaders yield `Rows`. Images are gathered on the device, in
    ``transfer_batch_to_device``, because a DataLoader that fetches image by
    image takes 15 to 320 times longer. A step sees ``(images, labels, rows)``:
    images (replicates, batch, channels, height, width), float32 in [0, 1], and
    (replicates, batch) labels and row numbers in the part's table. Predictions
    are made for the test part.

    Each replicate has its own split, batch order and augmentation. They follow
    from its seed alone, so they do not depend on other replicates, on the batch
    size, on the device or on earlier runs.

    After ``setup``, ``tables`` holds the images (one table of all rows, or
    training rows and official test rows), and ``parts`` the rows of train, val,
    test and predict.

    Args:
        batch_size: Images per optimiser step, over all devices together.
        val_fraction: Share of the images held out for validation.
        test_fraction: Share of the images held out for testing.
        seed: Keys the split and the batch order of the first replicate; the others' seeds follow.
        replicates: Number of batches to yield at once, one for each seed.
        drop_last: Leave out an epoch's last training batch if it has fewer images than the others.

    Raises:
        ValueError: An argument is out of range.
        DataError: In ``setup``: a part lacks a class.
    """

    input_shape: tuple[int, int, int]
    num_classes: int
    white: int = 255  # the largest value of a pixel
    official_test: bool = False  # test images have a table of their own, and test_fraction has no effect

    def __init__(
        self,
        batch_size: int = 64,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        seed: int = 0,
        replicates: int = 1,
        drop_last: bool = False,
    ) -> None:
        super().__init__()
        fractions = {"val_fraction": val_fraction}
        if not self.official_test:
            fractions["test_fraction"] = test_fraction
        check_at_least(1, batch_size=batch_size)
        check_replicates(replicates)
        for name, value in fractions.items():
            if not 0 < value < 1:
                raise ValueError(f"{name} must lie strictly between 0 and 1, got {value}")
        if sum(fractions.values()) >= 1:
            raise ValueError(f"{' + '.join(fractions)} must be below 1, got {' + '.join(map(str, fractions.values()))}")
        # For checkpoints. The model logs these arguments, and records the seeds.
        self.save_hyperparameters({"batch_size": batch_size, **fractions, "drop_last": drop_last}, logger=False)
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.fractions = fractions
        self.seeds = range(seed, seed + replicates)
        self.tables: list[LabelledImages] = []
        self.parts: dict[str, Part] = {}

    @abstractmethod
    def read(self) -> list[LabelledImages]:
        """Read all images into one table, or into two: training images and official test images."""

    def augmented(
        self, images: UInt8[Tensor, "replicates batch channels height width"], rows: Int64[Tensor, "replicates batch"]
    ) -> UInt8[Tensor, "replicates batch channels height width"]:
        """A training batch after random augmentation; unchanged by default."""
        return images

    @property
    def epoch(self) -> int:
        """The Trainer's current epoch; 0 without a Trainer."""
        return self.trainer.current_epoch if self.trainer else 0

    @override
    def prepare_data(self) -> None:
        self.tables = self.tables or self.read()

    @override
    def setup(self, stage: str | None = None) -> None:
        if self.parts:
            return
        self.prepare_data()  # Lightning calls it in only one of several processes
        labels = self.tables[0].labels
        shares = (1 - sum(self.fractions.values()), *self.fractions.values())
        splits = [stratified_split(labels, shares, stream(seed, "split")) for seed in self.seeds]
        train, val, *rest = (torch.stack(rows) for rows in zip(*splits, strict=True))
        test = rest[0] if rest else torch.arange(len(self.tables[-1].labels)).expand(len(self.seeds), -1)
        parts = {"train": Part(0, train), "val": Part(0, val), "test": Part(len(self.tables) - 1, test)}
        for name, part in parts.items():  # every split has equally many images of a class
            counts = self.tables[part.table].labels[part.rows[0]].bincount(minlength=self.num_classes)
            if not counts.all():
                split = ", ".join(f"{option} {value}" for option, value in self.fractions.items())
                raise DataError(
                    f"the {name} part of {type(self).__name__} has no image of class {int(counts.argmin())}: "
                    f"{len(labels)} images are too few for {split}"
                )
        if self.drop_last and train.shape[1] < self.batch_size:
            raise DataError(
                f"drop_last leaves no batch: {train.shape[1]} training images, batch_size {self.batch_size}"
            )
        self.parts = {**parts, "predict": parts["test"]}

    def digest(self) -> str:
        """Hash of all images and labels."""
        self.prepare_data()
        total = sha256()
        for values in chain.from_iterable(self.tables):
            total.update(f"{tuple(values.shape)} {values.dtype}".encode())
            total.update(values.cpu().contiguous().numpy().tobytes())
        return total.hexdigest()[:32]

    def _scored_batches(self, part: str) -> RowBatches:
        size = min(SCORED_ROWS, max(SCORED_ROWS // 10, SCORED_IMAGES // len(self.seeds)))
        return RowBatches(part, self.parts[part].rows, size, trainer=self.trainer)

    @override
    def train_dataloader(self) -> RowBatches:
        rows, trainer = self.parts["train"].rows, self.trainer
        return RowBatches("train", rows, self.batch_size, seeds=self.seeds, drop_last=self.drop_last, trainer=trainer)

    @override
    def val_dataloader(self) -> RowBatches:
        return self._scored_batches("val")

    @override
    def test_dataloader(self) -> RowBatches:
        return self._scored_batches("test")

    @override
    def predict_dataloader(self) -> RowBatches:
        return self._scored_batches("predict")

    @override
    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        if not isinstance(batch, Rows):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        index = self.parts[batch.part].table
        table = self.tables[index] = LabelledImages(*(values.to(device) for values in self.tables[index]))
        rows = batch.rows.to(device)
        flat = rows.flatten()  # on a CPU, index_select is 6 times faster than [rows]
        images, labels = table.images.index_select(0, flat), table.labels[rows]
        images = images.view(*rows.shape, *images.shape[1:])
        if batch.part == "train":
            images = self.augmented(images, rows)
        return Batch(images.float() / self.white, labels, rows)


def check_replicates(replicates: int) -> None:
    """Raise ValueError for a number of replicates that is too small or absurdly large."""
    check_at_least(1, replicates=replicates)
    if replicates > MAX_REPLICATES:
        raise ValueError(f"replicates must be at most {MAX_REPLICATES:,}, got {replicates:,}")


def check_at_least(least: int, **options: int) -> None:
    """Raise ValueError for the first option that is too small."""
    for name, value in options.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
