"""Training and scoring a cell: one fit, one test, a record for each seed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ProgressBar, WeightAveraging
from pytorch_lightning.utilities.model_helpers import is_overridden
from typing_extensions import override

from actbench import records
from actbench.data import SEED
from actbench.seeding import fixed
from actbench.studies.cells.cell import Cell
from actbench.studies.cells.curves import curves
from actbench.studies.cells.isolation import unchanged_process
from actbench.studies.cells.measurements import Measurements
from actbench.training import checkpoints
from actbench.training.callbacks import (
    BestCheckpoint,
    CheckpointCopy,
    Interruption,
    LastCheckpoint,
    RunFolder,
    RunLogger,
)
from actbench.training.classifier import Classifier
from actbench.training.config import BenchCLI
from actbench.training.threads import choose_threads, keep_memory

SCORES = {"accuracy": "acc", "loss": "loss", "ece": "ece"}
EPOCH_SCORES = {"epoch_train_loss": "train/loss", **{f"epoch_val_{name}": f"val/{of}" for name, of in SCORES.items()}}
FINAL_SCORES = {f"{part}_{name}": f"{part}/{of}" for part in ("val", "test") for name, of in SCORES.items()}


def to_records(
    factors: Mapping[str, Any],
    classifier: Classifier,
    *,
    epochs: Sequence[Mapping[str, Any]],
    measured: Mapping[str, Any],
) -> pl.DataFrame:
    """A row for each replicate of a classifier that was fitted and tested.

    A replicate that was stopped early has the epochs up to then, as if it had been
    alone. Each epoch's scores are as in `RunFolder`, and ``measured`` is the state
    of the fit's `Measurements`.
    """
    shared = {
        "cell": records.fingerprint(factors),
        **{name: factors[name]["class_path"] for name in ("network", "activation")},
        "dataset": factors["data"]["class_path"],
        "factors": records.json_text(factors),
        "weights": factors["weights"],
        "classes": classifier.num_classes,
        "parameters": sum(values[0].numel() for values in classifier.parameters() if values.requires_grad),
        "config": measured["config"],
        **measured["provenance"],
    }

    def row(place: int, seed: int, shape: Mapping[str, Any]) -> dict[str, Any]:
        def score(scores: Mapping[str, Any], name: str) -> float | None:
            return None if scores.get(name) is None else scores[name][place].item()

        trained = [epoch["scores"] for epoch in epochs if epoch["trained"][place]]
        by_epoch = {name: [score(scores, short) for scores in trained] for name, short in EPOCH_SCORES.items()}
        final: dict[str, Any] = {name: score(classifier.evaluated, short) for name, short in FINAL_SCORES.items()}
        lost = [loss is not None and not np.isfinite(loss) for loss in by_epoch["epoch_val_loss"]]
        return {
            **shared,
            "seed": seed,
            **final,
            **by_epoch,
            "epochs": len(trained),
            "diverged": any(lost) or not np.isfinite(final["test_loss"]),
            "diverged_epoch": lost.index(True) if any(lost) else None,
            **shape,
            "init_fingerprint": measured["init"][place],
            "order_fingerprint": measured["order"][place] if measured["order"] else None,
        }

    shapes = zip(classifier.seeds, curves(classifier), strict=True)
    return records.frame(row(place, seed, shape) for place, (seed, shape) in enumerate(shapes))


class CellCLI(BenchCLI):
    """LightningCLI for a cell: a fit with the study's callbacks after its own, which write to the study's folder."""

    def __init__(self, cell: Cell, folder: Path, callbacks: Sequence[Callback]) -> None:
        self.folder, self.callbacks = folder, callbacks
        super().__init__("fit", cell.fit)

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        own = [callback for callback in self.own_callbacks() if not isinstance(callback, ProgressBar)]
        return super().instantiate_trainer(
            callbacks=[*own, *self.callbacks],
            logger=False,
            default_root_dir=str(self.folder),
            enable_progress_bar=False,
            enable_model_summary=False,
        )


def run_cell(
    cell: Cell, folder: Path, callbacks: Sequence[Callback] = (), *, copy: CheckpointCopy | None = None
) -> pl.DataFrame:
    """Train and score a cell's replicates; returns their records, a row for each seed.

    A cell keeps a checkpoint in its folder while it runs, and resumes from the
    checkpoint that it finds there, unless that is damaged. The caller removes the
    folder and the copy.

    Args:
        cell: The cell.
        folder: Folder for the checkpoint.
        callbacks: Callbacks besides those of the config, such as a progress bar.
        copy: A second place for the checkpoint, from which it is taken if it is found there.
    """
    with unchanged_process(SEED), fixed(cell.fixed, cell.fixed_seed):
        measured = Measurements(cell.fit)
        run = RunFolder(logger=RunLogger(folder.parent, name="", version=folder.name))
        best = [BestCheckpoint()] if cell.weights == "best" else []
        interruption = Interruption(lambda path, _: None)
        kept = [run, *best, LastCheckpoint(copy=copy), interruption, measured]
        cli = CellCLI(cell, folder / "callbacks", [*kept, *callbacks])
        trainer, classifier, datamodule = cli.trainer, cli.model, cli.datamodule
        keep_memory()
        choose_threads(trainer, classifier, datamodule)
        last = folder / "checkpoints" / "last.ckpt"
        if copy:
            copy.get(last)
        trainer.fit(classifier, datamodule=datamodule, ckpt_path=readable_checkpoint(last), weights_only=True)
        if interruption.signal is not None:  # came too late for a batch to end after it
            raise SystemExit(128 + interruption.signal)
        # It would put its average in place of the weights that are scored, while they are validated.
        trainer.callbacks[:] = [of for of in trainer.callbacks if not isinstance(of, WeightAveraging)]  # type: ignore[attr-defined]
        if best:
            if not best[0].weights:
                raise ValueError("each replicate's best weights are asked for, and nothing was validated")
            classifier.stack.network.load_state_dict(best[0].weights)
        if is_overridden("val_dataloader", datamodule):
            # The fit's latest scores need not be these weights': not every epoch may have been validated.
            trainer.validate(classifier, datamodule=datamodule, verbose=False)
        trainer.test(classifier, datamodule=datamodule, verbose=False)
        return to_records(cell.factors, classifier, epochs=run.epochs, measured=measured.state_dict())


def readable_checkpoint(checkpoint: Path) -> Path | None:
    """The checkpoint, if it exists; a damaged one is removed, so that its cell starts over."""
    if checkpoint.exists():
        try:
            checkpoints.load_checkpoint(checkpoint)
        except checkpoints.CheckpointError:
            checkpoint.unlink()
    return checkpoint if checkpoint.exists() else None
