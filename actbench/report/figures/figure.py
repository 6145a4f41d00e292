"""What all figures of a study share: names, the look of arms, axes, and how a figure becomes a file."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, chain, count
from typing import Any, Literal, NamedTuple
from unicodedata import east_asian_width

import altair as alt
import polars as pl
import vl_convert
from altair.utils.schemapi import debug_mode

from actbench.inference.verdict import StudyResults
from actbench.inference.verdict.question import Panel
from actbench.report.figures.palette import INK, QUIET, RULE, arm_styles

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif'
PAPER_FONT = "Liberation Sans, Arial, Helvetica, sans-serif"  # the first comes with vl-convert
LONGEST = 24  # letters of a name beside an axis
SENTENCE = 40  # letters of a name in a sentence
FIRST = 6  # arms that are shown at first where there are more
INCH = 117  # pixels to an inch of paper: the 13 pixels of a figure's letters are 8 points there
COLUMN, HALF_MORE, PAGE = 3.4, 5.0, 7.0  # inches: a column of a paper, one and a half, and both
HEIGHT = 300  # pixels, where the data do not give another


Layers = alt.LayerChart | alt.FacetChart  # what altair's own signatures return


class Figure(NamedTuple):
    """A figure in the grammar of Vega-Lite, with its title and its ``finding`` in words.

    ``name`` consists of letters, digits and hyphens, and is unique within the
    study. ``chart`` reads ``data`` under that name. The page sets some of
    ``params``: ``arms``, ``along`` (epochs or seconds) and ``range`` (whole or
    close). Figures of one kind and panel stand side by side in one file.
    """

    name: str
    title: str
    finding: str
    chart: Layers
    data: pl.DataFrame
    params: Mapping[str, Any]
    kind: str
    panel: Panel | None = None
    inches: float = COLUMN  # width on paper
    score: str | None = None  # column of the records, of which the page shows one at a time


def panel_records(table: pl.DataFrame, panel: Panel, arm: str | None = None) -> pl.DataFrame:
    """The records of a panel, of one arm or of all."""
    return table.filter(dataset_name=panel.dataset, network_name=panel.network, **({"arm": arm} if arm else {}))


# --- names ---


def shorten(name: str, longest: int = LONGEST) -> str:
    """A name on one line, with its middle left out where it is long.

    Wide letters count twice. Vega would cut a name that is too wide, even between the two halves of a letter such as 𝕏.
    """
    name = " ".join(name.split())
    widths = [2 if ord(letter) > 0xFFFF or east_asian_width(letter) in "WF" else 1 for letter in name]
    if sum(widths) <= longest:
        return name
    end = longest // 3
    head = sum(width <= longest - end - 1 for width in accumulate(widths))
    tail = sum(width <= end for width in accumulate(reversed(widths)))
    return f"{name[:head]}…{name[len(name) - tail :]}"


def labels(names: Sequence[str]) -> list[str]:
    """Names in a figure: short, and no two alike."""
    distinct: list[str] = []
    for name in names:
        numbered = (f"{shorten(name, LONGEST - 4)} ({number})" for number in count(2))
        distinct.append(next(label for label in chain([shorten(name)], numbered) if label not in distinct))
    return distinct


def arm_labels(results: StudyResults) -> dict[str, str]:
    """The label of each arm."""
    return dict(zip(results.question.arms, labels(results.question.arms), strict=True))


def names_by_label(results: StudyResults) -> dict[str, str]:
    """The name of each arm in a sentence, by its label."""
    return {label: shorten(arm, SENTENCE) for arm, label in arm_labels(results).items()}


def file_name(*names: str) -> str:
    """Names as part of a file's name: letters of any language, digits, dots, hyphens and underscores."""
    words = [re.sub(r"[^\w.+=-]+", "_", name).strip("._") for name in names]
    return "_".join(word[:60] for word in words if word)


# --- arms ---


def initial_arms(results: StudyResults) -> list[str]:
    """The arms that a figure of curves shows at first: all, or the baseline and the best ones."""
    arms, baseline = results.question.arms, results.question.baseline
    if len(arms) <= FIRST + 2:
        return arms
    ranked = results.table.group_by("arm").agg(pl.col("test_accuracy").mean()).sort("test_accuracy", descending=True)
    best = [arm for arm in ranked["arm"] if arm != baseline][: FIRST - 1]
    return [arm for arm in arms if arm == baseline or arm in best]


def arm_channels(
    results: StudyResults, *, legend: Any = None, notes: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Channels of lines and channels of marks: the colour of each arm, with its dash or its shape.

    The ``legend`` has the arms with these labels, by default those that are shown; ``notes`` are lines of its title.
    """
    styles, label = arm_styles(results.question.arms, results.question.baseline), arm_labels(results)
    names = [label[arm] for arm in styles]
    choice = [] if legend is not None else [arm_params(results)["choice"]]
    key = alt.Legend(
        title=[note for note in (*choice, *notes) if note] or None,
        values=alt.ExprRef("arms") if legend is None else list(legend),
        symbolOpacity=1,
        symbolStrokeWidth=0,
        columns=columns(names),
    )

    def scale(values: Iterable[Any]) -> alt.Scale:
        return alt.Scale(domain=names, range=list(values))

    color = alt.Color("arm:N", scale=scale(style.tone.light for style in styles.values()), legend=key)
    dash = alt.StrokeDash("arm:N", scale=scale(list(style.dash) for style in styles.values()), legend=key)
    shape = alt.Shape("arm:N", scale=scale(style.shape for style in styles.values()), legend=key)
    return {"color": color, "strokeDash": dash}, {"color": color, "shape": shape}


def columns(names: Sequence[str]) -> alt.ExprRef:
    """Number of columns of names for which a legend has room."""
    return alt.ExprRef(f"max(1, floor(room / {32 + 8 * max(map(len, names))}))")


def arm_params(results: StudyResults) -> dict[str, Any]:
    """The labels of the arms that are shown at first, and how these were chosen if they are not all."""
    label, shown, number = arm_labels(results), initial_arms(results), len(results.question.arms)
    choice = f"{label[results.question.baseline]} and the best of {number} arms" if len(shown) < number else None
    return {"arms": [label[arm] for arm in shown], "choice": choice, "hover": False}


def padded(low: float, high: float) -> list[float]:
    """A range with room at both ends."""
    room = 0.05 * (high - low) or 1
    return [low - room, high + room]


def tooltips(*names: str, **formats: str) -> list[alt.Tooltip]:
    """The text of a mark under the pointer: fields as they are, and numbers in a format of D3."""
    numbers = [alt.Tooltip(f"{name}:Q", format=text) for name, text in formats.items()]
    return [*(alt.Tooltip(f"{name}:N") for name in names), *numbers]


def rows_axis(
    count: int, field: str = "row:Q", *, names: str = "names", orient: Literal["left", "right"] = "left"
) -> alt.Y:
    """Rows from top to bottom, with an axis whose labels are in the param called ``names``."""
    axis = alt.Axis(
        values=list(range(count)),
        tickCount=count,
        labelExpr=f"{names}[datum.value]",
        labelOverlap=False,
        labelColor=INK.light if orient == "left" else QUIET.light,
        orient=orient,
        title=None,
        grid=False,
        domain=False,
    )
    return alt.Y(field, scale=alt.Scale(domain=[count - 0.5, -0.5], nice=False), axis=axis)


# --- files ---

unvalidated = debug_mode(False)
"""Decorates functions that make charts. Altair would check every part by itself, which takes half of the time."""


@unvalidated
def specification(figures: Sequence[Figure], *, room: float, data: bool = True) -> dict[str, Any]:
    """Vega-Lite's JSON of figures side by side, with or without their data, and ``room`` for a legend in pixels."""
    charts = [figure.chart for figure in figures]
    spec = (charts[0] if len(charts) == 1 else alt.hconcat(*charts)).to_dict(validate=False)
    del spec["config"]
    params = {"room": room} | {name: value for figure in figures for name, value in figure.params.items()}
    spec["params"] = [{"name": name, "value": value} for name, value in params.items()]
    rows = {figure.name: figure.data.to_dicts() for figure in figures} if data else {}
    spec["datasets"] = {"seeds": [], **spec.get("datasets", {}), **rows}
    return spec


def vega_config(font: str) -> dict[str, Any]:
    """Vega-Lite's config: letters and rules, for figures of any kind."""
    text = {"labelFontSize": 12, "titleFontSize": 13, "titleFontWeight": "normal"}
    return {
        "font": font,
        "aria": False,  # the figure as a whole has a text
        "background": None,
        "view": {"stroke": None},
        "axis": {
            **text,
            "labelColor": QUIET.light,
            "titleColor": INK.light,
            "gridColor": RULE.light,
            "domainColor": QUIET.light,
            "ticks": False,
            "labelPadding": 5,
            "tickCount": 6,
            "labelSeparation": 6,
        },
        "legend": {
            **text,
            "labelColor": INK.light,
            "titleColor": QUIET.light,
            "titleFontSize": 12,
            "titleLimit": 0,
            "labelLimit": 8 * LONGEST,
            "orient": "bottom",
            "symbolSize": 60,
            "offset": 10,
            "layout": {"bottom": {"anchor": "start", "direction": "vertical", "bounds": "full"}},
        },
        "title": {"fontSize": 13, "fontWeight": "normal", "color": INK.light, "anchor": "middle"},
    }


def render(figures: Sequence[Figure], form: Literal["png", "svg"], *, dpi: int = 300) -> bytes:
    """Figures of one kind and panel side by side, as the content of a file: PNG, or SVG whose text is text."""
    width = figures[0].inches * INCH
    spec = specification(figures, room=width)
    if len(figures) == 1:
        spec |= {"width": width, "autosize": {"type": "fit-x", "contains": "padding"}}
        spec.setdefault("height", HEIGHT * 0.8)
    else:
        for chart in spec["hconcat"]:
            chart |= {"width": width / len(figures) - 70, "height": HEIGHT * 0.6}
    if figures[0].panel:
        spec["title"] = {"text": figures[0].panel.title if len(figures) > 1 else figures[0].title, "fontSize": 14}
    config = {**vega_config(PAPER_FONT), "background": "white"}
    if form == "png":
        return vl_convert.vegalite_to_png(spec, config=config, scale=72 / INCH, ppi=dpi)
    svg = vl_convert.vegalite_to_svg(spec, config=config)
    size = r'(width|height)="([\d.]+)"'
    svg = re.sub(size, lambda match: f'{match[1]}="{float(match[2]) / INCH:.3f}in"', svg, count=2)
    numbers: dict[str, str] = {}  # Vega numbers clips on from one figure to the next
    clip = r'(?<=<clipPath id="clip)\d+|(?<=clip-path="url\(#clip)\d+'
    return re.sub(clip, lambda match: numbers.setdefault(match[0], str(len(numbers))), svg).encode()


def figures_by_file(figures: Iterable[Figure]) -> dict[str, list[Figure]]:
    """Figures by the name of their file; names and figures give the panel where a kind has several."""
    groups: dict[tuple[str, Panel | None], list[Figure]] = {}
    for figure in figures:
        groups.setdefault((figure.kind, figure.panel), []).append(figure)
    kinds = Counter(kind for kind, _ in groups)
    named = {}
    for (kind, panel), group in groups.items():
        alone = kinds[kind] == 1
        name = file_name(kind, *(() if alone or not panel else panel))
        named[name] = [figure._replace(panel=None) for figure in group] if alone else group
    return named
