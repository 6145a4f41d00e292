"""``history.json``: what a study planned, and when its verdicts were looked at."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from actbench.inference.verdict.question import Question
from actbench.records import RecordError, replace_file

FILE = "history.json"
LARGEST = 2**25  # bytes of a file
LONGEST = 1000  # letters of a trouble, which may hold any error message


@dataclass(frozen=True)
class PlanRecord:
    """The plan of a study from some time on."""

    hash: str
    since: str  # UTC, ISO 8601
    question: Mapping[str, Any]


@dataclass(frozen=True)
class Look:
    """An occasion on which verdicts were shown: the plan, and for each comparison its pairs and its verdict."""

    plan: str
    when: str
    pairs: Mapping[str, int]
    verdicts: Mapping[str, str]
    spent: Mapping[str, float]  # share of alpha, over the looks so far


@dataclass(frozen=True)
class History:
    """Plans and looks of a study, oldest first.

    ``certificates`` holds the results of the last self-test by the plan's hash,
    ``command`` is the command line that last ran the study, and ``troubles`` says
    what was interrupted, failed or tried again, and when.
    """

    plans: Sequence[PlanRecord] = ()
    looks: Sequence[Look] = ()
    certificates: Mapping[str, Any] = field(default_factory=dict)
    command: str | None = None
    troubles: Sequence[str] = ()

    @classmethod
    def read(cls, folder: Path) -> "History":
        """Read the history in a study's folder; an empty one if the folder has none.

        Raises:
            RecordError: The file is damaged.
        """
        path = folder / FILE
        if not path.exists():
            return cls()
        if not path.is_file() or path.stat().st_size > LARGEST:  # a pipe, or a device without an end
            raise RecordError(f"{path} is not a file, or is larger than any history")
        try:
            content = json.loads(path.read_text())
            check_history(content)
            plans = [PlanRecord(**plan) for plan in content.pop("plans")]
            for plan in plans:
                if Question.from_dict(plan.question).hash != plan.hash:
                    raise ValueError(f"plan {plan.hash} does not match the question stored with it")
            looks = [Look(**look) for look in content.pop("looks")]
            return cls(plans, looks, **content)
        except (ValueError, RecursionError) as error:
            raise RecordError(
                f"{path} is damaged, and with it the study's looks at its records ({error}); move it away, "
                "and say so when you report the study"
            ) from error

    def write(self, folder: Path) -> None:
        """Write the history into a study's folder, whole or not at all."""
        replace_file(folder / FILE, (json.dumps(asdict(self), indent=1) + os.linesep).encode())

    def troubled(self, troubles: Sequence[str]) -> "History":
        """This history with what has just gone wrong."""
        shown = ("".join(letter if letter.isprintable() else " " for letter in trouble) for trouble in troubles)
        return replace(self, troubles=[*self.troubles, *(f"{utc_now()} {trouble[:LONGEST]}" for trouble in shown)])

    def planned(self, question: Question) -> "History":
        """This history with a plan, if that is not the last one already."""
        if self.plans and self.plans[-1].hash == question.hash:
            return self
        return replace(self, plans=[*self.plans, PlanRecord(question.hash, utc_now(), question.to_dict())])

    def looked(self, look: Look) -> "History":
        """This history with a look, unless it holds an equal one: recomputing the same verdicts is no new look."""
        if any((old.plan, old.pairs, old.verdicts) == (look.plan, look.pairs, look.verdicts) for old in self.looks):
            return self
        return replace(self, looks=[*self.looks, look])

    def others(self, question: Question, pairs: Mapping[str, int], elsewhere: Sequence["History"] = ()) -> list[Look]:
        """Looks that the plan did not foresee: under another plan, or before all pairs of a fixed number were in.

        ``pairs`` are those of each comparison now. Looks of other studies at
        the same cells count if they came first.
        """
        first = min((look.when for look in self.looks if look.plan == question.hash), default=utc_now())
        looks = [*self.looks, *(look for other in elsewhere for look in other.looks_at(question) if look.when < first)]
        return [look for look in looks if look.plan != question.hash or (not question.design and look.pairs != pairs)]

    def looks_at(self, question: Question) -> list[Look]:
        """Looks at two or more arms that a question compares too, whatever their names."""
        cells = {row.cell for row in question.asked}
        shared = {plan.hash for plan in self.plans if len(cells & {row[3] for row in plan.question["asked"]}) > 1}
        return [look for look in self.looks if look.plan in shared]


def utc_now() -> str:
    """The present time, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


@cache
def schema() -> dict[str, Any]:
    """The JSON schema of ``verdict.json``; its ``$defs`` hold that of ``history.json``."""
    content: dict[str, Any] = json.loads(files("actbench.inference.verdict").joinpath("schema.json").read_text())
    return content


def check_history(content: Any) -> None:
    """Refuse, with a ValueError that names the entry, content that does not follow the schema of a history."""
    from jsonschema import Draft202012Validator  # here: most users of this module never read a history

    validator = Draft202012Validator({"$ref": "#/$defs/history", "$defs": schema()["$defs"]})
    error = next(validator.iter_errors(content), None)
    if error:
        raise ValueError(f"{'.'.join(map(str, error.absolute_path)) or 'it'}: {error.message[:200]}")
