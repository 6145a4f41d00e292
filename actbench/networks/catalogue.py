"""The networks that actbench knows by name."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from jaxtyping import Float
from torch import Tensor, nn

from actbench.networks.build import Activation


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

    Args:
        width: Channels of the first stage; the second has twice, the third four times as many.
    """

    def __init__(self, activation: Activation, input_shape: Sequence[int], num_classes: int, width: int = 32) -> None:
        super().__init__()
        channels, *size = image_shape(input_shape)
        check_width(width)
        if min(size) < 8:
            raise ValueError(f"ConvNet halves images three times and needs 8x8 or more, got {size[0]}x{size[1]}")
        stages = [
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                activation(),
                nn.MaxPool2d(2),
            )
            for inputs, outputs in pairwise((channels, width, 2 * width, 4 * width))
        ]
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        # A plain mean: adaptive pooling has no deterministic gradient on CUDA.
        logits: Tensor = self.head(self.stages(images).mean((2, 3)))
        return logits


class ConvNet1d(nn.Module):
    """Three convolutions of 25 channels along a sequence, each with stride 2, then one linear layer.

    Kernels of 5, 3 and 3, as in the convolutional network of MNIST-1D: 5,210 parameters for (1, 40) and ten classes.
    Sequences must have at least 3 positions.

    Args:
        width: Channels of each convolution.

    Source:
        Greydanus and Kobak (2024), Scaling down deep learning with MNIST-1D, ICML, arXiv:2011.14439.
    """

    def __init__(self, activation: Activation, input_shape: Sequence[int], num_classes: int, width: int = 25) -> None:
        super().__init__()
        check_width(width)
        if len(input_shape) != 2 or input_shape[1] < 3:
            raise ValueError(
                f"ConvNet1d takes sequences (channels, length) of length 3 or more, got {tuple(input_shape)}"
            )
        channels, length = input_shape
        layers: list[nn.Module] = []
        for inputs, kernel in ((channels, 5), (width, 3), (width, 3)):
            layers += [nn.Conv1d(inputs, width, kernel, stride=2, padding=1), activation()]
            length = (length + 2 - kernel) // 2 + 1
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * length, num_classes))

    def forward(self, sequences: Float[Tensor, "batch channels length"]) -> Float[Tensor, "batch classes"]:
        logits: Tensor = self.layers(sequences)
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

    Args:
        width: Channels of the first stage; the second has twice, the third four times as many.

    Source:
        He, Zhang, Ren, Sun (2016), Deep residual learning for image recognition, CVPR, section 4.2.
    """

    def __init__(self, activation: Activation, input_shape: Sequence[int], num_classes: int, width: int = 16) -> None:
        super().__init__()
        check_width(width)
        widths = [width] * 4 + [2 * width] * 3 + [4 * width] * 3
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


NETWORKS: dict[str, type[nn.Module]] = {
    network.__name__: network for network in (TutorialCNN, MLP, ConvNet, ConvNet1d, ResNet20)
}


def check_width(width: int) -> None:
    """Raise a ValueError for a width below 1."""
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")


def image_shape(input_shape: Sequence[int]) -> tuple[int, int, int]:
    """Channels, height and width; ValueError for inputs that are not images."""
    if len(input_shape) != 3:
        raise ValueError(f"inputs must be images (channels, height, width), got {tuple(input_shape)}")
    channels, height, width = input_shape
    return channels, height, width
