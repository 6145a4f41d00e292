"""Convolutions of a stack as products of a few matrices.

Under vmap a convolution becomes a grouped one, with one group per replicate. If
channels are few, a CPU computes that at a tenth of the speed of matrix products,
with rounding that depends on the number of replicates. Here a kernel becomes
the banded matrix that maps a row of the image, all channels and columns, to its
contributions to rows of the output. That takes more arithmetic, by the ratio of
image width to kernel width, but is faster up to a width of about 16, and each
replicate's result is bit for bit the same whatever the others are.

On a GPU, a trial chooses for each layer between a grouped convolution and a
product with the unfolded image.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from time import perf_counter
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.func import vmap
from torch.nn.functional import conv2d, pad, unfold

Images = Float[Tensor, "replicates batch channels height width"]
Weight = Float[Tensor, "replicates out_channels channels kernel_height kernel_width"]
GAIN = 0.9  # of a grouped convolution's time, which the product with an unfolded image must not exceed
TIMED = 5  # passes of a trial


class Layer(NamedTuple):
    """A convolution of one replicate: shapes of its images and weights, and its settings by axis."""

    images: tuple[int, ...]
    weight: tuple[int, ...]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]


def convolve_unfolded(images: Tensor, weight: Tensor, bias: Tensor | None, layer: Layer) -> Tensor:
    """`torch.nn.functional.conv2d` as one product of the weights and the unfolded images."""
    kernel = layer.weight[2:]
    columns = unfold(images, kernel, layer.dilation, layer.padding, layer.stride)
    out = weight.flatten(1) @ columns
    if bias is not None:
        out = out + bias[:, None]
    reach = (dilation * (size - 1) + 1 for dilation, size in zip(layer.dilation, kernel, strict=True))
    height, width = (
        (size + 2 * zeros - span) // step + 1
        for size, zeros, span, step in zip(layer.images[2:], layer.padding, reach, layer.stride, strict=True)
    )
    return out.view(*out.shape[:-1], height, width)


def faster_unfolded(layers: Iterable[Layer], replicates: int, like: Tensor) -> set[Layer]:
    """The layers that a tensor's device computes faster with unfolded images, by a trial of both passes."""
    kind = like.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else like.dtype

    def grouped(images: Tensor, weight: Tensor, layer: Layer) -> Tensor:
        return conv2d(images, weight, None, layer.stride, layer.padding, layer.dilation)

    def unfolded(images: Tensor, weight: Tensor, layer: Layer) -> Tensor:
        return convolve_unfolded(images, weight, None, layer)

    def seconds(form: Callable[[Tensor, Tensor, Layer], Tensor], layer: Layer) -> float:
        images, weight = (
            torch.ones(replicates, *shape, device=like.device, dtype=dtype, requires_grad=True)
            for shape in (layer.images, layer.weight)
        )
        times = []
        for _ in range(TIMED):
            start = perf_counter()
            total = vmap(lambda x, w: form(x, w, layer).sum())(images, weight).sum()
            float(torch.autograd.grad(total, [images, weight])[1].sum())  # waits for a GPU
            times.append(perf_counter() - start)
        return min(times)

    return {layer for layer in layers if seconds(unfolded, layer) <= GAIN * seconds(grouped, layer)}


def convolve(images: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
    """`torch.nn.functional.conv2d` at stride 1, in a form that vmap turns into matrix products.

    Height and width are padded with zeros, by less than half of the kernel.
    """
    if bias is None:
        bias = weight.new_zeros(weight.shape[0])
    result: Tensor = BandedConvolution.apply(images[None], weight[None], bias[None], padding)[0]
    return result.squeeze(0)  # not [0], whose gradient would be copied into zeros


class BandedConvolution(torch.autograd.Function):
    """Convolution of each replicate; also returns the image rows and bands that its gradient needs."""

    @staticmethod
    def forward(
        images: Images, weight: Weight, bias: Float[Tensor, "replicates out_channels"], padding: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        replicates, batch, _, height, width = images.shape
        out_height, out_width = (
            size + 2 * zeros - kernel + 1
            for size, zeros, kernel in zip((height, width), padding, weight.shape[-2:], strict=True)
        )
        bands = to_bands(weight, width, out_width, padding[1])
        rows = by_rows(images)
        # Each row of the image with each row of the kernel.
        products = torch.bmm(rows, bands).view(replicates, height * batch, weight.shape[3], -1)
        middle = padding[0]  # the kernel's row that meets every row of the output
        out = products[:, : out_height * batch, middle] + bias.repeat_interleave(out_width, 1)[:, None]
        for row in range(weight.shape[3]):
            if row != middle:
                out_rows, in_rows = overlap(row - middle, height, out_height, batch)
                out[:, out_rows].add_(products[:, in_rows, row])  # += would copy the result onto itself
        return from_rows(out, replicates, out_height, batch, weight.shape[1], out_width), rows, bands

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        images, weight, _, ctx.padding = inputs
        out, rows, bands = output
        ctx.mark_non_differentiable(rows, bands)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(rows, bands)
        ctx.images_shape, ctx.weight_shape, ctx.out_shape = images.shape, weight.shape, out.shape

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: None) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        rows, bands = ctx.saved_tensors
        replicates, batch, channels, height, width = ctx.images_shape
        _, out_channels, _, kernel_height, _ = ctx.weight_shape
        out_height, out_width = ctx.out_shape[3:]
        gradient = by_rows(gradient)
        spread = gradient.new_empty(replicates, height * batch, kernel_height, gradient.shape[2])
        for row in range(kernel_height):
            out_rows, in_rows = overlap(row - ctx.padding[0], height, out_height, batch)
            spread[:, in_rows, row] = gradient[:, out_rows]
            for rest in (spread[:, : in_rows.start, row], spread[:, in_rows.stop :, row]):
                if rest.numel():  # rows of the image that meet none of the output
                    rest.zero_()
        spread = spread.flatten(2)

        images_gradient = weight_gradient = bias_gradient = None
        if ctx.needs_input_grad[0]:
            images_gradient = from_rows(torch.bmm(spread, bands.mT), replicates, height, batch, channels, width)
        if ctx.needs_input_grad[1]:
            bands_gradient = torch.bmm(rows.mT, spread)
            weight_gradient = from_bands(bands_gradient, ctx.weight_shape, width, out_width, ctx.padding[1])
        if ctx.needs_input_grad[2]:
            bias_gradient = gradient.sum(1).view(replicates, out_channels, out_width).sum(2)
        return images_gradient, weight_gradient, bias_gradient, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], images: Tensor, weight: Tensor, bias: Tensor, padding: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        replicates = info.batch_size
        flat = [
            (x.expand(replicates, *x.shape) if dim is None else x.movedim(dim, 0)).flatten(0, 1)
            for x, dim in zip((images, weight, bias), in_dims[:3], strict=True)
        ]
        results = BandedConvolution.apply(*flat, padding)
        return tuple(result.view(replicates, -1, *result.shape[1:]) for result in results), (0, 0, 0)


def overlap(shift: int, height: int, out_height: int, batch: int) -> tuple[slice, slice]:
    """Rows of the output that meet a row of the image at this shift, and those rows of the image."""
    low, high = max(0, -shift), min(out_height, height - shift)
    return slice(low * batch, high * batch), slice((low + shift) * batch, (high + shift) * batch)


def by_rows(images: Images) -> Float[Tensor, "replicates height*batch channels*width"]:
    """Images with their rows outermost, so that a shift by a row is a slice."""
    return images.permute(0, 3, 1, 2, 4).reshape(len(images), images.shape[3] * images.shape[1], -1)


def from_rows(rows: Tensor, replicates: int, height: int, batch: int, channels: int, width: int) -> Images:
    """Images from the rows of `by_rows`, without a copy."""
    return rows.view(replicates, height, batch, channels, width).permute(0, 2, 3, 1, 4)


@lru_cache
def band(kernel: int, width: int, out_width: int, padding: int) -> Int64[Tensor, "width out_width"]:
    """Column of the kernel that joins a column of the image to one of the output; ``kernel`` where none does."""
    column = torch.arange(width)[:, None] - torch.arange(out_width) + padding
    return torch.where((column >= 0) & (column < kernel), column, kernel)


def to_bands(weight: Weight, width: int, out_width: int, padding: int) -> Float[Tensor, "replicates in_row out_rows"]:
    """Matrix that maps a row of the image, (channels, width), to its contributions to the output.

    These are (kernel_height, out_channels, out_width): a row of the output for each row of the kernel.
    """
    columns = band(weight.shape[-1], width, out_width, padding).flatten()
    spread = pad(weight, (0, 1)).index_select(4, columns).view(*weight.shape[:4], width, out_width)
    return spread.permute(0, 2, 4, 3, 1, 5).flatten(3, 5).flatten(1, 2)


def from_bands(
    gradient: Float[Tensor, "replicates in_row out_rows"],
    shape: tuple[int, ...],
    width: int,
    out_width: int,
    zeros: int,
) -> Weight:
    """Gradient of the kernel from that of its bands, by sums along diagonals."""
    replicates, out_channels, channels, kernel_height, kernel_width = shape
    split = gradient.view(replicates, channels, width, kernel_height, out_channels, out_width)
    sums = [split.diagonal(zeros - column, 2, 5).sum(-1) for column in range(kernel_width)]
    return torch.stack(sums, -1).permute(0, 3, 1, 2, 4)
