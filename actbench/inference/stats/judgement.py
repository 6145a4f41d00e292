"""Verdicts on a family of comparisons: better, worse, equivalent, or undecided."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from actbench.inference.stats.paired import (
    Interval,
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


class Judgement(NamedTuple):
    """Verdict on one arm and its baseline, with its evidence.

    P-values are those of the sign-flip test and of two one-sided tests against
    the margin, over all looks of a sequential design. Adjusted, they hold for
    the whole family. ``pairs_needed`` is the total for 80 % power at the difference
    seen; None if no number of pairs suffices, or the difference has no spread.
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


def judge(
    family: Family, *, alpha: float = 0.05, margin: float = 0.005, design: Design | None = None
) -> list[Judgement]:
    """Verdicts on paired differences of higher-is-better scores, one vector in the order of seeds for each comparison.

    Over the whole family, the chance of any false ``better`` or ``worse`` is
    at most ``alpha``, and so is that of any false ``equivalent``. The sign-flip
    tests and the pairs of one-sided tests are each corrected after Holm. With a
    design, this holds over all its looks. Intervals are of each comparison alone.
    Differences up to the margin do not matter.

    Raises:
        ValueError: Alpha or margin is out of range.
    """
    if not 0 < alpha < 1 or margin <= 0:
        raise ValueError(f"alpha must lie between 0 and 1 and margin above 0, got {alpha} and {margin}")
    test: Callable[..., float] = partial(sequential_p, design=design) if design else sign_flip
    p = [test(values) if len(values) else 1.0 for values in family]
    inside = [equivalence(values, margin=margin, test=test) if len(values) else 1.0 for values in family]
    judgements = []
    rows = zip(family, p, holm(p), inside, holm(inside), strict=True)
    for values, p_value, adjusted_p, equivalence_p, adjusted_equivalence_p in rows:
        pairs, effect = len(values), effect_size(values)
        level = 1 - (nominal_level(design, pairs, alpha) if design else alpha)
        verdict: Verdict = "equivalent" if adjusted_equivalence_p <= alpha else "undecided"
        if adjusted_p <= alpha:
            verdict = "better" if favours_arm(values, design) else "worse"
        judgements.append(
            Judgement(
                verdict=verdict,
                inside_margin=adjusted_equivalence_p <= alpha,
                pairs=pairs,
                difference=mean_interval(values, level=level) if pairs > 1 else None,
                p=p_value,
                adjusted_p=adjusted_p,
                equivalence_p=equivalence_p,
                adjusted_equivalence_p=adjusted_equivalence_p,
                superiority=superiority(values) if pairs else None,
                effect=effect,
                pairs_needed=pairs_needed(effect, alpha=alpha / len(family)),
            )
        )
    return judgements


def stops(family: Family, design: Design, *, alpha: float = 0.05, margin: float = 0.005) -> tuple[list[int], list[int]]:
    """Pairs of each comparison of a sequential design that count, and the comparisons that go on; see `judge`.

    The looks are repeated one by one on the pairs at hand, so that a recomputed
    study stops where it stopped before. A comparison stops when it is decided, or
    at the last look. A look takes place once all comparisons that go on have its
    pairs.
    """
    pairs, running = [0] * len(family), list(range(len(family)))
    for look in design.looks:
        if not running or any(len(family[index]) < look for index in running):
            break
        for index in running:
            pairs[index] = look
        counted = [values[:count] for values, count in zip(family, pairs, strict=True)]
        judgements = judge(counted, alpha=alpha, margin=margin, design=design)
        running = [index for index in running if judgements[index].verdict == "undecided" and look < design.most]
    return pairs, running


def favours_arm(difference: Float[np.ndarray, " pairs"], design: Design | None) -> bool:
    """Whether the mean was above 0 at the look where the test passed; it may have fallen since."""
    if design:
        above, below = (sequential_p(sign * difference, design, alternative="greater") for sign in (1, -1))
        if above != below:
            return above < below
    return bool(np.mean(difference) > 0)
