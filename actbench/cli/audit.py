"""``audit``: recompute the statistics of a published table, and flag rows that cannot be right."""

import csv
import math
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from actbench.cli.main import CommandParser, fail, printable
from actbench.inference.audit import GOAL, MOST, Audited, Printed, Row, TableError, audit, read_number
from actbench.inference.verdict.words import count
from actbench.records import is_printable

COLUMNS = {
    "name": "name of the row, each once",
    "mean": "mean score over the runs; decimals count, since 87.5 and 87.50 imply different rounding",
    "sd": "standard deviation over the runs, not of the mean",
    "n": "number of runs, that is, seeds",
    "ci_low": "lower bound of the interval of the difference between the row and the baseline",
    "ci_high": "upper bound",
    "p": "p-value of an unpaired t test against the baseline, before any correction; may be <0.001",
    "effect": "Cohen's d or Hedges' g against the baseline",
}
REQUIRED = ("name", "mean", "sd", "n")
LARGEST, MOST_ROWS = 2**22, 1000  # bytes of a table, and rows
BLANK = ("", "-", "–")  # empty cells of an optional column

EPILOG = f"""\
columns of the table, named in its first line; the last four are optional and may be blank:
{chr(10).join(f"  {name:<8} {meaning}" for name, meaning in COLUMNS.items())}

A row is flagged if no numbers that round to the printed ones are consistent, by Student's, Welch's or the normal
computation, one-sided or two-sided, whichever of the two rows was subtracted from the other.

example:
  python main.py audit table.csv --baseline relu
"""


def run_audit(options: Sequence[str]) -> int:
    """Audit a table and print the results; returns the exit status."""
    parser = CommandParser("audit", epilog=EPILOG, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="The table, a CSV file.")
    parser.add_argument("--baseline", help="Name of the row to compare with (default: the first).")
    parser.add_argument("--level", type=float, default=0.95, help="Coverage of the intervals (default: 0.95).")
    parser.add_argument("--alpha", type=float, default=0.05, help="Level of the tests for power (default: 0.05).")
    parser.add_argument(
        "--highest",
        type=float,
        help="Highest possible score, where the lowest is 0; inf for a loss or a time "
        "(default: 1 or 100, the smallest that no mean exceeds, else inf).",
    )
    chosen = parser.parse_args(options)
    try:
        rows, unread = read_table(chosen.table)
        audited = audit(rows, chosen.baseline, level=chosen.level, alpha=chosen.alpha, highest=chosen.highest)
    except TableError as error:
        return fail(error)
    # No number is cut off, even in a narrow terminal, and names are not markup.
    console = Console(width=300, markup=False, emoji=False)
    console.print(audit_table(audited, chosen.level))
    for result in audited:
        for flag in result.flags:
            print(f"{result.row.name}: {flag.why}")
    baseline = next(result.row.name for result in audited if result.implied is None)
    flagged = sum(bool(result.flags) for result in audited)
    compared = sum(not math.isnan(result.adjusted) for result in audited)
    print(
        f"{count(compared, 'comparison')} with {baseline}, unpaired, since a table has no pairs; the unit is the seed; "
        f"power and n are for the difference seen. Rows that cannot be right: {flagged} of {len(audited)}."
    )
    if unread:
        print(f"columns not read: {printable(', '.join(unread)[:1000])}")
    return 0


def audit_table(audited: Sequence[Audited], level: float) -> Table:
    """The printed and implied numbers of all rows."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("name")
    for heading in ("mean", "sd", "n", "difference", f"{100 * level:g} % interval", "d", "p", "Holm p", "power"):
        table.add_column(heading, justify="right")
    table.add_column(f"n for {100 * GOAL:g} %", justify="right")
    table.add_column("cannot be right")
    # A difference has as many decimals as the means, but no more than carry information.
    decimals = min(4, max(len(result.row.mean.text.partition(".")[2]) for result in audited))
    for row, implied, adjusted, flags in audited:
        numbers = ["baseline", *[""] * 6]
        if implied:
            numbers = [f"{implied.difference:z.{decimals}f}", *["-"] * 6]
            if not math.isnan(implied.p):
                numbers[1:] = [
                    f"{implied.low:z.{decimals + 1}f} to {implied.high:z.{decimals + 1}f}",
                    f"{implied.effect:z.2f}",
                    *(f"{p:.4f}" if p >= 1e-4 else "<0.0001" for p in (implied.p, adjusted)),
                    f"{implied.power:.2f}",
                    str(implied.needed or f">{MOST}"),
                ]
        flagged = ", ".join(dict.fromkeys(flag.what for flag in flags))
        table.add_row(row.name, row.mean.text, row.sd.text, row.n.text, *numbers, flagged)
    return table


def read_table(path: Path) -> tuple[list[Row], list[str]]:
    """Rows of a CSV file, and the columns that were not read.

    Raises:
        TableError: The file cannot be read, or is not such a table.
    """
    # A pipe or a device may never end.
    if path.exists() and not path.is_dir() and not (path.is_file() and path.stat().st_size <= LARGEST):
        raise TableError(f"{path} is not a regular file, or larger than any table")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            stripped = ((reader.line_num, [cell.strip() for cell in line]) for line in reader)
            lines = [(number, cells) for number, cells in stripped if any(cells)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise TableError(f"{path}: {reason}") from None
    header = [name.lower() for name in lines[0][1]] if lines else []
    for name in COLUMNS:
        if header.count(name) != 1 and (name in REQUIRED or name in header):
            raise TableError(f"{path}: the first line must name a column {name!r}, once")
    if len(lines) > MOST_ROWS + 1:
        raise TableError(f"{path} has {len(lines) - 1:,} rows, and at most {MOST_ROWS:,} are read")
    rows = []
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise TableError(f"line {number} has {len(cells)} cells, the first line {len(header)}")
        rows.append(read_row(dict(zip(header, cells, strict=True)), number))
        if rows[-1].name in [row.name for row in rows[:-1]]:
            raise TableError(f"line {number}: {rows[-1].name!r} comes twice")
    return rows, [name for name in header if name and name not in COLUMNS]


def read_row(cells: dict[str, str], line: int) -> Row:
    """A row of a table, from the text of each column."""
    numbers: dict[str, Printed] = {}
    for column in list(COLUMNS)[1:]:
        text = cells.get(column, "")
        if column not in REQUIRED and text in BLANK:
            continue
        try:
            if column != "p" and text.startswith("<"):
                raise ValueError(f"{text!r} is not a number")
            numbers[column] = read_number(text)
        except ValueError as error:
            raise TableError(f"line {line}, column {column}: {error}") from None
    if not is_printable(cells["name"]) or not cells["name"]:
        raise TableError(f"line {line} has no name, or one that is too long or cannot be printed")
    if ("ci_low" in numbers) != ("ci_high" in numbers):
        raise TableError(f"line {line} has half an interval")
    return Row(cells["name"], **numbers)
