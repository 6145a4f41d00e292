import bz2
import hashlib
import re

import numpy as np
import pytest
import torch
import torchvision.datasets
from datasets import made_up, write_idx, write_qmnist
from mnist1d.data import get_dataset_args, make_dataset

from actbench import data
from actbench.data.sequences import make_parts
from actbench.seeding import unchanged_generators

CPU = torch.device("cpu")


def read(datamodule):
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


# --- MNIST-1D ---


def test_mnist1d_is_what_its_package_makes():
    with unchanged_generators():
        made = make_dataset(get_dataset_args())

    train, test = read(data.MNIST1D()).tables

    for table, part in ((train, ""), (test, "_test")):
        np.testing.assert_array_equal(table.images[:, 0], made[f"x{part}"].astype(np.float32))
        np.testing.assert_array_equal(table.labels, made[f"y{part}"])
    assert (len(train.labels), len(test.labels)) == (4000, 1000)


def test_mnist1d_is_the_same_each_time_and_draws_from_no_global_generator():
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002

    make_parts.cache_clear()
    one, other = read(data.MNIST1D(seed=1)), read(data.MNIST1D(seed=2))

    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    assert torch.get_rng_state().equal(torch_before)
    assert one.digest() == other.digest()
    assert not one.parts["val"].rows.equal(other.parts["val"].rows)


def test_batches_of_mnist1d_are_its_sequences():
    datamodule = read(data.MNIST1D(replicates=2))
    train, val, test = (datamodule.parts[part].rows for part in ("train", "val", "test"))
    assert torch.cat([train, val], dim=1).sort().values.equal(torch.arange(4000).expand(2, -1))
    assert (test.shape, abs(val.shape[1] - 400) <= 5) == ((2, 1000), True)

    for part, table in {"train": 0, "val": 0, "test": 1}.items():
        inputs, labels, rows = datamodule.transfer_batch_to_device(
            next(iter(getattr(datamodule, f"{part}_dataloader")())), CPU, 0
        )
        assert inputs.dtype == torch.float32
        assert inputs.equal(datamodule.tables[table].images[rows])
        assert labels.equal(datamodule.tables[table].labels[rows])


def test_without_its_package_mnist1d_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mnist1d.data", None)
    make_parts.cache_clear()

    install = re.escape("pip install 'lightning-actbench[mnist1d]', or '.[mnist1d]' in a checkout")
    with pytest.raises(data.DataError, match=f"^MNIST1D: .*: {install}$"):
        data.MNIST1D().prepare_data()


# --- EMNIST ---


def write_emnist(root, split, classes, first=0):
    raw = root / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    for seed, part in enumerate(("train", "test")):
        images, labels = made_up(classes * 12, classes, (28, 28), seed)
        write_idx(raw / f"emnist-{split}-{part}-images-idx3-ubyte", images)
        write_idx(raw / f"emnist-{split}-{part}-labels-idx1-ubyte", labels + first)


@pytest.mark.parametrize(
    ("split", "classes", "first"),
    [
        ("balanced", 47, 0),
        ("byclass", 62, 0),
        ("letters", 26, 1),
        ("digits", 10, 0),
        ("mnist", 10, 0),
        ("bymerge", 47, 0),
    ],
)
def test_emnist_is_torchvisions_with_classes_from_0(tmp_path, split, classes, first):
    write_emnist(tmp_path, split, classes, first)

    datamodule = read(data.EMNIST(root=str(tmp_path), split=split))

    assert datamodule.num_classes == classes
    for table, train in zip(datamodule.tables, (True, False), strict=True):
        source = torchvision.datasets.EMNIST(tmp_path, split=split, train=train)
        assert table.images[:, 0].equal(source.data)
        assert table.labels.equal(source.targets - first)
        assert table.labels.min() == 0


def test_labels_of_emnist_that_are_none_are_refused(tmp_path):
    write_emnist(tmp_path, "letters", 26, first=0)

    with pytest.raises(data.DataError, match="labels from -1 to 24, not 0 to 25"):
        data.EMNIST(root=str(tmp_path), split="letters").prepare_data()


def test_a_missing_file_of_emnist_is_named_with_its_split(tmp_path):
    with pytest.raises(data.DataError, match=r"train-images-idx3-ubyte is missing.*--data.split letters"):
        data.EMNIST(root=str(tmp_path), split="letters").prepare_data()


# --- QMNIST ---


@pytest.mark.parametrize("columns", [2, 8])
def test_labels_of_qmnist_are_the_first_of_several_columns(tmp_path, columns):
    write_qmnist(tmp_path)
    rng = np.random.default_rng(0)
    path = tmp_path / "QMNIST" / "raw" / "qmnist-test-labels-idx2-int"
    labels = rng.integers(0, 10, 50)
    write_idx(path, np.c_[labels, rng.integers(-9, 2**31, (50, columns - 1))], code=12, dtype=">i4")

    test = read(data.QMNIST(root=str(tmp_path))).tables[1]

    source = torchvision.datasets.QMNIST(tmp_path, what="test")
    assert test.images[:, 0].equal(source.data)
    assert test.labels.tolist() == labels.tolist() == [label for _, label in source]


def test_labels_of_qmnist_that_are_none_are_refused(tmp_path):
    write_qmnist(tmp_path)
    labels = np.full((200, 8), 10)
    write_idx(tmp_path / "QMNIST" / "raw" / "qmnist-train-labels-idx2-int", labels, code=12, dtype=">i4")

    with pytest.raises(data.DataError, match="labels from 10 to 10, not 0 to 9"):
        data.QMNIST(root=str(tmp_path)).prepare_data()


# --- USPS ---


@pytest.fixture
def usps(tmp_path, monkeypatch):
    known = {}
    for seed, (part, name) in enumerate({"train": "usps.bz2", "test": "usps.t.bz2"}.items()):
        images, labels = made_up(120, 10, (256,), seed)
        lines = [
            " ".join([str(label + 1), *(f"{i}:{value / 127.5 - 1:.4f}" for i, value in enumerate(image, start=1))])
            for image, label in zip(images.tolist(), labels.tolist(), strict=True)
        ]
        content = bz2.compress(("\n".join(lines) + "\n").encode())
        (tmp_path / name).write_bytes(content)
        known[part] = [f"http://127.0.0.1:9/{name}", name, hashlib.md5(content).hexdigest()]
    monkeypatch.setattr(torchvision.datasets.USPS, "split_list", known)
    return tmp_path


def test_usps_is_torchvisions(usps):
    datamodule = read(data.USPS(root=str(usps)))

    for table, train in zip(datamodule.tables, (True, False), strict=True):
        source = torchvision.datasets.USPS(usps, train=train)
        np.testing.assert_array_equal(table.images[:, 0], source.data)
        assert table.labels.tolist() == source.targets


@pytest.mark.parametrize("name", ["usps.bz2", "usps.t.bz2"])
def test_a_damaged_file_of_usps_is_named(usps, name):
    (usps / name).write_bytes((usps / name).read_bytes()[:-9])

    with pytest.raises(data.DataError, match=f"{name} is damaged: its MD5 sum is not"):
        data.USPS(root=str(usps)).prepare_data()
