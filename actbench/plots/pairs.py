"""Every replicate: dots of an arm and of its baseline, with a line between those of the same seed."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from actbench.plots.forest import best_first, pair
from actbench.plots.palette import ARMS, LINE, QUIET, VERDICTS, Tone
from actbench.plots.picture import (
    Panel,
    Picture,
    axis,
    called,
    drawn,
    known_scores,
    of_panel,
    panels,
    rows_axis,
    shown,
)
from actbench.verdict import Told
from actbench.verdict.words import listed

ROW = 50  # pixels
HALF = 0.27  # of a row, from its middle to the dots
FAR = 3.0  # quartile ranges: scores farther off the middle half lie outside the close range
PRESSED = 0.4  # share of the whole range from which on nothing is gained by looking closer
MANY = 60  # seeds in a row: from so many on, dots and lines are finer


class Side(NamedTuple):
    """Test accuracies of one arm in percent, a seed each, and whether the replicate has diverged."""

    arm: str
    scores: Float[np.ndarray, " seeds"]
    diverged: Sequence[bool]


class Row(NamedTuple):
    """The pairs of one comparison; the baseline has no side where it is the only arm."""

    seeds: Sequence[int]
    own: Side
    base: Side | None

    @property
    def higher(self) -> int:
        """In how many pairs the arm scores higher."""
        return int(np.sum(self.own.scores > self.base.scores)) if self.base else 0


def pairs(told: Told) -> list[Picture]:
    """One picture for each dataset and network: of the study's baseline, the pairs that the verdicts rest on."""
    return [
        Picture(f"pairs-{number}", panel.title, said(rows, told.question.baseline), figure(rows))
        for number, panel in enumerate(panels(told))
        if (rows := rows_of(told, panel))
    ]


def rows_of(told: Told, panel: Panel) -> list[Row]:
    """Arms in the order of the forest plot; the baseline alone where it is the only arm."""
    question, known = told.question, known_scores(told)
    lost = set(of_panel(told.table, panel).filter("diverged").select("arm", "seed").iter_rows())
    base = known.get((*panel, question.baseline), {})

    def side(arm: str, seeds: Sequence[int]) -> Side:
        scores = known[*panel, arm]
        return Side(arm, np.array([100 * scores[seed] for seed in seeds]), [(arm, seed) in lost for seed in seeds])

    if len(question.arms) == 1:
        return [Row(sorted(base), side(question.baseline, sorted(base)), None)] if base else []
    order = best_first(told.conclusion)
    findings = sorted(told.conclusion.findings, key=lambda of: order[pair(of)])
    rows = []
    for of in findings:
        if (of.comparison.dataset, of.comparison.network, of.comparison.baseline) == (*panel, question.baseline):
            both = set(base) & set(known.get((*panel, of.comparison.arm), {}))
            planned = [seed for seed in range(question.seed, question.seed + question.most) if seed in both]
            seeds = planned[: of.judgement.pairs]
            if seeds:
                rows.append(Row(seeds, side(of.comparison.arm, seeds), side(question.baseline, seeds)))
    return rows


def said(rows: Sequence[Row], baseline: str) -> str:
    """How often the arm scores higher, in words."""
    if not rows[0].base:
        return f"Test accuracy of {called(baseline)}, {len(rows[0].seeds)} seeds."
    counts = [f"{called(row.own.arm)} with {row.higher} of {len(row.seeds)} seeds" for row in rows]
    return f"Higher than {called(baseline)} on the same seed: {listed(counts)}."


def figure(rows: Sequence[Row]) -> Any:
    """Rows from top to bottom; in each the baseline above and the arm below."""
    fine = max(len(row.seeds) for row in rows) >= MANY
    traces = [lines(rows, higher=higher, fine=fine) for higher in (True, False)]
    for place, row in enumerate(rows):
        if row.base:
            traces.append(dots(row.base, row.seeds, place - HALF, tone=QUIET, fine=fine))
        traces.append(dots(row.own, row.seeds, place + HALF if row.base else place, tone=ARMS[0], fine=fine))
    return drawn(
        traces,
        height=ROW * len(rows) + 70,
        xaxis=axis("test accuracy, %"),
        yaxis=rows_axis([row.own.arm for row in rows]),
        meta={"close": close(rows)},
    )


def close(rows: Sequence[Row]) -> list[float] | None:
    """A range of scores without those far off, where these would press all others together; else None."""
    scores = np.concatenate([side.scores for row in rows for side in (row.own, row.base) if side])
    first, third = np.percentile(scores, [25, 75])
    kept = scores[(scores >= first - FAR * (third - first)) & (scores <= third + FAR * (third - first))]
    low, high = float(kept.min()), float(kept.max())
    if high == low or high - low > PRESSED * np.ptp(scores):
        return None
    room = 0.05 * (high - low)
    return [low - room, high + room]


def lines(rows: Sequence[Row], *, higher: bool, fine: bool) -> dict[str, Any]:
    """Lines from the baseline to the arm, of the seeds where the arm scores higher, or where it does not."""
    x, y = [np.empty(0)], [np.empty(0)]
    for place, row in enumerate(rows):
        if row.base:
            which = (row.own.scores > row.base.scores) == higher
            count = int(np.sum(which))
            x.append(np.stack([row.base.scores[which], row.own.scores[which], np.full(count, np.nan)], axis=1).ravel())
            y.append(np.tile([place - HALF, place + HALF, np.nan], count))
    tone = VERDICTS["better" if higher else "worse"]
    line = {"color": tone.faded(LINE).light, "width": 0.6} if fine else {"color": tone.light, "width": 1.2}
    return {
        "name": "arm higher" if higher else "arm not higher",
        "mode": "lines",
        "x": np.concatenate(x).astype(np.float32),
        "y": np.concatenate(y).astype(np.float32),
        "line": line | ({} if higher else {"dash": "3px,2px"}),
        "hoverinfo": "skip",
    }


def dots(side: Side, seeds: Sequence[int], height: float, *, tone: Tone, fine: bool) -> dict[str, Any]:
    """The replicates of one side of a row; those that have diverged are crosses."""
    symbol = "circle-open" if tone is QUIET else "circle"
    crossed = ["x-open" if lost else symbol for lost in side.diverged] if any(side.diverged) else symbol
    return {
        "name": shown(side.arm, 60),
        "mode": "markers",
        "x": side.scores.astype(np.float32),
        "y": np.full(len(seeds), height, dtype=np.float32),
        "customdata": np.array(seeds),
        "marker": {
            "size": 3 if fine else 7,
            "color": tone.light,
            "symbol": crossed,
            "line": {"width": 1, "color": tone.light},
        },
        "hovertemplate": f"{shown(side.arm, 60)}, seed %{{customdata}}: %{{x:.2f}} %<extra></extra>",
    }
