"""Finished replicates on disk, one row each, in Parquet files that are written whole or not at all.

A `Store` is a folder of such files. Each holds replicates of one cell, is
named by the hash of all that determines them and by their seeds, and carries a
checksum of all its bytes. `COLUMNS` lists what a row holds.
"""

from actbench.records.files import RecordError as RecordError
from actbench.records.files import check_links as check_links
from actbench.records.files import replace_file as replace_file
from actbench.records.files import replacing as replacing
from actbench.records.mechanism import COLUMN_OF as COLUMN_OF
from actbench.records.mechanism import DORMANT as DORMANT
from actbench.records.mechanism import LAYERS as LAYERS
from actbench.records.mechanism import MECHANISM as MECHANISM
from actbench.records.mechanism import RANK as RANK
from actbench.records.mechanism import SATURATED as SATURATED
from actbench.records.mechanism import SITES as SITES
from actbench.records.mechanism import STATISTICS as STATISTICS
from actbench.records.mechanism import TIMES as TIMES
from actbench.records.mechanism import UNMEASURED as UNMEASURED
from actbench.records.mechanism import Statistic as Statistic
from actbench.records.store import FILE as FILE
from actbench.records.store import MEASURED as MEASURED
from actbench.records.store import Store as Store
from actbench.records.store import blocks as blocks
from actbench.records.store import files_by_seed as files_by_seed
from actbench.records.store import merge as merge
from actbench.records.table import CHECKSUM as CHECKSUM
from actbench.records.table import COLUMNS as COLUMNS
from actbench.records.table import LONGEST as LONGEST
from actbench.records.table import NAMES as NAMES
from actbench.records.table import RESULTS as RESULTS
from actbench.records.table import fingerprint as fingerprint
from actbench.records.table import from_bytes as from_bytes
from actbench.records.table import is_printable as is_printable
from actbench.records.table import json_text as json_text
from actbench.records.table import read_records as read_records
from actbench.records.table import same_results as same_results
from actbench.records.table import to_bytes as to_bytes
from actbench.records.table import to_frame as to_frame
from actbench.records.table import write_records as write_records
