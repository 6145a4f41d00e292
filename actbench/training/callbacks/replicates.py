"""Every replicate as a run of its own in TensorBoard, for those who ask."""

from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]
from torch.utils.tensorboard import SummaryWriter
from typing_extensions import override


class ReplicateRuns(Callback):
    """Logs every replicate's scores as a TensorBoard run of its own, ``seed_N`` in the run's folder.

    Raises:
        MisconfigurationException: The trainer has no logger with a folder.
    """

    def __init__(self) -> None:
        self.writers: list[Any] = []

    @override
    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if getattr(trainer, "fast_dev_run", False):
            return
        folder = trainer.logger and trainer.logger.log_dir
        if not folder:
            raise MisconfigurationException("ReplicateRuns needs a logger that has a folder, such as TensorBoard's")
        if trainer.is_global_zero:
            paths = [Path(folder, f"seed_{seed}") for seed in pl_module.seeds]
            # A resumed run logs again what came after its checkpoint.
            self.writers = [SummaryWriter(str(path), purge_step=trainer.global_step) for path in paths]

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        scores = pl_module.replicate_scores()  # on every device: it may have to ask the others
        for place, writer in enumerate(self.writers):
            for name, values in scores.items():
                writer.add_scalar(name, values[place].item(), trainer.global_step - 1)  # the step that Lightning logs

    @override
    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        for writer in self.writers:
            writer.close()
        self.writers = []
