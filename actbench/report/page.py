"""The page: one file that tells a study's story, with all that it needs inside."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from actbench import __version__
from actbench.inference.verdict import StudyResults
from actbench.records import write_whole
from actbench.report import answer, provenance
from actbench.report.embedded import embedded, json_in_page, packed
from actbench.report.figures import SCORES, Figure
from actbench.report.figures.figure import FONT, arm_labels, shown_first, specification, style
from actbench.report.figures.palette import ARMS, INK, PAPER, QUIET, RULE, SIGNS, VERDICTS, arm_styles
from actbench.report.sections import stories, study_facts, verdict_sentences, warnings
from actbench.report.tables import latex, markdown, tables

REPORT = "report.html"
FOLDED = 6  # so many verdicts are seen at once


def write_page(results: StudyResults, folder: Path) -> Path:
    """Write ``report.html`` into a study's folder, whole or not at all; returns its path."""
    path = folder / REPORT
    write_whole(path, page(results, name=folder.resolve().name).encode())
    return path


def page(results: StudyResults, *, name: str) -> str:
    """The page of a study as text."""
    environment = Environment(
        loader=PackageLoader("actbench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["embedded"] = json_in_page
    with ThreadPoolExecutor() as pool:
        script = pool.submit(vega)  # takes a second, which it need not add to that of all the rest
        held, found, told_stories = embedded(results), tables(results), stories(results)
        common, fits = provenance.configs(results)
        figures = {of.name: drawing(of) for story in told_stories for of in story.figures}
    return environment.get_template("report.html.j2").render(
        version=__version__,
        name=name,
        results=results,
        folded=FOLDED,
        styles=part("report.css"),
        script=part("report.js"),
        vega=script.result(),
        licences=part("vega.LICENSE"),
        tones={"ink": INK, "quiet": QUIET, "rule": RULE, "paper": PAPER, **VERDICTS},
        dark=dict([INK, QUIET, RULE, PAPER, *VERDICTS.values(), *ARMS]),
        style=style(FONT),
        drawings=figures,
        scores=SCORES,
        signs=SIGNS,
        labels=arm_labels(results),
        shown=shown_first(results),
        looks=arm_styles(results.question.arms, results.question.baseline),
        stories=told_stories,
        held=held,
        tables=found,
        texts={"md": "\n".join(map(markdown, found)), "tex": "\n".join(map(latex, found))},
        provenance=provenance.provenance_facts(results.table),
        diverged=provenance.diverged(results.table),
        common=common,
        fits=fits,
        question=answer.asked(results),
        answer=answer.answered(results),
        price=answer.price(results),
        missing=answer.missing(results),
        warnings=warnings(results),
        verdicts=verdict_sentences(results),
        facts=study_facts(results),
    )


def part(name: str) -> Markup:
    """A file beside this one, as it is."""
    return Markup(files("actbench.report").joinpath(name).read_text(encoding="utf-8"))


@cache
def vega() -> Markup:
    """Vega-Embed, which draws figures in the browser, with Vega and Vega-Lite, in the versions that draw for papers."""
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return Markup(script.replace("</script", "<\\/script").replace("<!--", "<\\!--"))


def drawing(figure: Figure) -> dict[str, Any]:
    """A figure with its data by column."""
    columns = {name: packed(figure.data[name]) for name in figure.data.columns}
    return {"spec": specification([figure], room=0, data=False), "columns": columns}
