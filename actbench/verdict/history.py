"""What cannot be worked out again from a study's records: what was planned, and when it was looked at."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from actbench.records import RecordError, write_whole
from actbench.verdict.question import Question

FILE = "history.json"


@dataclass(frozen=True)
class Plan:
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
    """Plans and looks of a study, oldest first, and what its last self-test measured, by the plan's hash."""

    plans: Sequence[Plan] = ()
    looks: Sequence[Look] = ()
    certificates: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "History":
        """The history of a study's folder; an empty one if there is none.

        Raises:
            RecordError: It is damaged.
        """
        path = folder / FILE
        if not path.exists():
            return cls()
        try:
            content = json.loads(path.read_text())
            plans = [Plan(**plan) for plan in content["plans"]]
            return cls(plans, [Look(**look) for look in content["looks"]], content["certificates"])
        except (ValueError, TypeError, KeyError) as error:
            raise RecordError(
                f"{path} is damaged, and with it the study's looks at its records; move it away, and say so "
                "when you report the study"
            ) from error

    def write(self, folder: Path) -> None:
        """Keep it, whole or not at all."""
        write_whole(folder / FILE, (json.dumps(asdict(self), indent=1) + os.linesep).encode())

    def planned(self, question: Question) -> "History":
        """With a plan more, if it is another one than the last."""
        if self.plans and self.plans[-1].hash == question.hash:
            return self
        return replace(self, plans=[*self.plans, Plan(question.hash, now(), question.to_dict())])

    def looked(self, look: Look) -> "History":
        """With a look more, if it is another one than the last."""
        last = self.looks[-1] if self.looks else None
        if last and (last.plan, last.pairs, last.verdicts) == (look.plan, look.pairs, look.verdicts):
            return self
        return replace(self, looks=[*self.looks, look])

    def others(self, question: Question, pairs: Mapping[str, int]) -> list[Look]:
        """Looks that the plan has not foreseen: by another plan, or on other pairs where all were to come first.

        A look at the same comparisons on so few pairs that none could be decided has spent nothing, and is none.
        """
        plans = {plan.hash: Question.from_dict(plan.question) for plan in self.plans}

        def foreseen(look: Look) -> bool:
            if look.plan == question.hash and (question.design or look.pairs == pairs):
                return True
            grown = look.plan in plans and replace(plans[look.plan], replicates=question.replicates) == question
            least_p = 0.5 ** max(look.pairs.values(), default=0)
            return grown and least_p > question.alpha / max(1, len(question.family))

        return [look for look in self.looks if not foreseen(look)]


def now() -> str:
    """This moment, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
