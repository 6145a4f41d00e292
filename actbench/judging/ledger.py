"""The ledger: every candidate that was judged in one series, in a file whose past cannot change unnoticed.

The file holds what is compared and by which rule, and a list of events, of which
each holds the digest of the one before:

- ``refused``: a candidate that cannot be judged, and why. It spends no level.
- ``opened``: a candidate with its level and its seeds, before anything is trained.
- ``judged``: the verdict on a candidate that was opened, with its evidence.

A ledger is written whole or not at all, by one process at a time. A second copy
lies in the folder of its studies, for a candidate may damage the file and be
killed before anybody has put it back.
"""

import json
import math
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from jaxtyping import Float

from actbench.inference.stats.online import Control, next_level
from actbench.inference.stats.paired import smallest_p
from actbench.inference.verdict.history import utc_now
from actbench.judging.child import WrongInputError
from actbench.records import RecordError, fingerprint, replace_file

FORMAT = 1
LARGEST = 2**29  # bytes of a file
FIRST_SEED, LAST_SEED, BLOCK = 10**6, 10**9, 1024  # confirmations use seeds from here to here, in blocks
SAME = 1e-6  # largest difference of equal values, relative to 1 + |value|

Event = Mapping[str, Any]
Values = Float[np.ndarray, " values"]


@dataclass(frozen=True)
class Ledger:
    """A series of candidates, as its file holds it.

    Args:
        path: The file.
        control: What is controlled over the series; see `next_level`.
        alpha: The chance or rate.
        study: What candidates are compared with, on what, and by which rule.
        created: UTC, ISO 8601.
        events: Oldest first.
    """

    path: Path
    control: Control
    alpha: float
    study: Mapping[str, Any]
    created: str
    events: Sequence[Event] = ()

    @classmethod
    def read(cls, path: Path, *, copied: bool = False) -> "Ledger":
        """Read a ledger, or its second copy.

        Raises:
            RecordError: The file was not found, is damaged, or its past was changed; one line.
        """
        path = followed(path)
        file = copy_of(path) if copied else path
        if not file.exists():
            raise RecordError(f"{file} was not found")
        try:
            if not file.is_file() or file.stat().st_size > LARGEST:
                raise ValueError("it is not a file, or is larger than any ledger")
            content = json.loads(file.read_bytes())
            if content["format"] != FORMAT:
                raise ValueError(f"its format is {content['format']!r}, and this version reads {FORMAT}")
            ledger = cls(
                path, content["control"], content["alpha"], content["study"], content["created"], content["events"]
            )
            ledger.check()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise RecordError(f"{file} cannot be trusted: {reason}") from error
        return ledger

    def check(self) -> None:
        """Raise a ValueError if an event is not the one that was written, or one is missing."""
        digest, number, judged = self.head, 0, set[int]()
        for index, event in enumerate(self.events, start=1):
            written = {name: value for name, value in event.items() if name != "digest"}
            if event["previous"] != digest or event["digest"] != fingerprint(written):
                raise ValueError(f"its past was changed, in event {index} or before")
            digest = event["digest"]
            number += event["event"] == "opened"
            if event["event"] == "opened" and event["number"] != number:
                raise ValueError(f"event {index} has number {event['number']}, not {number}")
            if event["event"] == "judged" and not 0 < event["number"] <= number:
                raise ValueError(f"event {index} judges what was not opened")
            if event["event"] == "judged" and event["number"] in judged:
                raise ValueError(f"candidate {event['number']} was judged twice")
            judged |= {event["number"]} if event["event"] == "judged" else set()
        for study in self.folder.glob("[0-9][0-9][0-9][0-9]*_*/study.yaml"):
            named = study.parent.name.partition("_")[0]
            if named.isdecimal() and int(named) > number:
                raise ValueError(f"its end is missing, for it has {number} candidates, and there is {study}")

    @property
    def head(self) -> str:
        """Digest of what the ledger is about, on which the first event stands."""
        return fingerprint([FORMAT, self.control, self.alpha, self.study, self.created])

    @property
    def folder(self) -> Path:
        """Folder of the studies, beside the file."""
        return self.path.with_suffix("")

    @property
    def opened(self) -> list[Event]:
        """Candidates that were opened, in their order."""
        return [event for event in self.events if event["event"] == "opened"]

    @property
    def verdicts(self) -> dict[int, Event]:
        """Events of candidates that were judged, by number, in the order in which they were."""
        return {event["number"]: event for event in self.events if event["event"] == "judged"}

    @property
    def discoveries(self) -> list[int]:
        """For each candidate that is better, how many candidates had been opened when that became known."""
        opened, known = 0, list[int]()
        for event in self.events:
            opened += event["event"] == "opened"
            if event["event"] == "judged" and event["verdict"] == "better":
                known.append(opened)
        return known

    @property
    def next_level(self) -> float:
        """Level of the next candidate, rounded down to two digits."""
        level = next_level(self.control, alpha=self.alpha, started=len(self.opened), discoveries=self.discoveries)
        unit = 10.0 ** (math.floor(math.log10(level)) - 1)
        return float(f"{unit * math.floor(level / unit):.2g}")

    def check_pairs(self, most: int) -> None:
        """Raise a WrongInputError if not even so many pairs of one sign could show a difference at the next level."""
        level, least = self.next_level, smallest_p(most)
        if least > level:
            needed = next(pairs for pairs in count(most) if smallest_p(pairs) <= level)
            raise WrongInputError(
                f"study.replicates: {most} pairs cannot show a difference at level {level:g}, which candidate "
                f"{len(self.opened) + 1} of {self.path} has, for an exact test of them gives p >= {least:.2g}; "
                f"{needed} or more could, in a ledger of their own"
            )

    @property
    def left(self) -> float:
        """What is left of alpha; for ``fdr``, which earns and has no end, the level of the next candidate."""
        if self.control == "fdr":
            return self.next_level
        return float(f"{self.alpha - math.fsum(event['level'] for event in self.opened):.6g}")

    def known(self, digest: str, values: Sequence[float] | None, start: str) -> Event | None:
        """The candidate that was opened and has the same values: the last with the same source, or else the first.

        Where values are not known, the source and the start have to be the same.
        """
        if values is None:
            same = {"source_digest": digest, "values": None, "start": start}
            return next((event for event in reversed(self.opened) if same.items() <= event.items()), None)
        array = np.array(values)
        equal = [event for event in self.opened if event["values"] and same_values(array, np.array(event["values"]))]
        of_source = [event for event in equal if event["source_digest"] == digest]
        return next(iter(of_source[-1:] or equal[:1]), None)

    def refusal(self, digest: str, reason: str) -> Event | None:
        """The event of a candidate with the same source that was refused for the same reason."""
        same = {"event": "refused", "source_digest": digest, "reason": reason}
        return next((event for event in self.events if same.items() <= event.items()), None)

    def start_seed(self, replicates: int, avoid: int) -> int:
        """The first of so many seeds that no candidate has had, and that lie apart from a study's own.

        Nobody can know it before: it is drawn from the system's randomness.
        """
        room = BLOCK * -(-replicates // BLOCK)
        spent = {avoid, *(event["seed"] for event in self.opened)}
        while True:
            seed = FIRST_SEED // BLOCK * BLOCK + BLOCK * secrets.randbelow((LAST_SEED - FIRST_SEED - room) // BLOCK)
            if all(abs(seed - other) >= room for other in spent):
                return seed

    def with_event(self, event: str, **values: Any) -> "Ledger":
        """The ledger with one more event, not yet written."""
        previous = self.events[-1]["digest"] if self.events else self.head
        written = json.loads(json.dumps({"event": event, **values, "when": utc_now(), "previous": previous}))
        return replace(self, events=[*self.events, {**written, "digest": fingerprint(written)}])

    def write(self) -> "Ledger":
        """Write the ledger, and return it."""
        content = {"format": FORMAT, "control": self.control, "alpha": self.alpha, "created": self.created}
        lines = ",\n".join(map(json.dumps, self.events))
        head = json.dumps({**content, "study": self.study}, indent=1).removesuffix("\n}")
        text = f'{head},\n "events": [\n{lines}\n]\n}}\n'.encode()
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in (self.path, copy_of(self.path)):
            replace_file(path, text)
        return self

    def continues(self, other: "Ledger") -> bool:
        """Whether this is another ledger as it is now, or as it became."""
        return (self.head, list(self.events[: len(other.events)])) == (other.head, list(other.events))

    @contextmanager
    def locked(self) -> Iterator["tuple[Ledger, bool]"]:
        """The ledger as it is now, which no other process changes meanwhile, and whether it was as it should be.

        If the file is damaged, or does not continue what this process has read, it
        is written again as its second copy has it, or as it was read.
        """
        with FileLock(f"{self.path}.lock"):
            for copied in (False, True):
                with suppress(RecordError, OSError):
                    now = Ledger.read(self.path, copied=copied)
                    if now.continues(self):
                        break
            else:
                now, copied = self, True
            yield (now.write(), False) if copied else (now, True)


def open_ledger(path: Path, study: Mapping[str, Any], *, alpha: float, control: Control | None, pairs: int) -> Ledger:
    """Read a ledger, or begin one that can judge a candidate with at most so many pairs of replicates.

    Raises:
        WrongInputError: There are too few pairs.
        RecordError: The ledger cannot be trusted, cannot lie there, or is about something else; one line.
    """
    path = followed(path)
    if path.suffix != ".json":
        raise RecordError(f"a ledger is a file such as ledger.json, beside which studies and a page lie, not {path}")
    if path.with_suffix("").is_file():
        raise RecordError(f"{path.with_suffix('')} is a file, and has to be the folder of the studies of {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock").acquire()
    except OSError as error:
        raise RecordError(f"{path} cannot be written: {error.strerror}") from error
    with lock:
        if not path.exists() and not copy_of(path).exists():
            ledger = Ledger(path, control or "fwer", alpha, json.loads(json.dumps(study)), utc_now())
            try:
                ledger.check()
            except ValueError as error:
                raise RecordError(f"{path} cannot begin: {error}") from error
            ledger.check_pairs(pairs)
            return ledger.write()
        ledger = read_or_restore(path)
    for name, kept, given in (("alpha", ledger.alpha, alpha), ("control", ledger.control, control or ledger.control)):
        if kept != given:
            raise RecordError(f"{path} has {name} {kept}, which holds for its whole series, and not {given}")
    changed = [name for name, kept, given in differences(ledger.study, json.loads(json.dumps(study)))]
    if changed:
        raise RecordError(f"{path} is the ledger of another study, with another {', '.join(changed[:5])}")
    return ledger


def followed(path: Path) -> Path:
    """The ledger's file itself, for beside a link to it there are no studies, and a lock of its own."""
    return path.resolve() if path.is_symlink() else path


def copy_of(path: Path) -> Path:
    """The second copy of a ledger's file."""
    return path.with_suffix("") / "ledger.json"


def read_or_restore(path: Path) -> Ledger:
    """Read a ledger; a file that is gone or is no JSON, as after a damage, is written again from its copy.

    Raises:
        RecordError: The ledger cannot be trusted, or its copy has a longer past; one line.
    """
    path = followed(path)
    try:
        copied = Ledger.read(path, copied=True)
    except RecordError:
        return Ledger.read(path)
    if not is_readable(path):
        print(f"{path} was damaged, and is again as {copy_of(path)} has it", file=sys.stderr)
        return copied.write()
    try:
        ledger = Ledger.read(path)
    except RecordError as error:
        raise RecordError(f"{error}; {copy_of(path)} is as it was") from error
    if copied.continues(ledger) and not ledger.continues(copied):
        raise RecordError(f"{path} cannot be trusted: its end is missing, which {copy_of(path)} has")
    return ledger


def is_readable(path: Path) -> bool:
    """Whether a file can be read as JSON at all."""
    with suppress(OSError, ValueError, RecursionError):
        json.loads(path.read_bytes() if path.stat().st_size <= LARGEST else b"")
        return True
    return False


def differences(kept: Any, given: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted names of settings that differ, with both values."""
    if isinstance(kept, Mapping) and isinstance(given, Mapping):
        for name in [*kept, *(name for name in given if name not in kept)]:
            yield from differences(kept.get(name), given.get(name), f"{prefix}.{name}".lstrip("."))
    elif kept != given:
        yield prefix, kept, given


def same_values(values: Values, others: Values) -> bool:
    """Whether two activations have the same values on the grid, up to rounding."""
    return len(values) == len(others) and bool(np.all(np.abs(values - others) <= SAME * (1 + np.abs(others))))
