"""What a network must know of any LightningDataModule, ours or another's: image shape and classes."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor


def input_shape(datamodule: LightningDataModule) -> tuple[int, ...]:
    """Shape of one image: the attribute ``input_shape``, or that of the first training batch.

    Raises:
        ValueError: Training batches are not ``(images, labels)``.
    """
    said = getattr(datamodule, "input_shape", None)
    if said is not None:
        return tuple(said)
    with torch.random.fork_rng(devices=()):  # a DataLoader draws from the global generator
        images, _ = next(batches(training_loader(datamodule)))
    return tuple(images.shape[1:])


def num_classes(datamodule: LightningDataModule) -> int:
    """Number of classes: what the DataModule or its dataset says, or else the largest training label and one.

    The DataModule's attributes ``num_classes`` and ``classes`` are asked
    first, then the dataset's ``classes``. Only when all are silent are the
    training batches gone through, all of them, for one alone may lack a class.

    Raises:
        ValueError: Training batches are not ``(images, labels)``.
    """
    said = getattr(datamodule, "num_classes", None) or getattr(datamodule, "classes", None)
    if said is None:
        loader = training_loader(datamodule)
        said = getattr(getattr(loader, "dataset", None), "classes", None)
    if said is not None:
        return len(said) if hasattr(said, "__len__") else int(said)
    with torch.random.fork_rng(devices=()):
        return max(int(labels.max()) for _, labels in batches(loader)) + 1


def training_loader(datamodule: LightningDataModule) -> Iterable[Any]:
    """The training loader of a DataModule that no Trainer has prepared yet."""
    datamodule.prepare_data()
    datamodule.setup("fit")
    loader: Iterable[Any] = datamodule.train_dataloader()
    return loader


def batches(loader: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images and labels.

    Raises:
        ValueError: There is none, or one is something else; the message says what.
    """
    batch = None
    for batch in loader:
        match batch:
            case [Tensor() as images, Tensor() as labels] if is_images(images) and is_labels(labels):
                yield images, labels
            case _:
                raise ValueError(
                    "training batches must be (images, labels), of floating point and of whole numbers, "
                    f"not {kind(batch)}; or let the DataModule have the attributes input_shape and num_classes"
                )
    if batch is None:
        raise ValueError("the DataModule has no training batch")


def is_images(tensor: Tensor) -> bool:
    """Whether it can be a batch of images."""
    return tensor.is_floating_point() and tensor.ndim >= 2


def is_labels(tensor: Tensor) -> bool:
    """Whether it can be their classes."""
    return tensor.ndim == 1 and tensor.dtype in (
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
    )


def kind(batch: Any) -> str:
    """What a batch is made of, in a few words."""
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')} {tuple(batch.shape)}"
    if isinstance(batch, list | tuple):
        return f"{type(batch).__name__} of {', '.join(map(kind, batch)) or 'nothing'}"
    return type(batch).__name__
