"""Training the missing cells of a study on an executor."""

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock, Timeout
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import LambdaCallback

from actbench.records import Store
from actbench.studies.cells import Cell, ChosenEngine, run_cell, trained_cells
from actbench.studies.definition import Study
from actbench.studies.executors import Executor, Failure
from actbench.studies.grid import PlanCache, short_name
from actbench.studies.plan import Plan, Wanted, make_plan, read_wanted, study_store
from actbench.studies.progress import Progress, without_repeats
from actbench.studies.rehearsal import rehearse
from actbench.training.callbacks import CheckpointCopy

Work = Callable[[tuple[Cell, Path]], pl.DataFrame]
SHOWN = 300  # most characters of a failure's message


class MissingError(RuntimeError):
    """A study, or a part such as its tuning, ended without all of its records; finished cells are kept."""

    def __init__(self, failures: Sequence[str], what: str = "the study") -> None:
        cells = "a cell has" if len(failures) == 1 else f"{len(failures)} cells have"
        super().__init__(f"{what} is not finished: {cells} failed; the same command tries again")
        self.failures = failures


@dataclass(frozen=True)
class RunContext:
    """The executor, progress and shared state of a running study."""

    executor: Executor
    progress: Progress
    work: Work
    troubles: list[str] = field(default_factory=list)  # cells that were tried again or failed, and why
    known: PlanCache = field(default_factory=PlanCache)
    engines: dict[str, ChosenEngine] = field(default_factory=dict)  # by the kind of cell; see `rehearse`
    epoch_steps: dict[str, float] = field(default_factory=dict)  # by the hash of each rehearsed cell

    @cached_property
    def say_once(self) -> Callable[[str], None]:
        """Says each line once."""
        return without_repeats(self.progress.say)

    def rehearse(self, plan: Plan) -> None:
        """Rehearse the missing cells of a plan that were not rehearsed before; see `rehearse`."""
        rehearse(plan, self.say_once, self.engines, self.epoch_steps)


def run_wanted(
    study: Study, wanted: Sequence[Wanted], context: RunContext, *, announce: bool = False, what: str = "the study"
) -> None:
    """Run the missing cells of the wanted records; with ``announce``, say first how many replicates are cached.

    Raises a MissingError, which names ``what`` as the unfinished part, when cells have failed.
    """
    read_wanted(study, wanted, context.progress.say)  # sets damaged files aside, so that their cells are missing
    plan = make_plan(study, wanted)
    if announce and plan.cached:
        total = sum(len(seeds) for _, seeds in wanted)
        rest = "" if plan.missing else "; nothing was missing"
        context.progress.say(f"{plan.cached:,} of {total:,} replicates cached{rest}")
    cells = [each for cell in plan.missing for each in trained_cells(cell, context.engines)]
    cells.sort(key=lambda cell: cell.seeds[0])  # so that arms also take turns where each seed is trained alone
    plan = plan._replace(missing=cells)
    failures = run_missing(study, plan, context) if plan.missing else []
    if failures:
        raise MissingError(failures, what)


def train(task: tuple[Cell, Path], progress: Progress | None = None, checkpoints: str | None = None) -> pl.DataFrame:
    """Run a cell in its folder, which is removed afterwards; copy its checkpoint to ``checkpoints`` while it runs."""
    cell, folder = task
    copy = CheckpointCopy(f"{checkpoints.rstrip('/')}/{folder.parent.name}/{folder.name}.ckpt") if checkpoints else None
    name = f"{short_name(cell.config['model']['activation'])} seeds {cell.seed_span}"

    def show_epoch(trainer: Trainer, _: LightningModule) -> None:
        if progress:
            progress.epoch(name, trainer.current_epoch + 1, trainer.max_epochs)

    table = run_cell(cell, folder, [LambdaCallback(on_train_epoch_end=show_epoch)], copy=copy)
    shutil.rmtree(folder, ignore_errors=True)
    if copy:
        copy.remove()
    return table


def run_missing(study: Study, plan: Plan, context: RunContext) -> list[str]:
    """Run a plan's missing cells, some of which another process may run; returns the failures.

    Raises OSError when the disk is full.
    """
    store, progress = study_store(study), context.progress
    locks: dict[str, FileLock] = {}
    labels = {entry.cell.hash: entry.label for entry, _ in plan.wanted}
    failures = list[str]()
    progress.begin(len(plan.missing), plan.missing_replicates)

    def label(cell: Cell) -> str:
        return f"{labels[cell.hash]} seeds {cell.seed_span}"

    def tasks() -> Iterator[tuple[Cell, Path] | None]:
        for task in claim_cells(plan.missing, store, Path(study.root, "running"), locks):
            progress.running(len(locks), context.executor.where())
            yield task

    def report_retry(task: tuple[Cell, Path], line: str) -> None:
        progress.retried += 1
        context.troubles.append(f"{label(task[0])}: {line}")
        progress.say(context.troubles[-1])

    results = context.executor.run(context.work, tasks(), report=report_retry)
    try:
        for (cell, folder), result in results:
            line = label(cell)
            if isinstance(result, Failure):
                if result.full:
                    raise result.full
                reason = str(result)
                failures.append(f"{line}: {reason[:SHOWN]}{'...' if len(reason) > SHOWN else ''}")
                context.troubles.append(failures[-1])
                line = f"{failures[-1]} (failed)"
            else:
                store.write(result)
                if os.name == "posix":  # a process that waits for the lock then finds the cell finished
                    Path(locks[folder.name].lock_file).unlink(missing_ok=True)
                accuracy: Any = result["val_accuracy"].mean()
                line += "" if accuracy is None else f": val accuracy {accuracy:.4f}"
            locks.pop(folder.name).release()
            progress.running(len(locks), context.executor.where())
            progress.end_cell(line, len(cell.seeds))
    finally:
        results.close()  # type: ignore[attr-defined]
        for lock in locks.values():
            lock.release()
    return failures


def claim_cells(
    cells: Sequence[Cell], store: Store, running: Path, locks: dict[str, FileLock]
) -> Iterator[tuple[Cell, Path] | None]:
    """Lock and yield cells that no other process runs or has finished, with folders; None if others run all the rest.

    A cell's lock is added to ``locks`` by its folder's name, for the caller to release.
    """
    running.mkdir(parents=True, exist_ok=True)
    waiting = deque(cells)
    while waiting:
        task = None
        for _ in range(len(waiting)):
            cell = waiting.popleft()
            path = store.path(cell.hash, cell.seeds)
            lock = FileLock(running / f"{path.stem}.lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                waiting.append(cell)  # at the end, so that each cell is tried once
                continue
            if path.exists():  # another process has finished the cell
                lock.release()
                continue
            locks[path.stem] = lock
            task = cell, running / path.stem
            break
        if task or waiting:
            yield task
