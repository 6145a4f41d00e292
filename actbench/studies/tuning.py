"""Tuning: choosing the value of a setting at which each arm is compared, on separate seeds."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from actbench.inference.verdict import EXTENSIONS, TUNING, choose_values, extended_values
from actbench.records import write_records
from actbench.studies.definition import FIRST_OTHER_SEED, Study, StudyError
from actbench.studies.grid import planned_cells
from actbench.studies.plan import Wanted, make_plan, read_wanted
from actbench.studies.training import RunContext, run_wanted


def tune(study: Study, context: RunContext) -> Callable[[tuple[str, str, str]], float]:
    """Find the best value of the tuned setting on val; returns a function from dataset, network and arm to the value.

    Raises MissingError when cells have failed.
    """
    study = replace(study, mechanism=False)  # which is shown of the seeds that are compared
    assert study.grid
    values = list(study.grid.values)
    for extension in range(EXTENSIONS + 1):
        wanted = wanted_at(study, values, context)
        run_wanted(study, wanted, context, what="tuning")
        table = read_wanted(study, wanted, context.progress.say)
        write_records(study.folder / TUNING, table)
        best = choose_values(table)
        added = [value for value in extended_values(values, best) if can_train(study, value, context)]
        if not added or extension == EXTENSIONS:
            break
        listed = ", ".join(map(str, added))
        context.progress.say(f"{study.grid.setting}: a best value lies at the grid's edge; added {listed}")
        values += added
    return best.__getitem__


def wanted_at(study: Study, values: Sequence[float], context: RunContext) -> list[Wanted]:
    """Every arm at values of the tuned setting, on seeds that no comparison uses."""
    assert study.grid
    seeds = range(FIRST_OTHER_SEED, FIRST_OTHER_SEED + study.grid.replicates)
    return [Wanted(entry, seeds) for value in values for entry in planned_cells(study, value, known=context.known)]


def can_train(study: Study, value: float, context: RunContext) -> bool:
    """Whether every arm can train at a value of the tuned setting, as SGD cannot at a momentum of 1.1."""
    try:
        context.rehearse(make_plan(study, wanted_at(study, [value], context)))
    except StudyError:
        return False
    return True
