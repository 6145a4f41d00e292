"""Rows of a published table: printed numbers, their rounding, and what their spreads are.

A printed number stands for all numbers that round to it: 87.48 for 87.475 to 87.485.
"""

import math
from decimal import Decimal, InvalidOperation
from typing import Literal, NamedTuple

from scipy import stats as distributions

TRUSTED = 1e-9  # relative precision beyond which printed digits are noise of somebody's arithmetic
LARGEST = 1e60  # above every score, spread and count, and small enough for squares not to overflow

Range = tuple[float, float]
Kind = Literal["sd", "se", "ci"]
KINDS: dict[Kind, str] = {
    "sd": "a standard deviation",
    "se": "a standard error",
    "ci": "the half-width of an interval",
}


class TableError(ValueError):
    """The table cannot be audited; the message says why."""


class Printed(NamedTuple):
    """A number as printed, and the ends of the range that rounds to it."""

    text: str
    value: float
    low: float
    high: float


class Row(NamedTuple):
    """A row of a table.

    A row without a spread, such as a result from the literature, is a fixed
    number. The interval is that of the difference to the baseline; it, ``p`` and
    ``effect`` need not be published.
    """

    name: str
    mean: Printed
    spread: Printed | None = None
    n: Printed | None = None
    ci_low: Printed | None = None
    ci_high: Printed | None = None
    p: Printed | None = None
    effect: Printed | None = None
    kind: Kind = "sd"  # what the spread is, of or about the mean of n runs
    dataset: str = ""
    percent: bool = False  # whether the mean has a per cent sign

    @property
    def label(self) -> str:
        """Dataset, if there are several, and name."""
        return f"{self.dataset}/{self.name}" if self.dataset else self.name

    @property
    def runs(self) -> float:
        """The number of runs, NaN if it was not printed."""
        return self.n.value if self.n else math.nan

    @property
    def testable(self) -> bool:
        """Whether n and spread allow a test."""
        return self.runs >= 2 and self.runs.is_integer() and self.spread is not None and self.spread.value >= 0


def read_number(text: str) -> Printed:
    """A printed number and its rounding.

    ``<0.001`` stands for every number from 0 to 0.001, and ``>0.05`` for every number from 0.05 to 1.

    Raises:
        ValueError: The text is not a number, or the number exceeds `LARGEST`.
    """
    try:
        number = Decimal(text.lstrip("<>").strip().replace("−", "-"))
        value = float(number)
        half = 0.5 * 10.0 ** (number.adjusted() - len(number.as_tuple().digits) + 1) + TRUSTED * abs(value)
    except (InvalidOperation, OverflowError, ValueError):  # ValueError also for a signalling NaN
        value = half = math.inf
    if not abs(value) + half < LARGEST:
        raise ValueError(f"{text!r} is not a number")
    ends = {"<": (0.0, value), ">": (value, 1.0)}
    return Printed(text, value, *ends.get(text[0], (value - half, value + half)))


def spread_factor(kind: Kind, n: float, level: float) -> Range:
    """Least and largest ratio of the standard deviation of n runs to what is printed of it.

    The half-width of an interval with this level may be Student's, which is the first, or the normal one.
    """
    if kind == "sd":
        return 1.0, 1.0
    if kind == "se":
        return math.sqrt(n), math.sqrt(n)
    quantile = (1 + level) / 2
    student, normal = distributions.t.ppf(quantile, n - 1), distributions.norm.ppf(quantile)
    return math.sqrt(n) / float(student), math.sqrt(n) / float(normal)
