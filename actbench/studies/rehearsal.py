"""Rehearsing a study: one batch of each arm through training, validation and test before anything is trained."""

import math
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import BatchSizeFinder, LearningRateFinder
from torch import Tensor
from typing_extensions import override

from actbench.data import read_batch
from actbench.specs import one_line, without
from actbench.studies.cells import Cell, ChosenEngine, kind_of, run_cell
from actbench.studies.definition import StudyError
from actbench.studies.executors import FULL
from actbench.studies.grid import short_name
from actbench.studies.plan import Plan
from actbench.training import preflight
from actbench.training.classifier import Classifier


def rehearse(
    plan: Plan,
    say: Callable[[str], None],
    engines: dict[str, ChosenEngine] | None = None,
    epoch_steps: dict[str, float] | None = None,
) -> dict[str, float]:
    """Train, validate and test one batch of every arm on each dataset and network of the missing cells.

    Args:
        plan: What a study wants.
        say: Gets lines, some of them for each arm again: of any two arms whose activations give the same outputs, bit
            for bit, of arms that no stack can train, of a network that activations are swapped into, of weights that
            were loaded from a file or scaled, of running statistics that will not settle, and of callbacks that would
            mix seeds.
        engines: Gets the engine for each kind of cell; see `actbench.studies.cells.kind_of`.
        epoch_steps: What earlier rehearsals returned: cells in it are not rehearsed again.

    Returns:
        Optimiser steps of an epoch by the cell's hash, added to ``epoch_steps``; NaN if the number of batches is not
        known.

    Raises:
        StudyError: A cell cannot run.
    """
    engines = {} if engines is None else engines
    epoch_steps = {} if epoch_steps is None else epoch_steps
    names = {entry.cell.hash: entry.arm for entry, _ in plan.wanted}
    rehearsed = dict[str, list[tuple[Cell, Tensor]]]()  # cells and outputs, by data and network
    for cell in plan.missing:
        if cell.hash in epoch_steps:
            continue
        kind, network = kind_of(cell), short_name(cell.config["model"]["network"])
        watch = rehearse_cell(cell, f"{names[cell.hash]} in {network}")
        epoch_steps[cell.hash] = watch.epoch_steps
        for reason in cell.mixing if len(cell.seeds) > 1 else ():
            say(f"{reason}, so each seed is trained alone")
        if cell.config["trainer"].get("max_time"):
            say("trainer.max_time ends fits by the clock: no run repeats, and arms may train for more or fewer epochs")
        for line in watch.start:
            say(line)
        if watch.swap:
            say(f"{network}: {watch.swap}")
        engines.setdefault(kind, watch.engine)
        if engines[kind].name != watch.engine.name:
            engines[kind] = next(each for each in (engines[kind], watch.engine) if each.name == "sequence")
            say(f"{network}: all arms are trained one after another, because {engines[kind].reason}")
        alike = rehearsed.setdefault(kind, [])
        for twin in same_outputs(alike, cell, watch.outputs):
            say(f"{names[twin.hash]} and {names[cell.hash]} give the same outputs bit for bit in {network}")
        alike.append((cell, watch.outputs))
    return epoch_steps


def rehearse_cell(cell: Cell, title: str) -> "Rehearsal":
    """What a cell does with one batch of each part; a StudyError, which begins with the title, if it cannot run."""
    watch = Rehearsal(cell)
    try:
        with tempfile.TemporaryDirectory() as folder:
            run_cell(shortened(cell), Path(folder, "rehearsal"), [watch])
    except Exception as error:  # of any kind, in the user's code
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        needs_logger = re.search("has no logger|logger=False", str(error))
        hint = "; a study has no logger, so leave it out there" if needs_logger else ""
        raise StudyError(f"{title}: {one_line(error)}{hint}") from error
    return watch


def same_outputs(rehearsed: Sequence[tuple[Cell, Tensor]], cell: Cell, outputs: Tensor) -> Iterator[Cell]:
    """Rehearsed cells with another activation and the same outputs before and after a step, bit for bit."""
    for other, others in rehearsed:
        differs = other.config["model"]["activation"] != cell.config["model"]["activation"]
        if differs and torch.equal(others, outputs):
            yield other


def shortened(cell: Cell) -> Cell:
    """A cell with one training step, one batch of val and test, and at most two replicates."""
    trainer = without(cell.config["trainer"], "min_epochs", "min_steps", "max_time", "overfit_batches")
    trainer |= {"max_epochs": 1, "max_steps": 1, "check_val_every_n_epoch": 1, "val_check_interval": 1}
    trainer |= {"limit_test_batches": 1, "num_sanity_val_steps": 0}
    if trainer.get("limit_val_batches") != 0:
        trainer["limit_val_batches"] = 1
    seeds = cell.seeds[: 1 if cell.mixing else 2]
    return replace(cell, config={**cell.config, "trainer": trainer}, seeds=seeds)


class Rehearsal(Callback):
    """Checks that a cell would run to its end, and keeps its first outputs.

    Raises Lightning's MisconfigurationException for a schedule that does not fit
    the cell's length.
    """

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.settings = cell.config["trainer"]
        self.inputs = self.outputs = torch.empty(0)
        self.epoch_steps = math.nan
        self.start: Sequence[str] = ()  # what was loaded, scaled, and will not settle, in lines

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, (BatchSizeFinder, LearningRateFinder)):
                raise ValueError(
                    f"{type(callback).__name__} chooses a setting for each arm, which no record names: find it by a "
                    "fit, and give it in the config"
                )

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classifier = cast(Classifier, pl_module)
        self.start = classifier.start.report
        self.engine = ChosenEngine(classifier.engine.name, str(classifier.engine_reason))
        self.swap = classifier.swap.text if classifier.swap else ""
        max_epochs = self.settings.get("max_epochs")
        preflight.check_plateau(trainer, max_epochs, self.settings.get("check_val_every_n_epoch", 1))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch_steps = -(-trainer.num_training_batches // trainer.accumulate_grad_batches)
        epochs = preflight.planned_epochs(self.settings, self.epoch_steps)
        preflight.check_schedule(trainer, study_steps=0 if epochs is None else epochs * self.epoch_steps)
        classifier = cast(Classifier, pl_module)
        batches = (epochs or 0) * trainer.num_training_batches
        unsettled = preflight.unsettled_statistics(classifier.engine.replicate(0), batches) if batches else None
        self.start = [*self.start, *filter(None, [unsettled])]

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.inputs = read_batch(batch, cast(Classifier, pl_module).batch_keys).inputs
            self.outputs = self._outputs(pl_module)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = [*self.start, *filter(None, [cast(Classifier, pl_module).scaling.report])]
        # Also after a step: before it, a last layer may be 0, and what is random in training has no effect.
        self.outputs = torch.stack([self.outputs, self._outputs(pl_module)])

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        limit = self.settings.get("overfit_batches") or self.settings.get("limit_val_batches")
        preflight.check_last_scored(trainer, pl_module, trainer.val_dataloaders, 1.0 if limit is None else limit)

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        limit = self.settings.get("limit_test_batches")
        preflight.check_last_scored(trainer, pl_module, trainer.test_dataloaders, 1.0 if limit is None else limit)

    def _outputs(self, module: LightningModule) -> Tensor:
        training = module.training
        module.eval()
        with torch.no_grad():
            outputs: Tensor = module(self.inputs).cpu()
        module.train(training)
        return outputs
