"""The self-test: false alarms and power of the code that reaches verdicts, on a study's own scores."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats as distributions

from actbench.inference.stats import Design, Failed, Interval, detectable, judge_family, smallest_p

POWER = 0.8  # with which the planted difference would be seen


class Certificate(NamedTuple):
    """Results of a self-test with the baseline's seeds on a dataset and network.

    ``repeated`` replicates of the baseline were trained again, of which ``equal``
    had the same scores bit for bit. Over ``splits`` random splits of the seeds
    into two arms of ``pairs``, ``false_alarms`` is the share with a verdict better
    or worse in any part. ``power_seen`` is that share with a difference ``planted`` that a t
    test would see with ``power_planned``.
    """

    dataset: str
    network: str
    repeated: int
    equal: int
    splits: int
    pairs: int
    alpha: float
    false_alarms: Interval
    planted: float
    power_planned: float
    power_seen: Interval

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Certificate":
        """The certificate that `plain` wrote."""
        intervals = {
            name: Interval(*(math.nan if end is None else end for end in map(values[name].get, Interval._fields)))
            for name in ("false_alarms", "power_seen")
        }
        numbers: dict[str, Any] = {name: math.nan if value is None else value for name, value in values.items()}
        return cls(**{**numbers, **intervals})

    @property
    def can_fail(self) -> bool:
        """Whether an exact test of ``pairs`` can reach alpha at all."""
        return smallest_p(self.pairs) <= self.alpha

    @property
    def passed(self) -> bool:
        """Whether training again gave the same, and false alarms, which could occur, are not above alpha."""
        return self.repeated == self.equal and self.false_alarms.low <= self.alpha and self.can_fail


class SplitTest(NamedTuple):
    """Part of a `Certificate`: results of random splits of one arm's seeds into two."""

    splits: int
    pairs: int
    false_alarms: Interval
    planted: float
    power_seen: Interval


def simulate_splits(
    scores: Float[np.ndarray, " seeds"],
    failed: Bool[np.ndarray, " seeds"] | None = None,
    *,
    alpha: float,
    margin: float,
    design: Design | None,
    splits: int = 2_000,
) -> SplitTest:
    """False alarms and power of `judge_family`, in any part, on the scores of one arm, where the truth is known.

    The seeds are split at random into two arms, so that there is no difference.
    Then a difference is planted in one of them. A design's last look is at half of
    the seeds. ``failed`` says which failed to train.

    Raises:
        ValueError: There are fewer than four seeds.
    """
    pairs = len(scores) // 2
    if pairs < 2:
        raise ValueError(
            f"a self-test splits the baseline's seeds into two arms, so it needs at least 4, got {len(scores)}"
        )
    halved = design and Design(max(2, min(design.least, pairs)), pairs, design.batch)
    rng = np.random.default_rng(0)
    # Two scores of one arm differ by sqrt(2) standard deviations of a score.
    planted = detectable(pairs, alpha=alpha, goal=POWER) * float(np.sqrt(2) * np.std(scores, ddof=1))

    def different(difference: Float[np.ndarray, " pairs"], lost: Failed) -> bool:
        (judgement,) = judge_family([difference], [lost], alpha=alpha, margin=margin, design=halved)
        parts = (judgement, judgement.failures, judgement.trained)
        return any(part is not None and part.verdict in ("better", "worse") for part in parts)

    failed = np.zeros(len(scores), dtype=bool) if failed is None else failed
    false = seen = 0
    for _ in range(splits):
        order = rng.permutation(len(scores))[: 2 * pairs].reshape(2, pairs)
        (arm, baseline), lost = scores[order], failed[order].T
        false += different(arm - baseline, lost)
        seen += different(arm - baseline + planted, lost)
    return SplitTest(splits, pairs, proportion_interval(false, splits), planted, proportion_interval(seen, splits))


def proportion_interval(hits: int, trials: int, *, level: float = 0.95) -> Interval:
    """Share of hits with its exact interval.

    Source:
        Clopper & Pearson (1934), The use of confidence or fiducial limits
        illustrated in the case of the binomial, Biometrika 26(4), 404-413.
    """
    bounds = distributions.binomtest(hits, trials).proportion_ci(level)
    return Interval(hits / trials, float(bounds.low), float(bounds.high))
