"""Score on val over the grid of the setting that was tuned."""

from typing import Any

import altair as alt
import polars as pl

from actbench.plots.figure import (
    BAND,
    SHOWN,
    Figure,
    Layers,
    Panel,
    arm_channels,
    arm_labels,
    arm_params,
    shorten,
    tooltips,
)
from actbench.verdict import Told, Tuning
from actbench.verdict.words import level, tuning_sentences


def tuning_figures(told: Told) -> list[Figure]:
    """One figure for each dataset and network, the chosen values ringed; none where nothing was tuned."""
    return [
        Figure(
            f"tuning-{number}",
            (panel := Panel(of.dataset, of.network)).title,
            " ".join(tuning_sentences(of)),
            tuning_chart(f"tuning-{number}", of, told),
            tuning_rows(of, told),
            params=arm_params(told),
            kind="tuning",
            panel=panel,
        )
        for number, of in enumerate(told.tunings)
    ]


def tuning_rows(of: Tuning, told: Told) -> pl.DataFrame:
    """A row for each arm and value, accuracies in percent."""
    names = arm_labels(told)
    rows = [
        (names[arm.arm], value, *(min(max(100 * bound, 0), 100) for bound in interval), value == arm.chosen)
        for arm in of.arms
        for value, interval in arm.val_accuracy.items()
    ]
    table = pl.DataFrame(rows, schema=["arm", "value", "mean", "low", "high", "chosen"], orient="row")
    return table.with_columns(pl.col("mean", "low", "high").fill_nan(None))


def tuning_chart(name: str, of: Tuning, told: Told) -> Layers:
    """Bands, means, and rings around chosen values."""
    notes = [f"bands: {level(told.question)} interval", "ringed: chosen"]
    lines, marks = arm_channels(told, notes=notes)
    scale: dict[str, Any] = {"type": "log"} if all(value > 0 for value in of.grid) else {"zero": False}
    axis = alt.Axis(values=list(of.grid), format="~g")
    x = alt.X("value:Q", title=shorten(of.setting, 60), scale=alt.Scale(**scale, nice=False), axis=axis)
    y, low = (alt.Y(f"{of}:Q", title="val accuracy, %", scale=alt.Scale(zero=False)) for of in ("mean", "low"))
    tooltip = tooltips("arm", "value", "chosen", mean=".2f", low=".2f", high=".2f")
    arms = alt.Chart(alt.NamedData(name)).transform_filter(SHOWN)
    chosen = arms.transform_filter("datum.chosen")
    return alt.layer(
        arms.mark_area(opacity=BAND).encode(x=x, y=low, y2="high:Q", color=lines["color"]),
        arms.mark_line(strokeWidth=2).encode(x=x, y=y, **lines).properties(name="means"),
        chosen.mark_point(size=200, shape="circle", opacity=1, strokeWidth=2.5)
        .encode(x=x, y=y, color=lines["color"])
        .properties(name="chosen"),
        arms.mark_point(filled=True, opacity=1, size=40)
        .encode(x=x, y=y, tooltip=tooltip, **marks)
        .properties(name="marks"),
    )
