"""Keyed random streams: everything random follows from a seed, a purpose and an index.

No stream's state depends on how often another was used, so two runs that share
a seed share their initial weights and batch order whatever else differs, and a
resumed run needs no generator state to go on exactly.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Literal, get_args

import torch
from pytorch_lightning.utilities.seed import isolate_rng

Purpose = Literal["init", "activation", "split", "order", "augmentation", "dropout"]
Source = Literal["init", "split", "order", "augmentation", "dropout"]  # may vary alone; init has the activation's
SOURCES: tuple[Source, ...] = get_args(Source)
FIXED: ContextVar[Mapping[str, int]] = ContextVar("FIXED", default=MappingProxyType({}))


def stream_seed(seed: int, purpose: Purpose, *index: int) -> int:
    """Seed of one stream: a 63-bit hash of its key.

    Args:
        seed: The replicate's seed.
        purpose: What the numbers are for.
        index: Which of several streams of that purpose, say the epoch.
    """
    seed = FIXED.get().get(purpose, seed)
    key = "/".join(map(str, ("actbench", seed, purpose, *index)))
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) >> 1


def stream(seed: int, purpose: Purpose, *index: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Fresh generator at the start of one stream; see `stream_seed`. What it draws depends on the kind of device."""
    return torch.Generator(device).manual_seed(stream_seed(seed, purpose, *index))


def varying() -> list[Source]:
    """The sources that differ from seed to seed."""
    return [source for source in SOURCES if source not in FIXED.get()]


@contextmanager
def fixed(sources: Collection[str], seed: int) -> Iterator[None]:
    """Let these of the `SOURCES` follow from one seed, whichever seed is asked for."""
    purposes = [*sources, "activation"] if "init" in sources else sources
    token = FIXED.set(dict.fromkeys(purposes, seed))
    try:
        yield
    finally:
        FIXED.reset(token)


@contextmanager
def global_stream(seed: int, purpose: Purpose, *index: int) -> Iterator[None]:
    """Let torch's global CPU generator be one stream, and put it back afterwards.

    For code that draws without taking a generator, such as constructors of `torch.nn`.
    """
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(stream_seed(seed, purpose, *index))
    try:
        yield
    finally:
        torch.set_rng_state(state)


@contextmanager
def unchanged_generators() -> Iterator[None]:
    """Put the global generators of Python, NumPy and torch back afterwards, also after an error."""
    failure = None
    with isolate_rng():  # which puts nothing back if an error passes through it
        try:
            yield
        except BaseException as error:  # raised again below
            failure = error
    if failure is not None:
        raise failure
