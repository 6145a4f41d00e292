"""Score on val over the grid of the setting that was tuned."""

from typing import Any

from actbench.plots.curves import shown_first
from actbench.plots.palette import BAND, PAPER, Look, looks
from actbench.plots.picture import Picture, axis, drawn, shown
from actbench.verdict import Told, Tuned, Tuning
from actbench.verdict.words import tuning_sentences


def tuning(told: Told) -> list[Picture]:
    """One picture for each dataset and network, the chosen values ringed; none where nothing was tuned."""
    styles = looks(told.question.arms, told.question.baseline)
    return [
        Picture(
            f"tuning-{number}",
            f"{of.dataset} with {of.network}",
            " ".join(tuning_sentences(of)),
            figure(of, told, styles),
        )
        for number, of in enumerate(told.tunings)
    ]


def figure(of: Tuning, told: Told, styles: dict[str, Look]) -> Any:
    """A curve for each arm, with its band."""
    first = shown_first(told)
    traces = []
    for arm in of.arms:
        for trace in parts(arm, styles[arm.arm]):
            meta = {"arm": told.question.arms.index(arm.arm), "part": "mean"}
            traces.append({**trace, "visible": arm.arm in first, "meta": meta})
    logarithmic = all(value > 0 for value in of.grid)
    ticks = {"type": "log"} if logarithmic else {}
    x = axis(
        shown(of.setting, 60),
        tickvals=list(of.grid),
        ticktext=[f"{value:g}" for value in of.grid],
        **ticks,
    )
    return drawn(traces, height=340, xaxis=x, yaxis=axis("val accuracy, %"))


def parts(arm: Tuned, look: Look) -> list[dict[str, Any]]:
    """Band, mean and chosen value of an arm."""
    x = list(arm.val_accuracy)
    values = [[min(max(100 * bound, 0), 100) for bound in interval] for interval in arm.val_accuracy.values()]
    bounds: dict[str, Any] = {"x": x, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    fill = {"fill": "tonexty", "fillcolor": look.tone.faded(BAND).light}
    spread = any(low == low for _, low, _ in values)
    best = 100 * arm.val_accuracy[arm.chosen].estimate
    hover = f"{shown(arm.arm, 60)} at %{{x}}: %{{y:.2f}} %"
    return [
        *([bounds | {"y": [low for _, low, _ in values]}] if spread else []),
        *([bounds | {"y": [high for *_, high in values], **fill}] if spread else []),
        {
            "name": shown(arm.arm, 60),
            "x": x,
            "y": [estimate for estimate, *_ in values],
            "mode": "lines+markers",
            "line": {"color": look.tone.light, "dash": look.dash, "width": 2},
            "marker": {"size": 6},
            "hovertemplate": f"{hover}<extra></extra>",
        },
        {
            "name": f"{shown(arm.arm, 60)}, chosen",
            "x": [arm.chosen],
            "y": [best],
            "mode": "markers",
            "marker": {"size": 13, "color": PAPER.light, "line": {"color": look.tone.light, "width": 3}},
            "hovertemplate": f"{hover}, chosen<extra></extra>",
        },
    ]
