"""``timing.json``: training steps of each arm, timed beside the baseline's, and what autograd keeps."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from jaxtyping import Float
from scipy import special

from actbench.inference.stats import Interval
from actbench.inference.verdict.question import Comparison
from actbench.records import RecordError, replace_file

TIMING = "timing.json"
LARGEST_TIMING = 2**25  # bytes of a file
DRIFT = math.log(1.02)
"""Logarithm of the ratio up to which steps of equal arms may differ however long they are timed.

Where the tensors of a network lie in memory has an effect that stays the same in
all rounds: 27 twins of an MLP differed by 0.8 % on average, with a standard
deviation of 1.2 %, of which noise was about half.
"""

POSITIVE = {"type": "number", "minimum": 1e-12, "maximum": 1e12}
UNKNOWN = {**POSITIVE, "type": ["number", "null"]}
TEXT, COUNT = {"type": "string", "maxLength": 1000}, {"type": "integer", "minimum": 1, "maximum": 2**31}
ROW: dict[str, Any] = {
    **dict.fromkeys(("dataset", "network", "arm", "baseline", "cell", "baseline_cell"), TEXT),
    "log_ratios": {"type": "array", "maxItems": 100_000, "items": {"type": "number", "minimum": -50, "maximum": 50}},
    **dict.fromkeys(("step_s", "baseline_step_s"), POSITIVE),
    **dict.fromkeys(("epoch_steps", "baseline_epoch_steps"), UNKNOWN),
    **dict.fromkeys(("replicates", "threads"), COUNT),
    **dict.fromkeys(("device", "clock", "engine", "torch_version", "measured"), TEXT),
}
ADDED = {"busy_rounds": {"type": "integer", "minimum": 0, "maximum": 2**31}}  # which older files lack
CONTENT: dict[str, Any] = {
    "format": {"const": 1},
    "target": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
    "saved_bytes": {
        "type": "object",
        "additionalProperties": {"type": ["number", "null"], "minimum": 0, "maximum": 1e12},
    },
    "timings": {
        "type": "array",
        "maxItems": 10_000,
        "items": {"type": "object", "required": [*ROW], "additionalProperties": False, "properties": ROW | ADDED},
    },
}
SCHEMA_OF_TIMINGS = {"type": "object", "required": [*CONTENT], "additionalProperties": False, "properties": CONTENT}


@dataclass(frozen=True)
class StepTiming:
    """Training steps of an arm and its baseline on a dataset and network, timed in turns.

    ``log_ratios`` holds, for each round, the logarithm of the arm's time by the
    baseline's, without the ``busy_rounds`` in which others used the machine. Other
    fields that begin with ``baseline_`` are the baseline's; those without such a
    partner hold for both arms.
    """

    dataset: str
    network: str
    arm: str
    baseline: str
    cell: str  # hash of all that determines the arm's results
    baseline_cell: str
    log_ratios: Sequence[float]
    step_s: float  # median seconds of a training step of all replicates
    baseline_step_s: float
    epoch_steps: float | None  # steps of an epoch; None if that is not known
    baseline_epoch_steps: float | None
    replicates: int  # that a step trained
    device: str
    clock: str  # what steps were timed by, such as processor time
    threads: int
    engine: str
    torch_version: str
    measured: str  # UTC, ISO 8601
    busy_rounds: int = 0

    @property
    def tells(self) -> bool:
        """Whether it gives a ratio with an interval, for which it takes two rounds."""
        return len(self.log_ratios) > 1


@dataclass(frozen=True)
class Timings:
    """Content of ``timing.json``.

    ``saved_bytes`` holds, by the hash of an arm's cell, the bytes kept for the
    backward pass for each element of an activation's input; None if an activation
    cannot be counted. ``target`` is the accuracy on val to which the time is
    wanted; None for the baseline's own.
    """

    timings: Sequence[StepTiming] = ()
    saved_bytes: Mapping[str, float | None] = field(default_factory=dict)
    target: float | None = None

    @classmethod
    def read(cls, folder: Path) -> "Timings":
        """The timings in a study's folder; empty ones if it has none.

        Raises:
            RecordError: The file is damaged.
        """
        path = folder / TIMING
        if not path.exists():
            return cls()
        try:
            if not path.is_file() or path.stat().st_size > LARGEST_TIMING:  # a pipe, or a device without an end
                raise ValueError("not a file, or larger than any timings")
            content = json.loads(path.read_text(), parse_constant=refuse_constant)
            check_timings(content)
        except (ValueError, RecursionError) as error:
            raise RecordError(
                f"{path} is damaged ({error}); remove it, and `compare` will time the arms again"
            ) from error
        return cls([StepTiming(**row) for row in content["timings"]], content["saved_bytes"], content["target"])

    def write(self, folder: Path) -> None:
        """Write the timings into a study's folder, whole or not at all."""
        content = {"format": 1, **asdict(self)}
        replace_file(folder / TIMING, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())

    def find(self, dataset: str | None, network: str, baseline_cell: str, cell: str) -> StepTiming | None:
        """The timing of two cells beside one another; None if they were not timed."""
        wanted = dataset, network, baseline_cell, cell
        return next(
            (row for row in self.timings if wanted == (row.dataset, row.network, row.baseline_cell, row.cell)), None
        )

    def between(
        self, comparison: Comparison, cells: Mapping[str, str], baseline: str, *, alpha: float
    ) -> "PairTiming | None":
        """A comparison's arm beside its baseline; None unless they were timed under the same conditions.

        Args:
            comparison: On one dataset. Its baseline need not be the study's.
            cells: Hash of the cell of each arm on the comparison's dataset and network.
            baseline: The study's baseline, beside which all other arms were timed.
            alpha: One minus the coverage of intervals, and the level of evidence.
        """
        sides = self._sides(comparison, cells, baseline)
        if sum(row is not None for row in sides) != sum(arm != baseline for arm in comparison[2:]):
            return None
        return compare_timings(*sides, alpha=alpha)

    def silent(self, comparison: Comparison, cells: Mapping[str, str], baseline: str) -> StepTiming | None:
        """The timing of one of a comparison's arms that tells nothing."""
        return next((row for row in self._sides(comparison, cells, baseline) if row and not row.tells), None)

    def _sides(self, comparison: Comparison, cells: Mapping[str, str], baseline: str) -> list[StepTiming | None]:
        where = str(comparison.dataset), comparison.network, cells.get(baseline, "")
        return [
            None if arm == baseline else self.find(*where, cells.get(arm, ""))
            for arm in (comparison.arm, comparison.baseline)
        ]


class StepRatio(NamedTuple):
    """Time of a training step of an arm by that of its baseline, as a mean of logarithms over rounds."""

    mean: float
    error: float  # standard error of the mean
    freedom: float
    drift: float  # up to which a difference is no evidence
    rounds: int

    def half_width(self, alpha: float) -> float:
        """Half the width of the interval of the mean: Student's, and the drift, which no number of rounds shows."""
        return float(special.stdtrit(self.freedom, 1 - alpha / 2)) * self.error + self.drift

    def interval(self, alpha: float) -> Interval:
        """The ratio with its interval."""
        half = self.half_width(alpha)
        return Interval(*np.exp(np.clip([self.mean, self.mean - half, self.mean + half], -100, 100)).tolist())

    @property
    def p(self) -> float:
        """P-value of Student's test that the ratio is no further from 1 than the drift; it agrees with `interval`."""
        beyond = max(0.0, abs(self.mean) - self.drift)
        return 2 * float(special.stdtr(self.freedom, -beyond / self.error)) if self.error else float(not beyond)


def step_ratio(*log_ratios: Float[np.ndarray, " _"]) -> StepRatio | None:
    """The sum of the means of independent logarithms of ratios over rounds; None if any has fewer than two rounds.

    There are two for a pair of arms that were each timed beside a third.

    Source:
        Welch (1947), The generalization of "Student's" problem when several
        different population variances are involved, Biometrika 34(1/2), 28-35.
    """
    rounds = [len(logs) for logs in log_ratios]
    if min(rounds) < 2:
        return None
    variances = [float(np.var(logs, ddof=1)) / len(logs) for logs in log_ratios]
    total = sum(variances)
    shares = [(variance / total) ** 2 / (count - 1) for variance, count in zip(variances, rounds, strict=True) if total]
    return StepRatio(
        mean=float(sum(np.mean(logs) for logs in log_ratios)),
        error=math.sqrt(total),
        freedom=1 / sum(shares) if total else min(rounds) - 1,
        drift=DRIFT * len(rounds),
        rounds=min(rounds),
    )


class PairTiming(NamedTuple):
    """Time of a training step of an arm by that of its baseline; above 1, the arm takes longer.

    ``p`` is outside the family. ``seen`` says whether there is evidence of a
    difference beyond the drift. ``epoch_ratio`` is the ratio for an epoch, which has
    another number of steps where batches differ in size; its estimate takes steps for
    equal unless a difference was seen. ``epoch_s`` and ``baseline_epoch_s`` are the
    seconds of an epoch for one replicate. They are None if the number of steps is not known.
    """

    ratio: Interval
    p: float
    seen: bool
    rounds: int
    epoch_ratio: Interval | None
    epoch_s: float | None
    baseline_epoch_s: float | None
    replicates: int
    device: str
    clock: str
    threads: int
    engine: str


def compare_timings(arm: StepTiming | None, baseline: StepTiming | None, *, alpha: float) -> PairTiming | None:
    """Two arms that were each timed beside the study's baseline, which is None where it is one of the two.

    None if they were timed under different conditions, or in fewer than two rounds.
    """
    rows = [row for row in (arm, baseline) if row]
    first = rows[0]
    conditions = {(row.device, row.clock, row.threads, row.engine, row.replicates, row.torch_version) for row in rows}
    logs = [sign * np.array(row.log_ratios) for row, sign in ((arm, 1), (baseline, -1)) if row]
    step = step_ratio(*logs)
    if step is None or len(conditions) > 1:
        return None
    arm_steps, base_steps = (row.epoch_steps if row else first.baseline_epoch_steps for row in (arm, baseline))
    base_s = (baseline.step_s if baseline else first.baseline_step_s) / first.replicates
    ratio = step.interval(alpha)
    seen = step.p <= alpha
    epoch_ratio = None
    if arm_steps and base_steps:
        steps = ratio if seen else ratio._replace(estimate=1.0)
        epoch_ratio = Interval(*(value * arm_steps / base_steps for value in steps))
    return PairTiming(
        ratio=ratio,
        p=step.p,
        seen=seen,
        rounds=step.rounds,
        epoch_ratio=epoch_ratio,
        epoch_s=epoch_ratio and base_steps and epoch_ratio.estimate * base_s * base_steps,
        baseline_epoch_s=base_steps and base_s * base_steps,
        **{name: getattr(first, name) for name in ("replicates", "device", "clock", "threads", "engine")},
    )


def check_timings(content: Any) -> None:
    """Refuse, with a ValueError that names the entry, content that `Timings.write` does not write."""
    from jsonschema import Draft202012Validator  # here: most users of this module never read a file

    error = next(Draft202012Validator(SCHEMA_OF_TIMINGS).iter_errors(content), None)
    if error:
        raise ValueError(f"{'.'.join(map(str, error.absolute_path)) or 'it'}: {error.message[:200]}")


def refuse_constant(text: str) -> NoReturn:
    """Refuse, with a ValueError, a number that JSON does not have."""
    raise ValueError(f"{text} is not a number of JSON")
