"""What an arm costs beside its baseline, in plain words; a difference without evidence has none."""

import math
from collections.abc import Iterator, Sequence

from actbench.inference.verdict.equal_time import EqualTime, TargetTime
from actbench.inference.verdict.findings import Finding
from actbench.inference.verdict.phrases import count, p_value, percent, points, three_digits
from actbench.inference.verdict.price import Price
from actbench.inference.verdict.question import Comparison, Question
from actbench.inference.verdict.timing import PairTiming, StepTiming

NO_DIFFERENCE = "no difference in time was seen"


def price_lines(findings: Sequence[Finding], question: Question) -> list[str]:
    """All that is known of the price of each comparison, in a line each."""
    lines = []
    for finding in findings:
        text = " ".join(price_sentences(finding.price, finding.comparison, question)) if finding.price else ""
        if text and len(question.panels) > 1:
            text = f"On {finding.comparison.dataset} with {finding.comparison.network}, {text}"
        lines += [text] if text else []
    return lines


def price_sentences(price: Price, comparison: Comparison, question: Question) -> Iterator[str]:
    """All sentences on the price of an arm."""
    arm, base = comparison.arm, comparison.baseline
    if price.timing:
        yield f"{arm} beside {base}: {time_words(price.timing)}."
    if price.silent:
        yield f"{arm} beside {base}: {silence_words(price.silent)}."
    if price.timing and price.equal_time:
        yield equal_time_sentence(price.equal_time, price.timing, comparison, question)
    if price.target:
        yield target_sentence(price.target, price.timing, comparison)
    saved = {name: size for name, size in price.saved_bytes.items() if size is not None}
    if len(saved) == 2:
        yield (
            f"{arm} keeps {count_bytes(saved[arm])} for the backward pass for each element of its input, "
            f"and {base} {count_bytes(saved[base])}."
        )


def silence_words(timing: StepTiming) -> str:
    """Why nothing is said of the time of a training step."""
    rounds = count(timing.busy_rounds + len(timing.log_ratios), "round")
    reason = f"study.timing_s ended after {rounds}"
    if timing.busy_rounds:
        reason = f"other programs used the machine in {timing.busy_rounds} of {rounds}"
    return f"nothing is said of time, because {reason}"


def time_words(timing: PairTiming) -> str:
    """The time of a training step by the baseline's, with its evidence."""
    ratio, low, high = timing.ratio
    evidence = (
        f"ratio {ratio:.3f}, interval {low:.3f} to {high:.3f}, {count(timing.rounds, 'round')}, p {p_value(timing.p)}"
    )
    change = time_change(timing)
    return f"{f'a training step takes {change}' if timing.seen else change} ({evidence})"


def time_change(timing: PairTiming) -> str:
    """How much time the arm takes beside the baseline, or that no difference was seen."""
    ratio = timing.ratio.estimate
    if not timing.seen:
        return NO_DIFFERENCE
    if ratio >= 2:
        return f"{ratio:.2f} times the time"
    return f"{percent(abs(ratio - 1))} {'more' if ratio > 1 else 'less'} time"


def equal_time_sentence(equal: EqualTime, timing: PairTiming, comparison: Comparison, question: Question) -> str:
    """The verdict on val at equal time, with its evidence."""
    arm, base = comparison.arm, comparison.baseline
    judgement = equal.judgement
    depends = "" if equal.holds else " Within the interval of the ratio of times, the verdict on val changes."
    if timing.epoch_ratio and timing.epoch_ratio.estimate == 1:
        return f"As {NO_DIFFERENCE} between {arm} and {base}, equal epochs stand for equal time.{depends}"
    epochs = f"{arm} after {three_digits(equal.epochs[arm])} epochs and {base} after {three_digits(equal.epochs[base])}"
    if judgement.difference is None:
        return f"At equal time, which is {epochs}, a verdict needs two pairs."
    margin = f"{points(question.margin, sign=False)} points"
    verdict = {
        "better": f"{arm} is better than {base}",
        "worse": f"{arm} is worse than {base}",
        "equivalent": f"{arm} and {base} are equivalent, within {margin}",
        "undecided": f"it is undecided whether {arm} does better than {base}",
    }[judgement.verdict]
    difference, p = judgement.difference, judgement.equivalence_p if judgement.verdict == "equivalent" else judgement.p
    evidence = (
        f"{points(difference.estimate)} points of val accuracy, interval {points(difference.low)} to "
        f"{points(difference.high)}, {count(judgement.pairs, 'pair')}, p {p_value(p)}, not corrected"
    )
    return f"At equal time, which is {epochs}, {verdict}: {evidence}.{depends}"


def target_sentence(target: TargetTime, timing: PairTiming | None, comparison: Comparison) -> str:
    """How many seeds reach the target, in which time, and which arm does so sooner."""
    seconds = timing and {comparison.arm: timing.epoch_s, comparison.baseline: timing.baseline_epoch_s}
    parts = []
    for name, reaching in target.epochs.items():
        median = reaching.median.estimate
        epoch_s = seconds and seconds[name]
        unit = f" ({three_digits(median * epoch_s)} s a replicate)" if epoch_s else ""
        epochs = f"with a median of {three_digits(median)} epochs{unit}"
        time = epochs if math.isfinite(median) else "so there is no median time"
        parts.append(f"{reaching.reached} of {count(reaching.seeds, 'seed')} of {name}, {time}")
    sooner = "was sooner" if timing else "needed fewer epochs"
    order = (
        f"Of {count(target.decided, 'pair')} in which one {sooner}, {comparison.arm} was that one in {target.sooner} "
        f"(p {p_value(target.p)}, not corrected)."
        if target.decided
        else f"In no pair is it known which {sooner}."
    )
    return f"{percent(target.target)} on val is reached by {'; by '.join(parts)}. {order}"


def count_bytes(size: float) -> str:
    """Bytes in words, whole if they are."""
    return f"{size:g} {'byte' if size == 1 else 'bytes'}"
