"""Sequences of numbers, of which a network is told nothing but their order."""

from functools import cache

import torch
from typing_extensions import override

from actbench.data.images import DataError, ImageData, LabelledImages
from actbench.seeding import unchanged_generators


class MNIST1D(ImageData):
    """MNIST-1D: 5,000 made-up sequences of 40 numbers, noisy digits drawn as lines, 10 classes, no download.

    A small set that leaves room between networks. The first 4,000 sequences are for training, the last 1,000 for
    testing, as made by the package ``mnist1d`` with its defaults; they follow from those alone, not from ``seed``.
    Inputs are (1, 40), float32, with mean 0 and standard deviation 1 over the whole set. Needs
    ``pip install 'lightning-actbench[mnist1d]'``.

    Args:
        val_fraction: Share of the training sequences held out for validation.

    Raises:
        ValueError: An argument is out of range.
        DataError: In ``prepare_data`` or ``setup``: the package mnist1d is not installed, or a part lacks a class.

    Source:
        Greydanus and Kobak (2024), Scaling down deep learning with MNIST-1D, ICML, arXiv:2011.14439.
    """

    input_shape = (1, 40)
    num_classes = 10
    white = 1
    official_test = True

    def __init__(
        self,
        batch_size: int = 64,
        val_fraction: float = 0.1,
        seed: int = 0,
        replicates: int = 1,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, val_fraction, seed=seed, replicates=replicates, drop_last=drop_last)

    @override
    def read(self) -> list[LabelledImages]:
        return list(make_parts())


@cache  # a study reads its data in every cell, and making them takes seconds
def make_parts() -> tuple[LabelledImages, LabelledImages]:
    """The sequences for training and those for testing.

    Raises:
        DataError: The package mnist1d is not installed.
    """
    try:
        from mnist1d.data import get_dataset_args, make_dataset  # an extra, which imports matplotlib
    except ImportError as error:
        raise DataError(
            f"MNIST1D: {error}: pip install 'lightning-actbench[mnist1d]', or '.[mnist1d]' in a checkout"
        ) from error
    with unchanged_generators():  # it seeds the global ones
        made = make_dataset(get_dataset_args())

    def part(suffix: str) -> LabelledImages:
        sequences, labels = (torch.from_numpy(made[f"{name}{suffix}"]) for name in "xy")
        return LabelledImages(sequences.float()[:, None], labels.long())

    return part(""), part("_test")
