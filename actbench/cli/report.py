"""``report``: the results of a study, from its folder alone."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from actbench.cli.console import UNLIMITED, table_console
from actbench.cli.main import CommandParser, fail, printable, shown_path
from actbench.inference.verdict import RECORDS, VERDICT, StudyResults, load_results
from actbench.inference.verdict.changes import study_changes
from actbench.inference.verdict.pairing import pairing_sentence
from actbench.records import RecordError
from actbench.report.cells import ReportTable, TableColumn
from actbench.report.tables import tables

FORMATS = ("html", "md", "tex", "csv", "json", "png", "svg", "tensorboard")
PAGE = "report.html"
SPARE = {  # columns of each table that are left out in a narrow terminal, the least important first
    "arms": (
        *("parameters", "memory", "val accuracy", "calibration error", "epochs", "an epoch", "test loss", "interval"),
        *("diverged", "sd", "failed", "seeds"),
    ),
    "comparisons": (
        *(
            "more pairs",
            "effect",
            "median",
            "with time",
            "p of equivalence",
            "p",
            "P(better)",
            "pairs",
            "adjusted p",
        ),
        *("interval", "verdict"),
    ),
    "failures": (
        *("interval of rates", "adjusted p", "rates", "interval", "adjusted p of rates", "pairs"),
        *("all seeds", "both train", "where both train", "arm fails", "difference"),
    ),
    "variance": ("replicates", "degrees of freedom", "failed", "interval of share", "interval", "sd"),
    "secondary": ("effect", "pairs", "unit", "interval", "arm against baseline"),
    "ledger": ("judged", "fails", "pairs", "remarks", "interval", "level"),
    "standings": ("interval of rank", "interval", "interquartile mean"),
    "cost": (
        *("formula", "monotone", "curve", "range", "trainable", "compiled bfloat16", "bfloat16", "compiled", "growth"),
        *("step", "gain"),
    ),
}


def run_report(options: Sequence[str]) -> int:
    """Recompute a study's verdicts, and write its page or another format; returns the exit status."""
    parser = CommandParser("report")
    parser.add_argument("study", type=Path, help="the study's folder, such as studies/digits")
    parser.add_argument("other", type=Path, nargs="?", help="another study's folder: print what changed from the first")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="html: the page, report.html (default); md, tex, csv, json: tables; png, svg: every figure; "
        "tensorboard: its files, as compare writes them",
    )
    chosen = parser.parse_args(options)
    if chosen.other and chosen.format:
        return fail("report: two studies side by side have no format; leave out --format")
    try:
        results = load_results(chosen.study)
        if chosen.other:
            print(*map(printable, study_changes(results, load_results(chosen.other))), sep="\n")
        elif chosen.format in (None, "html"):
            write_views(results, chosen.study, tensorboard=False)
            print_results(results, chosen.study)
        elif chosen.format == "tensorboard":
            write_views(results, chosen.study)
            print(f"tensorboard --logdir {shown_path(chosen.study)}")
        else:
            from actbench.report.exports import write_exports

            print(*map(shown_path, write_exports(results, chosen.study, chosen.format)), sep="\n")
    except (RecordError, OSError) as error:
        return fail(error)
    return 0


def write_views(results: StudyResults, folder: Path, *, tensorboard: bool = True) -> None:
    """Write a study's page, and its files for TensorBoard."""
    from actbench.report import write_page

    write_page(results, folder)
    if tensorboard:  # importing TensorBoard takes as long as everything else
        from actbench.report.tensorboard import write_tensorboard

        write_tensorboard(results, folder)


def print_results(results: StudyResults, folder: Path) -> None:
    """Print the tables of a study's page, arms first, and the verdicts in words."""
    console = table_console()
    by_name = {table.name: table for table in tables(results)}
    for name in SPARE:
        if name in by_name:
            console.print(by_name[name].title)
            print_table(console, by_name[name])
    if results.table["busy"].any():
        print("* other processes used the machine meanwhile: these times say little")
    if results.conclusion.findings:
        print(
            "P(better): chance to win on a new seed; Bouthillier et al. (2021) ask for .75 before a difference matters"
        )
    paired = results.table["arm"].n_unique() > 1
    pairs = (
        f"pairs {pairing_sentence(results.table, results.question.baseline)}"
        if paired
        else "no pairs: there is one arm"
    )
    print(*(results.faults or [pairs]), *results.sentences, sep="\n")
    print(f"records: {shown_path(folder / RECORDS)}; verdicts: {shown_path(folder / VERDICT)}")
    print(f"page: {shown_path(folder / PAGE)}; tensorboard --logdir {shown_path(folder)}")


def print_table(console: Console, table: ReportTable) -> None:
    """Print a table in which no number is cut.

    If the console is too narrow, columns in `SPARE` are left out in their order,
    and a line below the table names them. Then text is folded.
    """
    kept, left_out = list(table.columns), list[str]()
    unlimited = console.options.update_width(UNLIMITED)
    for name in SPARE[table.name]:
        if console.measure(rich_table(table, kept), options=unlimited).maximum <= console.width:
            break
        left_out += [column.name for column in kept if column.name == name]
        kept = [column for column in kept if column.name != name]
    console.print(rich_table(table, kept))
    if left_out:
        console.print(f"left out, because the terminal is narrow: {', '.join(left_out)}")


def rich_table(table: ReportTable, kept: Sequence[TableColumn]) -> Table:
    """The kept columns of a table, with text aligned left and numbers right."""
    result = Table(box=box.SIMPLE)
    for column in kept:
        result.add_column(
            column.heading,
            justify="right" if column.number else "left",
            no_wrap=column.number,
            overflow="ellipsis" if column.number else "fold",
        )
    for row in table.rows:
        result.add_row(*(cell.text for column, cell in zip(table.columns, row, strict=True) if column in kept))
    return result
