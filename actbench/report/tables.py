"""The numbers of a study in a few tables, for the terminal, the page, Markdown and LaTeX."""

import html
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from actbench.inference.frames import (
    arm_frame,
    comparison_frame,
    failure_frame,
    noise_frame,
    price_frame,
    standing_frame,
)
from actbench.inference.verdict import StudyResults, p_value, points
from actbench.inference.verdict.conditions import by_condition
from actbench.inference.verdict.noise import NOISE_CLAIM
from actbench.inference.verdict.part_words import contradiction_sentences
from actbench.inference.verdict.phrases import count
from actbench.inference.verdict.question import Panel, condition_name
from actbench.inference.verdict.words import OUTCOMES
from actbench.report.figures.palette import SIGNS

NONE = "–"
LATEX = str.maketrans(
    {letter: f"\\{letter}" for letter in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "–": "--"}
    | {"▲": r"$\blacktriangle$", "▼": r"$\blacktriangledown$", "◆": r"$\blacklozenge$", "○": r"$\circ$"}
)


class TableColumn(NamedTuple):
    """Heading of a column, its unit, and whether it holds numbers, which are set on the right."""

    name: str
    unit: str = ""
    number: bool = True

    @property
    def heading(self) -> str:
        """Name and unit in one text."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


class TableCell(NamedTuple):
    """A text, and the number or name by which it is sorted; None comes last."""

    text: str
    value: float | str | None


class ReportTable(NamedTuple):
    """A title, columns, and rows with a cell for each; ``notes`` stand below."""

    name: str
    title: str
    columns: Sequence[TableColumn]
    rows: Sequence[Sequence[TableCell]]
    notes: Sequence[str] = ()


Row = Mapping[str, Any]  # of a frame of numbers
Formatter = Callable[[Row], TableCell]
Columns = Sequence[tuple[TableColumn, Formatter]]


def number(name: str, form: Callable[[Any], str], scale: float = 1, *, starred: bool = False) -> Formatter:
    """Formats a number, or a dash where it is not known; a star marks a time measured on a busy machine."""

    def format_cell(row: Row) -> TableCell:
        value = row[name]
        if value is None:
            return TableCell(NONE, None)
        star = "*" if starred and row["busy"] else ""
        return TableCell(form(scale * value) + star, value)

    return format_cell


def interval(name: str, form: Callable[[Any], str], scale: float = 1) -> Formatter:
    """Formats the bounds of an interval, sorted by the lower bound."""

    def format_cell(row: Row) -> TableCell:
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        return TableCell(NONE, None) if low is None else TableCell(f"{form(scale * low)} to {form(scale * high)}", low)

    return format_cell


def both_sides(name: str, form: Callable[[Any], str]) -> Formatter:
    """Formats a number of the arm and the same of the baseline."""

    def format_cell(row: Row) -> TableCell:
        values = [row[f"{side}_{name}"] for side in ("arm", "baseline")]
        texts = [NONE if value is None else form(value) for value in values]
        return TableCell(NONE, None) if values == [None, None] else TableCell(" / ".join(texts), values[0])

    return format_cell


def text_cell(text: str) -> TableCell:
    """A cell that is sorted by its text."""
    return TableCell(text, text)


def text(name: str, missing: str = NONE) -> Formatter:
    """Formats a name or a word; ``missing`` stands for null."""
    return lambda row: text_cell(row[name] or missing)


def p_text(p: float) -> str:
    """A p-value without its equals sign."""
    return p_value(p).removeprefix("= ")


def verdict_cell(row: Row) -> TableCell:
    """Formats a verdict with its sign, after failures where they come first; it says if it is inside the margin."""
    first = "failures first; " if row["failures_first"] else ""
    inside = ", inside margin" if row["inside_margin"] and row["verdict"] != "equivalent" else ""
    return TableCell(f"{first}{SIGNS[row['verdict']]} {row['verdict']}{inside}", row["verdict"])


def three_digits(value: float) -> str:
    """A positive number with three digits, or rounded to ones where it has more before the point."""
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


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
    (TableColumn("epochs", number=False), both_sides("epochs", "{:.3g}".format)),
    (TableColumn("target", "% on val"), number("target", "{:.1f}".format, 100)),
    (TableColumn("reached by", "seeds", number=False), both_sides("reached", WHOLE)),
    (TableColumn("median", "epochs", number=False), both_sides("epochs_to_target", "{:.3g}".format)),
    (TableColumn("median", "s a replicate", number=False), both_sides("time_to_target_s", "{:.3g}".format)),
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
    """The tables that have rows: comparisons, failures to train, prices, other measures, arms, and standings.

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
        format_table("arms", f"Arms{suffix}", [*name_columns([*where, "arm"]), *settings, *ARMS], arm_frame(results)),
        format_table("standings", "Arms over all datasets", standings, standing_frame(results)),
    ]
    return [table for table in found if table.rows]


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


def markdown(table: ReportTable) -> str:
    """A table as Markdown."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def escape(text: str) -> str:
        return re.sub(r"([\\|`*_!#~\[\]])", r"\\\1", " ".join(html.escape(text, quote=False).split()))

    rule = ["---:" if column.number else "---" for column in table.columns]
    head = [line([escape(column.heading) for column in table.columns]), line(rule)]
    rows = [line([escape(cell.text) for cell in row]) for row in table.rows]
    notes = [part for note in table.notes for part in (escape(note), "")]
    return "\n".join([f"**{escape(table.title)}**", "", *head, *rows, "", *notes])


def latex(table: ReportTable) -> str:
    """A table as LaTeX, which needs the packages booktabs and amssymb."""

    def line(cells: Sequence[str]) -> str:
        return rf"{' & '.join(' '.join(cell.split()).translate(LATEX) for cell in cells)} \\"

    columns = "".join("r" if column.number else "l" for column in table.columns)
    head = line([column.heading for column in table.columns])
    rows = [line([cell.text for cell in row]) for row in table.rows]
    start = [r"% needs \usepackage{booktabs,amssymb}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    notes = [rf"\par {{\footnotesize {' '.join(note.split()).translate(LATEX)}}}" for note in table.notes]
    return "\n".join([*start, head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", *notes, ""])
