"""Every replicate: dots of an arm and of its baseline, with a line between those of the same seed."""

from collections.abc import Sequence

import altair as alt
import numpy as np
import polars as pl
from jaxtyping import Float

from actbench.inference.verdict import StudyResults
from actbench.inference.verdict.evidence import paired, scores
from actbench.inference.verdict.findings import OUTCOME
from actbench.inference.verdict.phrases import listed
from actbench.inference.verdict.question import Panel
from actbench.report.figures.figure import (
    SENTENCE,
    Figure,
    Layers,
    columns,
    labels,
    padded,
    panel_records,
    rows_axis,
    shorten,
    tooltips,
    unvalidated,
)
from actbench.report.figures.forest import best_first
from actbench.report.figures.palette import ARMS, CROSS, INK, PAPER, QUIET, VERDICTS

PAIR_ROW = 50  # pixels
HALF = 0.27  # of a row, from its middle to the dots
FAR = 3.0  # quartile ranges from the middle half beyond which scores lie outside the close range
PRESSED = 0.4  # share of the whole range above which a close range gains nothing
STATES = {"trained": "circle", "failed to train": "square", "diverged": CROSS}  # and their marks
MANY = 60  # seeds in a row from which on dots and lines are finer


@unvalidated
def pair_figures(results: StudyResults) -> list[Figure]:
    """A figure for each dataset and network, with the pairs of the study's baseline on which the verdicts rest."""
    figures = []
    for number, panel in enumerate(results.question.panels):
        rows = pair_rows(results, panel)
        if len(rows):
            arms = rows["arm"].unique(maintain_order=True).to_list()
            values = pl.concat([rows["score"], rows["baseline"].drop_nulls()]).to_numpy()
            whole, close = padded(float(values.min()), float(values.max())), close_range(values)
            sides = [f"{shorten(results.question.baseline)}, above", "arm, below"]
            params = {"names": labels(arms), "whole": whole, "close": close, "range": "whole", "sides": sides}
            name, finding = f"pairs-{number}", count_higher(rows, results.question.baseline)
            chart = pairs_chart(name, rows, sides)
            shown = rows.with_columns(arm=pl.col("arm").replace_strict(arms, labels(arms)))
            figures.append(Figure(name, panel.title, finding, chart, shown, params, "pairs", panel=panel))
    return figures


def pair_rows(results: StudyResults, panel: Panel) -> pl.DataFrame:
    """A row for each pair, arms in the order of the forest plot; where the baseline is the only arm, for each seed."""
    question, accuracies = results.question, scores(results.table, OUTCOME)
    state = pl.when("diverged").then(pl.lit("diverged")).when("failed").then(pl.lit("failed to train"))
    records = panel_records(results.marked, panel).with_columns(state=state.otherwise(pl.lit("trained")))
    states = {(arm, seed): state for arm, seed, state in records.select("arm", "seed", "state").iter_rows()}
    base = accuracies.get((*panel, question.baseline), {})
    if len(question.arms) == 1:
        pairs = [(0, question.baseline, seed) for seed in sorted(base)]
    else:
        pairs, order = [], best_first(results.conclusion)
        for finding in sorted(results.conclusion.findings, key=lambda finding: order[finding.comparison[2:]]):
            comparison = finding.comparison
            if (comparison[:2], comparison.baseline) == (panel, question.baseline):
                seeds = paired(accuracies, comparison, question).seeds[: finding.judgement.pairs]
                row = pairs[-1][0] + 1 if pairs else 0
                pairs += [(row, comparison.arm, seed) for seed in seeds]
    rows = [
        {
            "row": row,
            "arm": arm,
            "seed": seed,
            "score": round(100 * accuracies[*panel, arm][seed], 4),
            "baseline": round(100 * base[seed], 4) if len(question.arms) > 1 else None,
            "state": states[arm, seed],
            "baseline_state": states[question.baseline, seed],
        }
        for row, arm, seed in pairs
    ]
    return pl.DataFrame(rows, schema_overrides={"baseline": pl.Float64}, infer_schema_length=None)


def count_higher(rows: pl.DataFrame, baseline: str) -> str:
    """How often the arm scores higher, in words."""
    name = shorten(baseline, SENTENCE)
    if rows["baseline"].null_count():
        return f"Test accuracy of {name}, {len(rows)} seeds."
    higher = (pl.col("score") > pl.col("baseline")).sum()
    counts = rows.group_by("arm", maintain_order=True).agg(higher.alias("higher"), pl.len()).iter_rows()
    arms = listed([f"{shorten(arm, SENTENCE)} with {wins} of {number} seeds" for arm, wins, number in counts])
    return f"Higher than {name} on the same seed: {arms}."


def pairs_chart(name: str, rows: pl.DataFrame, sides: Sequence[str]) -> Layers:
    """Rows from top to bottom, each with the baseline above and the arm below."""
    count, alone = rows["row"].n_unique(), bool(rows["baseline"].null_count())
    fine = rows["row"].value_counts()["count"].max() >= MANY  # type: ignore[operator]
    lost = [state for state in [*STATES][1:] if state in {*rows["state"], *rows["baseline_state"]}]
    ends = [alt.ExprRef(f"range === 'close' && close ? close[{end}] : whole[{end}]") for end in (0, 1)]
    scale = alt.Scale(domainMin=ends[0], domainMax=ends[1], zero=False, nice=False)
    outcomes = ["arm higher", "arm not higher"]
    tones = [VERDICTS["better"].light, VERDICTS["worse"].light]
    outcome = alt.Color("outcome:N", title=None, scale=alt.Scale(domain=outcomes, range=tones))
    dash = alt.StrokeDash("outcome:N", title=None, scale=alt.Scale(domain=outcomes, range=[[1, 0], [3, 2]]))
    stroke = alt.Scale(domain=sides, range=[QUIET.light, ARMS[0].light])
    fill = alt.Scale(domain=sides, range=[PAPER.light, ARMS[0].light])
    states = alt.Scale(domain=list(STATES), range=list(STATES.values()))
    legend = None if alone else alt.Legend(symbolType="circle", columns=columns(sides))
    shape_legend = alt.Legend(values=lost, symbolFillColor=INK.light) if lost else None
    chart = alt.Chart(alt.NamedData(name)).transform_calculate(
        above=f"datum.row - {HALF}",
        below=f"datum.row + {0 if alone else HALF}",
        base_side="sides[0]",
        arm_side="sides[1]",
        outcome="datum.score > datum.baseline ? 'arm higher' : 'arm not higher'",
    )
    lines = chart.mark_rule(clip=True, strokeWidth=0.6 if fine else 1.2, opacity=0.35 if fine else 1).encode(
        x=alt.X("baseline:Q", title="test accuracy, %", scale=scale),
        x2=alt.X2("score:Q"),
        y=rows_axis(count, "above:Q"),
        y2=alt.Y2("below:Q"),
        color=outcome,
        strokeDash=dash,
    )
    baseline_marks, arm_marks = (
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
            ("own", "score", "state", "below:Q", "arm_side"),
        )
    )
    return alt.layer(*([arm_marks] if alone else [lines, baseline_marks, arm_marks])).properties(
        height=PAIR_ROW * count
    )


def close_range(scores: Float[np.ndarray, " scores"]) -> list[float] | None:
    """A range of scores without outliers, if these would press all others together; else None."""
    first, third = np.percentile(scores, [25, 75])
    kept = scores[(scores >= first - FAR * (third - first)) & (scores <= third + FAR * (third - first))]
    low, high = float(kept.min()), float(kept.max())
    return None if high == low or high - low > PRESSED * np.ptp(scores) else padded(low, high)
