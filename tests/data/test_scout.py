import numpy as np
import pytest
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Subset, TensorDataset, WeightedRandomSampler
from torchvision.datasets import VisionDataset

from actbench import data


class Foreign(LightningDataModule):
    """A user's DataModule that knows nothing about its data until it is set up."""

    def __init__(self, loader=None, **attributes):
        super().__init__()
        self.loader = loader
        vars(self).update(attributes)

    def setup(self, stage):
        self.stage = stage

    def train_dataloader(self):
        assert self.stage == "fit"
        return self.loader


def loader(labels, shape=(3, 5, 4), batch_size=2, **attributes):
    dataset = TensorDataset(torch.rand(len(labels), *shape), torch.tensor(labels))
    vars(dataset).update(attributes)
    return DataLoader(dataset, batch_size=batch_size, shuffle=True)


@pytest.mark.parametrize(
    ("foreign", "classes"),
    [
        (Foreign(num_classes=7), 7),
        (Foreign(num_classes=np.int64(7)), 7),
        (Foreign(classes=["cat", "dog"]), 2),
        (Foreign(loader([0, 1, 0, 1], classes=["cat", "dog", "cow"])), 3),
        (Foreign(loader([0, 0, 0, 0, 4, 1, 0, 0])), 5),
    ],
)
def test_classes_are_said_or_else_counted_over_all_batches(foreign, classes):
    before = torch.get_rng_state()

    assert data.adopt(foreign).num_classes == classes
    assert torch.get_rng_state().equal(before)


def test_shape_is_said_or_else_that_of_the_first_batch():
    silent = Foreign(loader([0, 1, 2]))
    before = torch.get_rng_state()

    assert data.adopt(Foreign(input_shape=[1, 2, 3])).input_shape == (1, 2, 3)
    assert data.adopt(silent).input_shape == (3, 5, 4)
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize(
    ("batches", "found"),
    [
        ([torch.rand(2, 3)], r"no labels: float32 \(2, 3\)"),
        ([[torch.ones(2, 3, dtype=torch.uint8), torch.ones(2)]], r"not list of uint8 \(2, 3\), float32 \(2,\)"),
        ([{"images": torch.rand(2, 3)}], "no labels: dict"),
        ([(torch.rand(2), torch.ones(2, dtype=torch.int64))], r"not tuple of float32 \(2,\), int64 \(2,\)"),
        ([], "the train part of Foreign has no batch"),
    ],
)
@pytest.mark.parametrize("ask", ["input_shape", "num_classes"])
def test_batches_that_are_not_images_and_labels_are_described(ask, batches, found):
    with pytest.raises(ValueError, match=found):
        getattr(data.adopt(Foreign(batches)), ask)


class Broken(LightningDataModule):
    """Thirty rows in each part, of which one part has a value in two rows of its last batch."""

    def __init__(self, value=float("nan"), part="train", *, dtype=torch.float32, make=lambda rows: DataLoader(rows, 4)):
        super().__init__()
        self.value, self.part, self.dtype, self.make = value, part, dtype, make

    def rows(self, part):
        inputs = torch.rand(30, 5).to(self.dtype)
        if part == self.part:
            inputs[28:, 3] = self.value
        return self.make(TensorDataset(inputs, torch.arange(30) % 3))

    def train_dataloader(self):
        return self.rows("train")

    def val_dataloader(self):
        return self.rows("val")

    def test_dataloader(self):
        return self.rows("test")


@pytest.mark.parametrize("part", ["train", "val", "test"])
@pytest.mark.parametrize(
    ("value", "dtype", "make"),
    [
        (float("nan"), torch.float32, lambda rows: DataLoader(rows, 4)),
        (float("inf"), torch.float16, lambda rows: DataLoader(Subset(rows, range(30)), 4)),
        (float("-inf"), torch.float64, lambda rows: DataLoader([*rows], 4)),
    ],
)
def test_inputs_that_are_not_finite_are_refused_in_any_part(part, value, dtype, make):
    scout = data.adopt(Broken(value, part, dtype=dtype, make=make)).scout

    with pytest.raises(ValueError, match=f"the {part} part of Broken has NaN or inf in 2 of 30 inputs"):
        scout.check()


class InMemory(VisionDataset):
    """Rows in memory, of which the last is not finite."""

    def __init__(self):
        super().__init__()
        self.data, self.targets = torch.rand(30, 5), torch.arange(30) % 3
        self.data[29] = float("nan")

    def __getitem__(self, row):
        return self.data[row], self.targets[row]

    def __len__(self):
        return 30


InMemory.__module__ = VisionDataset.__module__  # looks like torchvision's own


def test_images_in_memory_that_are_not_finite_are_refused_although_few_are_read():
    with pytest.raises(ValueError, match="the train part of Foreign has NaN or inf in 1 of 30 inputs"):
        data.adopt(Foreign(DataLoader(InMemory(), 4))).scout.check(["train"])


class Repaired(Broken):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch[0].nan_to_num(), batch[1]


@pytest.mark.parametrize(
    "datamodule",
    [
        Broken(make=lambda rows: DataLoader(Subset(rows, range(28)), 4)),
        Repaired(),
        Broken(value=torch.finfo(torch.float16).max, dtype=torch.float16),
    ],
)
def test_only_what_the_network_gets_has_to_be_finite(datamodule):
    data.adopt(datamodule).scout.check()


def test_a_row_that_is_not_finite_is_told_if_the_first_epoch_leaves_it_out():
    def make(rows):
        return DataLoader(rows, 4, sampler=WeightedRandomSampler(torch.arange(30) < 28, 30))

    scout = data.adopt(Broken(make=make)).scout
    scout.check(["train"])

    with pytest.warns(UserWarning, match="train part of Broken has NaN or inf in rows that the first epoch leaves out"):
        scout.digest()
