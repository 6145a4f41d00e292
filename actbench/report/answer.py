"""The first ten seconds of the page: what was asked, and what came of it."""

import math
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter

from actbench.inference.verdict import StudyResults, points
from actbench.inference.verdict.words import count, level, listed
from actbench.report.figures.figure import called, known_scores
from actbench.report.figures.palette import SIGNS
from actbench.report.numbers import Row, comparison_rows

MOST = 3  # names that a heading holds


def asked(results: StudyResults) -> str:
    """The question of the study, as a heading."""
    of = results.question
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


def decisive(results: StudyResults) -> list[Row]:
    """The comparisons that answer the question: those over all datasets, if there are several."""
    rows = comparison_rows(results)
    return [row for row in rows if row["dataset"] is None] or rows


def answered(results: StudyResults) -> str:
    """The answer in one sentence or two."""
    rows = decisive(results)
    if not len(results.table):
        return "Nothing has finished yet."
    if len(results.question.arms) == 1:
        values = [value for of in known_scores(results).values() for value in of.values()]
        mean = f"{100 * sum(values) / len(values):.1f} %"
        return f"{mean} on test, the mean of {count(len(values), 'replicate')}; it is compared with nothing."
    if results.table["diverged"].all():
        return "Every replicate has diverged: there is nothing to compare."
    if all(row["difference"] is None for row in rows):
        return "Nothing can be said yet: a verdict needs two pairs at least."
    if len(rows) == 1:
        return single(rows[0], margin=results.question.margin)
    return best_of_all(rows) if results.question.comparisons == "all" else best_of(rows)


def best_row(rows: Sequence[Row]) -> Row | None:
    """The comparison of largest difference, of those found better if there are some; None without differences."""
    known = [row for row in rows if row["difference"] is not None]
    return max(known, key=lambda row: (row["verdict"] == "better", row["difference"]), default=None)


def best_of(rows: Sequence[Row]) -> str:
    """The answer where several arms are compared with the baseline."""
    counts, best = Counter(row["verdict"] for row in rows), best_row(rows)
    if best and best["verdict"] == "better":
        most = "" if counts["better"] == 1 else f", the most of {counts['better']}"
        where = f" with {called(best['network'])}" if len({row["network"] for row in rows}) > 1 else ""
        return f"Yes: {called(best['arm'])} beats {called(best['baseline'])}{where} by {gap(best)}{most}."
    results = listed([f"{counts[verdict]} {verdict}" for verdict in SIGNS if counts[verdict]])
    start = "Not decided" if counts["undecided"] == len(rows) else "None was found better"
    return f"{start}: of {len(rows)} comparisons, {results}."


def best_of_all(rows: Sequence[Row]) -> str:
    """The answer where all arms are compared with one another."""
    winner = {"better": "arm", "worse": "baseline"}
    wins = Counter(row[winner[row["verdict"]]] for row in rows if row["verdict"] in winner)
    if not wins:
        return f"Not decided: none of {len(rows)} comparisons found one better than the other."
    most = max(wins.values())
    names = listed([called(arm) for arm, number in wins.items() if number == most])
    return f"{names}: found better in {count(most, 'comparison')} of {len(rows)}, the most."


def single(row: Row, *, margin: float) -> str:
    """The answer where there is one comparison."""
    arm, base = called(row["arm"]), called(row["baseline"])
    return {
        "better": f"Yes: {arm} beats {base} by {gap(row)}.",
        "worse": f"No: {arm} falls short of {base} by {gap(row)}.",
        "equivalent": f"No: the two are equivalent, within {points(margin, sign=False)} points.",
        "undecided": "Not decided: these replicates cannot tell.",
    }[row["verdict"]]


def gap(row: Row) -> str:
    """How far two arms are apart, and whether that is inside the margin."""
    inside = ", less than the margin" if row["inside_margin"] else ""
    return f"{points(abs(row['difference']), sign=False)} points{inside}"


def price(results: StudyResults) -> str | None:
    """How sure the answer is, and what it costs: of the best comparison, in words."""
    best = best_row(decisive(results))
    if not best:
        return None
    interval = ""
    if best["difference_low"] is not None:  # as in a design of so many looks that none may spend anything yet
        ends = f"{points(best['difference_low'])} to {points(best['difference_high'])}"
        interval = f", {level(results.question)} interval {ends}"
    sure = (
        f"{called(best['arm'])} minus {called(best['baseline'])}: "
        f"{points(best['difference'])} points of test accuracy{interval} over {count(best['pairs'], 'pair')}"
    )
    names = itemgetter("network", "arm", "baseline")
    same = [row for row in comparison_rows(results) if names(row) == names(best)]
    times = [row for row in same if row["fits"] and best["dataset"] in (None, row["dataset"])]
    if not times:
        return f"{sure}."
    ratio = math.exp(sum(math.log(row["time_ratio"]) for row in times) / len(times))
    busy = " (on a busy machine, so that says little)" if any(row["busy"] for row in times) else ""
    return f"{sure}; training takes {ratio:.2f} times as long{busy}."


def missing(results: StudyResults) -> list[str]:
    """What an unfinished study lacks, a line each; nothing where it is whole."""
    question = results.question
    if question.design:
        return [
            f"{of.dataset or 'all datasets'} with {of.network}: {of.arm} against {of.baseline} goes on"
            for of in results.conclusion.running
        ] or ([] if len(results.table) else ["no replicate is there yet"])
    there = Counter(results.table.select("dataset_name", "network_name", "arm").iter_rows())
    return [
        f"{row.arm} on {row.dataset} with {row.network} has {there[row[:3]]} of {count(question.most, 'seed')}"
        for row in question.asked
        if there[row[:3]] < question.most
    ]
