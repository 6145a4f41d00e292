"""Pictures as arrays: files decoded, turned, resized and cropped."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from actbench.data.images import DataError

WHITE_16 = 65535  # in pictures of 16 bits


class PictureError(DataError):
    """A file is damaged, empty or no picture, or cannot be read."""


def read_picture(path: Path, channels: int, size: Sequence[int] | None) -> UInt8[np.ndarray, "height width channels"]:
    """Decode a picture, upright by its EXIF orientation, the first frame of an animation.

    Colours become RGB or grey as Pillow converts them, without transparency, as in torchvision. 16-bit grey values
    are scaled to 8 bits.

    Args:
        path: The file.
        channels: 3 for RGB, 1 for grey.
        size: Height and width. The picture is resized, with antialiasing, to cover them, and its centre is cropped:
            for a square, torchvision's ``Resize`` and ``CenterCrop``. None keeps the picture's own size.

    Raises:
        PictureError: The file is no whole picture, or has more pixels than Pillow's limit against decompression bombs.
    """
    try:
        with Image.open(path) as image:
            ImageOps.exif_transpose(image, in_place=True)
            picture = to_eight_bits(image).convert("L" if channels == 1 else "RGB")
        resized = picture if size is None else resize_and_crop(picture, *size)
        return np.asarray(resized).reshape(resized.height, resized.width, channels)
    except Image.DecompressionBombError as error:
        raise PictureError(f"{str(path)!r} is refused by Pillow: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders of damaged files raise errors of many kinds
        what = "is empty" if path.is_file() and not path.stat().st_size else "cannot be read as a picture"
        detail = f": {type(error).__name__}: {error}" if "cannot" in what else ""
        raise PictureError(f"{str(path)!r} {what}{detail}") from error


def to_eight_bits(image: Image.Image) -> Image.Image:
    """A grey picture of 16 bits with values scaled to 0 to 255, which Pillow would cut off; others unchanged."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known white")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > WHITE_16:
        raise ValueError(f"pixels from {values.min()} to {values.max()} are not those of a 16-bit picture")
    return Image.fromarray(((values * 255 + WHITE_16 // 2) // WHITE_16).astype(np.uint8))


def resize_and_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """The centre of a picture that was resized to cover a height and width, rounded as torchvision rounds."""
    if image.width * height >= width * image.height:
        size = int(height * image.width / image.height), height
    else:
        size = width, int(width * image.height / image.width)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    return image.crop((left, top, left + width, top + height))


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width of a picture, upright, from the head of its file; PictureError if it has none."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112, 1) >= 5  # Orientation: on its side
            return (image.width, image.height) if turned else (image.height, image.width)
    except Exception as error:  # as above
        raise PictureError(f"{str(path)!r} cannot be read as a picture: {type(error).__name__}: {error}") from error
