"""One cell of a study: an activation on a dataset with some seeds. One fit, one test, a record for each seed."""

import logging
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import cached_property
from hashlib import sha256
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import jsonargparse
import numpy as np
import polars as pl
import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from pytorch_lightning import callbacks as lightning_callbacks
from pytorch_lightning.utilities.seed import isolate_rng
from typing_extensions import override

from actbench import __version__, data, records
from actbench.callbacks import BestCheckpoint, Interruption, LastCheckpoint, RunFolder, RunLogger
from actbench.checkpoints import TRAINER_SETTINGS
from actbench.classifier import Classifier
from actbench.processor import available_cores, choose_threads, keep_memory
from actbench.specs import ActivationSpec, NetworkSpec, OptimizerSpec, SchedulerSpec, Spec, is_plain, one_line

WARM_UP = 60  # steps of a process that are not timed: the stack records its operations in them
BUSY = 0.2  # share of the processor that others have used, above which times say little
PLACES = ("root", "download")  # arguments of our datasets that say where the images are
CLASSES: dict[str, type[Spec]] = {
    "activation": ActivationSpec,
    "network": NetworkSpec,
    "optimizer": OptimizerSpec,
    "lr_scheduler": SchedulerSpec,
}
# Settings of a Trainer that change no result: where and how it runs, and what it says.
NEUTRAL = (
    *("accelerator", "devices", "num_nodes", "strategy", "benchmark", "deterministic", "detect_anomaly", "profiler"),
    *("log_every_n_steps", "num_sanity_val_steps", "inference_mode", "callbacks"),
)
# Settings that a study sets itself.
TAKEN = (
    *("logger", "default_root_dir", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"),
    *("fast_dev_run", "barebones"),
)
TRAINER_DEFAULTS = {"max_epochs": 100, "deterministic": "warn"}


class DatasetSpec(Spec):
    """A dataset: Digits, MNIST and the like, or the class path of a LightningDataModule with arguments."""

    kind = "dataset"
    base = LightningDataModule
    names = MappingProxyType({cls.__name__: (cls, {}) for cls in data.DATASETS})

    def _bind(self, arguments: dict[str, Any]) -> dict[str, Any]:
        for name in {"seed", "replicates"} & set(arguments):
            raise ValueError(f"{self.kind} {self.class_path}: {name} follows from the study")
        bound = super()._bind(arguments)
        return {name: value for name, value in bound.items() if name not in ("seed", "replicates")}

    def build(self, seeds: range) -> LightningDataModule:
        """The DataModule for these seeds; a foreign one gives all of them the same batches."""
        linked = {"seed": seeds[0], "replicates": len(seeds)} if issubclass(self.cls, data.ImageData) else {}
        return cast(LightningDataModule, self(**linked))


class CallbackSpec(Spec):
    """A callback: one of Lightning's by name, or a class path with arguments."""

    kind = "callback"
    base = Callback
    names = MappingProxyType({name: (getattr(lightning_callbacks, name), {}) for name in lightning_callbacks.__all__})


@dataclass(frozen=True)
class Cell:
    """What is trained together: a fit's config, and the seeds.

    Args:
        config: ``model``, ``data`` and ``trainer``, as in a fit's YAML, in canonical form; see `settled`.
        seeds: Those of the replicates.
        weights: Which are scored: of the last epoch, or each replicate's best by its own val/loss.
    """

    config: Mapping[str, Any]
    seeds: range
    weights: str = "last"

    @cached_property
    def factors(self) -> dict[str, Any]:
        """All that determines the results but for the seeds, and nothing else: no paths, loggers or devices."""
        dataset = DatasetSpec(self.config["data"]).to_dict()
        if issubclass(DatasetSpec(dataset).cls, data.ImageData):
            arguments = {key: value for key, value in dataset.get("init_args", {}).items() if key not in PLACES}
            dataset = {**dataset, "init_args": arguments}
        trainer = self.config["trainer"]
        settings = {
            name: value
            for name, value in trainer.items()
            if name not in NEUTRAL and value is not None and value != TRAINER_SETTINGS.get(name)
        }
        return {
            "data": dataset,
            **{name: self.config["model"][name] for name in CLASSES},
            "trainer": settings,
            "callbacks": trainer.get("callbacks") or [],
            "weights": self.weights,
        }

    @cached_property
    def hash(self) -> str:
        """Hash of the factors."""
        return records.fingerprint(self.factors)


def settled(config: Mapping[str, Any]) -> dict[str, Any]:
    """A fit's config in canonical form, with the defaults of model and trainer, and every class checked.

    Raises:
        ValueError: A key is unknown, a class is not there, or its arguments do not fit.
    """
    check_keys("the study", config, ("model", "data", "trainer"))
    model, trainer = dict(config.get("model") or {}), dict(config.get("trainer") or {})
    check_keys("model", model, (*CLASSES, "stack_width"))
    defaults = {"activation": "relu", "network": "TutorialCNN", "optimizer": "torch.optim.Adam", "lr_scheduler": None}
    specs = {name: model.get(name) or default for name, default in defaults.items()}
    callbacks = trainer.pop("callbacks", None) or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    taken = [name for name in TAKEN if trainer.get(name) is not None]
    if taken:
        raise ValueError(f"trainer.{taken[0]}: a study sets it itself; leave it out")
    trainer = {**TRAINER_DEFAULTS, **{name: value for name, value in trainer.items() if name not in TAKEN}}
    check_types(trainer)
    try:
        with silence():
            Trainer(**trainer, logger=False, enable_progress_bar=False, enable_model_summary=False)
    except Exception as error:  # TypeError, and several of Lightning's own
        raise ValueError(f"trainer: {one_line(error)}") from error
    if not is_plain([value for value in trainer.values() if value is not None]):
        raise ValueError(f"trainer takes plain values, got {trainer}")
    return {
        "model": {name: value and CLASSES[name](value).to_dict() for name, value in specs.items()}
        | {"stack_width": model.get("stack_width")},
        "data": DatasetSpec(config.get("data") or "Digits").to_dict(),
        "trainer": trainer | ({"callbacks": [CallbackSpec(value).to_dict() for value in callbacks]}),
    }


def check_types(trainer: Mapping[str, Any]) -> None:
    """Refuse settings that a Trainer does not have, or of the wrong type, as LightningCLI does; the Trainer would not.

    Raises:
        ValueError: There is one.
    """
    known = list(signature(Trainer).parameters)
    for name, value in trainer.items():
        if name not in known:
            near = ", ".join(get_close_matches(name, known)) or "see fit --help"
            raise ValueError(f"trainer.{name}: there is no such setting; near it: {near}")
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(Trainer, skip={"callbacks", "logger", "plugins"})
        try:
            parser.parse_object({name: value})
        except jsonargparse.ArgumentError as error:
            raise ValueError(f"trainer.{name}: {value!r} is not of its type; see fit --help") from error


def check_keys(what: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse keys that mean nothing.

    Raises:
        ValueError: There is one.
    """
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ValueError(f"{what}: unknown {', '.join(map(str, unknown))}; known: {', '.join(known)}")


def run_cell(cell: Cell, folder: Path, callbacks: Sequence[Callback] = ()) -> pl.DataFrame:
    """Train and score a cell's replicates.

    A checkpoint is kept in the folder while it runs; with one there, it goes on where that was written.

    Args:
        cell: What is trained.
        folder: For the checkpoint; it is the caller's to remove.
        callbacks: More than the config names, such as a progress bar.

    Returns:
        Records, a row for each seed.
    """
    with unchanged_process(cell.seeds[0]):
        measured = Measurements()
        run = RunFolder(logger=RunLogger(folder.parent, name="", version=folder.name))
        best = [BestCheckpoint()] if cell.weights == "best" else []
        settings = dict(cell.config["trainer"])
        own = [CallbackSpec(value)() for value in settings.pop("callbacks")]
        trainer = Trainer(
            **settings,
            callbacks=[*own, run, *best, LastCheckpoint(), Interruption(lambda path, _: None), measured, *callbacks],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        datamodule = DatasetSpec(cell.config["data"]).build(cell.seeds)
        if isinstance(datamodule, data.ImageData):
            datamodule.prepare_data()
            datamodule.setup()
        classifier = Classifier(
            **cell.config["model"],
            replicates=len(cell.seeds),
            seed=cell.seeds[0],
            input_shape=data.input_shape(datamodule),
            num_classes=data.num_classes(datamodule),
        )
        keep_memory()
        choose_threads(trainer, classifier, datamodule)
        last = folder / "checkpoints" / "last.ckpt"
        ckpt_path = str(last) if last.exists() else None
        trainer.fit(classifier, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
        if best:
            classifier.stack.network.load_state_dict(best[0].weights)
            trainer.validate(classifier, datamodule=datamodule, verbose=False)
        trainer.test(classifier, datamodule=datamodule, verbose=False)
        return to_records(cell, classifier, run.epochs, measured)


def to_records(
    cell: Cell, classifier: Classifier, epochs: Sequence[Mapping[str, Any]], measured: "Measurements"
) -> pl.DataFrame:
    """A row for each replicate of a classifier that was fitted and tested."""
    scores = {name: values.cpu().tolist() for name, values in classifier.evaluated.items()}
    trainable = sum(parameter[0].numel() for parameter in classifier.parameters() if parameter.requires_grad)

    def rows() -> Iterator[dict[str, Any]]:
        for place, seed in enumerate(cell.seeds):
            by_epoch = {
                name: [epoch["scores"][f"{part}/{short}"][place].item() for epoch in epochs]
                for name, part, short in EPOCH_SCORES
                if epochs and f"{part}/{short}" in epochs[0]["scores"]
            }
            lost = ~np.isfinite(by_epoch.get("epoch_val_loss", []))
            final = {
                f"{part}_{name}": scores.get(f"{part}/{short}", [None] * len(cell.seeds))[place]
                for part in ("val", "test")
                for name, short in SCORES.items()
            }
            diverged = bool(lost.any() or not np.isfinite(final["test_loss"]))
            yield {
                "cell": cell.hash,
                **{name: cell.factors[name]["class_path"] for name in ("network", "activation")},
                "dataset": cell.factors["data"]["class_path"],
                "factors": records.json_text(cell.factors),
                "seed": seed,
                "weights": cell.weights,
                **final,
                **by_epoch,
                "epochs": len(epochs),
                "diverged": diverged,
                "diverged_epoch": int(lost.argmax()) if lost.any() else None,
                "parameters": trainable,
                "init_fingerprint": measured.init[place],
                "order_fingerprint": measured.order[place] if measured.order else None,
                "config": records.json_text(cell.config),
                **measured.provenance,
            }

    return records.frame(rows())


SCORES = {"accuracy": "acc", "loss": "loss", "ece": "ece"}
EPOCH_SCORES = (
    ("epoch_train_loss", "train", "loss"),
    *((f"epoch_val_{name}", "val", short) for name, short in SCORES.items()),
)


class Measurements(Callback):
    """What a fit costs, where it runs, and the fingerprints of its weights and order."""

    def __init__(self) -> None:
        self.init: list[str] = []
        self.order: list[str] = []
        self.provenance: dict[str, Any] = {}
        self.steps = 0  # of this process
        self.step_times_s: list[float] = []  # mean of each epoch, its own steps only

    @override
    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("init", "order", "provenance", "step_times_s")}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.others = Others()
        self.steps, self.timed = 0, (0, time.perf_counter())
        if self.init:  # resumed: these are of the first start
            return
        classifier = cast(Classifier, pl_module)
        self.init = initial_weights(classifier)
        datamodule = getattr(trainer, "datamodule", None)
        self.order = batch_orders(datamodule) if isinstance(datamodule, data.ImageData) else []
        self.provenance = {
            "replicates_together": len(classifier.seeds),
            "load_before": load(),
            "device": device_name(trainer.strategy.root_device),
            "threads": torch.get_num_threads(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
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
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        replicates = len(cast(Classifier, pl_module).seeds)
        step_s = statistics.median(self.step_times_s) if self.step_times_s else None
        size = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
        busy = self.others.share()
        self.provenance = self.provenance | {
            "epoch_time_s": step_s and step_s * trainer.num_training_batches / replicates,
            "examples_per_s": step_s and size and size * replicates / step_s,
            "peak_memory_mb": peak_memory_mb(trainer.strategy.root_device),
            "load_after": load(),
            "busy": None if busy is None else busy > BUSY,
        }


class Others:
    """How much of the processor others than this process use from now on. Known on Linux."""

    def __init__(self) -> None:
        self.start = self.now()

    @staticmethod
    def now() -> tuple[float, float, float] | None:
        """Seconds: the machine's busy ones over all cores, this process's own, and the clock."""
        if sys.platform != "linux":
            return None
        with open("/proc/stat") as file:  # noqa: PTH123
            user, nice, system, _, _, irq, softirq, *_ = (int(word) for word in file.readline().split()[1:])
        used = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
        own = os.times()
        return used, own.user + own.system, time.perf_counter()

    def share(self) -> float | None:
        """Share of all cores' time that others have used."""
        now = self.now()
        if now is None or self.start is None:
            return None
        used, own, clock = (after - before for after, before in zip(now, self.start, strict=True))
        return max(0.0, used - own) / max(clock, 1e-9) / (os.cpu_count() or 1)


def initial_weights(classifier: Classifier) -> list[str]:
    """For each replicate, a hash of its weights without those of the activations."""
    network = classifier.stack.network
    own = tuple(f"{name}." for name, module in network.named_modules() if isinstance(module, classifier.activation.cls))
    shared = [(name, value.cpu()) for name, value in network.state_dict().items() if not f"{name}.".startswith(own)]
    hashes = [sha256() for _ in classifier.seeds]
    for place, value in enumerate(hashes):
        for name, weights in shared:
            value.update(name.encode())
            value.update(weights[place].contiguous().view(torch.uint8).numpy().tobytes())
    return [value.hexdigest()[:32] for value in hashes]


def batch_orders(datamodule: data.ImageData) -> list[str]:
    """For each replicate, a hash of its rows in the order of the first epoch, and of its val and test rows."""
    datamodule.setup()
    first = data.RowBatches("train", datamodule.parts["train"].rows, 10**9, seeds=datamodule.seeds)
    (train,) = (batch.rows for batch in first)
    parts = [train, datamodule.parts["val"].rows, datamodule.parts["test"].rows]
    return [
        sha256(b"".join(part[place].numpy().tobytes() for part in parts)).hexdigest()[:32]
        for place in range(len(datamodule.seeds))
    ]


def load() -> float | None:
    """Processes that wanted to run in the last minute, per core."""
    return os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else None


def device_name(device: torch.device) -> str:
    """Name of the processor or GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {available_cores()} cores"


def peak_memory_mb(device: torch.device) -> float:
    """Most memory of this process, or of the GPU's tensors, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def commit() -> str | None:
    """Commit of the working directory, with a + if files were changed; None outside of git."""
    try:
        head, changed = (
            subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changed else "")


@contextmanager
def unchanged_process(seed: int) -> Iterator[None]:
    """Let what is set for one cell be set back: seeds, determinism, threads, environment variables, and the like."""
    environment, threads = dict(os.environ), torch.get_num_threads()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}  # Lightning's stay
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    try:
        with isolate_rng(), silence():
            seed_everything(seed, verbose=False)
            yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)
        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark


@contextmanager
def silence() -> Iterator[None]:
    """Let Lightning say only what has gone wrong: a study has lines of its own."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"pytorch_lightning\..*")
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)
