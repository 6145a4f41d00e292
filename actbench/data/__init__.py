"""Datasets, their split, and the batches that a network is trained on."""

from actbench.data.batches import SEED, read_batch
from actbench.data.datasets import (
    CIFAR10,
    CIFAR100,
    DATASETS,
    KMNIST,
    MNIST,
    SVHN,
    Digits,
    FakeImages,
    FashionMNIST,
)
from actbench.data.foreign import ForeignData, adopt
from actbench.data.images import DataError, ImageData
from actbench.data.rows import Batch, RowBatches, Rows, stratified_split

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "DATASETS",
    "KMNIST",
    "MNIST",
    "SEED",
    "SVHN",
    "Batch",
    "DataError",
    "Digits",
    "FakeImages",
    "FashionMNIST",
    "ForeignData",
    "ImageData",
    "RowBatches",
    "Rows",
    "adopt",
    "read_batch",
    "stratified_split",
]
