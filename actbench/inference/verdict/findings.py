"""From records to verdicts: what is said of every comparison of a study, and how sure it is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl

from actbench.inference.stats import (
    Interval,
    Judgement,
    Verdict,
    bootstrap,
    effect_size,
    judge,
    mean_interval,
    sign_flip,
    stops,
)
from actbench.inference.verdict.evidence import LOWER_IS_BETTER, Cost, Pairs, Scores, cost, paired, records_of, scores
from actbench.inference.verdict.history import History, Look, now
from actbench.inference.verdict.question import Comparison, Question

OUTCOME = "test_accuracy"
Joint = Literal["dominates", "trade-off", "dominated", "undecided"]
SAME_COST = 1.05  # fits whose times have no interval are told apart by more than this ratio


class Secondary(NamedTuple):
    """A lower-is-better score of the same pairs, outside the family: its p is not adjusted."""

    outcome: str
    pairs: int
    difference: Interval | None
    p: float
    effect: float


class Finding(NamedTuple):
    """What is said of one comparison.

    ``unpaired`` are seeds that one arm lacks; ``without_diverged`` is the
    verdict if pairs with a diverged replicate are left out, where that is
    another; ``more_pairs`` and ``more_minutes`` are what an undecided one needs
    for 80 % power at the difference seen, on this machine.
    """

    comparison: Comparison
    judgement: Judgement
    means: Mapping[str, float]
    unpaired: int
    diverged: Mapping[str, int]
    without_diverged: Verdict | None
    secondary: Sequence[Secondary]
    cost: Cost | None
    joint: Joint | None
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
    """All that a study's records say.

    ``other_looks`` are those that the plan has not foreseen; after one, the
    level no longer holds. ``running`` are comparisons that go on. ``as_planned``
    says that what was run is what was planned at first.
    """

    question: Question
    findings: Sequence[Finding]
    standings: Sequence[Standing]
    other_looks: Sequence[Look]
    look: Look
    running: Sequence[Comparison]
    as_planned: bool


def conclude(
    table: pl.DataFrame, question: Question, history: History, *, elsewhere: Sequence[History] = ()
) -> Conclusion:
    """Verdicts on a study's records, and all that belongs to them.

    ``table`` are records with the columns ``arm``, ``dataset_name`` and
    ``network_name``; the studies of the histories ``elsewhere`` may have looked
    at the same cells.
    """
    known = {outcome: scores(table, outcome) for outcome in (OUTCOME, *LOWER_IS_BETTER)}
    pairs, running = counted(known[OUTCOME], question)
    judgements = judge(
        [of.difference for of in pairs], alpha=question.alpha, margin=question.margin, design=question.design
    )
    findings = []
    for place, (comparison, judgement) in enumerate(zip(question.family, judgements, strict=True)):
        seeds, _, unpaired = pairs[place]
        own = records_of(table, comparison, question, seeds)
        lost = {arm: set(own.filter("diverged", arm=arm)["seed"]) for arm in (comparison.arm, comparison.baseline)}
        costs = cost(own, comparison, alpha=question.alpha)
        others = [secondary(known[outcome], outcome, comparison, seeds, question) for outcome in LOWER_IS_BETTER]
        findings.append(
            Finding(
                comparison=comparison,
                judgement=judgement,
                means=arm_means(known[OUTCOME], comparison, seeds, question),
                unpaired=len(unpaired),
                diverged={arm: len(of) for arm, of in lost.items()},
                without_diverged=without_diverged(set.union(*lost.values()), pairs, place, question),
                secondary=others,
                cost=costs,
                joint=joint(judgement, costs),
                **more(own, comparison, judgement, question),
            )
        )
    look = look_at(judgements, question)
    return Conclusion(
        question=question,
        findings=findings,
        standings=standings(known[OUTCOME], question),
        other_looks=history.others(question, look.pairs, elsewhere),
        look=look,
        running=running,
        as_planned=not history.plans or history.plans[0].hash == question.hash,
    )


def look_at(judgements: Sequence[Judgement], question: Question) -> Look:
    """The look at these judgements, one for each comparison of the question."""
    design, judged = question.design, dict[str, Judgement]()
    for of, judgement in zip(question.family, judgements, strict=True):
        judged[f"{of.dataset or 'all datasets'}/{of.network}: {of.arm} - {of.baseline}"] = judgement
    return Look(
        plan=question.hash,
        when=now(),
        pairs={name: of.pairs for name, of in judged.items()},
        verdicts={name: of.verdict for name, of in judged.items()},
        spent={name: question.alpha * (sum(design.spending(of.pairs)) if design else 1) for name, of in judged.items()},
    )


def counted(known: Scores, question: Question) -> tuple[list[Pairs], list[Comparison]]:
    """The pairs of each comparison that count, and the comparisons that go on.

    All pairs where the number of seeds is fixed; in a sequential design, those
    up to the look at which the comparison has stopped.
    """
    pairs = [paired(known, comparison, question) for comparison in question.family]
    if question.design is None:
        return pairs, []
    # A look needs all of its seeds: those from the first one missing on do not count.
    whole = [sum(seed == question.seed + place for place, seed in enumerate(of.seeds)) for of in pairs]
    differences = [of.difference[:number] for of, number in zip(pairs, whole, strict=True)]
    counts, running = stops(differences, question.design, alpha=question.alpha, margin=question.margin)
    return (
        [Pairs(of.seeds[:count], of.difference[:count], []) for of, count in zip(pairs, counts, strict=True)],
        [question.family[place] for place in running],
    )


def arm_means(known: Scores, comparison: Comparison, seeds: Sequence[int], question: Question) -> dict[str, float]:
    """Mean score of both arms over the seeds."""
    parts = question.parts(comparison)
    return {
        arm: float(np.mean([known[str(part.dataset), part.network, arm][seed] for part in parts for seed in seeds]))
        if seeds
        else math.nan
        for arm in (comparison.arm, comparison.baseline)
    }


def without_diverged(lost: set[int], pairs: Sequence[Pairs], place: int, question: Question) -> Verdict | None:
    """The verdict without the pairs of these diverged seeds, if there are some and the verdict changes."""
    if not lost:
        return None
    # What would be left of the pairs has no looks; the question is only what the verdict rests on.
    family = [of.difference for of in pairs]
    kept = [seed not in lost for seed in pairs[place].seeds]
    others = [*family[:place], family[place][kept], *family[place + 1 :]]
    verdicts = [judge(of, alpha=question.alpha, margin=question.margin)[place].verdict for of in (family, others)]
    return verdicts[1] if verdicts[0] != verdicts[1] else None


def secondary(
    known: Scores, outcome: str, comparison: Comparison, seeds: Sequence[int], question: Question
) -> Secondary:
    """The pairs of these seeds by another score."""
    pairs = paired(known, comparison, question)
    difference = pairs.difference[np.isin(pairs.seeds, seeds)]
    return Secondary(
        outcome=outcome,
        pairs=len(difference),
        difference=mean_interval(difference, level=1 - question.alpha) if len(difference) > 1 else None,
        p=sign_flip(difference) if len(difference) else 1.0,
        effect=effect_size(difference),
    )


def joint(judgement: Judgement, costs: Cost | None) -> Joint | None:
    """Accuracy and time together: undecided where the machine was busy, and None without times."""
    if costs is None:
        return None
    ratio, low, high = costs.time.ratio
    slower, faster = (low > 1, high < 1) if costs.fits > 1 else (ratio > SAME_COST, ratio < 1 / SAME_COST)
    quality = {"better": 1, "worse": -1, "equivalent": 0, "undecided": None}[judgement.verdict]
    if quality is None or costs.busy:
        return "undecided"
    speed = faster - slower
    if quality * speed < 0:
        return "trade-off"
    total = quality + speed
    return "dominates" if total > 0 else "dominated" if total < 0 else "undecided"


def more(own: pl.DataFrame, comparison: Comparison, judgement: Judgement, question: Question) -> dict[str, Any]:
    """How many more pairs an undecided comparison needs, and the minutes that they take by the time of its epochs."""
    if judgement.verdict != "undecided" or judgement.pairs_needed is None:
        return {"more_pairs": None, "more_minutes": None}
    count = max(1, judgement.pairs_needed - judgement.pairs)
    fits = [
        own.filter(dataset_name=part.dataset, arm=name)
        for part in question.parts(comparison)
        for name in (part.arm, part.baseline)
    ]
    seconds: list[Any] = [(of["epoch_time_s"] * of["epochs"]).median() for of in fits]
    minutes = None if None in seconds else count * sum(value / 60 for value in seconds)
    return {"more_pairs": count, "more_minutes": minutes}


def standings(known: Scores, question: Question) -> list[Standing]:
    """Each arm's scores over several datasets, on the seeds that all arms have on a dataset; none for one dataset."""
    if len(question.datasets) < 2:
        return []
    result = []
    for network in question.networks:
        tables = []
        for dataset in question.datasets:
            rows = [known.get((dataset, network, arm), {}) for arm in question.arms]
            seeds = sorted(set(rows[0]).intersection(*rows[1:]))
            tables.append(np.array([[row[seed] for seed in seeds] for row in rows]))
        if all(table.size for table in tables):
            for arm, middle, rank in zip(question.arms, *bootstrap(tables, level=1 - question.alpha), strict=True):
                result.append(Standing(network, arm, middle, rank))
    return result
