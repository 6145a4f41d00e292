"""Timing training steps: every arm beside the baseline, in turns, on the machine at hand."""

import math
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from statistics import geometric_mean, median
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from actbench.activations.saved_bytes import saved_bytes
from actbench.data import SEED
from actbench.inference.verdict import Question
from actbench.inference.verdict.history import utc_now
from actbench.inference.verdict.price_words import silence_words, time_words
from actbench.inference.verdict.timing import StepTiming, Timings, compare_timings, step_ratio
from actbench.seeding import shared_sources
from actbench.specs import ActivationSpec, one_line, without
from actbench.studies.cells import WARM_UP, Cell, ChosenEngine, device_name, with_engine
from actbench.studies.cells.measurements import BUSY, OtherProcesses
from actbench.studies.cells.run import CellCLI, unchanged_process
from actbench.studies.definition import Study
from actbench.studies.plan import WIDTH, Wanted
from actbench.studies.training import RunContext
from actbench.training.classifier import Classifier
from actbench.training.threads import choose_threads, prepare_process

TURN_S = 0.02  # seconds of steps before the other arm has its turn
LEAST_ROUNDS, MOST_ROUNDS = 6, 1000
PRECISE = math.log(1.03)  # half width of the ratio's interval at which timing ends
PROCESSOR, WALL, DEVICE_EVENTS = "processor time", "wall-clock time", "events of the device"
FIRST_STEPS = 4  # of replicates that are trained one after another, in which memory is set up
UNTIMED = ("callbacks", "profiler", "max_steps", "max_time", "min_epochs", "min_steps")  # settings of the Trainer


class TurnsEnded(Exception):
    """Ends a `TimedFit` from within its thread."""


class TimedFit(Callback):
    """A cell's fit in a thread of its own, which trains only during its turns.

    At any time, one of all threads runs. The fit has the cell's data, engine,
    precision and optimiser, but no callbacks, no schedule and no validation.

    Raises:
        Exception: Of any kind, from the cell's code.
    """

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.orders, self.reports = SimpleQueue[int](), SimpleQueue[BaseException | None]()
        self.left = 0  # steps of this turn
        self.start: Any = None  # of a step: a time, or an event of a GPU
        self.steps: list[tuple[Any, Any]] = []  # start and end of each step of this turn
        self.thread = threading.Thread(target=copy_context().run, args=(self._run,), daemon=True)
        self.thread.start()
        self._wait()
        # A stack records its operations in its first steps.
        self.turn(WARM_UP if self.classifier.engine.name == "stack" else FIRST_STEPS)

    def turn(self, steps: int) -> float:
        """Seconds of a training step: the median of so many, without the first, for which caches are cold."""
        self.orders.put(steps)
        self._wait()
        if self.clock == DEVICE_EVENTS:
            torch.cuda.synchronize(self.device)
            times_s = [start.elapsed_time(end) / 1000 for start, end in self.steps]
        else:
            times_s = [end - start for start, end in self.steps]
        self.steps = []
        return float(median(times_s[1:] or times_s)) / self.accumulated

    def close(self) -> None:
        """End the fit."""
        self.orders.put(0)
        self.thread.join()

    def _wait(self) -> None:
        """Wait until the fit has had its turn."""
        error = self.reports.get()
        if error is not None:
            raise error

    def _run(self) -> None:
        """Train until `close`; the body of the thread."""
        try:
            sources = shared_sources(self.cell.sharing)
            with tempfile.TemporaryDirectory() as folder, sources:
                cli = CellCLI(self.cell, Path(folder), [self])
                prepare_process()
                choose_threads(cli.trainer, cli.model, cli.datamodule)
                cli.trainer.fit(cli.model, datamodule=cli.datamodule)
            raise ValueError("training ended before it was timed")
        except TurnsEnded:
            return
        except BaseException as error:  # raised again in the thread that waits
            self.reports.put(error)

    def _mark(self) -> Any:
        """The time by the clock, or an event of the device."""
        if self.clock == PROCESSOR:
            return time.thread_time()
        if self.clock == WALL:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.classifier = cast(Classifier, pl_module)
        self.device = trainer.strategy.root_device
        self.threads = torch.get_num_threads()
        self.clock = fitting_clock(self.device, self.threads)
        self.accumulated = trainer.accumulate_grad_batches
        batches = trainer.num_training_batches
        self.epoch_steps = float(batches) if math.isfinite(batches) else None

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % self.accumulated:
            return
        began = not self.left
        if began:
            self.reports.put(None)
            self.left = self.orders.get()
            if not self.left:
                raise TurnsEnded
        if began or batch_idx == 0:  # between epochs, other things take time
            self.start = self._mark()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % self.accumulated:
            return
        end = self._mark()
        if not trainer.is_last_batch or trainer.num_training_batches <= self.accumulated:  # the last may be smaller
            self.steps.append((self.start, end))
            self.left -= 1
        self.start = end


def fitting_clock(device: torch.device, threads: int) -> str:
    """What steps are timed by: on one thread, processor time, which other processes hardly lengthen."""
    if device.type == "cuda":
        return DEVICE_EVENTS
    return PROCESSOR if threads == 1 else WALL


def timed_cell(each: Wanted, replicates: int, engines: Mapping[str, ChosenEngine]) -> Cell:
    """An arm's first replicates as they were trained together, in a fit without an end.

    Replicates that are trained one after another take the same time each, so one is enough.
    """
    cell = with_engine(each.entry.cell, engines)
    # A schedule may depend on the fit's length.
    model = {"compile": False} | cell.config["model"]
    model |= {"lr_scheduler": None, "lr_interval": None, "mechanism": False}
    trainer = {**without(cell.config["trainer"], *UNTIMED), "max_epochs": -1, "limit_val_batches": 0}
    together = 1 if model.get("engine") == "sequence" else min(WIDTH, replicates)
    return replace(cell, config={**cell.config, "model": model, "trainer": trainer}, seeds=each.seeds[:together])


class Rounds(NamedTuple):
    """Seconds of a step of an arm and of the baseline in each round, and in which rounds others used the machine."""

    times_s: Float[np.ndarray, "rounds 2"]
    busy: Bool[np.ndarray, " rounds"]

    @property
    def log_ratios(self) -> Float[np.ndarray, " quiet"]:
        """Logarithm of the arm's time by the baseline's, in the rounds that count."""
        result: Float[np.ndarray, " quiet"] = np.log(self.times_s[:, 0] / self.times_s[:, 1])[~self.busy]
        return result

    def median_s(self) -> list[float]:
        """Median seconds of a step of the arm and of the baseline, of the rounds that count if there are any."""
        medians: list[float] = np.median(self.times_s if self.busy.all() else self.times_s[~self.busy], axis=0).tolist()
        return medians


def time_rounds(arm: TimedFit, baseline: TimedFit, seconds: float, *, alpha: float, watched: bool = False) -> Rounds:
    """Time an arm and its baseline in rounds, until their ratio is known well or time is over.

    In a round, each has four turns, in the order ABBABAAB. So a machine that becomes
    slower or faster by and by affects both alike, and each follows upon itself, with
    warm caches, as often as the other does. Both train the same batches.

    A round does not count if others used more than `BUSY` of the machine meanwhile and the machine is ``watched``. The
    threads of one arm may then wait for one another for many rounds on end, and those of the other never, so that twins
    differ by a factor of five.
    """
    start_s, rounds, busy = time.perf_counter(), list[tuple[float, float]](), list[bool]()
    arm.turn(2)
    steps = 1 + int(TURN_S / baseline.turn(2))
    while len(rounds) < MOST_ROUNDS:
        others = OtherProcesses()
        turns = [(fit, fit.turn(steps)) for fit in (arm, baseline, baseline, arm, baseline, arm, arm, baseline)]
        busy.append(watched and (others.share() or 0) > BUSY)
        arm_s, baseline_s = (
            geometric_mean(time_s for timed, time_s in turns if timed is fit) for fit in (arm, baseline)
        )
        rounds.append((arm_s, baseline_s))
        if time.perf_counter() - start_s >= seconds:
            break
        found = Rounds(np.array(rounds), np.array(busy))
        if len(found.log_ratios) >= LEAST_ROUNDS:
            ratio = step_ratio(found.log_ratios)
            if ratio and ratio.half_width(alpha) <= PRECISE:
                break
    return Rounds(np.array(rounds), np.array(busy))


def time_panel(
    base: Wanted, arms: Sequence[Wanted], engines: Mapping[str, ChosenEngine], *, seconds: float, alpha: float
) -> Iterator[StepTiming]:
    """Time arms beside the baseline on a dataset and network; each gets an equal share of the seconds that are left."""
    replicates = min(len(each.seeds) for each in (base, *arms))
    with closing(TimedFit(timed_cell(base, replicates, engines))) as baseline:
        for index, each in enumerate(arms):
            with closing(TimedFit(timed_cell(each, replicates, engines))) as arm:
                start_s = time.perf_counter()
                share_s, watched = seconds / (len(arms) - index), arm.clock == WALL
                rounds = time_rounds(arm, baseline, share_s, alpha=alpha, watched=watched)
                arm_s, baseline_s = rounds.median_s()
                seconds -= time.perf_counter() - start_s
                yield StepTiming(
                    dataset=each.entry.dataset,
                    network=each.entry.network,
                    arm=each.entry.arm,
                    baseline=base.entry.arm,
                    cell=each.entry.cell.hash,
                    baseline_cell=base.entry.cell.hash,
                    log_ratios=rounds.log_ratios.tolist(),
                    busy_rounds=int(rounds.busy.sum()),
                    step_s=arm_s,
                    baseline_step_s=baseline_s,
                    epoch_steps=arm.epoch_steps,
                    baseline_epoch_steps=baseline.epoch_steps,
                    replicates=len(arm.cell.seeds),
                    device=device_name(arm.device),
                    clock=arm.clock,
                    threads=arm.threads,
                    engine=f"{'compiled ' if arm.classifier.compiles is True else ''}{arm.classifier.engine.name}",
                    torch_version=str(torch.__version__),
                    measured=utc_now(),
                )


def time_study(study: Study, question: Question, wanted: Sequence[Wanted], context: RunContext) -> None:
    """Time the arms of a finished study, count what their activations keep, and write both to the study's folder.

    A timing is kept until its arm or the baseline changes, unless others used the machine in nearly all of its rounds.
    """
    known = Timings.read(study.folder)
    by_key = {each.entry.key: each for each in wanted}
    kept = {each.entry.cell.hash: saved_bytes_of(each.entry.cell) for each in wanted}
    rows = list[StepTiming]()
    untimed = list[tuple[Wanted, list[Wanted]]]()
    for panel in question.panels:
        base = by_key[*panel, question.baseline]
        arms = [by_key[*panel, arm] for arm in question.arms if arm != question.baseline]
        found = [known.find(*panel, base.entry.cell.hash, each.entry.cell.hash) for each in arms]
        found = [row if row and (row.tells or not row.busy_rounds) else None for row in found]
        rows += filter(None, found)
        missing = [each for each, row in zip(arms, found, strict=True) if row is None]
        if missing and study.timing_s:
            untimed.append((base, missing))
    Timings(rows, kept, study.target).write(study.folder)
    for base, arms in untimed:
        context.progress.say(f"timing {base.entry.label} and the other arms, for at most {study.timing_s:g} s")
        try:
            with unchanged_process(SEED):
                for row in time_panel(base, arms, context.engines, seconds=study.timing_s, alpha=study.alpha):
                    rows.append(row)
                    Timings(rows, kept, study.target).write(study.folder)
                    context.progress.say(timing_line(row, study.alpha))
        except Exception as error:  # of any kind, in the user's code: the records are complete without times
            context.troubles.append(f"timing beside {base.entry.label}: {one_line(error)}")
            context.progress.say(context.troubles[-1])


def saved_bytes_of(cell: Cell) -> float | None:
    """The `saved_bytes` of a cell's activation; None if it cannot be counted."""
    try:
        return saved_bytes(ActivationSpec(cell.config["model"]["activation"])())
    except Exception:  # of any kind: it may train on inputs of one shape only
        return None


def timing_line(row: StepTiming, alpha: float) -> str:
    """A line on what has just been timed."""
    timing = compare_timings(row, None, alpha=alpha)
    sentence = time_words(timing) if timing else silence_words(row)
    if row.busy_rounds and not timing:
        sentence += "; the next `compare` times it again"
    return f"{row.dataset}/{row.network}/{row.arm}, timed beside {row.baseline}: {sentence}"
