"""The datasets that actbench knows by name."""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor
from typing_extensions import override

from actbench.data.files import FileData
from actbench.data.image_folder import ImageFolder
from actbench.data.images import HELD_OUT, DataError, ImageData, LabelledImages, check_at_least
from actbench.data.sequences import MNIST1D


class Digits(ImageData):
    """scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels, 10 classes, no download.

    Row numbers are those of ``sklearn.datasets.load_digits``.

    Source:
        Alpaydin and Kaynak (1998), Optical recognition of handwritten digits, UCI ML Repository.
    """

    input_shape = (1, 8, 8)
    num_classes = 10
    white = 16

    @override
    def read(self) -> list[LabelledImages]:
        from sklearn.datasets import load_digits  # here, so that --help does not wait for it

        digits = load_digits()
        images = torch.from_numpy(digits.images).to(torch.uint8)[:, None]  # whole numbers from 0 to 16
        return [LabelledImages(images, torch.from_numpy(digits.target).long())]


PARTS = ("train", "test")  # of files
MAX_FAKE = 2**28  # values of all made-up images, which are drawn at once


class FakeImages(ImageData):
    """Made-up images, a random pattern per class under noise, to try actbench without any file.

    A network can learn them, but their scores say nothing about activations.
    The images follow from the sizes alone, not from ``seed``.

    Args:
        rows: Number of images.
        channels: Channels of an image.
        height: Height of an image in pixels.
        width: Width of an image in pixels.
        num_classes: Number of classes, which have equally many images, to within one.
    """

    def __init__(
        self,
        rows: int = 1024,
        channels: int = 1,
        height: int = 8,
        width: int = 8,
        num_classes: int = 10,
        batch_size: int = 64,
        val_fraction: float = HELD_OUT,
        test_fraction: float = HELD_OUT,
        seed: int = 0,
        replicates: int = 1,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, val_fraction, test_fraction, seed, replicates, drop_last)
        check_at_least(1, rows=rows, channels=channels, height=height, width=width)
        check_at_least(2, num_classes=num_classes)
        if rows * channels * height * width > MAX_FAKE:
            raise ValueError(f"rows, channels, height and width may make at most {MAX_FAKE:,} values")
        sizes = {"rows": rows, "channels": channels, "height": height, "width": width, "num_classes": num_classes}
        self.save_hyperparameters(sizes, logger=False)
        self.rows = rows
        self.input_shape = (channels, height, width)
        self.num_classes = num_classes

    @override
    def read(self) -> list[LabelledImages]:
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(self.rows) % self.num_classes
        patterns = torch.rand(self.num_classes, *self.input_shape, generator=generator)
        noise = torch.rand(self.rows, *self.input_shape, generator=generator)
        images = (patterns[labels] + 3 * noise) / 4  # enough noise that no network classifies every 8x8 image
        return [LabelledImages((images * self.white).round().to(torch.uint8), labels)]


class IdxData(FileData):
    """Grey images of 28x28 pixels in 10 classes, in MNIST's file format."""

    input_shape = (1, 28, 28)
    num_classes = 10
    packed = ".gz"

    @override
    def files(self) -> dict[str, str | None]:
        # torchvision knows the MD5 sums of the archives only.
        folder = f"{type(self).__name__}/raw"
        return {f"{folder}/{name.removesuffix('.gz')}": None for name, _ in self.torchvision_class().resources}

    @override
    def read_part(self, root: Path, part: str) -> LabelledImages:
        folder, prefix = root / type(self).__name__ / "raw", "train" if part == "train" else "t10k"
        images = read_idx(folder / f"{prefix}-images-idx3-ubyte", 3)
        labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte", 1)
        return LabelledImages(images[:, None], labels.long())


def read_idx(path: Path, dimensions: int, dtype: Literal["uint8", "int32"] = "uint8") -> Shaped[Tensor, "*sizes"]:
    """Array of a file in MNIST's format, or of the archive beside it; DataError if the file is not complete.

    Args:
        path: The file, without the archive's suffix.
        dimensions: Number of axes that the file must have.
        dtype: uint8 or int32, of which the file must be.
    """
    archive = Path(f"{path}{IdxData.packed}")
    try:
        content = path.read_bytes() if path.is_file() else gzip.decompress(archive.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{archive} cannot be unpacked: {error}") from error
    kind = np.dtype(dtype).newbyteorder(">")
    magic, offset = bytes([0, 0, {"uint8": 8, "int32": 12}[dtype], dimensions]), 4 + 4 * dimensions
    if not content.startswith(magic):
        raise DataError(f"{path} is damaged: it begins with {content[:4].hex() or 'nothing'}, not {magic.hex()}")
    sizes = [int.from_bytes(content[start : start + 4]) for start in range(4, offset, 4)]
    if not all(sizes):
        raise DataError(f"{path} is damaged: its header says that it is empty")
    if len(content) != (expected := offset + kind.itemsize * math.prod(sizes)):
        raise DataError(f"{path} is damaged: it has {len(content)} bytes, and its header asks for {expected}")
    return torch.from_numpy(np.frombuffer(content, kind, offset=offset).astype(dtype).reshape(sizes))


class MNIST(IdxData):
    """Handwritten digits: 60,000 grey images of 28x28 pixels for training and 10,000 for testing, 10 classes.

    Source:
        LeCun, Bottou, Bengio and Haffner (1998), Gradient-based learning applied to document recognition.
    """


class FashionMNIST(IdxData):
    """Clothes: 60,000 grey images of 28x28 pixels for training and 10,000 for testing, 10 classes.

    Source:
        Xiao, Rasul and Vollgraf (2017), Fashion-MNIST, arXiv:1708.07747.
    """


class KMNIST(IdxData):
    """Cursive Japanese: 60,000 grey images of 28x28 pixels for training and 10,000 for testing, 10 classes.

    Source:
        Clanuwat et al. (2018), Deep learning for classical Japanese literature, arXiv:1812.01718.
    """


EmnistSplit = Literal["balanced", "byclass", "bymerge", "letters", "digits", "mnist"]


class EMNIST(IdxData):
    """Handwritten letters and digits: grey images of 28x28 pixels, 10 to 62 classes.

    Images are transposed, as in the files and in torchvision. Classes are numbered from 0, also those of ``letters``,
    which the files number from 1.

    Args:
        split: Which characters: balanced (131,600 images, 47 classes), byclass (814,255, 62), bymerge (814,255, 47),
            letters (145,600, 26), digits (280,000, 10) or mnist (70,000, 10).

    Source:
        Cohen, Afshar, Tapson and van Schaik (2017), EMNIST: an extension of MNIST to handwritten letters,
        arXiv:1702.05373.
    """

    def __init__(
        self,
        root: str = "data",
        download: bool = False,
        split: EmnistSplit = "balanced",
        batch_size: int = 64,
        val_fraction: float = 0.1,
        seed: int = 0,
        replicates: int = 1,
        drop_last: bool = False,
    ) -> None:
        super().__init__(root, download, batch_size, val_fraction, seed, replicates, drop_last)
        classes = {"balanced": 47, "byclass": 62, "bymerge": 47, "letters": 26, "digits": 10, "mnist": 10}
        if split not in classes:
            raise ValueError(f"split must be one of {', '.join(classes)}, got {split}")
        self.save_hyperparameters({"split": split}, logger=False)
        self.split = split
        self.num_classes = classes[split]
        self.chosen = f" --data.split {split}"

    @override
    def files(self) -> dict[str, str | None]:
        # torchvision knows the MD5 sum of the archive of all splits only.
        kinds = ("images-idx3", "labels-idx1")
        return {f"EMNIST/raw/emnist-{self.split}-{part}-{kind}-ubyte": None for part in PARTS for kind in kinds}

    @override
    def fetch(self, folder: str) -> None:
        self.torchvision_class()(folder, split=self.split, download=True)

    @override
    def read_part(self, root: Path, part: str) -> LabelledImages:
        stem = f"EMNIST/raw/emnist-{self.split}-{part}"
        images = read_idx(root / f"{stem}-images-idx3-ubyte", 3)
        labels = read_idx(root / f"{stem}-labels-idx1-ubyte", 1).long()
        return LabelledImages(images[:, None], labels - 1 if self.split == "letters" else labels)


class QMNIST(IdxData):
    """MNIST restored: 60,000 grey images of 28x28 pixels for training and 60,000 for testing, 10 classes.

    The training images and the first 10,000 test images reproduce those of MNIST, in the same order and almost exactly.
    The other 50,000 test images are those that MNIST left out.

    Source:
        Yadav and Bottou (2019), Cold case: the lost MNIST digits, NeurIPS 32.
    """

    @override
    def files(self) -> dict[str, str | None]:
        names = [Path(url).stem for part in PARTS for url, _ in self.torchvision_class().resources[part]]
        return {f"QMNIST/raw/{name}": None for name in names}

    @override
    def fetch(self, folder: str) -> None:
        for part in PARTS:
            self.torchvision_class()(folder, what=part, download=True)

    @override
    def read_part(self, root: Path, part: str) -> LabelledImages:
        stem = root / "QMNIST" / "raw" / f"qmnist-{part}"
        described = read_idx(Path(f"{stem}-labels-idx2-int"), 2, "int32")  # the class, the writer, and so on
        return LabelledImages(read_idx(Path(f"{stem}-images-idx3-ubyte"), 3)[:, None], described[:, 0].long())


class USPS(FileData):
    """Digits from envelopes: 7,291 grey images of 16x16 pixels for training and 2,007 for testing, 10 classes.

    Source:
        Hull (1994), A database for handwritten text recognition research, IEEE PAMI 16(5), 550-554.
    """

    input_shape = (1, 16, 16)
    num_classes = 10

    @override
    def files(self) -> dict[str, str | None]:
        return {name: md5 for _, name, md5 in map(self.torchvision_class().split_list.get, PARTS)}

    @override
    def fetch(self, folder: str) -> None:
        for part in PARTS:
            self.torchvision_class()(folder, train=part == "train", download=True)

    @override
    def read_part(self, root: Path, part: str) -> LabelledImages:
        from torchvision.datasets.utils import check_integrity

        _, name, md5 = self.torchvision_class().split_list[part]
        if not check_integrity(str(root / name), md5):  # which torchvision does not look at
            raise DataError(f"{root / name} is damaged: its MD5 sum is not {md5}")
        source: Any = self.torchvision_class()(root, train=part == "train")
        return LabelledImages(torch.from_numpy(source.data)[:, None], torch.tensor(source.targets))


class ColourData(FileData):
    """Colour images of 32x32 pixels, which may be augmented.

    Args:
        augment: Change training images at random in each epoch: pad them with 4 black pixels on each side, crop them
            to their size, and mirror half of them left to right (except SVHN, whose digits must not be mirrored).
        seed: Keys the split, batch order and augmentation of the first replicate; the others' seeds follow.
    """

    input_shape = (3, 32, 32)
    num_classes = 10

    def __init__(
        self,
        root: str = "data",
        download: bool = False,
        batch_size: int = 64,
        val_fraction: float = 0.1,
        augment: bool = False,
        seed: int = 0,
        replicates: int = 1,
        drop_last: bool = False,
    ) -> None:
        super().__init__(root, download, batch_size, val_fraction, seed, replicates, drop_last)
        self.save_hyperparameters({"augment": augment}, logger=False)
        self.augment = augment


class CifarData(ColourData):
    """Colour images in CIFAR's file format."""

    @override
    def files(self) -> dict[str, str | None]:
        cls = self.torchvision_class()
        names = [*cls.train_list, *cls.test_list, (cls.meta["filename"], cls.meta["md5"])]
        return {f"{cls.base_folder}/{name}": md5 for name, md5 in names}

    @override
    def read_part(self, root: Path, part: str) -> LabelledImages:
        source: Any = self.torchvision_class()(root, train=part == "train")
        return LabelledImages(
            torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(source.targets)
        )


class CIFAR10(CifarData):
    """Photographs: 50,000 colour images of 32x32 pixels for training and 10,000 for testing, 10 classes.

    Source:
        Krizhevsky (2009), Learning multiple layers of features from tiny images.
    """


class CIFAR100(CifarData):
    """Photographs: 50,000 colour images of 32x32 pixels for training and 10,000 for testing, 100 classes.

    Source:
        Krizhevsky (2009), Learning multiple layers of features from tiny images.
    """

    num_classes = 100


class SVHN(ColourData):
    """House numbers: 73,257 colour images of 32x32 pixels for training and 26,032 for testing, 10 classes.

    Source:
        Netzer et al. (2011), Reading digits in natural images with unsupervised feature learning.
    """

    flip = False

    @override
    def files(self) -> dict[str, str | None]:
        return {name: md5 for _, name, md5 in map(self.torchvision_class().split_list.get, ("train", "test"))}

    @override
    def fetch(self, folder: str) -> None:
        for part in ("train", "test"):
            self.torchvision_class()(folder, split=part, download=True)

    @override
    def read_part(self, root: Path, part: str) -> LabelledImages:
        source: Any = self.torchvision_class()(root, split=part)
        return LabelledImages(torch.from_numpy(source.data).contiguous(), torch.from_numpy(source.labels))


DATASETS = (
    Digits,
    FakeImages,
    ImageFolder,
    MNIST1D,
    MNIST,
    FashionMNIST,
    KMNIST,
    EMNIST,
    QMNIST,
    USPS,
    CIFAR10,
    CIFAR100,
    SVHN,
)
