"""The choice of whether the steps of a training are compiled."""

from typing import Any

from pytorch_lightning import Trainer

from actbench.training import preflight
from actbench.training.engines import Stack, compiling_pays


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
