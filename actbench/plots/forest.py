"""Paired differences with their intervals, and the margin inside which none matters."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from actbench.plots.palette import INK, MARGIN, QUIET, SIGNS, SYMBOLS, VERDICTS
from actbench.plots.picture import Picture, axis, called, drawn, rows_axis, shown
from actbench.verdict import Finding, Told, points
from actbench.verdict.findings import Conclusion
from actbench.verdict.words import listed

MOST = 60  # rows of a panel; beyond, those against the study's baseline
ROW = 26  # pixels


def forest(told: Told) -> list[Picture]:
    """One picture for the mean over datasets, and for each dataset and network; arms in one order, the best first."""
    grouped: dict[tuple[str | None, str], list[Finding]] = {}
    for finding in told.conclusion.findings:
        grouped.setdefault((finding.comparison.dataset, finding.comparison.network), []).append(finding)
    grouped = dict(sorted(grouped.items(), key=lambda of: of[0][0] is not None))
    order = best_first(told.conclusion)
    pictures = []
    for number, ((dataset, network), findings) in enumerate(grouped.items()):
        rows = sorted(within(findings, told.question.baseline), key=lambda of: order[pair(of)])
        title = f"{dataset or f'Mean over {len(told.question.datasets)} datasets'} with {network}"
        pictures.append(Picture(f"forest-{number}", title, said(findings, told), figure(rows, told)))
    return pictures


def pair(finding: Finding) -> tuple[str, str]:
    """Arm and baseline."""
    return finding.comparison.arm, finding.comparison.baseline


def best_first(conclusion: Conclusion) -> dict[tuple[str, str], int]:
    """Place of each pair of arms by its mean difference over all panels; those without one last, as planned."""
    seen: dict[tuple[str, str], list[float]] = {}
    for finding in conclusion.findings:
        difference = finding.judgement.difference
        seen.setdefault(pair(finding), []).extend([difference.estimate] if difference else [])
    ranked = sorted(seen, key=lambda key: -sum(seen[key]) / len(seen[key]) if seen[key] else math.inf)
    return {key: place for place, key in enumerate(ranked)}


def within(findings: Sequence[Finding], baseline: str) -> Sequence[Finding]:
    """The comparisons that a panel has room for."""
    return findings if len(findings) <= MOST else [of for of in findings if of.comparison.baseline == baseline]


def said(findings: Sequence[Finding], told: Told) -> str:
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


def figure(rows: Sequence[Finding], told: Told) -> Any:
    """Rows from top to bottom, with the numbers beside them."""
    several = any(of.comparison.baseline != told.question.baseline for of in rows)
    names = [f"{of.comparison.arm} – {of.comparison.baseline}" if several else of.comparison.arm for of in rows]
    margin = 100 * told.question.margin
    equal: dict[str, Any] = {
        "type": "rect",
        "xref": "x",
        "yref": "paper",
        "x0": -margin,
        "x1": margin,
        "y0": 0,
        "y1": 1,
    }
    equal |= {"fillcolor": QUIET.faded(MARGIN).light, "line": {"width": 0}, "layer": "below"}
    left = rows_axis(names)
    # The numbers are labels of an axis, for which the figure makes room in any font.
    right: dict[str, Any] = {"ticktext": [numbers(of) for of in rows], "side": "right", "overlaying": "y"}
    right["tickfont"] = {"color": QUIET.light, "size": 12}
    return drawn(
        [*marks(rows), {"x": [], "y": [], "yaxis": "y2", "hoverinfo": "skip"}],  # an axis without a trace is not drawn
        height=ROW * len(rows) + 70,
        xaxis=axis("percentage points", range=reach(rows, margin), zeroline=True, zerolinecolor=INK.light),
        yaxis=left,
        yaxis2=left | right,
        shapes=[equal],
    )


def reach(rows: Sequence[Finding], margin: float) -> list[float]:
    """The range that shows every interval, zero and the margin."""
    seen = [of.judgement.difference for of in rows if of.judgement.difference]
    low = min([-margin, *(100 * of.low for of in seen)])
    high = max([margin, *(100 * of.high for of in seen)])
    room = 0.05 * (high - low)
    return [low - room, high + room]


def marks(rows: Sequence[Finding]) -> Iterator[dict[str, Any]]:
    """One trace for each verdict."""
    for verdict, tone in VERDICTS.items():
        places = [place for place, of in enumerate(rows) if of.judgement.verdict == verdict and of.judgement.difference]
        if not places:
            continue
        found = [rows[place] for place in places]
        values: list[Any] = [of.judgement.difference for of in found]
        yield {
            "name": verdict,
            "mode": "markers",
            "x": [100 * of.estimate for of in values],
            "y": places,
            "error_x": {
                "type": "data",
                "symmetric": False,
                "array": [100 * (of.high - of.estimate) for of in values],
                "arrayminus": [100 * (of.estimate - of.low) for of in values],
                "color": tone.light,
                "thickness": 2,
                "width": 0,
            },
            "marker": {
                "color": tone.light,
                "symbol": SYMBOLS[verdict],
                "size": 11,
                "line": {"width": 2, "color": tone.light},
            },
            "text": [hover(of) for of in found],
            "hovertemplate": "%{text}<extra></extra>",
        }


def hover(finding: Finding) -> str:
    """What a mark says of itself."""
    of = finding.judgement
    return (
        f"{shown(finding.comparison.arm, 60)}: {SIGNS[of.verdict]} {of.verdict}<br>{numbers(finding)}, {of.pairs} pairs"
    )


def numbers(finding: Finding) -> str:
    """Difference and interval in points."""
    of = finding.judgement.difference
    if of is None:
        return f"{finding.judgement.pairs} pairs: none yet"
    return f"{points(of.estimate)} ({points(of.low)} to {points(of.high)})"
