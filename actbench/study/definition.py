"""What is compared: the study file as a typed object."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from actbench.cells import check_keys
from actbench.executors import Executor, InProcess, LocalProcesses
from actbench.specs import Spec
from actbench.streams import SOURCES

# The tutorial's question, on the tutorial's data and network.
QUESTION: dict[str, Any] = {
    "model": {"optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.002}}},
    "trainer": {"max_epochs": 80},
    "study": {"activations": ["relu", "swish"], "replicates": 30, "name": "relu_swish"},
}


class ExecutorSpec(Spec):
    """Where cells run: InProcess, LocalProcesses, or the class path of an `Executor` with arguments."""

    kind = "executor"
    base = Executor
    names = MappingProxyType({cls.__name__: (cls, {}) for cls in (InProcess, LocalProcesses)})


class StudyError(ValueError):
    """A study cannot be run as it was given. One line."""


@dataclass(frozen=True)
class Study:
    """What is compared.

    Args:
        activations: The arms: names, class paths, class paths with arguments, or mappings with ``activation``, a
            ``name``, and any settings that differ, such as ``model.optimizer.lr``.
        fit: ``model``, ``data`` and ``trainer``, as in a fit's YAML; they hold for every cell.
        baseline: Name of the arm that the others are compared with; the first unless said.
        datasets: Names, or class paths with arguments; the one under ``data`` unless said.
        networks: Names, or class paths with arguments; the one under ``model`` unless said.
        replicates: Seeds of each arm.
        seed: The first seed.
        name: Of the study's folder.
        root: Folder of studies, which share what is finished.
        workers: Processes that run cells; with 1, this one does.
        executor: Where cells run, if not as ``workers`` says: a class path with arguments.
        weights: Which weights are scored: of the last epoch, or each replicate's best by its own val/loss.
        vary: The sources of randomness that differ from seed to seed: all of init, split, order, augmentation and
            dropout unless said. The others are those of the first seed.
        records: Folders whose records are used too: of other studies, or of a fit that was tested.

    Raises:
        StudyError: Something of it makes no sense.
    """

    activations: Sequence[Any]
    fit: Mapping[str, Any] = field(default_factory=dict)
    baseline: str | None = None
    datasets: Sequence[Any] | None = None
    networks: Sequence[Any] | None = None
    replicates: int = 30
    seed: int = 0
    name: str = "study"
    root: str = "studies"
    workers: int = 1
    executor: Any = None
    weights: str = "last"
    vary: Sequence[str] = SOURCES
    records: Sequence[str] = ()

    def __post_init__(self) -> None:
        self._check_lists()
        for name, least in {"replicates": 1, "seed": 0, "workers": 1}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise StudyError(f"study.{name} must be a whole number of at least {least}, got {value!r}")
        if self.executor is not None:
            try:
                ExecutorSpec(self.executor)()
            except ValueError as error:
                raise StudyError(f"study.executor: {error}") from error
        if self.weights not in ("last", "best"):
            raise StudyError(f"study.weights must be last or best, got {self.weights!r}")
        if not isinstance(self.name, str) or Path(self.name).name != self.name or self.name in ("cells", "running"):
            raise StudyError(f"study.name must be the name of a folder, other than cells and running: {self.name!r}")

    def _check_lists(self) -> None:
        for name in ("activations", "datasets", "networks", "vary", "records"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, list | tuple) or not (value or name == "records")):
                raise StudyError(f"study.{name} is a list with one entry at least, got {value!r}")
        unknown = [source for source in self.vary if source not in SOURCES]
        if unknown:
            raise StudyError(f"study.vary: unknown {unknown[0]}; sources of randomness are {', '.join(SOURCES)}")
        absent = [folder for folder in self.records if not Path(folder, "cells").is_dir()]
        if absent:
            raise StudyError(f"study.records: {absent[0]} has no folder cells, where records are")

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Study":
        """The study of a study file: ``study`` beside ``model``, ``data``, ``trainer`` and ``seed_everything``.

        Raises:
            StudyError: A key is unknown, or a value makes no sense.
        """
        config = dict(config)
        section = dict(config.pop("study", None) or {})
        known = [f.name for f in fields(cls) if f.name not in ("fit", "seed")]
        try:
            check_keys("study", section, known)
        except ValueError as error:
            raise StudyError(str(error)) from error
        if "activations" not in section:
            raise StudyError("study.activations: which activations are compared?")
        return cls(**section, seed=config.pop("seed_everything", 0), fit=config)

    @property
    def seeds(self) -> range:
        """Of every arm's replicates."""
        return range(self.seed, self.seed + self.replicates)

    def to_config(self) -> dict[str, Any]:
        """As a study file holds it."""
        section = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("fit", "seed")}
        section = {name: value for name, value in section.items() if value is not None}
        config: dict[str, Any] = json.loads(json.dumps({"seed_everything": self.seed, **self.fit, "study": section}))
        return config

    def make_executor(self) -> Executor:
        """Where its cells run."""
        if self.executor is not None:
            return cast(Executor, ExecutorSpec(self.executor)())
        return InProcess() if self.workers == 1 else LocalProcesses(self.workers)
