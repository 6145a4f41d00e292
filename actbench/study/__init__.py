"""A study: activations compared on datasets and networks, seed by seed. What is finished is never done twice."""

from actbench.study.definition import QUESTION, Study, StudyError
from actbench.study.grid import arms, assign, entries, lookup
from actbench.study.pairs import pairs
from actbench.study.plan import Plan, blocks, check_data, collect, make_plan
from actbench.study.run import MissingError, compare, train

__all__ = [
    "QUESTION",
    "MissingError",
    "Plan",
    "Study",
    "StudyError",
    "arms",
    "assign",
    "blocks",
    "check_data",
    "collect",
    "compare",
    "entries",
    "lookup",
    "make_plan",
    "pairs",
    "train",
]
