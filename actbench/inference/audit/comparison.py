"""Every row of a table beside the baseline of its dataset."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from actbench.inference.audit.doubts import Flag, contradictions, impossible
from actbench.inference.audit.implied import Implied, imply
from actbench.inference.audit.rows import Row, TableError
from actbench.inference.stats import holm


class Audited(NamedTuple):
    """A row, what it implies beside the baseline (None for the baseline itself), and its flags."""

    row: Row
    implied: Implied | None
    adjusted: float  # Holm's p over the whole table, all datasets
    flags: tuple[Flag, ...]
    ways: dict[str, str]  # how the published interval and p were computed, where they fit


def audit(
    rows: Sequence[Row],
    baseline: str | None = None,
    *,
    level: float = 0.95,
    alpha: float = 0.05,
    highest: float | None = None,
) -> list[Audited]:
    """Compare every row with the baseline of its dataset, unpaired, and flag what cannot be right.

    Args:
        rows: At least two of each dataset, with different names.
        baseline: Name of the row with which the others are compared; by default that of the first row.
        level: Coverage of the intervals, both published and computed.
        alpha: Level of the tests whose power is computed.
        highest: Highest possible score, where the lowest is 0. By default 1 or 100, whichever no mean of a dataset
            exceeds, or none.

    Raises:
        TableError: A dataset has only one row, or no such baseline; no row has a spread; a spread has no number of
            runs; or a setting is out of its range.
    """
    for name, value in (("level", level), ("alpha", alpha)):
        if not 0 < value < 1:
            raise TableError(f"{name} must be strictly between 0 and 1, got {value}")
    if highest is not None and not highest > 0:
        raise TableError(f"highest must be above 0, got {highest}")
    if len(rows) < 2:
        raise TableError(f"needs a baseline and a row beside it, got {len(rows)} rows")
    bases = baselines(rows, rows[0].name if baseline is None else baseline)
    for row in rows:
        if row.spread and not row.n:
            raise TableError(f"{row.label}: column n: a spread needs the number of runs; --runs gives that of all rows")
    if not any(row.spread for row in rows):
        raise TableError("no row has a spread, such as a standard deviation, so that nothing can be tested")
    limits = default_limits(rows)
    implied = [
        None if row is bases[row.dataset] else imply(row, bases[row.dataset], level=level, alpha=alpha) for row in rows
    ]
    tested = [index for index, comparison in enumerate(implied) if comparison and not math.isnan(comparison.p)]
    p_values = [comparison.p for comparison in implied if comparison and not math.isnan(comparison.p)]
    adjusted = dict(zip(tested, holm(p_values), strict=True))
    audited = []
    for index, (row, comparison) in enumerate(zip(rows, implied, strict=True)):
        flags = list(impossible(row, limits[row.dataset] if highest is None else highest, level=level))
        ways = dict[str, str]()
        if comparison:
            doubts, ways = contradictions(row, bases[row.dataset], comparison, level=level)
            flags += doubts
        audited.append(Audited(row, comparison, adjusted.get(index, math.nan), tuple(flags), ways))
    return audited


def baselines(rows: Sequence[Row], name: str) -> dict[str, Row]:
    """Of each dataset, the row of this name."""
    bases = {row.dataset: row for row in rows if row.name == name}
    for dataset in dict.fromkeys(row.dataset for row in rows):
        names = [row.name for row in rows if row.dataset == dataset]
        where = f"{dataset}: " if dataset else ""
        if dataset not in bases:
            raise TableError(f"{where}no row is named {name!r}: the rows are {', '.join(names)}")
        if len(names) < 2:
            raise TableError(f"{where}needs a row beside the baseline {name!r}")
    return bases


def default_limits(rows: Sequence[Row]) -> dict[str, float]:
    """Highest possible score of each dataset: 1 or 100, the smallest that no mean exceeds, or infinity.

    It is 100 if there are per cent signs, or if it is for another dataset of the table.
    """
    limits = {}
    for dataset in {row.dataset for row in rows}:
        means = [row.mean.value for row in rows if row.dataset == dataset]
        least = 100.0 if any(row.percent for row in rows if row.dataset == dataset) else 1.0
        fitting = (limit for limit in (1.0, 100.0) if least <= limit and min(means) >= 0 and max(means) <= limit)
        limits[dataset] = next(fitting, math.inf)
    percent = 100.0 in limits.values()
    return {dataset: max(limit, 100.0) if percent else limit for dataset, limit in limits.items()}
