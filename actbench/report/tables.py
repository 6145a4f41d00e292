"""All numbers of a study in a few tables, for the terminal, for the page, for Markdown and for LaTeX."""

import html
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from actbench.inference.verdict import Told, p_value, points
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


class Column(NamedTuple):
    """What stands in a column, and its unit; numbers stand on the right."""

    name: str
    unit: str = ""
    number: bool = True

    @property
    def heading(self) -> str:
        """Name and unit in one."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


class Cell(NamedTuple):
    """Text, and the number or name that it is sorted by: None comes last."""

    text: str
    value: float | str | None


class Table(NamedTuple):
    """A title, columns, and rows with a cell for each."""

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


Show = Callable[[Row], Cell]
Shown = Sequence[tuple[Column, Show]]  # columns of a table, with how a row is shown in each


def number(name: str, form: Callable[[Any], str], scale: float = 1, *, starred: bool = False) -> Show:
    """Shows a number, or a dash; with a star where it was measured on a busy machine."""

    def show(row: Row) -> Cell:
        value = row[name]
        if value is None or not math.isfinite(value):
            return Cell(NONE, None)
        star = "*" if starred and row["busy"] else ""
        return Cell(form(scale * value) + star, value)

    return show


def interval(name: str, form: Callable[[Any], str], scale: float = 1) -> Show:
    """Shows the bounds of an interval, sorted by the lower one."""

    def show(row: Row) -> Cell:
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        return Cell(NONE, None) if low is None else Cell(f"{form(scale * low)} to {form(scale * high)}", low)

    return show


def word(text: str) -> Cell:
    """A cell that holds text."""
    return Cell(text, text)


def text(name: str, missing: str = NONE) -> Show:
    """Shows a name or a word, or what stands for a missing one."""
    return lambda row: word(row[name] or missing)


def p_text(p: float) -> str:
    """A p-value without its equals sign."""
    return p_value(p).removeprefix("= ")


def verdict(row: Row) -> Cell:
    """Shows a verdict with its sign, and whether the difference is inside the margin."""
    inside = ", inside margin" if row["inside_margin"] and row["verdict"] != "equivalent" else ""
    return Cell(f"{SIGNS[row['verdict']]} {row['verdict']}{inside}", row["verdict"])


WHOLE, THOUSANDS, TWO, SIGNED = "{:d}".format, "{:,d}".format, "{:z.2f}".format, "{:+z.2f}".format
COMPARISONS: Shown = (
    (Column("verdict", number=False), verdict),
    (Column("difference", "points"), number("difference", points)),
    (Column("interval", "points"), interval("difference", SIGNED, 100)),
    (Column("pairs"), number("pairs", WHOLE)),
    (Column("p"), number("p", p_text)),
    (Column("adjusted p"), number("adjusted_p", p_text)),
    (Column("p of equivalence"), number("adjusted_equivalence_p", p_text)),
    (Column("P(better)"), number("probability_better", TWO)),
    (Column("effect", "sd"), number("effect", SIGNED)),
    (Column("time", "ratio"), number("time_ratio", TWO, starred=True)),
    (Column("with time", number=False), text("with_time")),
    (Column("more pairs"), number("more_pairs", THOUSANDS)),
)
SECONDARY = (
    Column("measure", number=False),
    Column("arm against baseline"),
    Column("interval"),
    Column("unit", number=False),
    Column("pairs"),
    Column("p"),
    Column("effect", "sd"),
)
MEASURES = {  # beside accuracy: in words, form, scale and unit
    "test_loss_difference": (OUTCOMES["test_loss"], "{:+z.4f}".format, 1, "nats"),
    "test_ece_difference": (OUTCOMES["test_ece"], SIGNED, 100, "points"),
    "time_ratio": ("time of an epoch", TWO, 1, "ratio"),
    "memory_ratio": ("peak memory", TWO, 1, "ratio"),
}
ARMS: Shown = (
    (Column("seeds"), number("seeds", WHOLE)),
    (Column("test accuracy", "%"), number("test_accuracy", TWO, 100)),
    (Column("interval", "%"), interval("test_accuracy", TWO, 100)),
    (Column("sd", "points"), number("test_accuracy_sd", TWO, 100)),
    (Column("test loss", "nats"), number("test_loss", "{:z.4f}".format)),
    (Column("calibration error", "%"), number("test_ece", TWO, 100)),
    (Column("val accuracy", "%"), number("val_accuracy", TWO, 100)),
    (Column("diverged"), number("diverged", WHOLE)),
    (Column("epochs"), number("epochs", "{:zg}".format)),
    (Column("an epoch", "ms"), number("epoch_time_s", "{:z.3g}".format, 1000, starred=True)),
    (Column("memory", "MiB"), number("peak_memory_mb", "{:,.0f}".format)),
    (Column("parameters"), number("parameters", THOUSANDS)),
)
STANDINGS: Shown = (
    (Column("interquartile mean", "%"), number("interquartile_mean", TWO, 100)),
    (Column("interval", "%"), interval("interquartile_mean", TWO, 100)),
    (Column("mean rank"), number("rank", TWO)),
    (Column("interval of rank"), interval("rank", TWO)),
)


def tables(told: Told) -> list[Table]:
    """Comparisons, measures beside accuracy, arms, and standings over several datasets: the tables that have rows."""
    several = {"dataset": len(told.question.datasets) > 1, "network": len(told.question.networks) > 1}
    where = [name for name, use in several.items() if use]
    (alone, *others) = panels(told)
    place = "" if others else f", on {alone.title}"
    all_pairs = told.question.comparisons == "all"
    minus = f"arm minus {'baseline' if all_pairs else told.question.baseline}{place}"
    beside = f"Beside accuracy, {minus}: outside the family, so p is not corrected; less is better"
    names = named([*where, "arm", "baseline"] if all_pairs else [*where, "arm"])
    tuned = [tuning.setting for tuning in told.tunings[:1]]
    settings = [(Column(name.rpartition(".")[2]), number(name, "{:zg}".format)) for name in tuned]
    compared = comparison_rows(told)
    secondary = [[*(show(row) for _, show in names), *cells] for row in compared for cells in measures(row)]
    found = [
        filled("comparisons", f"Comparisons, {minus}", [*names, *COMPARISONS], compared),
        Table("secondary", beside, [*(column for column, _ in names), *SECONDARY], secondary),
        filled("arms", f"Arms{place}", [*named([*where, "arm"]), *settings, *ARMS], arm_rows(told)),
        filled("standings", "Arms over all datasets", [*named(["network", "arm"]), *STANDINGS], standing_rows(told)),
    ]
    return [table for table in found if table.rows]


def named(names: Sequence[str]) -> Shown:
    """Columns of names; a comparison without a dataset is that of the mean over all."""
    return [(Column(name, number=False), text(name, "mean of all")) for name in names]


def filled(name: str, title: str, shown: Shown, rows: Sequence[Row]) -> Table:
    """The table that shows these rows."""
    return Table(name, title, [column for column, _ in shown], [[show(row) for _, show in shown] for row in rows])


def measures(row: Row) -> Iterator[list[Cell]]:
    """The measures of a comparison beside accuracy, by the columns of `SECONDARY`: losses by seed, costs by fit."""
    fits = Cell(count(row["fits"] or 0, "fit"), row["fits"])
    for name, (what, form, scale, unit) in MEASURES.items():
        if row[name] is not None:
            pairs = number(name.replace("difference", "pairs"), WHOLE)
            yield [
                word(f"{what}, busy machine" if name == "time_ratio" and row["busy"] else what),
                number(name, form, scale)(row),
                interval(name, form, scale)(row),
                word(unit),
                fits if unit == "ratio" else pairs(row),
                number(f"{name}_p", p_text)(row),
                number(f"{name}_effect", SIGNED)(row),
            ]


def markdown(table: Table) -> str:
    """A table as Markdown."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def plain(text: str) -> str:
        return re.sub(r"([\\|`*_!#~\[\]])", r"\\\1", " ".join(html.escape(text, quote=False).split()))

    rule = ["---:" if column.number else "---" for column in table.columns]
    head = [line([plain(column.heading) for column in table.columns]), line(rule)]
    rows = [line([plain(cell.text) for cell in row]) for row in table.rows]
    return "\n".join([f"**{plain(table.title)}**", "", *head, *rows, ""])


def latex(table: Table) -> str:
    """A table as LaTeX, which needs the packages booktabs and amssymb."""

    def line(cells: Sequence[str]) -> str:
        return rf"{' & '.join(' '.join(cell.split()).translate(LATEX) for cell in cells)} \\"

    columns = "".join("r" if column.number else "l" for column in table.columns)
    head = line([column.heading for column in table.columns])
    rows = [line([cell.text for cell in row]) for row in table.rows]
    start = [r"% needs \usepackage{booktabs,amssymb}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    return "\n".join([*start, head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", ""])
