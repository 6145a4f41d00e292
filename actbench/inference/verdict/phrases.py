"""Numbers and lists as they stand in a sentence."""

import math
from collections.abc import Sequence

from actbench.inference.verdict.question import Question


def points(fraction: float, *, sign: bool = True) -> str:
    """A fraction in percentage points, with two decimals below 1."""
    value = 100 * fraction
    digits = 1 if abs(value) >= 0.995 else 2
    return f"{value:+z.{digits}f}" if sign else f"{value:z.{digits}f}"


def percent(fraction: float) -> str:
    """A fraction in percent."""
    return f"{100 * fraction:.1f} %"


def p_value(p: float) -> str:
    """A p-value as papers print it, with its sign."""
    if p < 0.0001:
        return "< .0001"
    text = f"{p:.4f}" if p < 0.001 else f"{p:.3f}" if p < 0.995 else "1.00"
    return f"= {text.removeprefix('0')}"


def level(question: Question) -> str:
    """Coverage of the intervals, in percent."""
    return f"{100 * (1 - question.alpha):g} %"


def listed(words: Sequence[str], most: int = 6) -> str:
    """Words with commas and an "and"; where there are more than ``most``, the last ones are counted."""
    if len(words) > most:
        return f"{', '.join(words[: most - 1])} and {len(words) - most + 1} more"
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def three_digits(value: float) -> str:
    """A positive number with three digits, or rounded to ones where it has more before the point.

    >>> [three_digits(value) for value in (0.012345, 3.14159, 999.4, 1843.2)]
    ['0.0123', '3.14', '999', '1,843']
    """
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def count(number: int, noun: str) -> str:
    """A number with its noun, in the plural unless the number is 1."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(minutes: float) -> str:
    """A time in the unit that suits its length."""
    if not math.isfinite(minutes):
        return "no time"
    for limit, unit, size in ((1, "second", 1 / 60), (120, "minute", 1), (48 * 60, "hour", 60)):
        if minutes < limit:
            return count(round(minutes / size), unit)
    return count(round(minutes / (24 * 60)), "day")
