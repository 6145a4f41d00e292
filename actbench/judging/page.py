"""A ledger as a table, in sentences, and as a page of one file."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import altair as alt
import polars as pl
from markupsafe import Markup

from actbench.inference.verdict.phrases import count, points
from actbench.judging.ledger import Event, Ledger
from actbench.records import replace_file
from actbench.report.cells import NONE, ReportTable, TableCell, TableColumn, text_cell
from actbench.report.figures.figure import PAGE, Figure, render, shorten, tooltips, unvalidated
from actbench.report.figures.palette import INK, QUIET, SIGNS, SYMBOLS, VERDICTS
from actbench.report.page import render_page

CONTROLS = {
    "fwer": "the chance of any false verdict of a difference in the whole series is at most {alpha:g}",
    "fdr": "of the candidates that are better, a share of at most {alpha:g} is expected to be so falsely",
}
TICKS = 20  # at most, of candidates
OPEN = {"verdict": "open", "pairs": 0}


def candidates(ledger: Ledger) -> Iterator[tuple[Event, Event]]:
    """What is known of each candidate and its verdict, in the order in which they were entered."""
    verdicts = ledger.verdicts
    for event in ledger.events:
        if event["event"] == "opened":
            yield event, verdicts.get(event["number"], OPEN)
        elif event["event"] == "refused":
            yield {"number": None, "level": None, "equals": (), **event}, {"verdict": "refused", "pairs": 0}


def ledger_table(ledger: Ledger) -> ReportTable:
    """A row for each candidate."""
    columns = [
        TableColumn("number"),
        TableColumn("candidate", number=False),
        TableColumn("verdict", number=False),
        TableColumn("difference", "points"),
        TableColumn("interval", "points"),
        TableColumn("pairs"),
        TableColumn("fails"),
        TableColumn("level"),
        TableColumn("judged", "UTC", number=False),
        TableColumn("remarks", number=False),
    ]
    rows = [candidate_cells(event, verdict) for event, verdict in candidates(ledger)]
    return ReportTable("ledger", f"Ledger of {count(len(ledger.opened), 'candidate')}", columns, rows)


def candidate_cells(event: Event, verdict: Event) -> list[TableCell]:
    """Cells of `ledger_table`."""
    nothing = TableCell(NONE, None)
    low, failures = verdict.get("low"), verdict.get("failures")
    equals = [f"equals {name}" for name in event["equals"]]
    remarks = [*equals, *event.get("notes", ()), *filter(None, [event.get("reason"), verdict.get("trouble")])]
    sign = SIGNS.get(verdict["verdict"], "")
    return [
        TableCell(f"{event['number']}", event["number"]) if event["number"] else nothing,
        text_cell(event["candidate"]),
        TableCell(f"{sign} {verdict['verdict']}".strip(), verdict["verdict"]),
        nothing if low is None else TableCell(points(verdict["difference"]), verdict["difference"]),
        nothing if low is None else TableCell(f"{points(low)} to {points(verdict['high'])}", low),
        TableCell(f"{verdict['pairs']}", verdict["pairs"]),
        TableCell(f"{failures['candidate']} / {failures['baseline']}", failures["candidate"]) if failures else nothing,
        TableCell(f"{event['level']:.2g}", event["level"]) if event["level"] else nothing,
        text_cell(str(verdict.get("when", event["when"]))[:16].replace("T", " ")),
        text_cell("; ".join(remarks) or NONE),
    ]


def ledger_sentences(ledger: Ledger) -> list[str]:
    """What a ledger says as a whole: its verdicts, its best candidate, and what is left of its level."""
    judged = [verdict["verdict"] for _, verdict in candidates(ledger)]
    counts = [f"{judged.count(name)} {name}" for name in (*VERDICTS, "open", "refused") if name in judged]
    baseline = ledger.study["baseline"]
    sentences = [
        f"{count(len(ledger.opened), 'candidate')} against {baseline if isinstance(baseline, str) else 'the baseline'}"
        + (f": {', '.join(counts)}." if counts else "."),
        f"Whatever the candidates, {CONTROLS[ledger.control].format(alpha=ledger.alpha)}.",
    ]
    better = [pair for pair in candidates(ledger) if pair[1]["verdict"] == "better"]
    if better:
        event, verdict = max(better, key=lambda pair: pair[1].get("difference") or 0)
        sentences.append(f"The best is candidate {event['number']}, {event['candidate']}. {verdict['sentence']}")
        if len(better) > 1:
            sentences.append(
                "Its difference is the largest of several, so that it is likely to be smaller on new seeds; its "
                "verdict holds."
            )
    left = f"{ledger.left:.3g} of {ledger.alpha:g} is left, and the" if ledger.control == "fwer" else "The"
    sentences.append(f"{left} next candidate has the level {ledger.next_level:.2g}.")
    return sentences


# --- the page ---


def write_ledger_page(ledger: Ledger) -> Path:
    """Write a ledger's page beside it, whole or not at all; returns its path."""
    path = ledger.path.with_suffix(".html")
    shown = [verdict for _, verdict in candidates(ledger) if verdict.get("low") is not None]
    answer, *sentences = ledger_sentences(ledger)
    text = render_page(
        "ledger.html.j2",
        name=ledger.path.name,
        answer=answer,
        sentences=sentences,
        table=ledger_table(ledger),
        pages=[verdict.get("page") and quote(verdict["page"]) for _, verdict in candidates(ledger)],
        sources=[(event["number"], event["candidate"], event["source"]) for event in ledger.opened if event["source"]],
        figures=[(figure.title, figure.finding, drawing(figure)) for figure in figures(ledger)] if shown else [],
    )
    replace_file(path, text.encode(errors="replace"))
    return path


def drawing(figure: Figure) -> Markup:
    """A figure as SVG within an element of the page that says what it shows."""
    svg = render([figure], "svg").decode()
    svg = re.sub(r'(width|height)="[\d.]+in"', "", svg, count=2)
    return Markup(svg.replace("<svg", '<svg aria-hidden="true"', 1))


@unvalidated
def figures(ledger: Ledger) -> list[Figure]:
    """Differences with their intervals, and levels, from candidate to candidate."""
    rows = [
        {
            "number": event["number"],
            "candidate": shorten(event["candidate"]),
            "verdict": verdict["verdict"],
            "level": event["level"],
            **{name: 100 * verdict[name] for name in ("difference", "low", "high") if verdict.get(name) is not None},
        }
        for event, verdict in candidates(ledger)
        if event["number"]
    ]
    schema = {"number": pl.Int64, "candidate": pl.String, "verdict": pl.String} | dict.fromkeys(
        ("level", "difference", "low", "high"), pl.Float64
    )
    table = pl.DataFrame(rows, schema=schema)
    names = [*VERDICTS]
    color = alt.Color("verdict:N", scale=alt.Scale(domain=names, range=[tone.light for tone in VERDICTS.values()]))
    shape = alt.Shape("verdict:N", scale=alt.Scale(domain=names, range=[SYMBOLS[name] for name in names]))
    step = math.ceil(len(rows) / TICKS)
    axis = alt.Axis(format="d", grid=False, values=[*range(step, len(rows) + 1, step)])
    x = alt.X("number:Q", title="candidate", axis=axis, scale=alt.Scale(domain=[0.5, len(rows) + 0.5], nice=False))
    data = alt.Chart(alt.NamedData("differences")).transform_filter("isValid(datum.difference)")
    zero = alt.Chart(alt.NamedData("differences")).mark_rule(color=QUIET.light, strokeDash=[2, 3])
    y = alt.Y("difference:Q", title="points of test accuracy")
    differences = alt.layer(
        zero.encode(y=alt.datum(0)),
        data.mark_rule().encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=color),
        data.mark_point(filled=True, opacity=1, size=70).encode(
            x=x, y=y, color=color, shape=shape, tooltip=tooltips("candidate", "verdict", difference="+.2f")
        ),
    )
    levels = alt.layer(
        alt.Chart(alt.NamedData("levels"))
        .mark_point(filled=True, opacity=1, size=50, color=INK.light)
        .encode(x=x, y=alt.Y("level:Q", title="level", scale=alt.Scale(type="log"), axis=alt.Axis(format=".0e")))
    )
    clear = table.filter(pl.col("verdict").is_in(["better", "worse"]))["number"].to_list()
    finding = f"Candidates that differ from the baseline: {', '.join(map(str, clear)) or 'none'}."
    return [
        Figure("differences", "Differences from the baseline", finding, differences, table, {}, "ledger", inches=PAGE),
        Figure("levels", "Levels", LEVELS[ledger.control], levels, table, {}, "ledger", inches=PAGE),
    ]


LEVELS = {
    "fwer": "The chance of a false verdict of a difference that each candidate has. All of them add up to less than "
    "alpha, however many come.",
    "fdr": "The chance of a false verdict of a difference that each candidate has. It rises with each candidate that "
    "is better.",
}
