"""Finished replicates on disk: one row each, in Parquet files that are whole or not there.

A `Store` is a folder of such files. Each holds the replicates of one cell, is
named by the hash of all that determines them and by their seeds, and carries a
checksum of its every byte. `COLUMNS` says what a row holds.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import polars as pl

SCHEMA = 1
CHECKSUM = "actbench.sha256"
JOINED = 1024  # replicates of a file in which many are joined
LONGEST = 200  # letters of a name
CONFIG, DEPTH = 2_000_000, 50  # letters of a config, and mappings and lists in one another
LARGEST, ROWS = 2**30, 250_000  # bytes of a file, and replicates
BLANK = "0" * 64  # stands for the checksum while it is computed


class Column(NamedTuple):
    """A column of the records. ``provenance`` is how, where and when, which may differ where results are the same."""

    type: pl.DataType | type[pl.DataType]
    meaning: str
    provenance: bool = False


COLUMNS = {
    # What was trained.
    "cell": Column(pl.String, "hash of all that determines the results of the cell, but for the seed"),
    "dataset": Column(pl.String, "class path of the DataModule"),
    "network": Column(pl.String, "class path of the network"),
    "activation": Column(pl.String, "class path of the activation"),
    "factors": Column(pl.String, "JSON of all that determines the results: classes, arguments, settings"),
    "seed": Column(pl.Int64, "the replicate's seed"),
    # What came of it.
    "weights": Column(pl.String, "which weights were scored: last, or best by the replicate's own val/loss"),
    "val_accuracy": Column(pl.Float64, "accuracy on val of the weights that were scored, a fraction"),
    "val_loss": Column(pl.Float64, "mean cross-entropy on val, in nats"),
    "val_ece": Column(pl.Float64, "expected calibration error on val over 15 bins, a fraction"),
    "test_accuracy": Column(pl.Float64, "accuracy on test, scored once, a fraction"),
    "test_loss": Column(pl.Float64, "mean cross-entropy on test, in nats"),
    "test_ece": Column(pl.Float64, "expected calibration error on test over 15 bins, a fraction"),
    "epochs": Column(pl.Int64, "epochs that were trained"),
    "epoch_train_loss": Column(pl.List(pl.Float64), "mean loss on train while the weights change, each epoch, in nats"),
    "epoch_val_loss": Column(pl.List(pl.Float64), "loss on val after each epoch, in nats"),
    "epoch_val_accuracy": Column(pl.List(pl.Float64), "accuracy on val after each epoch, a fraction"),
    "epoch_val_ece": Column(pl.List(pl.Float64), "calibration error on val after each epoch, a fraction"),
    "diverged": Column(pl.Boolean, "whether a loss was NaN or infinite"),
    "diverged_epoch": Column(pl.Int64, "number of the first such epoch, from 0"),
    "classes": Column(pl.Int64, "classes that the network tells apart"),
    "curve_x": Column(pl.List(pl.Float64), "inputs at which the activation is drawn, after training"),
    "curve_y": Column(pl.List(pl.Float64), "its outputs there, at its first place; null if it has several shapes"),
    "curve_slope": Column(pl.List(pl.Float64), "its slopes there"),
    "parameters": Column(pl.Int64, "trainable parameters of one replicate"),
    "init_fingerprint": Column(pl.String, "hash of the initial weights, without those of the activations"),
    "order_fingerprint": Column(pl.String, "hash of split and first epoch's batches; null if they are not known"),
    # What it cost, and where it came from.
    "epoch_time_s": Column(pl.Float64, "seconds of a training epoch, over the replicates that ran together", True),
    "examples_per_s": Column(pl.Float64, "training images per second, of all replicates that ran together", True),
    "peak_memory_mb": Column(pl.Float64, "most memory of process or GPU's tensors, MiB; null if not known", True),
    "replicates_together": Column(pl.Int64, "replicates of the fit", True),
    "load_before": Column(pl.Float64, "processes that wanted to run in the minute before the fit, per core", True),
    "load_after": Column(pl.Float64, "the same, after the fit", True),
    "busy": Column(pl.Boolean, "whether others used the machine, so that times say little", True),
    "device": Column(pl.String, "name of the processor or GPU", True),
    "threads": Column(pl.Int64, "threads of the fit", True),
    "started": Column(pl.String, "when the fit started, UTC, ISO 8601", True),
    "actbench_version": Column(pl.String, "version of actbench", True),
    "torch_version": Column(pl.String, "version of torch", True),
    "lightning_version": Column(pl.String, "version of pytorch-lightning", True),
    "python_version": Column(pl.String, "version of Python", True),
    "commit": Column(pl.String, "of the working directory, + if files were changed; null outside git", True),
    "config": Column(pl.String, "JSON of the fit's resolved config", True),
}
NAMES = {"arm": pl.String, "dataset_name": pl.String, "network_name": pl.String, "value": pl.Float64}  # a study's own
UNKNOWN = {  # columns of what need not be known
    *(f"{part}val_{name}" for part in ("", "epoch_") for name in ("accuracy", "loss", "ece")),
    *("diverged_epoch", "curve_x", "curve_y", "curve_slope", "order_fingerprint", "epoch_time_s", "examples_per_s"),
    *("peak_memory_mb", "load_before", "load_after", "busy", "commit"),
}
BOUNDS = {  # of numbers: the least and the largest
    **dict.fromkeys(("val_accuracy", "test_accuracy"), (0, 1)),
    **dict.fromkeys(("seed", "parameters"), (0, 2**62)),
    **dict.fromkeys(("epochs", "diverged_epoch"), (0, 10_000_000)),
    **dict.fromkeys(("examples_per_s", "peak_memory_mb", "load_before", "load_after"), (0, 1e12)),
    "epoch_time_s": (1e-12, 1e12),
    **dict.fromkeys(("classes", "replicates_together", "threads"), (1, 2**31)),
}
CELL = re.compile(r"[0-9a-f]{32}")
FILE = re.compile(rf"(?P<cell>{CELL.pattern})_(?P<first>[0-9]{{1,10}})-(?P<last>[0-9]{{1,10}})\.parquet")
RESULTS = [name for name, column in COLUMNS.items() if not column.provenance]


class RecordError(ValueError):
    """A file of records is damaged or foreign, or contradicts another."""


def fingerprint(value: Any) -> str:
    """Hash of plain values, the same in every process: 32 hexadecimal digits."""
    return hashlib.sha256(json_text(value).encode()).hexdigest()[:32]


def json_text(value: Any) -> str:
    """Plain values as JSON in one canonical form, in which a number that is infinite or NaN is a text."""
    return json.dumps(with_finite_numbers(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def with_finite_numbers(value: Any) -> Any:
    """Plain values in which JSON can hold every number."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: with_finite_numbers(item) for key, item in value.items()}
    return [with_finite_numbers(item) for item in value] if isinstance(value, list | tuple) else value


def frame(rows: Iterable[dict[str, Any]]) -> pl.DataFrame:
    """Records as a table with all `COLUMNS`."""
    return pl.DataFrame(list(rows), schema={name: column.type for name, column in COLUMNS.items()})


def same_results(one: pl.DataFrame, other: pl.DataFrame) -> bool:
    """Whether two tables of records agree bit for bit in all but times and provenance."""
    return one.select(RESULTS).equals(other.select(RESULTS))


def to_bytes(table: pl.DataFrame) -> bytes:
    """Records as a Parquet file that holds the checksum of its every byte."""
    buffer = BytesIO()
    table.write_parquet(buffer, metadata={"actbench.schema": str(SCHEMA), CHECKSUM: BLANK})
    content = buffer.getvalue()
    if content.count(BLANK.encode()) != 1:
        raise RecordError("records must not hold the text that stands for their checksum")
    return content.replace(BLANK.encode(), hashlib.sha256(content).hexdigest().encode())


def from_bytes(content: bytes) -> pl.DataFrame:
    """The records of a file, after its checksum and format are verified.

    Raises:
        RecordError: A byte is not as it was written, or actbench has not written it.
    """
    try:
        metadata = pl.read_parquet_metadata(BytesIO(content))
    except Exception as error:  # polars has many kinds
        raise RecordError("damaged, or no file of records") from error
    if CHECKSUM not in metadata:
        raise RecordError("not written by actbench")
    checksum = metadata[CHECKSUM].encode()
    before, _, after = content.partition(checksum or b"\0")
    if hashlib.sha256(before + BLANK.encode() + after).hexdigest().encode() != checksum:
        raise RecordError("damaged: its checksum is another")
    if metadata.get("actbench.schema") != str(SCHEMA):
        raise RecordError(f"in format {metadata.get('actbench.schema')}, and this actbench reads format {SCHEMA}")
    try:
        rows = pl.scan_parquet(BytesIO(content)).select(pl.len()).collect().item()
        table = pl.read_parquet(BytesIO(content)) if rows <= ROWS else None
    except Exception as error:  # as above
        raise RecordError("damaged, or no file of records") from error
    if table is None:
        raise RecordError(f"it has {rows:,} rows, and no study has more than {ROWS:,}")
    check(table)
    return table


def check(table: pl.DataFrame) -> None:
    """Refuse, with a RecordError, records that no training gives.

    A checksum tells what was changed by accident, and not who has written a file.
    """
    names = {name: kind for name, kind in NAMES.items() if name in table.columns}
    types = {**{name: column.type for name, column in COLUMNS.items()}, **names}
    for name in dict.fromkeys((*types, *table.columns)):
        if table.schema.get(name) != types.get(name, "unknown"):
            raise RecordError(f"its column {name} is not what actbench writes")
        if name not in UNKNOWN and table[name].null_count():
            raise RecordError(f"its column {name} lacks a value")
    for name, (least, most) in BOUNDS.items():
        if not table[name].drop_nulls().is_between(least, most).all():
            raise RecordError(f"its column {name} has a value that is not from {least:,} to {most:,}")
    check_texts(table)
    if table.select("cell", "seed", *names).is_duplicated().any():
        raise RecordError("it has a seed of a cell twice")


def check_texts(table: pl.DataFrame) -> None:
    """Refuse, with a RecordError, texts and lists that no training gives: `check` for what has no range."""
    for name, kind in table.schema.items():
        if kind == pl.String and name not in ("factors", "config"):
            texts = table[name].drop_nulls().unique()
            if not all(is_shown(text, LONGEST if name in NAMES else 1000) for text in texts):
                raise RecordError(f"its column {name} has a text that is too long, or that cannot be printed")
    epochs = table.select(pl.col("^epoch_(train|val)_.*$").list.len() > pl.col("epochs"))
    if epochs.select(pl.any_horizontal(pl.all()).any()).item():
        raise RecordError("it has more numbers of epochs than epochs")
    curves = table.select("curve_x", "curve_y", "curve_slope")
    lengths = curves.select(pl.all().list.len())
    if not lengths.select(pl.min_horizontal(pl.all()).eq_missing(pl.max_horizontal(pl.all()))).to_series().all():
        raise RecordError("its columns curve_x, curve_y and curve_slope have lists of different lengths")
    finite = curves.select(pl.all().list.eval(pl.element().is_finite().fill_null(False)).list.all())
    if not finite.select(pl.all_horizontal(pl.all().fill_null(True))).to_series().all():
        raise RecordError("its columns curve_x, curve_y and curve_slope have numbers that cannot be drawn")
    if not all(map(CELL.fullmatch, table["cell"].unique())):
        raise RecordError("its column cell has what is no hash of a cell")
    if not all(is_json(text) for name in ("factors", "config") for text in table[name].unique()):
        raise RecordError("its columns factors and config have what is no JSON object")


def is_shown(text: str, most: int = LONGEST) -> bool:
    """Whether tables and pages can show a text: it is not too long, and every letter can be printed."""
    return text.isprintable() and len(text) <= most


def is_json(text: str) -> bool:
    """Whether a text is a JSON object that can be shown: no longer and no deeper than any config, and in Unicode."""
    try:
        value = json.loads(text) if len(text) <= CONFIG else None
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    level, depth = [value], 0
    while level and depth <= DEPTH:
        groups = [of.values() if isinstance(of, dict) else of for of in level if isinstance(of, dict | list)]
        level, depth = [item for group in groups for item in group], depth + 1
    return isinstance(value, dict) and depth <= DEPTH


def write_records(path: Path, table: pl.DataFrame) -> None:
    """Write records whole or not at all, in place of a file that was there; see `whole`."""
    write_whole(path, to_bytes(table))


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write in place of a file; afterwards the file is whole, or as it was before an error such as OSError.

    Its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".unfinished.{uuid4().hex}.{path.name}")  # some formats go by the ending
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    if os.name == "posix":  # the name, too, has to reach the disk
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; see `whole`."""
    with whole(path) as unfinished:
        unfinished.write_bytes(content)


def own_folder(folder: Path, name: str) -> Path:
    """A folder in a study's, for files that are written anew.

    Raises:
        RecordError: A link leads from it to somewhere else, where files would be written or deleted.
    """
    own = folder / name
    link = next((path for path in (own, *own.rglob("*")) if path.is_symlink()), None)
    if link:
        raise RecordError(f"{link} is a link, through which nothing is written: remove it")
    return own


def read_records(path: Path) -> pl.DataFrame:
    """The records of a file; a RecordError names one that is damaged or foreign."""
    if path.exists() and not (path.is_file() and path.stat().st_size <= LARGEST):  # a pipe, a device without an end
        raise RecordError(f"{path}: it is no file, or larger than any of records")
    try:
        return from_bytes(path.read_bytes())
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from error


def named(path: Path) -> tuple[str, range]:
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
        own = named(path)[1]
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
            cell, seeds = named(path)
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
        table, (cell, seeds) = read_records(path), named(path)
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
