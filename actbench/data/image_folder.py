"""Pictures in a folder for each class."""

import json
import os
from collections.abc import Sequence
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning.utilities import rank_zero_info
from typing_extensions import override

from actbench.data.decoding import Decoded, decoded_pictures
from actbench.data.folders import PictureFolder, scan_pictures, scan_unlabelled
from actbench.data.images import HELD_OUT, DataError, ImageData, LabelledImages, Part, check_at_least
from actbench.data.pictures import PictureError, picture_size
from actbench.data.rows import Batch
from actbench.data.scaling import Normalization

NAMED = 6  # classes that a line names


class ImageFolder(ImageData):
    """Your own pictures: a folder for each class, in folders train, val and test, or split by the seed.

    Classes are numbered in the order of their names, which ``classes`` holds, and row numbers follow class and path
    as in torchvision.
    Files end as torchvision reads them (jpg, jpeg, png, ppm, bmp, pgm, tif, tiff, webp); folders within a class belong
    to it. Pictures are decoded once, turned upright by their EXIF orientation, and kept as bytes in a file from which
    later runs map them into memory; it is made anew if a picture or an option changes. Transparency is ignored, 16-bit
    grey pictures are scaled to 8 bits, and an animation is its first frame.

    Parts that have a folder (``valid``, ``validation``, ``training`` and ``testing`` count, too) are taken as they are;
    the others are split off the training folder, or off the whole if there are no such folders, with all classes in
    proportion. With ``train`` and ``val`` alone, the test part is thus split off ``train``: what chooses is not what
    is scored in the end. Call the folder ``test`` to have it scored. A folder without ``train`` can be scored with a
    checkpoint, but not trained on. If none of these folders has folders within, and others lie beside them, they are
    classes that are called so.

    Without folders for two or more classes, all pictures in the folder and the folders within can be predicted with a
    checkpoint, and nothing else. They have no labels, and the classes are those of the checkpoint.

    Args:
        root: Folder that contains a folder for each class, or folders train, val and test that do. For predictions, any
            folder with pictures.
        image_size: Height and width in pixels, or one number for both. Pictures are resized with antialiasing to cover
            the size, and the centre is cropped. By default, all pictures must have one size, which is kept.
        channels: 3 for colour, 1 for grey.
        normalize: none leaves pixels in [0, 1]. imagenet subtracts the channel means of ImageNet and divides by its
            standard deviations. train does so with those of the replicate's own training part, before augmentation;
            nothing of val or test enters. A checkpoint keeps them, and other pictures are normalised by them.
        augment: Change training images at random in each epoch: pad them with 4 black pixels on each side, crop them
            to their size, and mirror half of them left to right.
        skip_damaged: Leave out files that are damaged, empty or no picture, and say how many. By default, the first
            ends the run.
        cache: Folder for the decoded pictures; by default actbench in XDG_CACHE_HOME or ~/.cache.
        val_fraction: Share of the images held out for validation, if there is no folder val.
        test_fraction: Share of the images held out for testing, if there is no folder test.

    Raises:
        ValueError: An argument is out of range.
        DataError: The folder does not exist or has no picture, or has a class outside of train alone. In
            ``prepare_data`` or ``setup``: a picture is damaged or has another size, there is no room for the decoded
            pictures, the part that is asked for has no folder, or the pictures have no classes and are not predicted.
    """

    def __init__(
        self,
        root: str,
        image_size: int | list[int] | None = None,
        channels: Literal[1, 3] = 3,
        normalize: Normalization = "none",
        augment: bool = False,
        skip_damaged: bool = False,
        cache: str | None = None,
        batch_size: int = 64,
        val_fraction: float = HELD_OUT,
        test_fraction: float = HELD_OUT,
        seed: int = 0,
        replicates: int = 1,
        drop_last: bool = False,
    ) -> None:
        sizes = [image_size, image_size] if isinstance(image_size, int) else image_size
        if sizes is not None and len(sizes) != 2:
            raise ValueError(f"image_size must be one number, or height and width, got {image_size}")
        if sizes:
            check_at_least(1, image_size=min(sizes))
        for option, path in {"root": str(root), "cache": str(cache or "")}.items():
            if path.encode("utf-8", "replace") != os.fsencode(path):
                raise ValueError(f"{option} must be a path in UTF-8, which configs and logs can hold, got {path!r}")
        self.folder = Path(root).expanduser()
        self._read_as(scan_pictures(self.folder))
        self.official_val, self.official_test = ("val" in self.found.parts), ("test" in self.found.parts)
        super().__init__(batch_size, val_fraction, test_fraction, seed, replicates, drop_last)
        options = {"root": root, "image_size": image_size, "channels": channels, "normalize": normalize}
        options |= {"augment": augment, "skip_damaged": skip_damaged, "cache": cache}
        fractions = {"val_fraction": val_fraction, "test_fraction": test_fraction}
        self.save_hyperparameters({**options, **fractions}, logger=False)
        self.network_classes: int | None = None  # of a network that is to predict pictures without classes
        self.files: list[list[str]] = []  # paths below the root of each table's pictures, in the order of its rows
        self.resize = sizes is not None
        self.skip_damaged = skip_damaged
        self.cache = Path(cache).expanduser() if cache else None
        if self.cache and self.cache.resolve().is_relative_to(self.folder.resolve()):
            raise ValueError(f"cache must lie outside of root, where it would be read as a class, got {cache}")
        self.normalize = normalize
        self.augment = augment
        self.findings: list[str] = []  # what is said after the data were read
        height, width = sizes or self._first_size()[0]
        self.input_shape = (channels, height, width)

    def _read_as(self, found: PictureFolder) -> None:
        """Take what a folder holds as the data, before anything is read."""
        self.found = found
        self.trains = not found.parts.keys().isdisjoint({"all", "train"})
        self.classes = list(found.classes)
        self.pictures = [picture for pictures, _ in found.parts.values() for picture in pictures]

    @property
    @override
    def num_classes(self) -> int:  # type: ignore[override]
        """Number of classes, for pictures without classes those of the network; DataError if that is not known."""
        if self.classes:
            return len(self.classes)
        if self.network_classes is None:
            raise self._only_predicted()
        return self.network_classes

    def _only_predicted(self) -> DataError:
        return DataError(f"ImageFolder: {self.found.obstacle}; as it is, {self.folder} can only be predicted")

    def prepare_prediction(self, input_shape: Sequence[int], num_classes: int, state: Any) -> None:
        """Prepare predictions by a network that was trained on other pictures.

        A folder whose folders are not exactly the classes of the training is read without labels, unless it has folders
        for parts. Without ``image_size``, pictures without labels must have the size of the network's.

        Args:
            input_shape: Channels, height and width of the network's images.
            num_classes: Number of its classes.
            state: The `state_dict` of the data that it was trained on; None if that was no ImageFolder.

        Raises:
            DataError: The first picture has another size, or ``state`` is damaged.
        """
        trained = [] if state is None else trained_on(state)[0]
        if trained and "all" in self.found.parts and self.classes != trained:
            obstacle = (
                f"its folders {shown_names(self.classes)} are not the checkpoint's classes, {shown_names(trained)}"
            )
            self._read_as(scan_unlabelled(self.folder, obstacle))
        if self.found.classes:
            return
        self.classes, self.network_classes = trained, num_classes
        if not self.resize and len(input_shape) == 3:
            size, path = self._first_size()
            if size != tuple(input_shape[1:]):
                raise DataError(
                    f"ImageFolder: {path!r} has {size[0]}x{size[1]} pixels (height x width), and the network takes "
                    f"{input_shape[1]}x{input_shape[2]}: give --data.image_size"
                )
            self.input_shape = (self.input_shape[0], *size)

    def _first_size(self) -> tuple[tuple[int, int], str]:
        """Height and width of the first picture, or of the first that can be read, and its path."""
        for picture in self.pictures:
            path = self.folder / picture.path
            try:
                return picture_size(path), str(path)
            except PictureError as error:
                if not self.skip_damaged:
                    raise DataError(f"ImageFolder: {error}; --data.skip_damaged true leaves such files out") from error
        raise self._no_picture()

    def _no_picture(self) -> DataError:
        return DataError(f"ImageFolder: no file in {self.folder} can be read as a picture")

    @override
    def read(self) -> list[LabelledImages]:
        channels, height, width = self.input_shape
        decoded = decoded_pictures(
            self.folder,
            self.pictures,
            shape=(channels, height, width),
            resize=self.resize,
            skip_damaged=self.skip_damaged,
            cache=self.cache,
        )
        self.findings = self._findings(decoded)
        images = torch.from_numpy(decoded.images)
        whole = torch.ones(len(self.pictures), dtype=torch.bool)
        whole[decoded.damaged] = False
        tables, first_row, first_file = [], 0, 0
        files: list[list[str]] = []
        if not self.trains:
            tables.append(LabelledImages(images[:0], torch.empty(0, dtype=torch.int64)))
            files.append([])
        for pictures, labels in self.found.parts.values():
            is_whole = whole[first_file : first_file + len(labels)]
            kept = torch.tensor(labels)[is_whole]
            tables.append(LabelledImages(images[first_row : first_row + len(kept)], kept))
            files.append([picture.path for picture, keep in zip(pictures, is_whole.tolist(), strict=True) if keep])
            first_row, first_file = first_row + len(kept), first_file + len(pictures)
        self.files = files
        return tables

    def predicted_files(self) -> list[str]:
        """Paths below the root of the pictures that are predicted from, by row number; after ``setup``."""
        return self.files[self.parts["predict"].table]

    def _findings(self, decoded: Decoded) -> list[str]:
        """What may be another than a user thinks, in lines."""
        lines = []
        if self.found.left_out:
            lines.append(f"what is no picture was left out: {self.found.left_out}")
        if decoded.damaged:
            first = self.pictures[decoded.damaged[0]].path
            lines.append(
                f"damaged pictures left out: {len(decoded.damaged):,} of {len(self.pictures):,}, the first {first!r}"
            )
        if self.trains and self.official_val and not self.official_test:
            lines.append(
                f"there is no folder test, so test_fraction {self.fractions['test_fraction']} of train is held out for "
                "testing; call the folder val test to have it scored instead"
            )
        for part, official in {"val": self.official_val, "test": self.official_test}.items():
            option, value = f"{part}_fraction", self.hparams[f"{part}_fraction"]
            if official and value != HELD_OUT:
                lines.append(f"{option} {value} has no effect, because there is a folder {part}")
        part_of = [part for part, (pictures, _) in self.found.parts.items() for _ in pictures]
        split = "all" in self.found.parts
        across = [pair for pair in decoded.equal if split or part_of[pair[0]] != part_of[pair[1]]]
        if across:
            first, other = (self.pictures[number].path for number in across[0])
            where = "perhaps in two parts" if split else "in two parts"
            lines.append(f"pictures {where} that are equal in every pixel: {len(across):,}, as {first!r} and {other!r}")
        return lines

    @override
    def setup(self, stage: str | None = None) -> None:
        if not self.found.classes:
            self._set_up_unlabelled(stage)
            return
        needed = {"fit": "train", "validate": "val", "test": "test", "predict": "test"}.get(stage or "fit", "train")
        if not self.trains and needed not in self.found.parts:
            raise DataError(
                f"ImageFolder: {self.folder} has a folder {next(iter(self.found.parts))}, but none {needed}"
            )
        super().setup(stage)
        sizes = {part: self.parts[part].rows.shape[1] for part in ("train", "val", "test")}
        counts = [f"{size:,} in {part}" for part, size in sizes.items() if size]
        classes = f"{len(self.classes):,} classes ({shown_names(self.classes)})"
        say_once(f"{self.folder}: {classes}, pictures: {', '.join(counts)}")
        self._say_findings()

    def _set_up_unlabelled(self, stage: str | None) -> None:
        """Have all pictures predicted; DataError if anything else is to be done with them, or none can be read."""
        if stage != "predict":
            raise self._only_predicted()
        self.prepare_data()
        every_row = torch.arange(len(self.tables[1].images)).expand(len(self.seeds), -1)
        if not every_row.numel():
            raise self._no_picture()
        nothing = Part(0, every_row[:, :0])
        self.parts = {"train": nothing, "val": nothing, "test": nothing, "predict": Part(1, every_row)}
        say_once(
            f"{self.folder}: pictures to predict: {every_row.shape[1]:,}, without labels, since {self.found.obstacle}"
        )
        self._say_findings()

    def _say_findings(self) -> None:
        for line in self.findings:
            say_once(f"{self.folder}: {line}")

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"classes": self.classes, "listing": self._listing}

    @cached_property
    def _listing(self) -> str:
        """Hash of the paths and sizes of the pictures that are split."""
        pictures, _ = self.found.parts.get("all") or self.found.parts.get("train") or ([], [])
        listed = json.dumps([(picture.path, picture.size) for picture in pictures])
        return sha256(listed.encode()).hexdigest()

    @override
    def load_state_dict(self, state_dict: Any) -> None:
        trained, listing = trained_on(state_dict)
        if not self.found.classes:
            self.classes = trained
            return
        if trained != self.classes:
            raise DataError(
                f"ImageFolder: {self.folder} has the classes {', '.join(self.classes)}; the checkpoint was trained on "
                f"{', '.join(trained)}"
            )
        validates = self.trainer is not None and self.trainer.state.fn in ("fit", "validate")
        official = self.official_val if validates else self.official_test
        if not official and listing != self._listing:
            say_once(
                f"{self.folder}: the pictures are not those that the checkpoint was trained on, and are split anew: if "
                "some are the same, a picture that was trained on may be scored"
            )

    @override
    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        labelled = self.found.classes or not isinstance(moved, Batch)
        return moved if labelled else moved._replace(labels=None)

    @override
    def check_classes(self, parts: dict[str, Part]) -> None:
        for name, part in parts.items():
            labels = self.tables[part.table].labels
            counts = labels[part.rows[0]].bincount(minlength=self.num_classes)
            if counts.all() or not (self.trains or part.table):
                continue
            message = f"the {name} part has no picture of class {self.classes[int(counts.argmin())]!r}"
            if part.table:
                self.findings.append(message)
                continue
            split = ", ".join(f"{option} {value}" for option, value in self.fractions.items())
            raise DataError(f"ImageFolder: {message}" + (f": its pictures are too few for {split}" if split else ""))


def trained_on(state: Any) -> tuple[list[str], str]:
    """Classes and listing of pictures in the `ImageFolder.state_dict` of a checkpoint; DataError if it is damaged."""
    match state:
        case {"classes": [*trained], "listing": str(listing)} if all(isinstance(name, str) for name in trained):
            return trained, listing
    raise DataError("ImageFolder: the checkpoint is damaged: its classes and pictures are not described")


def shown_names(names: Sequence[str]) -> str:
    """Names in a line, the first and the last of many."""
    printable = [name if name.isprintable() else repr(name) for name in names]
    return ", ".join(printable if len(names) <= NAMED else [*printable[: NAMED - 1], "...", printable[-1]])


@cache
def say_once(line: str) -> None:
    """Show a line, once in a process."""
    rank_zero_info(line)
