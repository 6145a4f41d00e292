"""Every replicate: dots of an arm and of its baseline, with a line between those of the same seed."""

from collections.abc import Sequence

import altair as alt
import numpy as np
import polars as pl
from jaxtyping import Float

from actbench.inference.verdict import StudyResults
from actbench.inference.verdict.evidence import paired
from actbench.inference.verdict.words import listed
from actbench.report.figures.figure import (
    Figure,
    Layers,
    Panel,
    called,
    columns,
    known_scores,
    labels,
    of_panel,
    panels,
    rows_axis,
    shorten,
    tooltips,
    with_room,
)
from actbench.report.figures.forest import best_first
from actbench.report.figures.palette import ARMS, CROSS, INK, PAPER, QUIET, VERDICTS

PAIR_ROW = 50  # pixels
HALF = 0.27  # of a row, from its middle to the dots
FAR = 3.0  # quartile ranges: scores farther off the middle half lie outside the close range
PRESSED = 0.4  # share of the whole range from which on nothing is gained by looking closer
STATES = "trained", "diverged"
MANY = 60  # seeds in a row: from so many on, dots and lines are finer


def pair_figures(results: StudyResults) -> list[Figure]:
    """One figure for each dataset and network: of the study's baseline, the pairs that the verdicts rest on."""
    figures = []
    for number, panel in enumerate(panels(results)):
        rows = pair_rows(results, panel)
        if len(rows):
            arms = rows["arm"].unique(maintain_order=True).to_list()
            scores = pl.concat([rows["score"], rows["baseline"].drop_nulls()]).to_numpy()
            whole, close = with_room(float(scores.min()), float(scores.max())), close_range(scores)
            sides = [f"{shorten(results.question.baseline)}, above", "arm, below"]
            params = {"names": labels(arms), "whole": whole, "close": close, "range": "whole", "sides": sides}
            name, finding = f"pairs-{number}", count_higher(rows, results.question.baseline)
            chart = pairs_chart(name, rows, sides)
            shown = rows.with_columns(arm=pl.col("arm").replace_strict(arms, labels(arms)))
            figures.append(Figure(name, panel.title, finding, chart, shown, params, "pairs", panel=panel))
    return figures


def pair_rows(results: StudyResults, panel: Panel) -> pl.DataFrame:
    """A row for each pair, arms in the order of the forest plot; where the baseline is the only arm, for each seed."""
    question, known = results.question, known_scores(results)
    lost = set(of_panel(results.table, panel).filter("diverged").select("arm", "seed").iter_rows())
    base = known.get((*panel, question.baseline), {})
    if len(question.arms) == 1:
        pairs = [(0, question.baseline, seed) for seed in sorted(base)]
    else:
        pairs, order = [], best_first(results.conclusion)
        for of in sorted(results.conclusion.findings, key=lambda of: order[of.comparison[2:]]):
            if (of.comparison.dataset, of.comparison.network, of.comparison.baseline) == (*panel, question.baseline):
                seeds = paired(known, of.comparison, question).seeds[: of.judgement.pairs]
                place = pairs[-1][0] + 1 if pairs else 0
                pairs += [(place, of.comparison.arm, seed) for seed in seeds]
    rows = [
        {
            "row": place,
            "arm": arm,
            "seed": seed,
            "score": round(100 * known[*panel, arm][seed], 4),
            "baseline": round(100 * base[seed], 4) if len(question.arms) > 1 else None,
            "state": STATES[(arm, seed) in lost],
            "baseline_state": STATES[(question.baseline, seed) in lost],
        }
        for place, arm, seed in pairs
    ]
    return pl.DataFrame(rows, schema_overrides={"baseline": pl.Float64}, infer_schema_length=None)


def count_higher(rows: pl.DataFrame, baseline: str) -> str:
    """How often the arm scores higher, in words."""
    if rows["baseline"].null_count():
        return f"Test accuracy of {called(baseline)}, {len(rows)} seeds."
    higher = (pl.col("score") > pl.col("baseline")).sum()
    found = rows.group_by("arm", maintain_order=True).agg(higher.alias("higher"), pl.len()).iter_rows()
    return f"Higher than {called(baseline)} on the same seed: " + (
        listed([f"{called(arm)} with {more} of {number} seeds" for arm, more, number in found]) + "."
    )


def pairs_chart(name: str, rows: pl.DataFrame, sides: Sequence[str]) -> Layers:
    """Rows from top to bottom; in each the baseline above and the arm below."""
    count, alone = rows["row"].n_unique(), bool(rows["baseline"].null_count())
    fine = rows["row"].value_counts()["count"].max() >= MANY  # type: ignore[operator]
    lost = STATES[1] in {*rows["state"], *rows["baseline_state"]}
    ends = [alt.ExprRef(f"range === 'close' && close ? close[{place}] : whole[{place}]") for place in (0, 1)]
    scale = alt.Scale(domainMin=ends[0], domainMax=ends[1], zero=False, nice=False)
    order = ["arm higher", "arm not higher"]
    tones = [VERDICTS["better"].light, VERDICTS["worse"].light]
    outcome = alt.Color("outcome:N", title=None, scale=alt.Scale(domain=order, range=tones))
    dash = alt.StrokeDash("outcome:N", title=None, scale=alt.Scale(domain=order, range=[[1, 0], [3, 2]]))
    stroke = alt.Scale(domain=sides, range=[QUIET.light, ARMS[0].light])
    fill = alt.Scale(domain=sides, range=[PAPER.light, ARMS[0].light])
    states = alt.Scale(domain=list(STATES), range=["circle", CROSS])
    legend = None if alone else alt.Legend(symbolType="circle", columns=columns(sides))
    shape_legend = alt.Legend(values=[STATES[1]], symbolFillColor=INK.light) if lost else None
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
        y=rows_axis(count, "above:Q"),
        y2="below:Q",
        color=outcome,
        strokeDash=dash,
    )
    base, own = (
        chart.mark_point(clip=True, opacity=1, strokeWidth=1, size=8 if fine else 40)
        .encode(
            x=alt.X(f"{score}:Q", title="test accuracy, %", scale=scale),
            y=rows_axis(count, y),
            stroke=alt.Stroke(f"{side}:N", title=None, scale=stroke, legend=legend),
            fill=alt.Fill(f"{side}:N", title=None, scale=fill, legend=legend),
            shape=alt.Shape(f"{state}:N", title=None, scale=states, legend=shape_legend),
            tooltip=tooltips("arm", "seed", score=".2f", baseline=".2f"),
        )
        .properties(name=layer)
        for layer, score, state, y, side in (
            ("baseline", "baseline", "baseline_state", "above:Q", "base_side"),
            ("own", "score", "state", "below:Q", "own_side"),
        )
    )
    return alt.layer(*([own] if alone else [lines, base, own])).properties(height=PAIR_ROW * count)


def close_range(scores: Float[np.ndarray, " scores"]) -> list[float] | None:
    """A range of scores without those far off, where these would press all others together; else None."""
    first, third = np.percentile(scores, [25, 75])
    kept = scores[(scores >= first - FAR * (third - first)) & (scores <= third + FAR * (third - first))]
    low, high = float(kept.min()), float(kept.max())
    return None if high == low or high - low > PRESSED * np.ptp(scores) else with_room(low, high)
