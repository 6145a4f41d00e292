"""Tables and figures of a study for a paper."""

from pathlib import Path
from typing import Literal, get_args

import polars as pl

from actbench.inference.verdict import VERDICT, StudyResults
from actbench.records import own_folder, write_whole
from actbench.report import figures
from actbench.report.figures import Figure, files, rendered
from actbench.report.numbers import arm_rows, comparison_rows
from actbench.report.tables import latex, markdown, tables

FOLDER = "exports"
Format = Literal["md", "tex", "csv", "json", "png", "svg"]
FORMATS: tuple[Format, ...] = get_args(Format)


def write_exports(results: StudyResults, folder: Path, format: Format) -> list[Path]:
    """Write a study's tables or figures into ``exports/`` in its folder; returns the files.

    Markdown and LaTeX (with booktabs) have a file for each table, in the units
    of the page. CSV has the comparisons, the arms and all replicates, with full
    precision, as fractions, seconds and MiB. JSON is ``verdict.json``. PNG and
    SVG have a file for each figure. ValueError refuses any other format.
    """
    if format not in FORMATS:
        raise ValueError(f"{format!r} is no format; there are {', '.join(FORMATS)}")
    found: dict[str, bytes]
    if format == "json":
        found = {Path(VERDICT).stem: (folder / VERDICT).read_bytes()}
    elif format == "csv":
        found = {name: csv(table) for name, table in sheets(results).items() if len(table)}
    elif format in ("png", "svg"):
        found = {name: rendered(of, format) for name, of in files(all_figures(results)).items()}
    else:
        text = markdown if format == "md" else latex
        found = {table.name: text(table).encode() for table in tables(results)}
    top = own_folder(folder, FOLDER)
    paths = {top / f"{name}.{format}": content for name, content in found.items()}
    for path, content in paths.items():
        write_whole(path, content)
    return list(paths)


def csv(table: pl.DataFrame) -> bytes:
    """A table as CSV, in which no text is a formula to a spreadsheet."""
    return table.with_columns(pl.col(pl.String).str.replace(r"^([=+\-@\t\r])", "'${1}")).write_csv().encode()


def all_figures(results: StudyResults) -> list[Figure]:
    """All figures of a study that have something to show."""
    measured = figures.forest_figures(results) + figures.pair_figures(results) + figures.curve_figures(results)
    return measured + figures.cost_figures(results) + figures.tuning_figures(results) + figures.shape_figures(results)


def sheets(results: StudyResults) -> dict[str, pl.DataFrame]:
    """Comparisons, the arms that have scores, and replicates; what is not known is null."""
    compared = pl.DataFrame(comparison_rows(results), infer_schema_length=None)
    arms = [row for row in arm_rows(results) if row["test_accuracy_min"] is not None]
    flat = [name for name, kind in results.table.schema.items() if not isinstance(kind, pl.List)]
    return {
        "comparisons": compared.drop("test_loss_pairs", "test_ece_pairs", strict=False),
        "arms": pl.DataFrame(arms, infer_schema_length=None),
        "replicates": results.table.select(flat),
    }
