"""Where work is done: in this process, in several on this machine, or on a cluster.

An executor takes a function and tasks, and yields each task with what came of
it, in the order in which they end. It knows nothing of what the work is.
"""

from actbench.executors.base import FULL, Executor, ExecutorError, Failure
from actbench.executors.cluster import Ray
from actbench.executors.local import InProcess, LocalProcesses

__all__ = ["FULL", "Executor", "ExecutorError", "Failure", "InProcess", "LocalProcesses", "Ray"]
