"""torchvision's ResNet-18 for small pictures, with any activation swapped in.

In the project's folder: ``python main.py sites --model.network examples.small_resnet.resnet18``, and the study
``python main.py compare --config configs/studies/cifar10_resnet18.yaml``.
"""

from torch import nn
from torchvision import models


def resnet18(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """ResNet-18 that halves a picture once before its four stages, where torchvision's halves it twice.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of a picture.
    """
    network = models.resnet18(num_classes=num_classes)
    network.conv1 = nn.Conv2d(in_channels, 64, 3, stride=2, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network
