"""Where the initial weights of a classifier come from."""

from collections.abc import Sequence
from hashlib import file_digest
from pathlib import Path
from typing import NamedTuple

from pytorch_lightning.utilities import rank_zero_info
from torch import nn

from actbench.networks import idle_parameters
from actbench.seeding import source_seed
from actbench.training import checkpoints
from actbench.training.transfer.loading import Fitting, load_state
from actbench.training.transfer.source import read_weights


class Start(NamedTuple):
    """Where the initial weights of a classifier come from."""

    digest: str | None = None
    """Of the file's content, ``sha256:...``; None if all weights were drawn."""
    loaded: bool = True
    """False if only the digest was given, so that a checkpoint has to bring the weights."""
    report: Sequence[str] = ()
    """What was loaded and what was not, a line for each kind; `load_weights` logs them."""


def weights_digest(path: str | Path) -> str:
    """The digest of a file of weights, ``sha256:`` and 64 digits.

    Raises:
        ValueError: The file was not found, or is a digest itself.
    """
    if str(path).startswith(checkpoints.DIGEST):
        raise ValueError(f"model.weights: {path} is the digest of a file, from a checkpoint: give the file")
    if not Path(path).is_file():
        raise ValueError(f"model.weights: {path} {'is a folder' if Path(path).is_dir() else 'was not found'}")
    with Path(path).open("rb") as file:
        return f"{checkpoints.DIGEST}{file_digest(file, 'sha256').hexdigest()}"


def digest_beside(path: str | None, saved: str | None) -> str | None:
    """The digest of a file of weights that is named beside a checkpoint, which has the digest ``saved``.

    The file may be gone, because the checkpoint holds what was loaded from it.
    """
    if path is None or not Path(path).is_file():
        gone = path is not None and not path.startswith(checkpoints.DIGEST)
        return saved if gone and saved else path
    return weights_digest(path)


def load_weights(
    networks: Sequence[nn.Module],
    seeds: Sequence[int],
    path: str | Path | None,
    *,
    activation: str,
    input_shape: Sequence[int],
    num_classes: int,
) -> Start:
    """Load a file's weights into networks that differ in their values alone.

    A file may hold a state dict, alone or in a training checkpoint, or be a
    checkpoint of actbench. A checkpoint of several replicates gives each seed the
    weights of the same seed; any other file gives all networks the same weights.
    Where the names in the file have a prefix, such as ``module.``, it is removed. A
    file may also hold a part of the network, such as its backbone.

    What a file lacks, a head for another number of classes, and parameters of
    the activation with another shape, stay as they were drawn. If the file is a
    checkpoint of another activation, all parameters of the activation do.

    Args:
        networks: One network for each seed, changed in place.
        seeds: The seeds.
        path: The file, or a digest, with which nothing is loaded; see `Start`.
        activation: Class path of the networks' activation.
        input_shape: Shape of an input, without the batch.
        num_classes: Number of classes of the networks.

    Raises:
        ValueError: The file was not found, is damaged, would run code, lacks a seed, holds NaN, or holds the weights of
            another network.
    """
    if path is None:
        return Start()
    if str(path).startswith(checkpoints.DIGEST):
        return Start(str(path), loaded=False)
    digest, source = weights_digest(path), read_weights(path)
    report: list[str] = []
    load_activation, idle = source.activation in (None, activation), idle_parameters(networks[0], input_shape)
    for network, seed in zip(networks, seeds, strict=True):
        state = source.state_of(source_seed(seed, "init"), path)
        fitting = Fitting(network, load_activation=load_activation, num_classes=num_classes)
        report = load_state(state, source, path, fitting=fitting, idle=idle)
    report = [*source.report, *report]
    for line in report:
        rank_zero_info(line)
    return Start(digest, report=report)
