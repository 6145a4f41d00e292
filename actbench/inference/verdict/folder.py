"""A study's folder: what its records say, told from the files alone."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from actbench.inference.verdict.certificate import Certificate
from actbench.inference.verdict.document import StudyResults, write_document
from actbench.inference.verdict.findings import conclude
from actbench.inference.verdict.history import FILE, History
from actbench.inference.verdict.pairing import pairing_faults, planning_faults
from actbench.inference.verdict.question import Question
from actbench.inference.verdict.tuning import summary
from actbench.inference.verdict.words import sentences
from actbench.records import COLUMNS, RecordError, read_records

RECORDS, TUNING, VERDICT = "records.parquet", "tuning.parquet", "verdict.json"


def load_results(folder: Path) -> StudyResults:
    """Work out the verdicts of a study from its folder, write ``verdict.json``, and note that they were looked at.

    Raises:
        RecordError: The folder holds no study, or a file is damaged; one line.
    """
    if not (folder / RECORDS).is_file():
        raise RecordError(f"{folder} is no folder of a study with records: it has no {RECORDS}")
    history = History.read(folder)
    if not history.plans:
        raise RecordError(f"{folder} has records, but no plan in history.json; `compare` writes it")
    table = read_records(folder / RECORDS)
    lacking = {"arm", "dataset_name", "network_name", *COLUMNS} - set(table.columns)
    if lacking:
        raise RecordError(f"{folder / RECORDS} lacks {', '.join(sorted(lacking))}; run its study again")
    question = Question.from_dict(history.plans[-1].question)
    conclusion = conclude(table, question, history, elsewhere=list(siblings(folder.resolve())))
    looked = history.looked(conclusion.look)
    tunings = []
    if question.tune and (folder / TUNING).is_file():
        ((setting, grid),) = ((name, values) for name, values in question.tune.items() if name != "replicates")
        tunings = summary(read_records(folder / TUNING), setting, grid, level=1 - question.alpha)
    certificates = [Certificate.from_dict(of) for of in history.certificates.get(question.hash, [])]
    faults = [*planning_faults(table, question), *pairing_faults(table, question.baseline)]
    if looked is not history:
        looked.write(folder)
    said = sentences(conclusion, tunings, certificates)
    results = StudyResults(
        table, question, conclusion, tunings, certificates, faults, said, history.command, history.troubles
    )
    write_document(folder / VERDICT, results, looked)
    return results


def siblings(folder: Path) -> Iterator[History]:
    """Histories of the studies that share their finished cells with this one."""
    if not (folder.parent / "cells").is_dir():
        return
    for path in sorted({path.resolve() for path in folder.parent.glob(f"*/{FILE}")}):
        if path.parent != folder:
            with suppress(RecordError):  # that study's own report will say so
                yield History.read(path.parent)
