"""Paired differences with their intervals, and the margin inside which none matters."""

import math
from collections.abc import Sequence

import altair as alt
import polars as pl

from actbench.plots.figure import HALF_MORE, Figure, Layers, Panel, called, labels, rows_axis, shorten, tooltips
from actbench.plots.palette import INK, PAPER, RULE, SYMBOLS, VERDICTS
from actbench.verdict import Finding, Told, points
from actbench.verdict.findings import Conclusion
from actbench.verdict.words import listed

MOST = 60  # rows of a panel; beyond, those against the study's baseline
ROW = 26  # pixels


def forest_figures(told: Told) -> list[Figure]:
    """One figure for the mean over datasets, and for each dataset and network; arms in one order, the best first."""
    grouped: dict[tuple[str | None, str], list[Finding]] = {}
    for finding in told.conclusion.findings:
        grouped.setdefault((finding.comparison.dataset, finding.comparison.network), []).append(finding)
    order = best_first(told.conclusion)
    figures = []
    for number, ((dataset, network), findings) in enumerate(
        sorted(grouped.items(), key=lambda of: of[0][0] is not None)
    ):
        found = sorted(within(findings, told.question.baseline), key=lambda of: order[arm_and_baseline(of)])
        name = f"forest-{number}"
        title = f"{dataset or f'Mean over {len(told.question.datasets)} datasets'} with {network}"
        several = any(of.comparison.baseline != told.question.baseline for of in found)
        names = [f"{of.comparison.arm} – {of.comparison.baseline}" if several else of.comparison.arm for of in found]
        figures.append(
            Figure(
                name,
                title,
                count_verdicts(findings, told),
                forest_chart(name, found, told, against="" if several else told.question.baseline),
                forest_rows(found),
                params={"names": labels(names), "numbers": [numbers(of) for of in found]},
                kind="forest",
                panel=Panel(dataset or "all", network),
                inches=HALF_MORE,
            )
        )
    return figures


def arm_and_baseline(finding: Finding) -> tuple[str, str]:
    """Arm and baseline."""
    return finding.comparison.arm, finding.comparison.baseline


def best_first(conclusion: Conclusion) -> dict[tuple[str, str], int]:
    """Place of each pair of arms by its mean difference over all panels; those without one last, as planned."""
    seen: dict[tuple[str, str], list[float]] = {}
    for finding in conclusion.findings:
        difference = finding.judgement.difference
        seen.setdefault(arm_and_baseline(finding), []).extend([difference.estimate] if difference else [])
    ranked = sorted(seen, key=lambda key: -sum(seen[key]) / len(seen[key]) if seen[key] else math.inf)
    return {key: place for place, key in enumerate(ranked)}


def within(findings: Sequence[Finding], baseline: str) -> Sequence[Finding]:
    """The comparisons that a panel has room for."""
    return findings if len(findings) <= MOST else [of for of in findings if of.comparison.baseline == baseline]


def count_verdicts(findings: Sequence[Finding], told: Told) -> str:
    """What the panel shows, in words."""
    parts = [f"Of {len(findings)} comparison{'' if len(findings) == 1 else 's'}:"]
    for verdict in ("better", "worse", "equivalent", "undecided"):
        own = [of for of in findings if of.judgement.verdict == verdict]
        if own:
            own.sort(key=lambda of: -abs(of.judgement.difference.estimate) if of.judgement.difference else 0)
            parts.append(f"{len(own)} {verdict} ({listed([short(of) for of in own], 4)}),")
    left_out = len(findings) - len(within(findings, told.question.baseline))
    more = f" {left_out} more comparisons stand in the table." if left_out else ""
    return f"{' '.join(parts).rstrip(',')}.{more}"


def short(finding: Finding) -> str:
    """A comparison in few words."""
    difference = finding.judgement.difference
    value = f"{points(difference.estimate)} points" if difference else "too few pairs"
    return f"{called(finding.comparison.arm)} to {called(finding.comparison.baseline)} {value}"


def forest_rows(findings: Sequence[Finding]) -> pl.DataFrame:
    """A row for each comparison that has a difference, in percentage points."""
    schema = {"row": pl.Int64, "comparison": pl.String, "verdict": pl.String, "pairs": pl.Int64}
    schema |= {"estimate": pl.Float64, "low": pl.Float64, "high": pl.Float64, "numbers": pl.String}
    found = [
        (
            place,
            f"{shorten(of.comparison.arm)} against {shorten(of.comparison.baseline)}",
            of.judgement.verdict,
            of.judgement.pairs,
            *(100 * value for value in of.judgement.difference),
            numbers(of),
        )
        for place, of in enumerate(findings)
        if of.judgement.difference
    ]
    return pl.DataFrame(found, schema=schema, orient="row")


def forest_chart(name: str, findings: Sequence[Finding], told: Told, *, against: str) -> Layers:
    """Rows from top to bottom; the numbers beside them are labels of an axis, which has room for them in any font."""
    margin, count, rows = 100 * told.question.margin, len(findings), alt.Chart(alt.NamedData(name))
    title = ["percentage points", *([f"arm minus {shorten(against)}"] if against else [])]
    scale = alt.Scale(domain=reach(findings, margin), nice=False)
    tones = [tone.light for tone in VERDICTS.values()]
    present = [verdict for verdict in VERDICTS if any(of.judgement.verdict == verdict for of in findings)]
    legend, verdicts = alt.Legend(title=None, values=present), list(VERDICTS)
    stroke = alt.Scale(domain=verdicts, range=tones)
    fill = alt.Scale(domain=verdicts, range=[*tones[:-1], PAPER.light])  # the last is undecided
    shape = alt.Shape("verdict:N", scale=alt.Scale(domain=verdicts, range=list(SYMBOLS.values())), legend=legend)
    inside = alt.Legend(title=None, symbolStrokeWidth=0, symbolType="square")
    indifferent = (
        alt.Chart(alt.InlineData([{"inside": "within the margin"}]))
        .mark_rect()
        .encode(
            x=alt.X(datum=-margin, type="quantitative", scale=scale, axis=alt.Axis(title=title)),
            x2=alt.X2Datum(margin),
            color=alt.Color("inside:N", scale=alt.Scale(range=[RULE.light]), legend=inside),
        )
    )
    zero = alt.Chart(alt.InlineData([{}])).mark_rule(color=INK.light).encode(x=alt.X(datum=0, type="quantitative"))
    intervals = rows.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", scale=scale),
        x2="high:Q",
        y=rows_axis(count),
        stroke=alt.Stroke("verdict:N", scale=stroke, legend=legend),
    )
    estimates = (
        rows.mark_point(opacity=1, size=80)
        .encode(
            x="estimate:Q",
            y=rows_axis(count, names="numbers", orient="right"),
            stroke=alt.Stroke("verdict:N", scale=stroke, legend=legend),
            fill=alt.Fill("verdict:N", scale=fill, legend=legend),
            shape=shape,
            tooltip=tooltips("comparison", "verdict", "numbers", "pairs"),
        )
        .properties(name="estimates")
    )
    left = alt.layer(indifferent, zero, intervals)
    chart: Layers = alt.layer(left, estimates).resolve_scale(y="independent").properties(height=ROW * max(count, 1))
    return chart


def reach(rows: Sequence[Finding], margin: float) -> list[float]:
    """The range that shows every interval, zero and the margin."""
    seen = [of.judgement.difference for of in rows if of.judgement.difference]
    low = min([-margin, *(100 * of.low for of in seen)])
    high = max([margin, *(100 * of.high for of in seen)])
    room = 0.05 * (high - low)
    return [low - room, high + room]


def numbers(finding: Finding) -> str:
    """Difference and interval in points."""
    of = finding.judgement.difference
    if of is None:
        return f"{finding.judgement.pairs} pairs: none yet"
    return f"{points(of.estimate)} ({points(of.low)} to {points(of.high)})"
