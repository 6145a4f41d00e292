"""A folder of finished cells, and how two of them are joined."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path

import polars as pl

from actbench.records.files import RecordError
from actbench.records.table import CELL, read_records, same_results, write_records

JOINED = 1024  # replicates of a file in which many are joined
FILE = re.compile(rf"(?P<cell>{CELL.pattern})_(?P<first>[0-9]{{1,10}})-(?P<last>[0-9]{{1,10}})\.parquet")


def parse_file_name(path: Path) -> tuple[str, range]:
    """Cell and seeds in the name of a store's file; no seeds if the name has none, or too many for one file."""
    name = FILE.fullmatch(path.name)
    if not name:
        return "", range(0)
    seeds = range(int(name["first"]), int(name["last"]) + 1)
    return name["cell"], seeds if len(seeds) <= JOINED else range(0)


def holding(paths: Iterable[Path], seeds: range) -> dict[int, Path]:
    """For each of these seeds, the first of a cell's files that has it by name."""
    found: dict[int, Path] = {}
    for path in paths:
        own = parse_file_name(path)[1]
        for seed in range(max(own.start, seeds.start), min(own.stop, seeds.stop)):
            found.setdefault(seed, path)
    return found


class Store:
    """Finished cells in a folder, which need not exist yet, a file each, named by hash and seeds.

    A file is written once and never changed, so any number of processes may read
    and write. The folders ``others`` are only read.
    """

    def __init__(self, folder: Path, *others: Path) -> None:
        self.folder = folder
        self.others = others

    def path(self, cell: str, seeds: Sequence[int]) -> Path:
        """File of a cell's replicates, whose seeds follow one another."""
        name = f"{cell}_{seeds[0]}-{seeds[-1]}.parquet"
        if not FILE.fullmatch(name):
            raise RecordError(f"{name!r} is no name of a cell's file")
        return self.folder / name

    def files(self) -> dict[str, list[Path]]:
        """The files of each cell, those of the store itself first. Nothing is read."""
        found: dict[str, list[Path]] = {}
        for path in (path for folder in (self.folder, *self.others) for path in sorted(folder.glob("*.parquet"))):
            cell, seeds = parse_file_name(path)
            if seeds:
                found.setdefault(cell, []).append(path)
        return found

    def write(self, table: pl.DataFrame) -> Path:
        """Keep the records of a cell; returns the file."""
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
        """Give a file that cannot be used another name; returns that."""
        names = (path.with_suffix(f".damaged{number or ''}") for number in count())
        return path.rename(next(name for name in names if not name.exists()))


def merge(stores: Sequence[Store], into: Store) -> int:
    """Join stores; returns how many of their files had what was not there.

    All are read and compared before anything is written. What is added lies in
    few files: seeds of a cell that follow one another are joined, up to `JOINED`.
    A folder that is there twice counts once.

    Raises:
        RecordError: Two have other results for the same seed of the same cell, or a file is damaged.
    """
    distinct = {into.folder.resolve(): into}
    for store in stores:
        distinct.setdefault(store.folder.resolve(), store)
    files: dict[str, list[tuple[Store, Path]]] = {}
    for store in distinct.values():
        for cell, paths in store.files().items():
            files.setdefault(cell, []).extend((store, path) for path in paths)
    added = 0
    for write in (False, True):
        for cell in sorted(files):
            known: dict[int, tuple[Path, pl.DataFrame]] = {}
            new = list[pl.DataFrame]()
            for store, path in files[cell]:
                fresh = unknown(path, store.read(path), known)
                if len(fresh) and store is not into:
                    new.append(fresh)
            if write and new:
                added += len(new)
                table = pl.concat(new).sort("seed")
                for seeds in blocks(table["seed"].to_list(), JOINED):
                    into.write(table.filter(pl.col("seed").is_between(seeds[0], seeds[-1])))
    return added


def unknown(path: Path, table: pl.DataFrame, known: dict[int, tuple[Path, pl.DataFrame]]) -> pl.DataFrame:
    """Those records of a cell's file whose seeds are not yet ``known``, to which they are added.

    Raises:
        RecordError: A seed is known with other results.
    """
    fresh = []
    for seed, row in zip(table["seed"].to_list(), table.iter_slices(1), strict=True):
        before, other = known.setdefault(seed, (path, row))
        if before == path:
            fresh.append(seed)
        elif not same_results(other, row):
            raise RecordError(f"{before} and {path} have different results for seed {seed} of the same cell")
    return table.filter(pl.col("seed").is_in(fresh))


def blocks(seeds: Sequence[int], width: int) -> Iterator[range]:
    """Seeds in ascending order in runs that follow one another, at most ``width`` long.

    Taking any of the blocks away leaves the others as they are, so an interrupted
    study goes on with the same blocks.
    """
    start = 0
    for end in range(1, len(seeds) + 1):
        if end == len(seeds) or end - start == width or seeds[end] != seeds[end - 1] + 1:
            yield range(seeds[start], seeds[end - 1] + 1)
            start = end
