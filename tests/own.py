"""A file as users write one: the folder of each test of `test_user_inputs` has a copy."""

import math
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningDataModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def blobs(rows, seed, shape=(1, 8, 8), classes=3):
    centres = torch.rand(classes, *shape, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(rows) % classes
    return centres[labels] + 0.3 * torch.randn(rows, *shape, generator=torch.Generator().manual_seed(seed)), labels


class Data(LightningDataModule):
    shape = (1, 8, 8)

    def part(self, seed, rows):
        return DataLoader(self.rows(*blobs(rows, seed, self.shape)), batch_size=32)

    def rows(self, inputs, labels):
        return TensorDataset(inputs, labels)

    def train_dataloader(self):
        return self.part(0, 192)

    def val_dataloader(self):
        return self.part(1, 90)

    def test_dataloader(self):
        return self.part(2, 90)


class Counts(Data):
    def __init__(self, val_split: int | float = 0.2):
        super().__init__()
        Path("given").write_text(repr(val_split))
        self.count = val_split if isinstance(val_split, int) else int(300 * val_split)

    def val_dataloader(self):
        return self.part(1, self.count)


class Folder(Data):
    def __init__(self, root: Path = Path("other")):
        super().__init__()
        self.root = root

    def rows(self, inputs, labels):
        return TensorDataset(inputs, (labels + int((self.root / "shift").read_text())) % 3)


@dataclass
class Scale:
    by: float = 1.0


@dataclass
class Options:
    scale: Scale = field(default_factory=Scale)
    parts: list[str] = field(default_factory=lambda: ["a"])


HALF = Options(Scale(0.5), ["b"])


class Scaled(Data):
    def __init__(self, options: Options = HALF, more: Options | None = None):
        super().__init__()
        with Path("given").open("a") as file:
            print(options, more, file=file)


class Watch(Callback):
    def __init__(self, options: Options = HALF, more: Options | None = None):
        with Path("given").open("a") as file:
            print(options, more, file=file)


class Index(Data):
    def rows(self, inputs, labels):
        return TensorDataset(inputs, labels, torch.arange(len(labels)))


class Named(Data):
    def rows(self, inputs, labels):
        return list(zip(inputs, labels, [f"{row}.png" for row in range(len(labels))], strict=True))


class Int32(Data):
    def rows(self, inputs, labels):
        return TensorDataset(inputs, labels.int())


class Signals(Data):
    shape = (1, 40)


class Table(Data):
    shape = (20,)


class NoTest(LightningDataModule):
    def train_dataloader(self):
        return Data().train_dataloader()

    def val_dataloader(self):
        return Data().val_dataloader()


class Pictures(Data):
    def predict_dataloader(self):
        inputs, _ = blobs(40, 5)
        return DataLoader(list(zip(inputs, [f"{row}.png" for row in range(40)], strict=True)), 32)


class Start(nn.Module):
    def start(self, *layers):
        self.net = nn.Sequential(nn.Flatten(), *layers)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in self.net.parameters():
                if weight.numel() > 1:
                    weight.copy_(torch.rand(weight.shape, generator=generator) / 2 - 0.25)

    def forward(self, x):
        return self.net(x)


class Net(Start):
    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        self.start(nn.Linear(math.prod(input_shape), 16), activation(), nn.Linear(16, num_classes))


class Tied(Start):
    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        both = nn.Linear(16, 16)
        first, last = nn.Linear(math.prod(input_shape), 16), nn.Linear(16, num_classes)
        self.start(first, activation(), both, activation(), both, last)


class OwnPReLU(Start):
    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        first, last = nn.Linear(math.prod(input_shape), 16), nn.Linear(16, num_classes)
        self.start(first, nn.PReLU(), nn.Linear(16, 16), activation(), last)


class TwoPlaces(Start):
    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        both, last = activation(), nn.Linear(16, num_classes)
        self.start(nn.Linear(math.prod(input_shape), 16), both, nn.Linear(16, 16), both, last)


class Deaf(Start):
    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        self.start(nn.Linear(math.prod(input_shape), 16), nn.ReLU(), nn.Linear(16, num_classes))


class Pool(str, Enum):  # noqa: UP042  # as users write it
    MAX = "max"
    MEAN = "mean"


class Pooled(Start):
    def __init__(self, activation, input_shape, num_classes, pool: Pool = Pool.MAX, hidden: tuple[int, ...] = (16,)):
        super().__init__()
        sizes = (math.prod(input_shape) // 4, *hidden)
        body = [of for i, o in pairwise(sizes) for of in (nn.Linear(i, o), activation())]
        self.start(*body, nn.Linear(sizes[-1], num_classes))
        self.pool = nn.MaxPool2d(2) if pool == Pool.MAX else nn.AvgPool2d(2)

    def forward(self, x):
        return self.net(self.pool(x))


class Keep(nn.Module):
    def forward(self, x):
        self.last = torch.relu(x)
        return self.last


class Folding(nn.Module):
    def __init__(self, folder: str = "", cache_dir: str = ""):
        super().__init__()

    def forward(self, x):
        return x.relu()
