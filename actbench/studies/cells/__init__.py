"""One cell of a study: one fit and one test of an activation on a dataset with some seeds, a record for each seed."""

from actbench.studies.cells.cell import Cell as Cell
from actbench.studies.cells.cell import ChosenEngine as ChosenEngine
from actbench.studies.cells.cell import build_data as build_data
from actbench.studies.cells.cell import cell_config as cell_config
from actbench.studies.cells.cell import data_digest as data_digest
from actbench.studies.cells.cell import kind_of as kind_of
from actbench.studies.cells.cell import trained_cells as trained_cells
from actbench.studies.cells.cell import with_engine as with_engine
from actbench.studies.cells.key import factors as factors
from actbench.studies.cells.measurements import WARM_UP as WARM_UP
from actbench.studies.cells.measurements import device_name as device_name
from actbench.studies.cells.run import run_cell as run_cell
