"""``run_compare`` and ``run_merge``: studies."""

import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import polars as pl

from actbench import records
from actbench.cli.main import OneLine, fail, shown_path, shown_program
from actbench.cli.messages import quieten, show_help
from actbench.cli.report import draw, print_told
from actbench.inference.verdict import RECORDS, Foreseen, Question, foresee, points
from actbench.records import RecordError, Store
from actbench.specs import UsageError, compose, dump_yaml, one_line, without
from actbench.studies import (
    FLAGS,
    MissingError,
    Study,
    StudyError,
    Wanted,
    collect,
    compare,
    entries,
    make_plan,
    pilot,
    question_of,
    rehearse,
    study_parser,
    test_images,
)
from actbench.studies.executors import ExecutorError
from actbench.studies.forecast import forecast


def run_compare(words: Sequence[str]) -> int:
    """Run a study; returns the exit status: 0, 2 for one that makes no sense, 1 if cells are missing at the end."""
    command = f"{shown_program()} compare {shlex.join(words)}".strip().encode(errors="replace").decode()
    study: Study | None = None
    quieten()
    try:
        if show_help(study_parser(), "compare", words):
            return 0
        given = compose(words, (*FLAGS, "print_config"))
        if not given.get("study") and any(word.startswith(("--config", "-c")) for word in words):
            raise UsageError("--config has no section 'study', which says what is compared; `fit` runs it")
        study = Study.of(without(given, "print_config"))
        if "print_config" in given:
            print(dump_yaml(study.to_config()), end="")
            return 0
        if given.get("pilot") and not given.get("dry_run"):
            raise UsageError("--pilot belongs to --dry_run: it trains 4 seeds apart, to plan with")
        if given.get("dry_run"):
            print_plan(study, with_pilot=bool(given.get("pilot")))
            return 0
        folder = Path(study.root, study.name)
        show = partial(draw, folder=folder)
        results = compare(study, self_test=bool(given.get("self_test")), show=show, command=command)
    except (StudyError, UsageError, RecordError, ExecutorError) as error:
        return fail(f"compare: {one_line(error)}" if isinstance(error, UsageError) else one_line(error))
    except MissingError as error:
        fail(one_line(error))
        return 1
    except OSError as error:
        fail(f"{one_line(error)}; what is finished is kept, go on with: {command}")
        return 1
    except (KeyboardInterrupt, SystemExit) as error:
        return interrupted(error, study, command)
    print_told(results, folder)
    return 0


def interrupted(error: BaseException, study: Study | None, command: str) -> int:
    """Say what is kept of a study that was interrupted, and how it goes on; returns the exit status."""
    if isinstance(error.__context__, BrokenPipeError):  # nobody reads what is printed
        raise error
    print(f"interrupted; {finished(study)}, go on with: {command}", file=sys.stderr)
    return error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 130


def finished(study: Study | None) -> str:
    """How much of an interrupted study is kept, in words."""
    if study is None or study.grid:  # which of a tuned study's cells count is known at its end
        return "what is finished is kept"
    plan = make_plan(study)
    total = plan.cached + sum(len(cell.seeds) for cell in plan.missing)
    return f"{plan.cached:,} of {total:,} replicates are finished, and kept"


def print_plan(study: Study, *, with_pilot: bool) -> None:
    """Print what a study would run, and what it will be able to tell."""
    compared = entries(study)
    question = question_of(study, compared)
    wanted = [Wanted(entry, study.seeds) for entry in compared]
    plan = make_plan(study, wanted)
    if plan.missing:  # whatever is wrong is said before anything else
        epoch_steps = rehearse(plan, print)
        known = collect(study, wanted, print, change=False)
        will = forecast(plan.missing, known, epoch_steps)
    else:  # the folder's records: one file, where cells may be thousands, and nothing before the study's end
        path, known = Path(study.root, study.name, RECORDS), pl.DataFrame()
        if path.exists():
            known = records.read_records(path).filter(pl.col("cell").is_in([entry.cell.hash for entry in compared]))
    sequential = f" at most, from {question.design.looks[0]} on until it is clear" if question.design else ""
    print(f"study {study.name}: {len(wanted) * study.most:,} trainings, of {study.most} seeds each{sequential}")
    for what, names in {"datasets": question.datasets, "networks": question.networks, "arms": question.arms}.items():
        print(f"{what}: {', '.join(names)}")
    print(f"baseline: {question.baseline}; comparisons: {len(question.family)}")
    missing = sum(len(cell.seeds) for cell in plan.missing)
    print(f"finished: {plan.cached:,}; missing: {missing:,}, in {len(plan.missing):,} cells")
    if plan.missing:
        time = "unknown" if will.minutes is None else f"about {will.minutes:.1f} min here, one cell after another"
        memory = f"{will.memory_mb:.0f} MB memory, " if will.memory_mb else ""  # not known everywhere
        print(f"time: {time}; {will.steps:,} optimiser steps; {memory}{will.disk_mb:.1f} MB disk")
    if study.grid:
        trainings = len(wanted) * len(study.grid.values) * study.grid.replicates
        print(
            f"tuning first: {trainings:,} trainings, of {study.grid.replicates} seeds at each of "
            f"{len(study.grid.values)} values of {study.grid.setting}; what is finished or missing of the comparison "
            "is counted at the config's own value"
        )
    lacking = {cell.hash for cell in plan.missing}
    datasets = {entry.dataset: entry for entry in compared if entry.cell.hash in lacking}
    images = {name: test_images(entry) for name, entry in datasets.items()}
    print_foresight(question, foresee(question, known, pilot(study) if with_pilot else pl.DataFrame(), images))
    print(f"plan: {question.hash}")


def print_foresight(question: Question, foreseen: Sequence[Foreseen]) -> None:
    """Print what a study will be able to tell."""
    margin = points(question.margin, sign=False)
    for of in foreseen:
        seen, sd = (" to ".join(dict.fromkeys(points(value, sign=False) for value in both)) for both in of[4:2:-1])
        needed = "no number of pairs" if of.pairs_for_margin is None else f"{of.pairs_for_margin:,} pairs"
        print(
            f"{of.dataset}/{of.network}: {question.most} pairs see a difference of {seen} points with 80 % power; "
            f"{needed} find equal arms equivalent within {margin} points (sd of a difference {sd}: {of.source})"
        )
    least, level = 2 * 0.5**question.most, question.alpha / max(1, len(question.family))
    if least > level:
        print(f"too few for level {level:.3g}: an exact sign-flip test of {question.most} pairs gives p >= {least:.3g}")


def run_merge(words: Sequence[str]) -> int:
    """Join the stores of several folders of studies; returns the exit status."""
    parser = OneLine("merge")
    parser.add_argument("roots", nargs="+", type=Path, help="folders of studies, which hold cells/")
    parser.add_argument("--root", type=Path, default=Path("studies"), help="folder to join them in (default: studies)")
    chosen = parser.parse_args(words)
    absent = [root for root in chosen.roots if not (root / "cells").is_dir()]
    if absent:
        return fail(f"{absent[0]} is no folder of studies: it has no folder cells")
    if {root.resolve() for root in chosen.roots} == {chosen.root.resolve()}:
        return fail(f"{chosen.root} is where studies are joined; give others, or another --root")
    try:
        added = records.merge([Store(root / "cells") for root in chosen.roots], Store(chosen.root / "cells"))
    except (RecordError, OSError) as error:
        return fail(one_line(error))
    print(f"added {added} cells to {shown_path(chosen.root / 'cells')}")
    return 0
