"""Times until something happens, some of which were not observed to the end."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import special

from actbench.inference.stats.paired import Interval


class Reaching(NamedTuple):
    """Seeds that reached a target, with the median time that a seed takes.

    The median is infinite if fewer than half of the seeds have reached the target, as
    far as they were observed. Its upper bound is infinite if the data set none.
    """

    seeds: int
    reached: int
    median: Interval


def time_to_reach(
    time: Float[np.ndarray, " seeds"], reached: Bool[np.ndarray, " seeds"], *, level: float = 0.95
) -> Reaching:
    """Median time to a target by the Kaplan-Meier estimator.

    Args:
        time: Time at which a seed reached the target, or until which it was observed; infinite if it never will.
        reached: Whether it reached the target.
        level: Coverage of the interval, which is pointwise and holds for many seeds.

    Source:
        Kaplan & Meier (1958), Nonparametric estimation from incomplete
        observations, J. Am. Stat. Assoc. 53(282), 457-481; Brookmeyer & Crowley
        (1982), A confidence interval for the median survival time, Biometrics
        38(1), 29-41, with the complementary log-log transform.
    """
    times = np.unique(time[reached])
    at_risk = np.array([np.sum(time >= moment) for moment in times])
    events = np.array([np.sum(time[reached] == moment) for moment in times])
    share = np.cumprod(1 - events / at_risk)  # of seeds that have not reached it
    median = np.append(times[share <= 0.5 + 1e-12], np.inf)[0]
    inner = share > 0  # where Greenwood's variance is finite
    greenwood = np.cumsum(events[inner] / (at_risk[inner] * (at_risk[inner] - events[inner])))
    logs = np.log(share[inner])
    distance = (np.log(-logs) - np.log(np.log(2))) * logs / np.sqrt(greenwood)  # from one half, in standard errors
    compatible = np.flatnonzero(np.abs(distance) <= special.ndtri((1 + level) / 2))
    low = high = np.nan
    if len(compatible):
        low, high = times[compatible[0]], np.append(times, np.inf)[compatible[-1] + 1]
    return Reaching(len(time), int(reached.sum()), Interval(float(median), float(low), float(high)))
