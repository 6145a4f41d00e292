"""The LightningModule that trains and scores one network with one activation."""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float
from pytorch_lightning import LightningModule
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR, ReduceLROnPlateau
from typing_extensions import override

from actbench.data import read_batch
from actbench.data.images import check_at_least, check_replicates
from actbench.networks import Init, SwapCertificate, build_network, common_certificate, freeze_parameters
from actbench.specs import ActivationSpec, NetworkSpec, OptimizerSpec, SchedulerSpec, one_line
from actbench.training import checkpoints, device, preflight, transfer
from actbench.training.callbacks import LogScores, for_replicates
from actbench.training.engines import make_engine
from actbench.training.mechanism import Mechanism
from actbench.training.metrics import Ensemble, MeanLoss, Scores, at_least_single, gather, summary_statistics
from actbench.training.predictions import Prediction

RELU = ActivationSpec("relu")
TUTORIAL_CNN = NetworkSpec("TutorialCNN")
ADAM = OptimizerSpec("torch.optim.Adam")


class Classifier(LightningModule):
    """Classifiers with one network and one activation, one classifier for each seed, trained together.

    ``forward`` maps inputs ``(replicates, batch, *input_shape)``, such as images
    scaled to [0, 1], to logits ``(replicates, batch, classes)``; inputs without
    the first axis are given to every replicate. With one replicate, it maps
    ``(batch, *input_shape)`` to ``(batch, classes)``. The loss is cross-entropy.

    Replicates do not mix. Each has its own initial weights, split and batch
    order, which follow from its seed alone. Gradient clipping, early stopping and
    the choice of the best epoch act on each replicate separately. A replicate
    that diverges changes no bit of the others.

    Logs ``train/loss``, ``val/loss`` and ``test/loss`` in nats per example; as
    fractions, ``val/acc`` and ``test/acc``, and ``val/ece`` and ``test/ece``, the
    calibration error over 15 bins of confidence. Each is the mean over replicates
    that have not diverged; ``_sd``, ``_min`` and ``_max`` after the name give their
    spread. ``train/loss`` is the mean over the epoch while the weights change.

    Args:
        activation: Activation to compare: a name ("python main.py activations" lists them), a class path, or a class
            path with arguments.
        network: Network for the activation: TutorialCNN, MLP, ConvNet, ResNet20, or the path of a class or function,
            such as torchvision.models.resnet18. The activation is swapped into a network that does not take activation,
            input_shape and num_classes; "python main.py sites" lists where.
        sites: Which calls of activations are swapped: "hidden", those that flow into a layer with weights or multiply a
            second branch; "all"; or patterns of the paths that "python main.py sites" lists.
        optimizer: Class path of a torch optimiser, with arguments.
        lr_scheduler: Path of a torch learning-rate schedule, or of a function that makes one, with arguments; those of
            SequentialLR and ChainedScheduler hold a list of such schedules. ReduceLROnPlateau steps after each
            validation, by val/loss, and takes one replicate only.
        lr_interval: How often lr_scheduler steps: once an "epoch", or after each "step" of the optimiser; by default
            once an epoch, but OneCycleLR and CyclicLR after each step.
        replicates: Number of seeds to train together: seed, seed + 1, and so on.
        engine: How replicates are trained: "stack", all at once under vmap; "sequence", one after another as plain
            modules, which trains whatever plain torch trains; or "auto", the stack where it is proved and faster.
        compile: Whether Inductor compiles the steps of a stack, which changes results by rounding. "auto" does so in a
            long fit on one device if a trial shows that it pays several times over, and never in a study.
        stack_width: Most replicates that a stack computes at once; by default 32 on a CPU. It is halved where memory
            runs out.
        batch_keys: Unusual names of the images and labels in batches that are mappings, dataclasses or namedtuples.
        weights: File of weights to start from: a state dict, alone or in a checkpoint. A checkpoint of several
            replicates gives each seed its own weights; any other file is shared by all seeds. What the file lacks, and
            a head for another number of classes, is drawn from the seed.
        freeze: Patterns of names of parameters that are not trained, such as "stages.0.*". A BatchNorm whose
            running_mean matches keeps its statistics and uses them in training.
        init: How drawn weights are scaled before the first step: "as_is", not at all; "gain", in each layer to the
            variance gain²/fan_in, with the gain of the activation that it reads; "data", layer after layer, so that
            outputs on the first batch have variance 1. Seeds keep their draws.
        mechanism: Whether a fit measures dead units, gradients and more at each call of the activation, on some images
            of val: before the first step, after epochs 1, 2, 4, 8, ..., and at the end. It changes no result.
        input_shape: Shape of one input, with any number of axes; for an image: channels, height, width.
        num_classes: Number of classes.
        seed: Seed of the first replicate. It keys the initial weights and the network's draws in training.

    Raises:
        ValueError: A spec is wrong, the network does not fit the images, or it cannot be stacked.
    """

    def __init__(
        self,
        activation: ActivationSpec = RELU,
        network: NetworkSpec = TUTORIAL_CNN,
        optimizer: OptimizerSpec = ADAM,
        lr_scheduler: SchedulerSpec | None = None,
        replicates: int = 1,
        engine: Literal["auto", "stack", "sequence"] = "auto",
        compile: bool | Literal["auto"] = "auto",
        stack_width: int | None = None,
        batch_keys: Sequence[str] | None = None,
        weights: str | Path | None = None,
        freeze: Sequence[str] | str | None = None,
        sites: str | Sequence[str] = "hidden",
        init: Init = "as_is",
        mechanism: bool = False,
        lr_interval: Literal["epoch", "step"] | None = None,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_replicates(replicates)
        check_at_least(1, stack_width=1 if stack_width is None else stack_width)
        self.activation = ActivationSpec(activation)
        self.network_spec = NetworkSpec(network)
        self.optimizer = OptimizerSpec(optimizer)
        self.lr_scheduler = None if lr_scheduler is None else SchedulerSpec(lr_scheduler)
        self.batch_keys = batch_keys
        self.sites = sites
        self.input_shape = tuple(input_shape)
        self.num_classes = int(num_classes)
        self.seeds = range(int(seed), int(seed) + replicates)
        self.lr_interval = lr_interval
        if lr_interval and (self.lr_scheduler is None or self.lr_scheduler.waits):
            raise ValueError("lr_interval needs an lr_scheduler other than ReduceLROnPlateau")
        if replicates > 1 and self.lr_scheduler and self.lr_scheduler.waits:
            raise ValueError("ReduceLROnPlateau lowers one rate for all replicates; it needs replicates: 1")

        build = partial(build_network, self.network_spec, self.activation, num_classes=num_classes, sites=sites)
        networks = [build(input_shape=self.input_shape, seed=seed) for seed in self.seeds]
        self.swap: SwapCertificate | None = common_certificate(networks, self.seeds)
        self.scaling = transfer.Scaling.of(init, self.activation, weights)
        self.start = transfer.load_weights(
            networks,
            self.seeds,
            weights,
            activation=self.activation.class_path,
            input_shape=self.input_shape,
            num_classes=self.num_classes,
        )
        self.frozen = [freeze] if isinstance(freeze, str) else list(freeze or ())
        freeze_parameters(networks, self.frozen, input_shape=self.input_shape)
        self.stack_width = stack_width
        self.engine = make_engine(
            engine, networks, self.seeds, input_shape=self.input_shape, width=stack_width, optimizer=self.optimizer
        )
        self.engine_reason: str | None = None if engine == "auto" else "model.engine names it"
        self.compiles = compile
        self.mechanism = Mechanism() if mechanism else None
        self.active = torch.ones(replicates, dtype=torch.bool)  # not stopped early; no buffer, for some are averaged
        self.normalization: dict[str, Any] | None = None  # in training, if that is known; see `ImageData`
        self.train_loss = MeanLoss(replicates)
        self.scores = nn.ModuleDict({part: Scores(replicates, self.num_classes) for part in ("val", "test")})
        self.evaluated: dict[str, Tensor] = {}  # latest scores of every replicate, by name
        self.labels: dict[str, Tensor] = {}  # rows of each class that they rest on, by replicate, of each part

    def describe(self) -> dict[str, Any]:
        """The arguments in plain values, without seed and width; see `actbench.training.checkpoints`."""
        return checkpoints.describe_model(self)

    def replicate_scores(self) -> dict[str, Float[Tensor, " replicates"]]:
        """Latest scores of every replicate by name, on the CPU."""
        scores = {"train/loss": self.train_loss.compute()} if self.train_loss.update_called else {}
        return {name: value.detach().cpu().view(len(self.seeds)) for name, value in (scores | self.evaluated).items()}

    @property
    def active(self) -> Bool[Tensor, " replicates"]:
        """Which replicates have not stopped early."""
        return self._active

    @active.setter
    def active(self, active: Tensor) -> None:
        self._active = active
        self.running = active.nonzero().flatten().tolist()  # once, because a GPU would have to be waited for
        self.stopped = (~active).nonzero().flatten().tolist()

    @override
    def forward(self, images: Float[Tensor, "*replicates_batch_shape"]) -> Float[Tensor, "*replicates batch classes"]:
        logits = self._logits(images)
        return logits[0] if len(self.seeds) == 1 and images.ndim == self.engine.ndim else logits

    def _logits(self, images: Tensor) -> Float[Tensor, "replicates batch classes"]:
        logits: Tensor = self.engine(images.to(self.dtype))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    @override
    def configure_callbacks(self) -> Any:
        # The first hook that knows the Trainer, before callbacks look at the parameters.
        device.choose_engine(self, self.trainer.strategy.root_device, preflight.batch_size(self.trainer))
        return [self.mechanism] if self.mechanism else []

    @override
    def setup(self, stage: str) -> None:
        callbacks: list[Any] = getattr(self.trainer, "callbacks", [])
        callbacks[:] = map(for_replicates, callbacks)
        if not any(isinstance(callback, LogScores) for callback in callbacks):
            callbacks.insert(0, LogScores())
        if self.normalization and stage != "fit":
            preflight.restore_normalization(self.trainer, self)
        self.ensemble = Ensemble(self.global_rank)

    @override
    def on_fit_start(self) -> None:
        preflight.check_fit(self.trainer, self)
        if self.swap:
            rank_zero_info(self.swap.text)
        data = checkpoints.describe_data(getattr(self.trainer, "datamodule", None))
        for logger in self.loggers:
            logger.log_hyperparams({"seed": self.seeds[0], "model": self.describe(), "data": data})

    @override
    def on_validation_start(self) -> None:
        preflight.check_sanity(self.trainer, self)

    @override
    def on_train_start(self) -> None:
        preflight.keep_normalization(self.trainer, self)
        preflight.check_training(self.trainer, self)
        device.choose_convolutions(self.trainer, self)
        device.choose_compiling(self.trainer, self)

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.train_loss.reset()  # not at the epoch's end, whose checkpoint holds its sum
            if self.trainer.global_step == 0:
                transfer.scale_weights(self, batch)
                if self.mechanism:
                    self.mechanism.measure_start(self.trainer, self)

    @override
    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        images, labels = self._labelled(batch)[:2]
        rows = labels.shape[-1]
        share: Tensor | None = None
        if self.trainer.world_size > 1:  # before any return, because it waits for the other devices
            # With weights of a device's rows over the mean of all, the average of gradients is that of the batch.
            share = rows / self.trainer.strategy.reduce(torch.tensor(float(rows), device=self.device), reduce_op="mean")
        if not rows:  # a last batch may have fewer rows than there are devices
            return torch.stack([parameter.sum() for parameter in self.parameters()]).sum() * 0
        images = images.to(self.dtype)
        key = (self.current_epoch, batch_idx, self.global_rank)
        scaled = preflight.scales_loss(self.trainer)
        losses = self.engine.losses(images, labels, replicates=self.running, key=key, scaled=scaled)
        self.train_loss.update(losses.detach(), rows, self.active.to(losses.device, non_blocking=True))
        loss = (losses[self.running] if self.stopped else losses).sum()
        return loss if share is None else loss * share

    @override
    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        self.engine.backward(loss, *args, **kwargs)

    @override
    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._score(batch, "val")

    @override
    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._score(batch, "test")

    def _labelled(self, batch: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        """Inputs, labels and row numbers of a batch; ValueError if it has no labels."""
        inputs, labels, rows = read_batch(batch, self.batch_keys)
        if labels is None:
            raise ValueError("a batch that is trained on or scored has no labels")
        return inputs, labels, rows

    def _score(self, batch: Sequence[Tensor], part: str) -> None:
        images, labels, rows = self._labelled(batch)
        if labels.shape[-1]:
            logits = self._logits(images)
            cast(Scores, self.scores[part]).update(logits, labels)
            if self.trainer.state.fn != TrainerFn.FITTING:  # a fit has no use for the ensemble
                self.ensemble.update(logits, labels, rows)

    def log_scores(self, part: str) -> None:
        """Log the scores of val or test, and store every replicate's; see `LogScores`."""
        metric = cast(Scores, self.scores[part])  # which makes a single value a scalar
        scores = {f"{part}/{name}": values.view(len(self.seeds)) for name, values in metric.compute().items()}
        self.labels[part] = cast(Tensor, self.trainer.strategy.reduce(metric.labels, reduce_op="sum"))
        metric.reset()
        for name, values in scores.items():
            self._log(name, values, prog_bar=True)
        if self.trainer.sanity_checking:
            return
        self.evaluated |= scores
        if self.trainer.state.fn != TrainerFn.FITTING:
            self.ensemble.batches = [*chain.from_iterable(gather(self.ensemble.batches, self.trainer))]
            ensemble = self.ensemble.compute()
            self.log_dict({f"{part}/{name}_ensemble": value for name, value in ensemble.items()})
            return
        preflight.step_plateaus(self.trainer, scores[f"{part}/loss"])

    def _log(self, name: str, values: Float[Tensor, " replicates"], *, prog_bar: bool = False) -> None:
        """Log the mean over replicates, and the spread of several."""
        summary = summary_statistics(values)
        self.log(name, summary.pop("mean"), prog_bar=prog_bar)
        if len(self.seeds) > 1:
            self.log_dict({f"{name}_{statistic}": value for statistic, value in summary.items()})

    @override
    def predict_step(self, batch: Any, batch_idx: int) -> Prediction:
        images, labels, rows = read_batch(batch, self.batch_keys)
        probabilities = at_least_single(self._logits(images)).softmax(2).cpu()
        return Prediction(None if rows is None else rows.cpu(), None if labels is None else labels.cpu(), probabilities)

    @override
    def configure_optimizers(self) -> Any:
        optimizer = self.engine.make_optimizer(self.optimizer)
        if self.lr_scheduler is None:
            return optimizer
        scheduler = self.lr_scheduler(optimizer)
        interval = self.lr_interval or ("step" if isinstance(scheduler, OneCycleLR | CyclicLR) else "epoch")
        # log_scores steps a plateau after each validation.
        schedule = {"scheduler": scheduler, "interval": interval, "reduce_on_plateau": False}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    @override
    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if not isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step()

    @override
    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        if gradient_clip_val is not None:
            self.engine.clip_gradients(gradient_clip_val, by_value=gradient_clip_algorithm == "value")

    @override
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        with self.engine.unchanged(self.stopped):
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    def log_train_loss(self) -> None:
        """Log the epoch's training loss; see `LogScores`."""
        if self.train_loss.update_called:  # not in an epoch without batches
            self._log("train/loss", self.replicate_scores()["train/loss"])

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        described = checkpoints.describe_run(self) | {"unfolded": device.plain_convolutions(self.engine)}
        checkpoint[checkpoints.KEY] = described | self._state()
        # Lightning's own hyperparameters repeat the description and hold local paths.
        for name in ("hyper_parameters", "hparams_name", "datamodule_hyper_parameters", "datamodule_hparams_name"):
            checkpoint.pop(name, None)
        checkpoints.move_paths(checkpoint, self.trainer.checkpoint_callbacks, to_relative=True)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get(checkpoints.KEY, {})
        checkpoints.check_state({name: saved.get(name) for name in self._state()}, self._state(), "sums")
        for name, value in saved["train_loss"].items():
            setattr(self.train_loss, name, value.to(self.device))
        self.active = saved["active"]
        device.restore_convolutions(self.engine, saved["unfolded"])
        self.start = self.start._replace(loaded=True)
        if any(value.dtype == torch.float64 for value in checkpoint["state_dict"].values()):
            self.double()  # before the weights are restored, which would be rounded
        self.evaluated = dict(saved["scores"])
        checkpoints.move_paths(checkpoint, self.trainer.checkpoint_callbacks, to_relative=False)
        self.normalization = saved.get("normalization")
        preflight.restore_normalization(self.trainer, self)

    def _state(self) -> dict[str, Any]:
        """State of training besides the weights: active replicates, and the epoch's sums so far."""
        sums = {name: torch.as_tensor(value).cpu() for name, value in self.train_loss.metric_state.items()}
        return {"active": self.active.clone(), "train_loss": sums}

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str, *, map_location: Any = "cpu", trust: Iterable[str] = ()
    ) -> "Classifier":
        """The classifier of a checkpoint, with its weights. Runs no code from the file.

        Class paths in the file may name classes of actbench, of torch, and of the
        packages or modules in ``trust``.

        Its ``normalization`` says how images in [0, 1] were normalised in training,
        with ``mean`` and ``deviation`` of each replicate and channel; see
        `ImageData.normalization`. ``trainer.test`` normalises our datasets by it.

        Raises:
            CheckpointError: The file is damaged, not a checkpoint of actbench, or names code that is not trusted.
        """
        description, content = checkpoints.read_checkpoint(checkpoint_path, trust=trust)
        try:
            classifier = cls(**description["model"], seed=description["seed"])
            classifier.load_state_dict(content["state_dict"])
            classifier.start = classifier.start._replace(loaded=True)
            classifier.normalization = description.get("normalization")
        except Exception as error:  # users' classes raise errors of any kind
            raise checkpoints.CheckpointError(
                f"{checkpoint_path} describes what cannot be built: {one_line(error)}"
            ) from error
        return classifier.to(map_location)
