"""What was chosen and what was compared, for papers: the grid of the tuned setting, and the activations."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, NullLocator

from actbench.plots.curves import shown_first
from actbench.plots.palette import BAND, QUIET
from actbench.plots.shapes import COLUMNS, Shape, shapes_of
from actbench.plots.static.paper import COLUMN, PAGE, Still, file_name, legend, of_arms, some_of, styles
from actbench.verdict import Told, Tuned, Tuning


def tunings(told: Told) -> Iterator[Still]:
    """Score over the grid of the setting that was tuned, the chosen values ringed."""
    for of in told.tunings:
        where = () if len(told.tunings) == 1 else (of.dataset, of.network)
        title = f"{of.dataset} with {of.network}"
        yield Still(file_name("tuning", *where), title, tuning(of, told, title if where else ""))


def tuning(of: Tuning, told: Told, title: str) -> Figure:
    """A curve for each arm."""
    first = shown_first(told)
    figure = Figure(figsize=(COLUMN, 2.2), layout="constrained")
    axes = figure.subplots()
    if all(value > 0 for value in of.grid):
        axes.set_xscale("log")
    drawn = [arm for arm in of.arms if arm.arm in first]
    for arm in drawn:
        grid(axes, arm, styles(told)[arm.arm])
    axes.set_xticks(list(of.grid), [f"{value:g}" for value in of.grid])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(of.setting)
    axes.set_ylabel("val accuracy, %")
    axes.set_title(title)
    handles = of_arms(told, [arm.arm for arm in drawn])
    handles["chosen"] = Line2D([], [], color="none", marker="o", markersize=8, markeredgecolor=QUIET.light)
    legend(figure, handles, title=some_of(told, first))
    return figure


def grid(axes: Axes, arm: Tuned, look: Mapping[str, Any]) -> None:
    """Band, mean and chosen value of an arm."""
    values = list(arm.val_accuracy)
    estimates, lows, highs = 100 * np.array(list(arm.val_accuracy.values())).T
    axes.fill_between(values, np.maximum(lows, 0), np.minimum(highs, 100), color=look["color"], alpha=BAND, linewidth=0)
    axes.plot(values, estimates, **look, gid="tuning")
    best = 100 * arm.val_accuracy[arm.chosen].estimate
    axes.plot([arm.chosen], [best], "o", color=look["color"], markersize=8, markerfacecolor="none", gid="tuning-chosen")


def activations(told: Told) -> Iterator[Still]:
    """Functions and derivatives; nothing where the records do not hold them."""
    if not set(COLUMNS) <= set(told.table.columns):
        return
    first = shown_first(told)
    found = [shape for arm in first for shape in shapes_of(told.table, arm)]
    if found:
        yield Still("activations", "Activations and their derivatives", shapes(found, told, some_of(told, first)))


def shapes(found: Sequence[Shape], told: Told, note: str) -> Figure:
    """One curve for each shape; those that were learned are thin."""
    arms = list(dict.fromkeys(of.arm for of in found))
    figure = Figure(figsize=(PAGE, 2.1), layout="constrained")
    for axes, what, label in zip(figure.subplots(1, 2), ("y", "slope"), ("f(x)", "f′(x)"), strict=True):
        for of in found:
            x, y = (np.array(values, dtype=float) for values in (of.x, getattr(of, what)))
            step = max(1, len(x) // 6)
            look = styles(told)[of.arm]
            marks = {"markevery": (arms.index(of.arm) * step // 5 % step, step), "markersize": 3}
            axes.plot(x, y, **look, **marks, linewidth=0.7 if of.learned else 1.2, gid=f"activation-{what}")
        axes.set_xlabel("x")
        axes.set_ylabel(label)
    learned = any(of.learned for of in found)
    legend(figure, of_arms(told, arms), title=note or ("thin: as learned, a seed each" if learned else ""))
    return figure
