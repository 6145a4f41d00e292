"""Testing the harness on a study's own scores: the same again, false alarms, and a planted difference."""

import tempfile
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import polars as pl

from actbench.inference.verdict import OUTCOME, POWER, Certificate, StudyResults, alarms, scores
from actbench.records import RESULTS
from actbench.studies.definition import Study
from actbench.studies.executors import Failure
from actbench.studies.grid import cells_of
from actbench.studies.plan import Wanted
from actbench.studies.training import MissingError, RunContext

LEAST = 12  # seeds of the baseline that a split needs, so that an exact test of each half's pairs can reach .05


def certify(wanted: Wanted, study: Study, results: StudyResults, context: RunContext) -> Certificate:
    """Test the harness with the baseline on one dataset and network.

    The baseline is trained again, in the same blocks of seeds, and compared with
    itself; then its seeds are split into two arms many times. Raises MissingError if
    the baseline cannot be trained again.
    """
    entry, question = wanted.entry, results.question
    own = results.table.filter(dataset_name=entry.dataset, network_name=entry.network, arm=entry.arm).sort("seed")
    rows = own.select("started", "seed").iter_rows()
    fits = [[seed for _, seed in fit] for _, fit in groupby(rows, itemgetter(0))]  # replicates of a fit start together
    cells = cells_of(entry, [range(seeds[0], seeds[-1] + 1) for seeds in fits])
    context.progress.begin(len(cells), len(own))
    again = []
    with tempfile.TemporaryDirectory(dir=Path(study.root, study.name)) as folder:
        tasks = [(cell, Path(folder, str(cell.seeds[0]))) for cell in cells]
        for (cell, _), result in context.executor.run(context.work, tasks):
            if isinstance(result, Failure):
                raise MissingError([str(result)], f"the self-test of {entry.label}")
            again.append(result)
            line = f"self-test: {entry.label} again, seeds {cell.seeds[0]}-{cell.seeds[-1]}"
            context.progress.end_cell(line, len(cell.seeds))
    both = own.select(RESULTS).join(pl.concat(again).select(RESULTS), on=RESULTS, nulls_equal=True)
    known = scores(results.table, OUTCOME)[entry.key]
    context.progress.say("self-test: splitting the baseline's seeds")
    by_seed = np.array([known[seed] for seed in sorted(known)])
    split = alarms(by_seed, alpha=question.alpha, margin=question.margin, design=question.design)
    return Certificate(
        dataset=entry.dataset,
        network=entry.network,
        repeated=len(own),
        equal=len(both),
        alpha=question.alpha,
        power_planned=POWER,
        **split._asdict(),
    )
