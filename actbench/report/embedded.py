"""The records of a study inside its page: columns in JSON, for the curves of single seeds and for the CSV download."""

import json
import math
from typing import Any, NamedTuple

import polars as pl
from markupsafe import Markup

from actbench.inference.verdict import StudyResults
from actbench.records import MECHANISM
from actbench.report.figures.curves import SCORES, SHAPES

MOST_VALUES = 100_000  # of all curves; of more, each arm keeps the same number of its first seeds
MOST_ROWS = 10_000  # records; of more, the page offers no download
DIGITS = 6  # significant digits of the values in lists
LEVELS = 0.5  # share of rows up to which a column's distinct values are stored once


class EmbeddedRecords(NamedTuple):
    """Columns, whether a reader can download the records, and the seeds of each arm whose curves the page holds."""

    columns: dict[str, Any]
    records: bool
    seeds: int | None  # None for all


def embed_records(results: StudyResults) -> EmbeddedRecords:
    """The records, as far as the page has room for them.

    A column is ``{"values": [...]}``, or ``{"levels": [...], "codes": [...]}``
    where values repeat. NaN and infinities, which JSON lacks, are text outside
    lists and null inside.
    """
    # The mechanism has a list for each call and epoch, which no curve shows and no table of replicates holds.
    table, seeds = thin_curves(results.table.drop(MECHANISM).sort("seed", maintain_order=True))
    records = len(table) <= MOST_ROWS
    if not records:
        table = table.filter(pl.any_horizontal(pl.col(list(SCORES)).is_not_null()))
        table = table.select("arm", "dataset_name", "network_name", "seed", *SCORES)
    return EmbeddedRecords({name: pack_column(table[name]) for name in table.columns}, records, seeds)


def thin_curves(table: pl.DataFrame) -> tuple[pl.DataFrame, int | None]:
    """Records with the curves of as many seeds of each arm as there is room for, and that number; None for all."""
    lists = [name for name, kind in table.schema.items() if isinstance(kind, pl.List)]
    lengths = {name: int(table[name].list.len().sum() or 0) for name in lists}
    if sum(lengths.values()) <= MOST_VALUES:
        return table, None
    curves = [name for name in lists if name not in SHAPES]
    total = max(sum(lengths[name] for name in curves), MOST_VALUES)
    keys = ["dataset_name", "network_name", "arm"]
    most: Any = table.group_by(keys).len()["len"].max()
    seeds = max(1, int(most * MOST_VALUES / total))
    kept = pl.int_range(pl.len()).over(keys) < seeds
    table = table.drop(SHAPES, strict=False)
    return table.with_columns(pl.when(kept).then(pl.col(curves))), seeds if seeds < most else None


def pack_column(column: pl.Series) -> dict[str, Any]:
    """A column in plain values; see `embed_records`."""
    values: list[Any]
    if isinstance(column.dtype, pl.List):
        rounded = column.list.eval(pl.when(pl.element().is_finite()).then(pl.element().round_sig_figs(DIGITS)))
        values = [None if curve is None else tuple(curve) for curve in rounded.to_list()]
    else:
        values = [str(value) if isinstance(value, float) and not math.isfinite(value) else value for value in column]
    levels = list(dict.fromkeys(values))
    if len(levels) > LEVELS * len(values):
        return {"values": values}
    codes = {value: code for code, value in enumerate(levels)}
    return {"levels": levels, "codes": [codes[value] for value in values]}


def json_in_page(content: Any) -> Markup:
    """JSON for a script element; characters that HTML or JavaScript could misread are escaped."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate({ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}))
