"""What a run keeps and says: its folder, its table of epochs, and how it is interrupted and resumed."""

import csv
import signal
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from typing_extensions import override


class RunLogger(TensorBoardLogger):
    """TensorBoard log in the run's folder, ``lightning_logs/version_N``.

    The first process to make a folder owns its number, so runs that start at
    the same time do not share one.

    Args:
        save_dir: Folder that ``lightning_logs`` lies in.
        options: Those of `TensorBoardLogger`.
    """

    def __init__(self, save_dir: str | Path, **options: Any) -> None:
        # Else TensorBoard shows a score of -1 for every run.
        super().__init__(save_dir, **{"default_hp_metric": False} | options)

    @override
    def _get_next_version(self) -> int:
        version = int(super()._get_next_version())
        while getattr(rank_zero_only, "rank", 0) == 0:
            try:
                Path(self.root_dir, f"version_{version}").mkdir(parents=True)
            except FileExistsError:
                version += 1
            else:
                break
        return version


class BestCheckpoint(ModelCheckpoint):
    """``best.ckpt``, from the epoch with the lowest ``val/loss``."""

    def __init__(self) -> None:
        super().__init__(
            filename="best",
            monitor="val/loss",
            mode="min",
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not sum(trainer.num_val_batches):
            self.save_top_k = 0  # nothing is validated, so nothing is best
        super().on_train_start(trainer, pl_module)


class LastCheckpoint(ModelCheckpoint):
    """``last.ckpt``, after every epoch.

    A callback of its own: Lightning's ``save_last`` writes only when another checkpoint is written.
    """

    def __init__(self) -> None:
        super().__init__(filename="last", save_on_train_epoch_end=True, enable_version_counter=False)


class RunFolder(Callback):
    """The folder of one fit: ``config.yaml``, ``metrics.csv`` and ``checkpoints/``.

    It is the first logger's, or a new ``lightning_logs/version_N``. ``metrics.csv``
    has one row an epoch, with every metric logged. The rows are part of every
    checkpoint, so that a resumed run has each epoch once, whatever was written
    before it was interrupted.

    Args:
        config: Text of the resolved config.
        logger: Says where the folder is if the trainer has no logger with a folder.
    """

    def __init__(self, config: str | None = None, logger: RunLogger | None = None) -> None:
        self.config = config
        self.logger = logger
        self.path: Path | None = None
        self.rows: list[dict[str, float]] = []

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or getattr(trainer, "fast_dev_run", False):
            return
        folder = trainer.logger and trainer.logger.log_dir
        folder = folder or (self.logger or RunLogger(trainer.default_root_dir)).log_dir
        self.path = Path(trainer.strategy.broadcast(folder))
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, BestCheckpoint | LastCheckpoint):
                callback.dirpath = str(self.path / "checkpoints")
        if self.config is not None and trainer.is_global_zero:
            write_whole(self.path / "config.yaml", self.config)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        self.rows.append({"epoch": trainer.current_epoch, "step": trainer.global_step, **metrics})
        if trainer.is_global_zero and self.path:
            columns = dict.fromkeys(name for row in self.rows for name in row)
            table = StringIO()
            writer = csv.DictWriter(table, list(columns))
            writer.writeheader()
            writer.writerows(self.rows)
            write_whole(self.path / "metrics.csv", table.getvalue())

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # TensorBoard shows hyperparameters only beside scores.
        if isinstance(trainer.logger, RunLogger) and self.rows and self.path:
            scores = {f"final/{name}": value for name, value in self.rows[-1].items() if "/" in name}
            trainer.logger.log_hyperparams(trainer.logger.hparams, scores, trainer.global_step)


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all, and its folder if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text, newline="")
    unfinished.replace(path)


class Interruption(Callback):
    """Ends a fit on Ctrl-C or SIGTERM where a resumed run goes on exactly: after a whole batch.

    Saves ``last.ckpt`` and raises SystemExit with status 130 or 143. A second
    signal ends the process at once.

    Args:
        report: Called with the checkpoint's path, None if checkpoints are off, and the trainer.
    """

    def __init__(self, report: Callable[[Path | None, Trainer], None]) -> None:
        self.report = report
        self.signal: int | None = None
        self.previous: dict[int, Any] = {}

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self.signal = signum
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Here, because Lightning sets its own handlers shortly before.
        self.previous = {signum: signal.signal(signum, self._receive) for signum in (signal.SIGINT, signal.SIGTERM)}

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)
        self.previous = {}

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = batch_idx + 1
        validates = trainer.is_last_batch or done % (trainer.val_check_batch or 1) == 0
        if done % trainer.accumulate_grad_batches or validates or not self._received(trainer):
            return
        checkpoint = self._checkpoint(trainer)
        if checkpoint:
            trainer.save_checkpoint(checkpoint)
        self._stop(checkpoint, trainer)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        checkpoint = self._checkpoint(trainer)
        if self._received(trainer):
            self._stop(checkpoint if checkpoint and checkpoint.exists() else None, trainer)

    def _received(self, trainer: Trainer) -> bool:
        if trainer.world_size == 1:
            return self.signal is not None
        return trainer.strategy.reduce_boolean_decision(self.signal is not None, all=False)

    def _checkpoint(self, trainer: Trainer) -> Path | None:
        callback = next((c for c in trainer.checkpoint_callbacks if isinstance(c, LastCheckpoint)), None)
        return Path(str(callback.dirpath), "last.ckpt") if callback else None

    def _stop(self, checkpoint: Path | None, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            self.report(checkpoint, trainer)
        raise SystemExit(128 + (self.signal or signal.SIGTERM))


class EpochLines(Callback):
    """Progress in plain lines, for a file or a pipe: the first epoch, the last, and one every few seconds.

    Args:
        seconds: The least time between two lines.
    """

    def __init__(self, seconds: float = 10) -> None:
        self.seconds = seconds
        self.next_line = 0.0

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epochs = trainer.max_epochs or -1
        if not trainer.is_global_zero or (time.monotonic() < self.next_line and trainer.current_epoch + 1 != epochs):
            return
        self.next_line = time.monotonic() + self.seconds
        metrics = "  ".join(f"{name} {float(value):.4f}" for name, value in sorted(trainer.callback_metrics.items()))
        print(f"epoch {trainer.current_epoch + 1}/{epochs if epochs > 0 else '?'}  {metrics}", flush=True)
