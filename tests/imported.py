"""What commands import, for the process that tests fork them from."""

import gc
import struct
import subprocess
import sys

import torch
from markupsafe import Markup

import actbench.cli.compare
import actbench.cli.lightning
import actbench.judging.trial  # noqa: F401
from actbench.report import tensorboard
from actbench.report.page import templates
from actbench.studies.cells.code import distributions

distributions()
torch._dynamo.list_backends()  # imports all of them, as the first use of torch.compile does
# The engine that makes the page's script and draws takes a second to start, in every fork, and does not survive one.
making = [sys.executable, "-c", "from actbench.report.page import vega_script; print(vega_script(), end='')"]
SCRIPT = Markup(subprocess.run(making, capture_output=True, text=True, check=True).stdout)
templates().get_template("report.html.j2")  # is compiled
gc.freeze()  # every fit collects garbage, and would go through all of it
gc.get_freeze_count = lambda: 1  # every study asks whether there is any; to count them takes .04 s


def draw_nothing() -> None:
    """Give pages the script that was made, and TensorBoard images of which only width and height can be read."""
    sys.modules["actbench.report.page"].vega_script = lambda: SCRIPT  # the package's attribute `page` is the function
    tensorboard.render = lambda figures, form, dpi: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 1, 1)
