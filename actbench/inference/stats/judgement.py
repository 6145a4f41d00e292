"""Verdicts on a family of comparisons: better, worse, equivalent, or undecided."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from actbench.inference.stats.failures import Failed, level_shares, mcnemar, rate_difference
from actbench.inference.stats.paired import (
    Alternative,
    Interval,
    carrying_pairs,
    effect_size,
    equivalence,
    holm,
    mean_interval,
    sign_flip,
    superiority,
)
from actbench.inference.stats.power import pairs_needed
from actbench.inference.stats.sequential import Design, nominal_level, sequential_p

Verdict = Literal["better", "worse", "equivalent", "undecided"]
Family = Sequence[Float[np.ndarray, " _"]]


class FailureTest(NamedTuple):
    """How often the arm and its baseline failed to train, over the pairs of a comparison; better fails less often.

    ``arm_alone`` and ``baseline_alone`` count the pairs in which only one of the
    two failed, on which McNemar's exact test rests. The difference is that of the
    rates, arm minus baseline.
    """

    verdict: Verdict
    arm: int
    baseline: int
    arm_alone: int
    baseline_alone: int
    difference: Interval
    p: float
    adjusted_p: float


class DifferenceTest(NamedTuple):
    """Verdict on a part of the pairs, with its evidence; see `Judgement`."""

    verdict: Verdict
    inside_margin: bool
    pairs: int
    difference: Interval | None
    p: float
    adjusted_p: float
    equivalence_p: float
    adjusted_equivalence_p: float


class Judgement(NamedTuple):
    """Verdict on one arm and its baseline over all seeds, with its evidence.

    P-values are those of the sign-flip test and of two one-sided tests against
    the margin, over all looks of a sequential design. Adjusted, they hold for
    the whole family. ``pairs_needed`` is the total for 80 % power at the difference
    seen; None if no number of pairs suffices, or the difference has no spread.

    ``carried_by`` is that of `carrying_pairs`. Where no replicate failed,
    ``failures`` and ``trained`` are None, and ``share``, that of the level which the
    verdict has, is 1. A comparison is ``decided`` by its verdict or by its failures.
    """

    verdict: Verdict
    inside_margin: bool
    pairs: int
    difference: Interval | None
    p: float
    adjusted_p: float
    equivalence_p: float
    adjusted_equivalence_p: float
    superiority: Interval | None
    effect: float
    pairs_needed: int | None
    median: float | None
    carried_by: int | None
    share: float
    failures: FailureTest | None
    trained: DifferenceTest | None

    @property
    def neither_trains(self) -> bool:
        """Whether arm and baseline failed with every seed."""
        return self.failures is not None and min(self.failures.arm, self.failures.baseline) == self.pairs

    @property
    def decided(self) -> bool:
        """Whether the comparison has an answer, which ends it in a sequential design."""
        return self.verdict != "undecided" or (self.failures is not None and self.failures.verdict != "undecided")


def judge_family(
    family: Family,
    failures: Sequence[Failed] | None = None,
    *,
    alpha: float = 0.05,
    margin: float = 0.005,
    design: Design | None = None,
) -> list[Judgement]:
    """Verdicts on paired differences of higher-is-better scores, one vector in the order of seeds for each comparison.

    A comparison in which a replicate failed to train has three parts: all seeds,
    failures, and the pairs that trained; see `level_shares`. Over all parts of the
    whole family, the chance of any false ``better`` or ``worse`` is at most
    ``alpha``, and so is that of any false ``equivalent``, which needs a pair of
    which both trained. The tests of a difference and the pairs of one-sided tests
    are each corrected after Holm, with the shares as weights. With a design, this
    holds over all its looks. Intervals are of each comparison alone. Differences up
    to the margin do not matter.

    Args:
        family: Differences of each comparison.
        failures: Which replicates of each comparison failed, those of the arm and of its baseline; by default none.
        alpha: Chance of any false verdict.
        margin: The largest difference that does not matter.
        design: Looks at the study, if it has several.

    Raises:
        ValueError: Alpha or margin is out of range.
    """
    if not 0 < alpha < 1 or margin <= 0:
        raise ValueError(f"alpha must lie between 0 and 1 and margin above 0, got {alpha} and {margin}")
    number = len(family)
    failures = [np.zeros((len(values), 2), dtype=bool) for values in family] if failures is None else failures
    shares = [level_shares(failed, alpha=alpha, design=design) for failed in failures]
    # No margin belongs to failures: the pairs that trained have their share, too, where they are tested.
    whole = np.array([share.seeds if share.trained else 1.0 for share in shares])
    # All pairs of each comparison, then those that trained, where not all of them did.
    kept = [
        *(np.ones(len(values), dtype=bool) for values in family),
        *(np.logical_and(~failed.any(axis=1), failed.any()) for failed in failures),
    ]
    tests = [part_test(part, design) if part.any() else None for part in kept]
    twice = [*family, *family]
    p = [test(values) if test else 1.0 for test, values in zip(tests, twice, strict=True)]
    inside = [
        equivalence(values, margin=margin, test=test) if test and not failed.any(axis=1).all() else 1.0
        for test, values, failed in zip(tests, twice, [*failures, *failures], strict=True)
    ]
    failure_p = [failure_test(failed, design) for failed in failures]
    adjusted = holm([*p, *failure_p], [share[part] for part in (0, 2, 1) for share in shares])
    adjusted_inside = holm(inside, [*whole, *(1 - whole)])

    def part_evidence(index: int, level: float) -> DifferenceTest:
        values, counts = twice[index], int(kept[index].sum())
        verdict: Verdict = "equivalent" if adjusted_inside[index] <= alpha else "undecided"
        if adjusted[index] <= alpha:
            verdict = "better" if favours_arm(np.where(kept[index], values, 0.0), design) else "worse"
        return DifferenceTest(
            verdict=verdict,
            inside_margin=adjusted_inside[index] <= alpha,
            pairs=counts,
            difference=mean_interval(values[kept[index]], level=level) if counts > 1 else None,
            p=p[index],
            adjusted_p=adjusted[index],
            equivalence_p=inside[index],
            adjusted_equivalence_p=adjusted_inside[index],
        )

    def failure_evidence(index: int, level: float) -> FailureTest:
        failed, adjusted_p = failures[index], adjusted[2 * number + index]
        fewer = failure_difference(failed)
        alone = int(np.sum(fewer < 0)), int(np.sum(fewer > 0))
        verdict: Verdict = "undecided"
        if adjusted_p <= alpha:
            verdict = "better" if favours_arm(fewer, design) else "worse"
        return FailureTest(
            verdict=verdict,
            arm=int(failed[:, 0].sum()),
            baseline=int(failed[:, 1].sum()),
            arm_alone=alone[0],
            baseline_alone=alone[1],
            difference=rate_difference(*alone, len(failed), level=level),
            p=failure_p[index],
            adjusted_p=adjusted_p,
        )

    judgements = []
    for index, (values, failed) in enumerate(zip(family, failures, strict=True)):
        level = 1 - (nominal_level(design, len(values), alpha) if design else alpha)
        effect, share = effect_size(values), shares[index].seeds
        judgements.append(
            Judgement(
                **part_evidence(index, level)._asdict(),
                superiority=superiority(values) if len(values) else None,
                effect=effect,
                pairs_needed=pairs_needed(effect, alpha=alpha * share / number),
                median=float(np.median(values)) if len(values) else None,
                carried_by=carrying_pairs(values),
                share=share,
                failures=failure_evidence(index, level) if failed.any() else None,
                trained=part_evidence(number + index, level) if failed.any() else None,
            )
        )
    return judgements


def part_test(kept: Bool[np.ndarray, " pairs"], design: Design | None) -> Callable[..., float]:
    """The sign-flip test of the pairs that are kept, over all looks of a design."""

    def test(difference: Float[np.ndarray, " pairs"], alternative: Alternative = "two-sided") -> float:
        if design:  # looks count all pairs; flipping the sign of 0 changes nothing
            return sequential_p(np.where(kept, difference, 0.0), design, alternative=alternative)
        return sign_flip(difference[kept], alternative=alternative)

    return test


def failure_difference(failed: Failed) -> Float[np.ndarray, " pairs"]:
    """Failures of the baseline minus those of the arm, so that more is better."""
    difference: Float[np.ndarray, " pairs"] = failed[:, 1].astype(float) - failed[:, 0]
    return difference


def failure_test(failed: Failed, design: Design | None) -> float:
    """P-value for the rates of failure: McNemar's, which flips the signs of the pairs in which one arm failed."""
    if not failed.any():
        return 1.0
    difference = failure_difference(failed)
    if design:
        return sequential_p(difference, design)
    return mcnemar(int(np.sum(difference < 0)), int(np.sum(difference > 0)))


def stops(
    family: Family,
    design: Design,
    failures: Sequence[Failed] | None = None,
    *,
    alpha: float = 0.05,
    margin: float = 0.005,
) -> tuple[list[int], list[int]]:
    """Pairs of each comparison of a sequential design that count, and the comparisons that go on; see `judge_family`.

    The looks are repeated one by one on the pairs at hand, so that a recomputed
    study stops where it stopped before. A comparison stops when it is decided, or
    at the last look. A look takes place once all comparisons that go on have its
    pairs.
    """
    failures = [np.zeros((len(values), 2), dtype=bool) for values in family] if failures is None else failures
    pairs, running = [0] * len(family), list(range(len(family)))
    for look in design.looks:
        if not running or any(len(family[index]) < look for index in running):
            break
        for index in running:
            pairs[index] = look
        counted, failed = (
            [values[:count] for values, count in zip(values_of_arms, pairs, strict=True)]
            for values_of_arms in (family, failures)
        )
        judgements = judge_family(counted, failed, alpha=alpha, margin=margin, design=design)
        running = [index for index in running if not judgements[index].decided and look < design.most]
    return pairs, running


def favours_arm(difference: Float[np.ndarray, " pairs"], design: Design | None) -> bool:
    """Whether the mean was above 0 at the look where the test passed; it may have fallen since."""
    if design:
        above, below = (sequential_p(sign * difference, design, alternative="greater") for sign in (1, -1))
        if above != below:
            return above < below
    return bool(np.mean(difference) > 0)
