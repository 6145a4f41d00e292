"""What is fastest on a device: the form of each convolution, and whether steps are compiled."""

from typing import Any

import torch
from pytorch_lightning import Trainer

from actbench.training import preflight
from actbench.training.engines import Engine, Stack, compiling_pays
from actbench.training.engines.stack.convolution import Layer


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
