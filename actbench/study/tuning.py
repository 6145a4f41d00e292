"""Finding the value of a setting at which each arm is compared, on seeds apart from the comparison's."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from actbench.records import write_records
from actbench.study.definition import FIRST_OTHER_SEED, Grid, Study, StudyError
from actbench.study.grid import Entry, entries
from actbench.study.plan import Wanted, collect, make_plan
from actbench.study.rehearsal import rehearse
from actbench.study.training import Means, MissingError, run_wanted
from actbench.verdict import EXTENSIONS, TUNING, beyond, choose


def tune(study: Study, means: Means) -> Callable[[tuple[str, str, str]], float]:
    """Find the value of the tuned setting at which each arm is best on val; returns it by dataset, network and arm.

    Raises:
        MissingError: Cells have failed.
        StudyError: A value of the grid makes no sense.
    """
    grid = cast(Grid, study.grid)
    values, seeds = list(grid.values), other_seeds(study)
    for extension in range(EXTENSIONS + 1):
        wanted = [Wanted(entry, seeds) for value in values for entry in entries_at(study, value, means)]
        failures = run_wanted(study, wanted, means)
        if failures:
            raise MissingError(failures, "tuning")
        table = collect(study, wanted, means.progress.say)
        write_records(Path(study.root, study.name, TUNING), table)
        chosen = choose(table)
        more = [value for value in beyond(values, chosen) if makes_sense(study, value, means)]
        if not more or extension == EXTENSIONS:
            break
        means.progress.say(f"{grid.setting}: a best value lies at the grid's edge; added {', '.join(map(str, more))}")
        values += more
    return chosen.__getitem__


def entries_at(study: Study, value: float, means: Means) -> list[Entry]:
    """All that a study compares, with one value of the tuned setting."""
    return entries(study, lambda _: value, digests=means.digests)


def check_values(study: Study, values: Sequence[float], means: Means) -> None:
    """Rehearse every arm at values of the tuned setting, as far as its seeds have to be trained.

    Raises:
        StudyError: One makes no sense: a momentum of 1.1, say, or a batch without a row.
    """
    wanted = [Wanted(entry, other_seeds(study)) for value in values for entry in entries_at(study, value, means)]
    rehearse(make_plan(study, wanted), means.progress.say)


def other_seeds(study: Study) -> range:
    """Seeds with which values are tried."""
    return range(FIRST_OTHER_SEED, FIRST_OTHER_SEED + cast(Grid, study.grid).replicates)


def makes_sense(study: Study, value: float, means: Means) -> bool:
    """Whether every arm can be trained at a value of the tuned setting."""
    try:
        check_values(study, [value], means)
    except StudyError:
        return False
    return True
