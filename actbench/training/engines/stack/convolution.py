"""Convolutions of a stack as products of a few matrices.

Under vmap a convolution becomes a grouped one, with one group per replicate. If
channels are few, a CPU computes that at a tenth of the speed of matrix products,
with rounding that depends on the number of replicates. Here a kernel becomes
the banded matrix that maps a row of the image, all channels and columns, to its
contributions to rows of the output. That takes more arithmetic, by the ratio of
image width to kernel width, but is faster up to a width of about 16, and each
replicate's result is bit for bit the same whatever the others are, but for rare
shapes, such as kernels of one row.

On a GPU, a trial chooses for each layer between a grouped convolution and a
product with the unfolded image.
"""

from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.func import vmap
from torch.nn.functional import conv2d, unfold

from actbench.training.engines.stack.linear import replicates_first

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
    row = None if bias is None else bias[None]
    result: Tensor = BandedConvolution.apply(images[None], weight[None], row, padding)[0]
    return result.squeeze(0)  # not [0], whose gradient would be copied into zeros


class BandedConvolution(torch.autograd.Function):
    """Convolution of each replicate; also returns the image rows and bands that its gradient needs.

    Rows of the image and of the output meet in pairs, one for each row of the
    kernel. The narrower of the two sides is gathered, once for each row of the
    kernel, so that one product sums over the pairs; a product with the other side
    leaves sums to be folded.
    """

    @staticmethod
    def forward(
        images: Images, weight: Weight, bias: Float[Tensor, "replicates out_channels"] | None, padding: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        replicates, batch, _, height, width = images.shape
        out_height, out_width = (
            size + 2 * zeros - kernel + 1
            for size, zeros, kernel in zip((height, width), padding, weight.shape[-2:], strict=True)
        )
        gathers = gathers_images(images.shape, weight.shape, out_width)
        pairs = meeting_rows(weight.shape[3], padding[0], height, out_height, batch)
        bands = to_bands(weight, width, out_width, padding[1], gathers=gathers)
        rows = by_rows(images)
        if gathers:
            rows = gather_rows(rows, out_height * batch, pairs)
            out = torch.bmm(rows, bands)
        else:
            out = fold_rows(torch.bmm(rows, bands), out_height * batch, pairs)
        if bias is not None:
            out.add_(bias.repeat_interleave(out_width, 1)[:, None])
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
        gathers = gathers_images(ctx.images_shape, ctx.weight_shape, out_width)
        pairs = [
            (in_rows, out_rows)
            for out_rows, in_rows in meeting_rows(kernel_height, ctx.padding[0], height, out_height, batch)
        ]
        gradient = by_rows(gradient)
        spread = gradient if gathers else gather_rows(gradient, height * batch, pairs)

        images_gradient = weight_gradient = bias_gradient = None
        if ctx.needs_input_grad[0]:
            rows_gradient = torch.bmm(spread, bands.mT)
            if gathers:
                rows_gradient = fold_rows(rows_gradient, height * batch, pairs)
            images_gradient = from_rows(rows_gradient, replicates, height, batch, channels, width)
        if ctx.needs_input_grad[1]:
            bands_gradient = torch.bmm(rows.mT, spread)
            weight_gradient = from_bands(
                bands_gradient, ctx.weight_shape, width, out_width, ctx.padding[1], gathers=gathers
            )
        if ctx.needs_input_grad[2]:
            bias_gradient = gradient.sum(1).view(replicates, out_channels, out_width).sum(2)
        return images_gradient, weight_gradient, bias_gradient, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], images: Tensor, weight: Tensor, bias: Tensor | None, padding: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        tensors = replicates_first((images, weight, bias), in_dims[:3], info.batch_size)
        flat = (None if value is None else value.flatten(0, 1) for value in tensors)
        results = BandedConvolution.apply(*flat, padding)
        return tuple(result.view(info.batch_size, -1, *result.shape[1:]) for result in results), (0, 0, 0)


def gathers_images(images: Sequence[int], weight: Sequence[int], out_width: int) -> bool:
    """Whether rows of the images are gathered, for they are no wider than those of the output."""
    return images[2] * images[4] <= weight[1] * out_width


def meeting_rows(kernel: int, padding: int, height: int, out_height: int, batch: int) -> list[tuple[slice, slice]]:
    """For each row of the kernel, the rows of the output that meet a row of the image, and those rows of the image."""
    pairs = []
    for shift in range(-padding, kernel - padding):
        low, high = max(0, -shift), min(out_height, height - shift)
        pairs.append((slice(low * batch, high * batch), slice((low + shift) * batch, (high + shift) * batch)))
    return pairs


def gather_rows(rows: Tensor, size: int, pairs: Sequence[tuple[slice, slice]]) -> Tensor:
    """The rows that meet each of ``size`` rows, one after another in one row; zeros where none does.

    Maps (replicates, rows, values) to (replicates, size, pairs * values). A pair is a slice of the ``size`` rows, and
    the slice of the rows that meet them.
    """
    if pairs == [(slice(0, size), slice(0, size))]:
        return rows
    gathered = rows.new_empty(len(rows), size, len(pairs), rows.shape[2])
    for index, (targets, sources) in enumerate(pairs):
        gathered[:, targets, index] = rows[:, sources]
        for rest in (gathered[:, : targets.start, index], gathered[:, targets.stop :, index]):
            if rest.numel():
                rest.zero_()
    return gathered.flatten(2)


def fold_rows(products: Tensor, size: int, pairs: Sequence[tuple[slice, slice]]) -> Tensor:
    """The sums over the products that belong to each of ``size`` rows: the transpose of `gather_rows`.

    Maps (replicates, rows, pairs * values) to (replicates, size, values).
    """
    products = products.view(*products.shape[:2], len(pairs), -1)
    whole = slice(0, size)
    first = next((index for index, (targets, _) in enumerate(pairs) if targets == whole), None)
    if first is None:
        folded = products.new_zeros(len(products), size, products.shape[3])
    else:
        folded = products[:, pairs[first][1], first].contiguous()
    for index, (targets, sources) in enumerate(pairs):
        if index != first:
            folded[:, targets].add_(products[:, sources, index])  # += would copy the result onto itself
    return folded


def by_rows(images: Images) -> Float[Tensor, "replicates height*batch channels*width"]:
    """Images with their rows outermost, so that a shift by a row is a slice."""
    return images.permute(0, 3, 1, 2, 4).reshape(len(images), images.shape[3] * images.shape[1], -1)


def from_rows(rows: Tensor, replicates: int, height: int, batch: int, channels: int, width: int) -> Images:
    """Images from the rows of `by_rows`, without a copy."""
    return rows.view(replicates, height, batch, channels, width).permute(0, 2, 3, 1, 4)


def to_bands(weight: Weight, width: int, out_width: int, padding: int, *, gathers: bool) -> Tensor:
    """Matrix that maps rows of the image to rows of the output; see `by_columns`."""
    replicates, out_channels, channels, kernel_height, kernel_width = weight.shape
    shape = (kernel_height * channels * width, out_channels * out_width)
    if not gathers:
        shape = (channels * width, kernel_height * out_channels * out_width)
    bands = weight.new_zeros(replicates, *shape)
    columns = by_columns(bands, weight.shape, width, out_width, gathers=gathers)
    for column in range(kernel_width):
        columns.diagonal(padding - column, 4, 5).copy_(weight[..., column, None])
    return bands


def from_bands(
    gradient: Tensor, shape: tuple[int, ...], width: int, out_width: int, padding: int, *, gathers: bool
) -> Weight:
    """Gradient of the kernel from that of its bands, by sums along diagonals."""
    columns = by_columns(gradient, shape, width, out_width, gathers=gathers)
    return torch.stack([columns.diagonal(padding - column, 4, 5).sum(-1) for column in range(shape[4])], -1)


def by_columns(bands: Tensor, shape: Sequence[int], width: int, out_width: int, *, gathers: bool) -> Tensor:
    """Bands as (replicates, out_channels, channels, kernel_height, width, out_width), like a kernel of this shape.

    A row of the image is (channels, width), gathered ones are (kernel_height,
    channels, width); a row of the output is (out_channels, out_width), or without
    gathering (kernel_height, out_channels, out_width).
    """
    replicates, out_channels, channels, kernel_height, _ = shape
    if gathers:
        split = bands.view(replicates, kernel_height, channels, width, out_channels, out_width)
        return split.permute(0, 4, 2, 1, 3, 5)
    split = bands.view(replicates, channels, width, kernel_height, out_channels, out_width)
    return split.permute(0, 4, 1, 3, 2, 5)
