"""How often a series of candidates errs: simulated ledgers in which the truth is known.

    python benchmarks/series.py                # 9,000 candidates, 2,000 series of each kind: half an hour on two cores
    python benchmarks/series.py --markdown     # the table of the results at hand, nothing simulated

Each candidate is judged with 6 to 60 pairs, looked at after each six, by the
same function that judges a study. Its p-value is the smallest adjusted one of
all its parts: at any level above, a difference is found. Half of the candidates
come from one law of scores, half from another, of which one run in ten fails.
Candidates that are better are so by one standard deviation of a difference.

A series draws 1,000 candidates from these, in one of three orders. Levels follow
from `next_level`, as in a ledger, and soon fall below what so few candidates can
show: where a candidate that is no better has a p-value of at most .001, it is
drawn anew, evenly from 0 to .001. How often that is comes from the candidates.
Prints a table in Markdown, and writes what was measured as JSON.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from actbench.inference.stats import judge_family
from actbench.inference.stats.online import next_level
from error_rates import ALPHA, DESIGN, limit
from laws import FAILED, FAILING, LAWS, generator

RESULTS = Path(__file__).parent / "results" / "series.json"
USED = {"accuracy on 270 images": LAWS, "one run in ten fails": FAILING}
EFFECTS = {"accuracy on 270 images": 0.0169, "one run in ten fails": 0.0071}  # a standard deviation, where both train
SHARES = (0.0, 0.05, 0.2)
ORDERS = ("mixed", "better ones first", "better ones last")
LENGTH = 1_000
CONTROLS = ("fwer", "fdr")
TAIL = 0.001


class Pool(NamedTuple):
    """P-values of candidates that were judged, and whether a difference speaks for them."""

    p: Float[np.ndarray, " candidates"]
    better: Bool[np.ndarray, " candidates"]


def judged(number: int, *, law: str, is_better: bool) -> tuple[float, bool]:
    """The smallest adjusted p-value of a candidate, and whether it is better, where a difference is found."""
    rng = generator("series", law, is_better, number)
    arm, baseline = USED[law][law](rng, (2, DESIGN.most))
    failed = np.stack([arm, baseline], axis=1) < FAILED
    arm = np.where(arm < FAILED, arm, arm + is_better * EFFECTS[law])
    (found,) = judge_family([arm - baseline], [failed], design=DESIGN, alpha=1 - 1e-9)
    parts = [part for part in (found, found.failures, found.trained) if part is not None]
    first = min(parts, key=lambda part: part.adjusted_p)
    return first.adjusted_p, first.verdict == "better"


def pool(candidates: int, *, is_better: bool) -> Pool:
    """Candidates of both laws, half of each."""
    found = list[tuple[float, bool]]()
    with ProcessPoolExecutor() as processes:
        for law in USED:
            numbers = range(candidates // len(USED))
            found += processes.map(partial(judged, law=law, is_better=is_better), numbers, chunksize=50)
    p, better = zip(*found, strict=True)
    return Pool(np.array(p), np.array(better))


def arranged(share: float, order: str, rng: np.random.Generator) -> Bool[np.ndarray, " candidates"]:
    """Which candidates of a series are better."""
    truth = np.arange(LENGTH) < round(share * LENGTH)
    if order == "mixed":
        rng.shuffle(truth)
    return truth[::-1] if order == "better ones last" else truth


def one_series(
    control: str, truth: Bool[np.ndarray, " candidates"], pools: Sequence[Pool], rng: np.random.Generator
) -> tuple[Bool[np.ndarray, " candidates"], Bool[np.ndarray, " candidates"]]:
    """Candidates of a series in which a difference was found, and those that were found better."""
    draws: Int[np.ndarray, " candidates"] = rng.integers(0, [len(pools[int(one)].p) for one in truth])
    p = np.where(truth, *(own.p[draws % len(own.p)] for own in reversed(pools)))
    speaks_for = np.where(truth, *(own.better[draws % len(own.p)] for own in reversed(pools)))
    p = np.where(~truth & (p <= TAIL), rng.uniform(0, TAIL, LENGTH), p)
    found, better, discoveries = np.zeros(LENGTH, dtype=bool), np.zeros(LENGTH, dtype=bool), list[int]()
    for place in range(LENGTH):
        found[place] = p[place] <= next_level(control, alpha=ALPHA, started=place, discoveries=discoveries)
        better[place] = found[place] and speaks_for[place]
        if better[place]:
            discoveries.append(place + 1)
    return found, better


def simulate(control: str, share: float, order: str, *, pools: Sequence[Pool], studies: int) -> dict[str, Any]:
    """Errors and power of many series."""
    rng = generator("ledger", control, share, order)
    false, false_share, seen, wrong, right = 0, 0.0, 0.0, 0, 0
    for _ in range(studies):
        truth = arranged(share, order, rng)
        found, better = one_series(control, truth, pools, rng)
        mistaken = (found & ~truth) | (found & ~better & truth)
        false += bool(mistaken.any())
        false_share += float((better & ~truth).sum() / max(1, better.sum()))
        wrong, right = wrong + int((better & ~truth).sum()), right + int((better & truth).sum())
        seen += float((better & truth).sum() / truth.sum()) if share else 0.0
    return {
        "control": control,
        "share": share,
        "order": order,
        "series": studies,
        "any_false": false / studies,
        "false_share": false_share / studies,
        "false_ratio": wrong / max(1, wrong + right),
        "power": seen / studies if share else None,
    }


def pool_error(null: Pool) -> float:
    """Standard error of the number of false verdicts in a series of alpha spending, because candidates are few."""
    levels = np.array([next_level("fwer", alpha=ALPHA, started=place) for place in range(LENGTH)])
    tail = np.minimum(levels / TAIL, 1).sum()
    numbers = [tail if p <= TAIL else (levels >= p).sum() for p in null.p]
    return float(np.std(numbers) / np.sqrt(len(numbers)))


def markdown(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The table of what was measured."""
    yield "| control | better | order | any false verdict | false among the better | better ones found |"
    yield "| --- | ---: | --- | ---: | ---: | ---: |"
    for row in rows:
        power = "–" if row["power"] is None else f"{100 * row['power']:.1f} %"
        yield (
            f"| {row['control']} | {100 * row['share']:.0f} % | {row['order']} | {100 * row['any_false']:.1f} % | "
            f"{100 * row['false_share']:.1f} % | {power} |"
        )


def main() -> None:
    """Simulate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--candidates", type=int, default=8_000, help="judged that are no better, and an eighth of that that are"
    )
    parser.add_argument("--series", type=int, default=2_000, help="of each share, order and control")
    parser.add_argument("--markdown", action="store_true", help="print the table of the results at hand")
    chosen = parser.parse_args()
    if chosen.markdown:
        print(*markdown(json.loads(RESULTS.read_text())["rows"]), sep="\n")
        return
    pools = [pool(chosen.candidates, is_better=False), pool(chosen.candidates // 8, is_better=True)]
    rows = []
    for control in CONTROLS:
        for share in SHARES:
            for order in ORDERS if share else ORDERS[:1]:
                rows.append(simulate(control, share, order, pools=pools, studies=chosen.series))
                print(*markdown(rows[-1:]), sep="\n", flush=True)
    room = 2 * pool_error(pools[0])
    for row in rows:
        error = row["any_false"] if row["control"] == "fwer" else row["false_share"]
        row["within"] = error <= limit(row["series"]) + room
    content = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "candidates": chosen.candidates,
        "pool_error": pool_error(pools[0]),
        "null_p_below": {f"{level:g}": float(np.mean(pools[0].p <= level)) for level in (0.05, 0.01, 0.001)},
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")
    print(*markdown(rows), sep="\n")


if __name__ == "__main__":
    main()
