"""What commands print and leave behind, read by several files of tests."""

import csv

from conftest import ROOT

DIGITS_SWISH = ROOT / "configs" / "digits_swish.yaml"


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def table(output):
    """Figures of the first replicate in the table that validate and test print."""
    lines = [line.split() for line in output.splitlines()]
    place = next((place for place, words in enumerate(lines) if words[:1] == ["seed"]), None)
    assert place is not None, output
    figures = next(words for words in lines[place + 1 :] if words and words[0].isdigit())
    return {name: float(value) for name, value in zip(lines[place][1:], figures[1:], strict=True)}


def one_line_error(result):
    """The error of a command that was refused: all that it says, but for what a run says at its start."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    start = ("Seed set to", "GPU available", "threads:")
    (line,) = [line for line in result.stderr.splitlines() if line and not line.startswith(start)]
    assert line.startswith("error: ")
    return line
