"""How often verdicts err: simulated studies in which the truth is known.

    python benchmarks/error_rates.py                  # 2,000 studies each, an hour beside other work
    python benchmarks/error_rates.py --studies 200
    python benchmarks/error_rates.py --markdown       # tables of the results at hand, nothing simulated

Scores follow the laws of `laws.py`, in a unit that does not matter. An arm has
the same law as the one baseline that all are compared with, so that the scores
of a pair are exchangeable; in `UNEVEN`, only their means agree. What a study
compares are its `FAMILIES`.

A rate has to lie within its limit by two standard errors of the simulation.
Where the true rate is the limit itself, one in 40 does not, by chance: what
misses is simulated once more, with ten times as many studies, and that counts.
Prints tables in Markdown, writes what was measured as JSON.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from actbench.inference.stats import (
    REST,
    Design,
    boundaries,
    crosses,
    detectable,
    histories,
    judge_family,
    level_shares,
    mean_interval,
    nominal_level,
    power,
    sign_flip,
    variance_components,
)
from actbench.inference.stats.paired import EXACT, FLIPS, TIE, Alternative, signs
from actbench.inference.stats.sequential import HISTORIES
from actbench.inference.verdict.part_words import failures_come_first
from actbench.seeding import CROSSED_REPLICATES, LEVELS, levels
from error_tables import (
    COMPONENT_MEASURES,
    FALSE_ALARMS,
    FALSE_EQUIVALENTS,
    FALSE_EQUIVALENTS_WORSE,
    Row,
    labelled,
    markdown,
)
from laws import (
    EFFECTS,
    FAILING,
    FAMILIES,
    LAWS,
    MIXED,
    ONE_FAILS,
    PLAIN,
    UNEVEN,
    UNUSUAL_EFFECTS,
    Scores,
    differences,
    generator,
    with_failures,
)

RESULTS = Path(__file__).parent / "results" / "error_rates.json"
PACKAGES = ("numpy", "scipy")
ALPHA = 0.05
DESIGN = Design(least=6, most=60, batch=6)
PAIRS = (6, 12, 30, 60)
ARMS = (1, 3, 10)
FEW_ARMS = (1, 3, 7)
SCREEN = 2_000  # flips that tell which tests cannot be passed
AGAIN = 10  # times as many studies, where a limit is missed
CHUNK = 40  # comparisons at once, so that their flips fit into memory

Errors = Bool[np.ndarray, " cases"]


class Side(NamedTuple):
    """A test, and the error that it makes."""

    measure: str
    sign: int
    alternative: Alternative

    def of(self, sums: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """What is large where the test is passed."""
        return np.abs(sums) if self.alternative == "two-sided" else sums


# Equivalence is claimed falsely of arms that are better, or worse, by the margin. It is taken to be so wide that the
# test against the other end never fails: the worst case. What is left to the one at this end are the differences
# without the margin.
SIDES = (
    Side(FALSE_ALARMS, 1, "two-sided"),
    Side(FALSE_EQUIVALENTS, -1, "greater"),
    Side(FALSE_EQUIVALENTS_WORSE, 1, "greater"),
)


def limit(studies: int) -> float:
    """Most false alarms in that many studies."""
    return ALPHA + 2 * float(np.sqrt(ALPHA * (1 - ALPHA) / studies))


def p_values(difference: Float[np.ndarray, "cases pairs"], sides: Sequence[Side]) -> Float[np.ndarray, "sides cases"]:
    """Those of `actbench.inference.stats.sign_flip`, of many comparisons at once."""
    pairs = difference.shape[1]
    exact = pairs <= EXACT
    flips, itself = (2**pairs, 0) if exact else (FLIPS, 1)
    table = np.array([signs(place, flips, exact=exact) for place in range(pairs)], dtype=float)
    extreme = []
    for some in np.array_split(difference, -(-len(difference) // CHUNK)):
        sizes, seen = np.sort(np.abs(some), axis=1), some.sum(axis=1, keepdims=True)
        sums, slack = sizes @ table, TIE * sizes.sum(axis=1, keepdims=True)
        extreme.append([np.count_nonzero(side.of(sums) >= side.of(side.sign * seen) - slack, axis=1) for side in sides])
    return (itself + np.concatenate(extreme, axis=1)) / (itself + flips)


def may_cross(
    difference: Float[np.ndarray, "cases pairs"], sides: Sequence[Side], level: float
) -> Bool[np.ndarray, "sides cases"]:
    """Which comparisons could cross a boundary of `DESIGN`: no more flips are above them than have been spent so far.

    Those that could not need no boundaries, which saves most of the time.
    """
    table = np.array([signs(place, HISTORIES, exact=False) for place in range(DESIGN.most)], dtype=float)
    spent = np.cumsum(DESIGN.spending(DESIGN.most)) * level * (1 + HISTORIES)
    possible = np.zeros((len(sides), len(difference)), dtype=bool)
    for cases in np.array_split(np.arange(len(difference)), -(-len(difference) // CHUNK)):
        some = difference[cases]
        sums, slack = np.zeros((len(some), HISTORIES)), 2 * TIE * np.abs(some).sum(axis=1, keepdims=True)
        for (before, look), may in zip(pairwise((0, *DESIGN.looks)), spent, strict=True):
            sums += np.sort(np.abs(some[:, before:look]), axis=1) @ table[before:look]
            seen = some[:, :look].sum(axis=1, keepdims=True)
            for place, side in enumerate(sides):
                above = np.count_nonzero(side.of(sums) > side.of(side.sign * seen) + slack, axis=1)
                possible[place, cases] |= above <= may
    return possible


def fixed_errors(null: Scores, sides: Sequence[Side]) -> Bool[np.ndarray, "sides studies"]:
    """In which studies a test of any arm is passed: the first step of Holm's correction."""
    studies, arms, pairs = null.shape
    p = p_values(null.reshape(-1, pairs), sides).reshape(len(sides), studies, arms)
    return arms * p.min(axis=2) <= ALPHA


def sequential_errors(null: Scores, sides: Sequence[Side]) -> Bool[np.ndarray, "sides studies"]:
    """As `fixed_errors`, at any look of `DESIGN`."""
    studies, arms, pairs = null.shape
    level, spending = ALPHA / arms, DESIGN.spending(pairs)
    errors = np.zeros((len(sides), studies), dtype=bool)
    for place, case in np.argwhere(may_cross(null.reshape(-1, pairs), sides, level)):
        study, arm = divmod(case, arms)
        if not errors[place, study]:
            observed, sums = histories(sides[place].sign * null[study, arm], DESIGN, sides[place].alternative)
            errors[place, study] = crosses(observed, boundaries(sums, spending, level=level))
    return errors


def error_rates(
    name: str, *, family: str = "", pairs: int, looks: int = 1, arms: int, studies: int, trial: int = 0
) -> list[Row]:
    """False alarms and false equivalents of a law, over one of the `FAMILIES`."""
    sides = SIDES if name in UNEVEN else SIDES[:2]
    rng = generator(*filter(None, [family]), name, pairs, looks, arms, trial)
    null = FAMILIES[family](name, rng, studies=studies, arms=arms, pairs=pairs)
    errors = (sequential_errors if looks > 1 else fixed_errors)(null, sides)
    most = limit(studies) if name in LAWS else 1.0
    return [
        Row(side.measure, labelled(name, family), pairs, looks, arms, studies, float(found.mean()), most=most)
        for side, found in zip(sides, errors, strict=True)
    ]


def may_pass(
    values: Float[np.ndarray, "cases pairs"], side: Side, looks: Sequence[int], spent: Float[np.ndarray, " looks"]
) -> Bool[np.ndarray, " cases"]:
    """Which comparisons could pass a test that may have spent this level by each look; all others are far from it."""
    table = np.array([signs(place, SCREEN, exact=False) for place in range(values.shape[1])], dtype=float)
    sums, possible = np.zeros((len(values), SCREEN)), np.zeros(len(values), dtype=bool)
    for (before, look), level in zip(pairwise((0, *looks)), spent, strict=True):
        part = values[:, before:look]
        sums += np.abs(part) @ table[before:look]
        above = np.count_nonzero(
            side.of(sums) > side.of(side.sign * values[:, :look].sum(axis=1, keepdims=True)), axis=1
        )
        most = SCREEN * level
        possible |= above <= most + 6 * np.sqrt(most) + 6
    return possible


def passes(values: Float[np.ndarray, " pairs"], side: Side, share: float, looks: int) -> bool:
    """Whether a test with this share of the level is passed, at any look; flipping the sign of 0 changes nothing."""
    if share == 0 or not values.any():
        return False
    if looks == 1:
        return sign_flip(side.sign * values[values != 0], alternative=side.alternative) <= share * ALPHA
    observed, sums = histories(side.sign * values, DESIGN, side.alternative)
    return crosses(observed, boundaries(sums, DESIGN.spending(len(values)), level=share * ALPHA))


def part_errors(name: str, *, pairs: int, looks: int = 1, arms: int, studies: int, trial: int = 0) -> list[Row]:
    """False alarms of each part of a comparison and of any, and false equivalents of any, of a law of `FAILING`.

    They are those of the first step of Holm's correction. At looks before the
    first failure, all seeds have the whole level.
    """
    rng = generator("parts", name, pairs, looks, arms, trial)
    null, failed = with_failures(name, rng, studies=studies, arms=arms, pairs=pairs)
    null, failed = null.reshape(-1, pairs), failed.reshape(-1, pairs, 2)
    design = DESIGN if looks > 1 else None
    shares = np.array([level_shares(one, alpha=ALPHA, design=design) for one in failed])
    both = ~failed.any(axis=2)
    fewer = failed[..., 1].astype(float) - failed[..., 0]
    whole = np.where(shares[:, 2] > 0, shares[:, 0], 1.0)
    ends = design.looks if design else (pairs,)
    spent = ALPHA * np.cumsum(design.spending(pairs) if design else [1.0])

    def errors(
        values: Float[np.ndarray, "cases pairs"],
        side: Side,
        share: Float[np.ndarray, " cases"],
        counted: Int[np.ndarray, " cases"] | None = None,
    ) -> Errors:
        found = np.zeros(len(values), dtype=bool)
        for some in np.array_split(np.arange(len(values)), -(-len(values) // SCREEN)):
            for case in some[may_pass(values[some], side, ends, spent * max(share) / arms)]:
                count = pairs if counted is None else counted[case]
                found[case] = passes(values[case, :count], side, share[case] / arms, looks)
        return found

    alarm, equivalent = SIDES[:2]
    by_part = {
        "all seeds": errors(null, alarm, shares[:, 0]),
        "failures": errors(fewer, alarm, shares[:, 1]),
        "where both train": errors(np.where(both, null, 0), alarm, shares[:, 2]),
    }
    if design:
        whole_looks = np.array([max(end for end in (0, *ends) if not one[:end].any()) for one in failed])
        by_part["all seeds"] |= errors(null, alarm, np.ones(len(null)), whole_looks)
    inside = errors(null, equivalent, whole) | errors(np.where(both, null, 0), equivalent, 1 - whole)
    found = {f"false alarms, {part}": one for part, one in by_part.items()}
    found |= {"false alarms, any part": np.any([*by_part.values()], axis=0), "false equivalents, any part": inside}
    return [
        Row(
            measure,
            name,
            pairs,
            looks,
            arms,
            studies,
            float(one.reshape(studies, arms).any(axis=1).mean()),
            most=limit(studies),
        )
        for measure, one in found.items()
    ]


def headlines(name: str, *, pairs: int, studies: int, trial: int = 0) -> list[Row]:
    """What is said of one arm that fails, of a law of `ONE_FAILS`.

    A verdict on all seeds leads where failures do not come first; of interest is
    that it does although a failure was seen.
    """
    drawn, failed = with_failures(name, generator("head", name, pairs, trial), studies=studies, arms=1, pairs=pairs)
    found = [judge_family([values], [one])[0] for (values,), (one,) in zip(drawn, failed, strict=True)]
    different = ("better", "worse")
    shown = {
        "all seeds better or worse": [one.verdict in different for one in found],
        "all seeds lead, though a failure was seen": [
            one.verdict in different and one.failures is not None and not failures_come_first(one) for one in found
        ],
        "failures decide": [one.failures is not None and one.failures.verdict in different for one in found],
        "where both train, better or worse": [
            one.trained is not None and one.trained.verdict in different for one in found
        ],
    }
    equal = name == "arm fails, equal where both train"
    limits = {"where both train, better or worse": limit(studies)} if equal else {}
    return [
        Row(measure, name, pairs, 1, 1, studies, float(np.mean(of)), most=limits.get(measure, 1.0))
        for measure, of in shown.items()
    ]


def coverage(name: str, *, pairs: int, studies: int, trial: int = 0) -> list[Row]:
    """How often the 95 % interval of the mean difference, which is 0, holds it."""
    drawn = differences(name, generator("t", name, pairs, trial), studies=studies, arms=1, pairs=pairs)
    intervals = [mean_interval(values, level=1 - ALPHA) for (values,) in drawn]
    held = float(np.mean([interval.low <= 0 <= interval.high for interval in intervals]))
    least, most = (1 - ALPHA - 0.02, 1 - ALPHA + 0.02) if name in PLAIN else (0.0, 1.0)
    return [Row("coverage", name, pairs, 1, 1, studies, held, least, most)]


def repeated_coverage(name: str, *, studies: int, trial: int = 0) -> list[Row]:
    """How often the intervals of all looks hold the mean difference together."""
    drawn = differences(name, generator("looks", name, trial), studies=studies, arms=1, pairs=DESIGN.most)
    levels = {look: 1 - nominal_level(DESIGN, look, ALPHA) for look in DESIGN.looks}

    def holds(values: Float[np.ndarray, " pairs"]) -> bool:
        intervals = (mean_interval(values[:look], level=level) for look, level in levels.items())
        return all(interval.low <= 0 <= interval.high for interval in intervals)

    held = float(np.mean([holds(values) for (values,) in drawn]))
    least = 1 - limit(studies) if name == "normal" else 0.0
    return [Row("coverage", name, DESIGN.most, len(DESIGN.looks), 1, studies, held, least)]


def component_coverage(name: str, *, studies: int, trial: int = 0) -> list[Row]:
    """How often the 95 % intervals of components of variance hold the truth; of several sources, the worst counts."""
    variances, law, rest = (EFFECTS | UNUSUAL_EFFECTS)[name]
    rng, whole = generator("components", name, trial), sum(variances) + 1
    crossed = {f"source {column}": np.array(levels(column)) for column in range(len(variances))}
    truths = {**dict(zip(crossed, variances, strict=True)), REST: 1}
    held = []
    for _ in range(studies):
        drawn = zip(variances, crossed.values(), strict=True)
        effects = sum(np.sqrt(variance) * law(rng, (LEVELS,))[of] for variance, of in drawn)
        found = variance_components(effects + rest(rng, (CROSSED_REPLICATES,)), crossed, level=1 - ALPHA)
        parts = [(found.parts[part], truth) for part, truth in truths.items()]
        intervals = [(part.variance, truth) for part, truth in parts]
        intervals += [(part.share, truth / whole) for part, truth in parts] + [(found.total, whole)]
        held.append([interval.low <= truth <= interval.high for interval, truth in intervals])
    rates, sources = np.mean(held, axis=0).tolist(), len(variances)
    worst = (min(rates[:sources]), min(rates[sources + 1 : -2]))
    least = 0.92 - 2 * float(np.sqrt(ALPHA * (1 - ALPHA) / studies)) if name in EFFECTS else 0.0
    return [
        Row(measure, name, CROSSED_REPLICATES, 1, 1, studies, rate, least)
        for measure, rate in zip(COMPONENT_MEASURES, (worst[0], worst[1], rates[sources], *rates[-2:]), strict=True)
    ]


def power_seen(goal: float, *, pairs: int, studies: int, trial: int = 0) -> list[Row]:
    """Power of the sign-flip test for normal differences, where that of the t test is the goal."""
    effect = detectable(pairs, goal=goal)
    drawn = generator("power", goal, pairs, trial).normal(effect, 1, (studies, pairs))
    seen, planned = float(np.mean(p_values(drawn, SIDES[:1]) <= ALPHA)), power(effect, pairs)
    least, most = (planned - 0.03, planned + 0.03) if pairs >= 10 else (0.0, 1.0)
    return [Row(f"power where {100 * goal:.0f} % is planned", "normal", pairs, 1, 1, studies, seen, least, most)]


def first_crossing(difference: Float[np.ndarray, " pairs"]) -> int | None:
    """Pairs at the first look of `DESIGN` that finds a difference; None if none does."""
    observed, sums = histories(difference, DESIGN, "two-sided")
    found = observed >= boundaries(sums, DESIGN.spending(DESIGN.most), level=ALPHA)
    return DESIGN.looks[int(np.argmax(found))] if found.any() else None


def looking(effect: float, *, studies: int, trial: int = 0) -> list[Row]:
    """What looking saves of all trainings, and which power it loses, at an effect in standard deviations."""
    drawn = generator("looking", effect, trial).normal(effect, 1, (studies, DESIGN.most))
    ends = [first_crossing(values) for values in drawn]
    saved = 1 - float(np.mean([end or DESIGN.most for end in ends])) / DESIGN.most
    found = float(np.mean([end is not None for end in ends]))
    lost = float(np.mean(p_values(drawn, SIDES[:1]) <= ALPHA)) - found
    about = (f"effect {effect:.2f}", DESIGN.most, len(DESIGN.looks), 1, studies)
    return [
        Row("saving", *about, saved, least=0.4 if effect >= 1 else 0.0),
        Row("power", *about, found),
        Row("loss of power", *about, lost, least=-1.0, most=0.05),
    ]


def checked(simulate: Callable[..., list[Row]], *key: Any, studies: int, **options: Any) -> list[Row]:
    """What is simulated; where it misses a limit, once more with `AGAIN` times as many studies."""
    rows = simulate(*key, studies=studies, **options)
    if not all(row.met for row in rows):
        again = simulate(*key, studies=AGAIN * studies, trial=1, **options)
        rows = [row if row.met else other._replace(first=row.rate) for row, other in zip(rows, again, strict=True)]
    return rows


def everything_on_failures(studies: int) -> Iterator[Row]:
    """All that is measured of runs that fail."""
    for name, arms in product(FAILING, FEW_ARMS):
        for pairs, number in (*((pairs, 1) for pairs in PAIRS), (DESIGN.most, len(DESIGN.looks))):
            yield from checked(part_errors, name, pairs=pairs, looks=number, arms=arms, studies=studies)
    for name, pairs in product(ONE_FAILS, PAIRS):
        yield from checked(headlines, name, pairs=pairs, studies=studies)


def everything(studies: int) -> Iterator[Row]:
    """All that is measured."""
    looks = len(DESIGN.looks)
    for name in LAWS | UNEVEN:
        families = ARMS if name in LAWS else (1,)
        for pairs, arms in product(PAIRS, families):
            yield from checked(error_rates, name, pairs=pairs, arms=arms, studies=studies)
        for arms in families:
            yield from checked(error_rates, name, pairs=DESIGN.most, looks=looks, arms=arms, studies=studies)
        for pairs in PAIRS:
            yield from checked(coverage, name, pairs=pairs, studies=studies)
        yield from checked(repeated_coverage, name, studies=studies)
    for name, family in product(MIXED, filter(None, FAMILIES)):
        for pairs, number in ((12, 1), (30, 1), (DESIGN.most, looks)):
            yield from checked(error_rates, name, family=family, pairs=pairs, looks=number, arms=3, studies=studies)
    yield from everything_on_failures(studies)
    for goal, pairs in product((0.5, 0.8, 0.95), (6, 10, 12, 30, 60)):
        yield from checked(power_seen, goal, pairs=pairs, studies=studies)
    for name in EFFECTS | UNUSUAL_EFFECTS:
        yield from checked(component_coverage, name, studies=studies)
    for effect in (detectable(DESIGN.most), 1.0):
        yield from checked(looking, effect, studies=studies)


def say(row: Row) -> None:
    """Tell how far it is."""
    words = f"{row.measure}, {row.law}, {row.pairs} pairs, {row.looks} looks, {row.arms} arms: {row.rate:.4f}"
    print(words + ("" if row.first is None else f", after {row.first:.4f}"), file=sys.stderr, flush=True)


def main() -> None:
    """Simulate, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2_000)
    parser.add_argument("--output", type=Path, default=RESULTS, help="file")
    parser.add_argument("--markdown", action="store_true", help="print the tables of the file, and do no more")
    options = parser.parse_args()

    if options.markdown:
        rows = [Row(**row) for row in json.loads(options.output.read_text())["rows"]]
    else:
        start = datetime.now(UTC)
        rows = []
        for row in everything(options.studies):
            rows.append(row)
            say(row)
        about = {
            "command": " ".join(["python benchmarks/error_rates.py", *sys.argv[1:]]),
            "date": start.date().isoformat(),
            "versions": ", ".join([f"Python {platform.python_version()}", *(f"{p} {version(p)}" for p in PACKAGES)]),
            "time_s": round((datetime.now(UTC) - start).total_seconds()),
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        written = {**about, "rows": [row._asdict() for row in rows]}
        options.output.write_text(json.dumps(written, indent=1) + "\n")
    print(*markdown(rows), sep="\n")


if __name__ == "__main__":
    main()
