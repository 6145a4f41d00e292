"""What a study's records do not hold: what was planned, and when verdicts were looked at."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from actbench.inference.verdict.question import Question
from actbench.inference.verdict.schemas import check_history
from actbench.records import RecordError, write_whole

FILE = "history.json"
LARGEST = 2**24  # bytes of a file
LONGEST = 1000  # letters of a trouble, which may be any error's


@dataclass(frozen=True)
class PlanRecord:
    """What a study asked from some time on."""

    hash: str
    since: str  # UTC, ISO 8601
    question: Mapping[str, Any]


@dataclass(frozen=True)
class Look:
    """That verdicts were shown: by which plan, on how many pairs of each comparison, and what they were."""

    plan: str
    when: str
    pairs: Mapping[str, int]
    verdicts: Mapping[str, str]
    spent: Mapping[str, float]  # of alpha, over the looks so far


@dataclass(frozen=True)
class History:
    """Plans and looks of a study, oldest first.

    ``certificates`` is what its last self-test measured, by the plan's hash,
    ``command`` what was typed last to run it, and ``troubles`` what was
    interrupted, failed or tried again, and when.
    """

    plans: Sequence[PlanRecord] = ()
    looks: Sequence[Look] = ()
    certificates: Mapping[str, Any] = field(default_factory=dict)
    command: str | None = None
    troubles: Sequence[str] = ()

    @classmethod
    def read(cls, folder: Path) -> "History":
        """The history of a study's folder; an empty one if there is none.

        Raises:
            RecordError: The file is damaged.
        """
        path = folder / FILE
        if not path.exists():
            return cls()
        if not path.is_file() or path.stat().st_size > LARGEST:  # a pipe, or a device without an end
            raise RecordError(f"{path} is no file, or larger than any history")
        try:
            content = json.loads(path.read_text())
            check_history(content)
            plans = [PlanRecord(**plan) for plan in content.pop("plans")]
            for plan in plans:
                if Question.from_dict(plan.question).hash != plan.hash:
                    raise ValueError(f"plan {plan.hash} is not what was planned under that hash")
            looks = [Look(**look) for look in content.pop("looks")]
            return cls(plans, looks, **content)
        except (ValueError, RecursionError) as error:
            raise RecordError(
                f"{path} is damaged, and with it the study's looks at its records ({error}); move it away, "
                "and say so when you report the study"
            ) from error

    def write(self, folder: Path) -> None:
        """Write it into a study's folder, whole or not at all."""
        write_whole(folder / FILE, (json.dumps(asdict(self), indent=1) + os.linesep).encode())

    def troubled(self, troubles: Sequence[str]) -> "History":
        """The history with what has just gone wrong."""
        shown = ("".join(letter if letter.isprintable() else " " for letter in trouble) for trouble in troubles)
        return replace(self, troubles=[*self.troubles, *(f"{now()} {trouble[:LONGEST]}" for trouble in shown)])

    def planned(self, question: Question) -> "History":
        """The history with this plan, if it is another one than the last."""
        if self.plans and self.plans[-1].hash == question.hash:
            return self
        return replace(self, plans=[*self.plans, PlanRecord(question.hash, now(), question.to_dict())])

    def looked(self, look: Look) -> "History":
        """The history with this look, unless an equal one is known: a study told anew is not looked at anew."""
        if any((of.plan, of.pairs, of.verdicts) == (look.plan, look.pairs, look.verdicts) for of in self.looks):
            return self
        return replace(self, looks=[*self.looks, look])

    def others(self, question: Question, pairs: Mapping[str, int], elsewhere: Sequence["History"] = ()) -> list[Look]:
        """Looks that the plan has not foreseen: by another plan, or on other pairs where all were to come first.

        ``pairs`` are those of each comparison now. Looks of other studies at
        the same cells count, if they came first.
        """
        first = min((look.when for look in self.looks if look.plan == question.hash), default=now())
        looks = [*self.looks, *(look for of in elsewhere for look in of.looks_at(question) if look.when < first)]
        return [look for look in looks if look.plan != question.hash or (not question.design and look.pairs != pairs)]

    def looks_at(self, question: Question) -> list[Look]:
        """Looks at two arms or more that a question compares too, by whatever names."""
        cells = {row.cell for row in question.asked}
        shared = {of.hash for of in self.plans if len(cells & {row[3] for row in of.question["asked"]}) > 1}
        return [look for look in self.looks if look.plan in shared]


def now() -> str:
    """This moment, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
