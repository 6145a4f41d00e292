"""The first ten seconds of the page: what was asked, and what came of it."""

import math
from collections import Counter
from collections.abc import Sequence

from actbench.plots.figure import called, known_scores
from actbench.plots.palette import SIGNS
from actbench.verdict import Finding, Told, points
from actbench.verdict.words import count, level, listed

MOST = 3  # names that a heading holds


def asked(told: Told) -> str:
    """The question of the study, as a heading."""
    of = told.question
    baseline, others = called(of.baseline), [called(arm) for arm in of.arms if arm != of.baseline]
    where = f"{several(of.datasets, 'datasets')} with {several(of.networks, 'networks')}"
    if not others:
        return f"How does {baseline} do on {where}?"
    if of.comparisons == "all" and len(others) > 1:
        return f"Which of {len(of.arms)} activations does best on {where}?"
    if len(others) > MOST:
        return f"Does any of {len(others)} activations do better than {baseline} on {where}?"
    verb = "Does" if len(others) == 1 else "Do"
    return f"{verb} {listed(others)} do better than {baseline} on {where}?"


def several(names: Sequence[str], what: str) -> str:
    """Names, or their number where they are many."""
    return listed([called(name) for name in names]) if len(names) <= MOST else f"{len(names)} {what}"


def decisive(told: Told) -> list[Finding]:
    """The findings that answer the question: those over all datasets, if there are several."""
    over_all = [of for of in told.conclusion.findings if of.comparison.dataset is None]
    return over_all or list(told.conclusion.findings)


def answered(told: Told) -> str:
    """The answer in one sentence or two."""
    findings = decisive(told)
    if not len(told.table):
        return "Nothing has finished yet."
    if len(told.question.arms) == 1:
        values = [value for of in known_scores(told).values() for value in of.values()]
        mean = f"{100 * sum(values) / len(values):.1f} %"
        return f"{mean} on test, the mean of {count(len(values), 'replicate')}; it is compared with nothing."
    if told.table["diverged"].all():
        return "Every replicate has diverged: there is nothing to compare."
    if all(of.judgement.difference is None for of in findings):
        return "Nothing can be said yet: a verdict needs two pairs at least."
    if len(findings) == 1:
        return single(findings[0], told)
    return best_of_all(findings) if told.question.comparisons == "all" else best_of(findings)


def best_of(findings: Sequence[Finding]) -> str:
    """The answer where several arms are compared with the baseline."""
    better = sorted((of for of in findings if of.judgement.verdict == "better"), key=lambda of: -estimate(of))
    if better:
        best = better[0].comparison
        most = "" if len(better) == 1 else f", the most of {len(better)}"
        where = f" with {called(best.network)}" if len({of.comparison.network for of in findings}) > 1 else ""
        return f"Yes: {called(best.arm)} beats {called(best.baseline)}{where} by {gap(better[0])}{most}."
    counts = Counter(of.judgement.verdict for of in findings)
    told = listed([f"{counts[verdict]} {verdict}" for verdict in SIGNS if counts[verdict]])
    start = "Not decided" if counts["undecided"] == len(findings) else "None was found better"
    return f"{start}: of {len(findings)} comparisons, {told}."


def best_of_all(findings: Sequence[Finding]) -> str:
    """The answer where all arms are compared with one another."""
    sides = {"better": "arm", "worse": "baseline"}
    won = [of for of in findings if of.judgement.verdict in sides]
    wins = Counter(getattr(of.comparison, sides[of.judgement.verdict]) for of in won)
    if not wins:
        return f"Not decided: none of {len(findings)} comparisons found one better than the other."
    most = max(wins.values())
    names = listed([called(arm) for arm, number in wins.items() if number == most])
    return f"{names}: found better in {count(most, 'comparison')} of {len(findings)}, the most."


def single(finding: Finding, told: Told) -> str:
    """The answer where there is one comparison."""
    of, comparison = finding.judgement, finding.comparison
    arm, base = called(comparison.arm), called(comparison.baseline)
    by = gap(finding)
    margin = f"{points(told.question.margin, sign=False)} points"
    return {
        "better": f"Yes: {arm} beats {base} by {by}.",
        "worse": f"No: {arm} falls short of {base} by {by}.",
        "equivalent": f"No: the two are equivalent, within {margin}.",
        "undecided": "Not decided: these replicates cannot tell.",
    }[of.verdict]


def gap(finding: Finding) -> str:
    """How far two arms are apart, and whether that is inside the margin."""
    inside = ", less than the margin" if finding.judgement.inside_margin else ""
    return f"{points(abs(estimate(finding)), sign=False)} points{inside}"


def estimate(finding: Finding) -> float:
    """The mean difference, a fraction."""
    return finding.judgement.difference.estimate if finding.judgement.difference else math.nan


def price(told: Told) -> str | None:
    """How sure the answer is, and what it costs: of the best comparison, in words."""
    findings = [of for of in decisive(told) if of.judgement.difference]
    if not findings:
        return None
    best = max(findings, key=estimate)
    of = best.judgement
    sure: str = (
        f"{called(best.comparison.arm)} minus {called(best.comparison.baseline)}: "
        f"{points(estimate(best))} points of test accuracy, {level(told.question)} interval "
        f"{points(of.difference.low)} to {points(of.difference.high)} over {count(of.pairs, 'pair')}"  # type: ignore[union-attr]
    )
    parts = told.question.parts(best.comparison)
    times = [of.cost for of in told.conclusion.findings if of.comparison in parts and of.cost]
    if not times:
        return f"{sure}."
    ratios = [cost.time.ratio.estimate for cost in times]
    ratio = math.exp(sum(map(math.log, ratios)) / len(ratios))
    busy = " (on a busy machine, so that says little)" if any(cost.busy for cost in times) else ""
    return f"{sure}; training takes {ratio:.2f} times as long{busy}."


def missing(told: Told) -> list[str]:
    """What an unfinished study lacks, a line each; nothing where it is whole."""
    question = told.question
    if question.design:
        return [
            f"{of.dataset or 'all datasets'} with {of.network}: {of.arm} against {of.baseline} goes on"
            for of in told.conclusion.running
        ] or ([] if len(told.table) else ["no replicate is there yet"])
    there = Counter(told.table.select("dataset_name", "network_name", "arm").iter_rows())
    return [
        f"{row.arm} on {row.dataset} with {row.network} has {there[row[:3]]} of {count(question.most, 'seed')}"
        for row in question.asked
        if there[row[:3]] < question.most
    ]
