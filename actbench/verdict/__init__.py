"""Verdicts: from a study's records to what may be said of them. Nothing here trains, or needs torch."""

from actbench.verdict.certificate import POWER, Alarms, Certificate, alarms
from actbench.verdict.document import document, plain
from actbench.verdict.evidence import Cost, Pairs, Ratio, scores
from actbench.verdict.findings import OUTCOME, Conclusion, Finding, Secondary, conclude, counted
from actbench.verdict.folder import RECORDS, TUNING, VERDICT, Told, tell
from actbench.verdict.history import History, Look, Plan
from actbench.verdict.pairing import pairing_faults
from actbench.verdict.planning import Foreseen, foresee
from actbench.verdict.question import Asked, Comparison, Question
from actbench.verdict.schemas import schema
from actbench.verdict.tuning import EXTENSIONS, Tuned, Tuning, beyond, choose, summary
from actbench.verdict.words import certificate_sentence, p_value, points, sentence, sentences

__all__ = [
    "EXTENSIONS",
    "OUTCOME",
    "POWER",
    "RECORDS",
    "TUNING",
    "VERDICT",
    "Alarms",
    "Asked",
    "Certificate",
    "Comparison",
    "Conclusion",
    "Cost",
    "Finding",
    "Foreseen",
    "History",
    "Look",
    "Pairs",
    "Plan",
    "Question",
    "Ratio",
    "Secondary",
    "Told",
    "Tuned",
    "Tuning",
    "alarms",
    "beyond",
    "certificate_sentence",
    "choose",
    "conclude",
    "counted",
    "document",
    "foresee",
    "p_value",
    "pairing_faults",
    "plain",
    "points",
    "schema",
    "scores",
    "sentence",
    "sentences",
    "summary",
    "tell",
]
