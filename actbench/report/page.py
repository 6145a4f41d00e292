"""The page: one self-contained file with a study's results."""

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
from actbench.records import replace_file
from actbench.report import answer, provenance
from actbench.report.cells import latex, markdown
from actbench.report.embedded import embed_records, json_in_page, pack_column
from actbench.report.figures import SCORES
from actbench.report.figures.figure import FONT, arm_labels, initial_arms, specification, vega_config
from actbench.report.figures.palette import ARMS, INK, PAPER, QUIET, RULE, SIGNS, VERDICTS, arm_styles
from actbench.report.sections import stories, study_facts, verdict_sentences, warnings
from actbench.report.tables import tables

REPORT = "report.html"
FOLDED = 6  # verdicts that are not folded away


def write_page(results: StudyResults, folder: Path) -> Path:
    """Write ``report.html`` into a study's folder, whole or not at all; returns its path."""
    path = folder / REPORT
    replace_file(path, page(results, name=folder.resolve().name).encode())
    return path


def page(results: StudyResults, *, name: str) -> str:
    """The page of a study as text."""
    with ThreadPoolExecutor() as pool:
        script = pool.submit(vega_script)  # takes a second, beside all the rest
        data, report_tables, sections = embed_records(results), tables(results), stories(results)
        common, fits = provenance.split_configs(results)
        drawings = {
            figure.name: {
                "spec": specification([figure], room=0, data=False),
                "columns": {column.name: pack_column(column) for column in figure.data},
            }
            for story in sections
            for figure in story.figures
        }
    return render_page(
        "report.html.j2",
        name=name,
        results=results,
        folded=FOLDED,
        script=packaged_text("report.js"),
        vega=script.result(),
        licences=packaged_text("vega.LICENSE"),
        dark=dict([INK, QUIET, RULE, PAPER, *VERDICTS.values(), *ARMS]),
        style=vega_config(FONT),
        drawings=drawings,
        scores=SCORES,
        signs=SIGNS,
        labels=arm_labels(results),
        shown=initial_arms(results),
        arm_styles=arm_styles(results.question.arms, results.question.baseline),
        stories=sections,
        data=data,
        tables=report_tables,
        texts={"md": "\n".join(map(markdown, report_tables)), "tex": "\n".join(map(latex, report_tables))},
        provenance=provenance.provenance_facts(results.table),
        swaps=provenance.swaps(results.table),
        diverged=provenance.diverged_seeds(results.table),
        common=common,
        fits=fits,
        question=answer.question_heading(results),
        answer=answer.answer_sentence(results),
        certainty=answer.certainty_and_cost(results),
        missing=answer.missing_records(results),
        warnings=warnings(results),
        verdicts=verdict_sentences(results),
        facts=study_facts(results),
    )


def render_page(template: str, **values: Any) -> str:
    """A page in this program's look, from one of its templates."""
    return (
        templates()
        .get_template(template)
        .render(
            version=__version__,
            styles=packaged_text("report.css"),
            tones={"ink": INK, "quiet": QUIET, "rule": RULE, "paper": PAPER, **VERDICTS},
            **values,
        )
    )


@cache
def templates() -> Environment:
    """The templates of pages, each of which is compiled once."""
    environment = Environment(
        loader=PackageLoader("actbench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["json"] = json_in_page
    return environment


def packaged_text(name: str) -> Markup:
    """Text of a file beside this one, which needs no escaping."""
    return Markup(files("actbench.report").joinpath(name).read_text(encoding="utf-8"))


@cache
def vega_script() -> Markup:
    """Vega-Embed, which draws figures in the browser, with Vega and Vega-Lite in the versions that draw for papers."""
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return Markup(script.replace("</script", "<\\/script").replace("<!--", "<\\!--"))
