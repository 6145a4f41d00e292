"""The harness tests itself: false alarms and power of the verdict's own code on a study's own scores."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats as distributions

from actbench.inference.stats import Design, Interval, detectable, judge

POWER = 0.8  # planned


class Certificate(NamedTuple):
    """What a self-test has measured on a dataset and network, with the baseline's seeds.

    ``repeated`` pairs of the baseline with itself were trained anew, of which
    ``equal`` have the same scores bit for bit. Over ``splits`` random splits of
    the seeds into two arms of ``pairs``, ``false_alarms`` is the share with a
    verdict better or worse; ``power_seen`` is that share with a planted
    difference that t theory would see with ``power_planned``.
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
        """The certificate that `plain` has written."""
        intervals = {
            name: Interval(*(math.nan if end is None else end for end in map(values[name].get, Interval._fields)))
            for name in ("false_alarms", "power_seen")
        }
        known: dict[str, Any] = {name: math.nan if value is None else value for name, value in values.items()}
        return cls(**{**known, **intervals})

    @property
    def can_fail(self) -> bool:
        """Whether an exact test of so many pairs can reach alpha at all."""
        return 2 * 0.5**self.pairs <= self.alpha

    @property
    def passed(self) -> bool:
        """Whether repeating gave the same, and alpha lies in or above the interval of false alarms that could be."""
        return self.repeated == self.equal and self.false_alarms.low <= self.alpha and self.can_fail


class Alarms(NamedTuple):
    """Of random splits of one arm's seeds into two."""

    splits: int
    pairs: int
    false_alarms: Interval
    planted: float
    power_seen: Interval


def alarms(
    scores: Float[np.ndarray, " seeds"],
    *,
    alpha: float,
    margin: float,
    design: Design | None,
    splits: int = 2_000,
) -> Alarms:
    """False alarms and power of `judge` where the truth is known, on the scores of one arm.

    The seeds are split at random into two arms, so that there is no difference;
    then a difference is planted in one arm. The last look of a design is at half
    of the seeds.

    Raises:
        ValueError: There are fewer than four seeds.
    """
    pairs = len(scores) // 2
    if pairs < 2:
        raise ValueError(
            f"a self-test splits the baseline's seeds in two arms, so it needs 4 at least, got {len(scores)}"
        )
    halved = design and Design(max(2, min(design.least, pairs)), pairs, design.batch)
    rng = np.random.default_rng(0)
    # Two scores of one arm differ by sqrt(2) standard deviations of a score.
    planted = detectable(pairs, alpha=alpha, goal=POWER) * float(np.sqrt(2) * np.std(scores, ddof=1))

    def different(difference: Float[np.ndarray, " pairs"]) -> bool:
        (judgement,) = judge([difference], alpha=alpha, margin=margin, design=halved)
        return judgement.verdict in ("better", "worse")

    false = seen = 0
    for _ in range(splits):
        one, other = rng.permutation(scores)[: 2 * pairs].reshape(2, pairs)
        false += different(one - other)
        seen += different(one - other + planted)
    return Alarms(splits, pairs, proportion_interval(false, splits), planted, proportion_interval(seen, splits))


def proportion_interval(hits: int, of: int, *, level: float = 0.95) -> Interval:
    """A share with its exact interval.

    Source:
        Clopper & Pearson (1934), The use of confidence or fiducial limits
        illustrated in the case of the binomial, Biometrika 26(4), 404-413.
    """
    bounds = distributions.binomtest(hits, of).proportion_ci(level)
    return Interval(hits / of, float(bounds.low), float(bounds.high))
