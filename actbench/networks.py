"""Networks: what an activation is put into.

A network is a class whose constructor takes the keywords ``activation``, a
factory that makes a fresh module at each call, ``input_shape``, such as
(channels, height, width), and ``num_classes``. Its ``forward`` maps inputs
(batch, *input_shape) to logits (batch, classes). A network calls the factory
once for every site, so that a trainable activation has its own parameters in
every layer.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, pairwise
from math import prod
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

from actbench.seeding import global_stream

Activation = Callable[[], nn.Module]
MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))  # of every module, such as parameters and hooks
MARK = "_is_compared"  # attribute of modules made by the activation's factory


class TutorialCNN(nn.Module):
    """The tutorial's small CNN: three 3x3 convolutions, then three linear layers.

    The convolutions have 4, 4 and 1 channels and keep the image's size; the
    linear layers map to 128, 128 and the number of classes.
    """

    def __init__(self, activation: Activation, input_shape: Sequence[int], num_classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape(input_shape)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 4, 3, padding=1),
            activation(),
            nn.Conv2d(4, 4, 3, padding=1),
            activation(),
            nn.Conv2d(4, 1, 3, padding=1),
            activation(),
            nn.Flatten(),
            nn.Linear(height * width, 128),
            activation(),
            nn.Linear(128, 128),
            activation(),
            nn.Linear(128, num_classes),
        )

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        logits: Tensor = self.layers(images)
        return logits


class MLP(nn.Module):
    """Fully connected layers on the flattened input, of any shape.

    Args:
        hidden: Width of each hidden layer; at least one layer.
    """

    def __init__(
        self,
        activation: Activation,
        input_shape: Sequence[int],
        num_classes: int,
        hidden: Sequence[int] = (128, 128),
    ) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise ValueError(f"hidden must be one or more widths of at least 1, got {list(hidden)}")
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise((prod(input_shape), *hidden)):
            layers += [nn.Linear(before, after), activation()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden[-1], num_classes))

    def forward(self, inputs: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        logits: Tensor = self.layers(inputs)
        return logits


class ConvNet(nn.Module):
    """Three stages of 3x3 convolution, BatchNorm, activation and 2x2 pooling, then one linear layer.

    The stages have 32, 64 and 128 channels, and the mean over the remaining
    pixels follows: about 94,000 parameters for ten classes. Images must have at
    least 8x8 pixels.
    """

    def __init__(self, activation: Activation, input_shape: Sequence[int], num_classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape(input_shape)
        if min(height, width) < 8:
            raise ValueError(f"ConvNet halves images three times and needs 8x8 or more, got {height}x{width}")
        stages = [
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                activation(),
                nn.MaxPool2d(2),
            )
            for inputs, outputs in pairwise((channels, 32, 64, 128))
        ]
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(128, num_classes)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        # A plain mean: adaptive pooling has no deterministic gradient on CUDA.
        logits: Tensor = self.head(self.stages(images).mean((2, 3)))
        return logits


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm, added to their input.

    Where the shape changes, the input is subsampled and padded with zero
    channels (option A of the paper), so that the shortcut has no parameters.
    """

    def __init__(self, activation: Activation, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = outputs - inputs
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            activation(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.activation = activation()

    def forward(
        self, features: Float[Tensor, "batch inputs height width"]
    ) -> Float[Tensor, "batch outputs height2 width2"]:
        shortcut = features[:, :, :: self.stride, :: self.stride]
        if self.new_channels:
            before = self.new_channels // 2
            shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, before, self.new_channels - before))
        result: Tensor = self.activation(shortcut + self.residual(features))
        return result


class ResNet20(nn.Module):
    """The 20-layer residual network for CIFAR: three stages of three blocks, 16, 32 and 64 channels.

    About 270,000 parameters; convolutions start from He's normal initialisation.

    Source:
        He, Zhang, Ren, Sun (2016), Deep residual learning for image recognition, CVPR, section 4.2.
    """

    def __init__(self, activation: Activation, input_shape: Sequence[int], num_classes: int) -> None:
        super().__init__()
        widths = (16, 16, 16, 16, 32, 32, 32, 64, 64, 64)
        self.stem = nn.Sequential(
            nn.Conv2d(image_shape(input_shape)[0], widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            activation(),
        )
        blocks = [
            ResidualBlock(activation, before, after, stride=after // before) for before, after in pairwise(widths)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        logits: Tensor = self.head(self.blocks(self.stem(images)).mean((2, 3)))
        return logits


NETWORKS: dict[str, type[nn.Module]] = {network.__name__: network for network in (TutorialCNN, MLP, ConvNet, ResNet20)}


def image_shape(input_shape: Sequence[int]) -> tuple[int, int, int]:
    """Channels, height and width; ValueError for inputs that are not images."""
    if len(input_shape) != 3:
        raise ValueError(f"inputs must be images (channels, height, width), got {tuple(input_shape)}")
    channels, height, width = input_shape
    return channels, height, width


def build_network(
    network: Callable[..., nn.Module],
    activation: Activation,
    *,
    input_shape: Sequence[int],
    num_classes: int,
    seed: int,
) -> nn.Module:
    """A network whose initial weights are drawn from the seed's ``init`` stream.

    Each activation is made in its own stream, so networks that differ only in
    their activation start from the same weights.

    Raises:
        ValueError: The network does not map such inputs to one logit per class, or never calls ``activation``.
    """
    sites, shape = count(), tuple(input_shape)
    name = getattr(getattr(network, "cls", network), "__name__", type(network).__name__)

    def activation_at_site() -> nn.Module:
        with global_stream(seed, "activation", next(sites)):
            module = activation()
        setattr(module, MARK, True)
        return module

    try:
        with global_stream(seed, "init"):
            built = network(activation=activation_at_site, input_shape=shape, num_classes=num_classes)
            lazy = any(map(is_lazy, (*built.parameters(), *built.buffers())))  # its first call makes its parameters
            with torch.no_grad():
                logits = (built if lazy else copy_network(built)).eval()(torch.zeros(2, *shape))
    except Exception as error:  # users' classes raise errors of any kind
        raise ValueError(f"{name} fails for inputs of shape {shape}: {' '.join(str(error).split())}") from error
    if not isinstance(logits, Tensor):
        raise ValueError(f"{name} returns a {type(logits).__name__}, which should be a tensor: one logit per class")
    if logits.shape != (2, num_classes):
        raise ValueError(
            f"{name} maps inputs of shape {(2, *shape)} to {tuple(logits.shape)}, "
            f"which should be (2, {num_classes}): one logit per class"
        )
    if next(sites) == 0:
        raise ValueError(f"{name} never calls its argument activation: it is the same network for every activation")
    return built.train()


def compared_modules(network: nn.Module) -> Iterator[nn.Module]:
    """Modules of a network made by its activation's factory, each once."""
    return (module for module in network.modules() if hasattr(module, MARK))


def calls_activation(network: nn.Module, inputs: Float[Tensor, "batch ..."]) -> bool:
    """Whether a plain network in training calls any module made by its activation's factory."""
    called: list[bool] = []
    # A hook on all modules, because a network may hold an activation in a plain list.
    hook = register_module_forward_pre_hook(lambda module, _: called.append(hasattr(module, MARK)))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=()):
            copy.deepcopy(network).train()(inputs)
    finally:
        hook.remove()
    return any(called)


# --- copies ---


def copy_network(network: nn.Module) -> nn.Module:
    """A deep copy of a network, whose modules may keep tensors of their last call, which torch does not copy."""
    memo: dict[int, Any] = {}
    for module in network.modules():
        for name, value in vars(module).items():
            for tensor in kept_tensors(value) if name not in MODULE_ATTRIBUTES else ():
                if not tensor.is_leaf:
                    memo[id(tensor)] = tensor.detach().clone()
            if isinstance(value, ModuleType):
                memo[id(value)] = value
    return copy.deepcopy(network, memo)


def kept_tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in an attribute, at any depth of its collections."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from kept_tensors(item)


@contextmanager
def no_kept_tensors(network: nn.Module) -> Iterator[None]:
    """Remove the tensors that modules keep from a call, for a plot, say: those of a probe or of vmap mean nothing."""
    before = [(vars(module), dict(vars(module))) for module in network.modules()]
    contents = [
        (value, copy.copy(value))
        for _, values in before
        for name, value in values.items()
        if isinstance(value, list | dict) and name not in MODULE_ATTRIBUTES
    ]
    try:
        yield
    finally:
        for attributes, values in before:
            for name, value in list(attributes.items()):
                if value is not values.get(name) and any(True for _ in kept_tensors(value)):
                    if name in values:
                        attributes[name] = values[name]
                    else:
                        del attributes[name]
        for value, original in contents:
            if any(True for _ in kept_tensors(value)):
                value.clear()
                value.extend(original) if isinstance(value, list) else value.update(original)
