"""Finding the value of a setting at which each arm is compared, on seeds apart from the comparison's."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from actbench.inference.verdict import EXTENSIONS, TUNING, beyond, choose
from actbench.records import write_records
from actbench.studies.definition import FIRST_OTHER_SEED, Grid, Study, StudyError
from actbench.studies.grid import entries
from actbench.studies.plan import Wanted, collect, make_plan
from actbench.studies.rehearsal import rehearse
from actbench.studies.training import RunContext, run_wanted


def tune(study: Study, context: RunContext) -> Callable[[tuple[str, str, str]], float]:
    """Find the value of the tuned setting at which each arm is best on val; returns it by dataset, network and arm.

    Raises MissingError when cells have failed.
    """
    grid = cast(Grid, study.grid)
    values = list(grid.values)
    for extension in range(EXTENSIONS + 1):
        wanted = wanted_at(study, values, context)
        run_wanted(study, wanted, context, what="tuning")
        table = collect(study, wanted, context.progress.say)
        write_records(Path(study.root, study.name, TUNING), table)
        chosen = choose(table)
        more = [value for value in beyond(values, chosen) if makes_sense(study, value, context)]
        if not more or extension == EXTENSIONS:
            break
        context.progress.say(f"{grid.setting}: a best value lies at the grid's edge; added {', '.join(map(str, more))}")
        values += more
    return chosen.__getitem__


def wanted_at(study: Study, values: Sequence[float], context: RunContext) -> list[Wanted]:
    """Records of every arm at values of the tuned setting, on seeds that no comparison uses."""
    seeds = range(FIRST_OTHER_SEED, FIRST_OTHER_SEED + cast(Grid, study.grid).replicates)
    return [Wanted(entry, seeds) for value in values for entry in entries(study, value, digests=context.digests)]


def makes_sense(study: Study, value: float, context: RunContext) -> bool:
    """Whether every arm can be trained at a value of the tuned setting, as it cannot at a momentum of 1.1."""
    try:
        rehearse(make_plan(study, wanted_at(study, [value], context)), context.progress.say)
    except StudyError:
        return False
    return True
