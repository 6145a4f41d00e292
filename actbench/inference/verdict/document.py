"""``verdict.json``: all that is said of a study, for machines. ``schema.json`` beside this file describes it."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from actbench import __version__
from actbench.inference.verdict.certificate import Certificate
from actbench.inference.verdict.findings import OUTCOME, Conclusion, Finding
from actbench.inference.verdict.history import History
from actbench.inference.verdict.question import Question
from actbench.inference.verdict.tuning import Tuning
from actbench.inference.verdict.words import certificate_sentence, level_sentence, sentence, tuning_sentences
from actbench.records import write_whole

FORMAT = 1


class StudyResults(NamedTuple):
    """What the records of a study say. Printed, they are the verdicts in words; in a notebook, with a figure."""

    table: pl.DataFrame
    question: Question
    conclusion: Conclusion
    tunings: Sequence[Tuning]
    certificates: Sequence[Certificate]
    faults: Sequence[str]  # of the pairing
    sentences: Sequence[str]
    command: str | None  # what was typed to run it
    troubles: Sequence[str]  # what was interrupted, failed or tried again

    def __str__(self) -> str:
        return "\n".join(self.sentences)

    def _repr_html_(self) -> str:
        from actbench.report.notebook import as_html  # the one import against the order of the rooms

        return as_html(self)


def write_document(path: Path, results: StudyResults, history: History) -> None:
    """Write all that is said of a study into a file in its folder, whole or not at all; what is not known is null."""
    question, conclusion = results.question, results.conclusion
    content = {
        "format": FORMAT,
        "actbench_version": __version__,
        "study": path.parent.resolve().name,
        "outcome": OUTCOME,
        "question": question.to_dict(),
        "plan": {"hash": question.hash, "first_hash": history.plans[0].hash, "as_planned": conclusion.as_planned},
        "pairs_verified": not results.faults,
        "pairing_faults": results.faults,
        "level_holds": not conclusion.other_looks,
        "level_sentence": level_sentence(conclusion),
        "comparisons": [comparison(finding, question) for finding in conclusion.findings],
        "standings": conclusion.standings,
        "tuning": [
            {**of._asdict(), "depends": of.depends, "sentences": list(tuning_sentences(of))} for of in results.tunings
        ],
        "certificates": [
            {**of._asdict(), "passed": of.passed, "sentence": certificate_sentence(of)} for of in results.certificates
        ],
        "looks": [vars(look) for look in history.looks],
    }
    write_whole(path, (json.dumps(plain(content), indent=1, ensure_ascii=False) + "\n").encode())


def comparison(finding: Finding, question: Question) -> dict[str, Any]:
    """One comparison, flat where it can be."""
    values = finding._asdict()
    names = values.pop("comparison")._asdict() | values.pop("judgement")._asdict()
    return {**names, **values, "sentence": sentence(finding, question)}


def plain(value: Any) -> Any:
    """As JSON holds it: named tuples as objects, NaN and infinities as null, keys as text."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {f"{key:g}" if isinstance(key, float) else str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
