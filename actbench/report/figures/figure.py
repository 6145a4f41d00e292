"""What all figures of a study share: panels, names, axes, the look of arms, and how a figure becomes a file."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, chain, count
from typing import Any, Literal, NamedTuple
from unicodedata import east_asian_width

import altair as alt
import polars as pl
import vl_convert

from actbench.inference.verdict import StudyResults
from actbench.inference.verdict.evidence import Scores, scores
from actbench.inference.verdict.findings import OUTCOME
from actbench.report.figures.palette import INK, QUIET, RULE, arm_styles

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif'
PAPER_FONT = "Liberation Sans, Arial, Helvetica, sans-serif"  # the first comes with vl-convert
LONGEST = 24  # letters of a name beside an axis
FIRST = 6  # arms that are shown at first where there are more
INCH = 117  # pixels to an inch of paper: the 13 pixels of a figure's letters are 8 points there
COLUMN, HALF_MORE, PAGE = 3.4, 5.0, 7.0  # inches: a column of a paper, one and a half, and both
HEIGHT = 300  # pixels, where the data do not give another


Layers = alt.LayerChart | alt.FacetChart  # what altair's own signatures return


class Panel(NamedTuple):
    """A dataset and a network."""

    dataset: str
    network: str

    @property
    def title(self) -> str:
        """As people say it."""
        return f"{self.dataset} with {self.network}"


class Figure(NamedTuple):
    """A figure in the grammar of Vega-Lite, with its title and what is to be seen in it, in words.

    ``name`` is made of letters, digits and hyphens, and no other figure of the
    study has it. ``chart`` reads ``data`` under that name. The page sets some
    of ``params``: ``arms``, ``along`` (epochs or seconds) and ``range`` (whole
    or close). Figures of one kind and panel stand side by side in one file.
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


def panels(results: StudyResults) -> list[Panel]:
    """All datasets and networks of a study."""
    return list(dict.fromkeys(Panel(row.dataset, row.network) for row in results.question.asked))


def of_panel(table: pl.DataFrame, panel: Panel, arm: str | None = None) -> pl.DataFrame:
    """The records of a panel, of one arm or of all."""
    own = table.filter(dataset_name=panel.dataset, network_name=panel.network)
    return own if arm is None else own.filter(arm=arm)


def known_scores(results: StudyResults) -> Scores:
    """Test accuracy of each seed of what is asked; a diverged replicate guesses."""
    return scores(results.table, OUTCOME)


# --- names ---


def shorten(name: str, longest: int = LONGEST) -> str:
    """A name on one line, with its middle left out where it is long.

    Wide letters count twice. Vega would cut what is left too wide, even between the two halves of a letter such as 𝕏.
    """
    name = " ".join(name.split())
    widths = [2 if ord(letter) > 0xFFFF or east_asian_width(letter) in "WF" else 1 for letter in name]
    if sum(widths) <= longest:
        return name
    end = longest // 3
    head = sum(width <= longest - end - 1 for width in accumulate(widths))
    tail = sum(width <= end for width in accumulate(reversed(widths)))
    return f"{name[:head]}…{name[len(name) - tail :]}"


def called(name: str) -> str:
    """A name in a sentence."""
    return shorten(name, 40)


def labels(names: Sequence[str]) -> list[str]:
    """Names in a figure: short, and yet no two alike."""
    found: list[str] = []
    for name in names:
        numbered = (f"{shorten(name, LONGEST - 4)} ({number})" for number in count(2))
        found.append(next(text for text in chain([shorten(name)], numbered) if text not in found))
    return found


def arm_labels(results: StudyResults) -> dict[str, str]:
    """The label of each arm."""
    return dict(zip(results.question.arms, labels(results.question.arms), strict=True))


def arms_in_words(results: StudyResults) -> dict[str, str]:
    """The name of each arm in a sentence, by its label."""
    return {label: called(arm) for arm, label in arm_labels(results).items()}


def file_name(*parts: str) -> str:
    """Names as a part of a file's name: letters of any language, digits, dots, hyphens and underscores."""
    words = [re.sub(r"[^\w.+=-]+", "_", part).strip("._") for part in parts]
    return "_".join(word[:60] for word in words if word)


# --- arms ---


def shown_first(results: StudyResults) -> list[str]:
    """The arms that figures with a curve each begin with: all, or the baseline and the best ones."""
    arms, baseline = results.question.arms, results.question.baseline
    if len(arms) <= FIRST + 2:
        return arms
    means = results.table.group_by("arm").agg(pl.col("test_accuracy").mean()).sort("test_accuracy", descending=True)
    best = [arm for arm in means["arm"] if arm != baseline][: FIRST - 1]
    return [arm for arm in arms if arm == baseline or arm in best]


def arm_channels(
    results: StudyResults, *, legend: Any = None, notes: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Channels of lines and those of marks: colour of each arm, with its dash or its shape.

    The legend has the arms with these labels, or those that are shown; ``notes`` are lines of its title.
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

    color = alt.Color("arm:N", scale=scale(look.tone.light for look in styles.values()), legend=key)
    dash = alt.StrokeDash("arm:N", scale=scale(list(look.dash) for look in styles.values()), legend=key)
    shape = alt.Shape("arm:N", scale=scale(look.shape for look in styles.values()), legend=key)
    return {"color": color, "strokeDash": dash}, {"color": color, "shape": shape}


def columns(names: Sequence[str]) -> alt.ExprRef:
    """How many columns of names there is room for in a legend."""
    return alt.ExprRef(f"max(1, floor(room / {32 + 8 * max(map(len, names))}))")


def arm_params(results: StudyResults) -> dict[str, Any]:
    """The arms that are shown at first, and how they were chosen where they are not all."""
    arms, shown, number = arm_labels(results), shown_first(results), len(results.question.arms)
    choice = f"{arms[results.question.baseline]} and the best of {number} arms" if len(shown) < number else None
    return {"arms": [arms[arm] for arm in shown], "choice": choice, "hover": False}


def with_room(low: float, high: float) -> list[float]:
    """A range with room at its ends."""
    room = 0.05 * (high - low) or 1
    return [low - room, high + room]


def tooltips(*names: str, **formats: str) -> list[alt.Tooltip]:
    """What a mark says when it is pointed at: fields as they are, and numbers in a format of D3."""
    return [alt.Tooltip(f"{name}:N") for name in names] + [
        alt.Tooltip(f"{name}:Q", format=text) for name, text in formats.items()
    ]


def rows_axis(
    count: int, field: str = "row:Q", *, names: str = "names", orient: Literal["left", "right"] = "left"
) -> alt.Y:
    """Rows from top to bottom, with an axis whose labels are the param that ``names`` says."""
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


def specification(figures: Sequence[Figure], *, room: float, data: bool = True) -> dict[str, Any]:
    """Vega-Lite's JSON of figures side by side, with or without their data, and ``room`` for a legend in pixels."""
    charts = [figure.chart for figure in figures]
    spec = (charts[0] if len(charts) == 1 else alt.hconcat(*charts)).to_dict()
    del spec["config"]
    params = {"room": room} | {name: value for figure in figures for name, value in figure.params.items()}
    spec["params"] = [{"name": name, "value": value} for name, value in params.items()]
    rows = {figure.name: figure.data.to_dicts() for figure in figures} if data else {}
    spec["datasets"] = {"seeds": [], **spec.get("datasets", {}), **rows}
    return spec


def style(font: str) -> dict[str, Any]:
    """Vega-Lite's config: letters and rules, for figures of any kind."""
    text = {"labelFontSize": 12, "titleFontSize": 13, "titleFontWeight": "normal"}
    return {
        "font": font,
        "aria": False,  # the figure as a whole has its text
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


def rendered(figures: Sequence[Figure], form: Literal["png", "svg"], *, dpi: int = 300) -> bytes:
    """Figures of one kind and panel, side by side, as a file's content: PNG, or SVG whose text is text."""
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
    config = {**style(PAPER_FONT), "background": "white"}
    if form == "png":
        return vl_convert.vegalite_to_png(spec, config=config, scale=72 / INCH, ppi=dpi)
    svg = vl_convert.vegalite_to_svg(spec, config=config)
    inches = re.sub(r'(width|height)="([\d.]+)"', lambda of: f'{of[1]}="{float(of[2]) / INCH:.3f}in"', svg, count=2)
    numbers: dict[str, str] = {}  # Vega counts clips on from one figure to the next
    clip = r'(?<=<clipPath id="clip)\d+|(?<=clip-path="url\(#clip)\d+'
    return re.sub(clip, lambda of: numbers.setdefault(of[0], str(len(numbers))), inches).encode()


def files(figures: Iterable[Figure]) -> dict[str, list[Figure]]:
    """Figures by the file that they stand in; name and figures say the panel where there are several."""
    found: dict[tuple[str, Panel | None], list[Figure]] = {}
    for figure in figures:
        found.setdefault((figure.kind, figure.panel), []).append(figure)
    kinds = Counter(kind for kind, _ in found)
    named = {}
    for (kind, panel), group in found.items():
        alone = kinds[kind] == 1
        name = file_name(kind, *(() if alone or not panel else panel))
        named[name] = [figure._replace(panel=None) for figure in group] if alone else group
    return named
