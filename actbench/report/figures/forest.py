"""Paired differences with their intervals, and the margin inside which none matters."""

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from actbench.inference.verdict import Finding, StudyResults, points
from actbench.inference.verdict.findings import Conclusion
from actbench.inference.verdict.words import listed
from actbench.report.figures.figure import (
    HALF_MORE,
    Figure,
    Layers,
    Panel,
    called,
    labels,
    rows_axis,
    shorten,
    tooltips,
    with_room,
)
from actbench.report.figures.palette import INK, PAPER, RULE, SYMBOLS, VERDICTS

MOST = 60  # rows of a panel; beyond, those against the study's baseline
ROW = 26  # pixels


def forest_figures(results: StudyResults) -> list[Figure]:
    """One figure for the mean over datasets, and for each dataset and network; arms in one order, the best first."""
    grouped: dict[tuple[str | None, str], list[Finding]] = {}
    for finding in results.conclusion.findings:
        grouped.setdefault((finding.comparison.dataset, finding.comparison.network), []).append(finding)
    order = best_first(results.conclusion)
    panels, figures, baseline = sorted(grouped, key=lambda panel: panel[0] is not None), [], results.question.baseline
    for number, (dataset, network) in enumerate(panels):
        findings = grouped[dataset, network]
        found = [of for of in findings if len(findings) <= MOST or of.comparison.baseline == baseline]
        found.sort(key=lambda of: order[of.comparison[2:]])
        name, panel = f"forest-{number}", Panel(dataset or "all", network)
        title = f"{dataset or f'Mean over {len(results.question.datasets)} datasets'} with {network}"
        several = any(of.comparison.baseline != baseline for of in found)
        names = [" – ".join(of.comparison[2:]) if several else of.comparison.arm for of in found]
        params = {"names": labels(names), "numbers": [interval_label(of) for of in found]}
        chart = forest_chart(name, found, results, against="" if several else baseline)
        words, rows = count_verdicts(findings, left_out=len(findings) - len(found)), forest_rows(found)
        figures.append(Figure(name, title, words, chart, rows, params, "forest", panel=panel, inches=HALF_MORE))
    return figures


def best_first(conclusion: Conclusion) -> dict[tuple[str, str], int]:
    """Place of each pair of arms by its mean difference over all panels; those without one last, as planned."""
    seen: dict[tuple[str, str], list[float]] = {}
    for finding in conclusion.findings:
        difference = finding.judgement.difference
        seen.setdefault(finding.comparison[2:], []).extend([difference.estimate] if difference else [])
    ranked = sorted(seen, key=lambda key: -sum(seen[key]) / len(seen[key]) if seen[key] else math.inf)
    return {key: place for place, key in enumerate(ranked)}


def count_verdicts(findings: Sequence[Finding], *, left_out: int) -> str:
    """What the panel shows, in words."""
    parts = []
    for verdict in VERDICTS:
        own = [of for of in findings if of.judgement.verdict == verdict]
        if own:
            own.sort(key=lambda of: -abs(of.judgement.difference.estimate) if of.judgement.difference else 0)
            parts.append(f"{len(own)} {verdict} ({listed([short(of) for of in own], 4)})")
    more = f" {left_out} more comparisons stand in the table." if left_out else ""
    return f"Of {len(findings)} comparison{'' if len(findings) == 1 else 's'}: {', '.join(parts)}.{more}"


def short(finding: Finding) -> str:
    """A comparison in few words."""
    difference = finding.judgement.difference
    value = f"{points(difference.estimate)} points" if difference else "too few pairs"
    return f"{called(finding.comparison.arm)} to {called(finding.comparison.baseline)} {value}"


def forest_rows(findings: Sequence[Finding]) -> pl.DataFrame:
    """A row for each comparison that has a difference, in percentage points."""
    schema = {"row": pl.Int64, "comparison": pl.String, "verdict": pl.String, "pairs": pl.Int64}
    schema |= {"estimate": pl.Float64, "low": pl.Float64, "high": pl.Float64, "numbers": pl.String}
    found = []
    for place, of in enumerate(findings):
        if of.judgement.difference:
            sides = " against ".join(map(shorten, of.comparison[2:]))
            bounds = map(drawn, of.judgement.difference)
            found.append((place, sides, of.judgement.verdict, of.judgement.pairs, *bounds, interval_label(of)))
    return pl.DataFrame(found, schema=schema, orient="row")


def forest_chart(name: str, findings: Sequence[Finding], results: StudyResults, *, against: str) -> Layers:
    """Rows from top to bottom; the numbers beside them are labels of an axis, which has room for them in any font."""
    margin, number, rows = 100 * results.question.margin, len(findings), alt.Chart(alt.NamedData(name))
    title = ["percentage points", *([f"arm minus {shorten(against)}"] if against else [])]
    seen = [of.judgement.difference for of in findings if of.judgement.difference]
    low, high = min([-margin, *(drawn(of.low) for of in seen)]), max([margin, *(drawn(of.high) for of in seen)])
    scale = alt.Scale(domain=with_room(low, high), nice=False)
    tones, verdicts = [tone.light for tone in VERDICTS.values()], {of.judgement.verdict for of in findings}
    legend = alt.Legend(title=None, values=[verdict for verdict in VERDICTS if verdict in verdicts])

    def by_verdict(channel: Any, looks: Sequence[str]) -> Any:
        return channel("verdict:N", scale=alt.Scale(domain=list(VERDICTS), range=looks), legend=legend)

    stroke = by_verdict(alt.Stroke, tones)
    inside = alt.Legend(title=None, symbolStrokeWidth=0, symbolType="square")
    indifferent = alt.Chart(alt.InlineData([{"inside": "within the margin"}])).mark_rect()
    indifferent = indifferent.encode(
        x=alt.X(datum=-margin, type="quantitative", scale=scale, axis=alt.Axis(title=title)),
        x2=alt.X2Datum(margin),
        color=alt.Color("inside:N", scale=alt.Scale(range=[RULE.light]), legend=inside),
    )
    zero = alt.Chart(alt.InlineData([{}])).mark_rule(color=INK.light).encode(x=alt.X(datum=0, type="quantitative"))
    intervals = rows.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", scale=scale), x2="high:Q", y=rows_axis(number), stroke=stroke
    )
    estimates = rows.mark_point(opacity=1, size=80).encode(
        x="estimate:Q",
        y=rows_axis(number, names="numbers", orient="right"),
        stroke=stroke,
        fill=by_verdict(alt.Fill, [*tones[:-1], PAPER.light]),  # the last is undecided
        shape=by_verdict(alt.Shape, list(SYMBOLS.values())),
        tooltip=tooltips("comparison", "verdict", "numbers", "pairs"),
    )
    left = alt.layer(indifferent, zero, intervals)
    both: Layers = alt.layer(left, estimates.properties(name="estimates")).resolve_scale(y="independent")
    return both.properties(height=ROW * max(number, 1))


def drawn(fraction: float) -> float:
    """A difference of accuracies in points, of which no more than 100 are drawn: an interval may be without end."""
    return min(max(100 * fraction, -100.0), 100.0)


def interval_label(finding: Finding) -> str:
    """Difference and interval in points."""
    of = finding.judgement.difference
    if of is None:
        return f"{finding.judgement.pairs} pairs: none yet"
    return f"{points(of.estimate)} ({points(of.low)} to {points(of.high)})"
