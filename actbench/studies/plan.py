"""What of a study is there, what is missing, and in which order it will run."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import polars as pl

from actbench.data import ImageData
from actbench.inference.verdict import PlannedArm, Question
from actbench.records import NAMES, RecordError, Store, blocks, holding
from actbench.studies.cells import Cell, build_data
from actbench.studies.definition import Looks, Study, StudyError
from actbench.studies.grid import PlannedCell, cells_of, entries

WIDTH = 32  # replicates of a cell at most: more gain nothing on a processor, and less would be lost with one


class Wanted(NamedTuple):
    """Records of an entry with these seeds."""

    entry: PlannedCell
    seeds: range


class Plan(NamedTuple):
    """What is wanted, what of it is there, and what is missing, in the order in which it will run."""

    wanted: Sequence[Wanted]
    cached: int  # replicates
    missing: Sequence[Cell]


def make_plan(study: Study, wanted: Sequence[Wanted] | None = None) -> Plan:
    """Which of the wanted records, all of the study's unless given, are there; its own store is not read."""
    wanted = [Wanted(entry, study.seeds) for entry in entries(study)] if wanted is None else wanted
    store = store_of(study)
    files = store.files()
    cached, missing = 0, list[list[Cell]]()
    for entry, seeds in wanted:
        there = usable_seeds(store, holding(files.get(entry.cell.hash, []), seeds))
        lacking = [seed for seed in seeds if seed not in there]
        cached += len(seeds) - len(lacking)
        missing.append(cells_of(entry, blocks(lacking, WIDTH)))
    # Arms take turns, so that what else the machine does meets all of them.
    in_turns = [cell for turn in zip_longest(*missing) for cell in turn if cell is not None]
    return Plan(wanted, cached, in_turns)


def usable_seeds(store: Store, there: Mapping[int, Path]) -> set[int]:
    """Of a cell's seeds, those whose file can be used, as far as that has to be known beforehand.

    A damaged file of the store itself is set aside when it is read. One of a
    folder that is only read stays, so it is read here.
    """
    usable = set()
    for path in set(there.values()):
        with suppress(RecordError):
            if path.parent != store.folder:
                store.read(path)
            usable.add(path)
    return {seed for seed, path in there.items() if path in usable}


def question_of(study: Study, compared: Sequence[PlannedCell]) -> Question:
    """What a study asks of the records of its `entries`, in which a tuned setting is as in its config.

    Raises a StudyError if the baseline is not among the arms.
    """
    asked = [PlannedArm(*entry.key, entry.cell.hash) for entry in compared]
    names = list(dict.fromkeys(row.arm for row in asked))
    baseline = names[0] if study.baseline is None else str(study.baseline)
    if baseline not in names:
        raise StudyError(f"study.baseline: {baseline} is not among the arms {', '.join(names)}")
    return Question(
        asked=asked,
        baseline=baseline,
        seed=study.seed,
        replicates=asdict(study.replicates) if isinstance(study.replicates, Looks) else study.replicates,
        comparisons=study.comparisons,
        alpha=study.alpha,
        margin=study.margin,
        tune=study.tune,
    )


def store_of(study: Study) -> Store:
    """Finished cells of all studies under the root, and of the folders that the study is pointed at."""
    return Store(Path(study.root, "cells"), *(Path(folder, "cells") for folder in study.records))


def collect(
    study: Study, wanted: Sequence[Wanted], report: Callable[[str], None], *, change: bool = True
) -> pl.DataFrame:
    """The wanted records that are there, with columns for the names of arm, dataset and network, and the tuned value.

    A file that is damaged or foreign is reported, and set aside unless ``change`` is
    False or it is in a folder that is only read; its seeds are missing then.
    """
    store = store_of(study)
    tables = []
    files = store.files()
    for entry, seeds in wanted:
        there = holding(files.get(entry.cell.hash, []), seeds)
        for path in dict.fromkeys(there[seed] for seed in sorted(there)):
            try:
                table = store.read(path)
            except FileNotFoundError:  # another process has just set it aside
                continue
            except RecordError as error:
                if path.parent != store.folder:
                    report(f"{error}; it is left as it is, and not used")
                elif change:
                    with suppress(FileNotFoundError):  # the same
                        report(f"{error}; set aside as {store.set_aside(path).name}, and run again")
                else:
                    report(f"{error}; the study will set it aside, and run its cell again")
                continue
            own = [seed for seed in seeds if there.get(seed) == path]
            labels = dict(zip(NAMES, (entry.arm, entry.dataset, entry.network, entry.value), strict=True))
            columns = [pl.lit(value).alias(name) for name, value in labels.items() if value is not None]
            tables.append(table.filter(pl.col("seed").is_in(own)).select(*columns, pl.all()))
    return pl.concat(tables) if tables else pl.DataFrame()


def test_images(entry: PlannedCell) -> int | None:
    """How many images the test part of an entry's dataset has; None where it is not ours."""
    datamodule = build_data(entry.cell.config)
    if not isinstance(datamodule, ImageData):
        return None
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule.parts["test"].rows.shape[1]
