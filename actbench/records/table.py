"""The columns of a record, and records as a Parquet file with a checksum."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from actbench.records.files import RecordError, replace_file
from actbench.records.mechanism import (
    COLUMN_OF,
    LAYERS,
    MECHANISM,
    RANK,
    SITES,
    STATISTICS,
    TIMES,
    check_mechanism,
)

SCHEMA = 1
CHECKSUM = "actbench.sha256"
LONGEST = 200  # characters of a name
CONFIG, DEPTH = 2_000_000, 50  # characters of a config as JSON, and its depth
LARGEST, ROWS = 2**29, 250_000  # bytes of a file, and replicates
BLANK = "0" * 64  # placeholder of the checksum while it is computed


class Column(NamedTuple):
    """A column of the records. Columns of ``provenance`` (how, where and when) may differ between equal results."""

    type: pl.DataType | type[pl.DataType]
    meaning: str
    provenance: bool = False


COLUMNS = {
    # What was trained.
    "cell": Column(pl.String, "hash of all that determines the results of the cell except the seed"),
    "dataset": Column(pl.String, "class path of the DataModule"),
    "network": Column(pl.String, "class path of the network"),
    "activation": Column(pl.String, "class path of the activation"),
    "factors": Column(pl.String, "JSON of all that determines the results: classes, arguments, settings"),
    "seed": Column(pl.Int64, "the replicate's seed"),
    # Results.
    "weights": Column(pl.String, "which weights were scored: last, or best by the replicate's own val/loss"),
    "val_accuracy": Column(pl.Float64, "accuracy on val of the weights that were scored, a fraction"),
    "val_loss": Column(pl.Float64, "mean cross-entropy on val, in nats"),
    "val_ece": Column(pl.Float64, "expected calibration error on val over 15 bins, a fraction"),
    "val_rows": Column(pl.Int64, "rows of val that were scored; null before 0.2 or without a val part", True),
    "val_guess": Column(pl.Float64, "share of val's most frequent class, a fraction; null as val_rows", True),
    "test_accuracy": Column(pl.Float64, "accuracy on test, scored once, a fraction"),
    "test_loss": Column(pl.Float64, "mean cross-entropy on test, in nats"),
    "test_ece": Column(pl.Float64, "expected calibration error on test over 15 bins, a fraction"),
    "epochs": Column(pl.Int64, "epochs that were trained"),
    "epoch_train_loss": Column(pl.List(pl.Float64), "mean loss on train while the weights change, each epoch, in nats"),
    "epoch_val_loss": Column(pl.List(pl.Float64), "loss on val at each epoch's last validation, in nats"),
    "epoch_val_accuracy": Column(pl.List(pl.Float64), "accuracy on val at each epoch's last validation, a fraction"),
    "epoch_val_ece": Column(
        pl.List(pl.Float64), "calibration error on val at each epoch's last validation, a fraction"
    ),
    "diverged": Column(pl.Boolean, "whether a loss was NaN or infinite"),
    "diverged_epoch": Column(pl.Int64, "number of the first such epoch, from 0"),
    "classes": Column(pl.Int64, "classes that the network tells apart"),
    "curve_x": Column(pl.List(pl.Float64), "inputs at which the activation is drawn, after training"),
    "curve_y": Column(pl.List(pl.Float64), "its outputs there, at its first place; null if it has several shapes"),
    "curve_slope": Column(pl.List(pl.Float64), "its slopes there"),
    "parameters": Column(pl.Int64, "trainable parameters of one replicate"),
    "init_fingerprint": Column(pl.String, "hash of the initial weights, without those of the activations"),
    "order_fingerprint": Column(pl.String, "hash of split and first epoch's batches; null if they are not known"),
    # Mechanism, if it was measured; see docs/mechanism.md. It changes no result, so it may be there or not.
    SITES: Column(pl.List(pl.String), "calls of the activation, in the order of a forward pass; else null", True),
    LAYERS: Column(pl.List(pl.String), "the layer with weights before each call, such as convolution 3", True),
    TIMES: Column(pl.List(pl.Int64), "epochs after which the mechanism was measured; 0 is before the first step", True),
    **{
        COLUMN_OF[name]: Column(pl.List(pl.List(pl.Float64)), f"{statistic.meaning}, by epoch and call", True)
        for name, statistic in STATISTICS.items()
    },
    COLUMN_OF["rank"]: Column(pl.List(pl.Float64), f"{RANK.meaning}, by epoch", True),
    # Cost and provenance.
    "epoch_time_s": Column(pl.Float64, "seconds of a training epoch, over the replicates that ran together", True),
    "examples_per_s": Column(pl.Float64, "training images per second, of all replicates that ran together", True),
    "peak_memory_mb": Column(pl.Float64, "most memory of process or GPU's tensors, MiB; null if not known", True),
    "replicates_together": Column(pl.Int64, "replicates of the fit", True),
    "load_before": Column(pl.Float64, "processes that wanted to run in the minute before the fit, per core", True),
    "load_after": Column(pl.Float64, "the same, after the fit", True),
    "busy": Column(pl.Boolean, "whether others used the machine, so that times say little", True),
    "device": Column(pl.String, "name of the processor or GPU", True),
    "threads": Column(pl.Int64, "threads of the fit", True),
    "engine": Column(
        pl.String, "stack, compiled stack or sequence, how replicates were trained; null before 0.2", True
    ),
    "engine_reason": Column(pl.String, "why by this engine, and whether recorded steps were replayed", True),
    "swap": Column(pl.String, "JSON of what was swapped in someone's network; null if it takes the activation", True),
    "started": Column(pl.String, "when the fit started, UTC, ISO 8601", True),
    "actbench_version": Column(pl.String, "version of actbench", True),
    "torch_version": Column(pl.String, "version of torch", True),
    "lightning_version": Column(pl.String, "version of pytorch-lightning", True),
    "python_version": Column(pl.String, "version of Python", True),
    "commit": Column(pl.String, "of the working directory, + if files were changed; null outside git", True),
    "config": Column(pl.String, "JSON of the fit's resolved config", True),
}
# Columns that a study adds.
NAMES = {"arm": pl.String, "dataset_name": pl.String, "network_name": pl.String, "value": pl.Float64}
ADDED = (
    "engine",
    "engine_reason",
    "swap",
    "val_rows",
    "val_guess",
    *MECHANISM,
)  # columns that records of earlier versions lack
JSON = ("factors", "config", "swap")  # columns of JSON objects
NULLABLE = {
    *(f"{part}val_{name}" for part in ("", "epoch_") for name in ("accuracy", "loss", "ece")),
    *("diverged_epoch", "curve_x", "curve_y", "curve_slope", "order_fingerprint", "epoch_time_s", "examples_per_s"),
    *("peak_memory_mb", "load_before", "load_after", "busy", "commit", *ADDED),
}
BOUNDS = {  # least and largest value
    **dict.fromkeys(("val_accuracy", "val_guess", "test_accuracy"), (0, 1)),
    **dict.fromkeys(("seed", "parameters"), (0, 2**62)),
    **dict.fromkeys(("epochs", "diverged_epoch"), (0, 10_000_000)),
    **dict.fromkeys(("examples_per_s", "peak_memory_mb", "load_before", "load_after"), (0, 1e12)),
    "epoch_time_s": (1e-12, 1e12),
    **dict.fromkeys(("val_rows", "classes", "replicates_together", "threads"), (1, 2**31)),
}
CELL = re.compile(r"[0-9a-f]{32}")
RESULTS = [name for name, column in COLUMNS.items() if not column.provenance]


def fingerprint(value: Any) -> str:
    """Hash of plain values, the same in every process: 32 hexadecimal digits."""
    return hashlib.sha256(json_text(value).encode()).hexdigest()[:32]


def json_text(value: Any) -> str:
    """Plain values as JSON in one canonical form, in which infinite numbers and NaN are strings."""
    return json.dumps(with_finite_numbers(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def with_finite_numbers(value: Any) -> Any:
    """Plain values with infinite numbers and NaN, which JSON cannot hold, as strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: with_finite_numbers(item) for key, item in value.items()}
    return [with_finite_numbers(item) for item in value] if isinstance(value, list | tuple) else value


def to_frame(rows: Iterable[dict[str, Any]]) -> pl.DataFrame:
    """Records as a table with all `COLUMNS`."""
    return pl.DataFrame(list(rows), schema={name: column.type for name, column in COLUMNS.items()})


def same_results(first: pl.DataFrame, second: pl.DataFrame) -> bool:
    """Whether two tables of records agree bit for bit except in times and provenance."""
    return first.select(RESULTS).equals(second.select(RESULTS))


def to_bytes(table: pl.DataFrame) -> bytes:
    """Records as a Parquet file that holds a checksum over all of its bytes."""
    buffer = BytesIO()
    table.write_parquet(buffer, metadata={"actbench.schema": str(SCHEMA), CHECKSUM: BLANK})
    content = buffer.getvalue()
    if content.count(BLANK.encode()) != 1:
        raise RecordError("records must not hold the placeholder of their checksum")
    return content.replace(BLANK.encode(), hashlib.sha256(content).hexdigest().encode())


def from_bytes(content: bytes) -> pl.DataFrame:
    """The records of a file, after its checksum and format are verified.

    Raises:
        RecordError: The file was changed, or actbench did not write it.
    """
    try:
        metadata = pl.read_parquet_metadata(BytesIO(content))
    except Exception as error:  # polars raises many kinds
        raise RecordError("damaged, or not a file of records") from error
    if CHECKSUM not in metadata:
        raise RecordError("not written by actbench")
    checksum = metadata[CHECKSUM].encode()
    start = content.find(checksum)
    actual = hashlib.sha256()
    for part in (memoryview(content)[:start], BLANK.encode(), memoryview(content)[start + len(checksum) :]):
        actual.update(part)  # nothing is copied, because the file may be large
    if actual.hexdigest().encode() != checksum:
        raise RecordError("damaged: its checksum does not match")
    if metadata.get("actbench.schema") != str(SCHEMA):
        raise RecordError(f"in format {metadata.get('actbench.schema')}, and this actbench reads format {SCHEMA}")
    try:
        rows = pl.scan_parquet(BytesIO(content)).select(pl.len()).collect().item()
        table = pl.read_parquet(BytesIO(content)) if rows <= ROWS else None
    except Exception as error:  # as above
        raise RecordError("damaged, or not a file of records") from error
    if table is None:
        raise RecordError(f"it has {rows:,} rows, and no study has more than {ROWS:,}")
    missing = [name for name in ADDED if name not in table.columns]
    if missing and {*COLUMNS} <= {*table.columns, *missing}:
        table = table.with_columns(pl.lit(None, COLUMNS[name].type).alias(name) for name in missing)
        table = table.select(*(name for name in table.columns if name not in COLUMNS), *COLUMNS)
    check(table)
    return table


def check(table: pl.DataFrame) -> None:
    """Raise a RecordError for records that no training writes.

    The checksum detects accidental changes, but says nothing of who wrote the file.
    """
    labels = {name: dtype for name, dtype in NAMES.items() if name in table.columns}
    types = {**{name: column.type for name, column in COLUMNS.items()}, **labels}
    schema = table.schema
    for name in dict.fromkeys((*types, *schema)):
        if schema.get(name) != types.get(name, "unknown"):
            raise RecordError(f"its column {name} is not what actbench writes")
    nulls = table.null_count().row(0, named=True)
    for name in types:
        if name not in NULLABLE and nulls[name]:
            raise RecordError(f"its column {name} lacks a value")
    within = table.select(pl.col(name).is_between(*bounds).all() for name, bounds in BOUNDS.items()).row(0, named=True)
    for name, (least, most) in BOUNDS.items():
        if not within[name]:
            raise RecordError(f"its column {name} has a value outside {least:,} to {most:,}")
    check_texts(table)
    check_lists(table)
    check_mechanism(table)
    if table.select("cell", "seed", *labels).is_duplicated().any():
        raise RecordError("it has a seed of a cell twice")


def check_texts(table: pl.DataFrame) -> None:
    """Raise a RecordError for strings that no training writes."""
    for name, dtype in table.schema.items():
        if dtype == pl.String and name not in JSON:
            texts = table[name].drop_nulls().unique()
            if not all(is_printable(text, LONGEST if name in NAMES else 1000) for text in texts):
                raise RecordError(f"its column {name} has a text that is too long, or that cannot be printed")
    if not all(map(is_printable, table.select(pl.concat_list(SITES, LAYERS).explode()).to_series().drop_nulls())):
        raise RecordError(f"its columns {SITES} and {LAYERS} have a text that is too long, or that cannot be printed")
    if not all(map(CELL.fullmatch, table["cell"].unique())):
        raise RecordError("its column cell has a value that is not the hash of a cell")
    if not all(is_json(text) for name in JSON for text in table[name].drop_nulls().unique()):
        raise RecordError(f"its columns {', '.join(JSON)} have a value that is not a JSON object")


def check_lists(table: pl.DataFrame) -> None:
    """Raise a RecordError for lists that no training writes."""
    excess = table.select(pl.col("^epoch_(train|val)_.*$").list.len() > pl.col("epochs"))
    if excess.select(pl.any_horizontal(pl.all()).any()).item():
        raise RecordError("it has more scores of epochs than epochs")
    curves = table.select("curve_x", "curve_y", "curve_slope")
    lengths = curves.select(pl.all().list.len())
    if not lengths.select(pl.min_horizontal(pl.all()).eq_missing(pl.max_horizontal(pl.all()))).to_series().all():
        raise RecordError("its columns curve_x, curve_y and curve_slope have lists of different lengths")
    finite = curves.select(pl.all().list.eval(pl.element().is_finite().fill_null(False)).list.all())
    if not finite.select(pl.all_horizontal(pl.all().fill_null(True))).to_series().all():
        raise RecordError("its columns curve_x, curve_y and curve_slope have numbers that cannot be drawn")


def is_printable(text: str, most: int = LONGEST) -> bool:
    """Whether tables and pages can show a text: it has at most ``most`` characters, all of which can be printed."""
    return text.isprintable() and len(text) <= most


def is_json(text: str) -> bool:
    """Whether a text is a JSON object in valid Unicode, no longer and no deeper than any config."""

    def parse_int(digits: str) -> int:
        if len(digits) > 300:  # as large as a float may be
            raise ValueError(f"a number of {len(digits)} digits")
        return int(digits)

    try:
        value = json.loads(text, parse_int=parse_int) if len(text) <= CONFIG else None
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    level, depth = [value], 0
    while level and depth <= DEPTH:
        groups = [node.values() if isinstance(node, dict) else node for node in level if isinstance(node, dict | list)]
        level, depth = [item for group in groups for item in group], depth + 1
    return isinstance(value, dict) and depth <= DEPTH


def write_records(path: Path, table: pl.DataFrame) -> None:
    """Write records to a file, whole or not at all; see `replacing`."""
    replace_file(path, to_bytes(table))


def read_records(path: Path) -> pl.DataFrame:
    """The records of a file; a RecordError names a file that is damaged or foreign."""
    if path.exists() and not (path.is_file() and path.stat().st_size <= LARGEST):  # a pipe or device may never end
        raise RecordError(f"{path}: not a regular file, or larger than any file of records")
    try:
        return from_bytes(path.read_bytes())
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from error
