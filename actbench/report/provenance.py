"""Where a study's numbers come from, and how to reproduce them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl
import yaml

from actbench.inference.verdict import StudyResults
from actbench.inference.verdict.words import count, duration, listed

FACTS = {  # columns of the records, as people call them
    "device": "device",
    "threads": "threads of a fit",
    "actbench_version": "actbench",
    "torch_version": "torch",
    "lightning_version": "pytorch-lightning",
    "python_version": "Python",
    "commit": "commit",
}
NOTHING = object()


def values_of(table: pl.DataFrame, column: str) -> str:
    """The distinct values of a column, with how many records have each where there are several."""
    if not len(table):
        return "–"
    found = table[column].fill_null("not known") if table.schema[column] == pl.String else table[column]
    counts = found.value_counts(sort=True).rows()
    if len(counts) == 1:
        return str(counts[0][0])
    return listed([f"{value} ({number})" for value, number in counts])


def provenance_facts(table: pl.DataFrame) -> list[tuple[str, str]]:
    """Versions, machine and code."""
    return [(name, values_of(table, column)) for column, name in FACTS.items()]


def hardware(table: pl.DataFrame) -> str:
    """Which machine, in few words."""
    if not len(table):
        return "not known yet"
    threads = values_of(table, "threads")
    return f"{values_of(table, 'device')}, {threads} thread{'' if threads == '1' else 's'}"


def time_taken(table: pl.DataFrame) -> str:
    """How long all training took, and when it started."""
    seconds: Any = (table["epoch_time_s"] * table["epochs"]).sum()
    if not seconds:
        return "not measured"
    fits = table.select("dataset_name", "network_name", "arm", "started").unique()
    start: Any = table["started"].min()
    when = "" if start is None else f", started {start[:16].replace('T', ' ')}{' UTC' if 'T' in start else ''}"
    return f"{duration(seconds / 60)} of training in {count(len(fits), 'fit')}{when}"


def diverged(table: pl.DataFrame) -> list[str]:
    """Which replicates have diverged, a line for each arm."""
    lost = table.filter("diverged").sort("seed")
    lines = []
    for (dataset, network, arm), own in lost.group_by("dataset_name", "network_name", "arm", maintain_order=True):
        epochs = own.select("seed", "diverged_epoch").iter_rows()
        seeds = [f"{seed} (epoch {'?' if epoch is None else epoch + 1})" for seed, epoch in epochs]
        lines.append(f"{arm} on {dataset} with {network}: {count(len(own), 'seed')}: {listed(seeds, 12)}")
    return lines


def configs(results: StudyResults) -> tuple[str, dict[str, dict[str, str]]]:
    """What the configs of all fits have in common, as YAML, and by fit its other settings, by dotted name."""
    found: dict[str, Any] = {}
    keys = ["dataset_name", "network_name", "arm"]
    for (dataset, network, arm), own in results.table.group_by(keys, maintain_order=True):
        for number, text in enumerate(own["config"].drop_nulls().unique(maintain_order=True)):
            more = f" ({number + 1})" if number else ""
            found[f"{arm} on {dataset} with {network}{more}"] = json.loads(text)
    common = shared(list(found.values())) if found else {}
    text = yaml.safe_dump(common, sort_keys=False, allow_unicode=True, width=100) if common else ""
    return text, {name: dict(others(config, common)) for name, config in found.items()}


def shared(configs: Sequence[Any]) -> dict[str, Any]:
    """What all of several nested mappings have in common."""
    first, *rest = configs
    result = {}
    for key, value in first.items():
        values = [config.get(key, NOTHING) for config in rest]
        if all(of == value for of in values):
            result[key] = value
        elif all(isinstance(of, dict) for of in (value, *values)) and (inside := shared([value, *values])):
            result[key] = inside
    return result


def others(config: Mapping[str, Any], common: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """What a nested mapping has besides the common one, with dotted names."""
    for key, value in config.items():
        if key in common and common[key] == value:
            continue
        if isinstance(value, dict) and value:
            yield from others(value, common.get(key, {}), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False)
