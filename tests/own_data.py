"""A DataModule of a user's own, with batches of several kinds, and a cell that trains on it."""

from collections import UserDict
from dataclasses import dataclass
from typing import NamedTuple

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset, default_collate

from actbench.specs import merge_config
from actbench.studies.cells import Cell, cell_config, data_digest


@dataclass
class Scans:
    diagnosis: torch.Tensor
    scan: torch.Tensor
    weight: float = 1.0


class Pictures(NamedTuple):
    label: torch.Tensor
    image: torch.Tensor


WITH_NAMES = {
    "dataclass": lambda images, labels: Scans(labels, images),
    "namedtuple": lambda images, labels: Pictures(labels, images),
    "UserDict": lambda images, labels: UserDict(labels=labels, pixel_values=images),
}


class Own(LightningDataModule):
    """Blobs of three classes, in batches of one kind."""

    def __init__(self, kind: str = "pair", shape: tuple[int, ...] = (1, 8, 8), wrong: bool = False):
        super().__init__()
        self.kind, self.shape, self.wrong = kind, shape, wrong

    def part(self, rows=96):
        labels = torch.arange(rows) % 3
        images = torch.rand(3, *self.shape, generator=torch.Generator().manual_seed(0))[labels]
        images = images + 0.3 * torch.randn(images.shape, generator=torch.Generator().manual_seed(rows))
        pairs = {
            "pair": (images, labels),
            "index": (images, labels, torch.arange(rows)),
            "int32": (images, labels.int()),
            "column": (images, labels[:, None]),
        }
        if self.kind == "mapping":
            return DataLoader([{"image": x, "label": y} for x, y in zip(images, labels, strict=True)], 32)
        if self.kind in WITH_NAMES:
            made = WITH_NAMES[self.kind]
            return DataLoader(TensorDataset(images, labels), 32, collate_fn=lambda of: made(*default_collate(of)))
        return DataLoader(TensorDataset(*pairs[self.kind]), 32)

    train_dataloader = val_dataloader = part

    def test_dataloader(self):
        loader = self.part(30)
        if self.wrong:
            loader.dataset.tensors[1][-1] = 7
        return loader


def cell(epochs=2, model=None, **arguments):
    given = {
        "data": {"class_path": "own_data.Own", "init_args": arguments},
        "model": {"network": "MLP", **(model or {})},
        "trainer": {"max_epochs": epochs, "accelerator": "cpu"},
    }
    config = cell_config(merge_config({}, given))
    return Cell(config, range(2), data_digest(config))
