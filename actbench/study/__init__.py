"""A study: activations compared on datasets and networks, seed by seed. What is finished is never done twice."""

from actbench.study.definition import QUESTION, Study, StudyError
from actbench.study.grid import Entry, arms, assign, entries, lookup, merged
from actbench.study.plan import (
    Plan,
    Wanted,
    blocks,
    check_data,
    collect,
    make_plan,
    question_of,
    test_images,
)
from actbench.study.run import compare, pilot, run_study
from actbench.study.training import MissingError, train

__all__ = [
    "QUESTION",
    "Entry",
    "MissingError",
    "Plan",
    "Study",
    "StudyError",
    "Wanted",
    "arms",
    "assign",
    "blocks",
    "check_data",
    "collect",
    "compare",
    "entries",
    "lookup",
    "make_plan",
    "merged",
    "pilot",
    "question_of",
    "run_study",
    "test_images",
    "train",
]
