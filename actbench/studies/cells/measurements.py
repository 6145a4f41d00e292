"""Cost and provenance of a fit, fingerprints of its weights and batch order, and its activations' curves."""

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from typing import Any, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn
from typing_extensions import override

from actbench import __version__, data, records
from actbench.networks import compared_modules
from actbench.specs import without
from actbench.training.classifier import Classifier
from actbench.training.threads import available_cores, peak_memory_mb, reset_peak_memory

WARM_UP = 60  # first steps of a process, in which the stack records its operations; they are not timed
RANGE, POINTS = 5.0, 101  # of the activation's curve: inputs from -5 to 5
BUSY = 0.2  # share of the processor that others have used, above which times say little


class Measurements(Callback):
    """Measures the cost of a fit, and notes its provenance and the fingerprints of its weights and batch order.

    Every checkpoint holds them.

    Args:
        config: The fit's canonical config.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.init: list[str] = []
        self.order: list[str] = []
        self.provenance: dict[str, Any] = {}
        self.steps = 0  # of this process
        self.step_times_s: list[float] = []  # mean of each epoch, over the steps of the epoch alone

    @override
    def state_dict(self) -> dict[str, Any]:
        state = {name: getattr(self, name) for name in ("init", "order", "provenance", "step_times_s")}
        return {"config": records.json_text(self.config), **state}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(without(state_dict, "config"))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.others = OtherProcesses()
        self.memory_known = reset_peak_memory(trainer.strategy.root_device)
        self.steps, self.timed = 0, (0, time.perf_counter())
        if self.init:  # the fit is resumed; provenance and fingerprints are those of its start
            return
        classifier = cast(Classifier, pl_module)
        self.init = initial_weights(classifier)
        datamodule = getattr(trainer, "datamodule", None)
        self.order = batch_orders(datamodule) if isinstance(datamodule, data.ImageData) else []
        self.provenance = {
            "replicates_together": len(classifier.seeds),
            "load_before": load_per_core(),
            "device": device_name(trainer.strategy.root_device),
            "threads": torch.get_num_threads(),
            "engine": f"{'compiled ' if classifier.compiles is True else ''}{classifier.engine.name}",
            "swap": classifier.swap and records.json_text(classifier.swap.to_dict()),
            "started": datetime.now(UTC).isoformat(timespec="microseconds"),
            "actbench_version": __version__,
            "torch_version": str(torch.__version__),
            "lightning_version": version("pytorch-lightning"),
            "python_version": platform.python_version(),
            "commit": commit(),
        }

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0 or self.steps == WARM_UP:
            self.timed = (self.steps, time.perf_counter())
        self.steps += 1

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not trainer.is_last_batch:
            return
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        first, start = self.timed
        mean_s = (time.perf_counter() - start) / (self.steps - first)
        self.step_times_s = [*self.step_times_s, mean_s] if first >= WARM_UP else self.step_times_s or [mean_s]

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        replicates = len(cast(Classifier, pl_module).seeds)
        step_s = statistics.median(self.step_times_s) if self.step_times_s else None
        datamodule = getattr(trainer, "datamodule", None)
        size, order = getattr(datamodule, "batch_size", None), getattr(datamodule, "order", None)
        busy = self.others.share()
        if isinstance(order, str):  # all replicates share their batches
            self.order = [order] * replicates
        self.provenance = self.provenance | {
            "epoch_time_s": step_s and step_s * (trainer.fit_loop.batch_idx + 1) / replicates,
            "examples_per_s": step_s and size and size * replicates / step_s,
            "engine_reason": engine_reason(cast(Classifier, pl_module)),
            "peak_memory_mb": peak_memory_mb(trainer.strategy.root_device) if self.memory_known else None,
            "load_after": load_per_core(),
            "busy": None if busy is None else busy > BUSY,
        }


def engine_reason(classifier: Classifier) -> str:
    """Why a classifier's engine was chosen, and whether recorded steps were replayed."""
    remark = classifier.engine.remark()
    return f"{classifier.engine_reason}{remark and f'; {remark}'}"[:500]


class OtherProcesses:
    """Measures, on Linux, the share of the processor that other processes use from now on."""

    def __init__(self) -> None:
        self.start = self.now()

    @staticmethod
    def now() -> tuple[float, float, float] | None:
        """Busy seconds of all cores, seconds used by this process, and the clock; None if they are not known."""
        if sys.platform != "linux":
            return None
        with open("/proc/stat") as file:  # noqa: PTH123
            user, nice, system, _, _, irq, softirq, *_ = (int(word) for word in file.readline().split()[1:])
        used = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
        times = os.times()
        return used, times.user + times.system, time.perf_counter()

    def share(self) -> float | None:
        """Fraction of all cores' time that other processes have used; None if it is not known."""
        now = self.now()
        if now is None or self.start is None:
            return None
        used, used_here, clock = (after - before for after, before in zip(now, self.start, strict=True))
        return max(0.0, used - used_here) / max(clock, 1e-9) / (os.cpu_count() or 1)


def initial_weights(classifier: Classifier) -> list[str]:
    """For each replicate, a hash of its weights, except the weights of the activations that are compared."""
    network = classifier.engine.replicate(0)
    excluded = {
        id(value) for module in compared_modules(network) for value in (*module.parameters(), *module.buffers())
    }
    names = [name for name, value in network.state_dict(keep_vars=True).items() if id(value) not in excluded]
    values = classifier.engine.state_dict()
    shared = [(name, values[f"network.{name}"].cpu()) for name in names]
    hashes = [sha256() for _ in classifier.seeds]
    for replicate, replicate_hash in enumerate(hashes):
        for name, weights in shared:
            replicate_hash.update(name.encode())
            replicate_hash.update(weights[replicate].flatten().view(torch.uint8).numpy().tobytes())
    return [replicate_hash.hexdigest()[:32] for replicate_hash in hashes]


def batch_orders(datamodule: data.ImageData) -> list[str]:
    """For each replicate, a hash of its rows in the order of the first epoch, and of its val and test rows."""
    datamodule.setup()
    first = data.RowBatches("train", datamodule.parts["train"].rows, 10**9, seeds=datamodule.seeds)
    (train,) = (batch.rows for batch in first)
    rows = [train, datamodule.parts["val"].rows, datamodule.parts["test"].rows]
    return [
        sha256(b"".join(split[replicate].numpy().tobytes() for split in rows)).hexdigest()[:32]
        for replicate in range(len(datamodule.seeds))
    ]


def load_per_core() -> float | None:
    """Processes that wanted to run in the last minute, per core; None where the system does not say."""
    return os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else None


def device_name(device: torch.device) -> str:
    """Name of the processor or GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = available_cores()
    return f"{platform.machine()}, {cores} {'core' if cores == 1 else 'cores'}"


def commit() -> str | None:
    """Commit of the working directory, with a + if tracked files were changed; None outside a git repository."""
    try:
        head, changed = (
            subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changed else "")


def curves(classifier: Classifier) -> Iterator[dict[str, list[float] | None]]:
    """For each replicate, inputs, outputs and slopes of the activation at its first site, after training.

    A report draws them without torch. They are None where the activation is not a
    function of one number, as with parameters for each channel.
    """
    for replicate in range(len(classifier.seeds)):
        site = next(compared_modules(classifier.engine.replicate(replicate)), None)
        yield curve(site and site.cpu().eval())


def curve(activation: nn.Module | None) -> dict[str, list[float] | None]:
    """Inputs, outputs and slopes of an activation."""
    x = torch.linspace(-RANGE, RANGE, POINTS).requires_grad_()
    if activation:
        with suppress(Exception), torch.enable_grad():  # of any kind: it may refuse an input of this shape
            y = activation(x)
            slope = torch.autograd.grad(y.sum(), x)[0]
            if y.isfinite().all() and slope.isfinite().all():
                return {"curve_x": x.tolist(), "curve_y": y.tolist(), "curve_slope": slope.tolist()}
    return dict.fromkeys(("curve_x", "curve_y", "curve_slope"))
