"""The numbers of a study in a few tables, for the terminal, the page, Markdown and LaTeX."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from actbench.inference.frames import (
    arm_frame,
    comparison_frame,
    failure_frame,
    noise_frame,
    price_frame,
    site_difference_frame,
    standing_frame,
)
from actbench.inference.verdict import StudyResults, p_value, points
from actbench.inference.verdict.conditions import by_condition
from actbench.inference.verdict.noise import NOISE_CLAIM
from actbench.inference.verdict.part_words import contradiction_sentences
from actbench.inference.verdict.phrases import count, three_digits
from actbench.inference.verdict.question import Panel, condition_name
from actbench.inference.verdict.words import OUTCOMES
from actbench.records import RANK, STATISTICS
from actbench.report.cells import (
    NONE,
    Columns,
    ReportTable,
    Row,
    TableCell,
    TableColumn,
    both_sides,
    interval,
    number,
    text,
    text_cell,
)
from actbench.report.figures.palette import SIGNS


def p_text(p: float) -> str:
    """A p-value without its equals sign."""
    return p_value(p).removeprefix("= ")


def verdict_cell(row: Row) -> TableCell:
    """Formats a verdict with its sign, after failures where they come first; it says if it is inside the margin."""
    first = "failures first; " if row["failures_first"] else ""
    inside = ", inside margin" if row["inside_margin"] and row["verdict"] != "equivalent" else ""
    return TableCell(f"{first}{SIGNS[row['verdict']]} {row['verdict']}{inside}", row["verdict"])


WHOLE, THOUSANDS, TWO, SIGNED = "{:d}".format, "{:,d}".format, "{:z.2f}".format, "{:+z.2f}".format
COMPARISONS: Columns = (
    (TableColumn("verdict", number=False), verdict_cell),
    (TableColumn("difference", "points"), number("difference", points)),
    (TableColumn("interval", "points"), interval("difference", SIGNED, 100)),
    (TableColumn("pairs"), number("pairs", WHOLE)),
    (TableColumn("p"), number("p", p_text)),
    (TableColumn("adjusted p"), number("adjusted_p", p_text)),
    (TableColumn("p of equivalence"), number("adjusted_equivalence_p", p_text)),
    (TableColumn("P(better)"), number("probability_better", TWO)),
    (TableColumn("effect", "sd"), number("effect", SIGNED)),
    (TableColumn("median", "points"), number("median", points)),
    (TableColumn("with time", number=False), text("with_time")),
    (TableColumn("more pairs"), number("more_pairs", THOUSANDS)),
)
FEWER = {"better": "less often", "worse": "more often", "undecided": "undecided"}
FAILURES: Columns = (
    (TableColumn("arm failed"), number("arm_failed", WHOLE)),
    (TableColumn("baseline failed"), number("baseline_failed", WHOLE)),
    (TableColumn("pairs"), number("pairs", WHOLE)),
    (TableColumn("rates", "points"), number("failure_rate_difference", points)),
    (TableColumn("interval of rates", "points"), interval("failure_rate_difference", SIGNED, 100)),
    (TableColumn("adjusted p of rates"), number("adjusted_failure_p", p_text)),
    (TableColumn("arm fails", number=False), lambda row: text_cell(FEWER[row["failure_verdict"]])),
    (TableColumn("both train"), number("trained_pairs", WHOLE)),
    (TableColumn("difference", "points"), number("trained_difference", points)),
    (TableColumn("interval", "points"), interval("trained_difference", SIGNED, 100)),
    (TableColumn("adjusted p"), number("adjusted_trained_p", p_text)),
    (TableColumn("where both train", number=False), text("trained_verdict")),
    (TableColumn("all seeds", number=False), text("verdict")),
)
RATIO = "{:.3f}".format
PRICES: Columns = (
    (TableColumn("a step", "ratio"), number("step_time_ratio", RATIO)),
    (TableColumn("interval"), interval("step_time_ratio", RATIO)),
    (TableColumn("p"), number("step_time_p", p_text)),
    (TableColumn("time", number=False), text("time")),
    (TableColumn("val at equal time", "points"), number("equal_time_difference", points)),
    (TableColumn("interval", "points"), interval("equal_time_difference", SIGNED, 100)),
    (TableColumn("verdict on val", number=False), text("equal_time_verdict")),
    (TableColumn("epochs", number=False), both_sides("epochs", three_digits)),
    (TableColumn("target", "% on val"), number("target", "{:.1f}".format, 100)),
    (TableColumn("reached by", "seeds", number=False), both_sides("reached", WHOLE)),
    (TableColumn("median", "epochs", number=False), both_sides("epochs_to_target", three_digits)),
    (TableColumn("median", "s a replicate", number=False), both_sides("time_to_target_s", three_digits)),
    (TableColumn("kept", "bytes an element", number=False), both_sides("saved_bytes", "{:g}".format)),
)
SECONDARY = (
    TableColumn("measure", number=False),
    TableColumn("arm against baseline"),
    TableColumn("interval"),
    TableColumn("unit", number=False),
    TableColumn("pairs"),
    TableColumn("p"),
    TableColumn("effect", "sd"),
)
MEASURES = {  # measures beside accuracy: name, form, scale and unit
    "test_loss_difference": (OUTCOMES["test_loss"], "{:+z.4f}".format, 1, "nats"),
    "test_ece_difference": (OUTCOMES["test_ece"], SIGNED, 100, "points"),
    "memory_ratio": ("peak memory", TWO, 1, "ratio"),
}
ARMS: Columns = (
    (TableColumn("seeds"), number("seeds", WHOLE)),
    (TableColumn("test accuracy", "%"), number("test_accuracy", TWO, 100)),
    (TableColumn("interval", "%"), interval("test_accuracy", TWO, 100)),
    (TableColumn("sd", "points"), number("test_accuracy_sd", TWO, 100)),
    (TableColumn("test loss", "nats"), number("test_loss", "{:z.4f}".format)),
    (TableColumn("calibration error", "%"), number("test_ece", TWO, 100)),
    (TableColumn("val accuracy", "%"), number("val_accuracy", TWO, 100)),
    (TableColumn("failed"), number("failed", WHOLE)),
    (TableColumn("diverged"), number("diverged", WHOLE)),
    (TableColumn("epochs"), number("epochs", "{:zg}".format)),
    (TableColumn("an epoch", "ms"), number("epoch_time_s", three_digits, 1000, starred=True)),
    (TableColumn("memory", "MiB"), number("peak_memory_mb", "{:,.0f}".format)),
    (TableColumn("parameters"), number("parameters", THOUSANDS)),
)
NOISE: Columns = (
    (TableColumn("of", number=False), lambda row: text_cell(difference_name(row))),
    (TableColumn("part", number=False), text("part")),
    (TableColumn("sd", "points"), number("sd", TWO, 100)),
    (TableColumn("interval", "points"), interval("sd", TWO, 100)),
    (TableColumn("share", "% of variance"), number("share", "{:.0f}".format, 100)),
    (TableColumn("interval of share", "%"), interval("share", "{:.0f}".format, 100)),
    (TableColumn("degrees of freedom"), number("freedom", WHOLE)),
    (TableColumn("replicates"), number("replicates", WHOLE)),
    (TableColumn("failed"), number("failed", WHOLE)),
)
STANDINGS: Columns = (
    (TableColumn("interquartile mean", "%"), number("interquartile_mean", TWO, 100)),
    (TableColumn("interval", "%"), interval("interquartile_mean", TWO, 100)),
    (TableColumn("mean rank"), number("rank", TWO)),
    (TableColumn("interval of rank"), interval("rank", TWO)),
)


def tables(results: StudyResults) -> list[ReportTable]:
    """The tables that have rows: comparisons, failures, prices, other measures, mechanism, arms, and standings.

    Failures stand first where they come first in a comparison.
    """
    question = results.question
    several = {"dataset": len(question.datasets) > 1, "network": len(question.networks) > 1}
    where = [name for name, use in several.items() if use]
    suffix = "" if where else f", on {question.panels[0].title}"
    all_pairs = question.comparisons == "all"
    minus = f"arm minus {'baseline' if all_pairs else question.baseline}{suffix}"
    names = name_columns([*where, "arm", "baseline"] if all_pairs else [*where, "arm"])
    tuned = [tuning.setting for tuning in results.tunings[:1]]
    settings = [(TableColumn(name.rpartition(".")[2]), number(name, "{:zg}".format)) for name in tuned]
    comparisons = comparison_frame(results)
    secondary = ReportTable(
        "secondary",
        f"Beside accuracy, {minus}: outside the family, so p is not corrected; less is better",
        [*(column for column, _ in names), *SECONDARY],
        [
            [*(format_cell(row) for _, format_cell in names), *cells]
            for row in comparisons.iter_rows(named=True)
            for cells in secondary_cells(row)
        ],
    )
    standings = [*name_columns(["network", "arm"]), *STANDINGS]
    failures = format_table("failures", f"Failures to train, {minus}", [*names, *FAILURES], failure_frame(results))
    seen = format_table("comparisons", f"Comparisons, {minus}", [*names, *COMPARISONS], comparisons)
    seen = seen._replace(notes=list(table_notes(results)))
    found = [
        *([failures, seen] if comparisons["failures_first"].any() else [seen, failures]),
        condition_table(results, comparisons),
        noise_table(results, name_columns(where), suffix),
        format_table(
            "price", f"Price, arm / baseline{suffix}: outside the family", [*names, *PRICES], price_frame(results)
        ),
        secondary,
        *mechanism_tables(site_difference_frame(results), names, minus),
        format_table("arms", f"Arms{suffix}", [*name_columns([*where, "arm"]), *settings, *ARMS], arm_frame(results)),
        format_table("standings", "Arms over all datasets", standings, standing_frame(results)),
    ]
    return [table for table in found if table.rows]


def mechanism_tables(frame: pl.DataFrame, names: Columns, minus: str) -> Iterator[ReportTable]:
    """Differences in the mechanism after training, and how they go with the score, a row for each call."""
    by_call: dict[tuple[Any, ...], dict[str, Row]] = {}
    keys = ("dataset", "network", "arm", "baseline", "site", "layer")
    for row in frame.to_dicts():
        by_call.setdefault(tuple(row[key] for key in keys), {})[row["statistic"]] = row
    statistics = {**STATISTICS, "rank": RANK}
    units = {name: "points" if statistic.is_share else "" for name, statistic in statistics.items()}
    apart = "outside the family and not corrected"
    for quantity, title, note in (
        ("difference", f"Mechanism after training, {minus}, with intervals: {apart}", ()),
        (
            "correlation",
            f"Rank correlation over seeds of the difference in mechanism with that in test accuracy, {minus}: {apart}",
            ("What goes with a score is not a cause of it. A dash stands where one of the two does not vary.",),
        ),
    ):
        columns = [
            *(column for column, _ in names),
            *(TableColumn(name, number=False) for name in ("call of the activation", "behind")),
            TableColumn("pairs"),
            *(
                TableColumn(statistic.title, units[name] if quantity == "difference" else "")
                for name, statistic in statistics.items()
            ),
        ]
        rows = [
            [
                *(format_cell({**dict(zip(keys, call, strict=True))}) for _, format_cell in names),
                text_cell(call[-2]),
                text_cell(call[-1] or NONE),
                TableCell(f"{most_pairs(found)}", most_pairs(found)),
                *(with_interval(found.get(name), quantity, units[name]) for name in statistics),
            ]
            for call, found in by_call.items()
        ]
        name = f"mechanism-{quantity}"
        yield ReportTable(name, title, columns, rows, note)


def most_pairs(found: Mapping[str, Row]) -> int:
    """The most pairs of any statistic of a call."""
    return max(int(row["pairs"]) for row in found.values())


def with_interval(row: Row | None, name: str, unit: str) -> TableCell:
    """A number with its interval, in points or with three digits; a dash where it is not known."""
    if row is None or row[name] is None:
        return TableCell(NONE, None)
    scale = 100 if unit == "points" and name == "difference" else 1
    form = SIGNED if name == "correlation" else "{:+z.1f}".format if scale == 100 else "{:+.3g}".format
    value, low, high = (form(scale * row[bound]) for bound in (name, f"{name}_low", f"{name}_high"))
    return TableCell(f"{value} ({low} to {high})", row[name])


def condition_table(results: StudyResults, comparisons: pl.DataFrame) -> ReportTable:
    """The verdict and difference of each comparison under each condition, side by side."""
    conditions = {"": "as usual", **{condition: condition for condition in results.question.conditions}}
    rows = {(row["dataset"], row["network"], row["arm"], row["baseline"]): row for row in comparisons.to_dicts()}
    lines = []
    for found in by_condition(results.conclusion):
        for arm, baseline in found.verdicts:
            networks = [condition_name(found.network, condition) for condition in conditions]
            cells = [rows[found.dataset, network, arm, baseline] for network in networks]
            named = [text_cell(name) for name in (found.dataset, found.network, arm, baseline)]
            seen = number("difference", SIGNED, 100)
            lines.append([*named, *(text_cell(f"{verdict_cell(row).text} {seen(row).text}") for row in cells)])
    names = ("dataset", "network", "arm", "against", *conditions.values())
    title = "Verdicts under each condition, with the difference in points"
    return ReportTable("conditions", title, [TableColumn(name, number=False) for name in names], lines)


def noise_table(results: StudyResults, places: Columns, suffix: str) -> ReportTable:
    """Components of variance, where seeds were crossed."""
    title = f"Where the noise is: test accuracy of arms, and their differences{suffix}"
    return format_table("variance", title, [*places, *NOISE], noise_frame(results))._replace(notes=[NOISE_CLAIM])


def difference_name(row: Row) -> str:
    """The name of an arm, or of its difference to the baseline."""
    return str(row["arm"]) if row["baseline"] is None else f"{row['arm']} – {row['baseline']}"


def table_notes(results: StudyResults) -> Iterator[str]:
    """Why the numbers of a comparison seem to contradict each other."""
    for finding in results.conclusion.findings:
        reasons = " ".join(contradiction_sentences(finding.judgement, results.question))
        if reasons:
            comparison = finding.comparison
            where = Panel(comparison.dataset or "the mean of all", comparison.network).title
            yield f"{comparison.arm} against {comparison.baseline} on {where}: {reasons}"


def name_columns(names: Sequence[str]) -> Columns:
    """Columns of names; a comparison without a dataset is that of the mean over all."""
    return [(TableColumn(name, number=False), text(name, "mean of all")) for name in names]


def format_table(name: str, title: str, columns: Columns, frame: pl.DataFrame) -> ReportTable:
    """The table with these columns and a row for each row of the frame."""
    rows = [[format_cell(row) for _, format_cell in columns] for row in frame.iter_rows(named=True)]
    return ReportTable(name, title, [column for column, _ in columns], rows)


def secondary_cells(row: Row) -> Iterator[list[TableCell]]:
    """Cells of `SECONDARY` for each measure of a comparison beside accuracy: losses by seed, memory by fit."""
    fits = TableCell(count(row["fits"] or 0, "fit"), row["fits"])
    for name, (measure, form, scale, unit) in MEASURES.items():
        if row[name] is not None:
            pairs = number(name.replace("difference", "pairs"), WHOLE)
            yield [
                text_cell(measure),
                number(name, form, scale)(row),
                interval(name, form, scale)(row),
                text_cell(unit),
                fits if unit == "ratio" else pairs(row),
                number(f"{name}_p", p_text)(row),
                number(f"{name}_effect", SIGNED)(row),
            ]
