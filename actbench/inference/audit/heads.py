"""Heads of published tables: names of columns in several lines, the upper ones over several columns each."""

from collections.abc import Sequence
from itertools import pairwise, takewhile

from actbench.inference.audit.columns import MEANINGS, column_name
from actbench.inference.audit.layouts import BLANK, TextLine, bare, read_cell
from actbench.inference.audit.rows import TableError

MOST_LINES = 3  # of a head

Names = tuple[str, ...]  # of a column, from top to bottom


def with_one_head(lines: Sequence[TextLine]) -> list[TextLine]:
    """The table with a head of one line.

    The head goes on in the next line if that has no number, and names come twice
    or are missing, or its first cell is blank. If there are means below each of
    the upper names, as below ``CIFAR-10`` over ``mean`` and ``sd``, these are
    datasets, and a line becomes one for each of them. Otherwise, the names of a
    column are joined, without those that all such columns share.

    Raises:
        TableError: Two columns below a dataset have the same name.
    """
    height = head_height(lines)
    if height < 2:
        return list(lines)
    columns, body = column_names(lines[:height]), lines[height:]
    upper = list(dict.fromkeys(names[:-1] for names in columns if len(names) > 1))
    alike = takewhile(lambda level: len(set(level)) == 1, zip(*upper, strict=False))
    shared = len(list(alike)) if len(upper) > 1 else 0
    labels = {names: " ".join(names[min(shared, len(names) - 1) :]) for names in upper}
    with_means = {names[:-1] for names in columns if MEANINGS.get(column_name(names[-1])) == "mean"}
    if with_means.issuperset(upper):
        return one_line_each(lines[0].number, columns, body, labels)
    kept = {names: "" for names in upper} if len(upper) == 1 else labels
    head = [f"{kept.get(names[:-1], '')} {names[-1]}".strip() for names in columns]
    return [TextLine(lines[0].number, head), *body]


def head_height(lines: Sequence[TextLine]) -> int:
    """The number of lines of the head."""
    height = min(1, len(lines))
    while 0 < height < min(MOST_LINES, len(lines)):
        names = column_names(lines[:height])[1:]
        complete = len(set(names)) == len(names) and all(any(name) for name in names)
        goes_on = not complete or not lines[height].cells[0]
        if not goes_on or not holds_names(lines[height]):
            break
        height += 1
    return height


def holds_names(line: TextLine) -> bool:
    """Whether a line has names beside the first column, and no numbers."""
    cells = [bare(cell) for cell in line.cells]
    return not any(map(read_cell, cells)) and any(cell.lower() not in BLANK for cell in cells[1:])


def column_names(head: Sequence[TextLine]) -> list[Names]:
    """The names of each column from top to bottom, each once; one blank name where there is none."""
    rows = [*map(spread_names, head[:-1]), head[-1].cells]
    return [tuple(dict.fromkeys(filter(None, names))) or ("",) for names in zip(*rows, strict=True)]


def spread_names(line: TextLine) -> list[str]:
    """Upper names, over the blank cells beside them as well, as spreadsheets write merged cells."""
    cells = list(line.cells)
    if any(one == other != "" for one, other in pairwise(cells)):
        return cells  # merged cells are written out
    for index in range(2, len(cells)):
        cells[index] = cells[index] or cells[index - 1]
    return cells


def one_line_each(
    number: int, columns: Sequence[Names], body: Sequence[TextLine], labels: dict[Names, str]
) -> list[TextLine]:
    """A line for each dataset of a line of the table."""
    single = [index for index, names in enumerate(columns) if len(names) == 1]
    below = {upper: [index for index, names in enumerate(columns) if names[:-1] == upper] for upper in labels}
    kinds = list(dict.fromkeys(names[-1] for names in columns if len(names) > 1))
    columns_below = {upper: {columns[index][-1]: index for index in found} for upper, found in below.items()}
    for upper, found in below.items():
        if len(columns_below[upper]) < len(found):
            raise TableError(f"line {number}: two columns below {labels[upper]!r} have the same name")
    lines = [TextLine(number, [*(columns[index][0] for index in single), "dataset", *kinds])]
    for line in body:
        for upper, label in labels.items():
            cells = [line.cells[columns_below[upper][kind]] if kind in columns_below[upper] else "" for kind in kinds]
            if any(cell.lower() not in BLANK for cell in cells):
                lines.append(TextLine(line.number, [*(line.cells[index] for index in single), label, *cells]))
    return lines
