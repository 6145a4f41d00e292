"""``activations``: the catalogue as a table."""

import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from actbench.activations import CATALOGUE
from actbench.activations.catalogue import trainable_parameters
from actbench.cli.main import OneLine


def print_catalogue(args: Sequence[str]) -> int:
    """Print name, formula, trainable parameters per site, and source of every activation."""
    OneLine("activations").parse_args(args)
    # Text that is piped on is not wrapped to some terminal's width.
    console = Console(width=None if sys.stdout.isatty() else 300)
    table = Table("name", "formula", "trainable", "source", box=box.SIMPLE_HEAD)
    for name, entry in sorted(CATALOGUE.items()):
        table.add_row(name, entry.formula, str(trainable_parameters(entry)), entry.source)
    console.print(table)
    return 0
