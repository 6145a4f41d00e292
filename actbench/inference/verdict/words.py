"""Verdicts in plain words."""

from collections.abc import Iterator, Sequence

from actbench.inference.stats import smallest_p
from actbench.inference.verdict.certificate import Certificate
from actbench.inference.verdict.findings import Conclusion, Finding
from actbench.inference.verdict.part_words import (
    CONDITIONAL,
    contradiction_sentences,
    failure_sentence,
    failures_come_first,
    has_two_humps,
    seeds_behind,
    wins_most,
)
from actbench.inference.verdict.phrases import count, duration, level, p_value, percent, points
from actbench.inference.verdict.price_words import price_lines
from actbench.inference.verdict.question import Panel, Question
from actbench.inference.verdict.tuning import Tuning

OTHER_PLAN = "What was run is not what was planned at first; history.json has both plans."
OUTCOMES = {"test_loss": "test loss", "test_ece": "test calibration error"}


def sentences(conclusion: Conclusion, tunings: Sequence[Tuning], certificates: Sequence[Certificate]) -> list[str]:
    """All sentences about a study, those on its verdicts first."""
    warning = level_sentence(conclusion)
    return [
        *(sentence(finding, conclusion.question) for finding in conclusion.findings),
        *([warning] if warning else []),
        *([] if conclusion.as_planned else [OTHER_PLAN]),
        *price_lines(conclusion.findings, conclusion.question),
        *(line for tuning in tunings for line in tuning_sentences(tuning)),
        *map(certificate_sentence, certificates),
    ]


def sentence(finding: Finding, question: Question) -> str:
    """The verdict on one comparison, with its evidence; failures to train first, where they come first."""
    judgement, comparison = finding.judgement, finding.comparison
    arm, base, difference = comparison.arm, comparison.baseline, judgement.difference
    where = f"On {comparison.dataset}" if comparison.dataset else f"Over these {len(question.datasets)} datasets"
    where = f"{where} with {comparison.network}"
    margin = f"{points(question.margin, sign=False)} points"
    if difference is None:
        return f"{where}, {arm} and {base} have {count(judgement.pairs, 'pair')}, and a verdict needs 2 at least."
    mean = "" if wins_most(judgement) else " on average"
    verdict = {
        "better": f"{arm} is better than {base}{mean}",
        "worse": f"{arm} is worse than {base}{mean}",
        "equivalent": f"{arm} and {base} are equivalent, within {margin}",
        "undecided": f"it is undecided whether {arm} does better than {base}",
    }[judgement.verdict]
    if judgement.verdict in ("better", "worse") and judgement.inside_margin:
        verdict += f", though by less than the margin of {margin}"
    p = judgement.adjusted_equivalence_p if judgement.verdict == "equivalent" else judgement.adjusted_p
    median = f", median {points(judgement.median)}" if judgement.median is not None and has_two_humps(judgement) else ""
    evidence = (
        f"{points(difference.estimate)} points of test accuracy{median} ({level(question)} interval "
        f"{points(difference.low)} to {points(difference.high)}, {count(judgement.pairs, 'pair')}, "
        f"adjusted p {p_value(p)})"
    )
    parts = [f"{where}, {verdict}: {evidence}."]
    if judgement.failures:
        failures = failure_sentence(comparison, judgement, question)
        first = failures_come_first(judgement)
        if judgement.neither_trains:
            return f"{where}, {failures}."
        leading = [f"{where}, {failures}.", CONDITIONAL, f"Over all seeds, {verdict}: {evidence}."]
        parts = leading if first else [*parts, f"Failures: {failures}."]
    return " ".join([*parts, *remarks(finding, question)])


def remarks(finding: Finding, question: Question) -> Iterator[str]:
    """Remarks on a verdict: few seeds behind it, contradictions, divergence, missing seeds, and what it needs."""
    judgement, arm = finding.judgement, finding.comparison.arm
    if behind := seeds_behind(judgement):
        yield behind
    if judgement.verdict in ("better", "worse") and judgement.superiority and not wins_most(judgement):
        chance = judgement.superiority
        bounds = f"{chance.low:.2f} to {chance.high:.2f}"
        yield f"On a new seed, {arm} wins with a chance of {chance.estimate:.2f} ({bounds})."
    yield from contradiction_sentences(judgement, question)
    lost = [f"{number} of {arm}" for arm, number in finding.diverged.items() if number]
    if lost:
        yield f"Diverged, and counted as guessing: {', '.join(lost)}."
    if finding.without_diverged:
        yield f"They drive the verdict: without them it is {finding.without_diverged}."
    if finding.unpaired:
        was = "was" if finding.unpaired == 1 else "were"
        yield f"{count(finding.unpaired, 'seed')} had no partner in the other arm and {was} left out."
    if finding.judgement.verdict == "undecided":
        yield from what_it_needs(finding, question)
    if finding.comparison.dataset is None:
        yield "This speaks of these datasets, not of others."


def what_it_needs(finding: Finding, question: Question) -> Iterator[str]:
    """What an undecided verdict needs."""
    judgement, family = finding.judgement, len(question.family)
    too_few = smallest_p(judgement.pairs) > question.alpha * judgement.share / family
    if too_few:
        parts = " and their parts" if judgement.share < 1 else ""
        among = f" among {count(family, 'comparison')}{parts}" if family > 1 or parts else ""
        yield f"{count(judgement.pairs, 'pair')} can reach no adjusted p of {question.alpha:g}{among}."
    if finding.more_pairs is not None:
        time = "" if finding.more_minutes is None else f", {duration(finding.more_minutes)} here"
        more = count(finding.more_pairs, "more pair")
        yield f"About {more} would see a difference of this size with 80 % power{time}."
    elif not too_few:
        yield "No number of pairs would tell, at the difference seen."


def level_sentence(conclusion: Conclusion) -> str | None:
    """That the level no longer holds, and why; None where it does."""
    looks, question = conclusion.other_looks, conclusion.question
    if not looks:
        return None
    reasons = []
    if any(look.pairs != conclusion.look.pairs for look in looks):
        pairs = sorted({number for look in looks for number in look.pairs.values()})
        reasons.append(f"on {', '.join(map(str, pairs))} pairs")
    if any(look.plan != question.hash for look in looks):
        reasons.append("by another plan")
    most = min(1.0, question.alpha * (1 + len(looks)))
    times = "once" if len(looks) == 1 else f"{len(looks)} times"
    return (
        f"The level of {question.alpha:g} no longer holds: this study was looked at {times} before, "
        f"{' and '.join(reasons) or 'otherwise'}. Verdicts that were reached at the first look stand; over all looks, "
        f"a false one may come with a chance of up to {most:.2g}. To look more than once, say so beforehand: "
        "study.replicates: {min: 6, max: 60, batch: 6}."
    )


def certificate_sentence(certificate: Certificate) -> str:
    """What the self-test measured."""
    false, seen = certificate.false_alarms, certificate.power_seen
    return (
        f"Self-test on {certificate.dataset} with {certificate.network}: trained twice, {certificate.equal} of "
        f"{certificate.repeated} replicates of the baseline are the same; false alarms {percent(false.estimate)} "
        f"({percent(false.low)} to {percent(false.high)}) of {certificate.splits:,} random splits, at a level of "
        f"{percent(certificate.alpha)}; a planted difference of {points(certificate.planted, sign=False)} points seen "
        f"in {percent(seen.estimate)}, planned {percent(certificate.power_planned)}: "
        f"{'passed' if certificate.passed else 'FAILED' if certificate.can_fail else 'too few seeds to tell'}."
    )


def tuning_sentences(tuning: Tuning) -> Iterator[str]:
    """The value chosen for each arm, and whether the winner depends on it."""
    chosen = ", ".join(f"{arm.arm} {arm.chosen:g}{' (at the edge)' if arm.at_edge else ''}" for arm in tuning.arms)
    seeds = count(max(arm.seeds for arm in tuning.arms), "seed")
    where = Panel(tuning.dataset, tuning.network).title
    yield f"On {where}, {tuning.setting} was tuned on val with {seeds} a value: {chosen}."
    if tuning.extended:
        added = ", ".join(f"{value:g}" for value in tuning.extended)
        yield f"A best value lay at the grid's edge, so {added} came in for every arm."
    others = ", ".join(f"{arm} at {value:g}" for value, arm in tuning.others.items())
    if tuning.depends:
        yield (
            f"The winner on val depends on {tuning.setting}: {tuning.winner} where each arm has its own value, "
            f"but {others} where all share it."
        )
    elif others:
        yield (
            f"The highest mean on val is that of {tuning.winner} where each arm has its own value, and that of "
            f"{others} where all share it; {seeds} a value do not tell whether the winner depends on {tuning.setting}."
        )
    else:
        yield f"The winner on val is {tuning.winner}, whether each arm has its own {tuning.setting} or all share one."
