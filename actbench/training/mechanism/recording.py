"""Forward passes in which hooks record the calls of the activation that is compared."""

from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from actbench.networks import SwappedNetwork, compared_modules
from actbench.networks.recomputing import nothing_recomputed

FEATURED = (nn.Linear, _ConvNd, _NormBase, nn.GroupNorm, nn.LayerNorm, nn.RNNBase, nn.MultiheadAttention)


class RecordedCall(NamedTuple):
    """A call of an activation in a forward pass.

    Args:
        name: Path of the module, or of the call in whose place it runs, with ``#2`` where it is called a second time.
        layer: The layer with weights that ran before, such as ``convolution 3``; "" if there was none.
        module: Path of the module in the network as it runs.
        axis: Axis of units in the input of one batch; None if that is not known.
        shape: Of that input.
        dtype: Of that input.
    """

    name: str
    layer: str
    module: str
    axis: int | None
    shape: torch.Size
    dtype: torch.dtype


class RecordedPass:
    """A forward pass of a network, as a function of the network, a batch, and leaves that are added to inputs.

    It returns the logits, the inputs of the last layer with weights (the logits if
    there is none), and the inputs and outputs of each call of the activation.
    Leaves are zeros, through which the gradient by these inputs is known outside
    of vmap. They are added if they have the shapes of ``calls``, which are those
    of the latest pass.

    Units lie along the axis of features of the layer or normalisation that made the
    input, or else of the latest one; see `LatestLayers.axis_of_units`. Inputs without
    an axis for the batch, such as parameters, are no calls. Layers within an
    activation are its own.
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
        calls, inputs, outputs = list[RecordedCall](), list[Tensor](), list[Tensor]()
        entered = list[tuple[Tensor, Tensor]]()
        names, times, layers = call_names(network), Counter[str](), LatestLayers()

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            x, path = next(iter((*args, *kwargs.values()))), paths[id(module)]
            if x.ndim < 2:
                entered.append((x, x))
                return None
            times[path] += 1
            name = names[path] + (f"#{times[path]}" if times[path] > 1 else "")
            index = len(calls)
            calls.append(RecordedCall(name, layers.name, path, layers.axis_of_units(x), x.shape, x.dtype))
            inputs.append(x.clone())  # what follows may change it
            z = x + leaves[index] if index < len(leaves) and leaves[index].shape == x.shape else x
            entered.append((x, z))
            return ((z, *args[1:]), kwargs) if args else ((), {**kwargs, next(iter(kwargs)): z})

        def leave(module: nn.Module, args: Any, output: Tensor) -> Any:
            x, z = entered.pop()
            if output.ndim > 1:
                outputs.append(output.clone())
            return x.copy_(z) if output is z is not x else output  # written into the input, which others may read

        paths = {id(network.get_submodule(path)): path for path in names}
        weighted, featured = layers_of(network)
        handles = [module.register_forward_pre_hook(layers.enter, with_kwargs=True) for module in weighted]
        handles += [module.register_forward_hook(layers.leave) for module in featured]
        for module in compared_modules(network):
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(leave))
        try:
            with nothing_recomputed():  # in the backward pass, without hooks
                logits = network(images)
        finally:
            for handle in handles:
                handle.remove()
        self.calls, self.last = calls, layers.name
        return [logits, *(layers.inputs or [logits]), *inputs, *outputs]

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


class LatestLayers:
    """The latest layer with weights in a forward pass, and where units lie behind what has run.

    ``name`` is that of the layer, such as ``convolution 3``, and ``inputs`` holds its inputs.
    """

    def __init__(self) -> None:
        self.name, self.inputs, self.times = "", list[Any](), Counter[str]()
        self.features = dict[int, list[tuple[int, int]]]()  # by number of axes: axes of features, and their sizes
        self.made = dict[int, tuple[Tensor, int]]()  # by the id of an output: the output, and its axis of features

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A hook for layers with weights."""
        kind = "linear layer" if isinstance(module, nn.Linear) else "convolution"
        self.times[kind] += 1
        self.name = f"{kind} {self.times[kind]}"
        self.inputs = [*args, *kwargs.values()][:1]

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """A hook for `FEATURED` modules."""
        result = output[0] if isinstance(output, tuple) else output
        if isinstance(result, Tensor):
            self.features.setdefault(result.ndim, []).append(feature_axis(module))
            self.made[id(result)] = result, feature_axis(module)[0]

    def axis_of_units(self, x: Tensor) -> int | None:
        """The axis of units in an input; None if it is not known.

        It is that of the layer whose output the input is; else that of the latest layer whose output has as many axes,
        if it still has that layer's size. Otherwise axes may have been exchanged, or the input may come from an earlier
        layer: then it is the only axis that fits one of both. Behind no layer, it is axis 1 of vectors and images.
        """
        if id(x) in self.made:
            return self.made[id(x)][1] % x.ndim
        known = self.features.get(x.ndim)
        if known is None:
            return 1 if x.ndim in (2, 4) else None
        axis, size = known[-1]
        if x.shape[axis] == size:
            return axis % x.ndim
        fitting = {axis for axis in range(1, x.ndim) if x.shape[axis] == size}
        fitting |= {axis % x.ndim for axis, size in known if x.shape[axis] == size}
        return fitting.pop() if len(fitting) == 1 else None


def layers_of(network: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """Layers with weights, and all whose axis of features is known, but for those within activations."""
    inside = {id(inner) for module in compared_modules(network) for inner in module.modules()}
    others = [module for module in network.modules() if id(module) not in inside]
    weighted: list[nn.Module] = [module for module in others if isinstance(module, nn.Linear | _ConvNd)]
    return weighted, [module for module in others if isinstance(module, FEATURED)]


def feature_axis(module: nn.Module) -> tuple[int, int]:
    """The axis of features in the output of a layer or normalisation, and how many there are."""
    match module:
        case nn.Linear():
            return -1, module.out_features
        case _ConvNd():
            return 1, module.out_channels
        case nn.GroupNorm():
            return 1, module.num_channels
        case nn.LayerNorm():
            return -1, module.normalized_shape[-1]
        case nn.RNNBase():
            return -1, (module.proj_size or module.hidden_size) * (1 + module.bidirectional)
        case nn.MultiheadAttention():
            return -1, module.embed_dim
    return 1, int(module.num_features)  # type: ignore[arg-type]
