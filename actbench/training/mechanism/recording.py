"""Forward passes in which hooks record the calls of the activation that is compared."""

from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from actbench.networks import SwappedNetwork, compared_modules


class RecordedCall(NamedTuple):
    """A call of an activation in a forward pass.

    Args:
        name: Path of the module, or of the call in whose place it runs, with ``#2`` where it is called a second time.
        layer: The layer with weights that ran before, such as ``convolution 3``; "" if there was none.
        module: Path of the module in the network as it runs.
        axis: Axis of units in the input of one batch, 1 or the last one.
        shape: Of that input.
        dtype: Of that input.
    """

    name: str
    layer: str
    module: str
    axis: int
    shape: torch.Size
    dtype: torch.dtype


class RecordedPass:
    """A forward pass of a network, as a function of the network, a batch, and leaves that are added to inputs.

    It returns the logits, the inputs of the last layer with weights (the logits if
    there is none), and the inputs and outputs of each call of the activation.
    Leaves are zeros, through which the gradient by these inputs is known outside
    of vmap. They are added if they have the shapes of ``calls``, which are those
    of the latest pass.

    Units lie along the last axis if the layer with weights before is a linear
    one, and else along axis 1, as behind a convolution.
    """

    def __init__(self) -> None:
        self.calls: list[RecordedCall] = []
        self.last = ""  # the last layer with weights

    def zeros(self, replicates: int, device: torch.device) -> list[Tensor]:
        """Leaves for the next pass."""
        return [
            torch.zeros(replicates, *call.shape, dtype=call.dtype, device=device, requires_grad=True)
            for call in self.calls
        ]

    def __call__(self, network: nn.Module, images: Tensor, *leaves: Tensor) -> list[Tensor]:
        calls, inputs, outputs, last = list[RecordedCall](), list[Tensor](), list[Tensor](), list[Tensor]()
        names, times, layers = call_names(network), Counter[str](), Counter[str]()
        layer = ""

        def note_layer(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            nonlocal layer
            kind = "linear layer" if isinstance(module, nn.Linear) else "convolution"
            layers[kind] += 1
            layer = f"{kind} {layers[kind]}"
            last[:] = [*args, *kwargs.values()][:1]

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            x, path = next(iter((*args, *kwargs.values()))), paths[id(module)]
            times[path] += 1
            name = names[path] + (f"#{times[path]}" if times[path] > 1 else "")
            axis = -1 if layer.startswith("linear") else 1
            place = len(calls)
            calls.append(RecordedCall(name, layer, path, axis, x.shape, x.dtype))
            inputs.append(x.clone())  # what follows may change it
            if place < len(leaves) and leaves[place].shape == x.shape:
                x = x + leaves[place]
            return ((x, *args[1:]), kwargs) if args else ((), {**kwargs, next(iter(kwargs)): x})

        def leave(module: nn.Module, args: Any, output: Tensor) -> None:
            outputs.append(output.clone())

        paths = {id(network.get_submodule(path)): path for path in names}
        weighted = [module for module in network.modules() if isinstance(module, nn.Linear | _ConvNd)]
        handles = [module.register_forward_pre_hook(note_layer, with_kwargs=True) for module in weighted]
        for module in compared_modules(network):
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(leave))
        try:
            logits = network(images)
        finally:
            for handle in handles:
                handle.remove()
        self.calls, self.last = calls, layer
        return [logits, *(last or [logits]), *inputs, *outputs]

    def activate(self, network: nn.Module, *inputs: Tensor) -> list[Tensor]:
        """The outputs of the activations alone for the inputs of each call."""
        # Of copies, because an activation may write into its input.
        return [network.get_submodule(call.module)(x.clone()) for call, x in zip(self.calls, inputs, strict=True)]


def call_names(network: nn.Module) -> dict[str, str]:
    """The name of each module that is compared, by its path in the network.

    Where an activation is swapped in, that is the name of the call in whose place it runs.
    """
    compared = set(map(id, compared_modules(network)))
    paths = [path for path, module in network.named_modules() if id(module) in compared]
    if isinstance(network, SwappedNetwork):
        swapped = [site.name for site in network.certificate.sites if site.swapped]
        return {f"activations.{index}": name for index, name in enumerate(swapped)}
    return {path: path for path in paths}
