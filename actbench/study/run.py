"""Running what a study lacks."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from filelock import FileLock, Timeout
from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from actbench.cells import Cell, run_cell
from actbench.executors import Executor, Failure, InProcess
from actbench.progress import Progress, fitting_progress
from actbench.records import write_records
from actbench.study.definition import Study
from actbench.study.grid import short_name
from actbench.study.plan import Plan, check_data, collect, make_plan, store_of


class MissingError(RuntimeError):
    """A study has ended without all of its records; what is finished is kept. One line."""


def compare(
    study: Study | Mapping[str, Any],
    *,
    progress: Progress | None = None,
    work: Callable[[tuple[Cell, Path]], pl.DataFrame] | None = None,
) -> pl.DataFrame:
    """Run what a study lacks, and return its records, a row for each replicate.

    Args:
        study: A `Study`, or what a study file holds.
        progress: What is said meanwhile; unless given, bars in a terminal and lines elsewhere.
        work: What trains a cell in its folder, if not `run_cell`.

    Returns:
        Columns of `actbench.records.COLUMNS`, and ``arm``, ``dataset_name``, ``network_name``.

    Raises:
        StudyError: The study makes no sense, or a dataset is not there.
        MissingError: Cells have failed.
    """
    study = study if isinstance(study, Study) else Study.of(study)
    check_data(make_plan(study))  # what makes no sense is refused before anything is written
    folder = Path(study.root, study.name)
    folder.mkdir(parents=True, exist_ok=True)
    progress = progress or fitting_progress()
    collect(study, make_plan(study), progress.say)  # so that what is damaged is missing
    plan = make_plan(study)
    executor = study.make_executor()
    if work is None:
        work = partial(train, progress=progress) if isinstance(executor, InProcess) else train
    with progress:
        failures = run_missing(study, plan, executor, progress, work)
    table = collect(study, make_plan(study), progress.say)
    (folder / "study.yaml").write_text(yaml.safe_dump(study.to_config(), sort_keys=False))
    if len(table):
        write_records(folder / "records.parquet", table)
    if failures:
        raise MissingError(
            f"{len(failures)} cells are missing: {'; '.join(failures)}; the same command tries them again"
        )
    return table


class Epochs(Callback):
    """Tells of a cell's epochs."""

    def __init__(self, name: str, progress: Progress) -> None:
        self.name, self.progress = name, progress

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.progress.epoch(self.name, trainer.current_epoch + 1, trainer.max_epochs)


def train(task: tuple[Cell, Path], progress: Progress | None = None) -> pl.DataFrame:
    """Run a cell in its folder, and remove that."""
    cell, folder = task
    name = f"{short_name(cell.config['model']['activation'])} seeds {cell.seeds[0]}-{cell.seeds[-1]}"
    table = run_cell(cell, folder, [Epochs(name, progress)] if progress else [])
    shutil.rmtree(folder, ignore_errors=True)
    return table


def run_missing(
    study: Study,
    plan: Plan,
    executor: Executor,
    progress: Progress,
    work: Callable[[tuple[Cell, Path]], pl.DataFrame],
) -> list[str]:
    """Run cells until none is missing; returns what has failed. Another process may run some of them."""
    root, store = Path(study.root), store_of(study)
    running = root / "running"
    running.mkdir(parents=True, exist_ok=True)
    locks: dict[str, FileLock] = {}
    labels = {entry.hash: entry.label for entry in plan.entries}
    waiting, failures = list(plan.missing), list[str]()
    progress.begin(len(waiting), sum(len(cell.seeds) for cell in waiting))

    def tasks() -> Iterator[tuple[Cell, Path]]:
        while waiting:
            for cell in list(waiting):
                path = store.path(cell.hash, cell.seeds)
                lock = FileLock(running / f"{path.stem}.lock")
                try:
                    lock.acquire(blocking=False)
                except Timeout:
                    continue
                waiting.remove(cell)
                if path.exists():  # another process was quicker
                    lock.release()
                    continue
                locks[path.stem] = lock
                yield cell, running / path.stem
                break
            else:
                if waiting:
                    time.sleep(0.5)

    results = executor.run(work, tasks())
    try:
        for (cell, folder), result in results:
            label = f"{labels[cell.hash]} seeds {cell.seeds[0]}-{cell.seeds[-1]}"
            if isinstance(result, Failure):
                failures.append(f"{label}: {result}")
                progress.end_cell(f"{failures[-1]} (failed)", len(cell.seeds))
            else:
                store.write(result)
                accuracy: Any = result["val_accuracy"].mean()
                progress.end_cell(f"{label}: val accuracy {accuracy:.4f}", len(cell.seeds))
            locks.pop(folder.name).release()
    finally:
        results.close()  # type: ignore[attr-defined]
        for lock in locks.values():
            lock.release()
    return failures
