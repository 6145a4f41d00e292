"""Forecasting a study's time, memory and disk from finished records or a few timed steps."""

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import polars as pl
import polars.selectors as cs
import torch

from actbench.records import json_text, to_bytes
from actbench.specs import one_line
from actbench.studies import StudyError
from actbench.studies.cells import WARM_UP, Cell, device_name, run_cell
from actbench.training import preflight

TIMED = 20  # timed steps of a trial of a stack, after those in which it is recorded
FEW = 4  # steps of a trial of replicates that are trained one after another, which are large or alone


class Forecast(NamedTuple):
    """Time of all cells one after another, optimiser steps of all replicates, peak memory, and disk for the records."""

    minutes: float | None
    steps: int
    memory_mb: float
    disk_mb: float


class Costs(NamedTuple):
    """Costs on a dataset and network: seconds of a replicate's epoch, MiB of memory (0 if unknown) and of a record."""

    epoch_time_s: float | None
    memory_mb: float
    record_mb: float


def forecast(cells: Sequence[Cell], table: pl.DataFrame, epoch_steps: Mapping[str, float]) -> Forecast:
    """Costs of cells, from a table of finished records, or else from a trial on each dataset and network.

    ``epoch_steps`` is what `rehearse` returned. The forecast leaves out evaluation,
    starting up and differences between activations, so it is right within a factor of two.
    """
    minutes, steps, memory_mb, disk_mb = 0.0, 0.0, 0.0, 0.0
    costs = measured_costs(table) if len(table) else {}
    for cell in cells:
        key = cost_key(cell.factors)
        if key not in costs:
            costs[key] = trial(cell)
        cost, length = costs[key], epoch_steps[cell.hash]
        epochs = None if math.isnan(length) else preflight.planned_epochs(cell.config["trainer"], length)
        replicate_epochs = (epochs or 0) * len(cell.seeds)
        time_s = math.nan if epochs is None or cost.epoch_time_s is None else cost.epoch_time_s
        minutes += time_s * replicate_epochs / 60
        steps += length * replicate_epochs if replicate_epochs else 0
        memory_mb = max(memory_mb, cost.memory_mb)
        # The four numbers of each epoch hardly compress.
        disk_mb += cost.record_mb * len(cell.seeds) + 4 * 8 * replicate_epochs / 2**20
    return Forecast(None if math.isnan(minutes) else minutes, round(steps), memory_mb, disk_mb)


def cost_key(factors: Mapping[str, Any]) -> str:
    """Dataset and network as JSON: the costs are assumed to depend on nothing else."""
    return json_text([factors["data"], factors["network"]])


def measured_costs(table: pl.DataFrame) -> dict[str, Costs]:
    """Costs by `cost_key` of the records that this machine's processor made while no other process used it."""
    here = pl.col("device").eq(device_name(torch.device("cpu"))) & ~pl.col("busy").fill_null(value=False)
    groups = dict[str, list[pl.DataFrame]]()
    for (factors,), records in table.filter(here, pl.col("epoch_time_s").is_not_null()).group_by("factors"):
        groups.setdefault(cost_key(json.loads(str(factors))), []).append(records)
    return {key: typical_costs(pl.concat(tables)) for key, tables in groups.items()}


def typical_costs(table: pl.DataFrame) -> Costs:
    """Costs of the records of one dataset and network: median time, most memory and mean size."""
    time_s, memory_mb = table["epoch_time_s"].median(), table["peak_memory_mb"].max()
    record_mb = len(to_bytes(table.drop(cs.starts_with("epoch_")))) / len(table) / 2**20
    return Costs(cast(float | None, time_s), cast(float | None, memory_mb) or 0.0, record_mb)


def trial(cell: Cell) -> Costs:
    """Costs of a cell, from some of its steps; a StudyError if they fail."""
    steps = FEW if cell.config["model"].get("engine") == "sequence" else WARM_UP + TIMED
    limits = {"limit_train_batches": steps, "limit_val_batches": 1, "limit_test_batches": 1}
    trainer = {"max_epochs": -1, "max_steps": steps, **limits}
    config = {
        **cell.config,
        # A schedule may depend on the number of steps.
        "model": {**cell.config["model"], "lr_scheduler": None, "lr_interval": None},
        "trainer": {**cell.config["trainer"], **trainer},
    }
    try:
        with tempfile.TemporaryDirectory() as folder:
            table = run_cell(replace(cell, config=config), Path(folder, "trial"))
    except Exception as error:  # of any kind, in the user's code
        raise StudyError(f"a trial of a cell has failed: {one_line(error)}") from error
    return typical_costs(table)
