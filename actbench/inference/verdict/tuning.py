"""Which value of a setting each arm is compared at, chosen on val, and whether the winner follows from it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from actbench.inference.stats import Interval, mean_with_bounds
from actbench.inference.verdict.evidence import GUESS

EXTENSIONS = 2  # of a grid at most: a best value at its edge may mean that the best one lies beyond

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
    """What tuning has found on a dataset and network.

    ``winners`` are the arms of highest mean val accuracy where all arms share
    a value of the grid, and ``winner`` is that where each has its own.
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
    def depends(self) -> bool:
        """Whether another arm wins at some value that all arms share."""
        return any(arm != self.winner for arm in self.winners.values())


def val_scores(table: pl.DataFrame) -> pl.DataFrame:
    """Val accuracies and mean val loss of each arm and ``value``; a diverged replicate guesses."""
    accuracy = pl.when("diverged").then(GUESS["val_accuracy"]).otherwise("val_accuracy")
    loss = pl.when("diverged").then(GUESS["test_loss"]).otherwise("val_loss")
    return table.group_by("dataset_name", "network_name", "arm", "value", maintain_order=True).agg(
        accuracy.alias("accuracy"), loss.mean().alias("loss")
    )


def choose(table: pl.DataFrame) -> dict[Key, float]:
    """The value of highest mean val accuracy of each arm; of those that tie, the one of lowest val loss."""
    best = (
        val_scores(table)
        .with_columns(pl.col("accuracy").list.mean())
        .sort("accuracy", "loss", "value", descending=[True, False, False])
        .unique(["dataset_name", "network_name", "arm"], keep="first", maintain_order=True)
    )
    rows = best.select("dataset_name", "network_name", "arm", "value").iter_rows()
    return {(dataset, network, arm): value for dataset, network, arm, value in rows}


def beyond(grid: Sequence[float], chosen: Mapping[Key, float]) -> list[float]:
    """The values one step beyond the edges of a grid at which the best value of an arm lies.

    A step is a factor where all values are above 0, as the last one is, and a difference otherwise.
    """
    values, found = sorted(grid), []
    if len(values) < 2:
        return []
    for edge, inner in ((values[0], values[1]), (values[-1], values[-2])):
        if edge in chosen.values():
            step = edge * edge / inner if values[0] > 0 else 2 * edge - inner
            whole = all(isinstance(value, int) for value in values)
            found.append(round(step) if whole else float(f"{step:.3g}"))
    return [value for value in found if value not in values]


def summary(table: pl.DataFrame, setting: str, grid: Sequence[float], *, level: float) -> list[Tuning]:
    """What the records of a tuning say, for each dataset and network; ``grid`` are the values that were asked for."""
    chosen, rows = choose(table), val_scores(table)
    result = []
    for (dataset, network), own in rows.group_by("dataset_name", "network_name", maintain_order=True):
        values, arms = own["value"].unique().sort().to_list(), []
        for (arm,), of in own.group_by("arm", maintain_order=True):
            key = (str(dataset), str(network), str(arm))
            edge = len(values) > 1 and chosen[key] in (values[0], values[-1])
            intervals = {
                value: mean_with_bounds(np.array(scores, dtype=float), level=level)
                for value, scores in of.sort("value").select("value", "accuracy").iter_rows()
            }
            arms.append(Tuned(*key, chosen[key], edge, intervals, max(map(len, of["accuracy"]))))
        winners = {value: max(arms, key=lambda arm: arm.val_accuracy[value].estimate).arm for value in values}
        winner = max(arms, key=lambda arm: arm.val_accuracy[arm.chosen].estimate).arm
        extended = [value for value in values if value not in grid]
        result.append(Tuning(str(dataset), str(network), setting, values, extended, arms, winners, winner))
    return result
