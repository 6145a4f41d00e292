"""``report``: what a study's records say, from its folder alone."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table as Grid

from actbench.cli.main import OneLine, fail, printable, shown_path
from actbench.inference.verdict import RECORDS, VERDICT, StudyResults, load_results
from actbench.inference.verdict.changes import changes
from actbench.inference.verdict.pairing import verified
from actbench.records import RecordError
from actbench.report.tables import ReportTable, TableColumn, tables

FORMATS = ("html", "md", "tex", "csv", "json", "png", "svg", "tensorboard")
PAGE = "report.html"
UNLIMITED = 10_000  # width of what is no terminal
SPARE = {  # columns of each table that a narrow terminal does without, the least important first
    "arms": (
        *("parameters", "memory", "val accuracy", "calibration error", "epochs", "an epoch", "test loss", "interval"),
        *("diverged", "sd", "seeds"),
    ),
    "comparisons": (
        *("more pairs", "effect", "with time", "time", "p of equivalence", "p", "P(better)", "pairs", "adjusted p"),
        *("interval", "verdict"),
    ),
    "secondary": ("effect", "pairs", "unit", "interval", "arm against baseline"),
    "standings": ("interval of rank", "interval", "interquartile mean"),
}


def report(words: Sequence[str]) -> int:
    """Recompute a study's verdicts, and write its page or another format; returns the exit status."""
    parser = OneLine("report")
    parser.add_argument("study", type=Path, help="the study's folder, such as studies/digits")
    parser.add_argument("other", type=Path, nargs="?", help="another study's folder: say what changed from the first")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="html: the page, report.html (default); md, tex, csv, json: tables; png, svg: every figure; "
        "tensorboard: its files, as compare writes them",
    )
    chosen = parser.parse_args(words)
    if chosen.other and chosen.format:
        return fail("report: two studies side by side have no format; leave out --format")
    try:
        results = load_results(chosen.study)
        if chosen.other:
            print(*map(printable, changes(results, load_results(chosen.other))), sep="\n")
        elif chosen.format in (None, "html"):
            draw(results, chosen.study, tensorboard=False)
            print_told(results, chosen.study)
        elif chosen.format == "tensorboard":
            draw(results, chosen.study)
            print(f"tensorboard --logdir {shown_path(chosen.study)}")
        else:
            from actbench.report.exports import write_exports

            print(*map(shown_path, write_exports(results, chosen.study, chosen.format)), sep="\n")
    except (RecordError, OSError) as error:
        return fail(" ".join(str(error).split()))
    return 0


def draw(results: StudyResults, folder: Path, *, tensorboard: bool = True) -> None:
    """Write a study's page, and TensorBoard's files."""
    from actbench.report import write_page

    write_page(results, folder)
    if tensorboard:  # importing what they need takes as long as all the rest
        from actbench.report.tensorboard import write_tensorboard

        write_tensorboard(results, folder)


def print_told(results: StudyResults, folder: Path) -> None:
    """Print what a study's records say: the tables of its page, arms first, and the verdicts in words."""
    console = Console(width=None if sys.stdout.isatty() else UNLIMITED, markup=False, emoji=False, highlight=False)
    shown = {table.name: table for table in tables(results)}
    for name, spare in SPARE.items():
        if name in shown:
            console.print(shown[name].title)
            print_table(console, shown[name], spare=spare)
    if results.table["busy"].any():
        print("* others used the machine meanwhile: these times say little")
    if results.conclusion.findings:
        print(
            "P(better): chance to win on a new seed; Bouthillier et al. (2021) ask for .75 before a difference matters"
        )
    alone = results.table["arm"].n_unique() < 2
    pairs = "no pairs: there is one arm" if alone else f"pairs {verified(results.table, results.question.baseline)}"
    print(*(results.faults or [pairs]), *results.sentences, sep="\n")
    print(f"records: {shown_path(folder / RECORDS)}; verdicts: {shown_path(folder / VERDICT)}")
    print(f"page: {shown_path(folder / PAGE)}; tensorboard --logdir {shown_path(folder)}")


def print_table(console: Console, table: ReportTable, *, spare: Sequence[str]) -> None:
    """Print a table in which no number is cut.

    Where the console is too narrow, columns named by ``spare`` are left out in
    their order, which a line below the table says; then text is folded.
    """
    kept, left_out = list(table.columns), []
    for column in [of for name in spare for of in table.columns if of.name == name]:
        unlimited = console.options.update_width(UNLIMITED)
        if console.measure(grid(table, kept), options=unlimited).maximum <= console.width:
            break
        kept.remove(column)
        left_out.append(column.name)
    console.print(grid(table, kept))
    if left_out:
        console.print(f"left out, for the terminal is narrow: {', '.join(left_out)}")


def grid(table: ReportTable, kept: Sequence[TableColumn]) -> Grid:
    """Columns of a table: names and words on the left, numbers on the right."""
    shown = Grid(box=box.SIMPLE)
    for column in kept:
        shown.add_column(
            column.heading,
            justify="right" if column.number else "left",
            no_wrap=column.number,
            overflow="ellipsis" if column.number else "fold",
        )
    for row in table.rows:
        shown.add_row(*(cell.text for column, cell in zip(table.columns, row, strict=True) if column in kept))
    return shown
