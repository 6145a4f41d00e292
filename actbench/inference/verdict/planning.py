"""What so many seeds will be able to tell, said before they are trained."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np
import polars as pl

from actbench.inference.stats import detectable, noise_of_test_set, pairs_for_margin
from actbench.inference.verdict.evidence import paired, scores
from actbench.inference.verdict.findings import OUTCOME
from actbench.inference.verdict.question import Question

TYPICAL = 0.9  # accuracy, where none is known
LEAST = 4  # pairs that a spread is taken from


class Foreseen(NamedTuple):
    """Of the comparisons on one dataset and network: the spread of their differences, and what follows from it.

    ``sd`` are the standard deviations of a difference, of the comparison that
    varies least and of the one that varies most; ``detectable`` are the
    smallest differences that all pairs see with 80 % power, fractions; and
    ``pairs_for_margin`` is how many pairs find equal arms equivalent, for the
    one that varies most. All are for the first step of the correction for
    several comparisons, which is the hardest.
    """

    dataset: str
    network: str
    source: str
    sd: tuple[float, float]
    detectable: tuple[float, float]
    pairs_for_margin: int | None


def foresee(
    question: Question, known: pl.DataFrame, pilot: pl.DataFrame, images: Mapping[str, int | None]
) -> list[Foreseen]:
    """What the comparisons of each dataset and network will be able to tell.

    The spread of a difference comes from the records at hand, or from a
    pilot's, or else from the test set's size: that is a rough bound, because
    networks differ by more than chance on a finite test set, and share part of
    their errors. ``images`` are how many each dataset's test part has.
    """
    alpha = question.alpha / max(1, len(question.family))
    result = []
    for dataset, network in product(question.datasets, question.networks):
        tables = {"records at hand": known, "the pilot": pilot}
        found = {source: spreads(question, table, dataset, network) for source, table in tables.items()}
        if rows := images.get(dataset):
            rough = f"rough bound from {rows:,} test images, at an accuracy of {TYPICAL:g}"
            found[rough] = [noise_of_test_set(TYPICAL, rows)]
        source = next((source for source, sds in found.items() if sds), None)
        if source:
            least, most = min(found[source]), max(found[source])
            unit = detectable(question.most, alpha=alpha)
            needed = pairs_for_margin(most, question.margin, alpha=alpha)
            result.append(Foreseen(dataset, network, source, (least, most), (least * unit, most * unit), needed))
    return result


def spreads(question: Question, table: pl.DataFrame, dataset: str, network: str) -> list[float]:
    """Standard deviations of the comparisons' differences, over all seeds of a table; none of too few pairs."""
    if not len(table):
        return []
    seeds, known = table["seed"].to_list(), scores(table, OUTCOME)
    own = replace(question, seed=min(seeds), replicates=max(seeds) - min(seeds) + 1)
    family = [of for of in question.family if (of.dataset, of.network) == (dataset, network)]
    differences = [paired(known, comparison, own).difference for comparison in family]
    return [float(np.std(of, ddof=1)) for of in differences if len(of) >= LEAST and np.std(of) > 0]
