"""The results of `error_rates.py` as tables in Markdown."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

from laws import FAILING, FAMILIES, LAWS, MIXED, ONE_FAILS, UNEVEN

FALSE_ALARMS = "false alarms"
FALSE_EQUIVALENTS = "false equivalents"
FALSE_EQUIVALENTS_WORSE = "false equivalents, arm worse"
PART_MEASURES = (
    *(f"false alarms, {part}" for part in ("any part", "all seeds", "failures", "where both train")),
    "false equivalents, any part",
)
HEADLINES = (
    "all seeds better or worse",
    "all seeds lead, though a failure was seen",
    "failures decide",
    "where both train, better or worse",
)

COMPONENT_MEASURES = tuple(
    f"coverage of {what}"
    for what in ("a source's variance", "its share", "the rest's variance", "the rest's share", "the whole variance")
)


class Row(NamedTuple):
    """What was measured of a law."""

    measure: str
    law: str
    pairs: int  # at most
    looks: int
    arms: int
    studies: int
    rate: float
    least: float = 0.0  # limits, with the simulation's error
    most: float = 1.0
    first: float | None = None  # what fewer studies gave, where that missed the limits

    @property
    def met(self) -> bool:
        """Whether the rate is within its limits."""
        return self.least <= self.rate <= self.most


def labelled(name: str, family: str) -> str:
    """How a law is called in tables."""
    return f"{name}, {family}" if family else name


def table(rows: Iterable[Row], measure: str, laws: Iterable[str]) -> list[str]:
    """A measure in percent as Markdown, laws down, pairs across, the numbers of arms side by side."""
    laws = list(laws)
    own = [row for row in rows if row.measure == measure and row.law in laws]
    columns = sorted({(row.looks, row.pairs) for row in own})
    heads = [f"{pairs} pairs" if looks == 1 else f"up to {pairs}, {looks} looks" for looks, pairs in columns]
    lines = [f"| scores | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for law in laws:
        found = [[row for row in own if row.law == law and (row.looks, row.pairs) == column] for column in columns]
        lines.append(f"| {law} | {' | '.join(' / '.join(map(percent, rows)) for rows in found)} |")
    return lines


def percent(row: Row) -> str:
    """Its rate; bold if it misses a limit."""
    rate = f"{100 * row.rate:.1f}"
    return rate if row.met else f"**{rate}**"


def power_table(rows: Iterable[Row]) -> list[str]:
    """Power in percent as Markdown, what is planned down, pairs across."""
    own = [row for row in rows if row.measure.startswith("power where")]
    measures, sizes = dict.fromkeys(row.measure for row in own), sorted({row.pairs for row in own})
    lines = [f"| planned | {' | '.join(f'{pairs} pairs' for pairs in sizes)} |", "|---" * (1 + len(sizes)) + "|"]
    for measure in measures:
        cells = [percent(row) for row in own if row.measure == measure]
        lines.append(f"| {measure.split()[2]} | {' | '.join(cells)} |")
    return lines


def component_table(rows: Iterable[Row]) -> list[str]:
    """Coverage of intervals of components in percent as Markdown, variances down, measures across."""
    own = [row for row in rows if row.measure in COMPONENT_MEASURES]
    heads = [measure.removeprefix("coverage of ") for measure in COMPONENT_MEASURES]
    lines = [f"| variances of effects | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for law in dict.fromkeys(row.law for row in own):
        lines.append(f"| {law} | {' | '.join(percent(row) for row in own if row.law == law)} |")
    return lines


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    """All tables, and what had to be simulated once more."""
    mixed = [labelled(*of) for of in product(MIXED, filter(None, FAMILIES))]
    for title, measure, laws in (
        ("False alarms, 1 / 3 / 10 arms", FALSE_ALARMS, LAWS),
        ("False equivalents, 1 / 3 / 10 arms", FALSE_EQUIVALENTS, LAWS),
        ("Other families of 3 arms and a baseline: false alarms", FALSE_ALARMS, mixed),
        ("Other families of 3 arms and a baseline: false equivalents", FALSE_EQUIVALENTS, mixed),
        ("Only the means agree: false alarms, 1 arm", FALSE_ALARMS, UNEVEN),
        ("Only the means agree: false equivalents, arm better by the margin", FALSE_EQUIVALENTS, UNEVEN),
        ("Only the means agree: false equivalents, arm worse by the margin", FALSE_EQUIVALENTS_WORSE, UNEVEN),
        *((f"With failures, 1 / 3 / 7 arms: {measure}", measure, FAILING) for measure in PART_MEASURES),
        *((f"One arm fails: {measure}", measure, ONE_FAILS) for measure in HEADLINES),
        ("Coverage of 95 % intervals", "coverage", LAWS | UNEVEN),
    ):
        yield from (f"**{title}, %**", "", *table(rows, measure, laws), "")
    yield from ("**Coverage of 95 % intervals of components of variance, %**", "", *component_table(rows), "")
    yield from ("**Power of the sign-flip test, %**", "", *power_table(rows), "")
    for row in rows:
        if row.measure in ("saving", "power", "loss of power"):
            yield f"- {row.law}: {row.measure} {percent(row)} %"
    again = [row for row in rows if row.first is not None]
    limited = sum(row.least > 0 or row.most < 1 for row in rows)
    missed = sum(not row.met for row in rows)
    yield f"- limits for {limited} figures; {len(again)} simulated once more, {missed} missed"
    for row in again:
        what = f"{row.measure}, {row.law}, {row.pairs} pairs, {row.looks} looks, {row.arms} arms"
        yield f"  - {what}: {100 * (row.first or 0):.2f} %, then {100 * row.rate:.2f} % of {row.studies:,}"
