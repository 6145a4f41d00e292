import ast
import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets
from datasets import DATASETS, FROM_FILES, all_rows
from jsonargparse import ArgumentParser
from sklearn.datasets import load_digits

from actbench import data

CPU = torch.device("cpu")
GENERATED = ("Digits", "FakeImages")


def part_rows(datamodule, part):
    return all_rows(getattr(datamodule, f"{part}_dataloader")()).sort().values


@pytest.mark.parametrize("name", DATASETS)
def test_parts_are_disjoint_complete_and_stratified(make_data, name):
    datamodule = make_data(name)

    parts = [part_rows(datamodule, part) for part in ("train", "val", "test")]

    split = parts[:2] if name in FROM_FILES else parts
    labels = datamodule.tables[0].labels
    assert torch.cat(split).sort().values.tolist() == list(range(len(labels)))
    fractions = [0.9, 0.1] if name in FROM_FILES else [0.7, 0.15, 0.15]
    for rows, fraction in zip(split, fractions, strict=True):
        for label in range(datamodule.num_classes):
            count = int((labels[rows] == label).sum())
            assert count > 0
            assert abs(count - fraction * int((labels == label).sum())) <= 1


@pytest.mark.parametrize("name", DATASETS)
def test_split_follows_from_the_seed(make_data, name):
    one, same, other = (part_rows(make_data(name, seed=seed), "val") for seed in (1, 1, 2))

    assert one.equal(same)
    assert not one.equal(other)


@pytest.mark.parametrize("name", FROM_FILES)
def test_train_and_val_are_from_the_training_files_and_test_from_the_test_files(make_data, name):
    datamodule = make_data(name)
    source, root = getattr(torchvision.datasets, name), datamodule.root
    parts = {"split": "train"}, {"split": "test"}
    train, test = (source(root, **part) for part in (parts if name == "SVHN" else ({}, {"train": False})))

    for part, files in {"train": train, "val": train, "test": test, "predict": test}.items():
        for batch in getattr(datamodule, f"{part}_dataloader")():
            (images, *_), (labels, *_), rows = datamodule.transfer_batch_to_device(batch, CPU, 0)
            row = batch.rows[0, 0]

            image, label = files[int(row)]
            expected = np.asarray(image, dtype=np.float32).reshape(*datamodule.input_shape[1:], -1) / 255
            np.testing.assert_array_equal(images[0].permute(1, 2, 0), expected)
            assert labels[0] == label
            assert rows.equal(batch.rows)


def test_digits_are_scikit_learns_scaled_to_one(make_data):
    digits, datamodule = load_digits(), make_data("Digits")

    (batch,) = datamodule.predict_dataloader()
    images, labels, index = (part[0] for part in datamodule.transfer_batch_to_device(batch, CPU, 0))

    np.testing.assert_allclose(images[:, 0], digits.images[index] / 16)
    np.testing.assert_array_equal(labels, digits.target[index])


@pytest.mark.parametrize("name", DATASETS)
def test_images_lie_between_zero_and_one(make_data, name):
    datamodule = make_data(name)

    images, labels, _ = datamodule.transfer_batch_to_device(next(iter(datamodule.train_dataloader())), CPU, 0)

    assert images.shape == (1, 64, *datamodule.input_shape)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert images.min() >= 0
    assert 0.5 < images.max() <= 1


def test_a_part_without_some_class_is_refused():
    datamodule = data.FakeImages(rows=30)

    with pytest.raises(data.DataError, match=r"the test part of FakeImages has no image of class 0: 30 images"):
        datamodule.setup("fit")


def test_fake_images_do_not_follow_the_seed(make_data):
    one, other = (make_data("FakeImages", seed=seed).tables[0] for seed in (1, 2))

    assert one.images.equal(other.images)
    assert one.labels.equal(other.labels)


@pytest.mark.parametrize("name", DATASETS)
def test_our_data_say_their_shape_and_classes_without_files(name):
    datamodule = getattr(data, name)()

    shape, classes = datamodule.input_shape, datamodule.num_classes

    assert datamodule.tables == []
    assert shape == ((1, 8, 8) if name in GENERATED else (1, 28, 28) if "MNIST" in name else (3, 32, 32))
    assert classes == (100 if name == "CIFAR100" else 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"val_fraction": 0.0}, "val_fraction must lie strictly between 0 and 1, got 0.0"),
        ({"val_fraction": 1.0}, "val_fraction must lie strictly between 0 and 1, got 1.0"),
        ({"test_fraction": -0.1}, "test_fraction must lie strictly between 0 and 1, got -0.1"),
        (
            {"val_fraction": 0.5, "test_fraction": 0.5},
            r"val_fraction \+ test_fraction must be below 1, got 0.5 \+ 0.5",
        ),
        ({"rows": 0}, "rows must be at least 1, got 0"),
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        data.FakeImages(**options)


@pytest.mark.parametrize("name", [*DATASETS, "ImageFolder", "MNIST1D", "EMNIST", "USPS"])
def test_every_option_is_explained_in_the_help(name, capsys):
    parser = ArgumentParser()
    parser.add_class_arguments(getattr(data, name), "data")

    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])

    text = " ".join(capsys.readouterr().out.split())
    for option in inspect.signature(getattr(data, name)).parameters:
        _, described = text.rsplit(f"--data.{option} ", 1)
        assert described.split("(type:")[0].split("(required")[0].strip().endswith("."), option


@pytest.mark.parametrize("name", DATASETS)
def test_recorded_options_build_the_same_data_again(name):
    cls = getattr(data, name)
    changed = {"batch_size": 7, "val_fraction": 0.3}

    recorded = dict(cls(seed=3, **changed).hparams)

    assert recorded.keys() == inspect.signature(cls).parameters.keys() - {"seed", "replicates"}
    assert recorded == json.loads(json.dumps(recorded))
    assert recorded.items() >= changed.items()
    assert dict(cls(**recorded).hparams) == recorded


def test_no_module_imports_heavy_packages_until_it_needs_them():
    for path in Path(data.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"sklearn", "torchvision", "scipy"}
