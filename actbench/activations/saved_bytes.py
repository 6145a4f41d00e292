"""Memory that an activation keeps from forward to backward pass, counted from the tensors that autograd saves."""

import copy

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

CHANNELS, SIDE = 4, 8  # of the images that are counted with


def saved_bytes(activation: nn.Module) -> float:
    """Bytes kept for the backward pass for each element of a float32 input, in training.

    Every storage counts once. The output does not count, because the layer that
    follows keeps it as its input, and neither do parameters and buffers. The input
    counts if it is kept, because the layer before has no use for it. So ReLU, which
    keeps its output, takes 0, ``torch.nn.SiLU`` 4 and ``x * sigmoid(x)`` 8. What a
    custom function keeps in other ways than ``save_for_backward`` is not seen. The
    activation itself stays as it is.

    Raises:
        Exception: Of any kind, from an activation that refuses images of `CHANNELS` channels.
    """
    # A difference, in which a constant such as a slope cancels.
    fewer, more = (kept_bytes(activation, images) for images in (1, 2))
    return (more - fewer) / (CHANNELS * SIDE**2)


def kept_bytes(activation: nn.Module, images: int) -> int:
    """Bytes kept for the backward pass of so many small images; see `saved_bytes`."""
    activation = copy.deepcopy(activation).train()
    kept: list[Tensor] = []  # alive until they are counted, so that no two of them share an address

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        leaf = torch.randn(images, CHANNELS, SIDE, SIDE, requires_grad=True)
        inputs = leaf + 0  # which an activation may change in place
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            output = activation(inputs)
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
    others = {
        tensor.untyped_storage().data_ptr() for tensor in (output, *activation.parameters(), *activation.buffers())
    }
    return sum(size for address, size in storages.items() if address not in others)
