"""Images that fit in memory, kept as tensors on the device that trains."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from hashlib import sha256
from itertools import chain
from typing import Any, NamedTuple

import torch
from jaxtyping import Float32, Int64, Num
from pytorch_lightning import LightningDataModule
from torch import Tensor
from typing_extensions import override

from actbench.data.augmentation import crop, draw_crops
from actbench.data.rows import Batch, RowBatches, Rows, stratified_split
from actbench.data.scaling import Normalization, Scales, scales
from actbench.seeding import stream

MAX_REPLICATES = 100_000  # of a run
HELD_OUT = 0.15  # default share of the images that is held out for validation, and as many for testing
SCORED_ROWS = 1000  # in a batch that is only scored, whose size changes the speed but not the score
SCORED_IMAGES = 30_000  # in such a batch, over all replicates


class DataError(ValueError):
    """A dataset's files are missing or damaged, could not be fetched, or hold too few images. One line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines()))


class LabelledImages(NamedTuple):
    """Images as read, or other inputs of one shape, and their classes."""

    images: Num[Tensor, "rows ..."]
    labels: Int64[Tensor, " rows"]


class Part(NamedTuple):
    """Row numbers of a part, for each replicate, in one of the dataset's tables."""

    table: int
    rows: Int64[Tensor, "replicates part"]


class ImageData(LightningDataModule, ABC):
    """Images, or other inputs of one shape, that fit in memory, kept as tensors on the device that trains.

    Loaders yield `Rows`. Images are gathered on the device, in
    ``transfer_batch_to_device``, because a DataLoader that fetches image by
    image takes 15 to 320 times longer. A step sees ``(images, labels, rows)``:
    images (replicates, batch, channels, height, width), float32 in [0, 1] unless
    they are normalised, and (replicates, batch) labels and row numbers in the
    part's table. Predictions are made for the test part.

    Each replicate has its own split, batch order and augmentation. They follow
    from its seed alone, so they do not depend on other replicates, on the batch
    size, on the device or on earlier runs.

    After ``setup``, ``tables`` holds the images (one table of the rows that are
    split, then one of each official part), and ``parts`` the rows of train, val,
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

    input_shape: tuple[int, ...]
    num_classes: int
    white: int = 255  # the largest value of a pixel; 1 for inputs that are taken as they are
    official_val: bool = False  # validation images have a table of their own, and val_fraction has no effect
    official_test: bool = False  # test images have a table of their own, and test_fraction has no effect
    augment: bool = False  # training images are padded and cropped
    flip: bool = True  # and half of them mirrored
    normalize: Normalization = "none"

    def __init__(
        self,
        batch_size: int = 64,
        val_fraction: float = HELD_OUT,
        test_fraction: float = HELD_OUT,
        seed: int = 0,
        replicates: int = 1,
        drop_last: bool = False,
    ) -> None:
        super().__init__()
        fractions = {}
        if not self.official_val:
            fractions["val_fraction"] = val_fraction
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
        self.crops: tuple[int, Tensor] | None = None  # an epoch, and the crops of all rows of each replicate in it
        self.scales: Scales | None = None  # of `normalization`
        self.pixel_scales: Scales | None = None  # the same on the device that trains

    @abstractmethod
    def read(self) -> list[LabelledImages]:
        """Read all images into one table, and into one more for each official part, val before test."""

    def augmented(
        self, images: Num[Tensor, "replicates batch ..."], rows: Int64[Tensor, "replicates batch"]
    ) -> Num[Tensor, "replicates batch ..."]:
        """A training batch after random augmentation: unchanged without ``augment``."""
        if not self.augment:
            return images
        if self.crops is None or self.crops[0] != self.epoch:
            count = len(self.tables[0].labels)
            streams = [stream(seed, "augmentation", self.epoch) for seed in self.seeds]
            crops = torch.stack([draw_crops(count, generator, flip=self.flip).byte() for generator in streams])
            self.crops = self.epoch, crops.to(rows.device)
        replicate = torch.arange(len(rows), device=rows.device)[:, None]
        crops = self.crops[1].to(rows.device)[replicate, rows].long()
        return crop(images.flatten(0, 1), crops.flatten(0, 1)).view(images.shape)

    def normalized(
        self, images: Float32[Tensor, "replicates batch channels height width"]
    ) -> Float32[Tensor, "replicates batch channels height width"]:
        """A batch of images in [0, 1], by channel: minus the mean, over the standard deviation."""
        if self.pixel_scales is None or self.pixel_scales.mean.device != images.device:
            self.pixel_scales = self._known_scales().per_pixel(images.device)
        return (images - self.pixel_scales.mean) / self.pixel_scales.deviation

    def _known_scales(self) -> Scales:
        if self.scales is None:
            if self.normalize == "train" or not self.parts:
                self.setup()
            self.scales = scales(self.normalize, self.tables[0].images, self.parts["train"].rows, white=self.white)
        return self.scales

    def normalization(self) -> dict[str, Any]:
        """How images are normalised, in the form that a checkpoint holds.

        ``kind`` is the option ``normalize``. Unless that is none, ``mean`` and ``deviation`` have the shape
        (replicates, channels).
        """
        if self.normalize == "none":
            return {"kind": "none"}
        return {"kind": self.normalize} | {
            name: values.cpu() for name, values in self._known_scales()._asdict().items()
        }

    def restore_normalization(self, saved: Mapping[str, Any] | None) -> None:
        """Normalise images as those that replicates were trained on, whatever the training part is now.

        Args:
            saved: The `normalization` in training; None if the network was not trained on such data.

        Raises:
            DataError: ``normalize`` differs from that in training, or the number of replicates or channels does.
        """
        name = type(self).__name__
        if saved is None:
            if self.normalize == "train":
                raise DataError(f"{name}: data.normalize is train, and the checkpoint has no means of a training part")
            return
        if saved["kind"] != self.normalize:
            raise DataError(
                f"{name}: data.normalize is {self.normalize}, and was {saved['kind']} when the network was trained"
            )
        if saved["kind"] == "none":
            return
        shape = len(self.seeds), self.input_shape[0]
        if saved["mean"].shape != shape:
            raise DataError(
                f"{name}: the network was trained with {' x '.join(map(str, saved['mean'].shape))} means (replicates x "
                f"channels), and the data have {' x '.join(map(str, shape))}"
            )
        self.scales, self.pixel_scales = Scales(saved["mean"], saved["deviation"]), None

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
        shares = (1.0 - sum(self.fractions.values()), *self.fractions.values())
        splits = [stratified_split(labels, shares, stream(seed, "split")) for seed in self.seeds]
        drawn = {"train": 1.0, **self.fractions}  # the parts of the first table
        parts = {
            name.removesuffix("_fraction"): Part(0, torch.stack(rows))
            for name, rows in zip(drawn, zip(*splits, strict=True), strict=True)
        }
        official = [name for name in ("val", "test") if name not in parts]
        for index, name in enumerate(official, start=1):
            every_row = torch.arange(len(self.tables[index].labels))
            parts[name] = Part(index, every_row.expand(len(self.seeds), -1))
        self.check_classes(parts)
        train = parts["train"].rows
        if self.drop_last and 0 < train.shape[1] < self.batch_size:
            raise DataError(
                f"drop_last leaves no batch: {train.shape[1]} training images, batch_size {self.batch_size}"
            )
        self.parts = {**parts, "predict": parts["test"]}

    def check_classes(self, parts: dict[str, Part]) -> None:
        """Raise DataError for a part that lacks a class."""
        for name, part in parts.items():  # every split has equally many images of a class
            counts = self.tables[part.table].labels[part.rows[0]].bincount(minlength=self.num_classes)
            if not counts.all():
                split = ", ".join(f"{option} {value}" for option, value in self.fractions.items())
                raise DataError(
                    f"the {name} part of {type(self).__name__} has no image of class {int(counts.argmin())}: "
                    f"{len(self.tables[part.table].labels)} images are too few for {split}"
                )

    def digest(self) -> str:
        """Hash of all images and labels."""
        self.prepare_data()
        total = sha256()
        for values in chain.from_iterable(self.tables):
            total.update(f"{tuple(values.shape)} {values.dtype}".encode())
            total.update(values.cpu().contiguous().numpy().data)
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
        images, labels = (values.index_select(0, flat).view(*rows.shape, *values.shape[1:]) for values in table)
        if batch.part == "train":
            images = self.augmented(images, rows)
        inputs = images.float() / self.white
        return Batch(inputs if self.normalize == "none" else self.normalized(inputs), labels, rows)


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
