"""Many replicates of one network as one module."""

from actbench.stack.module import Stack as Stack
from actbench.stack.module import StackError as StackError
from actbench.stack.module import multiply_adds as multiply_adds
