"""Training and scoring a cell: one fit, one test, a record for each seed."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pytorch_lightning import Callback, Trainer

from actbench import data, records
from actbench.callbacks import BestCheckpoint, Interruption, LastCheckpoint, RunFolder, RunLogger
from actbench.cells.config import CallbackSpec, Cell, DatasetSpec
from actbench.cells.isolation import unchanged_process
from actbench.cells.measurements import Measurements
from actbench.classifier import Classifier
from actbench.processor import choose_threads, keep_memory
from actbench.streams import fixed

SCORES = {"accuracy": "acc", "loss": "loss", "ece": "ece"}
EPOCH_SCORES = {"epoch_train_loss": "train/loss"} | {
    f"epoch_val_{name}": f"val/{short}" for name, short in SCORES.items()
}


def to_records(
    factors: Mapping[str, Any],
    classifier: Classifier,
    *,
    epochs: Sequence[Mapping[str, Any]],
    measured: Mapping[str, Any],
    best: Sequence[int] | None = None,
) -> pl.DataFrame:
    """A row for each replicate of a classifier that was fitted and tested.

    Args:
        factors: What was trained; see `Cell`.
        classifier: It holds the scores on test.
        epochs: Every epoch's scores, as in `RunFolder`.
        measured: State of the fit's `Measurements`.
        best: If the weights scored were each replicate's best, the epochs that they are from.
    """
    test = {name: classifier.evaluated[f"test/{short}"].cpu() for name, short in SCORES.items()}
    trainable = sum(parameter[0].numel() for parameter in classifier.parameters() if parameter.requires_grad)

    def rows() -> Iterator[dict[str, Any]]:
        for place, seed in enumerate(classifier.seeds):
            by_epoch = {
                name: [row["scores"][score][place].item() if score in row["scores"] else None for row in epochs]
                for name, score in EPOCH_SCORES.items()
            }
            scored = best[place] if best else len(epochs) - 1
            final: dict[str, Any] = {f"val_{name}": by_epoch[f"epoch_val_{name}"][scored] for name in SCORES}
            final |= {f"test_{name}": values[place].item() for name, values in test.items()}
            lost = [loss is not None and not np.isfinite(loss) for loss in by_epoch["epoch_val_loss"]]
            yield {
                "cell": records.fingerprint(factors),
                **{name: factors[name]["class_path"] for name in ("network", "activation")},
                "dataset": factors["data"]["class_path"],
                "factors": records.json_text(factors),
                "seed": seed,
                "weights": factors["weights"],
                **final,
                **by_epoch,
                "epochs": len(epochs),
                "diverged": any(lost) or not np.isfinite(final["test_loss"]),
                "diverged_epoch": lost.index(True) if any(lost) else None,
                "classes": classifier.num_classes,
                "parameters": trainable,
                "init_fingerprint": measured["init"][place],
                "order_fingerprint": measured["order"][place] if measured["order"] else None,
                "config": measured["config"],
                **measured["provenance"],
            }

    return records.frame(rows())


def run_cell(cell: Cell, folder: Path, callbacks: Sequence[Callback] = ()) -> pl.DataFrame:
    """Train and score a cell's replicates.

    A checkpoint is kept in the folder while it runs; with one there, it goes on where that was written.

    Args:
        cell: What is trained.
        folder: For the checkpoint; it is the caller's to remove.
        callbacks: More than the config names, such as a progress bar.

    Returns:
        Records, a row for each seed.
    """
    with unchanged_process(cell.seeds[0]), fixed(cell.fixed, cell.fixed_seed):
        measured = Measurements(cell)
        run = RunFolder(logger=RunLogger(folder.parent, name="", version=folder.name))
        best = [BestCheckpoint()] if cell.weights == "best" else []
        settings = dict(cell.config["trainer"])
        own = [CallbackSpec(value)() for value in settings.pop("callbacks")]
        trainer = Trainer(
            **settings,
            callbacks=[*own, run, *best, LastCheckpoint(), Interruption(lambda path, _: None), measured, *callbacks],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        datamodule = DatasetSpec(cell.config["data"]).build(cell.seeds)
        if isinstance(datamodule, data.ImageData):
            datamodule.prepare_data()
            datamodule.setup()
        classifier = Classifier(
            **cell.config["model"],
            replicates=len(cell.seeds),
            seed=cell.seeds[0],
            input_shape=data.input_shape(datamodule),
            num_classes=data.num_classes(datamodule),
        )
        keep_memory()
        choose_threads(trainer, classifier, datamodule)
        last = folder / "checkpoints" / "last.ckpt"
        ckpt_path = str(last) if last.exists() else None
        trainer.fit(classifier, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
        if best:
            classifier.stack.network.load_state_dict(best[0].weights)
        trainer.test(classifier, datamodule=datamodule, verbose=False)
        chosen = best_epochs(best[0].state_dict()) if best else None
        return to_records(cell.factors, classifier, epochs=run.epochs, measured=measured.state_dict(), best=chosen)


def best_epochs(state: Mapping[str, Any]) -> list[int]:
    """From `BestCheckpoint`'s state, each replicate's epoch; the first for one whose loss was never finite."""
    return [max(0, epoch) for epoch in state["epoch"].tolist()]
