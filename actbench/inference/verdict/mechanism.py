"""How the calls of activations behave: from records to means by epoch, differences, and how these go with scores."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float

from actbench.inference.stats import Interval, mean_interval, rank_correlation
from actbench.inference.verdict.evidence import ENDLESS, paired, scores
from actbench.inference.verdict.findings import OUTCOME
from actbench.inference.verdict.question import Comparison, Panel, Question
from actbench.records import COLUMN_OF, LAYERS, MECHANISM, SITES, TIMES

LAST_LAYER = "inputs of the last layer"  # stands for a call where the effective rank is told


class MeasuredArm(NamedTuple):
    """The mechanism of an arm on a dataset and network.

    Args:
        sites: Names of the calls of the activation, in the order of a forward pass.
        layers: The layer with weights before each call.
        failed: Whether each seed failed to train.
        epochs: Epochs trained before each measurement of the seed that was trained longest.
        values: By statistic, (seeds, epochs, calls); for the effective rank, one in place of all calls. After a seed
            has stopped early, its values stay. NaN where a seed was not measured, or its values are not finite.
    """

    sites: Sequence[str]
    layers: Sequence[str]
    failed: Mapping[int, bool]
    epochs: Sequence[int]
    values: Mapping[str, Float[np.ndarray, "seeds epochs calls"]]

    def at_end(self, statistic: str) -> Mapping[int, Float[np.ndarray, " calls"]]:
        """The last values of each seed."""
        return dict(zip(self.failed, self.values[statistic][:, -1], strict=True))

    def sites_of(self, statistic: str) -> list[tuple[str, str]]:
        """Names and layers of the calls that a statistic has values of."""
        return [(LAST_LAYER, "")] if statistic == "rank" else list(zip(self.sites, self.layers, strict=True))


def measured_arm(marked: pl.DataFrame, panel: Panel, arm: str) -> MeasuredArm | None:
    """The mechanism of an arm in records with the column ``failed``; None if it was not measured.

    Seeds whose network has other calls than that of the first seed are left out.
    """
    records = marked.filter(dataset_name=panel.dataset, network_name=panel.network, arm=arm).drop_nulls(SITES)
    rows = records.select("seed", "failed", *MECHANISM).sort("seed").to_dicts()
    rows = [row for row in rows if row[SITES] == rows[0][SITES]]
    if not rows:
        return None
    epochs = sorted({epoch for row in rows for epoch in row[TIMES]})
    whole = [epoch for epoch in epochs if epoch & (epoch - 1) == 0 or epoch == epochs[-1]]
    places = [[latest(row[TIMES], epoch) for epoch in whole] for row in rows]
    values = {}
    for statistic, column in COLUMN_OF.items():
        calls = 1 if statistic == "rank" else len(rows[0][SITES])
        table = np.full((len(rows), len(whole), calls), np.nan)
        for by_epoch, row, at in zip(table, rows, places, strict=True):
            known = np.array(row[column], dtype=float).reshape(len(row[TIMES]), calls)
            by_epoch[:] = [np.full(calls, np.nan) if index is None else known[index] for index in at]
        table[~(np.abs(table) < ENDLESS)] = np.nan
        values[statistic] = table
    failed = {row["seed"]: bool(row["failed"]) for row in rows}
    return MeasuredArm(rows[0][SITES], rows[0][LAYERS], failed, whole, values)


def latest(epochs: Sequence[int], epoch: int) -> int | None:
    """Index of the measurement after this epoch, or of a seed's last one where it had stopped before; else None."""
    if epoch in epochs:
        return epochs.index(epoch)
    return len(epochs) - 1 if epoch > epochs[-1] else None


class SiteDifference(NamedTuple):
    """A statistic at one call of an arm's activation beside its baseline's, after training, over paired seeds.

    ``correlation`` is the rank correlation over seeds between this difference and
    that in the score. It is None where one of them does not vary.
    """

    comparison: Comparison
    statistic: str
    site: str
    layer: str
    pairs: int
    arm_mean: float
    baseline_mean: float
    difference: Interval | None
    correlation: Interval | None


def site_differences(marked: pl.DataFrame, question: Question) -> list[SiteDifference]:
    """The differences of all comparisons on one dataset, at the calls that both arms have, outside of the family."""
    arms = {
        (panel, arm): found
        for panel in question.panels
        for arm in question.arms
        if (found := measured_arm(marked, panel, arm))
    }
    accuracies = scores(marked, OUTCOME)
    rows = list[SiteDifference]()
    for comparison in question.family:
        panel = Panel(str(comparison.dataset), comparison.network)
        sides = [arms.get((panel, arm)) for arm in (comparison.arm, comparison.baseline)]
        if comparison.dataset is None or sides[0] is None or sides[1] is None:
            continue
        seeds, score, _ = paired(accuracies, comparison, question)
        by_seed = dict(zip(seeds, score, strict=True))
        for statistic in COLUMN_OF:
            rows += compare_sites(comparison, statistic, (sides[0], sides[1]), by_seed, level=1 - question.alpha)
    return rows


def compare_sites(
    comparison: Comparison,
    statistic: str,
    sides: tuple[MeasuredArm, MeasuredArm],
    score: Mapping[int, float],
    *,
    level: float,
) -> Iterator[SiteDifference]:
    """A statistic at each call; ``score`` is the difference in the score by seed."""
    compared, base = (side.at_end(statistic) for side in sides)
    (names, other_names) = (side.sites_of(statistic) for side in sides)
    for name, layer in names:
        if (name, layer) not in other_names:
            continue
        index, other = names.index((name, layer)), other_names.index((name, layer))
        both = [
            (compared[seed][index], base[seed][other], score[seed])
            for seed in score
            if seed in compared and seed in base
        ]
        table = np.array(both).reshape(-1, 3)
        arm, baseline, gain = table[np.isfinite(table).all(axis=1)].T
        if not len(arm):
            continue
        yield SiteDifference(
            comparison,
            statistic,
            name,
            layer,
            pairs=len(arm),
            arm_mean=float(np.mean(arm)),
            baseline_mean=float(np.mean(baseline)),
            difference=mean_interval(arm - baseline, level=level) if len(arm) > 1 else None,
            correlation=rank_correlation(arm - baseline, gain, level=level),
        )


class DeadBeforeFailure(NamedTuple):
    """A call at which all units are dead in each seed of an arm that failed, and in no other seed of the arm.

    ``epoch`` is the first after which this was measured. ``chance`` is an upper bound of the probability that any call
    and epoch would tell the same seeds apart by chance.
    """

    panel: Panel
    arm: str
    site: str
    layer: str
    epoch: int
    failed: int
    trained: int
    chance: float


def dead_before_failure(marked: pl.DataFrame, question: Question) -> Iterator[DeadBeforeFailure]:
    """Where dead units tell failed seeds from all others, as the first call and epoch that do, for each arm.

    Nothing is said if it could well be chance: if ``chance`` is above the study's alpha.
    """
    for panel in question.panels:
        for arm in question.arms:
            found = measured_arm(marked, panel, arm)
            failed = np.array([*found.failed.values()]) if found else np.array([], dtype=bool)
            if found is None or not failed.any() or failed.all():
                continue
            dead = found.values["dead"] == 1
            apart = dead[failed].all(axis=0) & ~dead[~failed].any(axis=0)
            lasting = apart & dead[failed][:, -1].all(axis=0)  # dead units that came to life again explain nothing
            chance = lasting.size / math.comb(len(failed), int(failed.sum()))
            if not lasting.any() or chance > question.alpha:
                continue
            time, site = map(int, np.argwhere(lasting)[0])
            yield DeadBeforeFailure(
                panel,
                arm,
                found.sites[site],
                found.layers[site],
                found.epochs[time],
                failed=int(failed.sum()),
                trained=int((~failed).sum()),
                chance=chance,
            )
