"""What a run keeps and says: its folder, its table of epochs, and how it is interrupted and resumed."""

import csv
import math
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping, RichProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]
from torch import Tensor
from typing_extensions import override

from actbench.scores import spread


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

    def chart(self, metrics: Sequence[str]) -> None:
        """Let TensorBoard's custom scalars show each metric's mean over replicates in a band from least to largest."""
        charts = {name: ["Margin", [name, f"{name}_min", f"{name}_max"]] for name in metrics}
        self.experiment.add_custom_scalars({"replicates: mean, least and largest": charts})

    def log_replicates(self, scores: Mapping[str, Tensor], seeds: Sequence[int]) -> None:
        """Log a table of every replicate's final scores."""
        lines = ["| seed | " + " | ".join(scores) + " |", "|---" * (len(scores) + 1) + "|"]
        lines += [
            f"| {seed} | " + " | ".join(f"{values[place]:.4f}" for values in scores.values()) + " |"
            for place, seed in enumerate(seeds)
        ]
        self.experiment.add_text("final scores", "\n".join(lines))

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


class ReplicateEarlyStopping(EarlyStopping):
    """Lightning's EarlyStopping for each replicate by itself.

    A replicate that has stopped keeps its weights; the fit ends when all have stopped.
    """

    @classmethod
    def like(cls, callback: EarlyStopping) -> "ReplicateEarlyStopping":
        """One with the settings of Lightning's own."""
        same = cls.__new__(cls)
        same.__dict__ |= callback.__dict__
        return same

    @override
    def _run_early_stopping_check(self, trainer: Trainer) -> None:
        module = cast(Any, trainer.lightning_module)
        if trainer.fast_dev_run or not self._validate_condition_metric(trainer.callback_metrics):  # type: ignore[attr-defined]
            return
        scores = module.replicate_scores()
        if self.monitor not in scores:
            raise MisconfigurationException(
                f"EarlyStopping cannot watch {self.monitor} of each replicate: give one of {', '.join(scores)}"
            )
        current = scores[self.monitor]
        if self.best_score.ndim == 0:
            self.best_score = self.best_score.expand(len(current)).clone()
            self.waits = torch.zeros(len(current), dtype=torch.int64)
        improved = self.monitor_op(current - self.min_delta, self.best_score)
        self.best_score = torch.where(improved, current, self.best_score)
        self.waits = torch.where(improved, 0, self.waits + 1)
        stopped = self.waits >= self.patience
        if self.check_finite:
            stopped |= ~current.isfinite()
        if self.stopping_threshold is not None:
            stopped |= self.monitor_op(current, torch.tensor(self.stopping_threshold))
        if self.divergence_threshold is not None:
            stopped |= self.monitor_op(-current, torch.tensor(-self.divergence_threshold))
        module.active &= ~stopped.to(module.active.device)
        if not module.active.any():
            trainer.should_stop = True
            self.stopped_epoch = trainer.current_epoch

    @override
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"waits": getattr(self, "waits", None)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.waits = state_dict["waits"]


class EpochCheckpoint(Checkpoint, ABC):
    """A checkpoint written after an epoch, if the last time is some seconds ago, and at the end.

    Written after every epoch, it would take longer than a small network's training.

    Args:
        seconds: The least time between two.
    """

    name: str

    def __init__(self, seconds: float = 10) -> None:
        self.seconds = seconds
        self.dirpath: str | None = None
        self.written_s = time.monotonic()
        self.step = -1  # what is written, or need not be

    @property
    def path(self) -> Path:
        """The file."""
        return Path(str(self.dirpath), self.name)

    @abstractmethod
    def save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.dirpath = self.dirpath or str(Path(trainer.default_root_dir, "checkpoints"))

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        due = last or time.monotonic() >= self.written_s + self.seconds
        if trainer.strategy.broadcast(due):
            self._save(trainer, pl_module)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, pl_module)  # if something else than the epochs has ended the fit

    def _save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.step != trainer.global_step and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.save(trainer, pl_module)
            self.step = trainer.global_step
            self.written_s = time.monotonic()


class LastCheckpoint(EpochCheckpoint):
    """``last.ckpt``, to go on from: the last epoch, or one at most some seconds before a run was killed."""

    name = "last.ckpt"

    @override
    def save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.path, weights_only=False)


class BestCheckpoint(EpochCheckpoint):
    """``best.ckpt``: each replicate's weights from the epoch in which its own ``val/loss`` was lowest.

    They may be from different epochs, so no run can go on from it.
    """

    name = "best.ckpt"

    def __init__(self, seconds: float = 10) -> None:
        super().__init__(seconds)
        self.loss: Tensor | None = None
        self.epoch: Tensor | None = None
        self.weights: dict[str, Tensor] = {}

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"loss": self.loss, "epoch": self.epoch, "weights": self.weights}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loss, self.epoch, self.weights = (state_dict[name] for name in ("loss", "epoch", "weights"))

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = cast(Any, pl_module)
        loss = module.evaluated.get("val/loss")
        if loss is None or not sum(trainer.num_val_batches):
            return  # nothing is validated, so nothing is best
        network = module.stack.network.state_dict()
        if self.loss is None or self.epoch is None:
            self.loss = torch.full_like(loss, torch.inf)
            self.epoch = torch.full(loss.shape, -1, device=loss.device)
            self.weights = {name: value.clone() for name, value in network.items()}
        self.loss, self.epoch = self.loss.to(loss.device), self.epoch.to(loss.device)
        better = loss < self.loss  # never, for a loss of NaN
        self.loss = torch.where(better, loss, self.loss)
        self.epoch = torch.where(better, trainer.current_epoch, self.epoch)
        for name, value in network.items():
            best = self.weights[name] = self.weights[name].to(value.device)
            best[better] = value[better]
        super().on_train_epoch_end(trainer, pl_module)

    @override
    def save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.weights:
            return
        network = cast(Any, pl_module).stack.network
        current = {name: value.clone() for name, value in network.state_dict().items()}
        network.load_state_dict(self.weights)
        try:
            trainer.save_checkpoint(self.path, weights_only=True)
        finally:
            network.load_state_dict(current)


class RunFolder(Callback):
    """The folder of one fit: ``config.yaml``, ``metrics.csv`` and ``checkpoints/``.

    It is the first logger's, or a new ``lightning_logs/version_N``. ``metrics.csv``
    has one row an epoch and replicate, with its scores. They are part of every
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
        self.written = False
        self.columns: list[str] = []
        self.epochs: list[dict[str, Any]] = []  # epoch, step, and every score of all replicates

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or getattr(trainer, "fast_dev_run", False):
            return
        folder = trainer.logger and trainer.logger.log_dir
        folder = folder or (self.logger or RunLogger(trainer.default_root_dir)).log_dir
        self.path = Path(trainer.strategy.broadcast(folder))
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, EpochCheckpoint):
                callback.dirpath = str(self.path / "checkpoints")
        if self.config is not None and trainer.is_global_zero:
            write_whole(self.path / "config.yaml", self.config)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(trainer.logger, RunLogger) and len(cast(Any, pl_module).seeds) > 1 and self.path:
            trainer.logger.chart(["train/loss", "val/loss", "val/acc", "val/ece"])

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs = list(state_dict["epochs"])

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = cast(Any, pl_module)
        scores = {name: values for name, values in sorted(module.replicate_scores().items())}
        self.epochs.append({"epoch": trainer.current_epoch, "step": trainer.global_step, "scores": scores})
        if not (trainer.is_global_zero and self.path):
            return
        path = self.path / "metrics.csv"
        if self.written and self.columns == list(scores):
            with path.open("a", newline="") as file:
                csv.writer(file).writerows(self._rows(self.epochs[-1:], module.seeds))
            return
        # Once from the start: what was written before an interruption may go beyond the checkpoint.
        self.columns, self.written = list(scores), True
        table = StringIO()
        writer = csv.writer(table)
        writer.writerow(["epoch", "step", "seed", *self.columns])
        writer.writerows(self._rows(self.epochs, module.seeds))
        write_whole(path, table.getvalue())

    def _rows(self, epochs: list[dict[str, Any]], seeds: Sequence[int]) -> Iterator[list[Any]]:
        for epoch in epochs:
            # NaN as readers of tables know it, not as Python prints it.
            scores = {
                name: ["NaN" if math.isnan(value) else value for value in values.tolist()]
                for name, values in epoch["scores"].items()
            }
            for place, seed in enumerate(seeds):
                values = [scores[name][place] if name in scores else "" for name in self.columns]
                yield [epoch["epoch"], epoch["step"], seed, *values]

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # TensorBoard shows hyperparameters only beside scores.
        if isinstance(trainer.logger, RunLogger) and self.epochs and self.path:
            scores = self.epochs[-1]["scores"]
            means = {f"final/{name}": spread(values)["mean"] for name, values in scores.items()}
            trainer.logger.log_hyperparams(trainer.logger.hparams, means, trainer.global_step)
            trainer.logger.log_replicates(scores, cast(Any, pl_module).seeds)


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
        return callback.path if callback else None

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
        self.pace = Pace()

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.pace = Pace()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epochs = trainer.max_epochs or -1
        progress = self.pace.after_epoch(pl_module)  # on every device: it may have to ask the others
        if not trainer.is_global_zero or (time.monotonic() < self.next_line and trainer.current_epoch + 1 != epochs):
            return
        self.next_line = time.monotonic() + self.seconds
        metrics = "  ".join(f"{name} {value}" for name, value in progress.items())
        print(f"epoch {trainer.current_epoch + 1}/{epochs if epochs > 0 else '?'}  {metrics}", flush=True)


class ReplicateBar(RichProgressBar):
    """Lightning's progress bar, with mean and spread over replicates, and their epochs per second."""

    def __init__(self) -> None:
        super().__init__()
        self.pace = Pace()
        self.shown: dict[str, str] = {}

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.pace = Pace()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.shown = self.pace.after_epoch(pl_module)
        super().on_train_epoch_end(trainer, pl_module)

    @override
    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return dict(self.shown)


class Pace:
    """How far replicates are, and how fast they go."""

    def __init__(self) -> None:
        self.start_s = time.monotonic()
        self.epochs = 0

    def after_epoch(self, pl_module: LightningModule) -> dict[str, str]:
        """Each score as mean ± standard deviation over replicates, and replicate-epochs per second."""
        module = cast(Any, pl_module)
        replicates = len(module.seeds)
        shown = {}
        for name, values in sorted(module.replicate_scores().items()):
            of = spread(values)
            shown[name] = f"{of['mean']:.4f}" + (f" ± {of['sd']:.4f}" if replicates > 1 else "")
        diverged = int((~module.evaluated["val/loss"].isfinite()).sum()) if "val/loss" in module.evaluated else 0
        if diverged:
            shown["diverged"] = str(diverged)
        stopped = int((~module.active).sum())
        if stopped:
            shown["stopped"] = str(stopped)
        self.epochs += 1
        shown["replicate-epochs/s"] = f"{self.epochs * replicates / (time.monotonic() - self.start_s):.1f}"
        return shown
