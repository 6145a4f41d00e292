"""Colours, on light paper and on dark, and the shapes that tell arms and verdicts apart without colour."""

from collections.abc import Sequence
from itertools import cycle
from typing import NamedTuple

from actbench.inference.stats import Verdict


class Tone(NamedTuple):
    """A colour on light paper and on dark."""

    light: str
    dark: str


class ArmStyle(NamedTuple):
    """How an arm is drawn.

    ``dash`` holds the lengths of strokes and gaps in pixels, and ``shape`` is a
    mark of Vega's.
    """

    tone: Tone
    dash: tuple[int, ...]
    shape: str


INK = Tone("#1d1d1b", "#ecebe6")
QUIET = Tone("#5c5c57", "#a9a9a2")
RULE = Tone("#dddcd6", "#3a3c3f")
PAPER = Tone("#fdfdfb", "#161719")
VERDICTS: dict[Verdict, Tone] = {
    "better": Tone("#006b47", "#52c795"),
    "worse": Tone("#ae2f14", "#ff9274"),
    "equivalent": Tone("#1f55a5", "#84b3ff"),
    "undecided": Tone("#62625c", "#aaaaa3"),
}
SYMBOLS: dict[Verdict, str] = {
    "better": "triangle-up",
    "worse": "triangle-down",
    "equivalent": "diamond",
    "undecided": "circle",
}
SIGNS: dict[Verdict, str] = {"better": "▲", "worse": "▼", "equivalent": "◆", "undecided": "○"}
ARMS = (
    Tone("#1b6db3", "#6db3f2"),
    Tone("#b94a08", "#f79d60"),
    Tone("#2a7f3b", "#70d089"),
    Tone("#a42f77", "#ee88c3"),
    Tone("#775a00", "#dabb4d"),
    Tone("#643fb2", "#b59df6"),
    Tone("#0a7580", "#51c7d1"),
    Tone("#b92433", "#ff9098"),
)
CROSS = "M-1,-.6L-.6,-1L0,-.4L.6,-1L1,-.6L.4,0L1,.6L.6,1L0,.4L-.6,1L-1,.6L-.4,0Z"  # also marks a diverged replicate
SHAPES = ("square", "triangle-up", "triangle-down", "diamond", "cross", "triangle-right", "triangle-left", CROSS)
SOLID = (1, 0)
DASHES = ((8, 3), (2, 2), (8, 3, 2, 3), (14, 4), SOLID)


def arm_styles(arms: Sequence[str], baseline: str) -> dict[str, ArmStyle]:
    """How each arm is drawn: the baseline in solid ink with circles, the others in colours, shapes and dashes.

    Eight shapes and five dashes have no common factor, so that they tell forty arms apart even without colour.
    """
    others = [arm for arm in arms if arm != baseline]
    styles = map(ArmStyle, cycle(ARMS), cycle(DASHES), cycle(SHAPES))
    return {baseline: ArmStyle(INK, SOLID, "circle"), **dict(zip(others, styles, strict=False))}
