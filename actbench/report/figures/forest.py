"""Forest plots: paired differences with their intervals, and the margin inside which no difference matters."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import altair as alt
import polars as pl

from actbench.inference.verdict import Finding, StudyResults, points
from actbench.inference.verdict.findings import Conclusion
from actbench.inference.verdict.phrases import count, listed
from actbench.inference.verdict.question import Panel
from actbench.report.figures.figure import (
    HALF_MORE,
    SENTENCE,
    Figure,
    Layers,
    labels,
    padded,
    rows_axis,
    shorten,
    tooltips,
    unvalidated,
)
from actbench.report.figures.palette import INK, PAPER, RULE, SYMBOLS, VERDICTS

MOST = 60  # rows of a panel; a panel of more shows only comparisons with the study's baseline
ROW = 26  # pixels


@unvalidated
def forest_figures(results: StudyResults) -> list[Figure]:
    """A figure for the mean over datasets, and for each dataset and network; arms in the same order, best first."""
    panels: dict[tuple[str | None, str], list[Finding]] = {}
    for finding in results.conclusion.findings:
        panels.setdefault(finding.comparison[:2], []).append(finding)
    order, figures, baseline = best_first(results.conclusion), [], results.question.baseline
    for number, (dataset, network) in enumerate(sorted(panels, key=lambda panel: panel[0] is not None)):
        findings = panels[dataset, network]
        shown = [finding for finding in findings if len(findings) <= MOST or finding.comparison.baseline == baseline]
        shown.sort(key=lambda finding: order[finding.comparison[2:]])
        name = f"forest-{number}"
        title = Panel(dataset or f"Mean over {len(results.question.datasets)} datasets", network).title
        several = any(finding.comparison.baseline != baseline for finding in shown)
        names = [" – ".join(finding.comparison[2:]) if several else finding.comparison.arm for finding in shown]
        figure = Figure(
            name,
            title,
            count_verdicts(findings, left_out=len(findings) - len(shown)),
            forest_chart(name, shown, results, against="" if several else baseline),
            forest_rows(shown),
            {"names": labels(names), "numbers": [interval_label(finding) for finding in shown]},
            "forest",
            panel=Panel(dataset or "all", network),
            inches=HALF_MORE,
        )
        figures.append(figure)
    return figures


def best_first(conclusion: Conclusion) -> dict[tuple[str, str], int]:
    """Rank of each pair of arms by its mean difference over all panels; pairs without a difference come last."""
    differences: dict[tuple[str, str], list[float]] = {}
    for finding in conclusion.findings:
        difference = finding.judgement.difference
        differences.setdefault(finding.comparison[2:], []).extend([difference.estimate] if difference else [])
    ranked = sorted(differences, key=lambda pair: -fmean(differences[pair]) if differences[pair] else math.inf)
    return {pair: rank for rank, pair in enumerate(ranked)}


def count_verdicts(findings: Sequence[Finding], *, left_out: int) -> str:
    """The verdicts of a panel in words, the largest differences first."""

    def size(finding: Finding) -> float:
        return abs(finding.judgement.difference.estimate) if finding.judgement.difference else 0

    def in_words(finding: Finding) -> str:
        difference = finding.judgement.difference
        value = f"{points(difference.estimate)} points" if difference else "too few pairs"
        return f"{' to '.join(shorten(arm, SENTENCE) for arm in finding.comparison[2:])} {value}"

    parts = []
    for verdict in VERDICTS:
        same = sorted((finding for finding in findings if finding.judgement.verdict == verdict), key=size, reverse=True)
        if same:
            parts.append(f"{len(same)} {verdict} ({listed([in_words(finding) for finding in same], 4)})")
    rest = f" {left_out} more comparisons stand in the table." if left_out else ""
    return f"Of {count(len(findings), 'comparison')}: {', '.join(parts)}.{rest}"


def forest_rows(findings: Sequence[Finding]) -> pl.DataFrame:
    """A row for each comparison that has a difference, in percentage points."""
    schema = {"row": pl.Int64, "comparison": pl.String, "verdict": pl.String, "pairs": pl.Int64}
    schema |= {"estimate": pl.Float64, "low": pl.Float64, "high": pl.Float64, "numbers": pl.String}
    rows = []
    for row, finding in enumerate(findings):
        judgement = finding.judgement
        if judgement.difference:
            sides = " against ".join(map(shorten, finding.comparison[2:]))
            bounds = map(clipped_points, judgement.difference)
            rows.append((row, sides, judgement.verdict, judgement.pairs, *bounds, interval_label(finding)))
    return pl.DataFrame(rows, schema=schema, orient="row")


def forest_chart(name: str, findings: Sequence[Finding], results: StudyResults, *, against: str) -> Layers:
    """Rows from top to bottom. The numbers beside them are labels of an axis, which has room for them in any font."""
    margin, number, rows = 100 * results.question.margin, len(findings), alt.Chart(alt.NamedData(name))
    title = ["percentage points", *([f"arm minus {shorten(against)}"] if against else [])]
    differences = [finding.judgement.difference for finding in findings if finding.judgement.difference]
    low = min([-margin, *(clipped_points(difference.low) for difference in differences)])
    high = max([margin, *(clipped_points(difference.high) for difference in differences)])
    scale = alt.Scale(domain=padded(low, high), nice=False)
    tones, verdicts = [tone.light for tone in VERDICTS.values()], {finding.judgement.verdict for finding in findings}
    legend = alt.Legend(title=None, values=[verdict for verdict in VERDICTS if verdict in verdicts])

    def by_verdict(channel: Any, values: Sequence[str]) -> Any:
        return channel("verdict:N", scale=alt.Scale(domain=list(VERDICTS), range=values), legend=legend)

    stroke = by_verdict(alt.Stroke, tones)
    inside = alt.Legend(title=None, symbolStrokeWidth=0, symbolType="square")
    band = alt.Chart(alt.InlineData([{"inside": "within the margin"}])).mark_rect()
    band = band.encode(
        x=alt.X(datum=-margin, type="quantitative", scale=scale, axis=alt.Axis(title=title)),
        x2=alt.X2Datum(margin),
        color=alt.Color("inside:N", scale=alt.Scale(range=[RULE.light]), legend=inside),
    )
    zero = alt.Chart(alt.InlineData([{}])).mark_rule(color=INK.light).encode(x=alt.X(datum=0, type="quantitative"))
    intervals = rows.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", scale=scale), x2=alt.X2("high:Q"), y=rows_axis(number), stroke=stroke
    )
    estimates = rows.mark_point(opacity=1, size=80).encode(
        x="estimate:Q",
        y=rows_axis(number, names="numbers", orient="right"),
        stroke=stroke,
        fill=by_verdict(alt.Fill, [*tones[:-1], PAPER.light]),  # the last is undecided
        shape=by_verdict(alt.Shape, list(SYMBOLS.values())),
        tooltip=tooltips("comparison", "verdict", "numbers", "pairs"),
    )
    left = alt.layer(band, zero, intervals)
    both: Layers = alt.layer(left, estimates.properties(name="estimates")).resolve_scale(y="independent")
    return both.properties(height=ROW * max(number, 1))


def clipped_points(fraction: float) -> float:
    """A difference of accuracies in points, at most 100 of which are drawn: an interval may have no end."""
    return min(max(100 * fraction, -100.0), 100.0)


def interval_label(finding: Finding) -> str:
    """Difference and interval in points."""
    difference = finding.judgement.difference
    if difference is None:
        return f"{finding.judgement.pairs} pairs: none yet"
    return f"{points(difference.estimate)} ({points(difference.low)} to {points(difference.high)})"
