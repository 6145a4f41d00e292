"""The answer to a judged candidate, as programs read it."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from actbench.inference.stats.online import Control

Outcome = Literal["better", "equivalent", "worse", "undecided", "refused"]
EXIT_STATUS: Mapping[Outcome, int] = {"better": 0, "equivalent": 10, "worse": 11, "undecided": 12, "refused": 2}


class Failures(NamedTuple):
    """How often the candidate and the baseline failed to train, and the verdict on that alone."""

    candidate: int
    baseline: int
    verdict: str


class Level(NamedTuple):
    """What the series spends.

    ``spent`` is the chance of a false verdict that this candidate had, and ``left``
    what remains of alpha; with ``fdr``, the level of the next candidate.
    """

    control: Control
    alpha: float
    spent: float
    left: float


class Answer(NamedTuple):
    """A candidate's verdict with its evidence. Differences are of test accuracy, candidate minus baseline."""

    candidate: str
    baseline: str
    verdict: Outcome
    sentence: str
    number: int | None
    """Place among the candidates that spent level; None for one that was refused, or is the baseline itself."""
    difference: float | None
    low: float | None
    high: float | None
    confidence: float | None
    """Of the interval from ``low`` to ``high``: one minus the level that was spent."""
    pairs: int
    failures: Failures | None
    time_ratio: Sequence[float] | None
    """Time of a training step over the baseline's, with its bounds; None if it was not measured."""
    saved_bytes: float | None
    """What the candidate keeps for the backward pass for each element of float32, beside its output."""
    level: Level
    judged_before: int
    """Candidates that were judged in this series before this one."""
    same_as: str | None
    """The candidate that this one equals, and whose verdict this is; or the baseline."""
    equals: Sequence[str]
    """What the candidate equals in the catalogue."""
    notes: Sequence[str]
    """What a reader should know of the candidate, such as a difference between training and evaluation."""
    seconds: float
    page: str | None
    ledger: str

    @property
    def exit_status(self) -> int:
        """Exit status of the command."""
        return EXIT_STATUS[self.verdict]

    def to_dict(self) -> dict[str, Any]:
        """The answer in plain values."""
        return {
            **self._asdict(),
            "level": self.level._asdict(),
            "failures": self.failures and self.failures._asdict(),
        }
