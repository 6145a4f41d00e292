"""Tables as such: columns and cells, how a row of a frame becomes cells, and a table as Markdown or LaTeX."""

import html
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

NONE = "–"
LATEX = str.maketrans(
    {letter: f"\\{letter}" for letter in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "–": "--"}
    | {"▲": r"$\blacktriangle$", "▼": r"$\blacktriangledown$", "◆": r"$\blacklozenge$", "○": r"$\circ$"}
)


class TableColumn(NamedTuple):
    """Heading of a column, its unit, and whether it holds numbers, which are set on the right."""

    name: str
    unit: str = ""
    number: bool = True

    @property
    def heading(self) -> str:
        """Name and unit in one text."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


class TableCell(NamedTuple):
    """A text, and the number or name by which it is sorted; None comes last."""

    text: str
    value: float | str | None


class ReportTable(NamedTuple):
    """A title, columns, and rows with a cell for each; ``notes`` stand below."""

    name: str
    title: str
    columns: Sequence[TableColumn]
    rows: Sequence[Sequence[TableCell]]
    notes: Sequence[str] = ()


Row = Mapping[str, Any]  # of a frame of numbers
Formatter = Callable[[Row], TableCell]
Columns = Sequence[tuple[TableColumn, Formatter]]


def number(name: str, form: Callable[[Any], str], scale: float = 1, *, starred: bool = False) -> Formatter:
    """Formats a number, or a dash where it is not known; a star marks a time measured on a busy machine."""

    def format_cell(row: Row) -> TableCell:
        value = row[name]
        if value is None:
            return TableCell(NONE, None)
        star = "*" if starred and row["busy"] else ""
        return TableCell(form(scale * value) + star, value)

    return format_cell


def interval(name: str, form: Callable[[Any], str], scale: float = 1) -> Formatter:
    """Formats the bounds of an interval, sorted by the lower bound."""

    def format_cell(row: Row) -> TableCell:
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        return TableCell(NONE, None) if low is None else TableCell(f"{form(scale * low)} to {form(scale * high)}", low)

    return format_cell


def both_sides(name: str, form: Callable[[Any], str]) -> Formatter:
    """Formats a number of the arm and the same of the baseline."""

    def format_cell(row: Row) -> TableCell:
        values = [row[f"{side}_{name}"] for side in ("arm", "baseline")]
        texts = [NONE if value is None else form(value) for value in values]
        return TableCell(NONE, None) if values == [None, None] else TableCell(" / ".join(texts), values[0])

    return format_cell


def text_cell(text: str) -> TableCell:
    """A cell that is sorted by its text."""
    return TableCell(text, text)


def text(name: str, missing: str = NONE) -> Formatter:
    """Formats a name or a word; ``missing`` stands for null."""
    return lambda row: text_cell(row[name] or missing)


def markdown(table: ReportTable) -> str:
    """A table as Markdown."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def escape(text: str) -> str:
        return re.sub(r"([\\|`*_!#~\[\]])", r"\\\1", " ".join(html.escape(text, quote=False).split()))

    rule = ["---:" if column.number else "---" for column in table.columns]
    head = [line([escape(column.heading) for column in table.columns]), line(rule)]
    rows = [line([escape(cell.text) for cell in row]) for row in table.rows]
    notes = [part for note in table.notes for part in (escape(note), "")]
    return "\n".join([f"**{escape(table.title)}**", "", *head, *rows, "", *notes])


def latex(table: ReportTable) -> str:
    """A table as LaTeX, which needs the packages booktabs and amssymb."""

    def line(cells: Sequence[str]) -> str:
        return rf"{' & '.join(' '.join(cell.split()).translate(LATEX) for cell in cells)} \\"

    columns = "".join("r" if column.number else "l" for column in table.columns)
    head = line([column.heading for column in table.columns])
    rows = [line([cell.text for cell in row]) for row in table.rows]
    start = [r"% needs \usepackage{booktabs,amssymb}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    notes = [rf"\par {{\footnotesize {' '.join(note.split()).translate(LATEX)}}}" for note in table.notes]
    return "\n".join([*start, head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", *notes, ""])
