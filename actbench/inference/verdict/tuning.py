"""The value of a tuned setting at which each arm is compared, chosen on val, and whether the winner depends on it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from actbench.inference.stats import Interval, mean_with_bounds
from actbench.inference.verdict.evidence import GUESS

EXTENSIONS = 2  # most of a grid: if a best value lies at its edge, the true best may lie beyond

Key = tuple[str, str, str]  # dataset, network, arm


class Tuned(NamedTuple):
    """An arm over the grid: mean val accuracy by value, with its interval over seeds, and the value chosen."""

    dataset: str
    network: str
    arm: str
    chosen: float
    at_edge: bool
    val_accuracy: Mapping[float, Interval]
    seeds: int


class Tuning(NamedTuple):
    """Results of tuning on a dataset and network.

    ``winners`` are the arms of highest mean val accuracy where all arms share
    a value of the grid; ``winner`` is the best where each arm has its own value.
    """

    dataset: str
    network: str
    setting: str
    grid: Sequence[float]
    extended: Sequence[float]
    arms: Sequence[Tuned]
    winners: Mapping[float, str]
    winner: str

    @property
    def others(self) -> dict[float, str]:
        """Arms of higher mean than ``winner`` at values that all arms share."""
        return {value: arm for value, arm in self.winners.items() if arm != self.winner}

    @property
    def depends(self) -> bool:
        """Whether another arm is better than ``winner`` at some value that all share: their intervals lie apart."""
        accuracies = {arm.arm: arm.val_accuracy for arm in self.arms}
        return any(
            accuracies[arm][value].low > accuracies[self.winner][value].high for value, arm in self.others.items()
        )


def val_scores(table: pl.DataFrame) -> pl.DataFrame:
    """Val accuracies and mean val loss of each arm and ``value``; a diverged replicate guesses."""
    accuracy = pl.when("diverged").then(GUESS["val_accuracy"]).otherwise("val_accuracy")
    loss = pl.when("diverged").then(GUESS["test_loss"]).otherwise("val_loss")
    return table.group_by("dataset_name", "network_name", "arm", "value", maintain_order=True).agg(
        accuracy.alias("accuracy"), loss.mean().alias("loss")
    )


def choose_values(table: pl.DataFrame) -> dict[Key, float]:
    """Each arm's value of highest mean val accuracy; among ties, the value of lowest val loss."""
    best = (
        val_scores(table)
        .with_columns(pl.col("accuracy").list.mean())
        .sort("accuracy", "loss", "value", descending=[True, False, False])
        .unique(["dataset_name", "network_name", "arm"], keep="first", maintain_order=True)
    )
    rows = best.select("dataset_name", "network_name", "arm", "value").iter_rows()
    return {(dataset, network, arm): value for dataset, network, arm, value in rows}


def extended_values(grid: Sequence[float], chosen: Mapping[Key, float]) -> list[float]:
    """The values one step beyond each edge of a grid at which some arm is best.

    A step repeats the last factor where all values are above 0, and the last difference otherwise.
    """
    values, extensions = sorted(grid), []
    if len(values) < 2:
        return []
    for edge, inner in ((values[0], values[1]), (values[-1], values[-2])):
        if edge in chosen.values():
            step = edge * edge / inner if values[0] > 0 else 2 * edge - inner
            whole = all(isinstance(value, int) for value in values)
            extensions.append(round(step) if whole else float(f"{step:.3g}"))
    return [value for value in extensions if value not in values]


def summarize_tuning(table: pl.DataFrame, setting: str, grid: Sequence[float], *, level: float) -> list[Tuning]:
    """Results of tuning from its records, for each dataset and network; ``grid`` holds the values first planned."""
    chosen, rows = choose_values(table), val_scores(table)
    result = []
    for (dataset, network), panel in rows.group_by("dataset_name", "network_name", maintain_order=True):
        values, arms = panel["value"].unique().sort().to_list(), []
        for (arm,), by_value in panel.group_by("arm", maintain_order=True):
            key = (str(dataset), str(network), str(arm))
            edge = len(values) > 1 and chosen[key] in (values[0], values[-1])
            intervals = {
                value: mean_with_bounds(np.array(scores, dtype=float), level=level)
                for value, scores in by_value.sort("value").select("value", "accuracy").iter_rows()
            }
            arms.append(Tuned(*key, chosen[key], edge, intervals, max(map(len, by_value["accuracy"]))))
        winners = {value: max(arms, key=lambda arm: arm.val_accuracy[value].estimate).arm for value in values}
        winner = max(arms, key=lambda arm: arm.val_accuracy[arm.chosen].estimate).arm
        extended = [value for value in values if value not in grid]
        result.append(Tuning(str(dataset), str(network), setting, values, extended, arms, winners, winner))
    return result
