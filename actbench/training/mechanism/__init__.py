"""The mechanism of an activation: what its calls do to signals and gradients, measured while a network trains."""

from actbench.training.mechanism.callback import Mechanism as Mechanism
from actbench.training.mechanism.callback import Snapshot as Snapshot
from actbench.training.mechanism.statistics import effective_rank as effective_rank
from actbench.training.mechanism.statistics import site_statistics as site_statistics
