"""What the calls of activations do: statistics by depth after training, and over epochs, a line for each arm."""

from typing import Any

import altair as alt
import polars as pl

from actbench.inference.frames import mechanism_frame
from actbench.inference.verdict import StudyResults
from actbench.inference.verdict.phrases import count, level, listed
from actbench.records import RANK, STATISTICS, Statistic
from actbench.report.figures.curves import BAND, SHOWN
from actbench.report.figures.figure import (
    PAGE,
    SENTENCE,
    Figure,
    Layers,
    arm_channels,
    arm_labels,
    arm_params,
    names_by_label,
    shorten,
    tooltips,
    unvalidated,
)

LOGARITHMIC = ("gradient",)  # statistics that differ by orders of magnitude


@unvalidated
def mechanism_figures(results: StudyResults) -> list[Figure]:
    """Two figures for each statistic, dataset and network: by depth, and over epochs where arms differ most."""
    figures, labels = [], arm_labels(results)
    everything = mechanism_frame(results).with_columns(pl.col("arm").replace(labels))
    for number, panel in enumerate(results.question.panels):
        for name, statistic in {**STATISTICS, "rank": RANK}.items():
            rows = mechanism_rows(everything.filter(**panel._asdict(), statistic=name), name, statistic)
            if not len(rows):
                continue
            kind = f"mechanism-{name}"
            last = rows.filter(pl.col("epoch") == pl.col("epoch").max().over("arm"))
            common: dict[str, Any] = {"params": arm_params(results), "kind": kind, "panel": panel, "inches": PAGE}
            widest = differs_most(last, name)
            if name != "rank":
                title = f"{panel.title}: {statistic.title} by depth"
                finding = describe(last.filter(depth=widest), statistic, results)
                chart = mechanism_chart(f"{kind}-{number}-depth", last, "depth", statistic, name, results)
                figures.append(Figure(f"{kind}-{number}-depth", title, finding, chart, last, **common))
            shown = rows.filter(depth=widest)
            site, layer = shown.select("site", "layer").row(0)
            where = f"in {shorten(site, SENTENCE)}{f', behind {layer}' if layer else ''}"
            where = f"of the {site}" if name == "rank" else where
            title = f"{panel.title}: {statistic.title} over epochs"
            finding = f"{statistic.title.capitalize()} {where}" + (
                ", where arms differ most." if name != "rank" else "."
            )
            chart = mechanism_chart(f"{kind}-{number}-epochs", shown, "epoch", statistic, name, results)
            figures.append(Figure(f"{kind}-{number}-epochs", title, finding, chart, shown, **common))
    return figures


def mechanism_rows(rows: pl.DataFrame, name: str, statistic: Statistic) -> pl.DataFrame:
    """Rows of a statistic with a mean, as a figure shows them: shares in percent, and bands inside of what can be."""
    numbers = pl.col("mean", "low", "high")
    rows = rows.rename({"mean_low": "low", "mean_high": "high"}).drop_nulls("mean")
    if statistic.is_share:
        rows = rows.with_columns((numbers * 100).clip(0, 100))
    elif name in LOGARITHMIC:  # a band that reaches 0 has no end there
        rows = rows.filter(pl.col("mean") > 0).with_columns(low=pl.max_horizontal("low", pl.col("mean") / 10))
    elif statistic.least is not None:
        rows = rows.with_columns(pl.col("low").clip(statistic.least))
    kept = ("arm", "depth", "site", "layer", "epoch", "seeds", "mean", "low", "high")
    return rows.select(kept).with_columns(numbers.round_sig_figs(6))


def differs_most(last: pl.DataFrame, name: str) -> int:
    """Depth at which the means of arms are farthest apart; the deepest of several, and with one arm the largest."""
    value = pl.col("mean").log() if name in LOGARITHMIC else pl.col("mean")
    spread = value.max() - value.min() if last["arm"].n_unique() > 1 else value.max()
    ranked = last.group_by("depth").agg(spread.alias("spread")).sort("spread", "depth")
    return int(ranked["depth"][-1])


def describe(rows: pl.DataFrame, statistic: Statistic, results: StudyResults) -> str:
    """The means of arms at one call in words."""
    arms, unit = names_by_label(results), " %" if statistic.is_share else ""
    ends = [f"{arms[row['arm']]} {row['mean']:.3g}{unit}" for row in rows.sort("mean").to_dicts()]
    site, seeds = shorten(rows["site"][0], SENTENCE), int(rows["seeds"].max())  # type: ignore[arg-type]
    return f"At the end, {statistic.title} in {site}: {listed(ends)}; up to {count(seeds, 'seed')} each."


def mechanism_chart(
    name: str, rows: pl.DataFrame, along: str, statistic: Statistic, key: str, results: StudyResults
) -> Layers:
    """Bands, means and marks along depth or epochs."""
    lines, marks = arm_channels(results, notes=[f"bands: {level(results.question)} interval"])
    limits: dict[str, Any] = {"type": "log"} if key in LOGARITHMIC else {"zero": statistic.least is not None}
    title = f"{statistic.title}{', %' if statistic.is_share else ''}"
    values = rows[along].unique().sort().to_list()
    axis = alt.Axis(values=values, format="d", labelOverlap=True)
    site = shorten(rows["site"][0], SENTENCE)
    by_depth = along == "depth"
    scale = alt.Scale(type="linear" if by_depth else "symlog", nice=False, zero=not by_depth)
    x_title = "call of the activation" if by_depth else f"epochs; {'' if key == 'rank' else 'in '}{site}"
    x = alt.X(f"{along}:Q", title=x_title, axis=axis, scale=scale)
    y, low = (alt.Y(f"{field}:Q", title=title, scale=alt.Scale(**limits)) for field in ("mean", "low"))
    arms = alt.Chart(alt.NamedData(name)).transform_filter(SHOWN)
    tooltip = tooltips("arm", "site", "layer", "epoch", "seeds", mean=".4g", low=".4g", high=".4g")
    return alt.layer(
        arms.mark_area(opacity=BAND).encode(x=x, y=low, y2=alt.Y2("high:Q"), color=lines["color"]),
        arms.mark_line(strokeWidth=2).encode(x=x, y=y, **lines).properties(name="means"),
        arms.mark_point(filled=True, opacity=1, size=40)
        .encode(x=x, y=y, tooltip=tooltip, **marks)
        .properties(name="marks"),
    )
