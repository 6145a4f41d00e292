"""One cell of a study: an activation on a dataset with some seeds. One fit, one test, a record for each seed."""

from actbench.cells.cell import Cell as Cell
from actbench.cells.cell import build_data as build_data
from actbench.cells.cell import cell_config as cell_config
from actbench.cells.cell import data_digest as data_digest
from actbench.cells.measurements import WARM_UP as WARM_UP
from actbench.cells.measurements import device_name as device_name
from actbench.cells.run import run_cell as run_cell
