"""Tables and figures of a study for a paper."""

from pathlib import Path
from typing import Literal, get_args

import polars as pl
import polars.selectors as cs

from actbench.inference.frames import (
    arm_frame,
    comparison_frame,
    failure_frame,
    mechanism_frame,
    noise_frame,
    price_frame,
    site_difference_frame,
)
from actbench.inference.verdict import VERDICT, StudyResults
from actbench.records import check_links, replace_file
from actbench.report import figures
from actbench.report.cells import latex, markdown
from actbench.report.figures import Figure, figures_by_file, render
from actbench.report.tables import tables

FOLDER = "exports"
Format = Literal["md", "tex", "csv", "json", "png", "svg"]
FORMATS: tuple[Format, ...] = get_args(Format)


def write_exports(results: StudyResults, folder: Path, format: Format) -> list[Path]:
    """Write a study's tables or figures into ``exports/`` in its folder; returns the figures_by_file.

    Markdown and LaTeX (with booktabs) give a file for each table, in the units
    of the page. CSV gives the comparisons, failures to train, prices, components of
    variance, the mechanism by epoch and its differences, the arms and all replicates,
    with full precision, as fractions, seconds and MiB. JSON is ``verdict.json``. PNG and
    SVG give a file for each figure.

    Raises:
        ValueError: The format is unknown.
    """
    if format not in FORMATS:
        raise ValueError(f"{format!r} is not a format; choose from {', '.join(FORMATS)}")
    contents: dict[str, bytes]
    if format == "json":
        contents = {Path(VERDICT).stem: (folder / VERDICT).read_bytes()}
    elif format == "csv":
        frames = {
            "comparisons": comparison_frame(results).drop("test_loss_pairs", "test_ece_pairs"),
            "failures": failure_frame(results),
            "price": price_frame(results),
            "variance": noise_frame(results),
            "mechanism": mechanism_frame(results),
            "mechanism_differences": site_difference_frame(results),
            "arms": arm_frame(results).drop_nulls("test_accuracy"),
            "replicates": results.marked.drop(cs.by_dtype(pl.List)),
        }
        contents = {name: to_csv(frame) for name, frame in frames.items() if len(frame)}
    elif format in ("png", "svg"):
        contents = {name: render(group, format) for name, group in figures_by_file(all_figures(results)).items()}
    else:
        to_text = markdown if format == "md" else latex
        contents = {table.name: to_text(table).encode() for table in tables(results)}
    top = check_links(folder / FOLDER)
    paths = {top / f"{name}.{format}": content for name, content in contents.items()}
    for path, content in paths.items():
        replace_file(path, content)
    return list(paths)


def to_csv(table: pl.DataFrame) -> bytes:
    """A table as CSV, in which a spreadsheet takes no text for a formula."""
    return table.with_columns(pl.col(pl.String).str.replace(r"^([=+\-@\t\r])", "'${1}")).write_csv().encode()


def all_figures(results: StudyResults) -> list[Figure]:
    """All figures of a study that have something to show."""
    return [
        *figures.forest_figures(results),
        *figures.pair_figures(results),
        *figures.curve_figures(results),
        *figures.cost_figures(results),
        *figures.tuning_figures(results),
        *figures.noise_figures(results),
        *figures.shape_figures(results),
        *figures.mechanism_figures(results),
    ]
