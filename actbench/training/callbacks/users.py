"""Callbacks that users have written."""

from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import LambdaCallback, ModelPruning
from typing_extensions import override

from actbench.seeding import seed_globally
from actbench.specs import import_object

CALLBACKS = (-1,)  # tells their streams from the network's own, which have no negative index
LIBRARIES = ("actbench.", "pytorch_lightning.", "lightning.")


def is_users(cls: type) -> bool:
    """Whether a class of callbacks is a user's, or one of Lightning's that does what a user says with all weights."""
    return not cls.__module__.startswith(LIBRARIES) or issubclass(cls, ModelPruning | LambdaCallback)


def mixes_seeds(cls: type) -> bool:
    """Whether callbacks of a class may mix the seeds of a fit.

    A callback sees weights, gradients, batches and the optimizer of all seeds at
    once, and scores as means over them. A norm, a rank or a decision by a score
    then mixes the seeds. Every class of a user's is taken to do so, unless it says ``mixes_seeds = False``.
    """
    return is_users(cls) and bool(getattr(cls, "mixes_seeds", True))


def mixing_callbacks(trainer: Mapping[str, Any]) -> list[type]:
    """The classes of callbacks in a config's section `trainer` that may mix seeds."""
    classes = [import_object(callback["class_path"]) for callback in trainer.get("callbacks") or []]
    return [cls for cls in classes if mixes_seeds(cls)]


class KeyedDraws(Callback):
    """Has what callbacks draw from the global generators follow from the first seed, the epoch and the batch.

    A resumed fit then draws what the uninterrupted one does. It comes before the
    callbacks that draw.
    """

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        seed_globally(pl_module.seeds[0], "dropout", trainer.current_epoch, *CALLBACKS)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        seed_globally(pl_module.seeds[0], "dropout", trainer.current_epoch, batch_idx, *CALLBACKS)
