"""The texts of the page, section by section."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import polars as pl

from actbench.inference.stats import Verdict
from actbench.inference.verdict import StudyResults, points
from actbench.inference.verdict.conditions import by_condition, condition_sentences
from actbench.inference.verdict.mechanism_words import mechanism_lines
from actbench.inference.verdict.noise import NOISE_CLAIM, noise_lines
from actbench.inference.verdict.pairing import pairing_sentence
from actbench.inference.verdict.part_words import failure_rule
from actbench.inference.verdict.phrases import count, level, listed
from actbench.inference.verdict.price_words import price_lines
from actbench.inference.verdict.words import OTHER_PLAN, certificate_sentence, level_sentence
from actbench.report import figures, provenance
from actbench.report.figures import Figure
from actbench.report.figures.figure import SENTENCE, shorten
from actbench.report.figures.forest import best_first


class Story(NamedTuple):
    """A section of figures; ``controls`` names what a reader can change in them, and ``notes`` stand above them."""

    name: str
    title: str
    text: str
    figures: Sequence[Figure]
    controls: Sequence[str] = ()
    notes: Sequence[str] = ()


def warnings(results: StudyResults) -> list[str]:
    """What a reader must know before anything else."""
    level_lost = level_sentence(results.conclusion)
    unsettled = [tuning for tuning in results.tunings if tuning.depends]
    where = listed([f"{tuning.dataset} with {tuning.network}" for tuning in unsettled])
    return [
        *([f"Not all pairs are pairs: {'; '.join(results.faults)}."] if results.faults else []),
        *([level_lost] if level_lost else []),
        *([] if results.conclusion.as_planned else [OTHER_PLAN]),
        *(certificate_sentence(certificate) for certificate in results.certificates if not certificate.passed),
        *(condition_sentences(result)[0] for result in by_condition(results.conclusion) if result.depends),
        *(f"The winner on val depends on {tuning.setting}, on {where}; see below." for tuning in unsettled[:1]),
        *clock_sentences(results.table),
    ]


def clock_sentences(table: pl.DataFrame) -> list[str]:
    """What a reader must know of fits that the clock ended, if it did."""
    timed = table.filter(pl.col("factors").str.json_path_match("$.trainer.max_time").is_not_null())
    if timed.is_empty():
        return []
    epochs = timed.group_by("arm", maintain_order=True).agg(pl.col("epochs").median()).rows()
    trained = listed([f"{shorten(arm, SENTENCE)} {number:g}" for arm, number in epochs])
    return [f"trainer.max_time ended fits by the clock, so no run repeats; median epochs that were trained: {trained}."]


def verdict_sentences(results: StudyResults) -> list[tuple[Verdict, str]]:
    """Verdict and sentence of all comparisons: those over all datasets first, and the best arms first."""
    order = best_first(results.conclusion)
    findings = sorted(
        zip(results.conclusion.findings, results.sentences, strict=False),  # other sentences follow the verdicts
        key=lambda pair: (pair[0].comparison.dataset is not None, order[pair[0].comparison[2:]]),
    )
    return [(finding.judgement.verdict, sentence) for finding, sentence in findings]


def study_facts(results: StudyResults) -> list[tuple[str, str]]:
    """What the answer rests on, in a few lines."""
    question = results.question
    several = any(finding.judgement.failures for finding in results.conclusion.findings)
    parts = " and their parts" if several else ""
    chance = (
        "it no longer holds, see above"
        if results.conclusion.other_looks
        else f"any false better or worse among {count(len(question.family), 'comparison')}{parts} comes with a chance "
        f"of at most {100 * question.alpha:g} %, and so does any false equivalent"
    )
    promise = f"{chance}; differences up to {points(question.margin, sign=False)} points do not matter"
    least = f"{question.design.least} to " if question.design else ""
    lost = int(results.table["diverged"].sum())
    rule = failure_rule(results.marked, question)
    numbers = results.marked.filter("failed")["arm"].value_counts().sort("arm").rows()
    failed = f": {listed([f'{shorten(arm, SENTENCE)} {number}' for arm, number in numbers])}" if numbers else ""
    conditions = " ".join(line for result in by_condition(results.conclusion) for line in condition_sentences(result))
    replicates = (
        f"{len(results.table):,} in all{f', of which {lost} diverged' if lost else ''}; "
        f"{least}{count(question.most, 'seed')} planned for each of {count(len(question.arms), 'arm')}"
    )
    return [
        ("Replicates", replicates),
        ("Failures", f"{rule.failed} of {count(len(results.table), 'replicate')}{failed}. {rule.sentence}"),
        ("Hardware", provenance.hardware(results.table)),
        ("Time", provenance.time_taken(results.table)),
        ("Pairs", pairing_fact(results)),
        *([("Other conditions", conditions)] if conditions else []),
        ("Self-test", " ".join(map(certificate_sentence, results.certificates)) or "not run"),
        *([("Level", promise)] if question.family else []),
    ]


def pairing_fact(results: StudyResults) -> str:
    """Whether both replicates of every pair started alike."""
    if results.faults:
        return f"NOT verified: {'; '.join(results.faults)}"
    if not len(results.table):
        return "none yet"
    if results.table["arm"].n_unique() < 2:
        return "none: there is one arm"
    return pairing_sentence(results.table, results.question.baseline)


def stories(results: StudyResults) -> list[Story]:
    """The sections that have figures or notes."""
    interval, margin = level(results.question), points(results.question.margin, sign=False)
    baseline = shorten(results.question.baseline, SENTENCE)
    minus = "Arm minus baseline" if results.question.comparisons == "all" else f"Arm minus {baseline}"
    pairs = figures.pair_figures(results)
    failing = " Seeds that failed to train count here, too." if results.marked["failed"].any() else ""
    sections = [
        Story(
            "differences",
            "Differences",
            f"{minus}: mean paired difference in test accuracy over seeds, with its {interval} interval. Inside the "
            f"grey band, ±{margin} points, a difference does not matter. ▲ better, ▼ worse, ◆ equivalent, ○ undecided: "
            "verdicts are corrected for all comparisons and intervals are not, so one may miss zero where the verdict "
            f"is undecided.{failing}",
            figures.forest_figures(results),
        ),
        Story(
            "replicates",
            "Every replicate",
            f"One line for each seed, from {baseline} (hollow, above) to the arm (filled, below): green and solid "
            "where the arm scores higher, red and dashed where it does not. A replicate that has diverged is a "
            "cross, and counts as guessing. Any other that failed to train is a square, and counts as what it scored.",
            pairs,
            ("range",) if any(figure.params["close"] for figure in pairs) else (),
        ),
        Story(
            "curves",
            "Learning curves",
            f"Mean over seeds with its {interval} interval. A seed that has diverged is left out from there on. "
            "Point at a curve to see its single seeds. Seconds are those of training, a replicate's share of its fit.",
            figures.curve_figures(results),
            ("arms", "scores", "along", "seeds"),
        ),
        Story(
            "tuning",
            "Choice of settings",
            f"Accuracy on val over the grid, with {interval} intervals over seeds; each arm's chosen value is ringed.",
            figures.tuning_figures(results),
            ("arms",),
        ),
        Story(
            "noise",
            "Where the noise is",
            f"How much each source of randomness makes up of the spread of test accuracies, and of differences, with "
            f"{interval} intervals: 25 replicates of each arm, besides those compared, cross few seeds of each source. "
            f"{NOISE_CLAIM}",
            figures.noise_figures(results),
            notes=noise_lines(results.noise, results.question),
        ),
        Story(
            "cost",
            "Cost",
            "Accuracy against time and against memory. No arm beats those on the dotted front in both. Hollow marks "
            "were measured on a busy machine and say little.",
            figures.cost_figures(results),
            notes=price_lines(results.conclusion.findings, results.question),
        ),
        Story(
            "mechanism",
            "Mechanism",
            "What each call of the activation does to signals and gradients, on some images of val: by depth after "
            f"training, and over epochs where arms differ most. Means over seeds with {interval} intervals, outside "
            "the family of the verdicts and not corrected. What goes with a score is not a cause of it.",
            figures.mechanism_figures(results),
            ("arms",),
            notes=[*mechanism_lines(results.marked, results.question, name=partial(shorten, longest=SENTENCE))],
        ),
        Story(
            "activations",
            "The activations",
            "Functions and their derivatives; of those that are trained, the shapes that a few seeds have learned.",
            figures.shape_figures(results),
            ("arms",),
        ),
    ]
    return [story for story in sections if story.figures or story.notes]
