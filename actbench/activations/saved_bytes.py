"""Memory that an activation keeps from the forward to the backward pass, by the tensors that autograd saves."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

CHANNELS, SIDE = 4, 8  # of the images that are counted with


def saved_bytes(activation: Callable[[Tensor], Tensor], *, dtype: torch.dtype = torch.float32) -> float:
    """Bytes kept for the backward pass for each element of an activation's input, in training.

    Exact, and the same on any machine. Every storage counts once, however many
    operations keep it. The output does not count, because the layer that follows
    keeps it as its input, and neither do parameters and buffers. The input counts
    if it is kept, because the layer before has no use for it. So ReLU, which keeps
    its output, takes 0, ``torch.nn.SiLU`` 4 and ``x * sigmoid(x)`` 8. What a custom
    function keeps in other ways than ``save_for_backward`` is not seen. The
    activation itself stays as it is.

    Args:
        activation: A module or a function.
        dtype: Of the input.

    Raises:
        Exception: Of any kind, from an activation that refuses images of `CHANNELS` channels.
    """
    # A difference, in which a constant such as a slope cancels.
    one_image, two_images = (kept_bytes(activation, images, dtype) for images in (1, 2))
    return (two_images - one_image) / (CHANNELS * SIDE**2)


def kept_bytes(activation: Callable[[Tensor], Tensor], images: int, dtype: torch.dtype) -> int:
    """Bytes kept for the backward pass of so many small images; see `saved_bytes`."""
    values: list[Tensor] = []
    if isinstance(activation, nn.Module):
        activation = copy.deepcopy(activation).train()
        values += [*activation.parameters(), *activation.buffers()]
    kept: list[Tensor] = []  # alive until they are counted, so that no two of them share an address

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        leaf = torch.randn(images, CHANNELS, SIDE, SIDE, dtype=dtype, requires_grad=True)
        inputs = leaf + 0  # which an activation may change in place
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            output = activation(inputs)
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
    others = {tensor.untyped_storage().data_ptr() for tensor in (output, *values)}
    return sum(size for address, size in storages.items() if address not in others)
