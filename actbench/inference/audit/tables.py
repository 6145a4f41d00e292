"""Published tables, as they are printed, read as rows."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from actbench.inference.audit.columns import MEANINGS, column_name
from actbench.inference.audit.heads import with_one_head
from actbench.inference.audit.layouts import (
    BLANK,
    P_VALUE,
    TextLine,
    bare,
    decimal_comma,
    read_cell,
    split_lines,
)
from actbench.inference.audit.rows import KINDS, Kind, Printed, Row, TableError, read_number
from actbench.records import is_printable

ACTIVATIONS = (
    "relu",
    "leakyrelu",
    "prelu",
    "elu",
    "selu",
    "gelu",
    "swish",
    "silu",
    "mish",
    "tanh",
    "sigmoid",
    "softplus",
)
LARGEST_FILE, MOST_ROWS = 2**22, 1000  # bytes of a table, and rows


class PublishedTable(NamedTuple):
    """Rows of a table, the columns that were not read, and whether nobody says what the spreads are."""

    rows: list[Row]
    unread: list[str]
    assumed: bool


class Layout(NamedTuple):
    """Which columns of a table hold what."""

    places: dict[str, int]  # of the columns with a known meaning
    scores: dict[str, int]  # columns of means, by dataset, or by name in a transposed table
    transposed: bool  # whether lines are datasets, and columns are activations
    unread: list[str]


def read_table(path: Path, *, spread: Kind | None = None, runs: int | None = None) -> PublishedTable:
    """Read a table of comma, semicolon or tab separated values, of Markdown or of LaTeX.

    A table has a row for each activation, or for each activation on each dataset;
    or a column for each dataset, with cells such as ``87.48 ± 0.40``; or a column
    for each activation, if its first column is named ``dataset`` or columns are named
    like activations. Names of columns may stand in several lines, the upper ones over
    several columns each.

    Args:
        path: The file.
        spread: What the spreads are. By default, what the name of their column says, and standard deviations after ±.
        runs: The number of runs of rows that do not say it.

    Raises:
        TableError: The file cannot be read, or is not such a table.
    """
    # A pipe or a device may never end.
    if path.exists() and not path.is_dir() and not (path.is_file() and path.stat().st_size <= LARGEST_FILE):
        raise TableError(f"{path} is not a regular file, or larger than any table")
    if runs is not None and runs < 1:
        raise TableError(f"the number of runs must be at least 1, got {runs}")
    try:
        lines = with_one_head(split_lines(path.read_text(encoding="utf-8-sig")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise TableError(f"{path}: {reason}") from None
    header, *body = lines or [TextLine(1, [])]
    try:
        layout = find_columns(header.cells, body)
    except ValueError as error:
        raise TableError(f"{path}: {error}") from None
    if len(body) * len(layout.scores) > MOST_ROWS:
        raise TableError(f"{path} has {len(body) * len(layout.scores):,} rows, and at most {MOST_ROWS:,} are read")
    body = with_points(body, header.cells, layout)
    kinds = [kind for kind in KINDS if kind in layout.places]
    kind: Kind = spread or (kinds[0] if kinds else "sd")
    found = [(line.number, row) for line in body for row in read_line(line, header.cells, layout, kind, runs)]
    check_rows(found)
    datasets = list(dict.fromkeys(row.dataset for _, row in found))
    rows = sorted((row for _, row in found), key=lambda row: datasets.index(row.dataset))
    return PublishedTable(rows, layout.unread, spread is None and not kinds)


def find_columns(header: Sequence[str], body: Sequence[TextLine]) -> Layout:
    """Which columns hold what; a ValueError says which column is missing or comes twice."""
    meanings = [MEANINGS.get(column_name(cell)) for cell in header]
    activations = sum(re.sub(r"\W|_", "", cell.lower()) in ACTIVATIONS for cell in header[1:])
    transposed = (meanings[:1] == ["dataset"] or activations > 1) and not {"name", "mean"} & set(meanings[1:])
    if "name" not in meanings and meanings[:1] in ([None], ["dataset"]):
        meanings[0] = "name"
    for name in dict.fromkeys(("name", *filter(None, meanings))):
        if meanings.count(name) != 1:
            raise ValueError(f"the first line must name a column {name!r}, once")
    places = {name: index for index, name in enumerate(meanings) if name}
    others = {cell: index for index, cell in enumerate(header) if cell and meanings[index] is None}
    scores = {"": places["mean"]} if "mean" in places else find_scores(header, body, places, others)
    unread = [str(kind) for kind in KINDS if kind in places][1:]
    if transposed or len(scores) > 1:
        if "dataset" in places:
            raise ValueError(f"datasets are named in a column, and by the columns {', '.join(scores)}")
        unread += [name for name in ("ci_low", "ci_high", "p", "effect") if name in places]
    elif "mean" not in places:
        scores = {"": next(iter(scores.values()))}
    kept = {name: index for name, index in places.items() if name not in unread}
    unread += [cell for cell, index in others.items() if index not in scores.values()]
    return Layout(kept, scores, transposed, unread)


def find_scores(
    header: Sequence[str], body: Sequence[TextLine], places: Mapping[str, int], others: Mapping[str, int]
) -> dict[str, int]:
    """Columns of means, none of which is named so; a ValueError says what is missing."""
    spread_column = any(kind in places for kind in KINDS)
    scores = {cell: index for cell, index in others.items() if holds_scores(body, index, alone=spread_column)}
    if spread_column and len(scores) != 1:
        raise ValueError("the first line must name a column 'mean', once")
    if not scores:
        raise ValueError("the first line must name a column 'mean', or columns have cells such as 87.48 ± 0.40")
    for cell in scores:
        if header.count(cell) > 1:
            raise ValueError(f"two columns are named {cell!r}")
    return scores


def holds_scores(body: Sequence[TextLine], index: int, *, alone: bool) -> bool:
    """Whether a column holds means, each alone or at least one with a spread."""
    cells = [bare(line.cells[index]) for line in body]
    found = [read_cell(cell) for cell in cells if cell.lower() not in BLANK]
    return bool(found) and (None not in found if alone else any(reading and reading.spread for reading in found))


def with_points(body: Sequence[TextLine], header: Sequence[str], layout: Layout) -> list[TextLine]:
    """The lines without markup in their numbers, and with decimal points."""
    names = {layout.places[name] for name in ("name", "dataset") if name in layout.places}
    numbers = {*layout.places.values(), *layout.scores.values()} - names
    lines = [
        line._replace(cells=[bare(cell) if index in numbers else cell for index, cell in enumerate(line.cells)])
        for line in body
    ]
    found = [(f"line {line.number}, column {header[index]}", line.cells[index]) for line in lines for index in numbers]
    if not decimal_comma(found):
        return lines
    return [
        line._replace(
            cells=[cell.replace(",", ".") if index in numbers else cell for index, cell in enumerate(line.cells)]
        )
        for line in lines
    ]


def read_line(line: TextLine, header: Sequence[str], layout: Layout, kind: Kind, runs: int | None) -> list[Row]:
    """The rows of a line, of which a table with several columns of means has several."""
    cells = {name: line.cells[index] for name, index in layout.places.items()}
    numbers = dict[str, Printed]()
    for column in ("sd", "se", "ci", "n", "ci_low", "ci_high", "p", "effect"):
        text = cells.get(column, "")
        if text.lower() not in BLANK:
            where = f"line {line.number}, column {header[layout.places[column]]}"
            numbers["spread" if column in KINDS else column] = read_column(text, where, column)
    if ("ci_low" in numbers) != ("ci_high" in numbers):
        raise TableError(f"line {line.number} has half an interval")
    rows = []
    for score, index in layout.scores.items():
        if len(layout.scores) > 1 and line.cells[index].lower() in BLANK:  # not reported
            continue
        name, dataset = cells["name"], cells.get("dataset", score)
        if layout.transposed:
            name, dataset = dataset, name
        if not name or not is_printable(name) or not is_printable(dataset):
            raise TableError(f"line {line.number} has no name, or one that is too long or cannot be printed")
        found = read_mean(line.cells[index], f"line {line.number}, column {header[index]}", numbers.get("spread"))
        percent = found.percent or "%" in header[index]
        spreads = [kind for kind in KINDS if kind in cells]
        signed = next((cells[one] for one in spreads if "%" in cells[one] + header[layout.places[one]]), None)
        if signed and not percent and abs(found.numbers["mean"].value) <= 1:
            mean = found.numbers["mean"].text
            raise TableError(
                f"line {line.number}: its spread {signed} is in per cent, its mean {mean} has no such sign"
            )
        values = numbers | found.numbers
        if runs is not None and "spread" in values:
            values.setdefault("n", read_number(str(runs)))
        rows.append(Row(name, **values, kind=kind, dataset=dataset, percent=percent))
    return rows


class Found(NamedTuple):
    """The mean of a cell, beside it the spread if there is one, and whether there is a per cent sign."""

    numbers: dict[str, Printed]
    percent: bool


def read_mean(text: str, where: str, spread: Printed | None) -> Found:
    """A cell with a mean, whose spread stands in the cell or in another column."""
    try:
        reading = read_cell(text)
        if reading is None:
            raise ValueError(f"{text!r} is not a number")
        if reading.doubtful:
            raise ValueError(f"the brackets of {text!r} may hold a count or the last digits; write 87.48 ± 0.40")
        if reading.spread and spread:
            raise ValueError(f"{text!r} has a spread, and so has another column")
        spreads = {"spread": read_number(reading.spread)} if reading.spread else {}
        return Found({"mean": read_number(reading.mean), **spreads}, reading.percent)
    except ValueError as error:
        raise TableError(f"{where}: {error}") from None


def read_column(text: str, where: str, column: str) -> Printed:
    """The number of a column that holds neither means nor names."""
    try:
        if column == "p" and (found := P_VALUE.fullmatch(text)):
            sign = {"≤": "<", "⩽": "<", "≥": ">", "⩾": ">", "=": ""}.get(found["sign"], found["sign"])
            return read_number(sign + found["number"])
        number = text.removesuffix("%").rstrip() if column in (*KINDS, "ci_low", "ci_high") else text
        if column == "p" or number[:1] in "<>":
            raise ValueError(f"{text!r} is not a number")
        return read_number(number)
    except ValueError as error:
        raise TableError(f"{where}: {error}") from None


def check_rows(found: Sequence[tuple[int, Row]]) -> None:
    """Raise a TableError if a row comes twice in a dataset, or if means are in per cent and in fractions."""
    seen = set[tuple[str, str]]()
    percents = {row.dataset: row for _, row in found if row.percent}
    for number, row in found:
        where = f"line {number}: {row.label!r}"
        if (row.dataset, row.name) in seen:
            raise TableError(f"{where} comes twice")
        seen.add((row.dataset, row.name))
        if row.dataset in percents and not row.percent and abs(row.mean.value) <= 1:
            other = percents[row.dataset]
            raise TableError(
                f"{where} has a mean of {row.mean.text}, and {other.name!r} one of {other.mean.text} per cent"
            )
