"""Progress of a run, printed while it trains."""

import time
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from typing_extensions import override

from actbench.training.metrics import summary_statistics


class EpochLines(Callback):
    """Progress in plain lines, for a file or a pipe: the first and last epoch, and at most one line per ``seconds``."""

    def __init__(self, seconds: float = 10) -> None:
        self.seconds = seconds
        self.next_line = 0.0
        self.latest = ""  # line of the latest epoch, if it was not printed

    @override
    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.pace = ProgressEstimate()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        epochs = trainer.max_epochs or -1
        progress = self.pace.after_epoch(pl_module)  # on every device, because scores may have to be synchronised
        metrics = "  ".join(f"{name} {value}" for name, value in progress.items())
        self.latest = f"epoch {trainer.current_epoch + 1}/{epochs if epochs > 0 else '?'}  {metrics}"
        if time.monotonic() >= self.next_line or trainer.current_epoch + 1 == epochs:
            self._print(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._print(trainer)  # of a fit that ended before its last epoch

    def _print(self, trainer: Trainer) -> None:
        if self.latest and trainer.is_global_zero:
            print(self.latest, flush=True)
        self.next_line, self.latest = time.monotonic() + self.seconds, ""


class ReplicateBar(RichProgressBar):
    """Lightning's progress bar with mean and spread over replicates, and their epochs per second."""

    def __init__(self) -> None:
        super().__init__()
        self.scores: dict[str, str] = {}

    @override
    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self.pace = ProgressEstimate()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.scores = self.pace.after_epoch(pl_module)
        super().on_train_epoch_end(trainer, pl_module)

    @override
    def get_metrics(self, trainer: Trainer, pl_module: Any) -> dict[str, Any]:
        return dict(self.scores)


class ProgressEstimate:
    """Scores of replicates, and their speed."""

    def __init__(self) -> None:
        self.start_s = time.monotonic()
        self.epochs = 0

    def after_epoch(self, pl_module: Any) -> dict[str, str]:
        """Each score as mean ± standard deviation over replicates, and replicate-epochs per second."""
        replicates = len(pl_module.seeds)
        progress = {}
        for name, values in sorted(pl_module.replicate_scores().items()):
            summary = summary_statistics(values)
            progress[name] = f"{summary['mean']:z.4f}" + (f" ± {summary['sd']:z.4f}" if replicates > 1 else "")
        losses = pl_module.evaluated.get("val/loss", torch.empty(0))
        exceptions = {"diverged": ~losses.isfinite(), "stopped": ~pl_module.active}
        progress |= {name: str(int(flags.sum())) for name, flags in exceptions.items() if flags.any()}
        self.epochs += 1
        progress["replicate-epochs/s"] = f"{self.epochs * replicates / (time.monotonic() - self.start_s):.1f}"
        return progress
