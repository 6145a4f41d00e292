"""Which printed numbers cannot be right, and which usual convention would make them fit.

A number is flagged only if no numbers within the rounding give what is printed, be
it by Student's, Welch's or the normal computation, one-sided or two-sided, from
spreads divided by n - 1 or by n, with either sign. A flag then names every other
reading of the table under which all of the row fits. A row without a flag is
possible, not proved.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from scipy import special
from scipy import stats as distributions

from actbench.inference.audit.implied import Implied, welch_freedom
from actbench.inference.audit.rows import KINDS, Kind, Range, Row, spread_factor

Spreads = tuple[Range, ...]  # squared standard deviations of the sampled rows


class Way(NamedTuple):
    """A way of computing a published quantity, and the range that it can give within the rounding."""

    what: str
    name: str
    range: Range


class Flag(NamedTuple):
    """A quantity of a row that does not fit, why, and the other readings of the table under which it would."""

    what: str
    why: str
    fits: tuple[str, ...] = ()


def impossible(row: Row, highest: float, *, level: float = 0.95) -> Iterator[Flag]:
    """Flags on a row's own n, spread and mean, if scores lie between 0 and the highest.

    Source:
        Bhatia & Davis (2000), A better bound on the variance, Am. Math.
        Monthly 107(4), 353-357.
    """
    n, mean, spread = row.runs, row.mean, row.spread
    if spread and row.n and (n < 2 or not n.is_integer()):
        yield Flag("n", f"n {row.n.text} is not a whole number of runs, at least two")
    if spread and spread.value < 0:
        yield Flag(row.kind, f"{row.kind} {spread.text} is below 0")
    if highest == math.inf:
        return
    if mean.high < 0 or mean.low > highest:
        yield Flag("mean", f"mean {mean.text} is no score from 0 to {highest:g}")
    elif spread and row.testable:
        # The mean within the rounding that leaves most room. No run can be farther off than all others can make up for.
        middle = min(max(highest / 2, mean.low), mean.high)
        top, bottom = min(highest, n * middle), max(0.0, highest - n * (highest - middle))
        most = math.sqrt(max(0.0, (top - middle) * (middle - bottom)) * n / (n - 1))
        if spread.low * min(spread_factor(row.kind, n, level)) > most:
            kinds = [kind for kind in KINDS if spread.low * min(spread_factor(kind, n, level)) <= most]
            fits = [f"{spread.text} is {KINDS[kind]}" for kind in kinds]
            if highest == 1 and spread.low / 100 <= most:
                fits.append(f"{spread.text} is in per cent")
            allowed = most / spread_factor(row.kind, n, level)[0]
            why = f"{row.kind} {spread.text}, {n:g} scores from 0 to {highest:g} with this mean allow {allowed:.4g}"
            yield Flag(row.kind, why, tuple(fits))


def contradictions(row: Row, base: Row, implied: Implied, *, level: float) -> tuple[list[Flag], dict[str, str]]:
    """Flags on a published comparison that cannot come from the rows, and how the published numbers that fit were got.

    Ways are named for the interval and p: ``Welch's test``, or the first other one that fits.
    """
    difference = absolute_range(row.mean.low - base.mean.high, row.mean.high - base.mean.low)
    low, high = row.ci_low, row.ci_high
    printed, why, flags = dict[str, Range](), dict[str, str](), list[Flag]()
    if low and high:
        centres = absolute_range((low.low + high.low) / 2, (low.high + high.high) / 2)
        if not overlaps(centres, difference):
            centre = (low.value + high.value) / 2
            flags.append(Flag("interval", f"interval centred on {centre:z.4g}, difference {implied.difference:z.4g}"))
        half, half_implied = (high.value - low.value) / 2, (implied.high - implied.low) / 2
        printed["interval"] = (high.low - low.high) / 2, (high.high - low.low) / 2
        why["interval"] = f"interval's half-width {half:.4g}, sd and n imply {half_implied:.4g}"
    if row.p:
        printed["p"] = row.p.low, row.p.high
        why["p"] = f"p {row.p.text}, mean, sd and n imply {implied.p:.2g}"
    if row.effect:
        printed["effect"] = absolute_range(row.effect.low, row.effect.high)
        why["effect"] = f"effect {row.effect.text}, mean and sd imply {abs(implied.effect):.4g}"
    if math.isnan(implied.p):
        return flags, {}
    found = fitting(printed, usual_ways(row, base, difference, level=level))
    wrong = [what for what in printed if what not in found]
    readings = [
        words
        for words, ways in (other_readings(row, base, difference, level=level) if wrong else ())
        if len(fitting(printed, ways)) == len(printed)
    ]
    flags += [Flag(what, why[what], tuple(readings)) for what in wrong]
    return flags, {what: name for what, name in found.items() if what != "effect"}


def fitting(printed: dict[str, Range], ways: Sequence[Way]) -> dict[str, str]:
    """Of each printed quantity, the first way that gives it; one that no way gives is left out."""
    found = dict[str, str]()
    for what, name, possible in ways:
        if what in printed and overlaps(printed[what], possible):
            found.setdefault(what, name)
    return found


def usual_ways(row: Row, base: Row, difference: Range, *, level: float) -> list[Way]:
    """All ways of computing from the rows' spreads as they are said to be."""
    sampled = [one for one in (row, base) if one.spread]
    return ways_from(sampled, [one.kind for one in sampled], difference, level=level)


def other_readings(row: Row, base: Row, difference: Range, *, level: float) -> Iterator[tuple[str, list[Way]]]:
    """The other readings of the rows, each with its ways of computing, from the narrowest to the widest."""
    sampled = [one for one in (row, base) if one.spread]
    spread = sampled[0].spread
    assert spread is not None
    for kind, words in KINDS.items():
        if any(one.kind != kind for one in sampled):
            yield f"{spread.text} is {words}", ways_from(sampled, [kind] * len(sampled), difference, level=level)
    if max(row.mean.value, base.mean.value) <= 1:
        kinds = [one.kind for one in sampled]
        yield f"{spread.text} is in per cent", ways_from(sampled, kinds, difference, level=level, unit=0.01)
    if len(sampled) == 2 and row.runs == base.runs:
        yield "the runs are paired", paired_ways(sampled, difference, level=level)


def ways_from(
    sampled: Sequence[Row], kinds: Sequence[Kind], difference: Range, *, level: float, unit: float = 1.0
) -> list[Way]:
    """All ways of computing from the spreads of one or two rows; a row without a spread is a fixed number.

    Half-widths and p-values are those of Student's, Welch's and the normal
    computation; p is two-sided or one-sided, in either direction. Effects are
    Cohen's d, with variances weighted by runs or not, and Hedges' g, exact or
    approximate. Spreads were divided by n - 1 or by n.

    Source:
        Hedges (1981), Distribution theory for Glass's estimator of effect
        size, J. Educ. Stat. 6(2), 107-128.
    """
    ways = list[Way]()
    for by_n in (False, True):
        spreads = tuple(
            squared(one, kind, level, unit=unit, by_n=by_n) for one, kind in zip(sampled, kinds, strict=True)
        )
        counts = [one.runs for one in sampled]
        tests, sds = single_tests(spreads, counts) if len(sampled) == 1 else unpaired_tests(spreads, counts)
        suffix = ", spreads divided by n" if by_n else ""
        ways += t_ways(tests, difference, level=level, suffix=suffix)
        freedom = sum(counts) - len(counts)
        exact = math.exp(special.gammaln(freedom / 2) - special.gammaln((freedom - 1) / 2)) / math.sqrt(freedom / 2)
        for low, high in sds:
            d = difference[0] / high, difference[1] / low if low else math.inf
            shrunk = exact * d[0], (1 - 3 / (4 * freedom - 1)) * d[1]
            ways += [Way("effect", "Cohen's d" + suffix, d), Way("effect", "Hedges' g" + suffix, shrunk)]
    return ways


Test = tuple[str, Range, Range]  # its name, the standard error, and the degrees of freedom


def unpaired_tests(spreads: Spreads, counts: Sequence[float]) -> tuple[list[Test], list[Range]]:
    """Welch's, Student's and the normal test, and the standard deviations by which effects are divided."""
    (n, base_n), freedom = counts, sum(counts) - 2
    variance, base_variance = spreads
    ends = list(zip(variance, base_variance, strict=True))
    pooled = [math.sqrt(((n - 1) * a + (base_n - 1) * b) / freedom) for a, b in ends]
    student = [spread * math.sqrt(1 / n + 1 / base_n) for spread in pooled]
    welch = [math.sqrt(a / n + b / base_n) for a, b in ends]
    # Welch's degrees of freedom rise up to Student's and fall again as the row's share of the error grows.
    shares = [a / n / (a / n + b / base_n) for a, b in zip(variance, base_variance[::-1], strict=True)]
    best = min(max((n - 1) / freedom, shares[0]), shares[1])
    freedoms = min(welch_freedom(share, n, base_n) for share in shares), welch_freedom(best, n, base_n)
    tests = [
        ("Welch's test", (welch[0], welch[1]), freedoms),
        ("Student's test", (student[0], student[1]), (freedom, freedom)),
        ("the normal distribution", (welch[0], welch[1]), (math.inf, math.inf)),
    ]
    unweighted = [math.sqrt((a + b) / 2) for a, b in ends]
    return tests, [(pooled[0], pooled[1]), (unweighted[0], unweighted[1])]


def single_tests(spreads: Spreads, counts: Sequence[float]) -> tuple[list[Test], list[Range]]:
    """Student's and the normal test of one sample, and the standard deviation by which effects are divided."""
    (n,), ((low, high),) = counts, spreads
    error = math.sqrt(low / n), math.sqrt(high / n)
    tests = [
        ("the test of one sample", error, (n - 1, n - 1)),
        ("the normal distribution", error, (math.inf, math.inf)),
    ]
    return tests, [(math.sqrt(low), math.sqrt(high))]


def paired_ways(sampled: Sequence[Row], difference: Range, *, level: float) -> list[Way]:
    """What a paired t test can give if the pairs' correlation is unknown, with effects in any of the spreads."""
    n = sampled[0].runs
    spread, other_spread = ([math.sqrt(end) for end in squared(one, one.kind, level)] for one in sampled)
    # The standard deviation of the differences lies between the difference and the sum of the two.
    low, high = max(0.0, spread[0] - other_spread[1], other_spread[0] - spread[1]), spread[1] + other_spread[1]
    error = low / math.sqrt(n), high / math.sqrt(n)
    ways = t_ways([("the paired test", error, (n - 1, n - 1))], difference, level=level)
    effect = difference[0] / high, difference[1] / low if low else math.inf
    usual = ways_from(sampled, [one.kind for one in sampled], difference, level=level)
    return [*ways, Way("effect", "the paired d", effect), *(way for way in usual if way.what == "effect")]


def t_ways(tests: Sequence[Test], difference: Range, *, level: float, suffix: str = "") -> list[Way]:
    """Half-widths and p-values of tests, two-sided ones first."""
    two_sided, one_sided = list[Way](), list[Way]()
    for name, (low, high), (least, most) in tests:
        quantiles = [float(distributions.t.ppf((1 + level) / 2, freedom)) for freedom in (most, least)]
        two_sided.append(Way("interval", name + suffix, (quantiles[0] * low, quantiles[1] * high)))
        small = float(distributions.t.sf(difference[1] / low if low else math.inf, most))
        large = float(distributions.t.sf(difference[0] / high if high else 0.0, least))
        two_sided.append(Way("p", name + suffix, (2 * small, 2 * large)))
        for ends in ((small, large), (1 - large, 1 - small)):
            one_sided.append(Way("p", f"{name}, one-sided{suffix}", ends))
    return two_sided + one_sided


def squared(row: Row, kind: Kind, level: float, *, unit: float = 1.0, by_n: bool = False) -> Range:
    """Squared standard deviation of a row with a spread, if the spread was of this kind and divided by n or n - 1."""
    assert row.spread is not None
    least, most = spread_factor(kind, row.runs, level)
    scale = unit**2 * (row.runs / (row.runs - 1) if by_n else 1.0)
    return scale * (least * max(row.spread.low, 0.0)) ** 2, scale * (most * row.spread.high) ** 2


def absolute_range(low: float, high: float) -> Range:
    """Range of the absolute values, so that either sign will do."""
    return max(low, -high, 0.0), max(-low, high)


def overlaps(printed: Range, possible: Range) -> bool:
    """Whether two ranges have a number in common."""
    return printed[0] <= possible[1] and possible[0] <= printed[1]
