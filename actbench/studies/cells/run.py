"""Training and scoring a cell: one fit, one test, a record for each seed."""

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import ProgressBar, WeightAveraging
from pytorch_lightning.plugins.environments import ClusterEnvironment, LightningEnvironment  # type: ignore[attr-defined]
from pytorch_lightning.utilities.model_helpers import is_overridden
from typing_extensions import override

from actbench import records
from actbench.data import SEED
from actbench.seeding import shared_sources, unchanged_generators
from actbench.studies.cells.cell import Cell
from actbench.studies.cells.code import check_planned
from actbench.studies.cells.measurements import Measurements, curves
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
from actbench.training.threads import choose_threads, prepare_process

METRICS = {"accuracy": "acc", "loss": "loss", "ece": "ece"}  # the metric that is logged, by its name in columns
FINAL_SCORES = {f"{split}_{name}": f"{split}/{metric}" for split in ("val", "test") for name, metric in METRICS.items()}
EPOCH_SCORES = {
    "epoch_train_loss": "train/loss",
    **{f"epoch_val_{name}": f"val/{metric}" for name, metric in METRICS.items()},
}


def to_records(
    factors: Mapping[str, Any],
    classifier: Classifier,
    *,
    epochs: Sequence[Mapping[str, Any]],
    measured: Mapping[str, Any],
) -> pl.DataFrame:
    """A row for each replicate of a classifier that was fitted and tested.

    A replicate that stopped early has its own epochs only, as if it had been trained
    alone. ``epochs`` are those of `RunFolder`, and ``measured`` is the state of the fit's `Measurements`.
    """
    shared = {
        "cell": records.fingerprint(factors),
        **{name: factors[name]["class_path"] for name in ("network", "activation")},
        "dataset": factors["data"]["class_path"],
        "factors": records.json_text(factors),
        "weights": factors["weights"],
        "classes": classifier.num_classes,
        "parameters": sum(p.numel() for p in classifier.engine.replicate(0).parameters() if p.requires_grad),
        "config": measured["config"],
        **measured["provenance"],
    }

    def row(replicate: int, seed: int, curve: Mapping[str, Any]) -> dict[str, Any]:
        def score(scores: Mapping[str, Any], metric: str) -> float | None:
            return None if scores.get(metric) is None else scores[metric][replicate].item()

        trained = [epoch["scores"] for epoch in epochs if epoch["trained"][replicate]]
        by_epoch = {name: [score(scores, metric) for scores in trained] for name, metric in EPOCH_SCORES.items()}
        final: dict[str, Any] = {name: score(classifier.evaluated, metric) for name, metric in FINAL_SCORES.items()}
        labels = classifier.labels["val"][replicate].tolist() if "val" in classifier.labels else []
        diverged = [loss is not None and not np.isfinite(loss) for loss in by_epoch["epoch_val_loss"]]
        return {
            **shared,
            "seed": seed,
            **final,
            "val_rows": int(sum(labels)) if any(labels) else None,
            "val_guess": max(labels) / sum(labels) if any(labels) else None,
            **by_epoch,
            "epochs": len(trained),
            "diverged": any(diverged) or not np.isfinite(final["test_loss"]),
            "diverged_epoch": diverged.index(True) if any(diverged) else None,
            **curve,
            **(classifier.mechanism.columns(replicate, len(trained)) if classifier.mechanism else {}),
            "init_fingerprint": measured["init"][replicate],
            "order_fingerprint": measured["order"][replicate] if measured["order"] else None,
        }

    return records.to_frame(map(row, range(len(classifier.seeds)), classifier.seeds, curves(classifier)))


class CellCLI(BenchCLI):
    """LightningCLI for a cell: a fit with the study's callbacks after the config's; all write to the study's folder."""

    def __init__(self, cell: Cell, folder: Path, callbacks: Sequence[Callback]) -> None:
        self.folder, self.callbacks = folder, callbacks
        super().__init__("fit", cell.fit)

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        given = [callback for callback in self.own_callbacks() if not isinstance(callback, ProgressBar)]
        plugins = self.config_init.trainer.plugins or []
        plugins = [*plugins] if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, ClusterEnvironment) for plugin in plugins):
            plugins.append(LightningEnvironment())  # alone, also where SLURM has started several processes
        return super().instantiate_trainer(
            callbacks=[*given, *self.callbacks],
            plugins=plugins,
            logger=False,
            default_root_dir=str(self.folder),
            enable_progress_bar=False,
            enable_model_summary=False,
        )


def run_cell(
    cell: Cell, folder: Path, callbacks: Sequence[Callback] = (), *, copy: CheckpointCopy | None = None
) -> pl.DataFrame:
    """Train and score a cell's replicates; returns their records, a row for each seed.

    While it runs, a cell keeps a checkpoint in its folder. It resumes from a
    checkpoint in the folder unless that is damaged. The caller removes the folder
    and the copy.

    Args:
        cell: Replicates to train together.
        folder: Folder for the checkpoint.
        callbacks: Callbacks besides those of the config, such as a progress bar.
        copy: A copy of the checkpoint elsewhere, which replaces the folder's if it exists.
    """
    with unchanged_process(SEED), shared_sources(cell.sharing):
        measured = Measurements(cell.fit)
        run = RunFolder(logger=RunLogger(folder.parent, name="", version=folder.name))
        best = [BestCheckpoint()] if cell.weights == "best" else []
        interruption = Interruption(lambda path, _: None)
        added = [run, *best, LastCheckpoint(copy=copy), interruption, measured, *callbacks]
        cli = CellCLI(cell, folder / "callbacks", added)
        trainer, classifier, datamodule = cli.trainer, cli.model, cli.datamodule
        if classifier.start.digest != cell.factors.get("initial_weights"):
            raise ValueError(
                f"model.weights: {cell.config['model']['weights']} has changed since the study was planned"
            )
        check_planned(cell.factors.get("code", {}))
        classifier.engine_reason = cell.engine_reason or classifier.engine_reason
        prepare_process()
        choose_threads(trainer, classifier, datamodule)
        last = folder / "checkpoints" / "last.ckpt"
        if copy:
            copy.get(last)
        trainer.fit(classifier, datamodule=datamodule, ckpt_path=readable_checkpoint(last), weights_only=True)
        end_if_interrupted(trainer, interruption)  # after the last batch
        # In a validation, WeightAveraging would put its average in place of the weights that are scored.
        trainer.callbacks[:] = [c for c in trainer.callbacks if not isinstance(c, WeightAveraging)]  # type: ignore[attr-defined]
        if best:
            if not best[0].weights:
                raise ValueError("study.weights is best, and nothing was validated")
            classifier.engine.load_state_dict(best[0].weights)
        if is_overridden("val_dataloader", datamodule):
            # The fit may not have validated these weights: it need not validate every epoch.
            trainer.validate(classifier, datamodule=datamodule, verbose=False)
            end_if_interrupted(trainer, interruption)
        trainer.test(classifier, datamodule=datamodule, verbose=False)
        end_if_interrupted(trainer, interruption)
        return to_records(cell.factors, classifier, epochs=run.epochs, measured=measured.state_dict())


def end_if_interrupted(trainer: Trainer, interruption: Interruption) -> None:
    """Raise SystemExit if a signal to end came while Lightning did what it does not break off for one."""
    if interruption.signal is not None or trainer.received_sigterm:
        raise SystemExit(128 + (interruption.signal or signal.SIGTERM))


def readable_checkpoint(checkpoint: Path) -> Path | None:
    """The checkpoint, or None if it does not exist; a damaged checkpoint is removed, so that its cell starts over."""
    if checkpoint.exists():
        try:
            checkpoints.load_checkpoint(checkpoint)
        except checkpoints.CheckpointError:
            checkpoint.unlink()
    return checkpoint if checkpoint.exists() else None


@contextmanager
def unchanged_process(seed: int) -> Iterator[None]:
    """Restore this process after a cell: generators, determinism, threads, signal handlers, environment variables."""
    threads = torch.get_num_threads()
    handlers = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
    }  # Lightning leaves its own
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)  # a study prints lines of its own
        with patch.dict(os.environ), unchanged_generators(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"pytorch_lightning\..*")
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            seed_everything(seed, verbose=False)
            yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        logger.setLevel(level)
