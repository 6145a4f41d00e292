"""Where the noise is: how much each source of randomness makes up of the variance of scores, and of differences."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import count as count_from
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from actbench.inference.stats import REST, Components, Interval, pairs_needed, smallest_p, variance_components
from actbench.inference.verdict.evidence import by_cell, scores
from actbench.inference.verdict.failures import failures_by_cell
from actbench.inference.verdict.findings import OUTCOME
from actbench.inference.verdict.phrases import count, level, listed, points
from actbench.inference.verdict.question import Question

MOST_PAIRS = 1_000_000  # that a plan counts
DECIMALS = 12  # of a difference: equal ones may differ in rounding
NOISE_CLAIM = (
    "Components are those of a random-effects analysis of variance. Interactions of sources, and what cannot be "
    "repeated, are in the rest. Intervals suppose normal effects, stand outside the correction, and are wide, because "
    "each source has few seeds. Estimates below 0 are shown as 0, so that shares may add up to more than 100 %, and "
    "the rest may exceed the total."
)


class PairsToSpend(NamedTuple):
    """Pairs with which a difference of the margin is seen with 80 % power, None beyond `MOST_PAIRS`.

    ``fewest`` and ``most`` follow from the interval of the variance.
    """

    estimate: int | None
    fewest: int | None
    most: int | None


class NoiseSources(NamedTuple):
    """Components of variance of an arm's test accuracy, or of its difference to the baseline, over crossed seeds.

    ``baseline`` is None for an arm by itself. ``failed`` counts the replicates, or
    the pairs, in which a replicate failed to train. ``pairs`` is known for
    differences that are not all equal.
    """

    dataset: str
    network: str
    arm: str
    baseline: str | None
    seeds: int  # of each source
    failed: int
    components: Components
    pairs: PairsToSpend | None

    @property
    def sources(self) -> list[str]:
        """The crossed sources."""
        return [part for part in self.components.parts if part != REST]

    @property
    def dominant(self) -> str | None:
        """The part that makes up more than half of the variance with all of its interval; None if there is none."""
        parts = self.components.parts
        return next((name for name, part in parts.items() if part.share.low > 0.5), None)

    @property
    def largest(self) -> str | None:
        """The source of largest share, of those whose interval lies above 0; None if there is none."""
        shares = {source: self.components.parts[source].share for source in self.sources}
        sure = [source for source, share in shares.items() if share.low > 0]
        return max(sure, key=lambda source: shares[source].estimate, default=None)


class CrossedScores(NamedTuple):
    """Test accuracies of an arm's crossed replicates, which of them failed to train, and their levels by source."""

    accuracy: Float[np.ndarray, " replicates"]
    failed: Bool[np.ndarray, " replicates"]
    levels: Mapping[str, Int[np.ndarray, " replicates"]]
    seeds: range

    def has_design(self, other: "CrossedScores") -> bool:
        """Whether the replicates of another arm share their seeds in the same way."""
        levels = ({source: [*numbers] for source, numbers in each.levels.items()} for each in (self, other))
        return self.seeds == other.seeds and next(levels) == next(levels)


def noise_sources(table: pl.DataFrame, question: Question) -> list[NoiseSources]:
    """Components for each arm and each difference to the baseline of which all replicates of the design exist."""
    coverage, found = 1 - question.alpha, list[NoiseSources]()
    alpha = question.alpha / max(1, len(question.family))  # as a study plans; see `forecast_power`
    crossed = crossed_scores(table, question)
    for panel in question.panels:
        base = crossed.get((*panel, question.baseline))
        for arm in question.arms:
            scores = crossed.get((*panel, arm))
            if scores is None:
                continue
            seeds = max(1 + int(numbers.max()) for numbers in scores.levels.values())
            parts = variance_components(scores.accuracy, scores.levels, level=coverage)
            found.append(NoiseSources(*panel, arm, None, seeds, int(scores.failed.sum()), parts, None))
            if base is None or arm == question.baseline or not scores.has_design(base):
                continue
            difference = np.round(scores.accuracy - base.accuracy, DECIMALS)
            parts = variance_components(difference, scores.levels, level=coverage)
            failed = int((scores.failed | base.failed).sum())
            pairs = pairs_to_spend(parts.total, question.margin, alpha) if parts.total.estimate else None
            found.append(NoiseSources(*panel, arm, question.baseline, seeds, failed, parts, pairs))
    return found


def crossed_scores(table: pl.DataFrame, question: Question) -> dict[tuple[str, str, str], CrossedScores]:
    """Scores by dataset, network and arm, of those that are complete.

    The design stands in the factors of the records, which are part of their key.
    """
    accuracies, failures = scores(table, OUTCOME), failures_by_cell(table, question)
    designs = by_cell(table, pl.col("factors"))
    found = {}
    for cell, by_seed in designs.items():
        content: dict[str, Any] = json.loads(next(iter(by_seed.values())))
        if len({*by_seed.values()}) > 1 or not content.get("crossed"):  # of more than one state of code or data
            continue
        levels = {source: np.array(numbers) for source, numbers in content["crossed"]}
        first, replicates = content["first_seed"], len(next(iter(levels.values())))
        seeds = range(first, first + replicates)
        if all(seed in accuracies[cell] for seed in seeds):
            accuracy, failed = ([values[cell][seed] for seed in seeds] for values in (accuracies, failures))
            found[cell] = CrossedScores(np.array(accuracy), np.array(failed), levels, seeds)
    return found


def pairs_to_spend(variance: Interval, margin: float, alpha: float) -> PairsToSpend:
    """Pairs with which a difference of the margin is seen, for an interval of the variance of a difference."""
    least = next(pairs for pairs in count_from(1) if smallest_p(pairs) <= alpha)  # with which the exact test can decide
    needed = (pairs_needed(margin / math.sqrt(value), alpha=alpha, most=MOST_PAIRS) for value in variance)
    return PairsToSpend(*(pairs and max(pairs, least) for pairs in needed))


# --- words ---


def noise_sentences(noise: NoiseSources, question: Question) -> Iterator[str]:
    """Where the noise of a difference comes from, and what the next study should spend."""
    total = noise.components.total
    difference = f"the difference of {noise.arm} to {noise.baseline}"
    where = f"On {noise.dataset} with {noise.network}"
    if not total.estimate:
        yield f"{where}, {difference} is the same in all {noise.components.replicates} crossed pairs."
        return
    low, high = sd_points(total.low), sd_points(total.high)
    yield (
        f"{where}, {difference} has an sd of {sd_points(total.estimate)} points ({level(question)} interval {low} to "
        f"{high}, {noise.components.replicates} pairs that cross {noise.seeds} seeds each of {listed(noise.sources)}); "
        f"{dominance(noise)}."
    )
    if noise.failed:
        failed = "all" if noise.failed == noise.components.replicates else count(noise.failed, "pair")
        yield (
            f"In {failed} of them, a replicate failed to train, so that effects are not normal "
            "and the intervals may miss."
        )
    yield from spending(noise, question)


def sd_points(variance: float) -> str:
    """The standard deviation in points."""
    return points(math.sqrt(variance), sign=False)


def dominance(noise: NoiseSources) -> str:
    """Which part makes up most of the variance, if the intervals tell, and all shares."""
    shares = [f"{part_name(name)} {share_words(part.share)}" for name, part in noise.components.parts.items()]
    first = f"{part_name(noise.dominant)} dominates" if noise.dominant else "no part surely dominates"
    return f"{first}: {listed(shares)}"


def part_name(part: str) -> str:
    """A part in a sentence."""
    return "the rest" if part == REST else part


def share_words(share: Interval) -> str:
    """A share with its interval, in percent."""
    return f"{100 * share.estimate:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f})"


def spending(noise: NoiseSources, question: Question) -> Iterator[str]:
    """How many pairs the next study should spend, and what holding or sharing a source would do."""
    if noise.pairs is None or noise.failed == noise.components.replicates:  # guesses say nothing of training
        return
    numbers = [f"more than {MOST_PAIRS:,}" if pairs is None else f"{pairs:,}" for pairs in noise.pairs]
    margin = f"{points(question.margin, sign=False)} points"
    yield (
        f"The next study sees a difference of {margin} with 80 % power in {numbers[0]} pairs ({numbers[1]} to "
        f"{numbers[2]}), each with a new seed of every source."
    )
    source = noise.largest
    if source is None:
        yield "The interval of no source's share lies above 0, so none is worth more seeds than another."
        return
    part = noise.components.parts[source]
    errors = [sd_points(variance / noise.seeds) for variance in part.variance]
    falls = [f"{100 * (1 - math.sqrt(1 - share)):.0f}" for share in part.share]
    yield (
        f"New seeds matter most for {source}: if all pairs shared {noise.seeds} of them, a standard error of "
        f"{errors[0]} points ({errors[1]} to {errors[2]}) would remain, however many pairs there are. If all pairs "
        f"shared one, the sd of a difference would fall by {falls[0]} % ({falls[1]} to {falls[2]}), but the verdict "
        "would speak of that one alone."
    )


def noise_lines(noise: Sequence[NoiseSources], question: Question) -> list[str]:
    """All that is said of the noise of each difference, in a line each."""
    return [" ".join(noise_sentences(each, question)) for each in noise if each.baseline is not None]
