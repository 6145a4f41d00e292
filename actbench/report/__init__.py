"""Pages, tables, figures and exports of a study's results. Nothing here trains, or needs torch."""

from actbench.report.cells import latex as latex
from actbench.report.cells import markdown as markdown
from actbench.report.page import page as page
from actbench.report.page import write_page as write_page
from actbench.report.tables import tables as tables
