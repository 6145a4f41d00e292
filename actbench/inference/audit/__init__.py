"""What a published table of means and spreads implies, and which of its rows cannot be right."""

from actbench.inference.audit.columns import COLUMNS as COLUMNS
from actbench.inference.audit.comparison import Audited as Audited
from actbench.inference.audit.comparison import audit as audit
from actbench.inference.audit.doubts import Flag as Flag
from actbench.inference.audit.implied import GOAL as GOAL
from actbench.inference.audit.implied import MOST as MOST
from actbench.inference.audit.implied import Implied as Implied
from actbench.inference.audit.implied import imply as imply
from actbench.inference.audit.implied import unpaired_power as unpaired_power
from actbench.inference.audit.rows import KINDS as KINDS
from actbench.inference.audit.rows import Printed as Printed
from actbench.inference.audit.rows import Row as Row
from actbench.inference.audit.rows import TableError as TableError
from actbench.inference.audit.rows import read_number as read_number
from actbench.inference.audit.tables import PublishedTable as PublishedTable
from actbench.inference.audit.tables import read_table as read_table
