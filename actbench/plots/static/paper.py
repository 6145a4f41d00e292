"""What all figures for papers share: sizes, manner, marks of arms, legends, files."""

import logging
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any, Literal, NamedTuple

from matplotlib import font_manager, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from actbench.plots.palette import INK, QUIET, RULE, looks
from actbench.plots.picture import shorten
from actbench.verdict import Told

COLUMN, HALF_MORE, PAGE = 3.4, 5.0, 7.0  # inches: one column, one and a half, and both
LETTER, LINE = 0.058, 0.14  # inches, of a legend
MARKERS = "s^vDPX<>"
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2, 1, 1, 1, 2)))
# Fonts with letters that matplotlib's own lacks, of which systems have one or another.
WIDE_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Arial Unicode MS", "PingFang SC", "Hiragino Sans"),
    *("Microsoft YaHei", "Yu Gothic", "Malgun Gothic"),
)
MANNER = {
    **{"font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "figure.titlesize": 8},
    **{"xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7, "legend.title_fontsize": 7},
    **{"lines.linewidth": 1.2, "lines.markersize": 4, "axes.linewidth": 0.6, "legend.frameon": False},
    **{"axes.grid": True, "grid.color": RULE.light, "grid.linewidth": 0.5, "axes.axisbelow": True},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": QUIET.light},
    **{"axes.labelcolor": INK.light, "text.color": INK.light, "xtick.color": QUIET.light, "ytick.color": QUIET.light},
    "text.parse_math": False,  # a name with dollars is a name
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "actbench",  # the same figure gives the same file
}


class Still(NamedTuple):
    """A figure for a paper; ``name`` is fit for a file's, and no other still of the study has it."""

    name: str
    title: str
    figure: Figure


def rendered(still: Still, form: Literal["png", "svg"], *, dpi: int = 300) -> bytes:
    """A still as a file's content.

    Args:
        still: What to draw.
        form: PNG, or SVG with text as text.
        dpi: Dots per inch of a PNG.
    """
    buffer = BytesIO()
    metadata = {"Title": still.title, "Date": None} if form == "svg" else {"Title": still.title}
    with manner():
        still.figure.savefig(buffer, format=form, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


@contextmanager
def manner() -> Iterator[None]:
    """Drawing as papers need it, whatever the user has set for other figures."""
    installed = set(font_manager.get_font_names())
    fonts = {"font.family": ["DejaVu Sans", *(name for name in WIDE_FONTS if name in installed)]}
    said = logging.getLogger("matplotlib.font_manager")
    level = said.level
    with style.context(["default", MANNER, fonts]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box in a PNG; SVG has the text all the same
        said.setLevel(logging.ERROR)  # it tells of the weight that a font lacks
        try:
            yield
        finally:
            said.setLevel(level)


def file_name(*parts: str) -> str:
    """Names as a part of a file's name: letters of any language, digits, dots, hyphens and underscores."""
    words = [re.sub(r"[^\w.+=-]+", "_", part).strip("._") for part in parts]
    return "_".join(word[:60] for word in words if word)


def styles(told: Told) -> dict[str, dict[str, Any]]:
    """How each arm is drawn: no two of the first forty-one look alike, without colour as well."""
    baseline = told.question.baseline
    found = {baseline: {"color": INK.light, "linestyle": "-", "marker": "o"}}
    colours = looks(told.question.arms, baseline)
    for place, arm in enumerate(arm for arm in told.question.arms if arm != baseline):
        more = {"linestyle": DASHES[(place + 1) % len(DASHES)], "marker": MARKERS[place % len(MARKERS)]}
        found[arm] = {"color": colours[arm].tone.light, **more}
    return found


def labelled(names: Sequence[str]) -> list[str]:
    """Names on one line each, short."""
    return [shorten(" ".join(name.split())) for name in names]


def legend(figure: Figure, handles: Mapping[str, Any], *, title: str = "") -> None:
    """A legend under the axes, for which the figure grows.

    Args:
        figure: Whose.
        handles: What is drawn, by name.
        title: Stands above.
    """
    names = labelled(list(handles))
    width = 0.75 + LETTER * max(map(len, names))
    columns = max(1, min(len(names), int(figure.get_figwidth() / width)))
    figure.set_figheight(figure.get_figheight() + LINE * (math.ceil(len(names) / columns) + bool(title) + 1))
    made = figure.legend(
        list(handles.values()),
        [str(number) for number in range(len(names))],
        loc="outside lower center",
        ncols=columns,
        title=title or None,
        handlelength=3,
    )
    for text, name in zip(made.get_texts(), names, strict=True):
        text.set_text(name)  # as a label, a name that begins with _ would be left out


def of_arms(told: Told, arms: Sequence[str], **settings: Any) -> dict[str, Any]:
    """Handles of arms for a legend."""
    own = styles(told)
    return {arm: Line2D([], [], **{**own[arm], **settings}) for arm in arms}


def some_of(told: Told, arms: Sequence[str]) -> str:
    """That not all arms are drawn; nothing where they are."""
    number = len(told.question.arms)
    return "" if len(arms) == number else f"{told.question.baseline} and the best of {number} arms"


def rows(axes: Axes, names: Sequence[str]) -> None:
    """Rows with names, from top to bottom."""
    axes.set_yticks(range(len(names)), labelled(names), color=INK.light)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
