"""What a published table of means and spreads implies, and which of its rows cannot be right.

A printed number stands for all numbers that round to it: 87.48 for 87.475 to
87.485. A row is flagged only if no number within the rounding gives what is
printed, be it by Student's, Welch's or the normal computation, from spreads
divided by n - 1 or by n, with either sign. A row without a flag is possible, not
proved.
"""

import math
from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from scipy import stats as distributions

from actbench.inference.stats import holm
from actbench.inference.stats.power import fewest_runs, student_power

GOAL = 0.8  # power for which runs are planned
MOST = 1_000_000  # runs a side beyond which none are planned
TRUSTED = 1e-9  # relative precision beyond which printed digits are noise of somebody's arithmetic
LARGEST = 1e60  # above every score, spread and count, and small enough for squares not to overflow

Range = tuple[float, float]


class TableError(ValueError):
    """The table cannot be audited; the message says why."""


class Printed(NamedTuple):
    """A number as printed, and the ends of the range that rounds to it."""

    text: str
    value: float
    low: float
    high: float


class Row(NamedTuple):
    """A row of a table. The last four fields compare it with the baseline, and need not be published."""

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
        """Whether n and sd allow a test."""
        return self.n.value >= 2 and self.n.value.is_integer() and self.sd.value >= 0


class Implied(NamedTuple):
    """What two rows imply. Where their n or sd allow no test, only the difference is known and the rest is NaN."""

    difference: float  # row minus baseline, in the unit of the means
    low: float = math.nan  # of Welch's interval
    high: float = math.nan
    effect: float = math.nan  # Cohen's d: the difference in pooled standard deviations
    p: float = math.nan  # of Welch's test, two-sided
    power: float = math.nan  # of Student's test with as many runs, if the effect seen is the true one
    needed: int | None = None  # runs a side for a power of GOAL; None also if MOST runs do not reach it


class Flag(NamedTuple):
    """A quantity of a row that cannot be right, and why."""

    what: str
    why: str


class Audited(NamedTuple):
    """A row, what it implies beside the baseline (None for the baseline itself), and its flags."""

    row: Row
    implied: Implied | None
    adjusted: float  # Holm's p over the table
    flags: tuple[Flag, ...]


def read_number(text: str) -> Printed:
    """A printed number and its rounding; ``<0.001`` stands for every number from 0 to 0.001.

    Raises:
        ValueError: The text is not a number, or the number exceeds `LARGEST`.
    """
    try:
        number = Decimal(text.removeprefix("<").strip().replace("−", "-"))
        value = float(number)
        half = 0.5 * 10.0 ** (number.adjusted() - len(number.as_tuple().digits) + 1) + TRUSTED * abs(value)
    except (InvalidOperation, OverflowError, ValueError):  # ValueError also for a signalling NaN
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
    """Compare every row with the baseline, unpaired, and flag what cannot be right.

    Args:
        rows: At least two, with different names.
        baseline: Name of the row with which the others are compared; by default the first.
        level: Coverage of the intervals, both published and computed.
        alpha: Level of the tests whose power is computed.
        highest: Highest possible score, where the lowest is 0. By default 1 or 100, whichever no mean exceeds, or none.

    Raises:
        TableError: There is only one row, the baseline was not found, or a setting is out of its range.
    """
    names, means = [row.name for row in rows], [row.mean.value for row in rows]
    if len(rows) < 2:
        raise TableError(f"needs a baseline and a row beside it, got {len(rows)} rows")
    if baseline is not None and baseline not in names:
        raise TableError(f"no row is named {baseline!r}: the rows are {', '.join(names)}")
    for name, value in (("level", level), ("alpha", alpha)):
        if not 0 < value < 1:
            raise TableError(f"{name} must be strictly between 0 and 1, got {value}")
    if highest is not None and not highest > 0:
        raise TableError(f"highest must be above 0, got {highest}")
    base = rows[names.index(baseline) if baseline is not None else 0]
    if highest is None:
        highest = next((limit for limit in (1.0, 100.0) if min(means) >= 0 and max(means) <= limit), math.inf)
    implied = {row.name: imply(row, base, level=level, alpha=alpha) for row in rows if row is not base}
    p_values = {name: comparison.p for name, comparison in implied.items() if not math.isnan(comparison.p)}
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    audited = []
    for row in rows:
        comparison = implied.get(row.name)
        flags = [*impossible(row, highest), *(contradictions(row, base, comparison, level=level) if comparison else ())]
        audited.append(Audited(row, comparison, adjusted.get(row.name, math.nan), tuple(flags)))
    return audited


def imply(row: Row, base: Row, *, level: float = 0.95, alpha: float = 0.05) -> Implied:
    """What the printed values of two rows imply, without regard to rounding.

    Source:
        Welch (1947), The generalization of "Student's" problem when several
        different population variances are involved, Biometrika 34, 28-35.
    """
    difference, n, base_n = row.mean.value - base.mean.value, row.n.value, base.n.value
    if not (row.testable and base.testable):
        return Implied(difference)
    variance, base_variance = row.sd.value**2, base.sd.value**2
    error = variance / n + base_variance / base_n
    if not error > 0:  # also if the squares of tiny spreads are 0
        return Implied(difference)
    freedom = welch_freedom(variance / n / error, n, base_n)
    half = float(distributions.t.ppf((1 + level) / 2, freedom)) * math.sqrt(error)
    effect = difference / math.sqrt(((n - 1) * variance + (base_n - 1) * base_variance) / (n + base_n - 2))
    test = distributions.ttest_ind_from_stats(difference, row.sd.value, n, 0, base.sd.value, base_n, equal_var=False)
    power = unpaired_power(effect, n, base_n, alpha=alpha)
    needed = fewest_runs(lambda runs: unpaired_power(effect, runs, runs, alpha=alpha), GOAL, most=MOST)
    return Implied(difference, difference - half, difference + half, effect, float(test.pvalue), power, needed)


def welch_freedom(share: float, n: float, base_n: float) -> float:
    """Welch's degrees of freedom; ``share`` is the row's part of the squared standard error of the difference."""
    return 1 / (share**2 / (n - 1) + (1 - share) ** 2 / (base_n - 1))


def unpaired_power(effect: float, n: float, base_n: float, *, alpha: float = 0.05) -> float:
    """Power of Student's two-sided unpaired test with ``n`` and ``base_n`` runs; ``effect`` in standard deviations.

    At the effect that was seen it says no more than p does; it is of use for planning.
    """
    return student_power(effect * math.sqrt(n * base_n / (n + base_n)), n + base_n - 2, alpha=alpha)


def impossible(row: Row, highest: float) -> Iterator[Flag]:
    """Flags on a row's own n, sd and mean, if scores lie between 0 and the highest.

    Source:
        Bhatia & Davis (2000), A better bound on the variance, Am. Math.
        Monthly 107(4), 353-357.
    """
    n, mean, sd = row.n.value, row.mean, row.sd
    if n < 2 or not n.is_integer():
        yield Flag("n", f"n {row.n.text} is not a whole number of runs, at least two")
    if sd.value < 0:
        yield Flag("sd", f"sd {sd.text} is below 0")
    if highest == math.inf:
        return
    if mean.high < 0 or mean.low > highest:
        yield Flag("mean", f"mean {mean.text} is no score from 0 to {highest:g}")
    elif row.testable:
        # The mean within the rounding that leaves most room. No run can be farther off than all others can make up for.
        middle = min(max(highest / 2, mean.low), mean.high)
        top, bottom = min(highest, n * middle), max(0.0, highest - n * (highest - middle))
        most = math.sqrt(max(0.0, (top - middle) * (middle - bottom)) * n / (n - 1))
        if sd.low > most:
            yield Flag("sd", f"sd {sd.text}, {n:g} scores from 0 to {highest:g} with this mean allow {most:.4g}")


def contradictions(row: Row, base: Row, implied: Implied, *, level: float) -> Iterator[Flag]:
    """Flags on a published comparison that cannot come from the rows' means, sds and n."""
    difference = absolute_range(row.mean.low - base.mean.high, row.mean.high - base.mean.low)
    low, high = row.ci_low, row.ci_high
    if low and high:
        centres = absolute_range((low.low + high.low) / 2, (low.high + high.high) / 2)
        if not overlaps(centres, [difference]):
            centre = (low.value + high.value) / 2
            yield Flag("interval", f"interval centred on {centre:z.4g}, difference {implied.difference:z.4g}")
    if math.isnan(implied.p):
        return
    halves, p_values, effects = reachable(row, base, difference, level=level)
    if low and high and not overlaps(((high.low - low.high) / 2, (high.high - low.low) / 2), halves):
        half, half_implied = (high.value - low.value) / 2, (implied.high - implied.low) / 2
        yield Flag("interval", f"interval's half-width {half:.4g}, sd and n imply {half_implied:.4g}")
    if row.p and not overlaps((row.p.low, row.p.high), p_values):
        yield Flag("p", f"p {row.p.text}, mean, sd and n imply {implied.p:.2g}")
    if row.effect and not overlaps(absolute_range(row.effect.low, row.effect.high), effects):
        yield Flag("effect", f"effect {row.effect.text}, mean and sd imply {abs(implied.effect):.4g}")


def reachable(row: Row, base: Row, difference: Range, *, level: float) -> tuple[list[Range], list[Range], list[Range]]:
    """Ranges that hold every half-width, p-value and absolute effect that the rows can give.

    Half-widths and p-values are those of Student's, Welch's and the normal
    computation; p is two-sided or one-sided, in either direction. Effects are
    Cohen's d, with variances weighted by runs or not, and Hedges' g, exact or
    approximate.

    Source:
        Hedges (1981), Distribution theory for Glass's estimator of effect
        size, J. Educ. Stat. 6(2), 107-128.
    """
    n, base_n = row.n.value, base.n.value
    freedom, quantile = n + base_n - 2, (1 + level) / 2
    exact = math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom - 1) / 2)) / math.sqrt(freedom / 2)
    halves, p_values, effects = [], [], []
    for variance, base_variance in zip(variances(row), variances(base), strict=True):
        ends = list(zip(variance, base_variance, strict=True))
        spreads = [math.sqrt(((n - 1) * a + (base_n - 1) * b) / freedom) for a, b in ends]
        for low, high in (spreads, [math.sqrt((a + b) / 2) for a, b in ends]):
            d = difference[0] / high, difference[1] / low if low else math.inf
            effects += [d, (exact * d[0], (1 - 3 / (4 * freedom - 1)) * d[1])]
        student_errors = [spread * math.sqrt(1 / n + 1 / base_n) for spread in spreads]
        welch_errors = [math.sqrt(a / n + b / base_n) for a, b in ends]
        # Welch's degrees of freedom rise up to Student's and fall again as the row's share of the error grows.
        shares = [a / n / (a / n + b / base_n) for a, b in zip(variance, base_variance[::-1], strict=True)]
        best = min(max((n - 1) / freedom, shares[0]), shares[1])
        welch = min(welch_freedom(share, n, base_n) for share in shares), welch_freedom(best, n, base_n)
        for (low, high), (least, most) in (
            (student_errors, (freedom, freedom)),
            (welch_errors, welch),
            (welch_errors, (math.inf, math.inf)),
        ):
            halves.append((distributions.t.ppf(quantile, most) * low, distributions.t.ppf(quantile, least) * high))
            small = distributions.t.sf(difference[1] / low if low else math.inf, most)
            large = distributions.t.sf(difference[0] / high, least)
            p_values += [(small, large), (2 * small, 2 * large), (1 - large, 1 - small)]
    return halves, p_values, effects


def variances(row: Row) -> Iterator[Range]:
    """Squared sd: as printed, and as it is if the printed sd was divided by n instead of n - 1."""
    for scale in (1, row.n.value / (row.n.value - 1)):
        yield scale * max(row.sd.low, 0.0) ** 2, scale * row.sd.high**2


def absolute_range(low: float, high: float) -> Range:
    """Range of the absolute values, so that either sign will do."""
    return max(low, -high, 0.0), max(-low, high)


def overlaps(printed: Range, possible: Sequence[Range]) -> bool:
    """Whether a range has a number in common with any of the others."""
    return any(printed[0] <= high and low <= printed[1] for low, high in possible)
