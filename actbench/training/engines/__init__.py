"""The engines that train the replicates of a network: a stack under vmap, or a sequence of plain modules."""

from actbench.training.engines.base import Apply as Apply
from actbench.training.engines.base import Engine as Engine
from actbench.training.engines.base import EngineError as EngineError
from actbench.training.engines.base import multiply_adds as multiply_adds
from actbench.training.engines.choice import ALONE as ALONE
from actbench.training.engines.choice import choose as choose
from actbench.training.engines.choice import compiling_pays as compiling_pays
from actbench.training.engines.choice import make_engine as make_engine
from actbench.training.engines.sequence import SequenceEngine as SequenceEngine
from actbench.training.engines.stack import Stack as Stack
