"""Learning curves and costs, for papers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from actbench.plots.cost import COSTS, mean, spent
from actbench.plots.curves import SCORES, Curve, curve_of, losses, shown_first
from actbench.plots.palette import BAND, QUIET
from actbench.plots.picture import Panel, known_scores, of_panel
from actbench.plots.static.paper import COLUMN, PAGE, legend, of_arms, some_of, styles
from actbench.stats import Interval, pareto
from actbench.verdict import Told
from actbench.verdict.words import level

NAMED = 10  # arms: up to so many all have a mark of their own


def curves(told: Told, panel: Panel, title: str) -> Figure | None:
    """Mean and band over seeds by epoch, side by side for each score; None where nothing was measured."""
    own, arms = of_panel(told.table, panel), shown_first(told)
    measured = {column: [one for arm in arms if (one := curve_of(own, arm, column, told))] for column in SCORES}
    found = {column: drawn for column, drawn in measured.items() if drawn}
    if not found:
        return None
    figure = Figure(figsize=(PAGE * max(len(found), 2) / 3, 2.0), layout="constrained")
    for axes, (column, of) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        for place, curve in enumerate(of):
            learning(axes, curve, place, styles(told)[curve.arm])
        axes.set_xlabel("epochs")
        axes.set_ylabel(SCORES[column])
        if not column.endswith("accuracy"):
            axes.set_ylim(*losses(of, told).get("range", (0, None)))
    figure.suptitle(title)
    drawn = [arm for arm in arms if any(curve.arm == arm for of in found.values() for curve in of)]
    handles = {**of_arms(told, drawn), f"{level(told.question)} interval": Patch(color=QUIET.light, alpha=BAND)}
    legend(figure, handles, title=some_of(told, arms))
    return figure


def learning(axes: Axes, curve: Curve, place: int, look: Mapping[str, Any]) -> None:
    """Band and mean of an arm, with marks at some epochs, other ones for each arm."""
    epochs = np.arange(1, len(curve.mean) + 1)
    axes.fill_between(epochs, *curve.bounds, color=look["color"], alpha=BAND, linewidth=0)
    step = max(1, len(epochs) // 6)
    axes.plot(epochs, curve.mean, **look, markevery=(place % step, step), markersize=3, gid="curve")


def costs(told: Told, panel: Panel, title: str) -> Figure | None:
    """Cost against accuracy, side by side for each kind of cost; None where nothing was measured."""
    known = known_scores(told)
    own = {arm: of_panel(told.table, panel, arm) for arm in told.question.arms}
    scores = {arm: 100 * np.array(list(known.get((*panel, arm), {}).values())) for arm in own}
    measured = {
        column: {arm: price for arm in own if len(scores[arm]) and (price := spent(own[arm], column))}
        for column in COSTS
    }
    found = {column: prices for column, prices in measured.items() if prices}
    if not found:
        return None
    means = {arm: mean(of, told.question.alpha) for arm, of in scores.items() if len(of)}
    figure = Figure(figsize=(COLUMN * len(found), 2.2), layout="constrained")
    arms: dict[str, None] = {}
    for axes, (column, of) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        scale, _, label, _ = COSTS[column]
        points = {arm: (scale * value, means[arm], busy) for arm, (value, busy) in of.items()}
        arms |= dict.fromkeys(spending(axes, points, told))
        axes.set_xlabel(label)
        axes.set_ylabel("test accuracy, %")
    figure.suptitle(title)
    ordered = [arm for arm in told.question.arms if arm in arms]
    handles = of_arms(told, ordered, linestyle="")
    if len(ordered) < len(own):
        handles["other arms"] = Line2D([], [], color=QUIET.light, linestyle="", marker=".")
    handles["none is better in both"] = Line2D([], [], color=QUIET.light, linestyle=":")
    if any(busy for of in found.values() for _, busy in of.values()):
        handles["hollow: busy machine"] = Line2D([], [], color="none")
    legend(figure, handles)
    return figure


def spending(axes: Axes, points: Mapping[str, tuple[float, Interval, bool]], told: Told) -> list[str]:
    """Marks with intervals, and the front as a stair; returns the arms that have a mark of their own."""
    front = pareto([of.estimate for _, of, _ in points.values()], [price for price, *_ in points.values()])
    best = sorted((points[arm] for arm, on in zip(points, front, strict=True) if on), key=lambda of: of[0])
    stair = [of[0] for of in best], [of[1].estimate for of in best]
    axes.plot(*stair, color=QUIET.light, linestyle=":", drawstyle="steps-post", linewidth=1)
    kept = [
        arm
        for arm, on in zip(points, front, strict=True)
        if on or len(points) <= NAMED or arm == told.question.baseline
    ]
    own = styles(told)
    for arm, (price, score, busy) in points.items():
        look = {"color": own[arm]["color"], "marker": own[arm]["marker"]} if arm in kept else {"marker": "."}
        colour = look.setdefault("color", QUIET.light)
        if score.low == score.low:
            axes.vlines(price, score.low, score.high, colors=colour, linewidth=0.8)
        axes.plot([price], [score.estimate], **look, markerfacecolor="white" if busy else colour, gid="cost")
    return kept
