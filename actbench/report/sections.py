"""What the page says in words, section by section."""

from collections.abc import Sequence
from typing import NamedTuple

from actbench.inference.stats import Verdict
from actbench.inference.verdict import Told, points
from actbench.inference.verdict.pairing import verified
from actbench.inference.verdict.words import OTHER_PLAN, certificate_sentence, count, level, level_sentence, listed
from actbench.report import figures, provenance
from actbench.report.figures import Figure
from actbench.report.figures.figure import called
from actbench.report.figures.forest import best_first


class Story(NamedTuple):
    """A section of figures; ``controls`` names what a reader can change in them."""

    name: str
    title: str
    text: str
    figures: Sequence[Figure]
    controls: Sequence[str] = ()


def warnings(told: Told) -> list[str]:
    """What a reader must know before anything else."""
    level_lost = level_sentence(told.conclusion)
    failed = [certificate_sentence(of) for of in told.certificates if not of.passed]
    pairing = [f"Not all pairs are pairs: {'; '.join(told.faults)}."] if told.faults else []
    unsettled = [of for of in told.tunings if of.depends]
    where = listed([f"{of.dataset} with {of.network}" for of in unsettled])
    depends = [f"The winner on val depends on {of.setting}, on {where}; see below." for of in unsettled[:1]]
    replanned = [] if told.conclusion.as_planned else [OTHER_PLAN]
    return [*pairing, *([level_lost] if level_lost else []), *replanned, *failed, *depends]


def verdicts(told: Told) -> list[tuple[Verdict, str]]:
    """Verdict and sentence of all comparisons: those over all datasets first, and the best arms."""
    said = list(zip(told.conclusion.findings, told.sentences, strict=False))
    order = best_first(told.conclusion)
    said.sort(key=lambda of: (of[0].comparison.dataset is not None, order[of[0].comparison[2:]]))
    return [(of.judgement.verdict, sentence) for of, sentence in said]


def facts(told: Told) -> list[tuple[str, str]]:
    """What the answer rests on, in a few lines."""
    of = told.question
    chance = (
        "it no longer holds, see above"
        if told.conclusion.other_looks
        else f"any false better or worse among {count(len(of.family), 'comparison')} comes with a chance of at most "
        f"{100 * of.alpha:g} %, and so does any false equivalent"
    )
    promise = f"{chance}; differences up to {points(of.margin, sign=False)} points do not matter"
    return [
        ("Replicates", replicates(told)),
        ("Hardware", provenance.hardware(told.table)),
        ("Time", provenance.time_taken(told.table)),
        ("Pairs", pairs(told)),
        ("Self-test", " ".join(map(certificate_sentence, told.certificates)) or "not run"),
        *([("Level", promise)] if of.family else []),
    ]


def replicates(told: Told) -> str:
    """How many replicates there are, and how many were planned."""
    of = told.question
    least = "" if isinstance(of.replicates, int) else f"{of.replicates['min']} to "
    lost = int(told.table["diverged"].sum())
    more = f", of which {lost} diverged" if lost else ""
    planned = f"{least}{count(of.most, 'seed')} planned for each of {count(len(of.arms), 'arm')}"
    return f"{len(told.table):,} in all{more}; {planned}"


def pairs(told: Told) -> str:
    """Whether both sides of every pair started alike."""
    if told.faults:
        return f"NOT verified: {'; '.join(told.faults)}"
    if not len(told.table):
        return "none yet"
    if told.table["arm"].n_unique() < 2:
        return "none: there is one arm"
    return verified(told.table, told.question.baseline)


def stories(told: Told) -> list[Story]:
    """The sections that have figures."""
    interval, margin = level(told.question), points(told.question.margin, sign=False)
    baseline = called(told.question.baseline)
    minus = "Arm minus baseline" if told.question.comparisons == "all" else f"Arm minus {baseline}"
    dots = figures.pair_figures(told)
    found = [
        Story(
            "differences",
            "Differences",
            f"{minus}: mean paired difference in test accuracy over seeds, with its {interval} interval. Inside the "
            f"grey band, ±{margin} points, a difference does not matter. ▲ better, ▼ worse, ◆ equivalent, ○ undecided: "
            "verdicts are corrected for all comparisons and intervals are not, so one may miss zero where the verdict "
            "is undecided.",
            figures.forest_figures(told),
        ),
        Story(
            "replicates",
            "Every replicate",
            f"One line for each seed, from {baseline} (hollow, above) to the arm (filled, below): green and solid "
            "where the arm scores higher, red and dashed where it does not. A replicate that has diverged is a "
            "cross, and counts as guessing.",
            dots,
            ("range",) if any(of.params["close"] for of in dots) else (),
        ),
        Story(
            "curves",
            "Learning curves",
            f"Mean over seeds with its {interval} interval. A seed that has diverged is left out from there on. "
            "Point at a curve to see its single seeds. Seconds are those of training, a replicate's share of its fit.",
            figures.curve_figures(told),
            ("arms", "scores", "along", "seeds"),
        ),
        Story(
            "tuning",
            "Choice of settings",
            f"Accuracy on val over the grid, with {interval} intervals over seeds; each arm's chosen value is ringed.",
            figures.tuning_figures(told),
            ("arms",),
        ),
        Story(
            "cost",
            "Cost",
            "Accuracy against time and against memory. No arm beats those on the dotted front in both. Hollow marks "
            "were measured on a busy machine and say little.",
            figures.cost_figures(told),
        ),
        Story(
            "activations",
            "The activations",
            "Functions and their derivatives; of those that are trained, the shapes that a few seeds have learned.",
            figures.shape_figures(told),
            ("arms",),
        ),
    ]
    return [story for story in found if story.figures]
