"""Where a study's numbers come from, and how to reproduce them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl
import yaml

from actbench.inference.verdict import StudyResults
from actbench.inference.verdict.changes import arm_title
from actbench.inference.verdict.phrases import count, duration, listed

FACTS = {  # columns of the records, with their names in words
    "device": "device",
    "threads": "threads of a fit",
    "engine": "engine",
    "engine_reason": "why this engine",
    "actbench_version": "actbench",
    "torch_version": "torch",
    "lightning_version": "pytorch-lightning",
    "python_version": "Python",
    "commit": "commit",
}
ABSENT = object()


def distinct_values(table: pl.DataFrame, column: str) -> str:
    """The distinct values of a column; several of them with their numbers of records."""
    if not len(table):
        return "–"
    values = table[column].fill_null("not known") if table.schema[column] == pl.String else table[column]
    counts = values.value_counts(sort=True).rows()
    if len(counts) == 1:
        return str(counts[0][0])
    return listed([f"{value} ({number})" for value, number in counts])


def provenance_facts(table: pl.DataFrame) -> list[tuple[str, str]]:
    """Versions, machine and code."""
    facts = [(name, distinct_values(table, column)) for column, name in FACTS.items()]
    return [*facts, *((f"activations of {network}", swap["text"]) for network, swap in swaps(table))]


def swaps(table: pl.DataFrame) -> list[tuple[str, dict[str, Any]]]:
    """What was swapped in each network that does not take the activation; see `actbench.networks.SwapCertificate`."""
    distinct = table.select("network_name", "swap").drop_nulls().unique(maintain_order=True)
    return [(network, json.loads(text)) for network, text in distinct.iter_rows()]


def hardware(table: pl.DataFrame) -> str:
    """The machine in few words."""
    if not len(table):
        return "not known yet"
    threads = distinct_values(table, "threads")
    return f"{distinct_values(table, 'device')}, {threads} thread{'' if threads == '1' else 's'}"


def time_taken(table: pl.DataFrame) -> str:
    """How long all training took, and when it started."""
    seconds: Any = (table["epoch_time_s"] * table["epochs"]).sum()
    if not seconds:
        return "not measured"
    fits = table.select("dataset_name", "network_name", "arm", "started").unique()
    start: Any = table["started"].min()
    when = "" if start is None else f", started {start[:16].replace('T', ' ')}{' UTC' if 'T' in start else ''}"
    return f"{duration(seconds / 60)} of training in {count(len(fits), 'fit')}{when}"


def diverged_seeds(table: pl.DataFrame) -> list[str]:
    """The replicates that diverged, a line for each arm."""
    cells = table.filter("diverged").sort("seed").group_by("dataset_name", "network_name", "arm", maintain_order=True)
    lines = []
    for cell, records in cells:
        epochs = records.select("seed", "diverged_epoch").iter_rows()
        seeds = [f"{seed} (epoch {'?' if epoch is None else epoch + 1})" for seed, epoch in epochs]
        lines.append(f"{arm_title(*cell)}: {count(len(records), 'seed')}: {listed(seeds, 12)}")
    return lines


def split_configs(results: StudyResults) -> tuple[str, dict[str, dict[str, str]]]:
    """Settings that the configs of all fits have in common, as YAML, and the others of each fit by dotted name."""
    configs: dict[str, Any] = {}
    for cell, records in results.table.group_by("dataset_name", "network_name", "arm", maintain_order=True):
        for number, text in enumerate(records["config"].drop_nulls().unique(maintain_order=True), start=1):
            configs[arm_title(*cell) + (f" ({number})" if number > 1 else "")] = json.loads(text)
    common = common_settings(list(configs.values())) if configs else {}
    text = yaml.safe_dump(common, sort_keys=False, allow_unicode=True, width=100) if common else ""
    return text, {name: dict(other_settings(config, common)) for name, config in configs.items()}


def common_settings(configs: Sequence[Any]) -> dict[str, Any]:
    """The part that several nested mappings have in common."""
    first, *rest = configs
    common = {}
    for key, value in first.items():
        values = [config.get(key, ABSENT) for config in rest]
        if all(other == value for other in values):
            common[key] = value
        elif all(isinstance(item, dict) for item in (value, *values)) and (nested := common_settings([value, *values])):
            common[key] = nested
    return common


def other_settings(config: Mapping[str, Any], common: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings of a nested mapping that are not common to all, by dotted name."""
    for key, value in config.items():
        if key in common and common[key] == value:
            continue
        if isinstance(value, dict) and value:
            yield from other_settings(value, common.get(key, {}), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False)
