"""The parts of a verdict in plain words: failures to train, the pairs that trained, and what seems to contradict."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import polars as pl

from actbench.inference.stats import DifferenceTest, Interval, Judgement, Verdict
from actbench.inference.verdict.failures import LEVEL, guessing_level, passing_share, planned_replicates
from actbench.inference.verdict.phrases import count, level, p_value, percent, points
from actbench.inference.verdict.question import Comparison, Question

CONDITIONAL = "This part is conditional on training: it says nothing of seeds with which an arm fails."


class FailureRule(NamedTuple):
    """The rule by which replicates of a study failed to train, and how many did."""

    level: float
    replicates: int
    replicate_level: float
    failed: int
    sentence: str


def failure_rule(table: pl.DataFrame, question: Question) -> FailureRule:
    """The rule with its numbers; see `mark_failures`, which marked the records."""
    replicates, share = planned_replicates(question), guessing_level(question)
    sentence = (
        "A replicate failed to train if it diverged, or if its accuracy on val is not above that of guessing the most "
        f"frequent class: exact binomial test, at a level of {LEVEL:g} for all planned replicates together, "
        f"{share:.2g} for each of {replicates:,}"
    )
    sizes = table.select("val_rows", "val_guess").drop_nulls().sort("val_guess", "val_rows")
    if len(sizes):
        rows, guess = sizes.row(-1)
        needed = passing_share(rows, guess, share)
        sentence += f". Of {rows:,} rows, {percent(guess)} of them in that class, it needs {percent(needed)} correct"
    unknown = len(table) - len(sizes)
    if unknown:
        sentence += f". {count(unknown, 'record')} without the size of val were judged by the fewest rows that fit"
    return FailureRule(LEVEL, replicates, share, int(table["failed"].sum()), f"{sentence}.")


def failures_come_first(judgement: Judgement) -> bool:
    """Whether failures decide, no seed trained, or all seeds and those that trained disagree in sign or verdict."""
    failures, trained = judgement.failures, judgement.trained
    if failures is None or trained is None:
        return False
    if judgement.neither_trains or failures.verdict != "undecided" or trained.verdict != judgement.verdict:
        return True
    if judgement.difference is None or trained.difference is None:
        return False
    return judgement.difference.estimate * trained.difference.estimate < 0


def failure_sentence(
    comparison: Comparison,
    judgement: Judgement,
    question: Question,
    *,
    tests: bool = True,
    name: Callable[[str], str] = str,
) -> str:
    """How often the arms fail to train, and what holds where both train; with ``tests``, with their p-values.

    It has no full stop; ``name`` shortens the names of arms.
    """
    failures, trained = judgement.failures, judgement.trained
    assert failures is not None
    assert trained is not None
    arm, base = name(comparison.arm), name(comparison.baseline)
    if judgement.neither_trains:
        seeds = count(judgement.pairs, "seed")
        return f"neither {arm} nor {base} trains in any of {seeds}, so nothing is known of how they compare"
    sides = sorted([(failures.arm, arm), (failures.baseline, base)], key=lambda side: -side[0])
    (most, first), (least, second) = sides
    text = f"{first} fails to train in {most} of {count(judgement.pairs, 'seed')}, {second} in {least or 'none'}"
    if tests:
        rates = failures.difference
        words = {"better": f"{arm} fails less often", "worse": f"{arm} fails more often"}
        text += (
            f" (rates differ by {points(rates.estimate)} points, {level(question)} interval {points(rates.low)} to "
            f"{points(rates.high)}, adjusted p {p_value(failures.adjusted_p)}): "
            f"{words.get(failures.verdict, 'it is undecided which fails more often')}"
        )
    if trained.difference is None:
        return f"{text}; both train with {count(trained.pairs, 'seed')}, too few to compare"
    low, high = trained.difference.low, trained.difference.high
    adjusted = trained.adjusted_equivalence_p if trained.verdict == "equivalent" else trained.adjusted_p
    evidence = f"{level(question)} interval {points(low)} to {points(high)}"
    evidence += f", adjusted p {p_value(adjusted)}" if tests else ""
    differ = f"{arm} differs by {points(trained.difference.estimate)} points ({evidence})"
    return f"{text}; where both train ({count(trained.pairs, 'seed')}), {differ}: {trained.verdict}"


def has_two_humps(judgement: Judgement) -> bool:
    """Whether differences lie in two groups, so that no pair need be near their mean.

    They do where only one of two replicates failed, and are taken to where few pairs carry a verdict.
    """
    failures = judgement.failures
    alone = failures is not None and failures.arm_alone + failures.baseline_alone > 0
    return alone or (judgement.verdict in ("better", "worse") and judgement.carried_by is not None)


def wins_most(judgement: Judgement) -> bool:
    """Whether the arm that was found better wins on more than half of all new seeds, by the whole interval."""
    chance = judgement.superiority
    if chance is None or judgement.verdict not in ("better", "worse"):
        return False
    return chance.low > 0.5 if judgement.verdict == "better" else chance.high < 0.5


def seeds_behind(judgement: Judgement) -> str | None:
    """From how many seeds a difference comes, where these are few."""
    if judgement.verdict not in ("better", "worse") or judgement.carried_by is None:
        return None
    return f"Nine tenths of the difference over all seeds come from {judgement.carried_by} of {judgement.pairs}."


def contradiction_sentences(judgement: Judgement, question: Question) -> Iterator[str]:
    """Why the interval, the p-value and the verdict of a part seem to contradict each other, a sentence each."""
    failures, trained = judgement.failures, judgement.trained

    def of_differences(test: Judgement | DifferenceTest) -> str | None:
        p, equivalence_p = (test.p, test.adjusted_p), (test.equivalence_p, test.adjusted_equivalence_p)
        return contradiction(test.difference, test.verdict, p, equivalence_p, question)

    if reason := of_differences(judgement):
        yield f"The {reason}"
    if failures:
        rates = failures.difference
        flipped = Interval(-rates.estimate, -rates.high, -rates.low)  # as the verdict, above 0 where the arm is better
        if reason := contradiction(flipped, failures.verdict, (failures.p, failures.adjusted_p), None, question):
            yield f"For failures, the {reason}"
    if trained and (reason := of_differences(trained)):
        yield f"Where both train, the {reason}"


def contradiction(
    interval: Interval | None,
    verdict: Verdict,
    p: tuple[float, float],
    equivalence_p: tuple[float, float] | None,
    question: Question,
) -> str | None:
    """Why an interval and a verdict do not agree, from the second word on; None if they do.

    P-values come before and after correction; a part without a margin has no p of equivalence.
    """
    if interval is None:
        return None
    _, low, high = interval
    margin = question.margin
    if verdict in ("better", "worse") and not (low > 0 if verdict == "better" else high < 0):
        if question.design:
            return (
                "interval is that of the last look; the verdict was reached at this look or an earlier one, and stays."
            )
        return (
            "interval holds 0, but takes differences for normal; the exact test, on which the verdict rests, does not."
        )
    if verdict == "equivalent" and not (-margin <= low and high <= margin):
        return (
            "interval reaches beyond the margin: the test of equivalence has the whole level at each end, it has half."
        )
    if verdict == "undecided" and (low > 0 or high < 0):
        return f"interval excludes 0, but {undecided_reason(p, question)}"
    if verdict == "undecided" and equivalence_p and -margin <= low and high <= margin:
        return f"interval lies inside the margin, but {undecided_reason(equivalence_p, question)}"
    return None


def undecided_reason(p: tuple[float, float], question: Question) -> str:
    """Why a test does not decide what an interval shows."""
    if p[0] > question.alpha:
        return f"takes differences for normal; the exact test does not, and has p {p_value(p[0])}."
    return (
        f"is of this comparison alone (p {p_value(p[0])}); the verdict is corrected for all parts of "
        f"{count(len(question.family), 'comparison')} (p {p_value(p[1])})."
    )
