"""The numbers of a study in frames, of its arms and of its comparisons; a report only selects and formats them."""

import math
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from actbench.inference.stats import Interval, mean_with_bounds
from actbench.inference.verdict.evidence import scores
from actbench.inference.verdict.findings import OUTCOME
from actbench.inference.verdict.mechanism import measured_arm, site_differences
from actbench.inference.verdict.part_words import failures_come_first
from actbench.inference.verdict.price import weigh
from actbench.inference.verdict.price_words import time_change
from actbench.inference.verdict.results import StudyResults

CELL = ["dataset_name", "network_name", "arm"]


class Quantity(NamedTuple):
    """A column of a frame. A number that is not known is null."""

    type: type[pl.DataType]
    unit: str
    meaning: str


def _with_bounds(name: str, unit: str, meaning: str) -> dict[str, Quantity]:
    """Columns of an estimate and of its interval."""
    return {
        name: Quantity(pl.Float64, unit, meaning),
        f"{name}_low": Quantity(pl.Float64, unit, f"lower bound of the interval of {name}"),
        f"{name}_high": Quantity(pl.Float64, unit, f"upper bound of the interval of {name}"),
    }


def _with_test(name: str, unit: str, meaning: str) -> dict[str, Quantity]:
    """Columns of an estimate, of its interval, and of a test outside the family of comparisons."""
    return {
        **_with_bounds(name, unit, meaning),
        f"{name}_p": Quantity(pl.Float64, "", f"p of the sign-flip test of {name}, not corrected"),
        f"{name}_effect": Quantity(pl.Float64, "standard deviations", f"effect size of {name}"),
    }


ARM_COLUMNS = {
    "dataset": Quantity(pl.String, "", "name of the dataset"),
    "network": Quantity(pl.String, "", "name of the network"),
    "arm": Quantity(pl.String, "", "name of the arm; a tuned setting follows in a column with the setting's name"),
    "seeds": Quantity(pl.Int64, "", "replicates"),
    **_with_bounds("test_accuracy", "fraction", "mean accuracy on test; a diverged replicate guesses"),
    "test_accuracy_sd": Quantity(pl.Float64, "fraction", "standard deviation of the same accuracies over seeds"),
    "test_accuracy_min": Quantity(pl.Float64, "fraction", "lowest of the same accuracies"),
    "test_accuracy_max": Quantity(pl.Float64, "fraction", "highest of the same accuracies"),
    "test_loss": Quantity(pl.Float64, "nats", "mean loss on test of the replicates that did not diverge"),
    "test_ece": Quantity(pl.Float64, "fraction", "mean calibration error on test of the same replicates"),
    "val_accuracy": Quantity(pl.Float64, "fraction", "mean accuracy on val of the same replicates"),
    "val_loss": Quantity(pl.Float64, "nats", "mean loss on val of the same replicates"),
    "failed": Quantity(pl.Int64, "", "replicates that failed to train, those that diverged included"),
    "diverged": Quantity(pl.Int64, "", "replicates that diverged"),
    "epochs": Quantity(pl.Float64, "", "median of the epochs trained, of the replicates that did not diverge if any"),
    "epoch_time_s": Quantity(pl.Float64, "s", "median time of an epoch; fits on a busy machine count if all were busy"),
    "peak_memory_mb": Quantity(pl.Float64, "MiB", "median peak memory, by the same rule"),
    "busy": Quantity(pl.Boolean, "", "whether others used the machine during every fit whose time is known"),
    "parameters": Quantity(pl.Int64, "", "trainable parameters of a replicate"),
}
COMPARISON_COLUMNS = {
    "dataset": Quantity(pl.String, "", "name of the dataset; null for the mean over all"),
    "network": Quantity(pl.String, "", "name of the network"),
    "arm": Quantity(pl.String, "", "name of the arm"),
    "baseline": Quantity(pl.String, "", "name of the arm that it is compared with"),
    "verdict": Quantity(pl.String, "", "better, worse, equivalent or undecided"),
    "inside_margin": Quantity(pl.Boolean, "", "whether the difference was found to lie inside the margin"),
    "pairs": Quantity(pl.Int64, "", "pairs that the verdict rests on"),
    "unpaired": Quantity(pl.Int64, "", "seeds that one of the two arms lacks"),
    **_with_bounds("difference", "fraction", "mean paired difference in test accuracy, arm minus baseline"),
    "p": Quantity(pl.Float64, "", "p of the sign-flip test"),
    "adjusted_p": Quantity(pl.Float64, "", "the same, corrected for all comparisons"),
    "equivalence_p": Quantity(pl.Float64, "", "p of two one-sided tests against the margin"),
    "adjusted_equivalence_p": Quantity(pl.Float64, "", "the same, corrected for all comparisons"),
    **_with_bounds("probability_better", "fraction", "chance that the arm wins on a new seed, ties counted half"),
    "effect": Quantity(pl.Float64, "standard deviations", "effect size of the difference"),
    "median": Quantity(pl.Float64, "fraction", "median of the paired differences"),
    "carried_by": Quantity(pl.Int64, "", "pairs that make up nine tenths of a mean that is over twice the median"),
    "level_share": Quantity(pl.Float64, "fraction", "share of the comparison's level that the verdict has"),
    "failures_first": Quantity(
        pl.Boolean, "", "whether failures decide, or all seeds disagree with those that trained"
    ),
    "arm_test_accuracy": Quantity(pl.Float64, "fraction", "mean test accuracy of the arm over the pairs"),
    "baseline_test_accuracy": Quantity(pl.Float64, "fraction", "mean test accuracy of the baseline over the pairs"),
    "arm_diverged": Quantity(pl.Int64, "", "replicates of the arm that diverged"),
    "baseline_diverged": Quantity(pl.Int64, "", "replicates of the baseline that diverged"),
    "without_diverged": Quantity(pl.String, "", "verdict without the diverged pairs, if it is another"),
    **_with_test("test_loss_difference", "nats", "mean paired difference in test loss"),
    **_with_test("test_ece_difference", "fraction", "mean paired difference in calibration error on test"),
    **_with_test("memory_ratio", "ratio", "peak memory, arm by baseline"),
    "fits": Quantity(pl.Int64, "", "pairs of fits that this ratio rests on"),
    "with_time": Quantity(
        pl.String, "", "accuracy and time together: dominates, trade-off, dominated, undecided, or no difference seen"
    ),
    "more_pairs": Quantity(pl.Int64, "", "further pairs for 80 % power at the difference seen, if undecided"),
    "test_loss_pairs": Quantity(pl.Int64, "", "pairs of the difference in test loss"),
    "test_ece_pairs": Quantity(pl.Int64, "", "pairs of the difference in calibration error"),
}
FAILURE_COLUMNS = {
    **{name: COMPARISON_COLUMNS[name] for name in ("dataset", "network", "arm", "baseline", "pairs")},
    "arm_failed": Quantity(pl.Int64, "", "pairs of which the arm's replicate failed to train"),
    "baseline_failed": Quantity(pl.Int64, "", "pairs of which the baseline's did"),
    "arm_failed_alone": Quantity(pl.Int64, "", "pairs of which only the arm's did"),
    "baseline_failed_alone": Quantity(pl.Int64, "", "pairs of which only the baseline's did"),
    **_with_bounds("failure_rate_difference", "fraction", "difference of the rates of failure, arm minus baseline"),
    "failure_p": Quantity(pl.Float64, "", "p of McNemar's exact test"),
    "adjusted_failure_p": Quantity(pl.Float64, "", "the same, corrected for all parts of all comparisons"),
    "failure_verdict": Quantity(pl.String, "", "better, if the arm fails less often; worse or undecided"),
    "trained_pairs": Quantity(pl.Int64, "", "pairs of which both replicates trained"),
    **_with_bounds("trained_difference", "fraction", "mean paired difference in test accuracy of these pairs"),
    "trained_p": Quantity(pl.Float64, "", "p of the sign-flip test of these pairs"),
    "adjusted_trained_p": Quantity(pl.Float64, "", "the same, corrected for all parts of all comparisons"),
    "adjusted_trained_equivalence_p": Quantity(pl.Float64, "", "p of equivalence of these pairs, corrected"),
    "trained_verdict": Quantity(pl.String, "", "verdict on these pairs, conditional on training"),
    "verdict": Quantity(pl.String, "", "verdict on all seeds"),
    "failures_first": COMPARISON_COLUMNS["failures_first"],
}
PRICE_COLUMNS = {
    **{name: COMPARISON_COLUMNS[name] for name in ("dataset", "network", "arm", "baseline")},
    **_with_bounds("step_time_ratio", "ratio", "time of a training step, arm by baseline, timed in turns"),
    "step_time_p": Quantity(pl.Float64, "", "p of Student's test that the ratio is within the drift, not corrected"),
    "rounds": Quantity(pl.Int64, "", "rounds of turns"),
    "time": Quantity(pl.String, "", "the difference in time in words, or that none was seen"),
    "replicates": Quantity(pl.Int64, "", "replicates that a timed step trained"),
    "device": Quantity(pl.String, "", "device on which steps were timed"),
    "clock": Quantity(pl.String, "", "what steps were timed by"),
    **_with_bounds("equal_time_difference", "fraction", "mean paired difference in val accuracy at equal time"),
    "equal_time_p": Quantity(pl.Float64, "", "p of the sign-flip test at equal time, not corrected"),
    "equal_time_verdict": Quantity(pl.String, "", "verdict on val at equal time, outside the family"),
    "equal_time_holds": Quantity(pl.Boolean, "", "whether it is the same within the interval of the ratio of times"),
    "arm_epochs": Quantity(pl.Float64, "", "epochs of the arm at equal time, the median over seeds"),
    "baseline_epochs": Quantity(pl.Float64, "", "epochs of the baseline at equal time"),
    "target": Quantity(pl.Float64, "fraction", "val accuracy to be reached"),
    "seeds": Quantity(pl.Int64, "", "seeds of each arm"),
    **{
        name: quantity
        for side in ("arm", "baseline")
        for name, quantity in {
            f"{side}_reached": Quantity(pl.Int64, "", f"seeds of the {side} that reach the target"),
            **_with_bounds(f"{side}_epochs_to_target", "", f"median epochs of the {side}, by Kaplan and Meier"),
            f"{side}_time_to_target_s": Quantity(
                pl.Float64, "s", f"time of these epochs for a replicate of the {side}"
            ),
        }.items()
    },
    "decided": Quantity(
        pl.Int64, "", "pairs of which one reached the target in less time; in fewer epochs, if untimed"
    ),
    "sooner": Quantity(pl.Int64, "", "of these, pairs in which that was the arm"),
    "target_p": Quantity(pl.Float64, "", "p of the exact sign test of these pairs, not corrected"),
    "arm_saved_bytes": Quantity(pl.Float64, "bytes", "kept by the arm for the backward pass, an element of its input"),
    "baseline_saved_bytes": Quantity(pl.Float64, "bytes", "kept by the baseline"),
}
NOISE_COLUMNS = {
    **{name: COMPARISON_COLUMNS[name] for name in ("dataset", "network", "arm")},
    "baseline": Quantity(pl.String, "", "name of the arm from which the difference is taken; null for the arm alone"),
    "part": Quantity(pl.String, "", "source of randomness; rest, with interactions; or total, where all sources vary"),
    **_with_bounds("sd", "fraction", "standard deviation of test accuracy, or of the difference, that the part causes"),
    **_with_bounds("share", "fraction", "share of the part in the variance"),
    "mean_square": Quantity(pl.Float64, "fraction²", "mean square of the analysis of variance"),
    "freedom": Quantity(pl.Int64, "", "its degrees of freedom"),
    "seeds": Quantity(pl.Int64, "", "seeds of each crossed source"),
    "replicates": Quantity(pl.Int64, "", "replicates, or pairs, that cross them"),
    "failed": Quantity(pl.Int64, "", "of these, those in which a replicate failed to train"),
}
STANDING_COLUMNS = {
    "network": Quantity(pl.String, "", "name of the network"),
    "arm": Quantity(pl.String, "", "name of the arm"),
    **_with_bounds("interquartile_mean", "fraction", "mean of the middle half of the test accuracies on all datasets"),
    **_with_bounds("rank", "", "mean rank over the datasets, 1 the best"),
}
MECHANISM_COLUMNS = {
    **{name: ARM_COLUMNS[name] for name in ("dataset", "network", "arm")},
    "statistic": Quantity(pl.String, "", "name of the statistic; see `actbench.records.STATISTICS`"),
    "depth": Quantity(pl.Int64, "", "number of the call of the activation in a forward pass, from 1 on"),
    "site": Quantity(pl.String, "", "name of the call"),
    "layer": Quantity(pl.String, "", "the layer with weights before the call"),
    "epoch": Quantity(pl.Int64, "", "epochs trained before; 0 is before the first step"),
    "seeds": Quantity(pl.Int64, "", "replicates whose value is finite"),
    **_with_bounds("mean", "that of the statistic", "mean over these replicates"),
}
SITE_DIFFERENCE_COLUMNS = {
    **{name: COMPARISON_COLUMNS[name] for name in ("dataset", "network", "arm", "baseline")},
    **{name: MECHANISM_COLUMNS[name] for name in ("statistic", "site", "layer")},
    "pairs": Quantity(pl.Int64, "", "pairs of which both values are finite"),
    "arm_mean": Quantity(pl.Float64, "that of the statistic", "mean of the arm over the pairs, after training"),
    "baseline_mean": Quantity(pl.Float64, "that of the statistic", "mean of the baseline over the pairs"),
    **_with_bounds("difference", "that of the statistic", "mean paired difference, arm minus baseline, not corrected"),
    **_with_bounds(
        "correlation", "", "rank correlation over seeds with the difference in test accuracy, which is not a cause"
    ),
}


def arm_frame(results: StudyResults) -> pl.DataFrame:
    """A row for each arm on each dataset and network that has records; see `ARM_COLUMNS`."""
    whole, busy, timed = (
        ~pl.col("diverged"),
        pl.col("busy").fill_null(value=False),
        pl.col("epoch_time_s").is_not_null(),
    )
    costs = [pl.col("epoch_time_s"), pl.col("peak_memory_mb")]
    records = results.marked.group_by(CELL).agg(
        pl.len().alias("seeds"),
        pl.col("test_loss", "test_ece", "val_accuracy", "val_loss").filter(whole).mean(),
        pl.col("failed", "diverged").sum(),
        pl.coalesce(pl.col("epochs").filter(whole).median(), pl.col("epochs").median()).alias("epochs"),
        *(pl.coalesce(cost.filter(~busy).median(), cost.median()) for cost in costs),
        pl.when(timed.any()).then(busy.filter(timed).all()).alias("busy"),
        pl.col("parameters").first(),
    )
    by_cell = records.rows_by_key(CELL, named=True, unique=True)
    accuracies = scores(results.table, OUTCOME)
    tuned = [arm for tuning in results.tunings for arm in tuning.arms]
    chosen = {(arm.dataset, arm.network, arm.arm): arm.chosen for arm in tuned}
    settings = [tuning.setting for tuning in results.tunings[:1]]
    rows = []
    for panel, arm in product(results.question.panels, results.question.arms):
        cell = (*panel, arm)
        if cell in by_cell:
            values = np.array(list(accuracies.get(cell, {}).values()))
            row = {**panel._asdict(), "arm": arm, **by_cell[cell], **{name: chosen.get(cell) for name in settings}}
            if len(values):
                mean = mean_with_bounds(values, level=1 - results.question.alpha)
                row |= _columns("test_accuracy", mean)
                row |= {"test_accuracy_min": float(values.min()), "test_accuracy_max": float(values.max())}
            if len(values) > 1:
                row["test_accuracy_sd"] = float(np.std(values, ddof=1))
            rows.append(row)
    tuned_columns = {name: Quantity(pl.Float64, "", "the value chosen for the arm") for name in settings}
    names = ("dataset", "network", "arm")
    return _frame(rows, {**{name: ARM_COLUMNS[name] for name in names}, **tuned_columns, **ARM_COLUMNS})


def comparison_frame(results: StudyResults) -> pl.DataFrame:
    """A row for each comparison, arm minus baseline; see `COMPARISON_COLUMNS`."""
    rows = []
    for finding in results.conclusion.findings:
        comparison, judgement, cost = finding.comparison, finding.judgement, finding.cost
        row: dict[str, Any] = {**judgement._asdict(), **comparison._asdict()}
        row |= _columns("difference", judgement.difference) | _columns("probability_better", judgement.superiority)
        row |= {"level_share": judgement.share, "failures_first": failures_come_first(judgement)}
        row |= {name: getattr(finding, name) for name in ("unpaired", "without_diverged", "more_pairs")}
        for side, arm in (("arm", comparison.arm), ("baseline", comparison.baseline)):
            row |= {f"{side}_test_accuracy": finding.means[arm], f"{side}_diverged": finding.diverged[arm]}
        tests: dict[str, tuple[Interval | None, float, float]] = {}
        for secondary in finding.secondary:
            tests[f"{secondary.outcome}_difference"] = secondary.difference, secondary.p, secondary.effect
            row[f"{secondary.outcome}_pairs"] = secondary.pairs
        if cost:
            tests["memory_ratio"] = cost.memory
            row["fits"] = cost.fits
        if finding.price:
            row["with_time"] = weigh(judgement, finding.price.timing)
        for name, (interval, p, effect) in tests.items():
            row |= {**_columns(name, interval), f"{name}_p": p, f"{name}_effect": effect}
        rows.append(row)
    return _frame(rows, COMPARISON_COLUMNS)


def failure_frame(results: StudyResults) -> pl.DataFrame:
    """A row for each comparison in which a replicate failed to train; see `FAILURE_COLUMNS`."""
    rows = []
    for finding in results.conclusion.findings:
        judgement, failures, trained = finding.judgement, finding.judgement.failures, finding.judgement.trained
        if failures and trained:
            row: dict[str, Any] = {**judgement._asdict(), **finding.comparison._asdict()}
            row |= {
                "arm_failed": failures.arm,
                "baseline_failed": failures.baseline,
                "arm_failed_alone": failures.arm_alone,
                "baseline_failed_alone": failures.baseline_alone,
                "failure_p": failures.p,
                "adjusted_failure_p": failures.adjusted_p,
                "failure_verdict": failures.verdict,
                "trained_pairs": trained.pairs,
                "trained_p": trained.p,
                "adjusted_trained_p": trained.adjusted_p,
                "adjusted_trained_equivalence_p": trained.adjusted_equivalence_p,
                "trained_verdict": trained.verdict,
                "failures_first": failures_come_first(judgement),
            }
            row |= _columns("failure_rate_difference", failures.difference)
            rows.append(row | _columns("trained_difference", trained.difference))
    return _frame(rows, FAILURE_COLUMNS)


def price_frame(results: StudyResults) -> pl.DataFrame:
    """A row for each comparison of which a price is known; see `PRICE_COLUMNS`."""
    rows = []
    for finding in results.conclusion.findings:
        comparison, price = finding.comparison, finding.price
        if price is None:
            continue
        timing, equal, target, saved_bytes, _ = price
        row: dict[str, Any] = comparison._asdict()
        if timing:
            row |= {**timing._asdict(), **_columns("step_time_ratio", timing.ratio)}
            row |= {"step_time_p": timing.p, "time": time_change(timing)}
        if equal:
            row |= _columns("equal_time_difference", equal.judgement.difference)
            row |= {f"equal_time_{name}": getattr(equal.judgement, name) for name in ("p", "verdict")}
            row["equal_time_holds"] = equal.holds
        if target:
            row |= {"target": target.target, "target_p": target.p, "decided": target.decided, "sooner": target.sooner}
        for side, arm, epoch_s in (
            ("arm", comparison.arm, timing and timing.epoch_s),
            ("baseline", comparison.baseline, timing and timing.baseline_epoch_s),
        ):
            if equal:
                row[f"{side}_epochs"] = equal.epochs[arm]
            if target:
                reaching = target.epochs[arm]
                row |= {"seeds": reaching.seeds, f"{side}_reached": reaching.reached}
                row |= _columns(f"{side}_epochs_to_target", reaching.median)
                row[f"{side}_time_to_target_s"] = epoch_s and epoch_s * reaching.median.estimate
            row[f"{side}_saved_bytes"] = saved_bytes[arm]
        rows.append(row)
    return _frame(rows, PRICE_COLUMNS)


def noise_frame(results: StudyResults) -> pl.DataFrame:
    """A row for each part of the variance of each arm, and of each difference to the baseline; see `NOISE_COLUMNS`."""
    rows = []
    for noise in results.noise:
        components = noise.components
        row = {**noise._asdict(), "replicates": components.replicates}
        for part, component in components.parts.items():
            sd = _columns("sd", standard_deviation(component.variance))
            rows.append({**row, "part": part, **component._asdict(), **sd, **_columns("share", component.share)})
        rows.append({**row, "part": "total", **_columns("sd", standard_deviation(components.total))})
    return _frame(rows, NOISE_COLUMNS)


def standard_deviation(variance: Interval) -> Interval:
    """The standard deviation with its interval."""
    return Interval(*map(math.sqrt, variance))


def mechanism_frame(results: StudyResults) -> pl.DataFrame:
    """A row for each arm, statistic, call and measured epoch; see `MECHANISM_COLUMNS`."""
    rows = list[dict[str, Any]]()
    marked, level = results.marked, 1 - results.question.alpha
    for panel, arm in product(results.question.panels, results.question.arms):
        found = measured_arm(marked, panel, arm)
        if found is None:
            continue
        for statistic, values in found.values.items():
            calls = enumerate(found.sites_of(statistic))
            for (time, epoch), (index, (site, layer)) in product(enumerate(found.epochs), calls):
                known = values[np.isfinite(values[:, time, index]), time, index]
                row = {**panel._asdict(), "arm": arm, "statistic": statistic, "epoch": epoch, "seeds": len(known)}
                row |= {"depth": index + 1, "site": site, "layer": layer}
                rows.append(row | _columns("mean", mean_with_bounds(known, level=level) if len(known) else None))
    return _frame(rows, MECHANISM_COLUMNS)


def site_difference_frame(results: StudyResults) -> pl.DataFrame:
    """A row for each comparison, statistic and call, after training; see `SITE_DIFFERENCE_COLUMNS`."""
    rows = []
    for row in site_differences(results.marked, results.question):
        values = {**row._asdict(), **row.comparison._asdict()}
        rows.append(values | _columns("difference", row.difference) | _columns("correlation", row.correlation))
    return _frame(rows, SITE_DIFFERENCE_COLUMNS)


def standing_frame(results: StudyResults) -> pl.DataFrame:
    """A row for each arm over several datasets; see `STANDING_COLUMNS`."""
    rows = [
        standing._asdict()
        | _columns("interquartile_mean", standing.interquartile_mean)
        | _columns("rank", standing.rank)
        for standing in results.conclusion.standings
    ]
    return _frame(rows, STANDING_COLUMNS)


def _columns(name: str, interval: Interval | None) -> dict[str, float | None]:
    """Columns of an estimate and its bounds."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), interval or (None, None, None), strict=True))


def _frame(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, Quantity]) -> pl.DataFrame:
    """Rows as a frame with these columns, in which a number that is not finite is null."""
    frame = pl.DataFrame(
        [[row.get(name) for name in columns] for row in rows],
        schema={name: column.type for name, column in columns.items()},
        orient="row",
    )
    number = pl.col(pl.Float64)
    return frame.with_columns(pl.when(number.is_finite()).then(number))
