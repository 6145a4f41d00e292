"""Running tasks: in this process, in several processes on this machine, or on a cluster.

An executor takes a function and tasks, and yields each task with its result, in
the order in which they end. It does not know what the tasks are.
"""

from actbench.studies.executors.base import FULL as FULL
from actbench.studies.executors.base import Executor as Executor
from actbench.studies.executors.base import ExecutorError as ExecutorError
from actbench.studies.executors.base import Failure as Failure
from actbench.studies.executors.cluster import Ray as Ray
from actbench.studies.executors.local import InProcess as InProcess
from actbench.studies.executors.local import LocalProcesses as LocalProcesses
