"""Where work is done: in this process, in several on this machine, or on a cluster.

An executor takes a function and tasks, and yields each task with what came of
it, in the order in which they end. It knows nothing of what the work is.
"""

from actbench.executors.base import FULL as FULL
from actbench.executors.base import Executor as Executor
from actbench.executors.base import ExecutorError as ExecutorError
from actbench.executors.base import Failure as Failure
from actbench.executors.cluster import Ray as Ray
from actbench.executors.local import InProcess as InProcess
from actbench.executors.local import LocalProcesses as LocalProcesses
