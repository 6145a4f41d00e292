"""The head of the page: the question of the study, its answer, and what is missing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from actbench.inference.frames import arm_frame, comparison_frame
from actbench.inference.verdict import StudyResults, points
from actbench.inference.verdict.part_words import failure_sentence
from actbench.inference.verdict.phrases import count, level, listed
from actbench.inference.verdict.price_words import time_words
from actbench.report.figures.figure import SENTENCE, shorten
from actbench.report.figures.palette import SIGNS

MOST = 3  # names that a heading holds

Row = Mapping[str, Any]


def question_heading(results: StudyResults) -> str:
    """The question of the study."""
    question = results.question
    baseline = shorten(question.baseline, SENTENCE)
    others = [shorten(arm, SENTENCE) for arm in question.arms if arm != question.baseline]
    datasets, networks = (
        listed([shorten(name, SENTENCE) for name in names]) if len(names) <= MOST else f"{len(names)} {noun}"
        for names, noun in ((question.datasets, "datasets"), (question.usual_networks, "networks"))
    )
    where = f"{datasets} with {networks}"
    if question.conditions:
        where += f" under {1 + len(question.conditions)} conditions"
    if not others:
        return f"How does {baseline} do on {where}?"
    if question.comparisons == "all" and len(others) > 1:
        return f"Which of {len(question.arms)} activations does best on {where}?"
    if len(others) > MOST:
        return f"Does any of {len(others)} activations do better than {baseline} on {where}?"
    verb = "Does" if len(others) == 1 else "Do"
    return f"{verb} {listed(others)} do better than {baseline} on {where}?"


def deciding_rows(results: StudyResults) -> list[dict[str, Any]]:
    """The comparisons that answer the question: those over all datasets, if there are several.

    ``failures`` is what is said of failures to train where they come first, and
    ``time`` what is said of a training step that was timed.
    """
    name, rows = partial(shorten, longest=SENTENCE), comparison_frame(results).to_dicts()
    for row, finding in zip(rows, results.conclusion.findings, strict=True):
        row["failures"] = None
        about = finding.comparison, finding.judgement, results.question
        if row["failures_first"]:
            sentence = failure_sentence(*about, tests=False, name=name)
            row["failures"] = (
                f"{'N' + sentence[1:] if finding.judgement.neither_trains else sentence}."  # else an arm is first
            )
        timing = finding.price and finding.price.timing
        row["time"] = time_words(timing) if timing else None
    return [row for row in rows if row["dataset"] is None] or rows


def answer_sentence(results: StudyResults) -> str:
    """The answer in one or two sentences."""
    rows = deciding_rows(results)
    if not len(results.table):
        return "Nothing has finished yet."
    if len(results.question.arms) == 1:
        cells = arm_frame(results).select("test_accuracy", "seeds").drop_nulls().rows()
        replicates = sum(seeds for _, seeds in cells)
        mean = sum(accuracy * seeds for accuracy, seeds in cells) / replicates
        number = count(replicates, "replicate")
        return f"{100 * mean:.1f} % on test, the mean of {number}; it is compared with nothing."
    if results.table["diverged"].all():
        return "Every replicate has diverged: there is nothing to compare."
    if all(row["difference"] is None for row in rows):
        return "Nothing can be said yet: a verdict needs two pairs at least."
    if len(rows) == 1:
        return single_answer(rows[0], margin=results.question.margin)
    answer = answer_for_all_pairs(rows) if results.question.comparisons == "all" else answer_against_baseline(rows)
    best, led = best_row(rows), sum(row["failures_first"] for row in rows)
    if best and best["failures"]:
        answer = best["failures"]
    return f"{answer} Failures to train come first in {led} of {len(rows)} comparisons." if led else answer


def best_row(rows: Sequence[Row]) -> Row | None:
    """The comparison of largest difference, of those found better if there are some; None without differences."""
    known = [row for row in rows if row["difference"] is not None]
    return max(known, key=lambda row: (row["verdict"] == "better", row["difference"]), default=None)


def answer_against_baseline(rows: Sequence[Row]) -> str:
    """The answer where several arms are compared with the baseline."""
    counts, best = Counter(row["verdict"] for row in rows), best_row(rows)
    if best and best["verdict"] == "better":
        most = "" if counts["better"] == 1 else f", the most of {counts['better']}"
        several = len({row["network"] for row in rows}) > 1
        arm, baseline, network = (shorten(best[name], SENTENCE) for name in ("arm", "baseline", "network"))
        where = f" with {network}" if several else ""
        return f"Yes{advantage(best, arm, f'{baseline}{where}')} by {difference_size(best)}{most}."
    verdicts = listed([f"{counts[verdict]} {verdict}" for verdict in SIGNS if counts[verdict]])
    start = "Not decided" if counts["undecided"] == len(rows) else "None was found better"
    return f"{start}: of {len(rows)} comparisons, {verdicts}."


def answer_for_all_pairs(rows: Sequence[Row]) -> str:
    """The answer where all arms are compared with one another."""
    winner = {"better": "arm", "worse": "baseline"}
    wins = Counter(row[winner[row["verdict"]]] for row in rows if row["verdict"] in winner)
    if not wins:
        return f"Not decided: none of {len(rows)} comparisons found one better than the other."
    most = max(wins.values())
    names = listed([shorten(arm, SENTENCE) for arm, number in wins.items() if number == most])
    return f"{names}: found better in {count(most, 'comparison')} of {len(rows)}, the most."


def single_answer(row: Row, *, margin: float) -> str:
    """The answer where there is one comparison."""
    if row["failures"]:
        return str(row["failures"])
    arm, base = shorten(row["arm"], SENTENCE), shorten(row["baseline"], SENTENCE)
    return {
        "better": f"Yes{advantage(row, arm, base)} by {difference_size(row)}.",
        "worse": f"No{advantage(row, arm, base)} by {difference_size(row)}.",
        "equivalent": f"No: the two are equivalent, within {points(margin, sign=False)} points.",
        "undecided": "Not decided: these replicates cannot tell.",
    }[row["verdict"]]


def advantage(row: Row, arm: str, baseline: str) -> str:
    """That an arm beats its baseline or falls short of it; only on average, unless it does with most new seeds."""
    if row["verdict"] == "better":
        most = row["probability_better_low"] > 0.5
        return f": {arm} beats {baseline}" if most else f", on average: {arm} scores higher than {baseline}"
    most = row["probability_better_high"] < 0.5
    return f": {arm} falls short of {baseline}" if most else f", on average: {arm} scores lower than {baseline}"


def difference_size(row: Row) -> str:
    """The size of a difference, and whether it is inside the margin."""
    inside = ", less than the margin" if row["inside_margin"] else ""
    return f"{points(abs(row['difference']), sign=False)} points{inside}"


def certainty_and_cost(results: StudyResults) -> str | None:
    """How certain the answer is, and what it costs: the best comparison in words."""
    best = best_row(deciding_rows(results))
    if not best:
        return None
    interval = ""
    if best["difference_low"] is not None:  # as in a design of so many looks that none may spend anything yet
        ends = f"{points(best['difference_low'])} to {points(best['difference_high'])}"
        interval = f", {level(results.question)} interval {ends}"
    start, median = ("Over all seeds, ", f", median {points(best['median'])}") if best["failures"] else ("", "")
    evidence = (
        f"{start}{shorten(best['arm'], SENTENCE)} minus {shorten(best['baseline'], SENTENCE)}: "
        f"{points(best['difference'])} points of test accuracy{median}{interval} over {count(best['pairs'], 'pair')}"
    )
    return f"{evidence}{f'; {time}' if (time := best['time']) else ''}."


def missing_records(results: StudyResults) -> list[str]:
    """What an unfinished study lacks, a line each; nothing where it is complete."""
    question = results.question
    if question.design:
        return [
            f"{comparison.dataset or 'all datasets'} with {comparison.network}: "
            f"{comparison.arm} against {comparison.baseline} goes on"
            for comparison in results.conclusion.running
        ] or ([] if len(results.table) else ["no replicate is there yet"])
    seeds = Counter(results.table.select("dataset_name", "network_name", "arm").iter_rows())
    return [
        f"{row.arm} on {row.dataset} with {row.network} has {seeds[row[:3]]} of {count(question.most, 'seed')}"
        for row in question.asked
        if seeds[row[:3]] < question.most
    ]
