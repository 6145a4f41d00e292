"""What a run keeps and says: its folder, its checkpoints, its progress, and how it ends early."""

from actbench.callbacks.adapted import for_replicates as for_replicates
from actbench.callbacks.checkpoints import BestCheckpoint as BestCheckpoint
from actbench.callbacks.checkpoints import CheckpointCopy as CheckpointCopy
from actbench.callbacks.checkpoints import LastCheckpoint as LastCheckpoint
from actbench.callbacks.folder import RunFolder as RunFolder
from actbench.callbacks.folder import RunLogger as RunLogger
from actbench.callbacks.progress import EpochLines as EpochLines
from actbench.callbacks.progress import ReplicateBar as ReplicateBar
from actbench.callbacks.replicates import ReplicateRuns as ReplicateRuns
from actbench.callbacks.stopping import Interruption as Interruption
