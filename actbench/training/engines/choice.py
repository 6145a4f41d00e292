"""The choice of an engine: the stack where it is proved and faster, and the sequence everywhere else."""

from typing import NamedTuple

import torch

from actbench.specs import OptimizerSpec
from actbench.training.engines.base import Engine, EngineError
from actbench.training.engines.optimizers import check_elementwise
from actbench.training.engines.sequence import SequenceEngine
from actbench.training.engines.stack import Stack

ALONE = "there is one replicate"
STACKED_WORK = 1.6e7
"""Multiply-adds of a replicate's batch below which a CPU is faster with a stack than with one replicate at a time.

Measured in ms per step and replicate on one thread, alone and in a stack of 32:
TutorialCNN 8x8 (2.5 million) 1.2 and 0.6; MLP 28x28 (15 million) 1.1 and 0.9;
TutorialCNN 28x28 (18 million) 5.0 and 7.1; ConvNet 8x8 (39 million) 3.0 and 5.1.
"""


class Choice(NamedTuple):
    """An engine, and why it was chosen."""

    engine: Engine
    reason: str


def choose(
    sequence: SequenceEngine, *, batch: int, device: torch.device, optimizer: OptimizerSpec, width: int | None
) -> Choice:
    """The engine for replicates that are a sequence so far, for batches of this size on this device."""
    work = sequence.multiply_adds * batch
    if len(sequence) == 1:
        return Choice(sequence, ALONE)
    if device.type == "cpu" and work >= STACKED_WORK:
        return Choice(sequence, f"{work / 1e6:,.0f} million multiply-adds in a batch keep a CPU busy")
    try:
        check_elementwise(optimizer)
        stack = Stack([*sequence.networks], sequence.seeds, input_shape=sequence.input_shape, width=width)
    except EngineError as error:
        return Choice(sequence, str(error))
    return Choice(stack, "small networks are faster together")
