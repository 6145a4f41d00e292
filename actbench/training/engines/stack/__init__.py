"""Many replicates of one network as one module."""

from actbench.training.engines.stack.module import Stack as Stack
