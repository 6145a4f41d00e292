"""Replacements for torch functions while a network runs as part of a stack."""

from collections.abc import Callable, Container
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from actbench.training.engines.draws import Draw, Draws
from actbench.training.engines.stack.convolution import Layer, convolve, convolve_unfolded
from actbench.training.engines.stack.linear import linear


class Rules(Draws):
    """Draws random numbers for each replicate separately, and computes convolutions as matrix products.

    Args:
        draws: Of `Draws`.
        anchor: Of `Draws`.
        unfolded: Layers whose convolution is a product with the unfolded image.
        met: Gets the layers that may be computed so.
    """

    def __init__(self, draws: Draw, anchor: Tensor, *, unfolded: Container[Layer], met: set[Layer] | None) -> None:
        super().__init__(draws, anchor)
        self.unfolded = unfolded
        self.met = met

    @override
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (F.conv2d, F.linear):
            call = self.conv2d if func is F.conv2d else linear
            return in_autocast_precision(call, args, kwargs)
        if func is F.batch_norm:
            return batch_norm(*args, **kwargs)
        return super().__torch_function__(func, types, args, kwargs)

    def conv2d(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        """`torch.nn.functional.conv2d`, by matrix products where that is possible."""
        if isinstance(padding, str) or groups != 1 or input.ndim != 4 or weight.is_complex():
            return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
        layer = Layer(tuple(input.shape), tuple(weight.shape), pair(stride), pair(padding), pair(dilation))
        if self.met is not None:
            self.met.add(layer)
        if layer in self.unfolded:
            return convolve_unfolded(input, weight, bias, layer)
        if (
            (layer.stride, layer.dilation) != ((1, 1), (1, 1))
            or input.device.type != "cpu"
            or any(2 * z >= size for z, size in zip(layer.padding, weight.shape[-2:], strict=True))
            or any(size > full for size, full in zip(weight.shape[-2:], input.shape[-2:], strict=True))
        ):
            return F.conv2d(input, weight, bias, stride, padding, dilation)
        return convolve(input, weight, bias, layer.padding)


def in_autocast_precision(call: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Call with tensors in autocast's dtype if autocast is on, because under vmap it misses decomposed functions."""
    device = args[0].device.type if args else "cpu"
    if not args or not torch.is_autocast_enabled(device):
        return call(*args, **kwargs)
    dtype = torch.get_autocast_dtype(device)
    args = tuple(value.to(dtype) if isinstance(value, Tensor) else value for value in args)
    kwargs = {name: value.to(dtype) if isinstance(value, Tensor) else value for name, value in kwargs.items()}
    with torch.autocast(device, enabled=False):
        return call(*args, **kwargs)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """`torch.nn.functional.batch_norm`, which under vmap refuses images of lower precision than its weights."""
    images = input if weight is None else input.to(weight.dtype)
    return F.batch_norm(images, running_mean, running_var, weight, *args, **kwargs).to(input.dtype)


def pair(value: Any) -> Any:
    """Height and width of an argument that may be one number for both."""
    if isinstance(value, int):
        return (value, value)
    return tuple(value) * 2 if len(value) == 1 else tuple(value)
