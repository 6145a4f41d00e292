"""What a dataset holds, without reading every image: its labels, and a hash of its tensors or files."""

from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from lightning_fabric.utilities.data import sized_len
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)

from actbench.data.batches import all_finite, as_bytes

MAX_HASHED = 2**29  # bytes; larger sets of files are identified by their names, sizes and times
DEFAULT_SIZE = 32  # of batches of all rows, where a user's sampler of batches names none


class Contents(NamedTuple):
    """Labels of a dataset in the order of its rows, and the tensors or lists of files that hold its images."""

    labels: Int64[Tensor, " rows"]
    sources: tuple[Tensor | tuple[Path, ...], ...]


def known_contents(loader: Any) -> Contents | None:
    """Contents of a loader's dataset; None if they can only be found by reading all of it."""
    plain = isinstance(loader, DataLoader) and type(loader).__iter__ is DataLoader.__iter__
    return dataset_contents(loader.dataset) if plain and loader.collate_fn is default_collate else None


def dataset_contents(dataset: Any) -> Contents | None:
    """Contents of a TensorDataset, a torchvision dataset, a subset or a concatenation of these; None for any other."""
    if type(dataset) is Subset:
        parent = dataset_contents(dataset.dataset)
        rows = torch.as_tensor(dataset.indices, dtype=torch.int64)
        return parent and Contents(parent.labels[rows], (*parent.sources, rows))
    if type(dataset) is ConcatDataset:
        members = [dataset_contents(member) for member in dataset.datasets]
        known = [member for member in members if member]
        if len(known) < len(members):
            return None
        return Contents(torch.cat([member.labels for member in known]), sum((member.sources for member in known), ()))
    sources: tuple[Tensor | tuple[Path, ...], ...]
    if type(dataset) is TensorDataset and len(dataset.tensors) > 1:
        labels, sources = dataset.tensors[1], dataset.tensors
    elif type(dataset).__module__.startswith("torchvision.datasets.") and has_plain_targets(dataset):
        labels, files = torch.as_tensor(dataset.targets), getattr(dataset, "samples", None)
        sources = (tuple(Path(file) for file, _ in files) if files else torch.as_tensor(dataset.data),)
    else:
        return None
    if isinstance(sources[0], Tensor) and not all_finite(sources[0]):
        return None  # which of these inputs are used, and as what, is found by reading them
    whole_numbers = not labels.is_floating_point() and not labels.is_complex() and labels.numel() == len(dataset)
    return Contents(labels.flatten().long().cpu(), sources) if whole_numbers and len(dataset) else None


def has_plain_targets(dataset: Any) -> bool:
    """Whether a torchvision dataset yields its ``targets`` unchanged, and reads its images from ``data`` or files."""
    joint = getattr(dataset, "transforms", None)
    transformed = dataset.target_transform is not None or getattr(joint, "target_transform", joint) is not None
    has_images = isinstance(getattr(dataset, "data", None), Tensor | np.ndarray) or bool(
        getattr(dataset, "samples", None)
    )
    return hasattr(dataset, "targets") and has_images and not transformed


def loader_of_all_rows(loader: Any) -> DataLoader[Any] | None:
    """A loader of all rows of a map-style dataset; None if the given one yields the same rows in each epoch."""
    count = sized_len(loader.dataset) if isinstance(loader, DataLoader) else None
    if not count or isinstance(loader.dataset, IterableDataset):
        return None
    drawn: Any = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    batched = type(drawn) is BatchSampler
    rows = drawn.sampler if batched else drawn
    if type(rows) in (SequentialSampler, list, tuple, range):
        return None
    shuffled = type(rows) is RandomSampler and not rows.replacement and rows.num_samples >= len(rows.data_source)
    shuffled = shuffled or type(rows) is SubsetRandomSampler
    if shuffled and not (batched and drawn.drop_last and len(rows) % drawn.batch_size):
        return None
    size = getattr(drawn, "batch_size", None) or DEFAULT_SIZE
    # The last batch is filled with the first rows: the user's code may rely on drop_last for batches of one size.
    batches = [[row % count for row in range(first, first + size)] for first in range(0, count, size)]
    if loader.batch_sampler is not None:
        how: dict[str, Any] = {"batch_sampler": batches}
    else:  # the dataset itself makes batches, or holds them
        how = {"batch_size": None, "sampler": batches if hasattr(drawn, "batch_size") else range(count)}
    return DataLoader(
        loader.dataset,
        **how,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
    )


def sources_hash(
    sources: Sequence[Tensor | tuple[Path, ...]], hash_files: Callable[[tuple[Path, ...]], bytes]
) -> bytes:
    """Hash of the sources of images; see `Contents`."""
    return joint_hash(
        *(
            f"{source.dtype}{tuple(source.shape)}".encode() + as_bytes(source)
            if isinstance(source, Tensor)
            else hash_files(source)
            for source in sources
        )
    )


def files_hash(files: Sequence[Path]) -> bytes:
    """Hash of the contents of files; of their names, sizes and times if there is too much to read."""
    stats = [file.stat() for file in files]
    if sum(stat.st_size for stat in stats) > MAX_HASHED:
        entries = (f"{file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in zip(files, stats, strict=True))
        return joint_hash(*map(str.encode, entries))
    return joint_hash(*(joint_hash(file.read_bytes()) for file in files))


def joint_hash(*values: bytes) -> bytes:
    """Hash of several byte strings."""
    total = sha256()
    for value in values:
        total.update(len(value).to_bytes(8) + value)
    return total.digest()
