"""A study's results as a notebook shows them."""

from base64 import b64encode

from markupsafe import Markup

from actbench.inference.verdict import StudyResults
from actbench.report.answer import answer_sentence
from actbench.report.figures import forest_figures, render
from actbench.report.figures.palette import SIGNS
from actbench.report.sections import verdict_sentences, warnings


def as_html(results: StudyResults) -> str:
    """The answer, warnings, every verdict in a sentence, and the differences with their intervals, as HTML."""
    heading = Markup("<p><strong>{}</strong></p>").format(answer_sentence(results))
    notes = [Markup("<p>{}</p>").format(warning) for warning in warnings(results)]
    rows = [
        Markup('<tr><td>{}</td><td style="text-align: left">{}</td></tr>').format(SIGNS[verdict], sentence)
        for verdict, sentence in verdict_sentences(results)
    ]
    images = [
        Markup('<p><img alt="{}" src="data:image/svg+xml;base64,{}"></p>').format(
            figure.finding, b64encode(render([figure], "svg")).decode()
        )
        for figure in forest_figures(results)
    ]
    return str(Markup().join([heading, *notes, Markup("<table>"), *rows, Markup("</table>"), *images]))
