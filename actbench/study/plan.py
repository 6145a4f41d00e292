"""What of a study is there, what is missing, and in which order it will run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import polars as pl

from actbench.cells import Cell, build_data
from actbench.data import ImageData
from actbench.records import RecordError, Store
from actbench.study.definition import Looks, Study, StudyError
from actbench.study.grid import Entry, cells_of, entries
from actbench.verdict import Asked, Question

WIDTH = 32  # replicates of a cell at most: more gain nothing on a processor, and less would be lost with one


class Wanted(NamedTuple):
    """Records of an entry with these seeds."""

    entry: Entry
    seeds: range


class Plan(NamedTuple):
    """What is wanted, what of it is there, and what is missing, in the order in which it will run."""

    wanted: Sequence[Wanted]
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


def make_plan(study: Study, wanted: Sequence[Wanted] | None = None) -> Plan:
    """What is there and what is missing. No record of the study's own store is read.

    Args:
        study: Whose.
        wanted: All that it may compare, unless given.

    Raises:
        StudyError: The study makes no sense.
    """
    wanted = [Wanted(entry, study.seeds) for entry in entries(study)] if wanted is None else wanted
    store = store_of(study)
    index = store.index()
    cached, missing = 0, list[list[Cell]]()
    for entry, seeds in wanted:
        there = usable(store, index.get(entry.hash, {}))
        lacking = [seed for seed in seeds if seed not in there]
        cached += len(seeds) - len(lacking)
        missing.append(cells_of(entry, study, blocks(lacking)))
    # Arms take turns, so that what else the machine does meets all of them.
    longest = max(map(len, missing), default=0)
    in_turns = [cells[turn] for turn in range(longest) for cells in missing if turn < len(cells)]
    return Plan(wanted, cached, in_turns)


def usable(store: Store, there: Mapping[int, Path]) -> dict[int, Path]:
    """Of a cell's seeds, those whose file can be used, as far as that has to be known beforehand.

    A damaged file of the store itself is set aside when it is read. One of a
    folder that is only read stays, so it is read here.
    """

    def damaged(path: Path) -> bool:
        try:
            store.read(path)
        except RecordError:
            return True
        return False

    wrong = {path for path in set(there.values()) if path.parent != store.folder and damaged(path)}
    return {seed: path for seed, path in there.items() if path not in wrong}


def question_of(study: Study, compared: Sequence[Entry]) -> Question:
    """What a study asks of its records.

    Args:
        study: Whose.
        compared: Its `entries`; a tuned setting is as in its config.

    Raises:
        StudyError: The baseline is not among the arms, or an arm is wrong.
    """
    asked = [Asked(*entry.key, entry.hash) for entry in compared]
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
    """The records that are there, with the columns ``arm``, names of dataset and network, and the tuned ``value``.

    A file that is damaged or foreign is set aside and reported; its seeds are missing then.

    Args:
        study: Whose.
        wanted: Which records.
        report: Is told of files that cannot be used.
        change: Whether to set them aside; those of folders that are only read stay in any case.
    """
    store = store_of(study)
    tables = []
    index = store.index()
    for entry, seeds in wanted:
        there = index.get(entry.hash, {})
        for path in dict.fromkeys(there[seed] for seed in seeds if seed in there):
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
            labels = {
                "arm": entry.arm,
                "dataset_name": entry.dataset,
                "network_name": entry.network,
                **({} if entry.value is None else {"value": entry.value}),
            }
            labelled = table.filter(pl.col("seed").is_in(own)).select(
                *(pl.lit(value).alias(name) for name, value in labels.items()), pl.all()
            )
            tables.append(labelled)
    return pl.concat(tables) if tables else pl.DataFrame()


def test_images(entry: Entry) -> int | None:
    """How many images the test part of an entry's dataset has; None where it is not ours."""
    datamodule = build_data(entry.config)
    if not isinstance(datamodule, ImageData):
        return None
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule.parts["test"].rows.shape[1]
