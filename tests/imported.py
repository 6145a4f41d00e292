"""What commands import, for the process that tests fork them from."""

import gc

import actbench.cli.compare
import actbench.cli.lightning  # noqa: F401
from actbench.studies.cells.key import distributions

distributions()
gc.freeze()  # every fit collects garbage, and would go through all of it
