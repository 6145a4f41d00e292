"""Keyed random streams: everything random follows from a seed, a purpose and an index.

No stream's state depends on how often another was used, so two runs that share
a seed share their initial weights and batch order whatever else differs, and a run
resumes exactly without any saved generator state.
"""

import hashlib
import random
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np
import torch
from pytorch_lightning.utilities.seed import isolate_rng

Purpose = Literal["init", "activation", "split", "order", "augmentation", "dropout"]
Source = Literal["init", "split", "order", "augmentation", "dropout"]  # each may vary alone; init includes activation
SOURCES: tuple[Source, ...] = get_args(Source)
SPARE: list[np.random.MT19937] = []  # generators of NumPy to take turns with its global one
LEVELS = 5  # seeds of each crossed source; a prime number, which the array of `levels` needs
CROSSED_REPLICATES = LEVELS**2


@cache
def levels(column: int) -> tuple[int, ...]:
    """A column of an orthogonal array: for each of `CROSSED_REPLICATES` replicates, a number from 0 to `LEVELS` - 1.

    In any two of its `LEVELS` + 1 columns, every pair of numbers occurs once.

    Source:
        Bose and Bush (1952), Orthogonal arrays of strength two and three,
        Annals of Mathematical Statistics 23(4), 508-524.
    """
    rows = (divmod(replicate, LEVELS) for replicate in range(CROSSED_REPLICATES))
    return tuple(a if column == 0 else (b + (column - 1) * a) % LEVELS for a, b in rows)


@dataclass(frozen=True)
class Sharing:
    """Which replicates share a source of randomness; by default, each has all of its own.

    Args:
        fixed: Sources that all replicates share with the first one.
        crossed: Sources of which there are `LEVELS` seeds: those of the first replicates, crossed by `levels`.
        first: Seed of the first replicate.
    """

    fixed: Collection[str] = ()
    crossed: Sequence[str] = ()
    first: int = 0

    def seed(self, seed: int, source: str) -> int:
        """The seed that keys a source of the replicate with this seed."""
        if source in self.fixed:
            return self.first
        if source in self.crossed:
            return self.first + levels(self.crossed.index(source))[(seed - self.first) % CROSSED_REPLICATES]
        return seed


SHARING: ContextVar[Sharing] = ContextVar("SHARING", default=Sharing())  # noqa: B039  # it cannot change


def source_seed(seed: int, purpose: Purpose) -> int:
    """The seed that keys a purpose's streams: the replicate's own, unless others share it; see `Sharing`."""
    return SHARING.get().seed(seed, "init" if purpose == "activation" else purpose)


def stream_seed(seed: int, purpose: Purpose, *index: int) -> int:
    """Seed of one stream: a 63-bit hash of its key.

    Args:
        seed: The replicate's seed.
        purpose: What the random numbers are used for.
        index: Distinguishes several streams of one purpose, for example by epoch.
    """
    key = "/".join(map(str, ("actbench", source_seed(seed, purpose), purpose, *index)))
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) >> 1


def stream(seed: int, purpose: Purpose, *index: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A new generator at the start of one stream; see `stream_seed`. Its numbers depend on the kind of device."""
    return torch.Generator(device).manual_seed(stream_seed(seed, purpose, *index))


def varying_sources() -> list[Source]:
    """The sources that differ from seed to seed, the crossed ones among them."""
    return [source for source in SOURCES if source not in SHARING.get().fixed]


def crossed_sources() -> list[str]:
    """The sources that are crossed."""
    return [*SHARING.get().crossed]


@contextmanager
def shared_sources(sharing: Sharing) -> Iterator[None]:
    """Key streams as replicates share them, whichever seed is passed to `stream_seed`."""
    token = SHARING.set(sharing)
    try:
        yield
    finally:
        SHARING.reset(token)


@contextmanager
def global_stream(seed: int, purpose: Purpose, *index: int, device: torch.device | None = None) -> Iterator[None]:
    """Use one stream for the global generators of torch, NumPy and Python, and restore the generators afterwards.

    For code that draws without accepting a generator, such as constructors in `torch.nn` and networks in training.
    """
    key = stream_seed(seed, purpose, *index)
    generators = [torch.default_generator]
    if device and device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index or 0])
    states = [generator.get_state() for generator in generators]
    python_state, numpy_generator = random.getstate(), np.random.mtrand.get_bit_generator()
    spare = SPARE.pop() if SPARE else np.random.MT19937(0)
    try:
        for generator in generators:
            generator.manual_seed(key)
        random.seed(key)
        np.random.mtrand.set_bit_generator(spare)  # much faster than to save and restore a state
        np.random.seed(key % 2**32)  # noqa: NPY002  # users' code draws from it
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        random.setstate(python_state)
        np.random.mtrand.set_bit_generator(numpy_generator)
        SPARE.append(spare)


def seed_globally(seed: int, purpose: Purpose, *index: int) -> None:
    """Set the global generators of torch, NumPy and Python to the start of one stream; see `stream_seed`."""
    key = stream_seed(seed, purpose, *index) % 2**32
    random.seed(key)
    np.random.seed(key)  # noqa: NPY002  # users' code draws from it
    # For devices that are missing, torch would write down who called it, which takes a third of a millisecond.
    (torch.manual_seed if has_accelerator() else torch.default_generator.manual_seed)(key)


@cache
def has_accelerator() -> bool:
    """Whether torch has another device than the CPU here."""
    return torch.accelerator.is_available()


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
