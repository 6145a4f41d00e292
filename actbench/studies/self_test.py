"""Testing the harness on a study's own scores: a repeated baseline, false alarms, and a planted difference."""

import tempfile
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import polars as pl

from actbench.inference.verdict import (
    OUTCOME,
    POWER,
    Certificate,
    StudyResults,
    failures_by_cell,
    scores,
    simulate_splits,
)
from actbench.records import RESULTS
from actbench.studies.cells import ChosenEngine, kind_of, with_engine
from actbench.studies.definition import Study
from actbench.studies.executors import Failure
from actbench.studies.grid import make_cells
from actbench.studies.plan import Wanted
from actbench.studies.training import MissingError, RunContext

LEAST = 12  # fewest seeds of the baseline, so that an exact test on the pairs of a half can reach p < .05


def certify(wanted: Wanted, study: Study, results: StudyResults, context: RunContext) -> Certificate:
    """Test the harness with the baseline on one dataset and network.

    The baseline is trained again in the same blocks of seeds by the same engine, and
    compared with itself. Then its seeds are split into two arms many times. Raises MissingError
    if the baseline cannot be trained again.
    """
    entry, question = wanted.entry, results.question
    table = results.table.filter(dataset_name=entry.dataset, network_name=entry.network, arm=entry.arm).sort("seed")
    rows = table.select("started", "engine", "seed").iter_rows()
    cells = []
    for (_, engine), fit in groupby(rows, itemgetter(0, 1)):  # replicates of a fit start together
        seeds = [seed for *_, seed in fit]
        (cell,) = make_cells(entry, [range(seeds[0], seeds[-1] + 1)])
        chosen = {kind_of(cell): ChosenEngine.recorded(engine, "it trained these seeds")} if engine else {}
        cells.append(with_engine(cell, chosen))
    context.progress.begin(len(cells), len(table))
    repeated = []
    with tempfile.TemporaryDirectory(dir=study.folder) as folder:
        tasks = [(cell, Path(folder, str(cell.seeds[0]))) for cell in cells]
        for (cell, _), result in context.executor.run(context.work, tasks):
            if isinstance(result, Failure):
                raise MissingError([str(result)], f"the self-test of {entry.label}")
            repeated.append(result)
            context.progress.end_cell(f"self-test: {entry.label} again, seeds {cell.seed_span}", len(cell.seeds))
    equal = table.select(RESULTS).join(pl.concat(repeated).select(RESULTS), on=RESULTS, nulls_equal=True)
    context.progress.say("self-test: splitting the baseline's seeds")
    by_seed = scores(results.table, OUTCOME)[entry.key]
    values = np.array([by_seed[seed] for seed in sorted(by_seed)])
    lost = failures_by_cell(results.table, question)[entry.key]
    failed = np.array([lost[seed] for seed in sorted(by_seed)])
    split = simulate_splits(values, failed, alpha=question.alpha, margin=question.margin, design=question.design)
    return Certificate(
        dataset=entry.dataset,
        network=entry.network,
        repeated=len(table),
        equal=len(equal),
        alpha=question.alpha,
        power_planned=POWER,
        **split._asdict(),
    )
