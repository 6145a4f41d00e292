"""Many replicates of one network as one module."""

from actbench.training.stack.module import Stack as Stack
from actbench.training.stack.module import StackError as StackError
from actbench.training.stack.module import multiply_adds as multiply_adds
