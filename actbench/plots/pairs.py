"""Every replicate: dots of an arm and of its baseline, with a line between those of the same seed."""

from collections.abc import Sequence
from typing import NamedTuple

import altair as alt
import numpy as np
import polars as pl
from jaxtyping import Float

from actbench.plots.figure import (
    Figure,
    Layers,
    Panel,
    called,
    columns,
    file_name,
    known_scores,
    labels,
    of_panel,
    panels,
    rows_axis,
    shorten,
)
from actbench.plots.forest import arm_and_baseline, best_first
from actbench.plots.palette import ARMS, CROSS, INK, PAPER, QUIET, VERDICTS
from actbench.verdict import Told
from actbench.verdict.words import listed

PAIR_ROW = 50  # pixels
HALF = 0.27  # of a row, from its middle to the dots
FAR = 3.0  # quartile ranges: scores farther off the middle half lie outside the close range
PRESSED = 0.4  # share of the whole range from which on nothing is gained by looking closer
MANY = 60  # seeds in a row: from so many on, dots and lines are finer


class Side(NamedTuple):
    """Test accuracies of one arm in percent, a seed each, and whether the replicate has diverged."""

    arm: str
    scores: Float[np.ndarray, " seeds"]
    diverged: Sequence[bool]


class PairRow(NamedTuple):
    """The pairs of one comparison; the baseline has no side where it is the only arm."""

    seeds: Sequence[int]
    own: Side
    base: Side | None

    @property
    def higher(self) -> int:
        """In how many pairs the arm scores higher."""
        return int(np.sum(self.own.scores > self.base.scores)) if self.base else 0


def pair_figures(told: Told) -> list[Figure]:
    """One figure for each dataset and network: of the study's baseline, the pairs that the verdicts rest on."""
    figures = []
    for number, panel in enumerate(panels(told)):
        rows = rows_of(told, panel)
        if rows:
            scores = np.concatenate([side.scores for row in rows for side in (row.own, row.base) if side])
            figures.append(
                Figure(
                    f"pairs-{number}",
                    panel.title,
                    count_higher(rows, told.question.baseline),
                    pairs_chart(f"pairs-{number}", rows, told.question.baseline),
                    pairs_rows(rows),
                    params={
                        "names": labels([row.own.arm for row in rows]),
                        "whole": with_room(float(scores.min()), float(scores.max())),
                        "close": close_range(scores),
                        "range": "whole",
                        "sides": sides_of(told.question.baseline),
                    },
                    file=file_name("pairs", *(panel if len(panels(told)) > 1 else ())),
                    titled=panel.title if len(panels(told)) > 1 else "",
                )
            )
    return figures


def rows_of(told: Told, panel: Panel) -> list[PairRow]:
    """Arms in the order of the forest plot; the baseline alone where it is the only arm."""
    question, known = told.question, known_scores(told)
    lost = set(of_panel(told.table, panel).filter("diverged").select("arm", "seed").iter_rows())
    base = known.get((*panel, question.baseline), {})

    def side(arm: str, seeds: Sequence[int]) -> Side:
        scores = known[*panel, arm]
        return Side(arm, np.array([100 * scores[seed] for seed in seeds]), [(arm, seed) in lost for seed in seeds])

    if len(question.arms) == 1:
        return [PairRow(sorted(base), side(question.baseline, sorted(base)), None)] if base else []
    order = best_first(told.conclusion)
    findings = sorted(told.conclusion.findings, key=lambda of: order[arm_and_baseline(of)])
    rows = []
    for of in findings:
        if (of.comparison.dataset, of.comparison.network, of.comparison.baseline) == (*panel, question.baseline):
            both = set(base) & set(known.get((*panel, of.comparison.arm), {}))
            planned = [seed for seed in range(question.seed, question.seed + question.most) if seed in both]
            seeds = planned[: of.judgement.pairs]
            if seeds:
                rows.append(PairRow(seeds, side(of.comparison.arm, seeds), side(question.baseline, seeds)))
    return rows


def count_higher(rows: Sequence[PairRow], baseline: str) -> str:
    """How often the arm scores higher, in words."""
    if not rows[0].base:
        return f"Test accuracy of {called(baseline)}, {len(rows[0].seeds)} seeds."
    counts = [f"{called(row.own.arm)} with {row.higher} of {len(row.seeds)} seeds" for row in rows]
    return f"Higher than {called(baseline)} on the same seed: {listed(counts)}."


def pairs_rows(rows: Sequence[PairRow]) -> pl.DataFrame:
    """A row for each pair, or for each replicate of an arm that is alone."""
    names = labels([row.own.arm for row in rows])
    return pl.concat(
        pl.DataFrame(
            {
                "row": [place] * len(row.seeds),
                "arm": [name] * len(row.seeds),
                "seed": list(row.seeds),
                "score": row.own.scores.round(4),
                "baseline": row.base.scores.round(4) if row.base else [None] * len(row.seeds),
                "state": states(row.own),
                "baseline_state": states(row.base or row.own),
            },
            schema_overrides={"baseline": pl.Float64},
        )
        for place, (name, row) in enumerate(zip(names, rows, strict=True))
    )


def states(side: Side) -> list[str]:
    """What became of each replicate."""
    return ["diverged" if lost else "trained" for lost in side.diverged]


def pairs_chart(name: str, rows: Sequence[PairRow], baseline: str) -> Layers:
    """Rows from top to bottom; in each the baseline above and the arm below."""
    fine = max(len(row.seeds) for row in rows) >= MANY
    alone = rows[0].base is None
    lost = any(any(side.diverged) for row in rows for side in (row.own, row.base) if side)
    scale = alt.Scale(domainMin=edge(0), domainMax=edge(1), zero=False, nice=False)
    order = ["arm higher", "arm not higher"]
    sides = sides_of(baseline)
    states_scale = alt.Scale(domain=["trained", "diverged"], range=["circle", CROSS])
    shape_legend = alt.Legend(values=["diverged"], symbolFillColor=INK.light) if lost else None
    tones = [VERDICTS["better"].light, VERDICTS["worse"].light]
    outcome = alt.Color("outcome:N", title=None, scale=alt.Scale(domain=order, range=tones))
    dash = alt.StrokeDash("outcome:N", title=None, scale=alt.Scale(domain=order, range=[[1, 0], [3, 2]]))
    stroke = alt.Scale(domain=sides, range=[QUIET.light, ARMS[0].light])
    fill = alt.Scale(domain=sides, range=[PAPER.light, ARMS[0].light])
    legend = None if alone else alt.Legend(symbolType="circle", columns=columns(sides))
    chart = alt.Chart(alt.NamedData(name)).transform_calculate(
        above=f"datum.row - {HALF}",
        below=f"datum.row + {0 if alone else HALF}",
        base_side="sides[0]",
        own_side="sides[1]",
        outcome="datum.score > datum.baseline ? 'arm higher' : 'arm not higher'",
    )
    lines = chart.mark_rule(clip=True, strokeWidth=0.6 if fine else 1.2, opacity=0.35 if fine else 1).encode(
        x=alt.X("baseline:Q", title="test accuracy, %", scale=scale),
        x2="score:Q",
        y=rows_axis(len(rows), "above:Q"),
        y2="below:Q",
        color=outcome,
        strokeDash=dash,
    )
    dots = chart.mark_point(clip=True, opacity=1, strokeWidth=1, size=8 if fine else 40)

    def side(field: str, state: str, y: str, label: str) -> alt.Chart:
        replicates: alt.Chart = dots.encode(
            x=alt.X(f"{field}:Q", title="test accuracy, %", scale=scale),
            y=rows_axis(len(rows), y),
            stroke=alt.Stroke(f"{label}:N", title=None, scale=stroke, legend=legend),
            fill=alt.Fill(f"{label}:N", title=None, scale=fill, legend=legend),
            shape=alt.Shape(f"{state}:N", title=None, scale=states_scale, legend=shape_legend),
            tooltip=["arm:N", "seed:Q", alt.Tooltip("score:Q", format=".2f"), alt.Tooltip("baseline:Q", format=".2f")],
        )
        return replicates

    own = side("score", "state", "below:Q", "own_side").properties(name="own")
    base = side("baseline", "baseline_state", "above:Q", "base_side").properties(name="baseline")
    return alt.layer(*([own] if alone else [lines, base, own])).properties(height=PAIR_ROW * len(rows))


def sides_of(baseline: str) -> list[str]:
    """What the two sides of a row are called."""
    return [f"{shorten(baseline)}, above", "arm, below"]


def edge(place: int) -> alt.ExprRef:
    """An end of the range that is asked for."""
    return alt.ExprRef(f"range === 'close' && close ? close[{place}] : whole[{place}]")


def close_range(scores: Float[np.ndarray, " scores"]) -> list[float] | None:
    """A range of scores without those far off, where these would press all others together; else None."""
    first, third = np.percentile(scores, [25, 75])
    kept = scores[(scores >= first - FAR * (third - first)) & (scores <= third + FAR * (third - first))]
    low, high = float(kept.min()), float(kept.max())
    return None if high == low or high - low > PRESSED * np.ptp(scores) else with_room(low, high)


def with_room(low: float, high: float) -> list[float]:
    """A range with room at its ends."""
    room = 0.05 * (high - low) or 1
    return [low - room, high + room]
