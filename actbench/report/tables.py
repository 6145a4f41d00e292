"""All numbers of a study in a few tables, for the terminal, for the page, for Markdown and for LaTeX."""

import html
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from actbench.inference.verdict import StudyResults, p_value, points
from actbench.inference.verdict.words import OUTCOMES, count
from actbench.report.figures.figure import panels
from actbench.report.figures.palette import SIGNS
from actbench.report.numbers import Row, arm_rows, comparison_rows, standing_rows

NONE = "–"
LATEX = str.maketrans(
    {letter: f"\\{letter}" for letter in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "–": "--"}
    | {"▲": r"$\blacktriangle$", "▼": r"$\blacktriangledown$", "◆": r"$\blacklozenge$", "○": r"$\circ$"}
)


class TableColumn(NamedTuple):
    """What stands in a column, and its unit; numbers stand on the right."""

    name: str
    unit: str = ""
    number: bool = True

    @property
    def heading(self) -> str:
        """Name and unit in one."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


class TableCell(NamedTuple):
    """Text, and the number or name that it is sorted by: None comes last."""

    text: str
    value: float | str | None


class ReportTable(NamedTuple):
    """A title, columns, and rows with a cell for each."""

    name: str
    title: str
    columns: Sequence[TableColumn]
    rows: Sequence[Sequence[TableCell]]


Show = Callable[[Row], TableCell]
Shown = Sequence[tuple[TableColumn, Show]]  # columns of a table, with how a row is shown in each


def number_column(name: str, form: Callable[[Any], str], scale: float = 1, *, starred: bool = False) -> Show:
    """Shows a number, or a dash; with a star where it was measured on a busy machine."""

    def show(row: Row) -> TableCell:
        value = row[name]
        if value is None or not math.isfinite(value):
            return TableCell(NONE, None)
        star = "*" if starred and row["busy"] else ""
        return TableCell(form(scale * value) + star, value)

    return show


def interval(name: str, form: Callable[[Any], str], scale: float = 1) -> Show:
    """Shows the bounds of an interval, sorted by the lower one."""

    def show(row: Row) -> TableCell:
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        return TableCell(NONE, None) if low is None else TableCell(f"{form(scale * low)} to {form(scale * high)}", low)

    return show


def word(text: str) -> TableCell:
    """A cell that holds text."""
    return TableCell(text, text)


def text(name: str, missing: str = NONE) -> Show:
    """Shows a name or a word, or what stands for a missing one."""
    return lambda row: word(row[name] or missing)


def p_text(p: float) -> str:
    """A p-value without its equals sign."""
    return p_value(p).removeprefix("= ")


def verdict_cell(row: Row) -> TableCell:
    """Shows a verdict with its sign, and whether the difference is inside the margin."""
    inside = ", inside margin" if row["inside_margin"] and row["verdict"] != "equivalent" else ""
    return TableCell(f"{SIGNS[row['verdict']]} {row['verdict']}{inside}", row["verdict"])


WHOLE, THOUSANDS, TWO, SIGNED = "{:d}".format, "{:,d}".format, "{:z.2f}".format, "{:+z.2f}".format
COMPARISONS: Shown = (
    (TableColumn("verdict", number=False), verdict_cell),
    (TableColumn("difference", "points"), number_column("difference", points)),
    (TableColumn("interval", "points"), interval("difference", SIGNED, 100)),
    (TableColumn("pairs"), number_column("pairs", WHOLE)),
    (TableColumn("p"), number_column("p", p_text)),
    (TableColumn("adjusted p"), number_column("adjusted_p", p_text)),
    (TableColumn("p of equivalence"), number_column("adjusted_equivalence_p", p_text)),
    (TableColumn("P(better)"), number_column("probability_better", TWO)),
    (TableColumn("effect", "sd"), number_column("effect", SIGNED)),
    (TableColumn("time", "ratio"), number_column("time_ratio", TWO, starred=True)),
    (TableColumn("with time", number=False), text("with_time")),
    (TableColumn("more pairs"), number_column("more_pairs", THOUSANDS)),
)
SECONDARY = (
    TableColumn("measure", number=False),
    TableColumn("arm against baseline"),
    TableColumn("interval"),
    TableColumn("unit", number=False),
    TableColumn("pairs"),
    TableColumn("p"),
    TableColumn("effect", "sd"),
)
MEASURES = {  # beside accuracy: in words, form, scale and unit
    "test_loss_difference": (OUTCOMES["test_loss"], "{:+z.4f}".format, 1, "nats"),
    "test_ece_difference": (OUTCOMES["test_ece"], SIGNED, 100, "points"),
    "time_ratio": ("time of an epoch", TWO, 1, "ratio"),
    "memory_ratio": ("peak memory", TWO, 1, "ratio"),
}
ARMS: Shown = (
    (TableColumn("seeds"), number_column("seeds", WHOLE)),
    (TableColumn("test accuracy", "%"), number_column("test_accuracy", TWO, 100)),
    (TableColumn("interval", "%"), interval("test_accuracy", TWO, 100)),
    (TableColumn("sd", "points"), number_column("test_accuracy_sd", TWO, 100)),
    (TableColumn("test loss", "nats"), number_column("test_loss", "{:z.4f}".format)),
    (TableColumn("calibration error", "%"), number_column("test_ece", TWO, 100)),
    (TableColumn("val accuracy", "%"), number_column("val_accuracy", TWO, 100)),
    (TableColumn("diverged"), number_column("diverged", WHOLE)),
    (TableColumn("epochs"), number_column("epochs", "{:zg}".format)),
    (TableColumn("an epoch", "ms"), number_column("epoch_time_s", "{:z.3g}".format, 1000, starred=True)),
    (TableColumn("memory", "MiB"), number_column("peak_memory_mb", "{:,.0f}".format)),
    (TableColumn("parameters"), number_column("parameters", THOUSANDS)),
)
STANDINGS: Shown = (
    (TableColumn("interquartile mean", "%"), number_column("interquartile_mean", TWO, 100)),
    (TableColumn("interval", "%"), interval("interquartile_mean", TWO, 100)),
    (TableColumn("mean rank"), number_column("rank", TWO)),
    (TableColumn("interval of rank"), interval("rank", TWO)),
)


def tables(results: StudyResults) -> list[ReportTable]:
    """Comparisons, measures beside accuracy, arms, and standings over several datasets: the tables that have rows."""
    several = {"dataset": len(results.question.datasets) > 1, "network": len(results.question.networks) > 1}
    where = [name for name, use in several.items() if use]
    (alone, *others) = panels(results)
    place = "" if others else f", on {alone.title}"
    all_pairs = results.question.comparisons == "all"
    minus = f"arm minus {'baseline' if all_pairs else results.question.baseline}{place}"
    beside = f"Beside accuracy, {minus}: outside the family, so p is not corrected; less is better"
    names = name_columns([*where, "arm", "baseline"] if all_pairs else [*where, "arm"])
    tuned = [tuning.setting for tuning in results.tunings[:1]]
    settings = [(TableColumn(name.rpartition(".")[2]), number_column(name, "{:zg}".format)) for name in tuned]
    compared = comparison_rows(results)
    secondary = [[*(show(row) for _, show in names), *cells] for row in compared for cells in measures(row)]
    found = [
        filled("comparisons", f"Comparisons, {minus}", [*names, *COMPARISONS], compared),
        ReportTable("secondary", beside, [*(column for column, _ in names), *SECONDARY], secondary),
        filled("arms", f"Arms{place}", [*name_columns([*where, "arm"]), *settings, *ARMS], arm_rows(results)),
        filled(
            "standings",
            "Arms over all datasets",
            [*name_columns(["network", "arm"]), *STANDINGS],
            standing_rows(results),
        ),
    ]
    return [table for table in found if table.rows]


def name_columns(names: Sequence[str]) -> Shown:
    """Columns of names; a comparison without a dataset is that of the mean over all."""
    return [(TableColumn(name, number=False), text(name, "mean of all")) for name in names]


def filled(name: str, title: str, shown: Shown, rows: Sequence[Row]) -> ReportTable:
    """The table that shows these rows."""
    return ReportTable(name, title, [column for column, _ in shown], [[show(row) for _, show in shown] for row in rows])


def measures(row: Row) -> Iterator[list[TableCell]]:
    """The measures of a comparison beside accuracy, by the columns of `SECONDARY`: losses by seed, costs by fit."""
    fits = TableCell(count(row["fits"] or 0, "fit"), row["fits"])
    for name, (what, form, scale, unit) in MEASURES.items():
        if row[name] is not None:
            pairs = number_column(name.replace("difference", "pairs"), WHOLE)
            yield [
                word(f"{what}, busy machine" if name == "time_ratio" and row["busy"] else what),
                number_column(name, form, scale)(row),
                interval(name, form, scale)(row),
                word(unit),
                fits if unit == "ratio" else pairs(row),
                number_column(f"{name}_p", p_text)(row),
                number_column(f"{name}_effect", SIGNED)(row),
            ]


def markdown(table: ReportTable) -> str:
    """A table as Markdown."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def plain(text: str) -> str:
        return re.sub(r"([\\|`*_!#~\[\]])", r"\\\1", " ".join(html.escape(text, quote=False).split()))

    rule = ["---:" if column.number else "---" for column in table.columns]
    head = [line([plain(column.heading) for column in table.columns]), line(rule)]
    rows = [line([plain(cell.text) for cell in row]) for row in table.rows]
    return "\n".join([f"**{plain(table.title)}**", "", *head, *rows, ""])


def latex(table: ReportTable) -> str:
    """A table as LaTeX, which needs the packages booktabs and amssymb."""

    def line(cells: Sequence[str]) -> str:
        return rf"{' & '.join(' '.join(cell.split()).translate(LATEX) for cell in cells)} \\"

    columns = "".join("r" if column.number else "l" for column in table.columns)
    head = line([column.heading for column in table.columns])
    rows = [line([cell.text for cell in row]) for row in table.rows]
    start = [r"% needs \usepackage{booktabs,amssymb}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    return "\n".join([*start, head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", ""])
