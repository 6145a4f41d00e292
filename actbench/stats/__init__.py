"""Intervals, exact tests, corrections and verdicts. Pure functions of arrays; nothing here knows of networks."""

from actbench.stats.judgement import Judgement, Verdict, judge, stops
from actbench.stats.paired import (
    Interval,
    bootstrap,
    effect_size,
    equivalence,
    holm,
    mean_interval,
    mean_with_bounds,
    pareto,
    sign_flip,
    superiority,
)
from actbench.stats.power import detectable, noise_of_test_set, pairs_for_margin, pairs_needed, power
from actbench.stats.sequential import Design, boundaries, crosses, histories, nominal_level, sequential_p

__all__ = [
    "Design",
    "Interval",
    "Judgement",
    "Verdict",
    "bootstrap",
    "boundaries",
    "crosses",
    "detectable",
    "effect_size",
    "equivalence",
    "histories",
    "holm",
    "judge",
    "mean_interval",
    "mean_with_bounds",
    "noise_of_test_set",
    "nominal_level",
    "pairs_for_margin",
    "pairs_needed",
    "pareto",
    "power",
    "sequential_p",
    "sign_flip",
    "stops",
    "superiority",
]
