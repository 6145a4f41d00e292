"""What a study will take: time, memory and disk, from the records at hand or a few timed steps."""

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

TIMED = 20  # steps of a trial that are timed


class Forecast(NamedTuple):
    """Time of all cells one after another, optimiser steps of all replicates, most memory, and disk for the records."""

    minutes: float | None
    steps: int
    memory_mb: float
    disk_mb: float


class Pace(NamedTuple):
    """Costs on a dataset and network: seconds of a replicate's epoch, MiB of memory (0 if unknown) and of a record."""

    epoch_time_s: float | None
    memory_mb: float
    record_mb: float


def forecast(cells: Sequence[Cell], known: pl.DataFrame, epoch_steps: Mapping[str, float]) -> Forecast:
    """What cells will take, by the study's finished records, and else by a trial of a cell on each dataset and network.

    ``epoch_steps`` is what `rehearse` returned. The forecast leaves out evaluation,
    starting up and other activations, so it is right within a factor of two.
    """
    minutes, steps, memory_mb, disk_mb = 0.0, 0.0, 0.0, 0.0
    paces = paces_of(known)
    for cell in cells:
        place = place_of(cell.factors)
        if place not in paces:
            paces[place] = trial(cell)
        pace, length = paces[place], epoch_steps[cell.hash]
        epochs = None if math.isnan(length) else preflight.epochs_of(cell.config["trainer"], length)
        runs = (epochs or 0) * len(cell.seeds)
        minutes += math.nan if pace.epoch_time_s is None or epochs is None else pace.epoch_time_s * runs / 60
        steps += length * runs if runs else 0
        memory_mb = max(memory_mb, pace.memory_mb)
        # What a record holds for each epoch, four numbers, hardly shrinks.
        disk_mb += pace.record_mb * len(cell.seeds) + 4 * 8 * runs / 2**20
    return Forecast(None if math.isnan(minutes) else minutes, round(steps), memory_mb, disk_mb)


def place_of(factors: Mapping[str, Any]) -> str:
    """Dataset and network as JSON, the key of a pace."""
    return json_text([factors["data"], factors["network"]])


def paces_of(known: pl.DataFrame) -> dict[str, Pace]:
    """Paces by place, of records that were made on this machine's processor while nobody else used it."""
    if not len(known):
        return {}
    here = pl.col("device").eq(device_name(torch.device("cpu"))) & ~pl.col("busy").fill_null(value=False)
    groups = dict[str, list[pl.DataFrame]]()
    for (factors,), table in known.filter(here, pl.col("epoch_time_s").is_not_null()).group_by("factors"):
        groups.setdefault(place_of(json.loads(str(factors))), []).append(table)
    return {place: pace_of(pl.concat(tables)) for place, tables in groups.items()}


def pace_of(table: pl.DataFrame) -> Pace:
    """Pace of the records of one dataset and network."""
    time_s, memory_mb = table["epoch_time_s"].median(), table["peak_memory_mb"].max()
    record_mb = len(to_bytes(table.drop(cs.starts_with("epoch_")))) / len(table) / 2**20
    return Pace(cast(float | None, time_s), cast(float | None, memory_mb) or 0.0, record_mb)


def trial(cell: Cell) -> Pace:
    """Pace of some steps of a cell. Raises a StudyError if they fail."""
    trainer = {"max_epochs": -1, "max_steps": WARM_UP + TIMED, "limit_val_batches": 1, "limit_test_batches": 1}
    config = {
        **cell.config,
        "model": {**cell.config["model"], "lr_scheduler": None},  # which may know how many steps there will be
        "trainer": {**cell.config["trainer"], **trainer},
    }
    try:
        with tempfile.TemporaryDirectory() as folder:
            table = run_cell(replace(cell, config=config), Path(folder, "trial"))
    except Exception as error:  # what is built there may be a user's
        raise StudyError(f"a trial of a cell has failed: {one_line(error)}") from error
    return pace_of(table)
