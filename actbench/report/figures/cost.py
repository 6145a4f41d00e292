"""What arms cost against what they score, with the front of arms that no other arm beats in both."""

from collections.abc import Collection, Mapping
from statistics import median

import altair as alt
import polars as pl

from actbench.inference.frames import arm_frame
from actbench.inference.stats import pareto
from actbench.inference.verdict import StudyResults
from actbench.inference.verdict.phrases import listed, three_digits
from actbench.inference.verdict.question import Panel
from actbench.report.figures.figure import (
    PAGE,
    Figure,
    Layers,
    arm_channels,
    arm_labels,
    names_by_label,
    tooltips,
    unvalidated,
)
from actbench.report.figures.palette import PAPER, QUIET

NAMED = 10  # most arms of which each has a mark of its own
TIMED = " Times are those of training steps, timed in turns; without evidence of a difference, they count as equal."
COSTS = {  # columns of the arms' frame, with a factor, the name, the axis, and the unit
    "epoch_time_s": (1000, "time", "ms an epoch, for one replicate", "ms"),
    "peak_memory_mb": (1, "memory", "peak memory, MiB", "MiB"),
}
CARD = {  # the same of an arm's activation on its cost card
    "float32_eager_copies": (1, "its activation's time", "forward and backward pass, in copies", "copies"),
    "float32_bytes": (1, "its activation's memory", "bytes kept for each element", "bytes"),
}


@unvalidated
def cost_figures(results: StudyResults) -> list[Figure]:
    """A figure for each kind of cost, dataset and network; time is that of timed steps where all arms were timed."""
    arms, timed = arm_frame(results), set[Panel]()
    for panel in results.question.panels:
        epochs_s = timed_epochs(results, panel)
        here = (pl.col("dataset") == panel.dataset) & (pl.col("network") == panel.network)
        if epochs_s and epochs_s.keys() >= {*arms.filter(here)["arm"]}:  # no fit beside a step
            time_s = pl.col("arm").replace_strict(epochs_s, default=None, return_dtype=pl.Float64)
            arms = arms.with_columns(
                epoch_time_s=pl.when(here).then(time_s).otherwise("epoch_time_s"),
                busy=pl.when(here).then(statement=False).otherwise("busy"),
            )
            timed.add(panel)
    return accuracy_figures(results, arms, COSTS, "cost", timed)


def card_figures(results: StudyResults, cards: Mapping[str, Mapping[str, float | None]]) -> list[Figure]:
    """A figure for time and one for memory of the arms' activations, by arm, for each dataset and network."""
    costs = pl.DataFrame(
        [{"arm": arm, **{column: card[column] for column in CARD}} for arm, card in cards.items()],
        schema={"arm": pl.String, **dict.fromkeys(CARD, pl.Float64)},
    )
    arms = arm_frame(results).join(costs, on="arm", how="left", maintain_order="left")
    return accuracy_figures(results, arms.with_columns(busy=False), CARD, "card")


def accuracy_figures(
    results: StudyResults,
    arms: pl.DataFrame,
    costs: Mapping[str, tuple[float, str, str, str]],
    kind: str,
    timed: Collection[Panel] = (),
) -> list[Figure]:
    """A figure for each column of costs, dataset and network; on ``timed`` panels, time is that of timed steps."""
    figures = []
    for number, panel in enumerate(results.question.panels):
        for column, (factor, title, axis, unit) in costs.items():
            of_panel = arms.filter(**panel._asdict()).with_columns(cost=factor * pl.col(column))
            rows = cost_rows(of_panel.drop_nulls(["cost", "test_accuracy"]), results)
            if len(rows):
                name = f"{kind}-{number}-{column.split('_')[1]}"
                chart, finding = cost_chart(name, rows, axis, results), describe_front(rows, unit, results)
                if panel in timed and column == "epoch_time_s":
                    finding += TIMED
                full_title = f"{panel.title}: {title}"
                figures.append(Figure(name, full_title, finding, chart, rows, {}, kind, panel=panel, inches=PAGE))
    return figures


def timed_epochs(results: StudyResults, panel: Panel) -> dict[str, float]:
    """Seconds of an epoch for one replicate of each arm that was timed beside the baseline, and of the baseline."""
    baseline, ratios, seconds = results.question.baseline, dict[str, float](), list[float]()
    for finding in results.conclusion.findings:
        comparison, timing = finding.comparison, finding.price and finding.price.timing
        of_panel = comparison[:2] == panel and comparison.baseline == baseline
        if of_panel and timing and timing.epoch_ratio and timing.baseline_epoch_s:
            ratios[comparison.arm] = timing.epoch_ratio.estimate
            seconds.append(timing.baseline_epoch_s)
    # The machine may be faster or slower from arm to arm, which the ratios leave out.
    return {arm: ratio * median(seconds) for arm, ratio in {baseline: 1.0, **ratios}.items()} if seconds else {}


def cost_rows(arms: pl.DataFrame, results: StudyResults) -> pl.DataFrame:
    """A row for each arm, in percent; ``named`` are the front and the baseline, and all arms if they are few."""
    percent = {"accuracy": "test_accuracy", "low": "test_accuracy_low", "high": "test_accuracy_high"}
    labels, is_baseline = arm_labels(results), pl.col("arm") == results.question.baseline
    front = pl.Series("front", pareto(arms["test_accuracy"].to_list(), arms["cost"].to_list()))
    return arms.with_columns(front).select(
        pl.col("arm").replace(labels),
        "cost",
        **{name: (100 * pl.col(column)).clip(0, 100) for name, column in percent.items()},
        busy=pl.col("busy").fill_null(value=False),
        front="front",
        named=pl.col("front") | is_baseline | (len(arms) <= NAMED),
    )


def describe_front(rows: pl.DataFrame, unit: str, results: StudyResults) -> str:
    """The front in words, the cheapest first."""
    arms = names_by_label(results)
    best = rows.filter("front").sort("cost").select("arm", "cost", "accuracy").iter_rows()
    names = [f"{arms[arm]} ({three_digits(cost)} {unit}, {accuracy:.1f} %)" for arm, cost, accuracy in best]
    busy = [arms[arm] for arm in rows.filter("busy")["arm"]]
    busy_arms = "all arms" if len(busy) == len(rows) else listed(busy)
    doubt = f" The machine was busy with other things during all fits of {busy_arms}: that says little." if busy else ""
    return f"No arm beats these both in cost and in accuracy: {listed(names)}.{doubt}"


def cost_chart(name: str, rows: pl.DataFrame, title: str, results: StudyResults) -> Layers:
    """Marks with intervals, hollow where the machine was busy; the front is a dotted stair."""
    notes = ["dotted: no arm is better in both"]
    notes += ["grey: other arms"] if not rows["named"].all() else []
    notes += ["hollow: busy machine"] if rows["busy"].any() else []
    x = alt.X("cost:Q", title=title, scale=alt.Scale(zero=False, padding=12))
    scale = alt.Scale(zero=False, padding=8)
    y, low = (alt.Y(f"{field}:Q", title="test accuracy, %", scale=scale) for field in ("accuracy", "low"))
    _, marks = arm_channels(results, legend=rows.filter("named")["arm"], notes=notes)
    fill = alt.condition("datum.busy", alt.value(PAPER.light), alt.Fill(**marks["color"].to_dict()))
    tooltip = tooltips("arm", "busy", cost=".4g", accuracy=".2f")
    arms = alt.Chart(alt.NamedData(name))
    named, grey = arms.transform_filter("datum.named"), arms.transform_filter("!datum.named")
    interval = {"x": x, "y": low, "y2": alt.Y2("high:Q")}
    return alt.layer(
        arms.transform_filter("datum.front")
        .mark_line(interpolate="step-after", color=QUIET.light, strokeDash=[2, 3], strokeWidth=1.5)
        .encode(x=x, y=y),
        grey.mark_rule(color=QUIET.light, opacity=0.5).encode(**interval),
        named.mark_rule().encode(**interval, color=marks["color"]),
        grey.mark_point(filled=True, opacity=1, size=25, color=QUIET.light)
        .encode(x=x, y=y, tooltip=tooltip)
        .properties(name="others"),
        named.mark_point(opacity=1, size=80, strokeWidth=1.5)
        .encode(
            x=x, y=y, tooltip=tooltip, fill=fill, stroke=alt.Stroke(**marks["color"].to_dict()), shape=marks["shape"]
        )
        .properties(name="named"),
    )
