"""What a study will take: time, memory and disk, from a few timed steps."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from actbench.cells import WARM_UP, Cell, DatasetSpec, run_cell
from actbench.records import json_text, to_bytes

TIMED = 20  # steps of a trial that are timed


class Forecast(NamedTuple):
    """Time of all cells one after another, optimiser steps of all replicates, most memory, and what is written."""

    minutes: float | None
    steps: int
    memory_mb: float
    disk_mb: float


def forecast(cells: Sequence[Cell]) -> Forecast:
    """What cells will take, by a trial of one cell for each dataset and network.

    Evaluation, starting up and other activations are not in it: it is within a
    factor of two, not exact.
    """
    minutes: float | None = 0.0
    steps, memory_mb, disk_mb = 0, 0.0, 0.0
    trials: dict[str, tuple[float | None, int, float, float]] = {}
    for cell in cells:
        key = json_text([cell.config["data"], cell.config["model"]["network"]])
        if key not in trials:
            trials[key] = trial(cell)
        examples_per_s, batches, peak_mb, row_mb = trials[key]
        epochs = cell.config["trainer"]["max_epochs"]
        size = DatasetSpec(cell.config["data"]).init_args.get("batch_size", 1)
        examples = batches * size * epochs * len(cell.seeds)
        minutes = None if minutes is None or not examples_per_s else minutes + examples / examples_per_s / 60
        steps += batches * epochs * len(cell.seeds)
        memory_mb = max(memory_mb, peak_mb)
        disk_mb += row_mb * len(cell.seeds)
    return Forecast(minutes, steps, memory_mb, disk_mb)


def trial(cell: Cell) -> tuple[float | None, int, float, float]:
    """Examples a second, batches of an epoch, and MiB of memory and of a record, by some steps of a cell."""
    trainer = {"max_epochs": -1, "max_steps": WARM_UP + TIMED, "limit_val_batches": 1, "limit_test_batches": 1}
    short = Cell({**cell.config, "trainer": {**cell.config["trainer"], **trainer}}, cell.seeds, cell.weights)
    datamodule = DatasetSpec(cell.config["data"]).build(range(1))
    datamodule.prepare_data()
    datamodule.setup("fit")
    batches = len(datamodule.train_dataloader())
    with tempfile.TemporaryDirectory() as folder:
        table = run_cell(short, Path(folder, "trial"))
    epochs = cell.config["trainer"]["max_epochs"]
    # What a record holds for each epoch, four numbers, hardly shrinks.
    row_mb = (len(to_bytes(table)) / len(table) + 4 * 8 * epochs) / 2**20
    return table["examples_per_s"][0], batches, table["peak_memory_mb"][0], row_mb
