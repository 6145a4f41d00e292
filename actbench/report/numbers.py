"""All numbers of a study, computed in one place: tables, pages and files only select and format them."""

import math
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from actbench.inference.stats import Interval, mean_with_bounds
from actbench.inference.verdict import Ratio, Secondary, StudyResults
from actbench.report.figures.cost import median_cost
from actbench.report.figures.figure import known_scores, of_panel, panels

Row = dict[str, Any]


def comparison_rows(results: StudyResults) -> list[Row]:
    """A row for each comparison, arm minus baseline; a number that is not known is None.

    Accuracies and their differences are fractions, losses are in nats, and
    ``time_ratio`` and ``memory_ratio`` are the arm's cost by the baseline's,
    over so many ``fits``; ``busy`` says that the machine did other things
    meanwhile. ``x_low`` and ``x_high`` bound the interval of ``x``; ``x_p`` is
    not corrected, and ``x_effect`` is in standard deviations.
    """
    rows = []
    for finding in results.conclusion.findings:
        of, costs, between = finding.judgement, finding.cost, finding.comparison
        others = {secondary.outcome: secondary for secondary in finding.secondary}
        rows.append(
            {
                **between._asdict(),
                "verdict": of.verdict,
                "inside_margin": of.inside_margin,
                "pairs": of.pairs,
                "unpaired": finding.unpaired,
                **interval_columns("difference", of.difference),
                **{name: getattr(of, name) for name in ("p", "adjusted_p", "equivalence_p", "adjusted_equivalence_p")},
                **interval_columns("probability_better", of.superiority),
                "effect": finite(of.effect),
                "arm_test_accuracy": finite(finding.means[between.arm]),
                "baseline_test_accuracy": finite(finding.means[between.baseline]),
                "arm_diverged": finding.diverged[between.arm],
                "baseline_diverged": finding.diverged[between.baseline],
                "without_diverged": finding.without_diverged,
                **tested("test_loss_difference", others["test_loss"]),
                **tested("test_ece_difference", others["test_ece"]),
                **tested("time_ratio", costs.time if costs else None),
                **tested("memory_ratio", costs.memory if costs else None),
                "fits": costs.fits if costs else None,
                "busy": costs.busy if costs else None,
                "with_time": finding.joint,
                "more_pairs": finding.more_pairs,
                "test_loss_pairs": others["test_loss"].pairs,
                "test_ece_pairs": others["test_ece"].pairs,
            }
        )
    return rows


def arm_rows(results: StudyResults) -> list[Row]:
    """A row for each arm on a dataset and network that has records; a number that is not known is None.

    Accuracies are fractions, losses in nats, times in seconds and memory in
    MiB. A diverged replicate guesses in test accuracy, and is in no other mean.
    ``epochs`` is the median over those that have not diverged, if there are
    some. ``busy`` says that the machine did other things during every fit. The
    chosen value of a tuned setting has the setting's name.
    """
    known = known_scores(results)
    tuned = {(of.dataset, of.network, of.arm): of.chosen for tuning in results.tunings for of in tuning.arms}
    rows = []
    for panel in panels(results):
        for arm in results.question.arms:
            own, cell = of_panel(results.table, panel, arm), (*panel, arm)
            if len(own):
                chosen = {results.tunings[0].setting: tuned.get(cell)} if results.tunings else {}
                scores = np.array(list(known.get(cell, {}).values()))
                rows.append({**panel._asdict(), "arm": arm, **chosen, **measured(own, scores, results.question.alpha)})
    return rows


def measured(own: pl.DataFrame, scores: Float[np.ndarray, " seeds"], alpha: float) -> dict[str, Any]:
    """The numbers of an arm, as `arm_rows` names them."""
    whole = own.filter(~pl.col("diverged"))
    time, memory = median_cost(own, "epoch_time_s"), median_cost(own, "peak_memory_mb")
    return {
        "seeds": len(own),
        **interval_columns("test_accuracy", mean_with_bounds(scores, level=1 - alpha) if len(scores) else None),
        "test_accuracy_sd": float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        "test_accuracy_min": min(scores.tolist(), default=None),
        "test_accuracy_max": max(scores.tolist(), default=None),
        **{name: whole[name].mean() for name in ("test_loss", "test_ece", "val_accuracy", "val_loss")},
        "diverged": int(own["diverged"].sum()),
        "epochs": (whole if len(whole) else own)["epochs"].median(),
        "epoch_time_s": time[0] if time else None,
        "peak_memory_mb": memory[0] if memory else None,
        "busy": time[1] if time else None,
        "parameters": own["parameters"][0],
    }


def standing_rows(results: StudyResults) -> list[Row]:
    """A row for each arm over several datasets; the interquartile mean of its scores is a fraction."""
    return [
        {"network": of.network, "arm": of.arm}
        | interval_columns("interquartile_mean", of.interquartile_mean)
        | interval_columns("rank", of.rank)
        for of in results.conclusion.standings
    ]


def interval_columns(name: str, interval: Interval | None) -> dict[str, float | None]:
    """An estimate and its bounds in columns of their own."""
    values = interval or (math.nan, math.nan, math.nan)
    return {name + end: finite(value) for end, value in zip(("", "_low", "_high"), values, strict=True)}


def tested(name: str, of: Secondary | Ratio | None) -> dict[str, float | None]:
    """An estimate with its bounds, its p and its effect."""
    interval = of.ratio if isinstance(of, Ratio) else of.difference if of else None
    p, effect = (of.p, finite(of.effect)) if of else (None, None)
    return {**interval_columns(name, interval), f"{name}_p": p, f"{name}_effect": effect}


def finite(value: float) -> float | None:
    """The number, or None where it is none."""
    return value if math.isfinite(value) else None
