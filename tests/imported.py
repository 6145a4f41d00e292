"""What commands import, for the process that tests fork them from."""

import gc
import subprocess
import sys

from markupsafe import Markup

import actbench.cli.compare
import actbench.cli.lightning  # noqa: F401
from actbench.report import page
from actbench.studies.cells.key import distributions

distributions()
# The engine that makes the page's script takes a second to start, in every fork, and does not survive one.
making = [sys.executable, "-c", "from actbench.report.page import vega_script; print(vega_script(), end='')"]
script = Markup(subprocess.run(making, capture_output=True, text=True, check=True).stdout)
page.vega_script = lambda: script
gc.freeze()  # every fit collects garbage, and would go through all of it
