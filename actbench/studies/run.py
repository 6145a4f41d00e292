"""Running a study: tuning, training in batches until the verdicts are clear, and the verdicts."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from actbench.inference.verdict import (
    OUTCOME,
    RECORDS,
    TUNING,
    VARIANCE,
    History,
    Question,
    StudyResults,
    counted_pairs,
    failures_by_cell,
    load_results,
    scores,
    to_json_values,
)
from actbench.records import RecordError, check_links, replace_file, write_records
from actbench.specs import dump_yaml, one_line
from actbench.studies.cells import ChosenEngine, kind_of, trained_cells
from actbench.studies.cells.code import check_current
from actbench.studies.crossing import crossed_wanted
from actbench.studies.definition import FIRST_OTHER_SEED, Study, StudyError, large_margin
from actbench.studies.executors import InProcess
from actbench.studies.grid import PlannedCell, planned_cells
from actbench.studies.plan import Wanted, make_plan, make_question, read_wanted, study_store
from actbench.studies.progress import Bars, Progress
from actbench.studies.self_test import LEAST, certify
from actbench.studies.timing import time_study
from actbench.studies.training import RunContext, Work, run_wanted, train
from actbench.studies.tuning import tune, wanted_at
from actbench.training.engines import ALONE
from actbench.training.threads import frozen_imports

PILOT = 4  # seeds


@frozen_imports()
def compare(
    study: Study | Mapping[str, Any],
    *,
    self_test: bool = False,
    progress: Progress | None = None,
    work: Work | None = None,
    show: Callable[[StudyResults], None] = lambda results: None,
    command: str | None = None,
) -> StudyResults:
    """Train what a study lacks, write its verdicts to its folder, and return its results.

    Args:
        study: A `Study`, or the content of a study file.
        self_test: Test the harness on the study's own scores, too; see `Certificate`.
        progress: Where progress is shown; by default, bars in a terminal and lines elsewhere.
        work: Function that trains a cell in its folder; by default, `train`.
        show: Called with the results after each look at a study that goes on, and at the end.
        command: The command line, for the study's page.

    Returns:
        Verdicts and records. Their ``table`` has a row for each replicate: the columns of `actbench.records.COLUMNS`,
        ``arm``, ``dataset_name`` and ``network_name``.

    Raises:
        StudyError: A setting of the study makes no sense, or a dataset was not found.
        UsageError: A module of the user's was edited after its import.
        ExecutorError: The cluster was not found, or cannot run any cell.
        MissingError: Cells have failed.
    """
    study = study if isinstance(study, Study) else Study.of(study)
    context = make_context(study, progress, work)
    compared = planned_cells(study, known=context.known)
    check_current({name for entry in compared for name in entry.cell.factors.get("code", {})})
    question = make_question(study, compared)
    # What makes no sense is refused before anything is written.
    everything = [Wanted(entry, study.seeds) for entry in compared]
    crossed = crossed_wanted(study, question, compared, context.say_once)
    first = wanted_at(study, study.grid.values, context) if study.grid else [*everything, *crossed]
    plan = make_plan(study, first)
    if question_on_margin := large_margin(study.margin):
        context.progress.say(question_on_margin)
    for line in filter(None, (entry.parameters for entry in compared)):
        context.progress.say(line)
    context.rehearse(plan)
    add_recorded(study, plan.wanted, context)
    if self_test and question.most < LEAST:
        raise StudyError(f"--self_test splits the baseline's seeds in two, and needs {LEAST} at least")
    folder = study.folder
    folder.mkdir(parents=True, exist_ok=True)
    history = History.read(folder)
    planned = history.planned(question)
    replace(planned, command=command).write(folder)
    # Files of another plan, or of crossed seeds that are no longer wanted; records that still hold are in the store.
    for name in (RECORDS, TUNING, VARIANCE) if planned is not history else () if crossed else (VARIANCE,):
        (folder / name).unlink(missing_ok=True)
    replace_file(folder / "study.yaml", dump_yaml(study.to_config()).encode())
    write_arms(study, [*everything, *crossed], context.engines)
    try:
        with context.progress, context.executor:
            if study.grid:
                compared = planned_cells(study, tune(study, context), known=context.known)
                crossed = crossed_wanted(study, question, compared, context.say_once)
                everything = [Wanted(entry, study.seeds) for entry in compared]
                context.rehearse(make_plan(study, [*everything, *crossed]))
                add_recorded(study, everything, context)
                write_arms(study, [*everything, *crossed], context.engines)
            wanted = train_until_clear(study, question, compared, context=context, show=show)
            train_crossed(study, crossed, context)
            if self_test:
                results = load_results(folder)
                baselines = [each for each in wanted if each.entry.arm == question.baseline]
                certificates = [certify(each, study, results, context) for each in baselines]
                replace(History.read(folder), certificates={question.hash: to_json_values(certificates)}).write(folder)
        time_study(study, question, wanted, context)
    except BaseException as error:
        context.troubles.append(f"stopped: {one_line(error)}" if isinstance(error, Exception) else "interrupted")
        raise
    finally:
        if context.troubles:
            History.read(folder).troubled(context.troubles).write(folder)
    results = load_results(folder)
    show(results)
    return results


def add_recorded(study: Study, wanted: Sequence[Wanted], context: RunContext) -> None:
    """Train cells as finished ones of their kind were; say so where no stack can train the missing ones."""
    store = study_store(study)
    files = store.files()
    recorded = dict[str, str]()
    for entry, _ in wanted:
        kind = kind_of(entry.cell)
        if kind not in recorded and files.get(entry.cell.hash):
            with suppress(RecordError, OSError):
                engine = store.read(files[entry.cell.hash][0])["engine"][0]
                recorded |= {kind: engine} if engine else {}
    for kind, engine in recorded.items():
        as_before = ChosenEngine.recorded(engine, "it trained the finished arms")
        chosen = context.engines.setdefault(kind, as_before)
        if as_before.name == "sequence" or chosen.name == "stack" or chosen.reason == ALONE:
            context.engines[kind] = as_before
        else:
            context.say_once("finished arms were trained in a stack, the others cannot be: times are not compared")


def write_arms(study: Study, wanted: Sequence[Wanted], engines: Mapping[str, ChosenEngine]) -> None:
    """Write the config of each arm's fit to the study's folder, ``arms/NAME.yaml``, as another process may do, too."""
    folder = check_links(study.folder / "arms")
    written = set[Path]()
    several = len({entry.key[:2] for entry, _ in wanted}) > 1
    for entry, seeds in wanted:
        name = "_".join(entry.key) if several else entry.arm
        name = re.sub(r"[^\w.=()+-]+", "_", f"{name} crossed" if entry.cell.crossed else name)
        if len(name.encode()) > 100:
            name = f"{name[:30]}_{entry.cell.hash}"
        path = folder / f"{name}.yaml"
        scored = "; it scored best.ckpt" if study.weights == "best" else ""
        first, *others = trained_cells(replace(entry.cell, seeds=seeds), engines)
        alone = f" for seed {first.seeds[0]}, alone, as several might mix" if others else ""
        comment = f"# What the study trained{alone}{scored}:\n#   python main.py fit --config {path}\n"
        if others and not (first.fixed or first.crossed):
            comment += f"# For the next seed, add --seed_everything {others[0].seeds[0]}.\n"
        replace_file(path, (comment + dump_yaml(first.fit)).encode())
        written.add(path)
    for path in {*folder.glob("[!.]*.yaml")} - written:  # of arms that the study had before
        path.unlink(missing_ok=True)


def train_until_clear(
    study: Study,
    question: Question,
    compared: Sequence[PlannedCell],
    *,
    context: RunContext,
    show: Callable[[StudyResults], None],
) -> list[Wanted]:
    """Train the missing cells of the entries, in batches if the study has several looks, and write the records.

    Returns the seeds of each entry that count. Raises MissingError when cells have failed.
    """
    first = question.design.looks[0] if question.design else question.most
    wanted = [Wanted(entry, study.seeds[:first]) for entry in compared]
    announced = False
    while True:
        try:
            run_wanted(study, wanted, context, announce=not announced)
            announced = True
        finally:  # so that a page can show the finished part of a study that was stopped
            table = read_wanted(study, wanted, context.progress.say)
            if len(table):
                write_records(study.folder / RECORDS, table)
        if not len(table):
            raise StudyError("none of the records that were just written can be read; the lines above say why")
        following = next_look(study, question, wanted, table)
        if following == wanted:
            return wanted
        unclear = sum(len(after.seeds) > len(before.seeds) for after, before in zip(following, wanted, strict=True))
        show(load_results(study.folder))
        context.progress.say(f"not yet clear: {unclear} of {len(wanted)} arms go on")
        wanted = following


def train_crossed(study: Study, crossed: Sequence[Wanted], context: RunContext) -> None:
    """Train the missing replicates with crossed seeds, and write their records, if a study has any."""
    if crossed:
        run_wanted(study, crossed, context, what="the part with crossed seeds")
        write_records(study.folder / VARIANCE, read_wanted(study, crossed, context.progress.say))


def next_look(study: Study, question: Question, wanted: Sequence[Wanted], table: pl.DataFrame) -> list[Wanted]:
    """The seeds wanted after a look: those of the next look for the arms of each comparison that goes on.

    A comparison over all datasets needs its arms on every dataset.
    """
    _, running = counted_pairs(scores(table, OUTCOME), failures_by_cell(table, question), question)
    parts = [part for comparison in running for part in question.parts(comparison)]
    needed = {(part.dataset, part.network, arm) for part in parts for arm in (part.arm, part.baseline)}
    most = max(len(seeds) for _, seeds in wanted)
    looks = question.design.looks if question.design else ()
    seeds = study.seeds[: next((look for look in looks if look > most), most)]
    return [Wanted(each.entry, seeds) if each.entry.key in needed else each for each in wanted]


def pilot(study: Study) -> pl.DataFrame:
    """Records of a few separate seeds of each arm, which show how much differences vary.

    Raises StudyError and MissingError as `compare` does.
    """
    seeds = range(2 * FIRST_OTHER_SEED, 2 * FIRST_OTHER_SEED + PILOT)
    study = replace(study, mechanism=False)  # a plan needs scores alone
    context = make_context(study)
    wanted = [Wanted(entry, seeds) for entry in planned_cells(study)]
    context.rehearse(make_plan(study, wanted))
    with context.progress, context.executor:
        run_wanted(study, wanted, context, what="the pilot")
        return read_wanted(study, wanted, context.progress.say)


def make_context(study: Study, progress: Progress | None = None, work: Work | None = None) -> RunContext:
    """The context of a study with the given progress and work, or their defaults; see `compare`."""
    progress = progress or (Bars() if sys.stdout.isatty() else Progress())
    executor = study.make_executor()
    if work is None:
        work = partial(train, checkpoints=study.checkpoints)
        if isinstance(executor, InProcess):
            work = partial(work, progress=progress)
    return RunContext(executor, progress, work)
