"""What a dataset holds, known without reading it image by image: its labels, and a hash of its tensors or files."""

from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset, default_collate

from actbench.data.batches import as_bytes

WHOLE = 2**29  # bytes of files that are hashed; of more, names, sizes and times tell that something has changed


class Contents(NamedTuple):
    """Labels of a dataset in the order of its rows, and what its images are made from: tensors, and lists of files."""

    labels: Int64[Tensor, " rows"]
    sources: tuple[Tensor | tuple[Path, ...], ...]


def contents(loader: Any) -> Contents | None:
    """What the dataset of a loader holds, if it is known without reading it through."""
    plain = isinstance(loader, DataLoader) and type(loader).__iter__ is DataLoader.__iter__
    return dataset_contents(loader.dataset) if plain and loader.collate_fn is default_collate else None


def dataset_contents(dataset: Any) -> Contents | None:
    """What a dataset of tensors, or of torchvision's, holds, or several of them; None for any other."""
    if type(dataset) is Subset:
        whole = dataset_contents(dataset.dataset)
        rows = torch.as_tensor(dataset.indices, dtype=torch.int64)
        return whole and Contents(whole.labels[rows], (*whole.sources, rows))
    if type(dataset) is ConcatDataset:
        several = [dataset_contents(part) for part in dataset.datasets]
        known = [part for part in several if part]
        if len(known) < len(several):
            return None
        return Contents(torch.cat([part.labels for part in known]), sum((part.sources for part in known), ()))
    sources: tuple[Tensor | tuple[Path, ...], ...]
    if type(dataset) is TensorDataset and len(dataset.tensors) > 1:
        labels, sources = dataset.tensors[1], dataset.tensors
    elif type(dataset).__module__.startswith("torchvision.datasets.") and has_plain_targets(dataset):
        labels, files = torch.as_tensor(dataset.targets), getattr(dataset, "samples", None)
        sources = (tuple(Path(file) for file, _ in files) if files else torch.as_tensor(dataset.data),)
    else:
        return None
    whole_numbers = not labels.is_floating_point() and not labels.is_complex() and labels.numel() == len(dataset)
    return Contents(labels.flatten().long().cpu(), sources) if whole_numbers and len(dataset) else None


def has_plain_targets(dataset: Any) -> bool:
    """Whether a dataset of torchvision yields its ``targets`` as they are, and its images from ``data`` or files."""
    joint = getattr(dataset, "transforms", None)
    changed = dataset.target_transform is not None or getattr(joint, "target_transform", joint) is not None
    holds = isinstance(getattr(dataset, "data", None), Tensor | np.ndarray) or bool(getattr(dataset, "samples", None))
    return hasattr(dataset, "targets") and holds and not changed


def sources_hash(
    sources: Sequence[Tensor | tuple[Path, ...]], hash_files: Callable[[tuple[Path, ...]], bytes]
) -> bytes:
    """Hash of what images are made from, see `Contents`."""
    return hashed(
        *(
            f"{source.dtype}{tuple(source.shape)}".encode() + as_bytes(source)
            if isinstance(source, Tensor)
            else hash_files(source)
            for source in sources
        )
    )


def files_hash(files: Sequence[Path]) -> bytes:
    """Hash of files: of what they hold, or, if that is too much to read, of what the disk says of them."""
    stats = [file.stat() for file in files]
    if sum(stat.st_size for stat in stats) > WHOLE:
        known = (f"{file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in zip(files, stats, strict=True))
        return hashed(*map(str.encode, known))
    return hashed(*(hashed(file.read_bytes()) for file in files))


def hashed(*parts: bytes) -> bytes:
    """Hash of several byte strings."""
    found = sha256()
    for part in parts:
        found.update(len(part).to_bytes(8) + part)
    return found.digest()
