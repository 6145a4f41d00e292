"""Keyed random streams: everything random follows from a seed, a purpose and an index.

No stream's state depends on how often another was used, so two runs that share
a seed share their initial weights and batch order whatever else differs, and a run
resumes exactly without any saved generator state.
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
Source = Literal["init", "split", "order", "augmentation", "dropout"]  # each may vary alone; init includes activation
SOURCES: tuple[Source, ...] = get_args(Source)
FIXED: ContextVar[Mapping[str, int]] = ContextVar("FIXED", default=MappingProxyType({}))


def stream_seed(seed: int, purpose: Purpose, *index: int) -> int:
    """Seed of one stream: a 63-bit hash of its key.

    Args:
        seed: The replicate's seed.
        purpose: What the random numbers are used for.
        index: Distinguishes several streams of one purpose, for example by epoch.
    """
    seed = FIXED.get().get(purpose, seed)
    key = "/".join(map(str, ("actbench", seed, purpose, *index)))
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) >> 1


def stream(seed: int, purpose: Purpose, *index: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A new generator at the start of one stream; see `stream_seed`. Its numbers depend on the kind of device."""
    return torch.Generator(device).manual_seed(stream_seed(seed, purpose, *index))


def varying_sources() -> list[Source]:
    """The sources that differ from seed to seed."""
    return [source for source in SOURCES if source not in FIXED.get()]


@contextmanager
def fixed_sources(sources: Collection[str], seed: int) -> Iterator[None]:
    """Key these `SOURCES` by one seed, whichever seed is passed to `stream_seed`."""
    purposes = [*sources, "activation"] if "init" in sources else sources
    token = FIXED.set(dict.fromkeys(purposes, seed))
    try:
        yield
    finally:
        FIXED.reset(token)


@contextmanager
def global_stream(seed: int, purpose: Purpose, *index: int) -> Iterator[None]:
    """Use one stream as torch's global CPU generator, and restore the generator afterwards.

    For code that draws without accepting a generator, such as constructors in `torch.nn`.
    """
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(stream_seed(seed, purpose, *index))
    try:
        yield
    finally:
        torch.set_rng_state(state)


@contextmanager
def unchanged_generators() -> Iterator[None]:
    """Restore the global generators of Python, NumPy and torch afterwards, even after an error."""
    failure = None
    with isolate_rng():  # which restores nothing if an error passes through it
        try:
            yield
        except BaseException as error:  # raised again below
            failure = error
    if failure is not None:
        raise failure
