"""Judging one candidate of a series, whose ledger controls the error over all candidates ever judged."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actbench.inference.stats.online import Control
from actbench.judging.answer import Answer, Failures, Level
from actbench.judging.child import Child, EndedError, RefusedError, WrongInputError
from actbench.judging.ledger import Event, Ledger, open_ledger
from actbench.report.figures.figure import file_name

CHECKS_S = 60.0  # at least, for a candidate to be imported, and again for it to be examined
SLOWER = 5  # times as long as it took to read the study, on a machine that is slow or does much else
REHEARSAL_S = 600.0  # for one batch of it in the study's network
TAMPERED = "the ledger's file was changed while it ran, and is as it was before"


def judge(
    candidate: Any,
    study: Any = None,
    ledger: Path | str = "ledger.json",
    *,
    control: Control | None = None,
    limit_s: float | None = None,
) -> Answer:
    """Judge an activation against a study's baseline, as one candidate of a series; see `Ledger`.

    The candidate is examined first, in a process of its own. What was judged before,
    under this name or another, is answered from the ledger. Otherwise candidate and
    baseline are trained with seeds that nobody has seen, under the study's rules, at
    the level that the series leaves. A candidate that was interrupted goes on.

    Args:
        candidate: A name, a class path, a class path with arguments, or a class.
        study: The content of a study file, a `Study`, or command line words such as ``["--config", "study.yaml"]``.
            Of its arms, only the baseline is trained.
        ledger: The file of the series, which is begun if it does not exist. Studies lie in a folder beside it.
        control: For a new ledger: ``fwer``, the default, controls the chance of any false verdict of a difference in
            the series; ``fdr`` the share of false ones among those that are better. The study's alpha is the bound.
        limit_s: Most seconds of training for this candidate, after which it is undecided. To examine it may take 60 s
            before, or more on a slow machine, and one batch of it 600 s.

    Returns:
        The verdict with its evidence.

    Raises:
        WrongInputError: The study, the candidate's name or the limit makes no sense.
        RecordError: The ledger is damaged, its past was changed, or it is about another study.
        EndedError: The process that trained was killed from outside; the same call goes on.
        RuntimeError: Training failed for another reason; the same call tries again.
    """
    start_s = time.monotonic()
    if limit_s is not None and not (limit_s > 0 and math.isfinite(limit_s)):
        raise WrongInputError(f"limit_s is a number of seconds above 0, got {limit_s}")
    if isinstance(candidate, type):
        candidate = f"{candidate.__module__}.{candidate.__qualname__}"
    given = study.to_config() if hasattr(study, "to_config") else {} if study is None else study
    with Child(candidate, given) as child:
        facts = child.ask("start")
        checks_s = max(CHECKS_S, SLOWER * (time.monotonic() - start_s))
        book = open_ledger(
            Path(ledger), facts["study"], alpha=facts["alpha"], control=control, pairs=facts["replicates"]
        )
        identity = identify(child, checks_s)
        identity |= {"baseline": facts["baseline"], "start_s": start_s}
        book, event = examined(child, book, identity, facts, checks_s)
        if event["event"] == "refused":
            return refused_answer(book, event, identity)
        if event["event"] == "same":
            return equal_answer(book, event, identity)
        fresh = event["number"] not in book.verdicts
        if fresh:
            book = trained(child, book, event, limit_s, start_s)
        if event["number"] not in book.verdicts:
            text = f"{identity['candidate']} is undecided: the time of {limit_s:g} s is over; with more, it goes on"
            return open_answer(book, event, identity, text)
        return judged_answer(book, event, identity, fresh=fresh)


def identify(child: Child, checks_s: float) -> dict[str, Any]:
    """Who the candidate is; an error of its import, or an end of the process there, is the user's to mend."""
    try:
        facts: dict[str, Any] = child.ask("identify", checks_s)
    except EndedError as error:
        if error.killed:
            raise
        raise WrongInputError(f"candidate: while it was imported, {error}") from error
    return facts


def examined(
    child: Child, book: Ledger, identity: Mapping[str, Any], facts: Mapping[str, Any], checks_s: float
) -> tuple[Ledger, Event]:
    """Examine a candidate, and enter it in the ledger: refused, opened, or the same as an earlier one.

    That is done each time: a source may read files, and do something else than before.
    """
    entry = {name: identity[name] for name in ("candidate", "class_path", "source", "source_digest")}
    reason, found = None, dict[str, Any]()
    try:
        found = child.ask("examine", checks_s)
        if not found["is_baseline"] and book.known(entry["source_digest"], found["values"], found["start"]) is None:
            child.ask("rehearse", REHEARSAL_S)
    except EndedError as error:
        if error.killed:
            raise
        reason = f"while it was examined, {error}"
    except RefusedError as error:
        reason = str(error)
    with book.locked() as (now, intact):
        reason = reason if intact else TAMPERED
        if reason:
            known = now.refusal(entry["source_digest"], reason)
            now = now if known else now.with_event("refused", **entry, reason=reason).write()
            return now, known or now.events[-1]
        if found.pop("is_baseline"):
            return now, {"event": "same", **entry, **found, "same_as": f"the baseline {identity['baseline']}"}
        earlier = now.known(entry["source_digest"], found["values"], found["start"])
        if earlier is not None and (
            earlier["source_digest"] == entry["source_digest"] or earlier["number"] not in now.verdicts
        ):
            return now, earlier  # it goes on, even under another name
        if earlier is not None:
            return now, {"event": "same", **entry, **found, "twin": earlier["number"]}
        now.check_pairs(facts["replicates"])
        seed = now.start_seed(facts["replicates"], facts["seed"])
        now = now.with_event(
            "opened", number=len(now.opened) + 1, **entry, **found, level=now.next_level, seed=seed
        ).write()
        return now, now.events[-1]


def trained(child: Child, book: Ledger, event: Event, limit_s: float | None, start_s: float) -> Ledger:
    """Train a candidate that was opened, and enter its verdict, unless the time is over before."""
    name = f"{event['number']:04}_{file_name(event['candidate'])}"[:80]
    trouble, evidence = None, dict[str, Any]()
    try:
        evidence = child.ask(
            "train",
            limit_s,
            level=event["level"],
            seed=event["seed"],
            root=str(book.folder),
            name=name,
        )
        page = book.folder / name / "report.html"
        evidence["page"] = str(page.relative_to(book.path.parent))
    except EndedError as error:
        if error.killed:
            raise
        if error.late:
            return book
        trouble = f"while it was trained, {error}"
    except RefusedError as error:
        trouble = str(error)
    seconds = time.monotonic() - start_s
    with book.locked() as (now, intact):
        if not intact:
            trouble, evidence = TAMPERED, {}
        if event["number"] in now.verdicts:  # another process was quicker
            return now
        evidence = evidence or {"verdict": "undecided", "pairs": 0, "sentence": f"Undecided: {trouble}."}
        return now.with_event("judged", number=event["number"], **evidence, trouble=trouble, seconds=seconds).write()


# --- answers ---


def make_answer(book: Ledger, event: Event, identity: Mapping[str, Any], **values: Any) -> Answer:
    """An answer about a candidate, in which what is not given is not known."""
    defaults: dict[str, Any] = {
        "candidate": identity["candidate"],
        "baseline": identity["baseline"],
        "number": None,
        **dict.fromkeys(("difference", "low", "high", "confidence", "failures", "time_ratio", "same_as", "page")),
        "pairs": 0,
        "saved_bytes": event.get("saved_bytes"),
        "level": Level(book.control, book.alpha, 0.0, book.left),
        "judged_before": len(book.opened),
        "equals": event.get("equals", []),
        "notes": event.get("notes", []),
        "seconds": round(time.monotonic() - identity["start_s"], 2),
        "ledger": str(book.path),
    }
    return Answer(**{**defaults, **values})


def refused_answer(book: Ledger, event: Event, identity: Mapping[str, Any]) -> Answer:
    """The answer about a candidate that cannot be judged."""
    return make_answer(
        book,
        event,
        identity,
        verdict="refused",
        sentence=f"{identity['candidate']} cannot be judged: {event['reason']}",
    )


def equal_answer(book: Ledger, event: Event, identity: Mapping[str, Any]) -> Answer:
    """The answer about a candidate that is the baseline, or an earlier candidate, under another name."""
    if "twin" not in event:
        text = f"{identity['candidate']} is {event['same_as']}, so that nothing was trained"
        return make_answer(book, event, identity, verdict="equivalent", sentence=text, same_as=event["same_as"])
    twin = book.opened[event["twin"] - 1]
    return judged_answer(book, twin, identity)._replace(equals=event["equals"], saved_bytes=event["saved_bytes"])


def open_answer(book: Ledger, event: Event, identity: Mapping[str, Any], text: str) -> Answer:
    """The answer about a candidate that has its level, and no verdict yet."""
    return make_answer(
        book,
        event,
        identity,
        number=event["number"],
        verdict="undecided",
        sentence=text,
        level=Level(book.control, book.alpha, event["level"], book.left),
        judged_before=event["number"] - 1,
    )


def judged_answer(book: Ledger, event: Event, identity: Mapping[str, Any], *, fresh: bool = False) -> Answer:
    """The answer about a candidate that was judged, just now or before, under this name or another."""
    verdict, number = book.verdicts[event["number"]], event["number"]
    failures = verdict.get("failures")
    return make_answer(
        book,
        event,
        identity,
        number=number,
        **{name: verdict.get(name) for name in ("verdict", "sentence", "difference", "low", "high", "time_ratio")},
        confidence=1 - event["level"],
        pairs=verdict["pairs"],
        failures=failures and Failures(**failures),
        level=Level(book.control, book.alpha, event["level"], book.left),
        judged_before=number - 1,
        same_as=None if fresh else f"candidate {number} ({event['candidate']})",
        notes=[*event["notes"], *filter(None, [verdict.get("trouble")])],
        page=verdict.get("page") and str(book.path.parent / verdict["page"]),
    )


def as_json(answer: Answer) -> str:
    """An answer as one line of JSON."""
    return json.dumps(answer.to_dict(), ensure_ascii=False, allow_nan=False)
