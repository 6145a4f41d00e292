"""Logging of scores where other callbacks can read them."""

from typing import Any

from pytorch_lightning import Callback, Trainer
from typing_extensions import override


class LogScores(Callback):
    """Logs a classifier's scores at the end of an epoch.

    It comes before other callbacks, whose hooks of the same name may read the
    scores. The classifier's own hooks would come after those.
    """

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.log_train_loss()

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.log_scores("val")

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.log_scores("test")
