"""From records to verdicts: the finding on every comparison of a study, and how sure each is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from actbench.inference.stats import (
    Failed,
    Interval,
    Judgement,
    Verdict,
    bootstrap,
    effect_size,
    judge_family,
    mean_interval,
    sign_flip,
    stops,
)
from actbench.inference.verdict.evidence import LOWER_IS_BETTER, Cost, Pairs, Scores, paired, paired_cost, scores
from actbench.inference.verdict.failures import Failures, failed_pairs, failures_by_cell
from actbench.inference.verdict.history import History, Look, utc_now
from actbench.inference.verdict.price import Price, find_price
from actbench.inference.verdict.question import Comparison, Question
from actbench.inference.verdict.timing import Timings

OUTCOME = "test_accuracy"


class Secondary(NamedTuple):
    """A lower-is-better score of the same pairs, outside the family: its p is not adjusted."""

    outcome: str
    pairs: int
    difference: Interval | None
    p: float
    effect: float


class Finding(NamedTuple):
    """All results of one comparison.

    ``unpaired`` counts the seeds that one arm lacks. ``without_diverged`` is the
    verdict without the pairs that have a diverged replicate, where it changes.
    ``more_pairs`` and ``more_minutes`` are what an undecided comparison needs for
    80 % power at the difference seen, on this machine. ``price`` is None over several
    datasets, and before anything was measured.
    """

    comparison: Comparison
    judgement: Judgement
    means: Mapping[str, float]
    unpaired: int
    diverged: Mapping[str, int]
    without_diverged: Verdict | None
    secondary: Sequence[Secondary]
    cost: Cost | None
    price: Price | None
    more_pairs: int | None
    more_minutes: float | None


class Standing(NamedTuple):
    """An arm over all datasets: mean of the middle half of its scores, and mean rank, 1 the best."""

    network: str
    arm: str
    interquartile_mean: Interval
    rank: Interval


@dataclass(frozen=True)
class Conclusion:
    """All results of a study.

    ``other_looks`` are looks that the plan did not foresee; after one, the level
    no longer holds. ``running`` are the comparisons that go on. ``as_planned``
    says that the study which ran is the one first planned.
    """

    question: Question
    findings: Sequence[Finding]
    standings: Sequence[Standing]
    other_looks: Sequence[Look]
    look: Look
    running: Sequence[Comparison]
    as_planned: bool


def conclude(
    table: pl.DataFrame,
    question: Question,
    history: History,
    *,
    timings: Timings | None = None,
    elsewhere: Sequence[History] = (),
) -> Conclusion:
    """Verdicts on a study's records, with their evidence.

    Args:
        table: Records with the columns ``arm``, ``dataset_name`` and ``network_name``.
        question: The question of the study.
        history: Plans and looks of the study so far.
        timings: Those of the study; None before anything was measured.
        elsewhere: Histories of other studies, which may have looked at the same cells.
    """
    by_outcome = {outcome: scores(table, outcome) for outcome in (OUTCOME, *LOWER_IS_BETTER)}
    failures = failures_by_cell(table, question)
    pairs, running = counted_pairs(by_outcome[OUTCOME], failures, question)
    failed = [
        failed_pairs(failures, comparison, question, pair.seeds)
        for comparison, pair in zip(question.family, pairs, strict=True)
    ]
    judgements = judge_family(
        [pair.difference for pair in pairs],
        failed,
        alpha=question.alpha,
        margin=question.margin,
        design=question.design,
    )
    findings = []
    for index, (comparison, judgement) in enumerate(zip(question.family, judgements, strict=True)):
        seeds, _, unpaired = pairs[index]
        records = table.filter(
            pl.col("arm").is_in([comparison.arm, comparison.baseline]),
            pl.col("dataset_name").is_in([part.dataset for part in question.parts(comparison)]),
            pl.col("seed").is_in(seeds),
            network_name=comparison.network,
        )
        lost = {arm: set(records.filter("diverged", arm=arm)["seed"]) for arm in (comparison.arm, comparison.baseline)}
        findings.append(
            Finding(
                comparison=comparison,
                judgement=judgement,
                means=arm_means(by_outcome[OUTCOME], comparison, seeds, question),
                unpaired=len(unpaired),
                diverged={arm: len(lost_seeds) for arm, lost_seeds in lost.items()},
                without_diverged=without_diverged(set.union(*lost.values()), pairs, failed, index, question),
                secondary=[
                    compare_secondary(by_outcome[outcome], outcome, comparison, seeds, question)
                    for outcome in LOWER_IS_BETTER
                ],
                cost=paired_cost(records, comparison, alpha=question.alpha),
                price=find_price(table, comparison, seeds, question, timings) if timings else None,
                **pairs_and_minutes_needed(records, comparison, judgement, question),
            )
        )
    look = make_look(judgements, question)
    return Conclusion(
        question=question,
        findings=findings,
        standings=rank_arms(by_outcome[OUTCOME], question),
        other_looks=history.others(question, look.pairs, elsewhere),
        look=look,
        running=running,
        as_planned=not history.plans or history.plans[0].hash == question.hash,
    )


def make_look(judgements: Sequence[Judgement], question: Question) -> Look:
    """The look at these judgements, one for each comparison of the question."""
    named = {
        f"{comparison.dataset or 'all datasets'}/{comparison.network}: {comparison.arm} - {comparison.baseline}": judged
        for comparison, judged in zip(question.family, judgements, strict=True)
    }
    design = question.design
    return Look(
        plan=question.hash,
        when=utc_now(),
        pairs={name: judged.pairs for name, judged in named.items()},
        verdicts={name: judged.verdict for name, judged in named.items()},
        spent={
            name: question.alpha * (sum(design.spending(judged.pairs)) if design else 1)
            for name, judged in named.items()
        },
    )


def counted_pairs(scores: Scores, failures: Failures, question: Question) -> tuple[list[Pairs], list[Comparison]]:
    """The pairs of each comparison that count, and the comparisons that go on.

    All pairs count where the number of seeds is fixed. In a sequential design,
    those up to the look at which the comparison stopped do.
    """
    pairs = [paired(scores, comparison, question) for comparison in question.family]
    if question.design is None:
        return pairs, []
    # A look needs all of its seeds: those from the first missing one on do not count.
    whole = [sum(seed == question.seed + index for index, seed in enumerate(pair.seeds)) for pair in pairs]
    differences = [pair.difference[:count] for pair, count in zip(pairs, whole, strict=True)]
    failed = [
        failed_pairs(failures, comparison, question, pair.seeds[:count])
        for comparison, pair, count in zip(question.family, pairs, whole, strict=True)
    ]
    counts, running = stops(differences, question.design, failed, alpha=question.alpha, margin=question.margin)
    return (
        [Pairs(pair.seeds[:count], pair.difference[:count], []) for pair, count in zip(pairs, counts, strict=True)],
        [question.family[index] for index in running],
    )


def arm_means(scores: Scores, comparison: Comparison, seeds: Sequence[int], question: Question) -> dict[str, float]:
    """Mean score of both arms over the seeds; NaN without seeds."""
    means = {}
    for arm in (comparison.arm, comparison.baseline):
        cells = [(str(part.dataset), part.network, arm) for part in question.parts(comparison)]
        means[arm] = float(np.mean([scores[cell][seed] for cell in cells for seed in seeds])) if seeds else math.nan
    return means


def without_diverged(
    lost: set[int], pairs: Sequence[Pairs], failed: Sequence[Failed], index: int, question: Question
) -> Verdict | None:
    """The verdict on a comparison without the pairs of its lost seeds, if there are any and the verdict changes."""
    if not lost:
        return None
    # The pairs that remain have no looks; the question is only what the verdict rests on.
    family, reduced_failed = [pair.difference for pair in pairs], [*failed]
    kept = [seed not in lost for seed in pairs[index].seeds]
    reduced = [*family[:index], family[index][kept], *family[index + 1 :]]
    reduced_failed[index] = failed[index][kept]
    before, after = (
        judge_family(*parts, alpha=question.alpha, margin=question.margin)[index].verdict
        for parts in ((family, failed), (reduced, reduced_failed))
    )
    return after if before != after else None


def compare_secondary(
    scores: Scores, outcome: str, comparison: Comparison, seeds: Sequence[int], question: Question
) -> Secondary:
    """The pairs of these seeds by another score."""
    pairs = paired(scores, comparison, question)
    difference = pairs.difference[np.isin(pairs.seeds, seeds)]
    return Secondary(
        outcome=outcome,
        pairs=len(difference),
        difference=mean_interval(difference, level=1 - question.alpha) if len(difference) > 1 else None,
        p=sign_flip(difference) if len(difference) else 1.0,
        effect=effect_size(difference),
    )


def pairs_and_minutes_needed(
    records: pl.DataFrame, comparison: Comparison, judgement: Judgement, question: Question
) -> dict[str, Any]:
    """How many more pairs an undecided comparison needs, and the minutes that they take by the time of its epochs."""
    if judgement.verdict != "undecided" or judgement.pairs_needed is None:
        return {"more_pairs": None, "more_minutes": None}
    pairs = max(1, judgement.pairs_needed - judgement.pairs)
    fits = [
        records.filter(dataset_name=part.dataset, arm=name)
        for part in question.parts(comparison)
        for name in (part.arm, part.baseline)
    ]
    seconds: list[Any] = [(fit["epoch_time_s"] * fit["epochs"]).median() for fit in fits]
    minutes = None if None in seconds else pairs * sum(value / 60 for value in seconds)
    return {"more_pairs": pairs, "more_minutes": minutes}


def rank_arms(scores: Scores, question: Question) -> list[Standing]:
    """Standing of each arm over several datasets, on the seeds that all arms have on each; none for one dataset."""
    if len(question.datasets) < 2:
        return []
    standings = []
    for network in question.networks:
        tables = []
        for dataset in question.datasets:
            by_arm = [scores.get((dataset, network, arm), {}) for arm in question.arms]
            seeds = sorted(set(by_arm[0]).intersection(*by_arm[1:]))
            tables.append(np.array([[by_seed[seed] for seed in seeds] for by_seed in by_arm]))
        if all(table.size for table in tables):
            middles, ranks = bootstrap(tables, level=1 - question.alpha)
            standings += [Standing(network, *row) for row in zip(question.arms, middles, ranks, strict=True)]
    return standings
