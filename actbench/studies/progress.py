"""Progress of a running study: lines in a file or a pipe, bars in a terminal."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from typing_extensions import override


def without_repeats(say: Callable[[str], None]) -> Callable[[str], None]:
    """A function that says each line once."""
    lines = set[str]()

    def say_new(line: str) -> None:
        if line not in lines:
            lines.add(line)
            say(line)

    return say_new


class Progress(AbstractContextManager["Progress"]):
    """Progress as plain lines: one for each finished cell, and one every few seconds within a long cell.

    Args:
        seconds: The shortest time between two lines within a cell.
    """

    def __init__(self, seconds: float = 10) -> None:
        self.seconds = seconds
        self.total = 0
        self.done = 0
        self.retried = 0
        self.now = ""  # where cells run, and how many; empty if the executor does not report it
        self.start_s = self.next_line_s = time.monotonic()

    @override
    def __exit__(self, *error: object) -> None:
        """Put the terminal back."""

    def begin(self, cells: int, replicates: int) -> None:
        """Reset the counts: ``cells`` cells with ``replicates`` replicates in all will run."""
        self.total, self.done, self.retried, self.now = cells, 0, 0, ""
        self.start_s = time.monotonic()
        self.next_line_s = self.start_s + self.seconds

    def running(self, cells: int, where: str = "") -> None:
        """Show how many cells run now, and where, if the executor reports it."""
        self.now = f"{where}, {cells} running, {self.retried} tried again" if where else ""

    def say(self, line: str) -> None:
        """Show a line that stays."""
        print(line, flush=True)

    def end_cell(self, line: str, replicates: int) -> None:
        """Count a finished or failed cell with its replicates, and show a line about it."""
        self.done += 1
        left_s = (time.monotonic() - self.start_s) / self.done * (self.total - self.done)
        left = f"{left_s:.0f} s left" if self.done < self.total else ""
        self.say("; ".join(part for part in (f"{self.done}/{self.total} {line}", left, self.now) if part))

    def epoch(self, cell: str, done: int, total: int | None) -> None:
        """Show how many epochs of a running cell are done."""
        if time.monotonic() >= self.next_line_s:
            self.next_line_s = time.monotonic() + self.seconds
            self.say(f"{self.done + 1}/{self.total} {cell}: epoch {done}/{total or '?'}")


class Bars(Progress):
    """A bar for the study's replicates and cells, and one for the epochs of a cell that runs in this process."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self.bars = RichProgress(*columns, console=console, speed_estimate_period=3600)
        self.replicates = self.bars.add_task("replicates", total=None)
        self.epochs = self.bars.add_task("epochs", total=None, visible=False)

    @override
    def __enter__(self) -> Self:
        self.bars.start()
        return self

    @override
    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    @override
    def begin(self, cells: int, replicates: int) -> None:
        super().begin(cells, replicates)
        self.bars.update(self.replicates, total=replicates, completed=0)
        self.running(0)

    @override
    def running(self, cells: int, where: str = "") -> None:
        super().running(cells, where)
        description = f"replicates of {self.total} cells, {self.now or f'{cells} running'}"
        self.bars.update(self.replicates, description=description, refresh=True)

    @override
    def say(self, line: str) -> None:
        self.bars.console.print(line, highlight=False, markup=False)

    @override
    def end_cell(self, line: str, replicates: int) -> None:
        super().end_cell(line, replicates)
        self.bars.update(self.replicates, advance=replicates)
        self.bars.update(self.epochs, visible=False)

    @override
    def epoch(self, cell: str, done: int, total: int | None) -> None:
        self.bars.update(self.epochs, description=cell, completed=done, total=total, visible=True, refresh=True)
