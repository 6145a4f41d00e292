"""Lightning's callbacks that act on all replicates at once, in a form that acts on each by itself."""

from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import EarlyStopping, StochasticWeightAveraging
from typing_extensions import override

from actbench.training.callbacks.stopping import ReplicateEarlyStopping


class ReplicateWeightAveraging(StochasticWeightAveraging):
    """Lightning's StochasticWeightAveraging, whose BatchNorm statistics can be taken in a stack, too.

    In the pass over the training data at the end, torch works out the weight of
    each batch from a counter that is a tensor, which cannot be read under vmap.
    """

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        for module in self.momenta:  # empty before that pass
            module.momentum = 1 / (batch_idx + 1)


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
