"""Components of variance: the spread that each source of randomness causes, with its interval."""

import altair as alt
import polars as pl

from actbench.inference.frames import noise_frame
from actbench.inference.verdict import StudyResults, points
from actbench.inference.verdict.noise import NoiseSources, dominance
from actbench.inference.verdict.question import Panel
from actbench.report.figures.figure import (
    SENTENCE,
    Figure,
    Layers,
    rows_axis,
    shorten,
    tooltips,
    unvalidated,
)
from actbench.report.figures.palette import INK, QUIET

ROW = 24  # pixels
MOST = 12  # figures; all numbers are in the table


@unvalidated
def noise_figures(results: StudyResults) -> list[Figure]:
    """A figure for each difference, or for each arm of a study of one arm: parts from top to bottom."""
    known = [noise for noise in results.noise if noise.components.total.estimate]  # not where all scores are equal
    differences = [noise for noise in known if noise.baseline is not None]
    frame, figures = noise_frame(results), []
    for number, noise in enumerate((differences or known)[:MOST]):
        compared = shorten(noise.arm, SENTENCE)
        compared += f" – {shorten(noise.baseline, SENTENCE)}" if noise.baseline else ""
        where = {name: getattr(noise, name) for name in ("dataset", "network", "arm")}
        rows = part_rows(frame.filter(pl.col("baseline").eq_missing(noise.baseline), **where))
        panel = Panel(noise.dataset, noise.network)
        title = f"{compared}, on {panel.title}" if len({each[:2] for each in results.noise}) > 1 else compared
        name = f"noise-{number}"
        params = {"names": rows["part"].to_list(), "numbers": rows["numbers"].to_list()}
        chart, words = noise_chart(name, rows), describe_noise(noise)
        figures.append(Figure(name, title, words, chart, rows, params, f"noise-{noise.arm}", panel=panel))
    return figures


def describe_noise(noise: NoiseSources) -> str:
    """What the figure shows in words."""
    words = dominance(noise)
    return f"{words[0].upper()}{words[1:]}."


def part_rows(frame: pl.DataFrame) -> pl.DataFrame:
    """A row for each part, in percentage points."""
    rows = [
        (row, part, 100 * sd, 100 * low, 100 * high, f"{points(sd, sign=False)} ({spread_range(low, high)})")
        for row, (part, sd, low, high) in enumerate(frame.select("part", "sd", "sd_low", "sd_high").iter_rows())
    ]
    schema = {"row": pl.Int64, "part": pl.String, "sd": pl.Float64, "low": pl.Float64, "high": pl.Float64}
    return pl.DataFrame(rows, schema={**schema, "numbers": pl.String}, orient="row")


def spread_range(low: float, high: float) -> str:
    """An interval of standard deviations in points."""
    return f"{points(low, sign=False)} to {points(high, sign=False)}"


def noise_chart(name: str, parts: pl.DataFrame) -> Layers:
    """Intervals with their estimates; the numbers beside them are labels of an axis."""
    rows, number = alt.Chart(alt.NamedData(name)), len(parts)
    scale = alt.Scale(domain=[0, 1.05 * max(parts["high"])], nice=False)
    x = alt.X("low:Q", scale=scale, axis=alt.Axis(title="sd, percentage points"))
    intervals = rows.mark_rule(strokeWidth=2, color=QUIET.light).encode(x=x, x2=alt.X2("high:Q"), y=rows_axis(number))
    estimates = rows.mark_point(opacity=1, size=70, filled=True, color=INK.light).encode(
        x=alt.X("sd:Q", scale=scale),
        y=rows_axis(number, names="numbers", orient="right"),
        tooltip=tooltips("part", "numbers"),
    )
    both: Layers = alt.layer(intervals, estimates).resolve_scale(y="independent")
    return both.properties(height=ROW * number)
