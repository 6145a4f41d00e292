"""Linear layers of a stack, whose gradients come in the layout of the weights."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class StackedLinear(torch.autograd.Function):
    """`torch.nn.functional.linear` of one replicate, and under vmap of all.

    Torch's own computes the gradient of the transposed weights, which then has to
    be copied into their layout.
    """

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out = inputs @ weight.mT
        return out if bias is None else out.add_(bias.unsqueeze(-2))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        inputs, weight = ctx.saved_tensors
        of_inputs, of_weight, of_bias = ctx.needs_input_grad
        return (
            gradient @ weight if of_inputs else None,
            gradient.mT @ inputs if of_weight else None,
            gradient.sum(-2) if of_bias else None,
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor | None) -> tuple[Tensor, int]:
        return StackedLinear.apply(*replicates_first(tensors, in_dims, info.batch_size)), 0


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`."""
    plain = weight.ndim == 2 and (bias is None or bias.ndim == 1)
    if input.ndim < 2 or not plain or weight.is_complex():  # whose gradients are conjugates
        return torch.nn.functional.linear(input, weight, bias)
    out: Tensor = StackedLinear.apply(input if input.ndim == 2 else input.flatten(0, -2), weight, bias)
    return out if input.ndim == 2 else out.view(*input.shape[:-1], len(weight))


def replicates_first(
    tensors: Sequence[Tensor | None], in_dims: Sequence[int | None], replicates: int
) -> list[Tensor | None]:
    """The tensors of a rule of vmap, with their replicates along the first axis; they may share one."""
    return [
        value if value is None else value.expand(replicates, *value.shape) if dim is None else value.movedim(dim, 0)
        for value, dim in zip(tensors, in_dims, strict=True)
    ]
