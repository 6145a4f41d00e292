"""Finding the value of a setting at which each arm is compared, on seeds apart from the comparison's."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

from actbench.records import write_records
from actbench.study.definition import FIRST_OTHER_SEED, Grid, Study, StudyError
from actbench.study.grid import Entry, entries
from actbench.study.plan import Wanted, collect
from actbench.study.training import Means, MissingError, run_wanted
from actbench.verdict import EXTENSIONS, TUNING, beyond, choose


def tune(study: Study, means: Means) -> Callable[[tuple[str, str, str]], float]:
    """Find the value of the tuned setting at which each arm is best on val; returns it by dataset, network and arm.

    Raises:
        MissingError: Cells have failed.
        StudyError: A value of the grid makes no sense.
    """
    grid = cast(Grid, study.grid)
    values, seeds = list(grid.values), range(FIRST_OTHER_SEED, FIRST_OTHER_SEED + grid.replicates)
    for extension in range(EXTENSIONS + 1):
        wanted = [Wanted(entry, seeds) for value in values for entry in entries_at(study, value)]
        failures = run_wanted(study, wanted, means)
        if failures:
            raise MissingError(f"tuning lacks {len(failures)} cells: {'; '.join(failures)}; the same command goes on")
        table = collect(study, wanted, means.progress.say)
        write_records(Path(study.root, study.name, TUNING), table)
        chosen = choose(table)
        more = [value for value in beyond(values, chosen) if makes_sense(study, value)]
        if not more or extension == EXTENSIONS:
            break
        means.progress.say(f"{grid.setting}: a best value lies at the grid's edge; added {', '.join(map(str, more))}")
        values += more
    return chosen.__getitem__


def entries_at(study: Study, value: float) -> list[Entry]:
    """All that a study compares, with one value of the tuned setting."""
    return entries(study, lambda _: value)


def check_grid(study: Study) -> None:
    """Refuse a grid with a value that makes no sense.

    Raises:
        StudyError: It has one.
    """
    for value in study.grid.values if study.grid else ():
        entries_at(study, value)


def makes_sense(study: Study, value: float) -> bool:
    """Whether the tuned setting may have a value: a momentum of 1.1, say, it may not."""
    try:
        entries_at(study, value)
    except StudyError:
        return False
    return True
