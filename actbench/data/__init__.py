"""Datasets, their split, and the batches that a network is trained on."""

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
from actbench.data.foreign import input_shape, num_classes
from actbench.data.images import DataError, ImageData
from actbench.data.rows import RowBatches, Rows, stratified_split

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "DATASETS",
    "KMNIST",
    "MNIST",
    "SVHN",
    "DataError",
    "Digits",
    "FakeImages",
    "FashionMNIST",
    "ImageData",
    "RowBatches",
    "Rows",
    "input_shape",
    "num_classes",
    "stratified_split",
]
