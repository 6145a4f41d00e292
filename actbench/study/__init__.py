"""A study: activations compared on datasets and networks, seed by seed. What is finished is never done twice."""

from actbench.study.definition import FLAGS, Study, StudyError, study_parser
from actbench.study.grid import Entry, arms, entries
from actbench.study.plan import Wanted, collect, make_plan, question_of, test_images
from actbench.study.rehearsal import rehearse
from actbench.study.run import compare, pilot, run_study
from actbench.study.training import MissingError, train

__all__ = [
    "FLAGS",
    "Entry",
    "MissingError",
    "Study",
    "StudyError",
    "Wanted",
    "arms",
    "collect",
    "compare",
    "entries",
    "make_plan",
    "pilot",
    "question_of",
    "rehearse",
    "run_study",
    "study_parser",
    "test_images",
    "train",
]
