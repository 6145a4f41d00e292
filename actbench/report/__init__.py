"""Pages and tables from what a study's records say. Nothing here trains, or needs torch."""

from actbench.report.page import REPORT, page, write_page
from actbench.report.tables import Cell, Column, Table, latex, markdown, tables

__all__ = ["REPORT", "Cell", "Column", "Table", "latex", "markdown", "page", "tables", "write_page"]
