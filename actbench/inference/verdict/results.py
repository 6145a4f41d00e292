"""What a study's folder says: its verdicts, and ``verdict.json``, which ``schema.json`` beside this file describes."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from actbench import __version__
from actbench.inference.verdict.certificate import Certificate
from actbench.inference.verdict.conditions import by_condition, condition_sentences
from actbench.inference.verdict.failures import mark_failures
from actbench.inference.verdict.findings import OUTCOME, Conclusion, Finding, conclude
from actbench.inference.verdict.history import FILE, History
from actbench.inference.verdict.mechanism_words import mechanism_lines, mechanism_values
from actbench.inference.verdict.noise import NOISE_CLAIM, NoiseSources, noise_lines, noise_sentences, noise_sources
from actbench.inference.verdict.pairing import pairing_faults, planning_faults
from actbench.inference.verdict.part_words import failure_rule, failures_come_first
from actbench.inference.verdict.price import weigh
from actbench.inference.verdict.price_words import price_sentences
from actbench.inference.verdict.question import Question
from actbench.inference.verdict.timing import TIMING, Timings
from actbench.inference.verdict.tuning import Tuning, summarize_tuning
from actbench.inference.verdict.words import (
    certificate_sentence,
    level_sentence,
    sentence,
    sentences,
    tuning_sentences,
)
from actbench.records import COLUMNS, RecordError, read_records, replace_file

FORMAT = 2
WRITTEN_APART = ("comparison", "judgement", "price")  # parts of a finding
RECORDS, TUNING, VERDICT = "records.parquet", "tuning.parquet", "verdict.json"
VARIANCE = "variance.parquet"  # records of crossed seeds


class StudyResults(NamedTuple):
    """What the records of a study say. Shown, they are the verdicts in words; in a notebook, with a figure."""

    table: pl.DataFrame
    question: Question
    conclusion: Conclusion
    tunings: Sequence[Tuning]
    certificates: Sequence[Certificate]
    faults: Sequence[str]  # of the pairing
    sentences: Sequence[str]
    command: str | None  # that ran the study
    troubles: Sequence[str]  # what was interrupted, failed or tried again
    noise: Sequence[NoiseSources]  # of arms and differences, where seeds were crossed

    @property
    def marked(self) -> pl.DataFrame:
        """The records, with a column ``failed`` that says which replicates failed to train."""
        return mark_failures(self.table, self.question)

    def __repr__(self) -> str:
        return "\n".join(self.sentences)

    def _repr_html_(self) -> str:
        from actbench.report.notebook import as_html  # the one import against the order of the rooms

        return as_html(self)


def load_results(folder: Path) -> StudyResults:
    """Compute the verdicts of a study from its folder, write ``verdict.json``, and note the look in its history.

    Raises:
        RecordError: The folder holds no study, or a file is damaged; one line.
    """
    if not (folder / RECORDS).is_file():
        raise RecordError(f"{folder} is not the folder of a study with records: it has no {RECORDS}")
    history = History.read(folder)
    if not history.plans:
        raise RecordError(f"{folder} has records, but no plan in history.json; `compare` writes it")
    table = read_named_records(folder / RECORDS)
    question = Question.from_dict(history.plans[-1].question)
    conclusion = conclude(
        table,
        question,
        history,
        timings=Timings.read(folder) if (folder / TIMING).exists() else None,
        elsewhere=list(sibling_histories(folder.resolve())),
    )
    looked = history.looked(conclusion.look)
    tunings = []
    if question.tune and (folder / TUNING).is_file():
        ((setting, grid),) = ((name, values) for name, values in question.tune.items() if name != "replicates")
        tunings = summarize_tuning(read_records(folder / TUNING), setting, grid, level=1 - question.alpha)
    noise, crossed_faults = read_noise(folder / VARIANCE, question) if (folder / VARIANCE).is_file() else ([], [])
    certificates = [Certificate.from_dict(values) for values in history.certificates.get(question.hash, [])]
    if looked is not history:
        looked.write(folder)
    changed = [line for result in by_condition(conclusion) for line in condition_sentences(result)]
    results = StudyResults(
        table,
        question,
        conclusion,
        tunings,
        certificates,
        faults=[
            *planning_faults(table, question),
            *pairing_faults(table, question.baseline),
            *crossed_faults,
        ],
        sentences=[
            *sentences(conclusion, tunings, certificates),
            *changed,
            *noise_lines(noise, question),
            *mechanism_lines(mark_failures(table, question), question),
        ],
        command=history.command,
        troubles=history.troubles,
        noise=noise,
    )
    write_verdict(folder / VERDICT, results, looked)
    return results


def read_named_records(path: Path) -> pl.DataFrame:
    """The records in a file of a study's folder, with the study's names; a RecordError if it lacks a column."""
    table = read_records(path)
    lacking = {"arm", "dataset_name", "network_name", *COLUMNS} - set(table.columns)
    if lacking:
        raise RecordError(f"{path} lacks {', '.join(sorted(lacking))}; run its study again")
    return table


def read_noise(path: Path, question: Question) -> tuple[list[NoiseSources], list[str]]:
    """What the records of crossed seeds say, and faults of their pairing; a RecordError if they cannot be read."""
    table = read_named_records(path)
    try:
        noise = noise_sources(table, question)
    except (LookupError, TypeError, ValueError) as error:  # of factors in another form
        raise RecordError(f"{path}: not records of crossed seeds ({error}); run its study again") from error
    return noise, [f"crossed seeds, {fault}" for fault in pairing_faults(table, question.baseline)]


def sibling_histories(folder: Path) -> Iterator[History]:
    """Histories of the studies that share their finished cells with the study in a folder."""
    if not (folder.parent / "cells").is_dir():
        return
    for path in sorted({path.resolve() for path in folder.parent.glob(f"*/{FILE}")}):
        if path.parent != folder:
            with suppress(RecordError):  # that study's own report will say so
                yield History.read(path.parent)


def write_verdict(path: Path, results: StudyResults, history: History) -> None:
    """Write all results of a study into a file in its folder, whole or not at all; what is not known is null."""
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
        "failure_rule": failure_rule(results.marked, question),
        "comparisons": [
            {
                **finding.comparison._asdict(),
                **finding.judgement._asdict(),
                "failures_first": failures_come_first(finding.judgement),
                **{name: item for name, item in finding._asdict().items() if name not in WRITTEN_APART},
                "price": price_values(finding, question),
                "sentence": sentence(finding, question),
            }
            for finding in conclusion.findings
        ],
        "standings": conclusion.standings,
        "tuning": [
            {**tuning._asdict(), "depends": tuning.depends, "sentences": list(tuning_sentences(tuning))}
            for tuning in results.tunings
        ],
        "mechanism": mechanism_values(results.marked, question),
        "certificates": [
            {**certificate._asdict(), "passed": certificate.passed, "sentence": certificate_sentence(certificate)}
            for certificate in results.certificates
        ],
        "variance": [
            {
                **noise._asdict(),
                "sources": noise.sources,
                "dominant": noise.dominant,
                "sentences": [] if noise.baseline is None else list(noise_sentences(noise, question)),
            }
            for noise in results.noise
        ],
        "variance_claim": NOISE_CLAIM if results.noise else None,
        "looks": [vars(look) for look in history.looks],
    }
    replace_file(path, (json.dumps(to_json_values(content), indent=1, ensure_ascii=False) + "\n").encode())


def price_values(finding: Finding, question: Question) -> dict[str, Any] | None:
    """A comparison's price as ``verdict.json`` holds it."""
    price = finding.price
    return price and {
        **{name: value for name, value in price._asdict().items() if name != "silent"},  # of which a sentence tells
        "with_time": weigh(finding.judgement, price.timing),
        "sentences": list(price_sentences(price, finding.comparison, question)),
    }


def to_json_values(value: Any) -> Any:
    """A value as JSON holds it: named tuples as objects, NaN and infinities as null, keys as text."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {f"{key:g}" if isinstance(key, float) else str(key): to_json_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json_values(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
