"""The checkpoints of a run: the last epoch, and each replicate's best."""

import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from fsspec.core import url_to_fs
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from typing_extensions import override

from actbench.records import replacing
from actbench.training.checkpoints import check_state


class EpochCheckpoint(Checkpoint, ABC):
    """A checkpoint written at the end, and after an epoch if the previous one is ``seconds`` old.

    Writing it after every epoch would take longer than training a small network.
    """

    name: str

    def __init__(self, seconds: float = 10) -> None:
        self.seconds = seconds
        self.dirpath: str | None = None
        self.written_s = time.monotonic()
        self.step = -1  # of the latest checkpoint

    @property
    def path(self) -> Path:
        """File of the checkpoint."""
        return Path(str(self.dirpath), self.name)

    @abstractmethod
    def save(self, trainer: Trainer, pl_module: Any) -> None:
        """Write the checkpoint."""

    @override
    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self.dirpath = self.dirpath or str(Path(trainer.default_root_dir, "checkpoints"))

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        due = last or time.monotonic() >= self.written_s + self.seconds
        if trainer.strategy.broadcast(due):
            self._save_if_new(trainer, pl_module)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._save_if_new(trainer, pl_module)  # if the fit has ended before its last epoch

    def _save_if_new(self, trainer: Trainer, pl_module: Any) -> None:
        if self.step != trainer.global_step and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.save(trainer, pl_module)
            self.step = trainer.global_step
            self.written_s = time.monotonic()


class CheckpointCopy:
    """A copy of a checkpoint that other machines can reach, at a URL such as ``s3://bucket/x.ckpt`` or a path.

    Raises:
        ImportError: The package for the URL's protocol is not installed.
        ValueError: fsspec knows no such protocol.
    """

    def __init__(self, url: str) -> None:
        self.filesystem, self.path = url_to_fs(url)

    def put(self, checkpoint: Path) -> None:
        """Copy a checkpoint there, completely or not at all."""
        unfinished = f"{self.path}.{uuid4().hex}.unfinished"
        self.filesystem.makedirs(self.path.rpartition("/")[0], exist_ok=True)
        self.filesystem.put_file(str(checkpoint), unfinished)
        self.filesystem.mv(unfinished, self.path)

    def get(self, checkpoint: Path) -> None:
        """Copy the remote checkpoint to a local file, if it exists."""
        if self.filesystem.exists(self.path):
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            self.filesystem.get_file(self.path, str(checkpoint))

    def remove(self) -> None:
        """Remove the remote checkpoint, if it exists."""
        if self.filesystem.exists(self.path):
            self.filesystem.rm(self.path)


class LastCheckpoint(EpochCheckpoint):
    """``last.ckpt``, from which a fit resumes: of the last epoch, or up to ``seconds`` before the fit was killed."""

    name = "last.ckpt"

    def __init__(self, seconds: float = 10, copy: CheckpointCopy | None = None) -> None:
        super().__init__(seconds)
        self.copy = copy
        self.latest = self.saved = torch.empty(0)  # sums of the weights in the latest checkpoint, and in last.ckpt

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.latest = tensor_sums(checkpoint["state_dict"])

    @override
    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        # A callback may have replaced the saved weights by an average.
        if trainer.strategy.broadcast(not torch.equal(self.saved, tensor_sums(pl_module.state_dict()))):
            self.step = -1
        super().on_train_end(trainer, pl_module)

    @override
    def save(self, trainer: Trainer, pl_module: Any) -> None:
        save_whole(trainer, self.path)
        self.saved = self.latest
        if self.copy and trainer.is_global_zero:
            self.copy.put(self.path)


class BestCheckpoint(EpochCheckpoint):
    """``best.ckpt``: each replicate's weights from when its own ``val/loss`` was lowest.

    Replicates may be from different epochs, so no fit can resume from it. There is
    none of a network whose weights get other names meanwhile, as pruned ones do.
    """

    name = "best.ckpt"

    def __init__(self, seconds: float = 10) -> None:
        super().__init__(seconds)
        self.loss: Tensor | None = None
        self.epoch: Tensor | None = None
        self.weights: dict[str, Tensor] = {}
        self.validated: dict[str, Tensor] = {}
        self.names: Collection[str] = ()

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"loss": self.loss, "epoch": self.epoch, "weights": self.weights}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loss, self.epoch, self.weights = (state_dict[name] for name in ("loss", "epoch", "weights"))

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.names = pl_module.engine.state_dict().keys()
        if self.loss is not None:
            losses = torch.zeros(len(pl_module.seeds))
            expected = {"loss": losses, "epoch": losses.long(), "weights": pl_module.engine.state_dict()}
            check_state(self.state_dict(), expected, "best weights")

    @override
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        # At the start, because a callback that averages weights removes its average before the end.
        network = pl_module.engine.state_dict()
        self.validated = {name: value.clone() for name, value in network.items()}

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        loss = pl_module.evaluated["val/loss"]
        if self.validated.keys() != self.names:  # pruned, say: a checkpoint of such weights could not be loaded
            self.weights = {}
            self.path.unlink(missing_ok=True)
            return
        if self.loss is None or self.epoch is None:
            self.loss, self.epoch = torch.full_like(loss, torch.inf), torch.full(loss.shape, -1)
            self.weights = {name: value.clone() for name, value in self.validated.items()}
        lowest, epoch = self.loss.to(loss.device), self.epoch.to(loss.device)
        better = loss < lowest  # never true for a loss of NaN
        self.loss, self.epoch = torch.where(better, loss, lowest), torch.where(better, trainer.current_epoch, epoch)
        for name, value in self.validated.items():
            best = self.weights[name] = self.weights[name].to(value)  # on its device, with its dtype
            best[better] = value[better]

    @override
    def save(self, trainer: Trainer, pl_module: Any) -> None:
        if not self.weights:
            return
        network = pl_module.engine
        current = {name: value.clone() for name, value in network.state_dict().items()}
        network.load_state_dict(self.weights)
        try:
            save_whole(trainer, self.path, weights_only=True)
        finally:
            network.load_state_dict(current)


def tensor_sums(state: Mapping[str, Tensor]) -> Tensor:
    """Sum of each tensor, as a fingerprint of the weights."""
    return torch.stack([value.detach().double().sum().cpu() for value in state.values()])


def save_whole(trainer: Trainer, path: Path, *, weights_only: bool = False) -> None:
    """Save a checkpoint completely or not at all.

    Lightning itself moves a temporary file into place, which may be a copy
    between disks, and does not wait until the disk has stored it.
    """
    with replacing(path) if trainer.is_global_zero else nullcontext(path) as unfinished:
        trainer.save_checkpoint(unfinished, weights_only=weights_only)
