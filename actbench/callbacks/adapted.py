"""Lightning's callbacks that act on all replicates at once, in a form that acts on each by itself."""

from collections.abc import Mapping

from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EarlyStopping, StochasticWeightAveraging

from actbench.callbacks.averaging import ReplicateWeightAveraging
from actbench.callbacks.stopping import ReplicateEarlyStopping

ADAPTED: Mapping[type[Callback], type[Callback]] = {
    EarlyStopping: ReplicateEarlyStopping,
    StochasticWeightAveraging: ReplicateWeightAveraging,
}


def for_replicates(callback: Callback) -> Callback:
    """The callback with its settings and state in the form for replicates, if it has one; a user's own as it is."""
    adapted = ADAPTED.get(type(callback))
    if adapted is None:
        return callback
    same = adapted.__new__(adapted)
    vars(same).update(vars(callback))
    return same
