"""Verdicts of one study under several conditions."""

import polars as pl
import pytest
from made_records import question, rows

from actbench.inference.verdict import History, conclude
from actbench.inference.verdict.conditions import by_condition, condition_sentences
from actbench.inference.verdict.question import Question

BASE = [0.80, 0.81, 0.79, 0.80, 0.82, 0.78, 0.80, 0.81]
NETWORKS = ("MLP", "MLP, init gain", "MLP, init data")


def better(base, by):
    """Scores that are higher by a little more than a number, or a little less."""
    return [score + by + 0.002 * (-1) ** index for index, score in enumerate(base)]


def concluded(shifts):
    """The conclusion where swish is better than relu by a number in each network."""
    asked = question(networks=NETWORKS[: len(shifts)], conditions=["init gain", "init data"][: len(shifts) - 1])
    made = [
        rows(arm, scores, network=network)
        for network, shift in zip(NETWORKS, shifts, strict=False)
        for arm, scores in (("relu", BASE), ("swish", better(BASE, shift)))
    ]
    return conclude(pl.concat(made), asked, History())


def test_a_winner_that_changes_is_told_with_the_conditions():
    (result,) = by_condition(concluded([0.05, 0.04, -0.05]))

    assert result.winners == {"": "swish", "init gain": "swish", "init data": "relu"}
    assert result.verdicts == {("swish", "relu"): {"": "better", "init gain": "better", "init data": "worse"}}
    assert condition_sentences(result) == [
        "On Digits with MLP, swish has the highest mean accuracy; the winner does not change under init gain, but "
        "changes under init data (relu).",
        "The verdict on swish against relu is better; it does not change under init gain, but changes under init data "
        "(worse).",
    ]


@pytest.mark.parametrize(
    ("shifts", "winner", "verdict"),
    [
        ([0.05, 0.05], "does not change under init gain", "does not change under init gain"),
        ([0.05, -0.05], "changes under init gain (relu)", "changes under init gain (worse)"),
        ([0.05, 0.0005], "does not change under init gain", "changes under init gain (equivalent)"),
    ],
)
def test_one_condition_is_told_by_itself(shifts, winner, verdict):
    (result,) = by_condition(concluded(shifts))

    first, second = condition_sentences(result)
    assert first == f"On Digits with MLP, swish has the highest mean accuracy; the winner {winner}."
    assert second == f"The verdict on swish against relu is better; it {verdict}."


def test_without_conditions_nothing_is_said_and_plans_keep_their_hash():
    assert by_condition(concluded([0.05])) == []
    plan = question()
    assert "conditions" not in plan.to_dict()
    assert question(conditions=["init gain"]).hash != plan.hash
    assert Question.from_dict(question(conditions=["init gain"]).to_dict()).conditions == ["init gain"]


def test_all_conditions_share_the_level():
    conclusion = concluded([0.05, 0.04, -0.05])

    # Holm's correction: the smallest of three p-values of 2/2**8 counts three times.
    assert [finding.judgement.p for finding in conclusion.findings] == [2 / 2**8] * 3
    assert min(finding.judgement.adjusted_p for finding in conclusion.findings) == pytest.approx(3 * 2 / 2**8)
