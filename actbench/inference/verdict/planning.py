"""Which differences a study will be able to see, before it is trained."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl

from actbench.inference.stats import detectable, noise_of_test_set, pairs_for_margin
from actbench.inference.verdict.evidence import paired, scores
from actbench.inference.verdict.findings import OUTCOME
from actbench.inference.verdict.question import Panel, Question

TYPICAL = 0.9  # accuracy, where none is known
LEAST = 4  # pairs from which a spread is estimated


class PowerForecast(NamedTuple):
    """Spread of the differences on one dataset and network, and what follows from it.

    ``sd`` holds the standard deviation of a difference for the comparisons that
    vary least and most. ``detectable`` holds the smallest differences that all
    pairs see with 80 % power, as fractions. ``pairs_for_margin`` is the number of
    pairs that find equal arms equivalent, for the comparison that varies most.
    All are for the first step of the correction for several comparisons, which
    is the hardest.
    """

    dataset: str
    network: str
    source: str
    sd: tuple[float, float]
    detectable: tuple[float, float]
    pairs_for_margin: int | None


def forecast_power(
    question: Question, records: pl.DataFrame, pilot: pl.DataFrame, images: Mapping[str, int | None]
) -> list[PowerForecast]:
    """What the comparisons on each dataset and network will be able to see.

    The spread of a difference comes from the records at hand, else from those of
    a pilot, else from the number of ``images`` in each dataset's test part. That
    is a rough bound, because networks differ by more than chance on a finite test
    set, and share part of their errors.
    """
    alpha = question.alpha / max(1, len(question.family))
    result = []
    for panel in question.panels:
        tables = {"records at hand": records, "the pilot": pilot}
        sds_by_source = {source: spreads(question, table, panel) for source, table in tables.items()}
        if rows := images.get(panel.dataset):
            rough = f"rough bound from {rows:,} test images, at an accuracy of {TYPICAL:g}"
            sds_by_source[rough] = [noise_of_test_set(TYPICAL, rows)]
        source = next((source for source, sds in sds_by_source.items() if sds), None)
        if source:
            least, most = min(sds_by_source[source]), max(sds_by_source[source])
            unit = detectable(question.most, alpha=alpha)
            needed = pairs_for_margin(most, question.margin, alpha=alpha)
            result.append(PowerForecast(*panel, source, (least, most), (least * unit, most * unit), needed))
    return result


def spreads(question: Question, table: pl.DataFrame, panel: Panel) -> list[float]:
    """Standard deviations of the panel's differences over all seeds of a table; none from too few pairs."""
    if not len(table):
        return []
    seeds, accuracies = table["seed"].to_list(), scores(table, OUTCOME)
    all_seeds = replace(question, seed=min(seeds), replicates=max(seeds) - min(seeds) + 1)
    family = [comparison for comparison in question.family if comparison[:2] == panel]
    differences = [paired(accuracies, comparison, all_seeds).difference for comparison in family]
    return [float(np.std(values, ddof=1)) for values in differences if len(values) >= LEAST and np.std(values) > 0]
