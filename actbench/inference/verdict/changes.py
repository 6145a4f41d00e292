"""Two studies side by side: what differs between them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from actbench.inference.verdict.document import StudyResults
from actbench.inference.verdict.evidence import scores
from actbench.inference.verdict.findings import OUTCOME, Finding
from actbench.inference.verdict.question import Question
from actbench.inference.verdict.words import count, listed, points
from actbench.records import blocks

Cells = Mapping[tuple[Any, ...], Mapping[str, Any]]  # values by name, of each dataset, network and arm

ABSENT = "nothing"
PLAN = ("baseline", "seed", "replicates", "comparisons", "alpha", "margin", "tune")
PROVENANCE = (
    *("device", "threads", "commit"),
    *("actbench_version", "torch_version", "lightning_version", "python_version"),
)


def changes(before: StudyResults, after: StudyResults) -> list[str]:
    """What changed from one study to another, a line each.

    Arms, datasets and networks; the plan; settings and seeds of the arms that
    both studies have; machine, versions and code; verdicts, with estimates and
    intervals in points of test accuracy; and mean test accuracies. Differences
    of means are told as they are: nothing is claimed of their significance.
    """
    lines = [
        *planned(before.question, after.question),
        *by_cell("settings, ", settings_of(before.table), settings_of(after.table)),
        *by_cell("", seeds_of(before.table), seeds_of(after.table)),
        *made(before.table, after.table),
        *changed_verdicts(before, after),
        *changed_means(before.table, after.table),
    ]
    return lines or ["nothing changed"]


def planned(before: Question, after: Question) -> Iterator[str]:
    """Arms, datasets and networks that came in or are gone, and the rest of the plan."""
    for what in ("arms", "datasets", "networks"):
        old, new = getattr(before, what), getattr(after, what)
        for word, names, others in (("added", new, old), ("gone", old, new)):
            found = [name for name in names if name not in others]
            if found:
                yield f"{what} {word}: {', '.join(found)}"
    for name in PLAN:
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            yield f"plan, {name}: {shown(new)}, was {shown(old)}"


def by_cell(prefix: str, before: Cells, after: Cells) -> Iterator[str]:
    """Values that changed, of every arm that both studies have; a change that all of them share is told once."""
    shared = [cell for cell in after if cell in before]
    found: dict[str, list[tuple[Any, ...]]] = {}
    for cell in shared:
        for name in sorted({*before[cell], *after[cell]}):
            old, new = (shown(of[cell][name]) if name in of[cell] else ABSENT for of in (before, after))
            if old != new:
                found.setdefault(f"{prefix}{name}: {new}, was {old}", []).append(cell)
    for change, cells in found.items():
        for who in ["all arms"] if cells == shared else map(place, cells):
            yield f"{who}: {change}"


def settings_of(table: pl.DataFrame) -> Cells:
    """All that determines the results of each arm, by dotted name; see `factor_values`."""
    rows = table.select("dataset_name", "network_name", "arm", "factors").unique(maintain_order=True)
    return {tuple(cell): factor_values(factors) for *cell, factors in rows.iter_rows()}


def factor_values(factors: str | None) -> dict[str, Any]:
    """A record's ``factors``, which are JSON, by dotted name as in a config: ``optimizer`` and ``optimizer.lr``."""
    return dict(nested_values(json.loads(factors))) if factors else {}


def nested_values(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The values at the ends of nested mappings; a class path has the name of what it makes."""
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, item in value.items():
        yield from nested_values(item, name if key in ("class_path", "init_args") else f"{name}.{key}".lstrip("."))


def seeds_of(table: pl.DataFrame) -> Cells:
    """Which seeds each arm has, in few words."""
    cells = table.group_by("dataset_name", "network_name", "arm", maintain_order=True)
    return {cell: {"seeds": spans(own["seed"].sort().to_list())} for cell, own in cells}


def spans(seeds: list[int]) -> str:
    """Numbers in order, those that follow one another as a span.

    Example:
        >>> spans([0, 1, 2, 7])
        '0 to 2 and 7'
    """
    runs = blocks(seeds, len(seeds))
    words = [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return listed(words, most=len(words))


def made(before: pl.DataFrame, after: pl.DataFrame) -> Iterator[str]:
    """Machine, versions and code."""
    for name in PROVENANCE:
        old, new = (sorted({str(value) for value in of[name].drop_nulls()}) for of in (before, after))
        if old != new:
            yield f"{name.replace('_', ' ')}: {', '.join(new) or ABSENT}, was {', '.join(old) or ABSENT}"


def changed_verdicts(before: StudyResults, after: StudyResults) -> Iterator[str]:
    """Verdicts that changed, on comparisons that both studies make."""
    known = {finding.comparison: finding for finding in before.conclusion.findings}
    for new in after.conclusion.findings:
        of, old = new.comparison, known.get(new.comparison)
        if old and old.judgement.verdict != new.judgement.verdict:
            where = f"on {of.dataset or 'all datasets'} with {of.network}"
            was, now = verdict_with_evidence(old), verdict_with_evidence(new)
            yield f"{of.arm} against {of.baseline} {where}: {now}, was {was}"


def verdict_with_evidence(finding: Finding) -> str:
    """A verdict with its evidence."""
    of, difference, evidence = finding.judgement, finding.judgement.difference, ""
    if difference:
        interval = f"{points(difference.low)} to {points(difference.high)}"
        evidence = f"{points(difference.estimate)} points, {interval}, "
    return f"{of.verdict} ({evidence}{count(of.pairs, 'pair')})"


def changed_means(before: pl.DataFrame, after: pl.DataFrame) -> Iterator[str]:
    """Mean test accuracies that changed, of arms that both studies have; a diverged replicate guesses."""
    known = scores(before, OUTCOME)
    for cell, own in scores(after, OUTCOME).items():
        if cell in known:
            old, new = (100 * float(np.mean(list(of.values()))) for of in (known[cell], own))
            digits = 2 if f"{old:.2f}" != f"{new:.2f}" else 6
            if f"{old:.6f}" != f"{new:.6f}":
                seeds = f"{count(len(own), 'seed')}, was {old:.{digits}f} % of {count(len(known[cell]), 'seed')}"
                yield f"{place(cell)}: mean test accuracy {new:.{digits}f} % of {seeds}"


def place(cell: Sequence[str]) -> str:
    """An arm on a dataset and network, as people say it."""
    dataset, network, arm = cell
    return f"{arm} on {dataset} with {network}"


def shown(value: Any) -> str:
    """A value in one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
