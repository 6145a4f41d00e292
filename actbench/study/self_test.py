"""Testing the harness on a study's own scores: the same again, false alarms, and a planted difference."""

import tempfile
from itertools import groupby
from pathlib import Path

import numpy as np
import polars as pl

from actbench.executors import Failure
from actbench.records import RESULTS
from actbench.study.definition import Study, StudyError
from actbench.study.grid import cell_of
from actbench.study.plan import Wanted
from actbench.study.training import Means, MissingError
from actbench.verdict import OUTCOME, POWER, Certificate, Question, Told, alarms, scores

LEAST = 12  # seeds of the baseline that a split needs, so that an exact test of each half's pairs can reach .05


def check_self_test(question: Question) -> None:
    """Refuse a self-test that could not fail.

    Raises:
        StudyError: There are too few seeds.
    """
    if question.most < LEAST:
        raise StudyError(f"--self_test splits the baseline's seeds in two, and needs {LEAST} at least")


def certify(wanted: Wanted, study: Study, told: Told, means: Means) -> Certificate:
    """Test the harness with the baseline on one dataset and network.

    The baseline is trained anew, in the blocks of seeds in which it was, and
    compared with itself; then its seeds are split into two arms many times.

    Args:
        wanted: The baseline's seeds that count.
        study: Whose.
        told: What its records say.
        means: With what it is run.

    Raises:
        MissingError: The baseline cannot be trained again.
    """
    entry, question = wanted.entry, told.question
    own = told.table.filter(dataset_name=entry.dataset, network_name=entry.network, arm=entry.arm).sort("seed")
    # Each fit's seeds: replicates of one fit started together.
    fits = [
        [seed for seed, _ in fit] for _, fit in groupby(own.select("seed", "started").iter_rows(), lambda row: row[1])
    ]
    cells = [cell_of(entry.config, entry.digest, study, range(seeds[0], seeds[-1] + 1)) for seeds in fits]
    means.progress.begin(len(cells), len(own))
    again = []
    with tempfile.TemporaryDirectory(dir=Path(study.root, study.name)) as folder:
        tasks = [(cell, Path(folder, str(cell.seeds[0]))) for cell in cells]
        for (cell, _), result in means.executor.run(means.work, tasks):
            if isinstance(result, Failure):
                raise MissingError([str(result)], f"the self-test of {entry.label}")
            again.append(result)
            means.progress.end_cell(
                f"self-test: {entry.label} again, seeds {cell.seeds[0]}-{cell.seeds[-1]}", len(cell.seeds)
            )
    both = own.select(RESULTS).join(pl.concat(again).select(RESULTS), on=RESULTS, nulls_equal=True)
    known = scores(told.table, OUTCOME)[entry.key]
    means.progress.say("self-test: splitting the baseline's seeds")
    split = alarms(
        np.array([known[seed] for seed in sorted(known)]),
        alpha=question.alpha,
        margin=question.margin,
        design=question.design,
    )
    return Certificate(
        dataset=entry.dataset,
        network=entry.network,
        repeated=len(own),
        equal=len(both),
        alpha=question.alpha,
        power_planned=POWER,
        **split._asdict(),
    )
