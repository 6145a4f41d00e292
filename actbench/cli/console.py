"""Where commands print their tables: a terminal, or output that is piped on or kept."""

import sys

from rich.console import Console

UNLIMITED = 10_000  # columns of output that is not a terminal


def table_console() -> Console:
    """A console as wide as the terminal, or without a limit where output goes elsewhere; names are not markup."""
    return Console(width=None if sys.stdout.isatty() else UNLIMITED, markup=False, emoji=False, highlight=False)
