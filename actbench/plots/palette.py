"""Colours, on light paper and on dark, and the shapes that tell the same without colour."""

from collections.abc import Sequence
from typing import NamedTuple

from actbench.stats import Verdict


class Tone(NamedTuple):
    """A colour on light paper and on dark."""

    light: str
    dark: str

    def faded(self, alpha: float) -> "Tone":
        """The same, so much transparent."""
        return Tone(*(f"rgba({', '.join(str(int(of[at : at + 2], 16)) for at in (1, 3, 5))}, {alpha})" for of in self))


class Look(NamedTuple):
    """How an arm is drawn: no two of the first forty-one look alike."""

    tone: Tone
    dash: str


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
    "undecided": "circle-open",
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
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
STROKES = {"solid": "", "dash": "8 5", "dot": "2 4", "dashdot": "8 4 2 4", "longdash": "14 5"}  # of the same in SVG
BAND, MARGIN, LINE = 0.16, 0.13, 0.35  # how opaque


def looks(arms: Sequence[str], baseline: str) -> dict[str, Look]:
    """How each arm is drawn: the baseline in ink, the others in colours, and in other dashes once these are spent."""
    others = [arm for arm in arms if arm != baseline]
    found = {
        arm: Look(ARMS[place % len(ARMS)], DASHES[place // len(ARMS) % len(DASHES)]) for place, arm in enumerate(others)
    }
    return {baseline: Look(INK, "solid"), **found}


def dark_of() -> dict[str, str]:
    """The colour on dark paper by the one on light paper, of all colours in figures."""
    tones = [INK, QUIET, RULE, PAPER, *VERDICTS.values(), *ARMS]
    faded = [tone.faded(alpha) for tone in tones for alpha in (BAND, MARGIN, LINE)]
    return dict([*tones, *faded])
