"""All numbers of a study in a few tables, for the page, for Markdown and for LaTeX."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from actbench.plots.cost import mean, median_cost
from actbench.plots.figure import known_scores, of_panel, panels
from actbench.plots.palette import SIGNS
from actbench.stats import Interval
from actbench.verdict import Finding, Told, p_value, points
from actbench.verdict.words import OUTCOMES, count

NONE = "–"
LATEX = {**{of: f"\\{of}" for of in "&%$#_{}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
LATEX |= {"^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "–": "--"}
LATEX |= {"▲": r"$\blacktriangle$", "▼": r"$\blacktriangledown$", "◆": r"$\blacklozenge$", "○": r"$\circ$"}


class Column(NamedTuple):
    """What stands in a column, and its unit; numbers stand on the right."""

    name: str
    unit: str = ""
    number: bool = True

    @property
    def heading(self) -> str:
        """Name and unit in one."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


class Cell(NamedTuple):
    """Text, and the number or name that it is sorted by: None comes last."""

    text: str
    value: float | str | None


class Table(NamedTuple):
    """A title, columns, and rows with a cell for each."""

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


def tables(told: Told) -> list[Table]:
    """Comparisons, what is beside accuracy, arms, and standings over several datasets: those that have rows."""
    found = [comparison_table(told), secondary_table(told), arm_table(told), standing_table(told)]
    return [table for table in found if table.rows]


def word(text: str) -> Cell:
    """A cell that holds text."""
    return Cell(text, text)


def number(value: float | None, form: str = "{:z.3g}", scale: float = 1) -> Cell:
    """A cell that holds a number, or a dash."""
    if value is None or not math.isfinite(value):
        return Cell(NONE, None)
    return Cell(form.format(scale * value), value)


def between(interval: Interval | None, form: str, scale: float = 1) -> Cell:
    """A cell that holds the bounds of an interval, sorted by the lower one."""
    if interval is None or not math.isfinite(interval.low):
        return Cell(NONE, None)
    return Cell(f"{form.format(scale * interval.low)} to {form.format(scale * interval.high)}", interval.low)


COMPARISONS = (
    Column("verdict", number=False),
    Column("difference", "points"),
    Column("interval", "points"),
    Column("pairs"),
    Column("p"),
    Column("adjusted p"),
    Column("p of equivalence"),
    Column("P(better)"),
    Column("effect", "sd"),
    Column("time", "ratio"),
    Column("with time", number=False),
    Column("more pairs"),
)
SECONDARY = (
    Column("measure", number=False),
    Column("arm against baseline"),
    Column("interval"),
    Column("unit", number=False),
    Column("pairs"),
    Column("p"),
    Column("effect", "sd"),
)


def comparison_table(told: Told) -> Table:
    """Each comparison, arm minus baseline."""
    labels, minus = compared(told)
    rows = [[*labelled(of, labels), *comparison_row(of)] for of in told.conclusion.findings]
    columns = [*(Column(name, number=False) for name in labels), *COMPARISONS]
    return Table("comparisons", f"Comparisons, {minus}{where(told)}", columns, rows)


def secondary_table(told: Told) -> Table:
    """What is beside accuracy in each comparison: losses and calibration by seed, time and memory by fit."""
    labels, minus = compared(told)
    rows = [
        [*labelled(finding, labels), *cells]
        for finding in told.conclusion.findings
        for cells in secondary_rows(finding)
    ]
    columns = [*(Column(name, number=False) for name in labels), *SECONDARY]
    title = f"Beside accuracy, {minus}{where(told)}: outside the family, so p is not corrected; less is better"
    return Table("secondary", title, columns, rows)


def compared(told: Told) -> tuple[list[str], str]:
    """The columns that name a comparison, and what is subtracted from what."""
    all_pairs = told.question.comparisons == "all"
    minus = f"arm minus {'baseline' if all_pairs else told.question.baseline}"
    return names(told, ["arm", "baseline"] if all_pairs else ["arm"]), minus


def labelled(finding: Finding, labels: Sequence[str]) -> list[Cell]:
    """The cells that name a comparison."""
    of = finding.comparison._asdict()
    return [word(of[name] or "mean of all") for name in labels]


def names(told: Told, more: Sequence[str]) -> list[str]:
    """Columns of names, those of datasets and networks only where there are several."""
    several = {"dataset": len(told.question.datasets) > 1, "network": len(told.question.networks) > 1}
    return [*(name for name, use in several.items() if use), *more]


def where(told: Told) -> str:
    """The dataset and the network, where there is one of each."""
    alone = panels(told)
    return f", on {alone[0].title}" if len(alone) == 1 else ""


def comparison_row(finding: Finding) -> list[Cell]:
    """Its cells, in the order of `COMPARISONS`, without names."""
    of, costs = finding.judgement, finding.cost
    inside = ", inside margin" if of.inside_margin and of.verdict != "equivalent" else ""
    busy = "*" if costs and costs.busy else ""
    return [
        Cell(f"{SIGNS[of.verdict]} {of.verdict}{inside}", of.verdict),
        Cell(points(of.difference.estimate), of.difference.estimate) if of.difference else Cell(NONE, None),
        between(of.difference, "{:+z.2f}", 100),
        number(of.pairs, "{:d}"),
        *(Cell(p_value(p).removeprefix("= "), p) for p in (of.p, of.adjusted_p, of.adjusted_equivalence_p)),
        number(of.superiority.estimate if of.superiority else None, "{:z.2f}"),
        number(of.effect, "{:+z.2f}"),
        number(costs.time.ratio.estimate if costs else None, "{:z.2f}" + busy),
        word(finding.joint or NONE),
        number(finding.more_pairs, "{:,d}"),
    ]


def secondary_rows(finding: Finding) -> Iterator[list[Cell]]:
    """Its rows, in the order of `SECONDARY`, without names."""
    forms = {"test_loss": ("{:+z.4f}", 1, "nats"), "test_ece": ("{:+z.2f}", 100, "points")}
    for of in finding.secondary:
        form, scale, unit = forms[of.outcome]
        if of.difference:
            shown = [
                number(of.difference.estimate, form, scale),
                between(of.difference, form, scale),
                word(unit),
                number(of.pairs, "{:d}"),
            ]
            yield [word(OUTCOMES[of.outcome]), *shown, *tested(of.p, of.effect)]
    costs = finding.cost
    if costs:
        busy = ", busy machine" if costs.busy else ""
        for name, ratio in {f"time of an epoch{busy}": costs.time, "peak memory": costs.memory}.items():
            if ratio:
                shown = [
                    number(ratio.ratio.estimate, "{:z.2f}"),
                    between(ratio.ratio, "{:z.2f}"),
                    word("ratio"),
                    Cell(count(costs.fits, "fit"), costs.fits),
                ]
                yield [word(name), *shown, *tested(ratio.p, ratio.effect)]


def tested(p: float, effect: float) -> list[Cell]:
    """A p-value and an effect."""
    return [Cell(p_value(p).removeprefix("= "), p), number(effect, "{:+z.2f}")]


ARMS = (
    Column("seeds"),
    Column("test accuracy", "%"),
    Column("interval", "%"),
    Column("sd", "points"),
    Column("test loss", "nats"),
    Column("calibration error", "%"),
    Column("val accuracy", "%"),
    Column("diverged"),
    Column("epochs"),
    Column("an epoch", "ms"),
    Column("memory", "MiB"),
    Column("parameters"),
)


def arm_table(told: Told) -> Table:
    """Each arm by itself. A replicate that has diverged counts as guessing in test accuracy, and in no other mean."""
    known = known_scores(told)
    tuned = {(of.dataset, of.network, of.arm): of.chosen for tuning in told.tunings for of in tuning.arms}
    setting = [Column(tuning.setting.rpartition(".")[2]) for tuning in told.tunings[:1]]
    labels = names(told, ["arm"])
    rows = []
    for panel in panels(told):
        for arm in told.question.arms:
            own = of_panel(told.table, panel, arm)
            if len(own):
                scores = np.array(list(known.get((*panel, arm), {}).values()))
                chosen = [number(tuned.get((*panel, arm)), "{:zg}")] if setting else []
                of = {**panel._asdict(), "arm": arm}
                rows.append([*(word(of[name]) for name in labels), *chosen, *arm_row(own, scores, told.question.alpha)])
    columns = [*(Column(name, number=False) for name in labels), *setting, *ARMS]
    return Table("arms", f"Arms{where(told)}", columns, rows)


def arm_row(own: pl.DataFrame, scores: np.ndarray, alpha: float) -> list[Cell]:
    """Its cells, in the order of `ARMS`, without names."""
    accuracy = mean(scores, alpha) if len(scores) else None
    whole = own.filter(~pl.col("diverged"))
    averages: dict[str, Any] = {name: whole[name].mean() for name in ("test_loss", "test_ece", "val_accuracy")}
    time, memory = median_cost(own, "epoch_time_s"), median_cost(own, "peak_memory_mb")
    epochs, parameters = (whole if len(whole) else own)["epochs"].median(), own["parameters"][0]
    return [
        number(len(own), "{:d}"),
        number(accuracy.estimate if accuracy else None, "{:z.2f}", 100),
        between(accuracy, "{:z.2f}", 100),
        number(float(np.std(scores, ddof=1)) if len(scores) > 1 else None, "{:z.2f}", 100),
        number(averages["test_loss"], "{:z.4f}"),
        number(averages["test_ece"], "{:z.2f}", 100),
        number(averages["val_accuracy"], "{:z.2f}", 100),
        number(int(own["diverged"].sum()), "{:d}"),
        number(epochs, "{:zg}"),  # type: ignore[arg-type]
        number(time[0] if time else None, "{:z.3g}" + ("*" if time and time[1] else ""), 1000),
        number(memory[0] if memory else None, "{:,.0f}"),
        number(parameters, "{:,d}"),
    ]


def standing_table(told: Told) -> Table:
    """Arms over several datasets."""
    columns = [
        Column("network", number=False),
        Column("arm", number=False),
        Column("interquartile mean", "%"),
        Column("interval", "%"),
        Column("mean rank"),
        Column("interval of rank"),
    ]
    rows = [
        [
            word(of.network),
            word(of.arm),
            number(of.interquartile_mean.estimate, "{:z.2f}", 100),
            between(of.interquartile_mean, "{:z.2f}", 100),
            number(of.rank.estimate, "{:z.2f}"),
            between(of.rank, "{:z.2f}"),
        ]
        for of in told.conclusion.standings
    ]
    return Table("standings", "Arms over all datasets", columns, rows)


def markdown(table: Table) -> str:
    """A table as Markdown."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    rows = [[re.sub(r"([\\|`*_<>\[\]])", r"\\\1", " ".join(of.text.split())) for of in row] for row in table.rows]
    rule = ["---:" if column.number else "---" for column in table.columns]
    head = [line([column.heading for column in table.columns]), line(rule)]
    return "\n".join([f"**{table.title}**", "", *head, *map(line, rows), ""])


def latex(table: Table) -> str:
    """A table as LaTeX, which needs the packages booktabs and amssymb."""

    def line(cells: Sequence[str]) -> str:
        return rf"{' & '.join(cells)} \\"

    def escaped(text: str) -> str:
        return "".join(LATEX.get(letter, letter) for letter in text)

    columns = "".join("r" if column.number else "l" for column in table.columns)
    head = line([escaped(column.heading) for column in table.columns])
    rows = [line([escaped(" ".join(of.text.split())) for of in row]) for row in table.rows]
    return "\n".join(
        [
            "% needs \\usepackage{booktabs,amssymb}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            head,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )
