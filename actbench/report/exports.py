"""Tables and figures of a study for a paper."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from actbench import plots
from actbench.plots import Figure, files, rendered
from actbench.plots.cost import mean, median_cost
from actbench.plots.figure import known_scores, of_panel, panels
from actbench.records import write_whole
from actbench.report.tables import latex, markdown, tables
from actbench.stats import Interval
from actbench.verdict import VERDICT, Finding, Ratio, Secondary, Told

FOLDER = "exports"
Format = Literal["md", "tex", "csv", "json", "png", "svg"]
FORMATS: tuple[Format, ...] = get_args(Format)


def write_exports(told: Told, folder: Path, format: Format) -> list[Path]:
    """Write a study's tables or figures into ``exports/`` in its folder; returns the files.

    Markdown and LaTeX (with booktabs) have a file for each table, in the units
    of the page. CSV has the comparisons, the arms and all replicates, with full
    precision, as fractions, seconds and MiB. JSON is ``verdict.json``. PNG and
    SVG have a file for each figure.

    Args:
        told: What the study's records say.
        folder: The study's.
        format: What is written.

    Raises:
        ValueError: There is no such format.
    """
    if format not in FORMATS:
        raise ValueError(f"{format!r} is no format; there are {', '.join(FORMATS)}")
    paths = []
    for name, content in contents(told, folder, format):
        paths.append(folder / FOLDER / f"{name}.{format}")
        write_whole(paths[-1], content)
    return paths


def contents(told: Told, folder: Path, format: Format) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files."""
    if format in ("md", "tex"):
        text = markdown if format == "md" else latex
        yield from ((table.name, text(table).encode()) for table in tables(told))
    elif format == "csv":
        yield from ((name, table.write_csv().encode()) for name, table in sheets(told).items() if len(table))
    elif format == "json":
        yield Path(VERDICT).stem, (folder / VERDICT).read_bytes()
    else:
        yield from ((name, rendered(of, format)) for name, of in files(all_figures(told)).items())  # type: ignore[arg-type]


def all_figures(told: Told) -> list[Figure]:
    """Every figure of a study, those that have something to show."""
    measured = plots.forest_figures(told) + plots.pair_figures(told) + plots.curve_figures(told)
    return measured + plots.cost_figures(told) + plots.tuning_figures(told) + plots.shape_figures(told)


def sheets(told: Told) -> dict[str, pl.DataFrame]:
    """Comparisons, arms and replicates, a row each; what is not known is null."""
    rows = {"comparisons": [comparison(of) for of in told.conclusion.findings], "arms": list(arms(told))}
    found = {name: pl.DataFrame(of, infer_schema_length=None) for name, of in rows.items()}
    flat = [name for name, kind in told.table.schema.items() if not isinstance(kind, pl.List)]
    return {**found, "replicates": told.table.select(flat)}


def comparison(finding: Finding) -> dict[str, Any]:
    """One comparison, arm minus baseline; differences of fractions, losses in nats."""
    of, costs, between = finding.judgement, finding.cost, finding.comparison
    others = {secondary.outcome: secondary for secondary in finding.secondary}
    return {
        **between._asdict(),
        "verdict": of.verdict,
        "inside_margin": of.inside_margin,
        "pairs": of.pairs,
        "unpaired": finding.unpaired,
        **spread("difference", of.difference),
        **{name: getattr(of, name) for name in ("p", "adjusted_p", "equivalence_p", "adjusted_equivalence_p")},
        **spread("probability_better", of.superiority),
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
    }


def arms(told: Told) -> Iterator[dict[str, Any]]:
    """Each arm on each dataset and network. A diverged replicate guesses in test accuracy and is in no other mean."""
    known = known_scores(told)
    tuned = {(of.dataset, of.network, of.arm): of.chosen for tuning in told.tunings for of in tuning.arms}
    for panel in panels(told):
        for arm in told.question.arms:
            own, scores = of_panel(told.table, panel, arm), list(known.get((*panel, arm), {}).values())
            if scores:
                named = {"dataset": panel.dataset, "network": panel.network, "arm": arm}
                chosen = {told.tunings[0].setting: tuned.get((*panel, arm))} if told.tunings else {}
                yield {**named, **chosen, **measured(own, scores, told.question.alpha)}


def measured(own: pl.DataFrame, scores: Sequence[float], alpha: float) -> dict[str, Any]:
    """What the replicates of an arm have in the mean."""
    whole = own.filter(~pl.col("diverged"))
    time, memory = median_cost(own, "epoch_time_s"), median_cost(own, "peak_memory_mb")
    return {
        "seeds": len(own),
        **spread("test_accuracy", mean(np.array(scores), alpha)),
        "test_accuracy_sd": float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        "test_accuracy_min": min(scores),
        "test_accuracy_max": max(scores),
        **{name: whole[name].mean() for name in ("test_loss", "test_ece", "val_accuracy", "val_loss")},
        "diverged": int(own["diverged"].sum()),
        "epochs": own["epochs"].median(),
        "epoch_time_s": time[0] if time else None,
        "peak_memory_mb": memory[0] if memory else None,
        "busy": time[1] if time else None,
        "parameters": own["parameters"][0],
    }


def spread(name: str, interval: Interval | None) -> dict[str, float | None]:
    """An estimate and its bounds in columns of their own."""
    estimate, low, high = interval or (math.nan, math.nan, math.nan)
    return {name: finite(estimate), f"{name}_low": finite(low), f"{name}_high": finite(high)}


def tested(name: str, of: Secondary | Ratio | None) -> dict[str, float | None]:
    """What is beside accuracy: an estimate with its bounds, p, not corrected, and effect."""
    interval = of.ratio if isinstance(of, Ratio) else of.difference if of else None
    return {
        **spread(name, interval),
        f"{name}_p": of.p if of else None,
        f"{name}_effect": finite(of.effect) if of else None,
    }


def finite(value: float) -> float | None:
    """The number, or None where it is none."""
    return value if math.isfinite(value) else None
