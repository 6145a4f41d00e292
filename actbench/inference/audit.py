"""What a published table of means and spreads implies, and which of its rows cannot be right.

A printed number stands for all that round to it: 87.48 for 87.475 to 87.485.
A row is flagged only if nothing within the rounding gives what is printed, be
it by Student's, Welch's or the normal computation, from spreads divided by
n - 1 or by n, with either sign. A row without a flag is possible, not proved.
"""

import math
from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from scipy import stats as distributions

from actbench.inference.stats import holm
from actbench.inference.stats.power import fewest, student_power

GOAL = 0.8  # power that is planned for
MOST = 1_000_000  # runs a side: more are not looked for
TRUSTED = 1e-9  # relative: where more digits are printed, the last ones are noise of somebody's arithmetic
LARGEST = 1e60  # numbers that no score, spread or count is; their squares are not to overflow

Range = tuple[float, float]


class TableError(ValueError):
    """A table that cannot be audited, and why."""


class Printed(NamedTuple):
    """A number as it is printed, and the ends of what rounds to it."""

    text: str
    value: float
    low: float
    high: float


class Row(NamedTuple):
    """A row of a table. The last four compare it with the baseline, and need not be published."""

    name: str
    mean: Printed
    sd: Printed
    n: Printed
    ci_low: Printed | None = None
    ci_high: Printed | None = None
    p: Printed | None = None
    effect: Printed | None = None

    @property
    def testable(self) -> bool:
        """Whether n and sd are such that a test can be computed."""
        return self.n.value >= 2 and self.n.value.is_integer() and self.sd.value >= 0


class Implied(NamedTuple):
    """What two rows imply. Where their n or sd allow no test, only the difference is known, and the rest NaN."""

    difference: float  # row minus baseline, in the unit of the means
    low: float = math.nan  # of Welch's interval
    high: float = math.nan
    effect: float = math.nan  # Cohen's d: the difference in pooled standard deviations
    p: float = math.nan  # of Welch's test, two-sided
    power: float = math.nan  # of Student's test with as many runs, were the effect seen the true one
    needed: int | None = None  # runs a side for a power of GOAL; None also if MOST do not reach it


class Flag(NamedTuple):
    """What of a row cannot be right, and both numbers."""

    what: str
    why: str


class Audited(NamedTuple):
    """A row, what it implies beside the baseline (None for the baseline itself), and what cannot be right."""

    row: Row
    implied: Implied | None
    adjusted: float  # Holm's p over the table
    flags: tuple[Flag, ...]


def read_number(text: str) -> Printed:
    """A printed number and its rounding; ``<0.001`` stands for all from 0 to that.

    Raises:
        ValueError: The text is no number, or one past `LARGEST`.
    """
    try:
        number = Decimal(text.removeprefix("<").strip().replace("−", "-"))
        value = float(number)
        half = 0.5 * 10.0 ** (number.adjusted() - len(number.as_tuple().digits) + 1) + TRUSTED * abs(value)
    except (InvalidOperation, OverflowError, ValueError):  # of a signalling NaN, too
        value = half = math.inf
    if not abs(value) + half < LARGEST:
        raise ValueError(f"{text!r} is not a number")
    return Printed(text, value, value - half, value + half) if text[0] != "<" else Printed(text, value, 0.0, value)


def audit(
    rows: Sequence[Row],
    baseline: str | None = None,
    *,
    level: float = 0.95,
    alpha: float = 0.05,
    highest: float | None = None,
) -> list[Audited]:
    """Compare every row with the baseline, unpaired, and say what cannot be right.

    Args:
        rows: Two at least, with different names.
        baseline: Name of the row that the others are compared with; by default the first.
        level: Coverage of the intervals, those published and those computed.
        alpha: Level of the tests whose power is computed.
        highest: Highest score possible, the lowest being 0; by default 1 or 100 if all means lie in that, else none.

    Raises:
        TableError: There is one row only, no such baseline, or another value is out of its range.
    """
    names, means = [row.name for row in rows], [row.mean.value for row in rows]
    if len(rows) < 2:
        raise TableError(f"needs a baseline and one row beside it, got {len(rows)} rows")
    if baseline is not None and baseline not in names:
        raise TableError(f"no row is named {baseline!r}: the rows are {', '.join(names)}")
    for name, value in (("level", level), ("alpha", alpha)):
        if not 0 < value < 1:
            raise TableError(f"{name} is strictly between 0 and 1, got {value}")
    if highest is not None and not highest > 0:
        raise TableError(f"highest is above 0, got {highest}")
    base = rows[names.index(baseline) if baseline is not None else 0]
    if highest is None:
        highest = next((limit for limit in (1.0, 100.0) if min(means) >= 0 and max(means) <= limit), math.inf)
    implied = {row.name: imply(row, base, level=level, alpha=alpha) for row in rows if row is not base}
    p = {name: one.p for name, one in implied.items() if not math.isnan(one.p)}
    adjusted = dict(zip(p, holm(list(p.values())), strict=True))
    audited = []
    for row in rows:
        seen = implied.get(row.name)
        flags = [*impossible(row, highest), *(contradictions(row, base, seen, level=level) if seen else ())]
        audited.append(Audited(row, seen, adjusted.get(row.name, math.nan), tuple(flags)))
    return audited


def imply(own: Row, base: Row, *, level: float = 0.95, alpha: float = 0.05) -> Implied:
    """What the printed values of two rows imply, taken as they are.

    Source:
        Welch (1947), The generalization of "Student's" problem when several
        different population variances are involved, Biometrika 34, 28-35.
    """
    difference, n, other = own.mean.value - base.mean.value, own.n.value, base.n.value
    one, two = own.sd.value**2, base.sd.value**2
    if not (own.testable and base.testable and one + two > 0):
        return Implied(difference)
    error = one / n + two / other
    if not error > 0:  # the two are so small that their squares are 0
        return Implied(difference)
    half = float(distributions.t.ppf((1 + level) / 2, welch_freedom(one / n / error, n, other))) * math.sqrt(error)
    effect = difference / math.sqrt(((n - 1) * one + (other - 1) * two) / (n + other - 2))
    test = distributions.ttest_ind_from_stats(difference, own.sd.value, n, 0, base.sd.value, other, equal_var=False)
    power = unpaired_power(effect, n, other, alpha=alpha)
    needed = fewest(lambda runs: unpaired_power(effect, runs, runs, alpha=alpha), GOAL, most=MOST)
    return Implied(difference, difference - half, difference + half, effect, float(test.pvalue), power, needed)


def welch_freedom(share: float, n: float, other: float) -> float:
    """Welch's degrees of freedom, where a row brings this share of the squared standard error of a difference."""
    return 1 / (share**2 / (n - 1) + (1 - share) ** 2 / (other - 1))


def unpaired_power(effect: float, n: float, other: float, *, alpha: float = 0.05) -> float:
    """Power of Student's two-sided unpaired test with ``n`` and ``other`` runs; ``effect`` in standard deviations.

    At the effect that was seen it says no more than p does; it is of use for planning.
    """
    return student_power(effect * math.sqrt(n * other / (n + other)), n + other - 2, alpha=alpha)


def impossible(row: Row, highest: float) -> Iterator[Flag]:
    """What of a row's own n, sd and mean cannot be, if scores lie between 0 and the highest.

    Source:
        Bhatia & Davis (2000), A better bound on the variance, Am. Math.
        Monthly 107(4), 353-357.
    """
    n, mean, sd = row.n.value, row.mean, row.sd
    if n < 2 or not n.is_integer():
        yield Flag("n", f"n {row.n.text} is not a whole number of runs, two at least")
    if sd.value < 0:
        yield Flag("sd", f"sd {sd.text} is below 0")
    if highest == math.inf:
        return
    if mean.high < 0 or mean.low > highest:
        yield Flag("mean", f"mean {mean.text} is no score from 0 to {highest:g}")
    elif row.testable:
        # What rounds to the mean and leaves most room; then no run can be farther off than all others can make up for.
        middle = min(max(highest / 2, mean.low), mean.high)
        top, bottom = min(highest, n * middle), max(0.0, highest - n * (highest - middle))
        most = math.sqrt(max(0.0, (top - middle) * (middle - bottom)) * n / (n - 1))
        if sd.low > most:
            yield Flag("sd", f"sd {sd.text}, {n:g} scores from 0 to {highest:g} with this mean allow {most:.4g}")


def contradictions(own: Row, base: Row, seen: Implied, *, level: float) -> Iterator[Flag]:
    """What is published of a comparison and cannot come from the rows' means, sds and n."""
    difference = sizes(own.mean.low - base.mean.high, own.mean.high - base.mean.low)
    low, high = own.ci_low, own.ci_high
    if low and high and not meet(sizes((low.low + high.low) / 2, (low.high + high.high) / 2), difference):
        centre = (low.value + high.value) / 2
        yield Flag("interval", f"interval centred on {centre:z.4g}, difference {seen.difference:z.4g}")
    if math.isnan(seen.p):
        return
    halves, p, effects = reachable(own, base, difference, level=level)
    if low and high:
        half, implied = (high.value - low.value) / 2, (seen.high - seen.low) / 2
        if not any(meet(((high.low - low.high) / 2, (high.high - low.low) / 2), one) for one in halves):
            yield Flag("interval", f"interval's half-width {half:.4g}, sd and n imply {implied:.4g}")
    if own.p and not any(meet((own.p.low, own.p.high), one) for one in p):
        yield Flag("p", f"p {own.p.text}, mean, sd and n imply {seen.p:.2g}")
    if own.effect and not any(meet(sizes(own.effect.low, own.effect.high), one) for one in effects):
        yield Flag("effect", f"effect {own.effect.text}, mean and sd imply {abs(seen.effect):.4g}")


def reachable(own: Row, base: Row, difference: Range, *, level: float) -> tuple[list[Range], list[Range], list[Range]]:
    """Ranges that hold every half-width, p-value and size of an effect which the rows can give.

    Half-widths and p-values are those of Student's, Welch's and the normal
    computation; p is two-sided or one-sided, to either side. Effects are
    Cohen's d, with variances weighted by runs or not, and Hedges' g, exact or
    approximate.

    Source:
        Hedges (1981), Distribution theory for Glass's estimator of effect
        size, J. Educ. Stat. 6(2), 107-128.
    """
    n, other = own.n.value, base.n.value
    total, quantile = n + other - 2, (1 + level) / 2
    exact = math.exp(math.lgamma(total / 2) - math.lgamma((total - 1) / 2)) / math.sqrt(total / 2)
    halves, p, effects = [], [], []
    for one, two in zip(variances(own), variances(base), strict=True):
        spreads = [math.sqrt(((n - 1) * a + (other - 1) * b) / total) for a, b in zip(one, two, strict=True)]
        for low, high in (spreads, [math.sqrt((a + b) / 2) for a, b in zip(one, two, strict=True)]):
            d = difference[0] / high, difference[1] / low if low else math.inf
            effects += [d, (exact * d[0], (1 - 3 / (4 * total - 1)) * d[1])]
        pooled = [spread * math.sqrt(1 / n + 1 / other) for spread in spreads]
        apart = [math.sqrt(a / n + b / other) for a, b in zip(one, two, strict=True)]
        # Welch's degrees of freedom rise up to Student's and fall again as the row's share of the error grows.
        shares = [a / n / (a / n + b / other) for a, b in zip(one, two[::-1], strict=True)]
        best = min(max((n - 1) / total, shares[0]), shares[1])
        welch = min(welch_freedom(share, n, other) for share in shares), welch_freedom(best, n, other)
        for (low, high), (least, most) in ((pooled, (total, total)), (apart, welch), (apart, (math.inf, math.inf))):
            halves.append((distributions.t.ppf(quantile, most) * low, distributions.t.ppf(quantile, least) * high))
            small = distributions.t.sf(difference[1] / low if low else math.inf, most)
            large = distributions.t.sf(difference[0] / high, least)
            p += [(small, large), (2 * small, 2 * large), (1 - large, 1 - small)]
    return halves, p, effects


def variances(row: Row) -> Iterator[Range]:
    """Squared sd: as printed, and as it would be had the one printed been divided by n instead of n - 1."""
    for scale in (1, row.n.value / (row.n.value - 1)):
        yield scale * max(row.sd.low, 0.0) ** 2, scale * row.sd.high**2


def sizes(low: float, high: float) -> Range:
    """Range of the absolute values, so that either sign will do."""
    return max(low, -high, 0.0), max(-low, high)


def meet(one: Range, other: Range) -> bool:
    """Whether two ranges have a number in common."""
    return one[0] <= other[1] and other[0] <= one[1]
