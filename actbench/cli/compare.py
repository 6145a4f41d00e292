"""``compare``: run a study, or print its plan."""

import shlex
import sys
from collections.abc import Sequence
from functools import partial

import polars as pl

from actbench.cli.lightning import quieten, show_help
from actbench.cli.main import fail, shown_program
from actbench.cli.report import print_results, write_views
from actbench.inference.stats import smallest_p
from actbench.inference.verdict import RECORDS, PowerForecast, Question, forecast_power, points
from actbench.records import RecordError, read_records
from actbench.specs import UsageError, compose, dump_yaml, one_line, without
from actbench.studies import (
    FLAGS,
    MissingError,
    Study,
    StudyError,
    Wanted,
    compare,
    crossed_wanted,
    large_margin,
    make_plan,
    make_question,
    pilot,
    planned_cells,
    read_wanted,
    rehearse,
    study_parser,
    test_images,
)
from actbench.studies.cells import ChosenEngine, trained_cells
from actbench.studies.executors import ExecutorError
from actbench.studies.forecast import forecast
from actbench.studies.progress import without_repeats


def run_compare(options: Sequence[str]) -> int:
    """Run a study; returns the exit status: 0, 2 if its settings make no sense, 1 if cells are missing at the end."""
    command = f"{shown_program()} compare {shlex.join(options)}".strip().encode(errors="replace").decode()
    study: Study | None = None
    quieten()
    try:
        if show_help(study_parser(), "compare", options):
            return 0
        given = compose(options, (*FLAGS, "print_config"))
        if not given.get("study") and any(option.startswith(("--config", "-c")) for option in options):
            raise UsageError("--config has no section 'study', which says what to compare; `fit` runs such a config")
        study = Study.of(without(given, "print_config"))
        if "print_config" in given:
            print(dump_yaml(study.to_config()), end="")
            return 0
        if given.get("pilot") and not given.get("dry_run"):
            raise UsageError("--pilot belongs to --dry_run: it trains 4 separate seeds, to plan with")
        if given.get("dry_run"):
            print_plan(study, with_pilot=bool(given.get("pilot")))
            return 0
        show = partial(write_views, folder=study.folder)
        results = compare(study, self_test=bool(given.get("self_test")), show=show, command=command)
    except (StudyError, UsageError, RecordError, ExecutorError) as error:
        return fail(f"compare: {one_line(error)}" if isinstance(error, UsageError) else error)
    except (MissingError, OSError) as error:
        advice = "" if isinstance(error, MissingError) else f"; finished cells are kept, go on with: {command}"
        fail(one_line(error) + advice)
        return 1
    except (KeyboardInterrupt, SystemExit) as error:
        if isinstance(error.__context__, BrokenPipeError):  # nobody reads the output
            raise
        print(f"interrupted; {finished(study)}, go on with: {command}", file=sys.stderr)
        return error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 130
    print_results(results, study.folder)
    return 0


def finished(study: Study | None) -> str:
    """How much of an interrupted study is kept, in words."""
    # Which cells of a tuned study count is known only at its end, and which sources are crossed takes a while to see.
    if study is None or study.grid or study.fairness.variance:
        return "finished cells are kept"
    plan = make_plan(study)
    return f"{plan.cached:,} of {plan.cached + plan.missing_replicates:,} replicates are finished, and kept"


def print_plan(study: Study, *, with_pilot: bool) -> None:
    """Print what a study would run, and what it will be able to detect."""
    compared = planned_cells(study)
    question = make_question(study, compared)
    wanted = [Wanted(entry, study.seeds) for entry in compared]
    crossed = crossed_wanted(study, question, compared, print)
    plan = make_plan(study, [*wanted, *crossed])
    if plan.missing:  # any error is reported before anything else is printed
        engines = dict[str, ChosenEngine]()
        epoch_steps = rehearse(plan, without_repeats(print), engines)
        plan = plan._replace(missing=[each for cell in plan.missing for each in trained_cells(cell, engines)])
        table = read_wanted(study, wanted, print, change=False)
        costs = forecast(plan.missing, table, epoch_steps)
    else:  # the study's own file of records, which is quicker to read than many cells
        path, table = study.folder / RECORDS, pl.DataFrame()
        if path.exists():
            table = read_records(path).filter(pl.col("cell").is_in([entry.cell.hash for entry in compared]))
    if question_on_margin := large_margin(study.margin):
        print(question_on_margin)
    sequential = f" at most, from {question.design.looks[0]} on until it is clear" if question.design else ""
    print(f"study {study.name}: {len(wanted) * study.most:,} trainings, of {study.most} seeds each{sequential}")
    if crossed:
        print(f"crossed seeds: {sum(len(seeds) for _, seeds in crossed):,} trainings more")
    for heading in ("datasets", "networks", "arms"):
        print(f"{heading}: {', '.join(getattr(question, heading))}")
    for line in filter(None, (entry.parameters for entry in compared)):
        print(line)
    print(f"baseline: {question.baseline}; comparisons: {len(question.family)}")
    print(f"finished: {plan.cached:,}; missing: {plan.missing_replicates:,}, in {len(plan.missing):,} cells")
    if plan.missing:
        time = "unknown" if costs.minutes is None else f"about {costs.minutes:.1f} min here, one cell after another"
        memory = f"{costs.memory_mb:.0f} MB memory, " if costs.memory_mb else ""  # not known on every system
        print(f"time: {time}; {costs.steps:,} optimiser steps; {memory}{costs.disk_mb:.1f} MB disk")
    if study.grid:
        trainings = len(wanted) * len(study.grid.values) * study.grid.replicates
        print(
            f"tuning first: {trainings:,} trainings, of {study.grid.replicates} seeds at each of "
            f"{len(study.grid.values)} values of {study.grid.setting}; the comparison's finished and missing "
            "replicates are counted at the config's own value"
        )
    lacking = {cell.hash for cell in plan.missing}
    datasets = {entry.dataset: entry for entry in compared if entry.cell.hash in lacking}
    images = {name: test_images(entry) for name, entry in datasets.items()}
    print_foresight(question, forecast_power(question, table, pilot(study) if with_pilot else pl.DataFrame(), images))
    print(f"plan: {question.hash}")


def print_foresight(question: Question, foreseen: Sequence[PowerForecast]) -> None:
    """Print what a study will be able to detect."""
    margin = points(question.margin, sign=False)
    for each in foreseen:
        seen, sd = (
            " to ".join(dict.fromkeys(points(value, sign=False) for value in both))
            for both in (each.detectable, each.sd)
        )
        needed = "no number of pairs" if each.pairs_for_margin is None else f"{each.pairs_for_margin:,} pairs"
        print(
            f"{each.dataset}/{each.network}: {question.most} pairs see a difference of {seen} points with 80 % power; "
            f"{needed} find equal arms equivalent within {margin} points (sd of a difference {sd}: {each.source})"
        )
    least, level = smallest_p(question.most), question.alpha / max(1, len(question.family))
    if least > level:
        print(f"too few for level {level:.3g}: an exact sign-flip test of {question.most} pairs gives p >= {least:.3g}")
