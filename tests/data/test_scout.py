import numpy as np
import pytest
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

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
