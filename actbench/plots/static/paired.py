"""Paired differences, and the replicates that they are made of, for papers."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from actbench.plots.forest import best_first, numbers, pair, reach, within
from actbench.plots.pairs import HALF, MANY, Row, Side
from actbench.plots.palette import ARMS, INK, QUIET, RULE, VERDICTS
from actbench.plots.picture import shorten
from actbench.plots.static.paper import COLUMN, DASHES, HALF_MORE, Still, file_name, legend, rows
from actbench.stats import Interval, Verdict
from actbench.verdict import Finding, Told

MARKS: dict[Verdict, str] = {"better": "^", "worse": "v", "equivalent": "D", "undecided": "o"}


def forests(told: Told) -> Iterator[Still]:
    """Paired differences, a figure for each dataset and network, and for the mean over datasets."""
    grouped: dict[tuple[str | None, str], list[Finding]] = {}
    for finding in told.conclusion.findings:
        grouped.setdefault((finding.comparison.dataset, finding.comparison.network), []).append(finding)
    order = best_first(told.conclusion)
    for (dataset, network), findings in grouped.items():
        own = sorted(within(findings, told.question.baseline), key=lambda of: order[pair(of)])
        where = [] if len(grouped) == 1 else [dataset or "all", network]
        title = f"{dataset or f'Mean over {len(told.question.datasets)} datasets'} with {network}"
        yield Still(file_name("forest", *where), title, forest(own, told, title if where else ""))


def forest(found: Sequence[Finding], told: Told, title: str) -> Figure:
    """Rows with marks, intervals and numbers."""
    several = any(of.comparison.baseline != told.question.baseline for of in found)
    figure = Figure(figsize=(HALF_MORE, 0.6 + 0.2 * len(found)), layout="constrained")
    axes = figure.subplots()
    margin = 100 * told.question.margin
    axes.axvspan(-margin, margin, color=RULE.light, linewidth=0, gid="margin", zorder=0)
    axes.axvline(0, color=INK.light, linewidth=0.8)
    handles: dict[str, Any] = {}
    for verdict, mark in MARKS.items():
        places = [at for at, of in enumerate(found) if of.judgement.verdict == verdict and of.judgement.difference]
        if places:
            values: list[Any] = [found[at].judgement.difference for at in places]
            handles[verdict] = differences(axes, places, values, mark=mark, verdict=verdict)
    for at, of in enumerate(found):
        axes.text(
            1.02, at, numbers(of).replace("-", "−"), transform=axes.get_yaxis_transform(), va="center", fontsize=7
        )
    rows(axes, [f"{of.comparison.arm} – {of.comparison.baseline}" if several else of.comparison.arm for of in found])
    axes.set_xlim(*reach(found, margin))
    against = "" if several else f", arm minus {shorten(told.question.baseline)}"
    axes.set_xlabel(f"points of test accuracy{against}")
    axes.set_title(title)
    legend(figure, {**handles, "within the margin": Patch(color=RULE.light)})
    return figure


def differences(
    axes: Axes, places: Sequence[int], values: Sequence[Interval], *, mark: str, verdict: Verdict
) -> Line2D:
    """Marks with intervals, in rows."""
    colour = VERDICTS[verdict].light
    axes.hlines(places, [100 * of.low for of in values], [100 * of.high for of in values], colors=colour, linewidth=1.2)
    (drawn,) = axes.plot(
        [100 * of.estimate for of in values],
        places,
        mark,
        color=colour,
        markersize=5,
        markerfacecolor="white" if verdict == "undecided" else colour,
        gid=f"forest-{verdict}",
    )
    return drawn


def pairs(found: Sequence[Row], title: str) -> Figure:
    """Rows from top to bottom; in each the baseline's replicates above and the arm's below."""
    figure = Figure(figsize=(COLUMN, 0.5 + 0.42 * len(found)), layout="constrained")
    axes = figure.subplots()
    fine = max(len(row.seeds) for row in found) >= MANY
    for at, row in enumerate(found):
        if row.base:
            lines(axes, at, row.own, row.base, fine=fine)
            dots(axes, at - HALF, row.base, baseline=True, fine=fine)
        dots(axes, at + HALF if row.base else at, row.own, baseline=False, fine=fine)
    rows(axes, [row.own.arm for row in found])
    axes.set_xlabel("test accuracy, %")
    axes.set_title(title)
    if found[0].base:
        dot = {"linestyle": "", "marker": "o"}
        handles = {
            found[0].base.arm: Line2D([], [], color=QUIET.light, markerfacecolor="white", **dot),  # type: ignore[arg-type]
            "arm": Line2D([], [], color=ARMS[0].light, **dot),  # type: ignore[arg-type]
            "arm higher": Line2D([], [], color=VERDICTS["better"].light),
            "not higher": Line2D([], [], color=VERDICTS["worse"].light, linestyle=DASHES[1]),
        }
        if any(lost for row in found for side in (row.own, row.base) if side for lost in side.diverged):
            handles["diverged"] = Line2D([], [], color=INK.light, linestyle="", marker="x")
        legend(figure, handles)
    return figure


def lines(axes: Axes, at: int, own: Side, base: Side, *, fine: bool) -> None:
    """Lines from the baseline to the arm, of the seeds where the arm scores higher, and of the others."""
    ends = np.stack([base.scores, own.scores], axis=1)
    for higher, verdict in ((True, "better"), (False, "worse")):
        chosen = ends[(own.scores > base.scores) == higher]
        segments = [[(one, at - HALF), (other, at + HALF)] for one, other in chosen]
        colour, dash = VERDICTS[verdict].light, "-" if higher else DASHES[1]  # type: ignore[index]
        width = 0.3 if fine else 0.6
        axes.add_collection(LineCollection(segments, colors=colour, linestyles=[dash], linewidths=width))


def dots(axes: Axes, height: float, side: Side, *, baseline: bool, fine: bool) -> None:
    """The replicates of one side of a row; those that have diverged are crosses."""
    colour = QUIET.light if baseline else ARMS[0].light
    lost = np.array(side.diverged, dtype=bool)
    for which, mark in ((~lost, "o"), (lost, "x")):
        if not which.any():
            continue
        axes.plot(
            side.scores[which],
            np.full(int(which.sum()), height),
            mark,
            color=colour,
            markersize=1.5 if fine else 3,
            markeredgewidth=0.6,
            markerfacecolor="white" if baseline else colour,
            gid="pairs-baseline" if baseline else "pairs-arm",
            clip_on=False,
        )
