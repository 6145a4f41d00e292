"""Two studies side by side: what differs between them."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from actbench.inference.frames import arm_frame
from actbench.inference.verdict.findings import Finding
from actbench.inference.verdict.phrases import count, listed, points
from actbench.inference.verdict.question import Panel, Question
from actbench.inference.verdict.results import StudyResults
from actbench.records import blocks

Settings = Mapping[tuple[Any, ...], Mapping[str, Any]]  # values by name, of each dataset, network and arm

ABSENT = "nothing"
PLAN = ("baseline", "seed", "replicates", "comparisons", "alpha", "margin", "tune")
PROVENANCE = (
    *("device", "threads", "commit"),
    *("actbench_version", "torch_version", "lightning_version", "python_version"),
)


def study_changes(before: StudyResults, after: StudyResults) -> list[str]:
    """What changed from one study to another, a line each.

    Arms, datasets and networks; the plan; settings and seeds of the arms that
    both studies have; machine, versions and code; verdicts, with estimates and
    intervals in points of test accuracy; and mean test accuracies. Nothing is
    claimed of the significance of differences between means.
    """
    lines = [
        *plan_changes(before.question, after.question),
        *setting_changes("settings, ", settings_by_arm(before.table), settings_by_arm(after.table)),
        *setting_changes("", seeds_by_arm(before.table), seeds_by_arm(after.table)),
        *provenance_changes(before.table, after.table),
        *verdict_changes(before, after),
        *mean_changes(before, after),
    ]
    return lines or ["nothing changed"]


def plan_changes(before: Question, after: Question) -> Iterator[str]:
    """Arms, datasets and networks that were added or are gone, and the rest of the plan."""
    for kind in ("arms", "datasets", "networks"):
        old, new = getattr(before, kind), getattr(after, kind)
        for word, names, others in (("added", new, old), ("gone", old, new)):
            changed = [name for name in names if name not in others]
            if changed:
                yield f"{kind} {word}: {', '.join(changed)}"
    for name in PLAN:
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            yield f"plan, {name}: {one_line_value(new)}, was {one_line_value(old)}"


def setting_changes(prefix: str, before: Settings, after: Settings) -> Iterator[str]:
    """Values that changed, of every arm that both studies have; a change common to all of them takes one line."""
    shared = [cell for cell in after if cell in before]
    cells_by_change: dict[str, list[tuple[Any, ...]]] = {}
    for cell in shared:
        for name in sorted({*before[cell], *after[cell]}):
            old, new = (
                one_line_value(study[cell][name]) if name in study[cell] else ABSENT for study in (before, after)
            )
            if old != new:
                cells_by_change.setdefault(f"{prefix}{name}: {new}, was {old}", []).append(cell)
    for change, cells in cells_by_change.items():
        for arms in ["all arms"] if cells == shared else [arm_title(*cell) for cell in cells]:
            yield f"{arms}: {change}"


def settings_by_arm(table: pl.DataFrame) -> Settings:
    """All that determines the results of each arm, by dotted name; see `factor_values`."""
    rows = table.select("dataset_name", "network_name", "arm", "factors").unique(maintain_order=True)
    return {tuple(cell): factor_values(factors) for *cell, factors in rows.iter_rows()}


def factor_values(factors: str | None) -> dict[str, Any]:
    """A record's ``factors``, which are JSON, by dotted name as in a config: ``optimizer`` and ``optimizer.lr``."""
    return dict(nested_values(json.loads(factors))) if factors else {}


def nested_values(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings by dotted name; a class path has the name of its object."""
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, item in value.items():
        yield from nested_values(item, name if key in ("class_path", "init_args") else f"{name}.{key}".lstrip("."))


def seeds_by_arm(table: pl.DataFrame) -> Settings:
    """The seeds of each arm, in words."""
    cells = table.group_by("dataset_name", "network_name", "arm", maintain_order=True)
    return {cell: {"seeds": spans(records["seed"].sort().to_list())} for cell, records in cells}


def spans(seeds: list[int]) -> str:
    """Ascending numbers in words, consecutive ones as a span.

    Example:
        >>> spans([0, 1, 2, 7])
        '0 to 2 and 7'
    """
    runs = blocks(seeds, len(seeds))
    words = [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return listed(words, most=len(words))


def provenance_changes(before: pl.DataFrame, after: pl.DataFrame) -> Iterator[str]:
    """Changes of machine, versions and code."""
    for name in PROVENANCE:
        old, new = (sorted({str(value) for value in table[name].drop_nulls()}) for table in (before, after))
        if old != new:
            yield f"{name.replace('_', ' ')}: {', '.join(new) or ABSENT}, was {', '.join(old) or ABSENT}"


def verdict_changes(before: StudyResults, after: StudyResults) -> Iterator[str]:
    """Verdicts that changed, on comparisons that both studies make."""
    earlier = {finding.comparison: finding for finding in before.conclusion.findings}
    for new in after.conclusion.findings:
        comparison, old = new.comparison, earlier.get(new.comparison)
        if old and old.judgement.verdict != new.judgement.verdict:
            where = Panel(comparison.dataset or "all datasets", comparison.network).title
            verdicts = f"{verdict_with_evidence(new)}, was {verdict_with_evidence(old)}"
            yield f"{comparison.arm} against {comparison.baseline} on {where}: {verdicts}"


def verdict_with_evidence(finding: Finding) -> str:
    """A verdict with its difference, interval and number of pairs."""
    judgement, difference, evidence = finding.judgement, finding.judgement.difference, ""
    if difference:
        interval = f"{points(difference.low)} to {points(difference.high)}"
        evidence = f"{points(difference.estimate)} points, {interval}, "
    return f"{judgement.verdict} ({evidence}{count(judgement.pairs, 'pair')})"


def mean_changes(before: StudyResults, after: StudyResults) -> Iterator[str]:
    """Mean test accuracies that changed, of arms that both studies have; a diverged replicate guesses."""
    key = ["dataset", "network", "arm"]
    means = [arm_frame(study).select(*key, "seeds", percent=100 * pl.col("test_accuracy")) for study in (after, before)]
    joined = means[0].join(means[1], on=key, maintain_order="left").drop_nulls()
    for *cell, seeds, new, seeds_before, old in joined.iter_rows():
        digits = 2 if f"{old:.2f}" != f"{new:.2f}" else 6
        if f"{old:.6f}" != f"{new:.6f}":
            was = f"was {old:.{digits}f} % of {count(seeds_before, 'seed')}"
            yield f"{arm_title(*cell)}: mean test accuracy {new:.{digits}f} % of {count(seeds, 'seed')}, {was}"


def arm_title(dataset: str, network: str, arm: str) -> str:
    """An arm on a dataset and network, in words."""
    return f"{arm} on {dataset} with {network}"


def one_line_value(value: Any) -> str:
    """A plain value in one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
