"""The folder of a run: its logs, table of epochs, and config."""

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from typing_extensions import override

from actbench.records import replace_file
from actbench.training.callbacks.checkpoints import EpochCheckpoint
from actbench.training.checkpoints import CheckpointError, check_state
from actbench.training.metrics import summary_statistics

MAX_ROWS = 1_000_000  # of a run's table of scores


class RunLogger(TensorBoardLogger):
    """TensorBoard log in the run's folder, ``lightning_logs/version_N``.

    The first process to make a folder owns its number, so runs that start at
    the same time do not share a folder.
    """

    def __init__(self, save_dir: str | Path, **options: Any) -> None:
        # Otherwise TensorBoard shows a score of -1 for every run.
        super().__init__(save_dir, **{"default_hp_metric": False} | options)

    def log_replicates(self, scores: Mapping[str, Tensor], seeds: Sequence[int]) -> None:
        """Log a table of every replicate's final scores."""
        rows = [[str(seed), *(f"{values[i]:z.4f}" for values in scores.values())] for i, seed in enumerate(seeds)]
        header, *lines = (f"| {' | '.join(row)} |" for row in [["seed", *scores], *rows])
        self.experiment.add_text("final scores", "\n".join([header, "|---" * (len(scores) + 1) + "|", *lines]))

    @override
    def _get_next_version(self) -> int:
        version = int(super()._get_next_version())
        while getattr(rank_zero_only, "rank", 0) == 0:
            try:
                Path(self.root_dir, f"version_{version}").mkdir(parents=True)
                break
            except FileExistsError:
                version += 1
        return version


class RunFolder(Callback):
    """The folder of one fit: ``config.yaml``, ``metrics.csv`` and ``checkpoints/``.

    It is the first logger's folder, or a new ``lightning_logs/version_N``.
    ``metrics.csv`` (``replicates.csv`` where Lightning's CSVLogger uses that
    name) has one row of scores per epoch and replicate. Checkpoints hold these
    rows, so that a resumed run has each epoch once, whatever was written before
    the interruption. Scores on val are those of the last validation within the
    epoch, if there was one. ``config`` is the text of the resolved config.
    ``logger`` names the folder if no logger of the trainer has a folder.
    """

    def __init__(self, config: str | None = None, logger: RunLogger | None = None) -> None:
        self.config = config
        self.logger = logger
        self.path: Path | None = None
        self.columns: list[str] = []  # scores in the table; empty before it is written
        # Each epoch's number, step, scores of all replicates, and which of these trained: some may have stopped.
        self.epochs: list[dict[str, Any]] = []
        self.validated_epoch = -1  # the latest in which there was a validation

    @override
    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if stage != "fit" or getattr(trainer, "fast_dev_run", False):
            return
        folder = trainer.logger and trainer.logger.log_dir
        folder = folder or (self.logger or RunLogger(trainer.default_root_dir)).log_dir
        self.path = Path(trainer.strategy.broadcast(folder))
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, EpochCheckpoint):
                callback.dirpath = str(self.path / "checkpoints")
        if self.config is not None and trainer.is_global_zero:
            replace_file(self.path / "config.yaml", self.config.encode())

    @override
    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if isinstance(trainer.logger, RunLogger) and len(pl_module.seeds) > 1 and self.path:
            names = ("train/loss", "val/loss", "val/acc", "val/ece")
            charts = {name: ["Margin", [name, f"{name}_min", f"{name}_max"]] for name in names}
            trainer.logger.experiment.add_custom_scalars({"replicates: mean, least and largest": charts})

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs, "validated_epoch": self.validated_epoch}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs = state_dict["epochs"]
        self.validated_epoch = state_dict.get("validated_epoch", -1)  # older checkpoints lack it

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        values = torch.zeros(len(pl_module.seeds))
        if isinstance(self.epochs, list) and len(self.epochs) * len(values) > MAX_ROWS:
            raise CheckpointError(
                f"the checkpoint is damaged: it has {len(self.epochs):,} epochs of {len(values):,} seeds"
            )
        for epoch in self.epochs if isinstance(self.epochs, list) else [self.epochs]:
            scores = epoch.get("scores") if isinstance(epoch, dict) else None
            names = [name for name in scores if re.fullmatch(r"\w+/\w+", str(name))] if isinstance(scores, dict) else []
            expected = {"epoch": 0, "step": 0, "scores": dict.fromkeys(names, values), "trained": values.bool()}
            check_state(epoch, expected, "epochs")
        check_state(self.validated_epoch, 0, "epochs")

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.validated_epoch = trainer.current_epoch

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        scores = dict(sorted(pl_module.replicate_scores().items()))
        if self.validated_epoch != trainer.current_epoch:  # scores on val belong to an earlier epoch
            scores = {name: values for name, values in scores.items() if not name.startswith("val/")}
        trained = pl_module.train_loss.rows.cpu() > 0
        epoch = {"epoch": trainer.current_epoch, "step": trainer.global_step, "scores": scores, "trained": trained}
        self.epochs.append(epoch)
        if not (trainer.is_global_zero and self.path):
            return
        # Lightning's CSVLogger writes a metrics.csv with other columns.
        taken = any(isinstance(log, CSVLogger) and Path(log.log_dir) == self.path for log in trainer.loggers)
        path = self.path / ("replicates.csv" if taken else "metrics.csv")
        if set(scores) <= set(self.columns):
            with path.open("a", newline="") as file:
                csv.writer(file).writerows(self._rows(self.epochs[-1:], pl_module.seeds))
            return
        # First written as a whole: rows from before an interruption may go beyond the checkpoint.
        self.columns = sorted({name for epoch in self.epochs for name in epoch["scores"]})
        table = StringIO()
        writer = csv.writer(table)
        writer.writerow(["epoch", "step", "seed", *self.columns])
        writer.writerows(self._rows(self.epochs, pl_module.seeds))
        replace_file(path, table.getvalue().encode())

    def _rows(self, epochs: list[dict[str, Any]], seeds: Sequence[int]) -> Iterator[list[Any]]:
        for epoch in epochs:
            # NaN as readers of tables spell it, not as Python does.
            scores = {
                name: ["NaN" if math.isnan(value) else value for value in values.tolist()]
                for name, values in epoch["scores"].items()
            }
            for index, seed in enumerate(seeds):
                values = [scores[name][index] if name in scores else "" for name in self.columns]
                yield [epoch["epoch"], epoch["step"], seed, *values]

    @override
    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        # TensorBoard shows hyperparameters only beside scores.
        if isinstance(trainer.logger, RunLogger) and self.epochs and self.path:
            scores = self.epochs[-1]["scores"]
            means = {f"final/{name}": summary_statistics(values)["mean"] for name, values in scores.items()}
            trainer.logger.log_hyperparams(trainer.logger.hparams, means, trainer.global_step)
            trainer.logger.log_replicates(scores, pl_module.seeds)


class ReplicateRuns(Callback):
    """Logs every replicate's scores as a separate TensorBoard run, ``seed_N`` in the run's folder.

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
            # A resumed run logs the steps after its checkpoint again.
            self.writers = [SummaryWriter(str(path), purge_step=trainer.global_step) for path in paths]

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        scores = pl_module.replicate_scores()  # on every device, because scores may have to be synchronised
        for index, writer in enumerate(self.writers):
            for name, values in scores.items():
                writer.add_scalar(name, values[index].item(), trainer.global_step - 1)  # the step that Lightning logs

    @override
    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        for writer in self.writers:
            writer.close()
        self.writers = []
