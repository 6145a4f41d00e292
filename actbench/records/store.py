"""A folder of finished cells, and joining several such folders."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path

import polars as pl

from actbench.records.files import RecordError
from actbench.records.table import CELL, read_records, same_results, write_records

MEASURED = "mechanism"  # folder of the cells whose mechanism was measured, inside of that of the other cells
JOINED = 1024  # most replicates of one file that `merge` writes
FILE = re.compile(rf"(?P<cell>{CELL.pattern})_(?P<first>[0-9]{{1,10}})-(?P<last>[0-9]{{1,10}})\.parquet")


def parse_file_name(path: Path) -> tuple[str, range]:
    """Cell and seeds in the name of a store's file; no seeds if the name has none, or too many for one file."""
    match = FILE.fullmatch(path.name)
    if not match:
        return "", range(0)
    seeds = range(int(match["first"]), int(match["last"]) + 1)
    return match["cell"], seeds if len(seeds) <= JOINED else range(0)


def files_by_seed(paths: Iterable[Path], seeds: range) -> dict[int, Path]:
    """For each of the seeds, the first of a cell's files whose name includes the seed."""
    files: dict[int, Path] = {}
    for path in paths:
        held = parse_file_name(path)[1]
        for seed in range(max(held.start, seeds.start), min(held.stop, seeds.stop)):
            files.setdefault(seed, path)
    return files


class Store:
    """A folder of finished cells, which need not exist yet, with one or more files for each cell.

    A file is written once and never changed, so any number of processes may read
    and write. The folders ``others`` are only read.
    """

    def __init__(self, folder: Path, *others: Path) -> None:
        self.folder = folder
        self.others = others

    def path(self, cell: str, seeds: Sequence[int]) -> Path:
        """The file of a cell's replicates with these consecutive seeds."""
        name = f"{cell}_{seeds[0]}-{seeds[-1]}.parquet"
        if not FILE.fullmatch(name):
            raise RecordError(f"{name!r} cannot be the name of a cell's file")
        return self.folder / name

    def files(self) -> dict[str, list[Path]]:
        """The files of each cell by their names, those of the store itself before those of the other folders."""
        files: dict[str, list[Path]] = {}
        for folder in (self.folder, *self.others):
            for path in sorted(folder.glob("*.parquet")):
                cell, seeds = parse_file_name(path)
                if seeds:
                    files.setdefault(cell, []).append(path)
        return files

    def write(self, table: pl.DataFrame) -> Path:
        """Write the records of one cell; returns the file."""
        path = self.path(table["cell"][0], table["seed"].to_list())
        write_records(path, table)
        return path

    def read(self, path: Path) -> pl.DataFrame:
        """Records of a file of the store; RecordError if they are damaged, foreign, or another cell's."""
        table, (cell, seeds) = read_records(path), parse_file_name(path)
        if not seeds or set(table["cell"]) != {cell} or table["seed"].to_list() != list(seeds):
            raise RecordError(f"{path}: its name belongs to other records")
        return table

    def set_aside(self, path: Path) -> Path:
        """Rename a file that cannot be used; returns its new path."""
        candidates = (path.with_suffix(f".damaged{number or ''}") for number in count())
        return path.rename(next(candidate for candidate in candidates if not candidate.exists()))


def merge(stores: Sequence[Store], into: Store) -> int:
    """Join stores; returns the number of files that held records new to ``into``.

    All files are read and compared before anything is written. Consecutive seeds
    of a cell are written to one file, up to `JOINED`. A folder that is given twice counts once.

    Raises:
        RecordError: Two stores have different results for the same seed of a cell, or a file is damaged.
    """
    distinct: dict[Path, Store] = {}
    for store in (into, *stores):
        distinct.setdefault(store.folder.resolve(), store)
    files = defaultdict[str, list[tuple[Store, Path]]](list)
    for store in distinct.values():
        for cell, paths in store.files().items():
            files[cell] += [(store, path) for path in paths]
    added = 0
    for writes in (False, True):
        for cell in sorted(files):
            by_seed: dict[int, tuple[Path, pl.DataFrame]] = {}
            new = list[pl.DataFrame]()
            for store, path in files[cell]:
                fresh = unseen(path, store.read(path), by_seed)
                if len(fresh) and store is not into:
                    new.append(fresh)
            if writes and new:
                added += len(new)
                table = pl.concat(new).sort("seed")
                for seeds in blocks(table["seed"].to_list(), JOINED):
                    into.write(table.filter(pl.col("seed").is_between(seeds[0], seeds[-1])))
    return added


def unseen(path: Path, table: pl.DataFrame, by_seed: dict[int, tuple[Path, pl.DataFrame]]) -> pl.DataFrame:
    """Those records of a file whose seeds are not in ``by_seed``, to which they are added.

    Raises:
        RecordError: Another file has different results for a seed.
    """
    fresh = []
    for seed, row in zip(table["seed"].to_list(), table.iter_slices(1), strict=True):
        first_path, first_row = by_seed.setdefault(seed, (path, row))
        if first_path == path:
            fresh.append(seed)
        elif not same_results(first_row, row):
            raise RecordError(f"{first_path} and {path} have different results for seed {seed} of the same cell")
    return table.filter(pl.col("seed").is_in(fresh))


def blocks(seeds: Sequence[int], width: int) -> Iterator[range]:
    """Ascending seeds as ranges of consecutive seeds, each at most ``width`` long.

    Removing any of the blocks leaves the others unchanged, so an interrupted
    study goes on with the same blocks.
    """
    start = 0
    for end in range(1, len(seeds) + 1):
        if end == len(seeds) or end - start == width or seeds[end] != seeds[end - 1] + 1:
            yield range(seeds[start], seeds[end - 1] + 1)
            start = end
