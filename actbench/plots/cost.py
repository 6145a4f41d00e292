"""What arms cost against what they score, with the front that no other arm beats in both."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from actbench.plots.palette import ARMS, INK, QUIET
from actbench.plots.picture import Picture, axis, called, drawn, known_scores, of_panel, panels, shorten, shown
from actbench.stats import Interval, mean_interval, pareto
from actbench.verdict import Told
from actbench.verdict.words import listed

WIDTH, HEIGHT, LETTER = 330, 360, 7.5  # pixels: of the narrowest plot, of a picture, and of a letter of a name
SIDES = {  # where a name may stand: whether to the right of its mark, and above, below or beside it
    "top right": (True, 1),
    "bottom right": (True, -1),
    "top left": (False, 1),
    "bottom left": (False, -1),
    "middle right": (True, 0),
    "middle left": (False, 0),
}
COSTS = {  # columns of the records, with a factor, what it is, its axis, and how it is said
    "epoch_time_s": (1000, "time", "ms an epoch, for one replicate", "{:.3g} ms"),
    "peak_memory_mb": (1, "memory", "peak memory, MiB", "{:,.0f} MiB"),
}


class Point(NamedTuple):
    """An arm: accuracy in percent, its cost, and whether the machine was busy in all of its fits."""

    arm: str
    accuracy: Interval
    cost: float
    busy: bool


def cost(told: Told) -> list[Picture]:
    """One picture for each kind of cost, dataset and network."""
    pictures = []
    known = known_scores(told)
    for number, panel in enumerate(panels(told)):
        for column, (scale, what, title, form) in COSTS.items():
            points = []
            for arm in told.question.arms:
                value = spent(of_panel(told.table, panel, arm), column)
                scores = 100 * np.array(list(known.get((*panel, arm), {}).values()))
                if value and len(scores):
                    points.append(Point(arm, mean(scores, told.question.alpha), scale * value[0], value[1]))
            if points:
                front = pareto([of.accuracy.estimate for of in points], [of.cost for of in points])
                name = f"cost-{number}-{column.split('_')[1]}"
                finding = said(points, front, form)
                pictures.append(Picture(name, f"{panel.title}: {what}", finding, figure(points, front, title, form)))
    return pictures


def spent(own: pl.DataFrame, column: str) -> tuple[float, bool] | None:
    """Median cost of an arm over its fits, and whether all were on a busy machine; those that were not count alone."""
    known = own.drop_nulls(column)
    quiet = known.filter(~pl.col("busy").fill_null(value=False))
    value: Any = (quiet if len(quiet) else known)[column].median()
    return None if value is None else (value, not len(quiet))


def mean(scores: Float[np.ndarray, " seeds"], alpha: float) -> Interval:
    """Mean with its interval, where there is one."""
    if len(scores) > 1:
        return mean_interval(scores, level=1 - alpha)
    return Interval(float(scores[0]), float("nan"), float("nan"))


def said(points: Sequence[Point], front: Bool[np.ndarray, " arms"], form: str) -> str:
    """The front in words, the cheapest first."""
    best = sorted((of for of, on in zip(points, front, strict=True) if on), key=lambda of: of.cost)
    names = [f"{called(of.arm)} ({form.format(of.cost)}, {of.accuracy.estimate:.1f} %)" for of in best]
    busy = [called(of.arm) for of in points if of.busy]
    whose = "all arms" if len(busy) == len(points) else listed(busy)
    more = f" The machine was busy with other things during all fits of {whose}: that says little." if busy else ""
    return f"No arm beats these both in cost and in accuracy: {listed(names)}.{more}"


def figure(points: Sequence[Point], front: Bool[np.ndarray, " arms"], title: str, form: str) -> Any:
    """Points with intervals; the front is a stair."""
    best = sorted((of for of, on in zip(points, front, strict=True) if on), key=lambda of: of.cost)
    others = [of for of in points if of not in best]
    stair = {
        "name": "Pareto front",
        "x": [of.cost for of in best],
        "y": [of.accuracy.estimate for of in best],
        "mode": "lines",
        "line": {"shape": "hv", "color": QUIET.light, "width": 1.5, "dash": "dot"},
        "hoverinfo": "skip",
    }
    x = reach([of.cost for of in points])
    y = reach([min(max(bound, 0), 100) for of in points for bound in of.accuracy if math.isfinite(bound)])
    named = names([*best, *others], x, y)
    return drawn(
        [stair, dots(others, "beaten", named, form), dots(best, "on the front", named, form)],
        height=HEIGHT,
        xaxis=axis(title, range=x),
        yaxis=axis("test accuracy, %", range=y),
        margin={"l": 8, "r": 16, "t": 16, "b": 8},
    )


def reach(values: Sequence[float]) -> list[float]:
    """A range with room for names."""
    low, high = min(values), max(values)
    room = 0.15 * ((high - low) or high or 1)
    return [low - room, high + room]


def names(points: Sequence[Point], x: Sequence[float], y: Sequence[float]) -> dict[str, tuple[str, str]]:
    """Text and position of the names that find room beside their marks; the first points come first."""
    at = [
        (WIDTH * (of.cost - x[0]) / (x[1] - x[0]), (HEIGHT - 60) * (of.accuracy.estimate - y[0]) / (y[1] - y[0]))
        for of in points
    ]
    taken = [(across - 6, up - 6, across + 6, up + 6) for across, up in at]
    found = {}
    for of, (across, up) in zip(points, at, strict=True):
        width = LETTER * len(shorten(of.arm, 16))
        for position, (right, above) in SIDES.items():
            left, middle = across + 6 if right else across - 6 - width, up + 14 * above
            box = (left, middle - 7, left + width, middle + 7)
            apart = all(box[2] <= one[0] or one[2] <= box[0] or box[3] <= one[1] or one[3] <= box[1] for one in taken)
            if apart and left >= 0 and box[2] <= WIDTH:
                taken.append(box)
                found[of.arm] = (shown(of.arm, 16), position)
                break
    return found


def dots(points: Sequence[Point], name: str, named: dict[str, tuple[str, str]], form: str) -> dict[str, Any]:
    """Arms, with their names where there is room; hollow where the machine was busy."""
    tone, symbol = (ARMS[0], "circle") if name == "on the front" else (QUIET, "square")
    halves = [of.accuracy.high - of.accuracy.estimate for of in points]
    places = [named.get(of.arm, ("", "top right")) for of in points]
    return {
        "name": name,
        "x": [of.cost for of in points],
        "y": [of.accuracy.estimate for of in points],
        "error_y": {
            "type": "data",
            "array": [half if math.isfinite(half) else 0 for half in halves],
            "color": tone.light,
            "thickness": 1,
            "width": 0,
        },
        "mode": "markers+text",
        "text": [text for text, _ in places],
        "textposition": [position for _, position in places],
        "textfont": {"color": INK.light, "size": 12},
        "marker": {
            "size": 10,
            "color": tone.light,
            "symbol": [f"{symbol}-open" if of.busy else symbol for of in points],
            "line": {"width": 2, "color": tone.light},
        },
        "customdata": [
            f"{shown(of.arm, 60)}: {form.format(of.cost)}{', busy machine' if of.busy else ''}" for of in points
        ],
        "hovertemplate": "%{customdata}, %{y:.2f} %<extra></extra>",
    }
