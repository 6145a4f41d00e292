"""Lines and cells of a published table: separated values, Markdown or LaTeX, and numbers as they are printed."""

import csv
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from actbench.inference.audit.rows import TableError

LONGEST = 1000  # characters of a cell
BLANK = ("", "-", "–", "—", "--", "---", "n/a", "na", "nan", "none")  # empty cells, in lower case
NUMBER = r"(?:\d+(?:[.,]\d+)*\.?|[.,]\d+)(?:[eE][-+−]?\d+)?"
SIGNED = rf"[-+−]?{NUMBER}"
CELL = re.compile(
    rf"\(?\s*(?P<mean>{SIGNED})\s*%?\s*"
    rf"(?:(?:±|\+/-|\+-)\s*(?P<spread>{NUMBER})\s*%?\s*\)?|\(\s*±?\s*(?P<bracket>{NUMBER})\s*%?\s*\))?"
    r"\s*%?"
)
P_VALUE = re.compile(rf"(?:[pP]\s*)?(?P<sign>[<>=≤≥⩽⩾]?)\s*(?P<number>{NUMBER})")
POWER = re.compile(r"(?:(\d[\d.,]*)\s*(?:×|·|\*|x)\s*)?10\s*\^\s*([-−]?\d+)")
BRACED = r"\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"  # an argument, with braces up to two deep inside
OPTION = r"(?:\[[^]]*\])?\s*"
SEVERAL_COLUMNS = re.compile(rf"\\multicolumn\s*\{{(\d{{1,2}})\}}\s*{BRACED}\s*{BRACED}")
SEVERAL_LINES = re.compile(rf"\\multirow\s*{OPTION}\{{(\d{{1,3}})\}}\s*{OPTION}(?:\*|{BRACED})\s*{OPTION}{BRACED}")
LATEX = (  # commands and what they print; of all others, only the arguments are kept
    (r"\\(?:cellcolor|textcolor|color|rowcolor)(?:\[[^]]*\])?\{[^}]*\}", ""),
    (r"[_^]?\s*\{?\s*(?:\\[a-z]+style\s*|\\[a-z]*size\s*|\\small\s*|\\tiny\s*)?\\pm(?![A-Za-z])", "±"),
    (r"\\(?:times|cdot)(?![A-Za-z])", "×"),
    (r"\\(?:leq?|lt)(?![A-Za-z])", "<"),
    (r"\\(?:geq?|gt)(?![A-Za-z])", ">"),
    (r"\\(?:dagger|ddagger|ast|star)(?![A-Za-z])", ""),
    (
        r"\\(?:textsuperscript|footnote(?:mark|text)?|tablefootnote|tnote|cite[a-z]*|label)(?:\[[^]]*\])*(?:\{[^{}]*\})?",
        "",
    ),
    (r"\\(?:std|sd|stdev)(?=\{)", "±"),
    (r"(?<=[\d.,])\\[A-Za-z]+\*?(?:\[[^]]*\])?(?=\{)", " "),  # whose argument is not a part of the number
    (r"\\([%&_#$])", r"\1"),
    (r"\\[,;:! ]|~", " "),
    (r"\\[A-Za-z]+\*?(?:\[[^]]*\])?\s*", ""),
    (r"[${}]", ""),
)


class TextLine(NamedTuple):
    """A line of a table, and its number in the file."""

    number: int
    cells: list[str]


class Reading(NamedTuple):
    """A cell of numbers."""

    mean: str
    spread: str | None
    percent: bool  # whether there is a per cent sign
    doubtful: bool  # whether the spread in brackets may be a count, or the last digits


def split_lines(text: str) -> list[TextLine]:
    """Lines that are not blank, as cells.

    Values are separated by tabs, semicolons or commas, whichever occurs first in
    this order in the first line; a Markdown table has bars, and a LaTeX table ``&``.

    Raises:
        csv.Error: A quotation mark is not closed.
        TableError: The lines have different numbers of cells.
    """
    latex = "&" in text and "\\\\" in text
    if latex:
        lines = list(latex_lines(text))
    elif text.lstrip().startswith("|"):
        lines = list(markdown_lines(text))
    else:
        first = text.lstrip("\n\r").partition("\n")[0]
        reader = csv.reader(text.splitlines(keepends=True), delimiter=separator(first), strict=True)
        lines = [TextLine(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    lines = [line for line in lines if any(line.cells)]
    for line in lines:
        if len(line.cells) != len(lines[0].cells):
            raise TableError(f"line {line.number} has {len(line.cells)} cells, the first line {len(lines[0].cells)}")
        if max(map(len, line.cells)) > LONGEST:
            raise TableError(f"line {line.number} has a cell of more than {LONGEST:,} characters")
    return [TextLine(line.number, [plain(cell) for cell in line.cells]) for line in lines] if latex else lines


def separator(first: str) -> str:
    """What separates the values of the first line; text in quotation marks does not count."""
    outside = re.sub(r'"[^"]*"', "", first)
    return next((mark for mark in "\t;" if mark in outside), ",")


def markdown_lines(text: str) -> Iterator[TextLine]:
    """Lines of a Markdown table, without the one under its head."""
    for number, line in enumerate(text.splitlines(), start=1):
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        if line.strip().startswith("|") and not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
            yield TextLine(number, [re.sub(r"^(\*\*|__|[*_`])(.+)\1$", r"\2", cell) for cell in cells])


def latex_lines(text: str) -> Iterator[TextLine]:
    r"""Lines of the first LaTeX table, or of a part of one, each of which ends in ``\\``."""
    text = re.sub(r"(?<!\\)%.*", "", text)
    begin = re.search(r"\\begin\{(?:tabular.?|longtable|array|tblr)\}(?:\[[^]]*\]|\{(?:[^{}]|\{[^{}]*\})*\})*", text)
    number, taller = 1, dict[int, tuple[int, str]]()
    if begin:
        number += text[: begin.end()].count("\n")
        text = text[begin.end() :].partition("\\end{")[0]
    for part in re.split(r"(\\\\(?:\[[^]]*\])?)", text):
        first = re.search(r"(?<!\\)&", part)
        if first:
            rules = r"\\(?:[a-z]*rule|hline|cline)(?:\([^)]*\))?(?:\[[^]]*\])?(?:\{[^}]*\})*"
            cells = re.split(r"(?<!\\)&", re.sub(rules, "", part))
            yield TextLine(number + part[: first.start()].count("\n"), separate(cells, taller))
        number += part.count("\n")


def separate(cells: Sequence[str], taller: dict[int, tuple[int, str]]) -> list[str]:
    """A cell for each column and line that merged cells stand for.

    Args:
        cells: The cells of a line.
        taller: Of columns with a cell of several lines, how many of these are left, and its text; brought up to date.
    """
    found = list[str]()
    for cell in cells:
        wider = SEVERAL_COLUMNS.search(cell)
        text = cell[: wider.start()] + wider[3] + cell[wider.end() :] if wider else cell
        for _ in range(int(wider[1]) if wider else 1):
            column = len(found)
            left, above = taller.pop(column, (0, ""))
            if higher := SEVERAL_LINES.search(text):
                left, above = int(higher[1]), text[: higher.start()] + higher[3] + text[higher.end() :]
            if left > 1:
                taller[column] = (left - 1, above)
            found.append((above if higher or (left and not text.strip()) else text).strip())
    return found


def plain(cell: str) -> str:
    """A cell of LaTeX as it is printed."""
    for pattern, printed in LATEX:
        cell = re.sub(pattern, printed, cell)
    return cell.strip()


def bare(cell: str) -> str:
    """A cell of numbers without markup, daggers and stars; powers of ten as 1e-4."""
    cell = plain(cell)
    cell = POWER.sub(lambda found: f"{found[1] or 1}e{found[2]}", cell)
    return re.sub(r"\s*\^$", "", re.sub(r"[*`†‡§]", "", cell).strip("_ "))


def read_cell(text: str) -> Reading | None:
    """The numbers of a cell without markup; None if it holds something else, such as a name or a signed gain."""
    found = CELL.fullmatch(text)
    if not found:
        return None
    mean, bracket = found["mean"], found["bracket"] or ""
    doubtful = bracket.isdecimal() and not mean.lstrip("-+−").isdecimal()
    return Reading(mean, found["spread"] or found["bracket"], "%" in text, doubtful)


def decimal_comma(cells: Sequence[tuple[str, str]]) -> bool:
    """Whether the numbers among cells have decimal commas; if so, none has a point.

    Args:
        cells: Cells, each after its place in words.

    Raises:
        TableError: Some numbers have commas and others points, or the commas may separate thousands.
    """
    numbers = [(where, cell) for where, cell in cells if CELL.fullmatch(cell) or P_VALUE.fullmatch(cell)]
    commas = [(where, cell) for where, cell in numbers if "," in cell]
    points = [cell for _, cell in numbers if "." in cell]
    if not commas:
        return False
    where, cell = commas[0]
    if points:
        raise TableError(f"{where}: {cell!r} has a comma, and {points[0]!r} a point; write all decimals in one way")
    parts = [part for _, one in commas for part in re.findall(SIGNED, one) if "," in part]
    if all(re.fullmatch(r"[-+−]?[1-9]\d{0,2}(,\d{3})+", part) for part in parts):
        raise TableError(f"{where}: {cell!r} may have a decimal comma or thousands; write a point, or no comma")
    return True
