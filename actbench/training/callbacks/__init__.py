"""Callbacks of a run: its folder, checkpoints, progress, and early end."""

from actbench.training.callbacks.checkpoints import BestCheckpoint as BestCheckpoint
from actbench.training.callbacks.checkpoints import CheckpointCopy as CheckpointCopy
from actbench.training.callbacks.checkpoints import LastCheckpoint as LastCheckpoint
from actbench.training.callbacks.folder import ReplicateRuns as ReplicateRuns
from actbench.training.callbacks.folder import RunFolder as RunFolder
from actbench.training.callbacks.folder import RunLogger as RunLogger
from actbench.training.callbacks.progress import EpochLines as EpochLines
from actbench.training.callbacks.progress import ReplicateBar as ReplicateBar
from actbench.training.callbacks.scores import LogScores as LogScores
from actbench.training.callbacks.stopping import Interruption as Interruption
from actbench.training.callbacks.stopping import epoch_starters as epoch_starters
from actbench.training.callbacks.stopping import for_replicates as for_replicates
from actbench.training.callbacks.users import KeyedDraws as KeyedDraws
from actbench.training.callbacks.users import is_users as is_users
from actbench.training.callbacks.users import mixes_seeds as mixes_seeds
from actbench.training.callbacks.users import mixing_callbacks as mixing_callbacks
