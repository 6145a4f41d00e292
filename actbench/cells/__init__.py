"""One cell of a study: an activation on a dataset with some seeds. One fit, one test, a record for each seed."""

from actbench.cells.config import CallbackSpec, Cell, DatasetSpec, check_keys, settled
from actbench.cells.fits import cell_of, records_of_test
from actbench.cells.measurements import WARM_UP, Measurements, device_name
from actbench.cells.run import run_cell
from actbench.cells.shared import share

__all__ = [
    "WARM_UP",
    "CallbackSpec",
    "Cell",
    "DatasetSpec",
    "Measurements",
    "cell_of",
    "check_keys",
    "device_name",
    "records_of_test",
    "run_cell",
    "settled",
    "share",
]
