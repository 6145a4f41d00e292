"""One cell of a study: an activation on a dataset with some seeds. One fit, one test, a record for each seed."""

from actbench.cells.cell import Cell, build_data, cell_config, data_digest
from actbench.cells.measurements import WARM_UP, Measurements, device_name
from actbench.cells.run import run_cell

__all__ = [
    "WARM_UP",
    "Cell",
    "Measurements",
    "build_data",
    "cell_config",
    "data_digest",
    "device_name",
    "run_cell",
]
