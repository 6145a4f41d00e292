"""The early end of a run, by early stopping or interruption, and Lightning's callbacks adapted to replicates."""

import copy
import math
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import EarlyStopping, StochasticWeightAveraging
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]
from torch import Tensor
from typing_extensions import override

from actbench.networks import HELD
from actbench.training.callbacks.checkpoints import LastCheckpoint
from actbench.training.checkpoints import check_state


class ReplicateEarlyStopping(EarlyStopping):
    """Lightning's EarlyStopping for each replicate separately.

    A stopped replicate keeps its weights, and the fit ends when all have stopped.
    None stops before the trainer's ``min_epochs`` and ``min_steps``.
    """

    waits: Tensor | None = None  # checks since the best score
    due: Tensor | None = None  # replicates that stop as soon as the trainer's limits allow it

    @override
    def _run_early_stopping_check(self, trainer: Trainer) -> None:
        module = cast(Any, trainer.lightning_module)
        ends = trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step
        if self.monitor not in trainer.callback_metrics and ends:  # a fit may end before it is validated
            return
        if trainer.fast_dev_run or not self._validate_condition_metric(trainer.callback_metrics):  # type: ignore[attr-defined]
            return
        scores = module.replicate_scores()
        if self.monitor not in scores:
            raise MisconfigurationException(
                f"EarlyStopping cannot watch {self.monitor} of each replicate: give one of {', '.join(scores)}"
            )
        current = scores[self.monitor]
        if self.waits is None or self.due is None:
            self.best_score = self.best_score.expand(len(current)).clone()
            self.waits = torch.zeros(len(current), dtype=torch.int64)
            self.due = torch.zeros(len(current), dtype=torch.bool)
        improved = self.monitor_op(current - self.min_delta, self.best_score)
        self.best_score = torch.where(improved, current, self.best_score)
        self.waits = torch.where(improved, 0, self.waits + 1)
        stopped = ~improved & (self.waits >= self.patience)
        if self.check_finite:
            stopped |= ~current.isfinite()
        if self.stopping_threshold is not None:
            stopped |= self.monitor_op(current, torch.tensor(self.stopping_threshold))
        if self.divergence_threshold is not None:
            stopped |= self.monitor_op(-current, torch.tensor(-self.divergence_threshold))
        self.due |= stopped
        self._stop(trainer, module)

    def _stop(self, trainer: Trainer, module: Any) -> None:
        """Stop the replicates that any callback of this class has found due, if the limits allow it."""
        due = [c.due for c in trainer.callbacks if isinstance(c, ReplicateEarlyStopping) and c.due is not None]  # type: ignore[attr-defined]
        remaining = torch.stack([module.active, *(~flags for flags in due)]).all(0)
        if trainer.fit_loop._can_stop_early:
            module.active &= remaining
        if not remaining.any():
            trainer.should_stop = True  # Lightning itself waits for the limits
            self.stopped_epoch = trainer.current_epoch

    @override
    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if self.waits is not None or self.due is not None:
            active = pl_module.active
            expected = {"waits": active.long(), "due": active, "best_score": active.float()}
            expected |= {"wait_count": 0, "patience": 0}
            check_state({name: self.state_dict()[name] for name in expected}, expected, "counts of early stopping")
        self._stop(trainer, pl_module)  # a resumed fit may have ended already

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._stop(trainer, pl_module)  # the limits may have been met since the last check

    @override
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"waits": self.waits, "due": self.due}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.waits, self.due = state_dict["waits"], state_dict["due"]


class ReplicateWeightAveraging(StochasticWeightAveraging):
    """Lightning's StochasticWeightAveraging, with a final pass for BatchNorm statistics that works in a stack.

    In that pass torch computes the weight of a batch from a counter that is a
    tensor, which cannot be read under vmap. Statistics that ``model.freeze`` keeps
    stay as they are.
    """

    @override
    def reset_batch_norm_and_save_state(self, pl_module: Any) -> None:
        held = [module for module in pl_module.modules() if hasattr(module, HELD)]
        before = [(module, module.momentum, copy.deepcopy(module._buffers)) for module in held]
        super().reset_batch_norm_and_save_state(pl_module)
        for module, momentum, buffers in before:
            self.momenta.pop(module, None)
            module.momentum, module._buffers = momentum, buffers

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        for module in self.momenta:  # empty before that pass
            module.momentum = 1 / (batch_idx + 1)


ADAPTED: Mapping[type[Callback], type[Callback]] = {
    EarlyStopping: ReplicateEarlyStopping,
    StochasticWeightAveraging: ReplicateWeightAveraging,
}


def for_replicates(callback: Callback) -> Callback:
    """The callback as its class for replicates, with settings and state; any other callback as it is."""
    adapted = ADAPTED.get(type(callback))
    if adapted is None:
        return callback
    replacement = adapted.__new__(adapted)
    vars(replacement).update(vars(callback))
    return replacement


EPOCH_STARTS = (
    "actbench.",
    *(f"pytorch_lightning.callbacks.{name}" for name in ("callback", "lr_monitor", "progress")),
)
"""Modules whose callbacks need no start of an epoch."""


def epoch_starters(callbacks: Sequence[Callback]) -> list[Callback]:
    """Callbacks that act at the start of an epoch, where Lightning calls none in a fit that resumes within it."""
    return [each for each in callbacks if not each.on_train_epoch_start.__module__.startswith(EPOCH_STARTS)]


class Interruption(Callback):
    """Ends a fit on Ctrl-C or SIGTERM after a whole batch, from which a run resumes exactly.

    Saves ``last.ckpt``, calls ``report`` with its path (None if checkpoints are
    off) and the trainer, and raises SystemExit with status 130 or 143. A second
    signal ends the process at once. With a callback that acts at the start of an
    epoch, ``last.ckpt`` stays that of the end of an epoch, if one was written.
    """

    def __init__(self, report: Callable[[Path | None, Trainer], None]) -> None:
        self.report = report
        self.signal: int | None = None
        self.previous: dict[int, Any] = {}

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self.signal = signum
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        # Not earlier, because Lightning sets its own handlers shortly before, which may have met a signal.
        self.signal = signal.SIGTERM if trainer.received_sigterm else None
        self.previous = {signum: signal.signal(signum, self._receive) for signum in (signal.SIGINT, signal.SIGTERM)}

    @override
    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)
        self.previous = {}

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        done = batch_idx + 1
        validates = trainer.is_last_batch or done % (trainer.val_check_batch or 1) == 0
        if done % trainer.accumulate_grad_batches or validates or not self._received(trainer):
            return
        last = self._last_checkpoint(trainer)
        if last and not epoch_starters(trainer.callbacks):  # type: ignore[attr-defined]
            last.save(trainer, pl_module)
        self._stop(last, trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        last = self._last_checkpoint(trainer)
        if last and self._received(trainer):
            last.written_s = -math.inf  # due when Lightning calls it after this epoch

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        last = self._last_checkpoint(trainer)
        # A signal that came after the last epoch's checkpoints waits for the first batch.
        if (last is None or last.step == trainer.global_step) and self._received(trainer):
            self._stop(last, trainer)

    def _received(self, trainer: Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self.signal is not None, all=False)

    def _last_checkpoint(self, trainer: Trainer) -> LastCheckpoint | None:
        return next((c for c in trainer.checkpoint_callbacks if isinstance(c, LastCheckpoint)), None)

    def _stop(self, last: LastCheckpoint | None, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            self.report(last.path if last else None, trainer)
        raise SystemExit(128 + (self.signal or signal.SIGTERM))
