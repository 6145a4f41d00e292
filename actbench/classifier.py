"""The LightningModule: trains and scores one network with one activation."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int64
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR, ReduceLROnPlateau
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError
from typing_extensions import override

from actbench import __version__, checkpoints
from actbench.networks import build_network
from actbench.specs import ActivationSpec, NetworkSpec, OptimizerSpec, SchedulerSpec
from actbench.streams import stream_seed

RELU = ActivationSpec("relu")
TUTORIAL_CNN = NetworkSpec("TutorialCNN")
ADAM = OptimizerSpec("torch.optim.Adam")


class Prediction(NamedTuple):
    """What `Classifier.predict_step` returns for a batch, on the CPU: places and labels where they are known."""

    rows: Int64[Tensor, " batch"] | None
    labels: Int64[Tensor, " batch"] | None
    probabilities: Float[Tensor, "batch classes"]


class Classifier(LightningModule):
    """Image classifier in which only the activation function varies.

    ``forward`` maps images ``(batch, channels, height, width)``, scaled to
    [0, 1], to logits ``(batch, classes)``. The loss is cross-entropy.

    Logs ``train/loss``, ``val/loss`` and ``test/loss`` in nats per example,
    ``val/acc`` and ``test/acc`` as a fraction of examples, and ``val/ece`` and
    ``test/ece``, the expected calibration error over 15 bins of confidence, as
    a fraction. ``train/loss`` is the mean over the epoch while the weights
    change.

    Args:
        activation: What is compared: a name ("python main.py activations" lists them), a class path, or a class
            path with arguments.
        network: What the activation is put into: TutorialCNN, MLP, ConvNet, ResNet20, or the class path of a
            network that takes activation, input_shape and num_classes.
        optimizer: Class path of a torch optimiser, with arguments.
        lr_scheduler: Class path of a torch learning-rate schedule, with arguments. It steps once an epoch;
            OneCycleLR and CyclicLR step once a batch; ReduceLROnPlateau watches val/loss.
        input_shape: Shape of one image: channels, height, width.
        num_classes: How many classes there are.
        seed: Keys the initial weights and what the network draws while it trains.

    Raises:
        ValueError: A spec is wrong, or the network does not fit the images.
    """

    def __init__(
        self,
        activation: ActivationSpec = RELU,
        network: NetworkSpec = TUTORIAL_CNN,
        optimizer: OptimizerSpec = ADAM,
        lr_scheduler: SchedulerSpec | None = None,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.activation = ActivationSpec(activation)
        self.network_spec = NetworkSpec(network)
        self.optimizer = OptimizerSpec(optimizer)
        self.lr_scheduler = None if lr_scheduler is None else SchedulerSpec(lr_scheduler)
        self.input_shape = tuple(input_shape)
        self.num_classes = int(num_classes)
        self.seed = int(seed)

        self.network = build_network(
            self.network_spec,
            self.activation,
            input_shape=self.input_shape,
            num_classes=num_classes,
            seed=seed,
        )
        self.train_loss = MeanMetric(nan_strategy="disable")
        self.scores = nn.ModuleDict({part: scores(num_classes) for part in ("val", "test")})

    def describe(self) -> dict[str, Any]:
        """The arguments, but for the seed, in plain values; see `actbench.checkpoints`."""
        return {
            "activation": self.activation.to_dict(),
            "network": self.network_spec.to_dict(),
            "optimizer": self.optimizer.to_dict(),
            "lr_scheduler": self.lr_scheduler and self.lr_scheduler.to_dict(),
            "input_shape": list(self.input_shape),
            "num_classes": self.num_classes,
        }

    @override
    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        logits: Tensor = self.network(images.to(self.dtype))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    @override
    def on_fit_start(self) -> None:
        data = checkpoints.describe_data(getattr(self.trainer, "datamodule", None))
        for logger in self.loggers:
            logger.log_hyperparams({"seed": self.seed, "model": self.describe(), "data": data})

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # For dropout and the like, which draw from the global generator: a resumed run draws the same.
        torch.manual_seed(stream_seed(self.seed, "dropout", self.current_epoch, batch_idx, self.global_rank))
        if batch_idx == 0:
            self.train_loss.reset()  # a checkpoint of a whole epoch holds that epoch's sum

    @override
    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        if not len(labels):  # a last batch with fewer rows than devices leaves one without any
            return torch.stack([parameter.sum() for parameter in self.parameters()]).sum() * 0
        losses = cross_entropy(self(images), labels, reduction="none")
        self.train_loss.update(losses.detach())
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True)
        return losses.sum() / self._rows_per_device(labels)

    def _rows_per_device(self, labels: Tensor) -> float | Tensor:
        """Rows of the whole batch over devices, by which gradients, averaged over devices, become those of its mean."""
        if self.trainer.world_size == 1:
            return len(labels)
        rows = torch.tensor(float(len(labels)), device=self.device)
        mean: Tensor = self.trainer.strategy.reduce(rows, reduce_op="mean")
        return mean

    @override
    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._score(batch, "val")

    @override
    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._score(batch, "test")

    def _score(self, batch: Sequence[Tensor], part: str) -> None:
        images, labels = batch
        metrics = cast(Mapping[str, Metric], self.scores[part])
        if len(labels):
            logits = self(images)
            metrics["loss"].update(cross_entropy(logits, labels, reduction="none"))
            metrics["acc"].update(logits, labels)
            metrics["ece"].update(logits.softmax(1), labels)
        self.log_dict(
            {f"{part}/{name}": metric for name, metric in metrics.items()}, on_step=False, on_epoch=True, prog_bar=True
        )

    @override
    def predict_step(self, batch: Any, batch_idx: int) -> Prediction:
        images, labels, rows, *_ = (*batch, None, None) if isinstance(batch, list | tuple) else (batch, None, None)
        probabilities = self(images).softmax(1).cpu()
        return Prediction(None if rows is None else rows.cpu(), None if labels is None else labels.cpu(), probabilities)

    @override
    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        if self.lr_scheduler is None:
            return optimizer
        scheduler = self.lr_scheduler(optimizer)
        interval = "step" if isinstance(scheduler, OneCycleLR | CyclicLR) else "epoch"
        schedule = {"scheduler": scheduler, "interval": interval, "monitor": "val/loss"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    @override
    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if not isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step()

    @override
    def on_train_epoch_end(self) -> None:
        # Lightning steps these after it has written the epoch's checkpoint: a resumed run would miss a step.
        for schedule in self.trainer.lr_scheduler_configs:
            if isinstance(schedule.scheduler, ReduceLROnPlateau):
                schedule.scheduler.step(self.trainer.callback_metrics["val/loss"])

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[checkpoints.KEY] = {
            "schema": checkpoints.SCHEMA,
            "version": __version__,
            "seed": self.seed,
            "model": self.describe(),
            "data": checkpoints.describe_data(getattr(self.trainer, "datamodule", None)),
            "trainer": checkpoints.describe_trainer(self.trainer),
            # An epoch's running mean, for a run that is resumed in the middle of one.
            "train_loss": {name: torch.as_tensor(value).cpu() for name, value in self.train_loss.metric_state.items()},
        }
        # One description, and no path of this machine: Lightning's own hold the data's root.
        for name in (
            "hyper_parameters",
            "hparams_name",
            "datamodule_hyper_parameters",
            "datamodule_hparams_name",
        ):
            checkpoint.pop(name, None)
        self._move_paths(checkpoint, to_relative=True)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for name, value in checkpoint.get(checkpoints.KEY, {}).get("train_loss", {}).items():
            setattr(self.train_loss, name, value.to(self.device))
        self._move_paths(checkpoint, to_relative=False)

    def _move_paths(self, checkpoint: dict[str, Any], *, to_relative: bool) -> None:
        """Write the paths in ModelCheckpoint's state relative to its folder, or back."""
        for callback in self.trainer.checkpoint_callbacks:
            states = checkpoint.get("callbacks", {})
            if isinstance(callback, ModelCheckpoint) and callback.dirpath and callback.state_key in states:
                pair = (str(callback.dirpath), "CHECKPOINTS")
                state = checkpoints.replace_folder(states[callback.state_key], *(pair if to_relative else pair[::-1]))
                states[callback.state_key] = state

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str, *, map_location: Any = "cpu", trust: Iterable[str] = ()
    ) -> "Classifier":
        """The classifier of a checkpoint, with its weights. Runs no code from the file.

        Args:
            checkpoint_path: The file.
            map_location: Device to put the weights on.
            trust: Packages or modules that its class paths may name, besides actbench's and torch's own.

        Raises:
            actbench.checkpoints.CheckpointError: It is no checkpoint of actbench, damaged, or not to be trusted.
        """
        description = checkpoints.read_description(checkpoint_path, trust=trust)
        classifier = cls(**description["model"], seed=description["seed"])
        classifier.load_state_dict(checkpoints.load(checkpoint_path)["state_dict"])
        return classifier.to(map_location)


def scores(num_classes: int) -> nn.ModuleDict:
    """Metrics of a part of the data; see `Classifier` for their units."""
    metrics: Mapping[str, Metric] = {
        "loss": MeanMetric(nan_strategy="disable"),  # a diverged network's loss is NaN, not the mean of the rest
        "acc": MulticlassAccuracy(num_classes, average="micro", validate_args=False),
        "ece": MulticlassCalibrationError(num_classes, n_bins=15, validate_args=False),
    }
    return nn.ModuleDict(dict(metrics))
