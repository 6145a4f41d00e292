"""What a Trainer will do, and checks before a fit's first step: MisconfigurationException for what would fail later."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
)
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau
from torch.utils.data import BatchSampler

from actbench.data import ImageData, RowBatches
from actbench.networks import hold_statistics, network_name
from actbench.specs import one_line
from actbench.training.callbacks import epoch_starters, is_users
from actbench.training.checkpoints import CheckpointError
from actbench.training.metrics import SCORES, SPREAD
from actbench.training.transfer import Start

UNSETTLED = 0.01  # share of initial statistics in BatchNorm's average, above which scores may be those of guessing
MOST_ROWS = 256  # of a last batch that is tried
OPEN_ENDED = (GradientAccumulationScheduler, StochasticWeightAveraging, Timer)  # these decide the number of steps


def batch_size(trainer: Trainer) -> int:
    """Rows of most batches, as the DataModule says, or a usual number."""
    size = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
    return size if isinstance(size, int) else 64


def scales_loss(trainer: Trainer) -> bool:
    """Whether the Trainer multiplies the loss by another number than 1 before its gradients are computed."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return trainer.accumulate_grad_batches > 1 or trainer.world_size > 1 or scaler is not None


def keep_normalization(trainer: Trainer, classifier: Any) -> None:
    """Note how the images of a training are normalised, if that is not in the user's own DataModule."""
    datamodule = getattr(trainer, "datamodule", None)
    if isinstance(datamodule, ImageData):
        classifier.normalization = datamodule.normalization()


def restore_normalization(trainer: Trainer, classifier: Any) -> None:
    """Have images normalised as in the training of the classifier."""
    datamodule = getattr(trainer, "datamodule", None)
    if isinstance(datamodule, ImageData):
        datamodule.restore_normalization(classifier.normalization)


def step_plateaus(trainer: Trainer, loss: Float[Tensor, " replicates"]) -> None:
    """Step the schedules that wait for a plateau of this loss, that of one replicate.

    Lightning would do so after the epoch's checkpoint, and a resumed run would miss that step.
    """
    for schedule in trainer.lr_scheduler_configs:
        if isinstance(schedule.scheduler, ReduceLROnPlateau):
            schedule.scheduler.step(loss.item())


def check_fit(trainer: Trainer, classifier: Any) -> None:
    """Refuse what needs no data to be seen."""
    check_start(classifier.start)
    check_precision(trainer, len(classifier.seeds))
    check_plateau(trainer, trainer.max_epochs, trainer.check_val_every_n_epoch)
    check_monitors(trainer, classifier)


def check_monitors(trainer: Trainer, classifier: Any) -> None:
    """Refuse Lightning's callbacks that watch a score which is not logged; a user's classes may log any."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    if any(is_users(type(each)) for each in (*callbacks, classifier)):
        return
    watched = {"train/loss", *(f"val/{name}" for name in SCORES)} if trainer.enable_validation else {"train/loss"}
    spread = {f"{name}_{statistic}" for name in watched for statistic in SPREAD if classifier.seeds[1:]}
    for callback in callbacks:
        stops = isinstance(callback, EarlyStopping)
        monitor = callback.monitor if stops or isinstance(callback, ModelCheckpoint) else None
        if monitor is None or (stops and not callback.strict) or monitor.startswith("lr-"):
            continue
        if monitor not in watched | (set() if stops else {*spread, "epoch", "step"}):
            kind = "EarlyStopping" if stops else "ModelCheckpoint"
            raise MisconfigurationException(
                f"{kind} watches {monitor}, which is not logged: give one of {', '.join(sorted(watched))}"
            )


def check_sanity(trainer: Trainer, classifier: Any) -> None:
    """Check the last batch of validation if Lightning scores it before training; see `check_last_batch`."""
    if trainer.sanity_checking:
        check_last_scored(trainer, classifier, trainer.val_dataloaders, min(trainer.num_sanity_val_batches))


def check_training(trainer: Trainer, classifier: Any) -> None:
    """Refuse what would fail later, once data and optimiser are known, and say what will not settle."""
    check_fused_state(trainer)
    check_schedule(trainer)
    check_last_batches(trainer, classifier)
    tell_unsettled(trainer, classifier)
    tell_missed_start(trainer)


def tell_missed_start(trainer: Trainer) -> None:
    """Say which callbacks miss the start of the epoch within which a fit resumes."""
    for callback in epoch_starters(trainer.callbacks) if trainer.fit_loop.restarted_mid_epoch else ():  # type: ignore[attr-defined]
        name = callback.on_train_epoch_start.__qualname__.partition(".")[0]
        rank_zero_warn(
            f"{name} acts at the start of an epoch, and this fit resumes within one, where Lightning calls it only in "
            "the next: scores may differ from those of an uninterrupted fit"
        )


def check_start(start: Start) -> None:
    """Refuse the digest of a file of weights in place of the file, unless a checkpoint has brought the weights."""
    if not start.loaded:
        raise MisconfigurationException(f"model.weights: {start.digest} is the digest of a file: give the file")


def check_precision(trainer: Trainer, replicates: int) -> None:
    """Refuse a loss scaler for several replicates."""
    if replicates > 1 and getattr(trainer.precision_plugin, "scaler", None) is not None:
        raise MisconfigurationException(
            "16-mixed precision skips a step of all replicates when one overflows: use bf16-mixed, or replicates: 1"
        )


def check_plateau(trainer: Trainer, max_epochs: int | None, val_every: int | None) -> None:
    """Refuse ReduceLROnPlateau if nothing is validated, for example because ``val_every`` exceeds ``max_epochs``."""
    plateau = any(isinstance(config.scheduler, ReduceLROnPlateau) for config in trainer.lr_scheduler_configs)
    never = max_epochs not in (None, -1) and (val_every or 0) > (max_epochs or 0)
    if plateau and (never or not trainer.enable_validation):
        raise MisconfigurationException(
            "ReduceLROnPlateau watches val/loss, and nothing would be validated: see limit_val_batches, "
            "check_val_every_n_epoch and the DataModule's val_dataloader"
        )


def check_schedule(trainer: Trainer, *, study_steps: float | None = None) -> None:
    """Refuse a schedule that ends before training does, unless a callback decides when training ends.

    In a study, training has ``study_steps`` optimiser steps, and a schedule that is too long is also refused, because
    it would be cut off.
    """
    if any(isinstance(callback, OPEN_ENDED) for callback in getattr(trainer, "callbacks", [])):
        return
    for schedule in (config.scheduler for config in trainer.lr_scheduler_configs):
        if not isinstance(schedule, OneCycleLR):
            continue
        length, name = schedule.total_steps, type(schedule).__name__
        steps = trainer.estimated_stepping_batches if study_steps is None else study_steps
        if 0 < steps < float("inf") and (steps > length or (study_steps is not None and steps < length)):
            raise MisconfigurationException(
                f"{name} is {length:,} steps long, and the training {steps:,.0f}: give {name} other total_steps, or "
                "other epochs and steps_per_epoch"
            )


def check_fused_state(trainer: Trainer) -> None:
    """Refuse an optimiser's restored state that does not fit the weights, which torch's fused steps do not check."""
    for optimizer in trainer.optimizers:
        for part in getattr(optimizer, "optimizers", [optimizer]):
            for parameter in (p for group in part.param_groups if group.get("fused") for p in group["params"]):
                values = part.state.get(parameter, {}).values()
                if any(isinstance(v, Tensor) and v.ndim and v.shape != parameter.shape for v in values):
                    raise CheckpointError("the checkpoint is damaged: its optimizer's state does not fit its weights")


def check_last_batches(trainer: Trainer, classifier: Any) -> None:
    """Check the last batch of an epoch of training, and of validation; see `check_last_batch`."""
    check_last_batch(trainer, classifier, trainer.train_dataloader, trainer.num_training_batches, training=True)
    batches = trainer.estimated_stepping_batches * trainer.accumulate_grad_batches
    first = (trainer.val_check_batch or math.inf) * (trainer.check_val_every_n_epoch or 1)
    if trainer.enable_validation and batches >= first:
        check_last_scored(trainer, classifier, trainer.val_dataloaders, trainer.limit_val_batches)


def check_last_scored(trainer: Trainer, classifier: Any, loaders: Any, limit: float) -> None:
    """Check the last batch of loaders of which a Trainer's setting limits the batches; see `check_last_batch`."""
    for loader in loaders if isinstance(loaders, list) else [loaders]:
        try:
            batches = len(loader) * limit if isinstance(limit, float) else limit
        except TypeError:  # it does not tell how many batches it has
            continue
        check_last_batch(trainer, classifier, loader, batches, training=False)


def check_last_batch(trainer: Trainer, classifier: Any, loader: Any, batches: float, *, training: bool) -> None:
    """Refuse a loader's last batch that is too small for the network, as one image is for BatchNorm in training.

    It is not looked at if fewer ``batches`` are taken than the loader has, if the user's own sampler makes them, or if
    it has so many rows that a forward pass would take long.
    """
    sampler: Any = loader if isinstance(loader, RowBatches) else getattr(loader, "batch_sampler", None)
    if type(sampler) not in (RowBatches, BatchSampler):
        return
    try:
        rows, batch_size = loader.rows.shape[1] if sampler is loader else len(sampler.sampler), sampler.batch_size
    except TypeError:  # the rows have no end
        return
    last = 0 if sampler.drop_last or batches < len(loader) else rows % batch_size
    if not 0 < last <= MOST_ROWS:
        return
    network = classifier.engine.replicate(0).train(training)
    hold_statistics(network)
    inputs = torch.zeros(last, *classifier.input_shape, device=classifier.device, dtype=classifier.dtype)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=()):
            network(inputs)
    except torch.OutOfMemoryError:  # the engine knows what to do
        return
    except Exception as error:  # users' classes raise errors of any kind
        is_image_data = isinstance(getattr(trainer, "datamodule", None), ImageData)
        drop = "set data.drop_last to true, or " if is_image_data else "give its DataLoader drop_last=True, or "
        which = f"the last of {len(loader):,} batches" if training else "the last batch that is scored"
        raise MisconfigurationException(
            f"{which} has {last} of {batch_size} rows, with which {network_name(network)} fails: {one_line(error)}; "
            f"{drop if training else ''}choose another batch size"
        ) from error


def unsettled_statistics(network: nn.Module, batches: float) -> str | None:
    """A line if BatchNorm still holds much of its initial statistics after training on so many batches, else None.

    A network scored with them may guess, whatever it has learned. Statistics that came with weights do not count.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
    fresh = [layer.momentum for layer in layers if layer.momentum and starts_fresh(layer)]
    left = max(((1 - momentum) ** batches for momentum in fresh), default=0.0)
    if left < UNSETTLED:
        return None
    return (
        f"{network_name(network)}: BatchNorm with a momentum of {min(fresh):g} still holds {left:.0%} of its initial "
        f"statistics after {batches:,.0f} batches of training, so scores may be those of guessing; train longer, or "
        "raise the momentum"
    )


def starts_fresh(layer: nn.modules.batchnorm._NormBase) -> bool:
    """Whether a normalisation layer updates running statistics that are still those of its construction."""
    mean, variance = layer.running_mean, layer.running_var
    if mean is None or variance is None or not layer.training:
        return False
    return not mean.any() and bool((variance == 1).all())


def tell_unsettled(trainer: Trainer, classifier: Any) -> None:
    """Say what `unsettled_statistics` says of a fit that starts, if its length is known."""
    batches = trainer.estimated_stepping_batches * trainer.accumulate_grad_batches
    if trainer.global_step == 0 and 0 < batches < float("inf") and not getattr(trainer, "fast_dev_run", False):
        line = unsettled_statistics(classifier.engine.replicate(0), batches)
        if line:
            rank_zero_info(line)


def planned_epochs(trainer: Mapping[str, Any], epoch_steps: float) -> float | None:
    """Epochs of a training with these Trainer settings; None if only time or a callback ends it."""
    epochs, steps = trainer.get("max_epochs"), trainer.get("max_steps", -1)
    if epochs is None:  # Lightning's default
        epochs = 1000 if steps == -1 and not trainer.get("max_time") else -1
    return min((limit for limit in (epochs, steps / epoch_steps) if limit >= 0), default=None)
