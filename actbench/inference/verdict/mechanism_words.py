"""What the calls of activations say of failures to train, in plain words."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import polars as pl

from actbench.inference.verdict.mechanism import (
    DeadBeforeFailure,
    dead_before_failure,
    measured_arm,
    site_differences,
)
from actbench.inference.verdict.question import Panel, Question
from actbench.records import SITES, UNMEASURED

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def mechanism_values(marked: pl.DataFrame, question: Question) -> dict[str, Any] | None:
    """The mechanism as ``verdict.json`` holds it; None where it was not measured."""
    if marked[SITES].null_count() == len(marked):
        return None
    differences = [
        {**{name: value for name, value in row._asdict().items() if name != "comparison"}, **row.comparison._asdict()}
        for row in site_differences(marked, question)
    ]
    return {"sentences": [*mechanism_lines(marked, question)], "differences": differences}


def mechanism_lines(marked: pl.DataFrame, question: Question, *, name: Callable[[str], str] = str) -> Iterator[str]:
    """A sentence for each arm whose failures go with dead units, or of which no call was measured.

    ``name`` shortens the names of arms.
    """

    def named(arm: str, panel: Panel) -> str:
        return f"{name(arm)} on {panel.title}" if len(question.panels) > 1 else name(arm)

    for found in dead_before_failure(marked, question):
        yield dead_sentence(found, named(found.arm, found.panel))
    for panel, arm in product(question.panels, question.arms):
        measured = measured_arm(marked, panel, arm)
        if measured and not measured.sites:
            yield f"No call of {named(arm, panel)} could be measured: {UNMEASURED}."


def dead_sentence(found: DeadBeforeFailure, arm: str) -> str:
    """That dead units tell failed seeds from all others of an arm."""
    seeds = f"The failed seed of {arm} has" if found.failed == 1 else f"All {found.failed} failed seeds of {arm} have"
    when = f"after epoch {found.epoch}" if found.epoch else "before the first step"
    others = "the other seed has not" if found.trained == 1 else f"none of the {found.trained} others has"
    return f"{seeds} 100 % dead units {layer_words(found.layer)} ({found.site}) {when}; {others}."


def layer_words(layer: str) -> str:
    """Where a call is: ``behind the third convolution``."""
    kind, _, number = layer.rpartition(" ")
    if not number.isdecimal():
        return "before any layer with weights"
    name = f"the {ORDINALS[int(number) - 1]} {kind}" if 0 < int(number) <= len(ORDINALS) else layer
    return f"behind {name}"
