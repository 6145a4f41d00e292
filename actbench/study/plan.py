"""What of a study is there, what is missing, and in which order it will run."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from actbench.cells import Cell, DatasetSpec
from actbench.records import RecordError, Store, json_text
from actbench.study.definition import Study, StudyError
from actbench.study.grid import Entry, cell_of, entries, short_name

WIDTH = 32  # replicates of a cell at most: more gain nothing on a processor, and less would be lost with one


class Plan(NamedTuple):
    """What a study wants, what of it is there, and what is missing, in the order in which it will run."""

    entries: Sequence[Entry]
    baseline: str
    cached: int  # replicates
    missing: Sequence[Cell]


def blocks(seeds: Sequence[int], width: int = WIDTH) -> Iterator[range]:
    """Missing seeds in runs of at most so many.

    Taking any of the blocks away leaves the others as they are, so what is
    interrupted goes on with the same blocks.
    """
    start = 0
    for place in range(1, len(seeds) + 1):
        if place == len(seeds) or seeds[place] != seeds[place - 1] + 1 or place - start == width:
            yield range(seeds[start], seeds[place - 1] + 1)
            start = place


def make_plan(study: Study) -> Plan:
    """What is there and what is missing. No record is read.

    Raises:
        StudyError: The study makes no sense.
    """
    wanted = entries(study)
    names = list(dict.fromkeys(entry.arm for entry in wanted))
    baseline = study.baseline or names[0]
    if baseline not in names:
        raise StudyError(f"study.baseline: {baseline} is not among the arms {', '.join(names)}")
    index = store_of(study).index()
    cached, missing = 0, list[list[Cell]]()
    for entry in wanted:
        there = index.get(entry.hash, {})
        lacking = [seed for seed in study.seeds if seed not in there]
        cached += study.replicates - len(lacking)
        missing.append([cell_of(entry.config, study, seeds) for seeds in blocks(lacking)])
    # Arms take turns, so that what else the machine does meets all of them.
    longest = max(map(len, missing), default=0)
    in_turns = [cells[turn] for turn in range(longest) for cells in missing if turn < len(cells)]
    return Plan(wanted, baseline, cached, in_turns)


def store_of(study: Study) -> Store:
    """Finished cells of all studies under the root, and of the folders that the study is pointed at."""
    return Store(Path(study.root, "cells"), *(Path(folder, "cells") for folder in study.records))


def collect(study: Study, plan: Plan, report: Callable[[str], None]) -> pl.DataFrame:
    """The records of a study that are there, with the columns ``arm``, and names of dataset and network.

    A file that is damaged or foreign is set aside and reported; its seeds are missing then.
    """
    store = store_of(study)
    tables = []
    index = store.index()
    for entry in plan.entries:
        there = index.get(entry.hash, {})
        for path in dict.fromkeys(there[seed] for seed in study.seeds if seed in there):
            try:
                table = store.read(path)
            except RecordError as error:
                report(f"{error}; set aside as {store.set_aside(path).name}, and run again")
                continue
            own = [seed for seed in study.seeds if there.get(seed) == path]
            labels = {"arm": entry.arm, "dataset_name": entry.dataset, "network_name": entry.network}
            labelled = table.filter(pl.col("seed").is_in(own)).select(
                *(pl.lit(value).alias(name) for name, value in labels.items()), pl.all()
            )
            tables.append(labelled)
    return pl.concat(tables) if tables else pl.DataFrame()


def check_data(plan: Plan) -> None:
    """Fetch and read the datasets of the cells that are missing.

    Raises:
        StudyError: One is not there, or is damaged.
    """
    datasets = {json_text(cell.config["data"]): cell.config["data"] for cell in plan.missing}
    for dataset in datasets.values():
        try:
            DatasetSpec(dataset).build(range(1)).prepare_data()
        except ValueError as error:
            raise StudyError(f"dataset {short_name(dataset)}: {error}") from error
