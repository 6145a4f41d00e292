"""Which records of a study exist, which cells are missing, and in which order they will run."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import polars as pl

from actbench.data import ImageData
from actbench.inference.verdict import PlannedArm, Question
from actbench.records import MEASURED, NAMES, RecordError, Store, blocks, files_by_seed
from actbench.specs import one_line
from actbench.studies.cells import Cell, build_data
from actbench.studies.definition import Looks, Study, StudyError
from actbench.studies.grid import PlannedCell, make_cells, planned_cells

WIDTH = 32  # most replicates of a cell: on a processor, more gain nothing, and more would be lost with a cell


class Wanted(NamedTuple):
    """Seeds of which a study wants an entry's records."""

    entry: PlannedCell
    seeds: range


class Plan(NamedTuple):
    """The wanted records, how many of them exist, and the cells that are missing, in the order in which they run."""

    wanted: Sequence[Wanted]
    cached: int  # replicates
    missing: Sequence[Cell]

    @property
    def missing_replicates(self) -> int:
        """Number of replicates of the missing cells."""
        return sum(len(cell.seeds) for cell in self.missing)


def make_plan(study: Study, wanted: Sequence[Wanted] | None = None) -> Plan:
    """The plan for the wanted records, by default all of the study's; files of the study's own store are not read."""
    wanted = [Wanted(entry, study.seeds) for entry in planned_cells(study)] if wanted is None else wanted
    store = study_store(study)
    files = store.files()
    cached, missing = 0, list[list[Cell]]()
    first = {(entry.cell.hash, seeds): entry for entry, seeds in reversed(wanted)}  # others share its records
    for entry, seeds in wanted:
        if first[entry.cell.hash, seeds] is not entry:
            continue
        usable = usable_seeds(store, files_by_seed(files.get(entry.cell.hash, []), seeds))
        lacking = [seed for seed in seeds if seed not in usable]
        cached += len(seeds) - len(lacking)
        missing.append(make_cells(entry, blocks(lacking, WIDTH)))
    # Arms take turns, so that other load on the machine affects all of them.
    in_turns = [cell for turn in zip_longest(*missing) for cell in turn if cell is not None]
    return Plan(wanted, cached, in_turns)


def usable_seeds(store: Store, files: Mapping[int, Path]) -> set[int]:
    """Those of a cell's seeds whose file may be used.

    A damaged file of the store itself is found, and set aside, when the study
    reads it. A damaged file of another folder stays there, so such files are read here.
    """
    usable = set()
    for path in set(files.values()):
        with suppress(RecordError):
            if path.parent != store.folder:
                store.read(path)
            usable.add(path)
    return {seed for seed, path in files.items() if path in usable}


def make_question(study: Study, compared: Sequence[PlannedCell]) -> Question:
    """The question that a study puts to the records of its `planned_cells`, whose tuned setting has its config's value.

    Raises a StudyError if the baseline is not among the arms, or the study is larger or stricter than any can be.
    """
    planned = [PlannedArm(*entry.key, entry.cell.hash) for entry in compared]
    names = list(dict.fromkeys(arm.arm for arm in planned))
    baseline = names[0] if study.baseline is None else str(study.baseline)
    if baseline not in names:
        raise StudyError(f"study.baseline: {baseline} is not among the arms {', '.join(names)}")
    try:
        return Question(
            asked=planned,
            baseline=baseline,
            seed=study.seed,
            replicates=asdict(study.replicates) if isinstance(study.replicates, Looks) else study.replicates,
            comparisons=study.comparisons,
            alpha=study.alpha,
            margin=study.margin,
            tune=study.tune,
            conditions=[condition.name for condition in study.conditions[1:]],
        )
    except ValueError as error:
        raise StudyError(f"study: {one_line(error)}") from error


def study_store(study: Study) -> Store:
    """Finished cells of all studies under the root, and of the folders in ``study.records``.

    Those whose mechanism was measured lie in a folder of their own. A study that wants it needs these; any other may
    use them, too.
    """
    plain = [Path(folder, "cells") for folder in (study.root, *study.records)]
    measured = [folder / MEASURED for folder in plain]
    first, *others = measured if study.mechanism else [*plain, *measured]
    return Store(first, *others)


def read_wanted(
    study: Study, wanted: Sequence[Wanted], report: Callable[[str], None], *, change: bool = True
) -> pl.DataFrame:
    """The wanted records that exist, with columns for the names of arm, dataset and network, and the tuned value.

    A damaged or foreign file is reported, and its seeds are missing. It is set aside
    unless ``change`` is False or its folder is only read.
    """
    store = study_store(study)
    tables = []
    files = store.files()
    for entry, seeds in wanted:
        by_seed = files_by_seed(files.get(entry.cell.hash, []), seeds)
        labels = zip(NAMES, (entry.arm, entry.dataset, entry.network, entry.value), strict=True)
        columns = [pl.lit(value).alias(name) for name, value in labels if value is not None]
        for path in dict.fromkeys(by_seed[seed] for seed in sorted(by_seed)):
            try:
                table = store.read(path)
            except FileNotFoundError:  # another process has just set it aside
                continue
            except RecordError as error:
                if path.parent != store.folder:
                    report(f"{error}; it is left as it is, and not used")
                elif change:
                    with suppress(FileNotFoundError):  # as above
                        report(f"{error}; set aside as {store.set_aside(path).name}, and run again")
                else:
                    report(f"{error}; the study will set it aside, and run its cell again")
                continue
            chosen = [seed for seed in seeds if by_seed.get(seed) == path]
            tables.append(table.filter(pl.col("seed").is_in(chosen)).select(*columns, pl.all()))
    return pl.concat(tables, how="diagonal") if tables else pl.DataFrame()  # tuned arms have a column more


def test_images(entry: PlannedCell) -> int | None:
    """Number of test images of an entry's dataset; None if the dataset is not ours."""
    datamodule = build_data(entry.cell.config)
    if not isinstance(datamodule, ImageData):
        return None
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule.parts["test"].rows.shape[1]
