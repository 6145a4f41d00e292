"""``audit``: recompute the statistics of a published table, and flag rows that cannot be right."""

import math
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from actbench.cli.main import CommandParser, fail, printable
from actbench.inference.audit import COLUMNS, GOAL, KINDS, MOST, Audited, TableError, audit, read_table
from actbench.inference.verdict.phrases import count

EPILOG = f"""\
columns of the table, named in its head; all but the name, a mean and a spread are optional and may be blank:
{chr(10).join(f"  {name:<8} {meaning}" for name, meaning in COLUMNS.items())}

The table may have commas, semicolons or tabs, or be Markdown or LaTeX. Instead of a mean and an sd, cells may be
printed as 87.48 ± 0.40, 87.48 (0.40) or $87.48 \\pm 0.40$, also in a column for each dataset; then --runs says how
many runs there were. Names of datasets may stand in merged cells, over the columns that belong to them.

A row is flagged if no numbers that round to the printed ones are consistent, by Student's, Welch's or the normal
computation, one-sided or two-sided, whichever of the two rows was subtracted from the other.
If another reading of the table makes them consistent, such as a standard error in place of an sd, it is named.

example:
  python main.py audit table.csv --baseline relu
  python main.py audit table.tex --runs 5 --spread se
"""


def run_audit(options: Sequence[str]) -> int:
    """Audit a table and print the results; returns the exit status."""
    parser = CommandParser("audit", epilog=EPILOG, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="The table: separated values, Markdown or LaTeX.")
    parser.add_argument("--baseline", help="Name of the row to compare with (default: the first).")
    parser.add_argument(
        "--spread",
        choices=list(KINDS),
        help="What the spreads are: standard deviations, standard errors, or half-widths of an interval "
        "(default: what their column is named, and sd after ±).",
    )
    parser.add_argument("--runs", type=int, help="Number of runs of each row that does not say it.")
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
        table = read_table(chosen.table, spread=chosen.spread, runs=chosen.runs)
        audited = audit(table.rows, chosen.baseline, level=chosen.level, alpha=chosen.alpha, highest=chosen.highest)
    except TableError as error:
        return fail(error)
    # No number is cut off, even in a narrow terminal, and names are not markup.
    console = Console(width=300, markup=False, emoji=False)
    console.print(audit_table(audited, chosen.level))
    print_findings(audited)
    if table.assumed:
        print("spreads are read as standard deviations; --spread says if they are not")
    if table.unread:
        print(f"columns not read: {printable(', '.join(table.unread)[:1000])}")
    return 0


def print_findings(audited: Sequence[Audited]) -> None:
    """Print what is wrong with the rows, how their published comparisons were computed, and how many rows are what."""
    ways = dict[str, list[str]]()
    for row, _, _, flags, found in audited:
        for flag in flags:
            fits = f"; it fits if {' or '.join(flag.fits)}" if flag.fits else ""
            print(f"{row.label}: {flag.why}{fits}")
        for what, way in found.items():
            ways.setdefault(way, []).append(f"{row.label} ({what})")
    for way, places in ways.items():
        if way not in ("Welch's test", "the test of one sample"):
            print(f"computed by {way}: {', '.join(places)}")
    fixed = [result.row.label for result in audited if not result.row.spread]
    if fixed:
        print(f"without a spread, taken as fixed numbers in tests of one sample: {', '.join(fixed)}")
    bases = " or ".join(dict.fromkeys(result.row.name for result in audited if result.implied is None))
    wrong = sum(any(not flag.fits for flag in result.flags) for result in audited)
    otherwise = sum(bool(result.flags) for result in audited) - wrong
    compared = sum(not math.isnan(result.adjusted) for result in audited)
    print(
        f"{count(compared, 'comparison')} with {bases}, unpaired, since a table has no pairs; the unit is the seed; "
        f"power and n are for the difference seen. Rows that cannot be right: {wrong} of {len(audited)}"
        f"{f'; right only if read otherwise: {otherwise}' if otherwise else ''}."
    )


def audit_table(audited: Sequence[Audited], level: float) -> Table:
    """The printed and implied numbers of all rows."""
    table = Table(box=box.SIMPLE_HEAD)
    datasets = any(result.row.dataset for result in audited)
    for heading in ("dataset", "name") if datasets else ("name",):
        table.add_column(heading)
    for heading in (
        "mean",
        audited[0].row.kind,
        "n",
        "difference",
        f"{100 * level:g} % interval",
        "d",
        "p",
        "Holm p",
        "power",
    ):
        table.add_column(heading, justify="right")
    table.add_column(f"n for {100 * GOAL:g} %", justify="right")
    table.add_column("cannot be right")
    # A difference has as many decimals as the means, but no more than carry information.
    decimals = min(4, max(len(result.row.mean.text.partition(".")[2]) for result in audited))
    for row, implied, adjusted, flags, _ in audited:
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
        flagged = ", ".join(dict.fromkeys(flag.what for flag in flags if not flag.fits))
        names = (row.dataset, row.name) if datasets else (row.name,)
        printed = (number.text if number else "-" for number in (row.spread, row.n))
        table.add_row(*names, row.mean.text, *printed, *numbers, flagged)
    return table
