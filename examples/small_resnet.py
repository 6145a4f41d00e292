"""Activations in torchvision's ResNet-18, adapted to small pictures: ``python examples/small_resnet.py``.

The same network from the command line, in the project's folder and on CIFAR-10 as a folder of pictures:
``python main.py compare --config configs/studies/cifar10_resnet18.yaml``.
"""

from torch import nn
from torchvision import models

from actbench.studies import compare


def resnet18(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """ResNet-18 whose first convolution has 3x3 pixels, in place of torchvision's 7x7.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of a picture.
    """
    network = models.resnet18(num_classes=num_classes)
    network.conv1 = nn.Conv2d(in_channels, 64, 3, stride=2, padding=1, bias=False)
    return network


STUDY = {
    "model": {"network": "small_resnet.resnet18"},
    "data": {"class_path": "FakeImages", "init_args": {"rows": 300, "channels": 3, "height": 16, "width": 16}},
    "trainer": {"max_epochs": 2, "accelerator": "cpu"},
    "study": {"name": "small_resnet", "activations": ["relu", "gelu"], "replicates": 6},
}

if __name__ == "__main__":
    print(compare(STUDY))
