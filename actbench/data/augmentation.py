"""Random changes of training images: crops of the padded image, and mirror images."""

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.nn.functional import pad

PADDING = 4  # black pixels around an image before it is cropped


def draw_crops(rows: int, generator: torch.Generator, *, flip: bool) -> Int64[Tensor, "{rows} 3"]:
    """Top and left edge of each crop in the padded image, and whether it is mirrored, all equally likely."""
    edges = torch.randint(2 * PADDING + 1, (rows, 2), generator=generator)
    mirrored = torch.randint(2, (rows, 1), generator=generator)
    return torch.cat([edges, mirrored * flip], dim=1)


def crop(
    images: UInt8[Tensor, "batch channels height width"], crops: Int64[Tensor, "batch 3"]
) -> UInt8[Tensor, "batch channels height width"]:
    """Images padded with zeros, cropped to their size again, and mirrored left to right where ``crops`` says so."""
    batch, channels, height, width = images.shape
    top, left, mirrored = crops[:, :, None].unbind(1)
    y = top + torch.arange(height, device=images.device)
    x = torch.arange(width, device=images.device)
    x = left + torch.where(mirrored.bool(), width - 1 - x, x)
    image = torch.arange(batch, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[:, None, None]
    return pad(images, (PADDING,) * 4)[image, channel, y[:, None, :, None], x[:, None, None, :]]
