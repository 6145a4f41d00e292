from types import SimpleNamespace

import numpy as np
import pytest
import torch

from actbench import data
from actbench.seeding import stream


def images_of(datamodule, part, rows):
    return datamodule.transfer_batch_to_device(data.Rows(part, rows[None]), torch.device("cpu"), 0)[0][0]


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100", "SVHN"])
def test_augmentation_is_that_of_a_loop_over_images(make_data, name):
    datamodule, plain = make_data(name, augment=True, seed=3), make_data(name, seed=3)
    datamodule.trainer = SimpleNamespace(current_epoch=2)
    (rows,) = datamodule.parts["train"].rows

    images = images_of(datamodule, "train", rows).numpy()

    generator = stream(3, "augmentation", 2)
    edges = torch.randint(9, (len(datamodule.tables[0].labels), 2), generator=generator).tolist()
    flips = torch.randint(2, (len(edges), 1), generator=generator).tolist()
    for row, ours, image in zip(rows.tolist(), images, images_of(plain, "train", rows).numpy(), strict=True):
        padded = np.zeros((3, 40, 40), dtype=np.float32)
        padded[:, 4:36, 4:36] = image
        top, left = edges[row]
        expected = padded[:, top : top + 32, left : left + 32]
        if flips[row][0] and name != "SVHN":
            expected = expected[:, :, ::-1]
        np.testing.assert_array_equal(ours, expected)


def test_augmentation_follows_from_seed_epoch_and_row_alone(make_data):
    def augmented(seed, epoch, batch_size):
        datamodule = make_data("CIFAR10", augment=True, seed=seed)
        datamodule.parts = parts
        datamodule.trainer = SimpleNamespace(current_epoch=epoch)
        order = torch.arange(200).flip(0) if batch_size == 7 else torch.arange(200)
        batches = [images_of(datamodule, "train", rows) for rows in order.split(batch_size)]
        return torch.cat(batches)[order]

    parts = make_data("CIFAR10").parts
    reference = augmented(1, 5, 200)

    assert reference.equal(augmented(1, 5, 7))
    assert not reference.equal(augmented(2, 5, 200))
    assert not reference.equal(augmented(1, 6, 200))


@pytest.mark.parametrize("part", ["val", "test", "predict"])
def test_scored_images_are_not_augmented(make_data, part):
    augmented, plain = make_data("CIFAR10", augment=True), make_data("CIFAR10")
    (rows,) = plain.parts[part].rows

    assert images_of(augmented, part, rows).equal(images_of(plain, part, rows))
