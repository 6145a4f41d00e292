"""The choice of an engine: the stack where it is proved and faster, and the sequence everywhere else."""

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import torch
from torch import nn

from actbench.specs import OptimizerSpec
from actbench.training.engines.base import Engine, EngineError
from actbench.training.engines.optimizers import check_elementwise
from actbench.training.engines.sequence import SequenceEngine
from actbench.training.engines.stack import Stack
from actbench.training.engines.stack.compiling import missing_compiler
from actbench.training.engines.stack.module import CPU_WIDTH
from actbench.training.engines.stack.replay import Replay

ALONE = "there is one replicate"
STACKED_WORK = 1.6e7
"""Multiply-adds of a replicate's batch below which a CPU is faster with a stack than with one replicate at a time.

Measured in ms per step and replicate on one thread, alone and in a stack of 32:
TutorialCNN 8x8 (2.5 million) 1.2 and 0.6; MLP 28x28 (15 million) 1.1 and 0.9;
TutorialCNN 28x28 (18 million) 5.0 and 7.1; ConvNet 8x8 (39 million) 3.0 and 5.1.
"""


LONG = 300.0  # seconds of replayed steps below which compiling is not tried
SLOWEST = 0.2  # seconds of a chunk's step; more work would have gone to the sequence
TIMED = 7  # steps of a trial, replayed and compiled in turn
PAYS = 3.0  # how many times compiling has to save the seconds that it takes


class Choice(NamedTuple):
    """An engine, and why it was chosen."""

    engine: Engine
    reason: str


def make_engine(
    name: str,
    networks: Sequence[nn.Module],
    seeds: Sequence[int],
    *,
    input_shape: Sequence[int],
    width: int | None,
    optimizer: OptimizerSpec,
) -> Engine:
    """The engine of this name; for ``auto`` a sequence, from which `choose` makes another if that is faster."""
    if name == "stack":
        check_elementwise(optimizer)
        return Stack(networks, seeds, input_shape=input_shape, width=width)
    if name == "sequence" and width is not None:
        raise ValueError("stack_width is of the stack; leave it out, or set engine to stack")
    return SequenceEngine(networks, seeds, input_shape=input_shape)


def choose(
    sequence: SequenceEngine, *, batch: int, device: torch.device, optimizer: OptimizerSpec, width: int | None
) -> Choice:
    """The engine for replicates that are a sequence so far, for batches of this size on this device."""
    work = sequence.multiply_adds * batch
    if len(sequence) == 1:
        return Choice(sequence, ALONE)
    if device.type == "cpu" and work >= STACKED_WORK:
        known = f"{work / 1e6:,.0f} million" if work < math.inf else "an unknown number of"
        return Choice(sequence, f"{known} multiply-adds in a batch keep a CPU busy")
    try:
        check_elementwise(optimizer)
        stack = Stack([*sequence.networks], sequence.seeds, input_shape=sequence.input_shape, width=width)
    except EngineError as error:
        return Choice(sequence, str(error))
    return Choice(stack, "small networks are faster together")


def compiling_pays(
    stack: Stack, *, replicates: int, batch: int, steps: float, device: torch.device, dtype: torch.dtype
) -> str | None:
    """Why steps of a stack of so many such replicates should be compiled, if there are so many steps; None if not.

    In a long training, a trial of some steps decides.
    """
    width = min(stack.width or (CPU_WIDTH if device.type == "cpu" else replicates), replicates)
    chunks = steps * (replicates // width)
    if not chunks * SLOWEST >= LONG or (device.type == "cpu" and missing_compiler()):
        return None
    if len(stack) < replicates:
        copies = [stack.replicate(0)] * replicates
        stack = Stack(copies, range(replicates), input_shape=stack.input_shape, width=stack.width).to(device)
    images = torch.zeros(len(stack), batch, *stack.input_shape, device=device, dtype=dtype)
    labels = torch.zeros(len(stack), batch, dtype=torch.long, device=device)
    replayed, compiled = Replay(stack.replay.built, calls=1), Replay(stack.replay.built, compiles=True)
    stack.step_time(replayed, images, labels)  # records the step
    if not chunks * median(stack.step_time(replayed, images, labels) for _ in range(TIMED)) >= LONG:
        return None
    cost = stack.step_time(compiled, images, labels)
    if compiled.slow or not compiled.recordings:
        return None
    times = [[stack.step_time(replay, images, labels) for replay in (replayed, compiled)] for _ in range(TIMED)]
    before, after = map(median, zip(*times, strict=True))
    if not (before - after) * chunks >= PAYS * cost:
        return None
    return f"compiled steps take {after / before:.0%} of the time of replayed ones"
