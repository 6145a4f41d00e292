"""Normalisation of images: the mean and standard deviation of each channel."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

Normalization = Literal["none", "imagenet", "train"]
IMAGENET = {  # of torchvision's pretrained networks; for grey images the mean over the channels
    3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    1: ((0.449,), (0.226,)),
}
SUMMED_ROWS = 1024  # at once, which bounds the memory


class Scales(NamedTuple):
    """How images in [0, 1] are normalised, by channel: minus the mean, over the standard deviation."""

    mean: Float32[Tensor, "replicates channels"]
    deviation: Float32[Tensor, "replicates channels"]

    def per_pixel(self, device: torch.device) -> "Scales":
        """The same on a device, in a shape that fits (replicates, batch, channels, height, width)."""
        return Scales(*(values.to(device)[:, None, :, None, None] for values in self))


def scales(
    kind: Normalization,
    images: UInt8[Tensor, "rows channels height width"],
    train: Int64[Tensor, "replicates train"],
    *,
    white: int,
) -> Scales:
    """Mean and standard deviation of each channel, over images that are scaled to [0, 1].

    With ``train``, they are those of each replicate's own training rows, without augmentation. They are computed from
    whole numbers, so they depend neither on the order of rows nor on other replicates. The standard deviation of a
    channel that never changes counts as 1.

    Args:
        kind: ``imagenet`` or ``train``.
        images: Table of images, of which the training rows are a part.
        train: Row numbers of each replicate's training part.
        white: The largest value of a pixel.
    """
    if kind == "imagenet":
        return Scales(*(torch.tensor(values).repeat(len(train), 1) for values in IMAGENET[images.shape[1]]))
    sums, squares = [], []
    for chunk in torch.split(images, SUMMED_ROWS):
        pixels = chunk.flatten(2).int()
        sums.append(pixels.sum(2))
        squares.append(pixels.square().sum(2))
    pixels_of_row = images[0, 0].numel()
    total, total_squares = (torch.cat(values).cpu() for values in (sums, squares))
    means = torch.stack([total[rows].sum(0).double() for rows in train.cpu()]) / (train.shape[1] * pixels_of_row)
    mean_squares = torch.stack([total_squares[rows].sum(0).double() for rows in train.cpu()])
    deviation = (mean_squares / (train.shape[1] * pixels_of_row) - means.square()).clamp(min=0).sqrt()
    return Scales((means / white).float(), torch.where(deviation > 0, deviation / white, 1.0).float())
