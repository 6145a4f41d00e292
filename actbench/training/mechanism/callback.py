"""Measuring the mechanism in a fit: when, on which images, and what becomes of it."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import StochasticWeightAveraging, WeightAveraging
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]
from torch import Tensor
from typing_extensions import override

from actbench.data import Batch, ForeignData, ImageData, Rows, read_batch
from actbench.records import COLUMN_OF, LAYERS, LONGEST, SITES, STATISTICS, TIMES, UNMEASURED
from actbench.seeding import unchanged_generators
from actbench.training.checkpoints import CheckpointError, check_state
from actbench.training.mechanism.measuring import measure, with_calls
from actbench.training.mechanism.recording import RecordedPass
from actbench.training.metrics import summary_statistics

ROWS = 64  # most images of a replicate
TITLE = "statistics of a mechanism"
AVERAGING = (StochasticWeightAveraging, WeightAveraging)  # these change the weights at the end


class Snapshot(NamedTuple):
    """One measurement: the epochs trained before, statistics (statistics, replicates, calls), and effective ranks."""

    epoch: int
    statistics: Tensor
    rank: Tensor


class Mechanism(Callback):
    """Measures what calls of the activation do: before the first step, after epochs 1, 2, 4, ..., and at the end.

    Each replicate is measured on the same images of its val part each time, at most
    ``ROWS``, in evaluation. Nothing else notices: copies of the networks run, and
    generators are restored. Checkpoints hold what was measured.
    """

    def __init__(self) -> None:
        self.sites: list[str] = []
        self.layers: list[str] = []
        self.snapshots: list[Snapshot] = []
        self.recorded = RecordedPass()
        self.batch: tuple[Tensor, Tensor] | None = None  # images and labels

    # --- when ---

    def measure_start(self, trainer: Trainer, classifier: Any) -> None:
        """Measure the initial weights, as they are before the first step."""
        if not self.snapshots:  # with accumulated gradients, several batches come before it
            self._measure(trainer, classifier, 0)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.global_step == 0:
            self.snapshots = []  # of another fit

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        epoch = trainer.current_epoch + 1
        if epoch & (epoch - 1) == 0:
            self._measure(trainer, pl_module, epoch)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        averages = any(isinstance(callback, AVERAGING) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        if averages and self.snapshots and self.snapshots[-1].epoch == trainer.current_epoch:
            self.snapshots.pop()  # of weights before they were averaged
        if not self.snapshots or self.snapshots[-1].epoch < trainer.current_epoch:
            self._measure(trainer, pl_module, trainer.current_epoch)
        self.batch = None

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "sites": self.sites,
            "layers": self.layers,
            "snapshots": [snapshot._asdict() for snapshot in self.snapshots],
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        check_state(state_dict, self.state_dict(), TITLE)
        names, snapshots = [*state_dict["sites"], *state_dict["layers"]], state_dict["snapshots"]
        forms = [isinstance(each, dict) and each.keys() == {*Snapshot._fields} for each in snapshots]
        if not all(forms) or not all(isinstance(name, str) for name in names):
            raise CheckpointError(f"the checkpoint is damaged: its {TITLE} have another form")
        self.sites, self.layers = state_dict["sites"], state_dict["layers"]
        self.snapshots = [Snapshot(**snapshot) for snapshot in snapshots]

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        replicates = len(pl_module.seeds)
        expected = Snapshot(
            0, torch.zeros(len(STATISTICS), replicates, len(self.sites)).double(), torch.zeros(replicates).double()
        )
        for snapshot in self.snapshots:
            check_state(snapshot._asdict(), expected._asdict(), TITLE)

    # --- what ---

    def _measure(self, trainer: Trainer, classifier: Any, epoch: int) -> None:
        with unchanged_generators(), torch.enable_grad(), trainer.precision_plugin.forward_context():
            if self.batch is None:
                self.batch = fixed_batch(trainer, classifier)
            images, labels = self.batch
            calls, statistics, rank = measure(classifier.engine, images.to(classifier.dtype), labels, self.recorded)
        if not self.snapshots:
            self.sites, self.layers = [call.name[-LONGEST:] for call in calls], [call.layer for call in calls]
            if not calls:
                rank_zero_warn(f"model.mechanism: no call of the activation can be measured: {UNMEASURED}")
        self.snapshots.append(Snapshot(epoch, with_calls(statistics, len(self.sites)), rank))
        for logger in trainer.loggers:
            logger.log_metrics(dict(self.scalars()), step=trainer.global_step)

    def scalars(self) -> Iterator[tuple[str, float]]:
        """The mean over replicates of each statistic at each call, as loggers get them, at the latest measurement."""
        _, statistics, rank = self.snapshots[-1]
        for name, by_call in zip(STATISTICS, statistics, strict=True):
            for site, values in zip(self.sites, by_call.unbind(1), strict=True):
                yield f"mechanism/{name}/{site}", summary_statistics(values)["mean"]
        yield "mechanism/rank", summary_statistics(rank)["mean"]

    def columns(self, replicate: int, epochs: int) -> dict[str, Any]:
        """The columns of a replicate's record, which was trained for so many epochs.

        The first measurement after a replicate has stopped early is that of its own end.
        """
        before = [snapshot for snapshot in self.snapshots if snapshot.epoch < epochs]
        ends = [snapshot._replace(epoch=epochs) for snapshot in self.snapshots if snapshot.epoch >= epochs]
        snapshots = [*before, *ends[:1]]
        statistics = {
            COLUMN_OF[name]: [snapshot.statistics[index, replicate].tolist() for snapshot in snapshots]
            for index, name in enumerate(STATISTICS)
        }
        return {
            SITES: self.sites,
            LAYERS: self.layers,
            TIMES: [snapshot.epoch for snapshot in snapshots],
            **statistics,
            COLUMN_OF["rank"]: [snapshot.rank[replicate].item() for snapshot in snapshots],
        }


def fixed_batch(trainer: Trainer, classifier: Any) -> tuple[Tensor, Tensor]:
    """Images and labels of val, the same for each measurement: for each replicate its own, or some that all share.

    Of our datasets, rows are evenly spaced over each replicate's part, whose order
    may be that of classes. Of others, they are the first ones. A user's DataModule is
    read in a copy, because reading may change later batches.
    """
    datamodule = getattr(trainer, "datamodule", None)
    if isinstance(datamodule, ImageData):
        rows = datamodule.parts["val"].rows
        spaced = torch.linspace(0, rows.shape[1] - 1, min(ROWS, rows.shape[1])).round().long()
        chosen = Rows("val", rows[:, spaced])
        return images_and_labels([datamodule.transfer_batch_to_device(chosen, classifier.device, 0)])
    if isinstance(datamodule, ForeignData):
        images, labels = images_and_labels(datamodule.scout.batches("val") if "val" in datamodule.parts else ())
        vars(datamodule).pop("scout", None)  # frees all that it has read
        return images.to(classifier.device), labels.to(classifier.device)
    return images_and_labels(val_batches(trainer, classifier))


def val_batches(trainer: Trainer, classifier: Any) -> Iterator[Batch]:
    """Batches of the first loader of val that a Trainer was given."""
    if trainer.val_dataloaders is None and trainer.enable_validation:
        trainer.fit_loop.epoch_loop.val_loop.setup_data()  # else Lightning does so before the first validation
    loaders = trainer.val_dataloaders
    for batch in (loaders[0] if isinstance(loaders, list) else loaders) or ():
        yield read_batch(trainer.strategy.batch_to_device(batch, classifier.device, 0), classifier.batch_keys)


def images_and_labels(batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Images and labels of batches up to ``ROWS``; MisconfigurationException if there are none."""
    images, labels, rows = list[Tensor](), list[Tensor](), 0
    for batch in batches:
        if batch.labels is None:
            break
        images.append(batch.inputs)
        labels.append(batch.labels)
        rows += batch.labels.shape[-1]
        if rows >= ROWS:
            break
    if not rows:
        raise MisconfigurationException("model.mechanism is measured on labelled images of val, and there are none")
    if len(images) == 1 and rows <= ROWS:
        return images[0], labels[0]
    return torch.cat(images)[:ROWS], torch.cat(labels)[:ROWS]
