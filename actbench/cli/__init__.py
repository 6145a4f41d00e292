"""The command line."""

from actbench.cli.main import main as main
