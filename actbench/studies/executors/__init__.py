"""Where work is done: in this process, in several on this machine, or on a cluster.

An executor takes a function and tasks, and yields each task with what came of
it, in the order in which they end. It knows nothing of what the work is.
"""

from actbench.studies.executors.base import FULL as FULL
from actbench.studies.executors.base import Executor as Executor
from actbench.studies.executors.base import ExecutorError as ExecutorError
from actbench.studies.executors.base import Failure as Failure
from actbench.studies.executors.cluster import Ray as Ray
from actbench.studies.executors.local import InProcess as InProcess
from actbench.studies.executors.local import LocalProcesses as LocalProcesses
