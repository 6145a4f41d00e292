"""What is fastest on a device: the engine, the form of each convolution, and whether steps are compiled."""

from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_info

from actbench.training import preflight
from actbench.training.engines import Engine, Stack, choose, compiling_pays
from actbench.training.engines.stack.convolution import Layer


def choose_engine(classifier: Any, device: torch.device, batch: int) -> None:
    """Choose the engine for a device and a size of batches, if it was left to choose and has not been chosen."""
    if classifier.engine_reason is None:
        classifier.engine, classifier.engine_reason = choose(
            classifier.engine,
            batch=batch,
            device=device,
            optimizer=classifier.optimizer,
            width=classifier.stack_width,
        )
        classifier.engine.train(classifier.training)
        if len(classifier.seeds) > 1:
            rank_zero_info(f"engine: {classifier.engine.name}; {classifier.engine_reason}")


def choose_convolutions(trainer: Trainer, classifier: Any) -> None:
    """On one GPU, choose the form of a stack's convolutions, unless the run is resumed with those of its start."""
    engine, device = classifier.engine, classifier.device
    if isinstance(engine, Stack) and engine.unfolded is None and device.type == "cuda" and trainer.world_size == 1:
        images = torch.ones(preflight.batch_size(trainer), *classifier.input_shape, device=device)
        with trainer.precision_plugin.train_step_context():
            engine.choose_convolutions(images.to(classifier.dtype))


def plain_convolutions(engine: Engine) -> list[list[list[int]]] | None:
    """The layers of `choose_convolutions` in plain values, for a checkpoint; None if none were chosen."""
    layers = getattr(engine, "unfolded", None)
    return layers if layers is None else [[*map(list, layer)] for layer in sorted(layers)]


def restore_convolutions(engine: Engine, layers: list[list[list[int]]] | None) -> None:
    """Undo `plain_convolutions`."""
    if isinstance(engine, Stack) and layers is not None:
        engine.unfolded = {Layer(*map(tuple, layer)) for layer in layers}  # type: ignore[arg-type]


def choose_compiling(trainer: Trainer, classifier: Any) -> None:
    """Compile a classifier's training steps if that was asked for, or if it pays; EngineError if it is impossible."""
    if classifier.compiles == "auto":
        steps = trainer.estimated_stepping_batches * trainer.accumulate_grad_batches
        reason = reason_to_compile(trainer, classifier, steps, len(classifier.seeds))
        classifier.compiles = reason is not None
        if reason:
            classifier.engine_reason = f"{classifier.engine_reason}; {reason}"
    if classifier.compiles:
        classifier.engine.compile_steps()


def reason_to_compile(trainer: Trainer, classifier: Any, steps: float, replicates: int) -> str | None:
    """Why compiling would save time in trainings with so many steps and replicates; None if it would not."""
    if not isinstance(classifier.engine, Stack) or trainer.world_size > 1:
        return None
    return compiling_pays(
        classifier.engine,
        replicates=replicates,
        batch=preflight.batch_size(trainer),
        steps=steps,
        device=classifier.device,
        dtype=classifier.dtype,
    )
