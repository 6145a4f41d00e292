"""Averages of weights over the end of a fit, of each replicate by itself."""

from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import StochasticWeightAveraging
from typing_extensions import override


class ReplicateWeightAveraging(StochasticWeightAveraging):
    """Lightning's StochasticWeightAveraging, whose BatchNorm statistics can be taken in a stack, too.

    In the pass over the training data at the end, torch works out the weight of
    each batch from a counter that is a tensor, which cannot be read under vmap.
    """

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        for module in self.momenta:  # empty before that pass
            module.momentum = 1 / (batch_idx + 1)
