"""What is compared: the study file as a typed object."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

from actbench.callbacks import CheckpointCopy
from actbench.cells import check_keys
from actbench.executors import Executor, InProcess, LocalProcesses, Ray
from actbench.specs import Spec, one_line
from actbench.stats import Design
from actbench.streams import SOURCES

FIRST_OTHER_SEED = 10**9  # from here on are the seeds that tuning and pilots use, which no comparison may

# The tutorial's question, on the tutorial's data and network.
QUESTION: dict[str, Any] = {
    "model": {"optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.002}}},
    "trainer": {"max_epochs": 80},
    "study": {"activations": ["relu", "swish"], "replicates": 30, "name": "relu_swish"},
}


class ExecutorSpec(Spec):
    """Where cells run: InProcess, LocalProcesses, Ray, or the class path of an `Executor` with arguments."""

    kind = "executor"
    base = Executor
    names = MappingProxyType({cls.__name__: (cls, {}) for cls in (InProcess, LocalProcesses, Ray)})


class StudyError(ValueError):
    """A study cannot be run as it was given. One line."""


class Grid(NamedTuple):
    """The setting that is tuned, its values, and the seeds that each arm is tried with at each of them."""

    setting: str
    values: Sequence[float]
    replicates: int

    @classmethod
    def of(cls, tune: Any) -> "Grid":
        """The grid of a study's ``tune``.

        Raises:
            StudyError: It makes no sense.
        """
        example = "study.tune is one setting with its values, such as {model.optimizer.lr: [1e-4, 1e-3], replicates: 3}"
        if not isinstance(tune, Mapping):
            raise StudyError(f"{example}; got {tune!r}")
        settings = {name: values for name, values in tune.items() if name != "replicates"}
        if len(settings) != 1:
            raise StudyError(f"{example}; got {', '.join(map(str, settings)) or 'none'}")
        ((setting, values),) = settings.items()
        if "." not in str(setting):
            raise StudyError(f"{example}; got {setting}")
        numbers = isinstance(values, list | tuple) and all(map(is_number, values))
        if not numbers or len(values) < 2 or len(set(values)) < len(values):
            raise StudyError(f"study.tune: {setting} needs two numbers at least, all different, got {values!r}")
        whole_number("study.tune.replicates", tune.get("replicates", 3), 1)
        whole = all(isinstance(value, int) for value in values)
        return cls(str(setting), values if whole else [float(value) for value in values], tune.get("replicates", 3))


def is_number(value: Any) -> bool:
    """Whether it is one; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def whole_number(what: str, value: Any, least: int) -> None:
    """Refuse another value.

    Raises:
        StudyError: It is no whole number, or too small.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise StudyError(f"{what} must be a whole number of at least {least}, got {value!r}")


def check_mapping(section: str, value: Any) -> None:
    """Refuse a section that is none.

    Raises:
        StudyError: It is given, and no mapping.
    """
    if value is not None and not isinstance(value, Mapping):
        raise StudyError(f"{section} is a mapping of settings, got {value!r}")


@dataclass(frozen=True)
class Study:
    """What is compared.

    Args:
        activations: The arms: names, class paths, class paths with arguments, or mappings with ``activation``, a
            ``name``, and any settings that differ, such as ``model.optimizer.lr``.
        fit: ``model``, ``data`` and ``trainer``, as in a fit's YAML; they hold for every cell.
        baseline: Name of the arm that the others are compared with; the first unless said.
        datasets: Names, or class paths with arguments; the one under ``data`` unless said. Arguments under ``data``
            without a class, such as ``data.batch_size``, hold for each of the list that takes them and does not set
            them itself. Those of a class under ``data`` hold for that class; they are refused if another takes them.
        networks: Names, or class paths with arguments; the one under ``model`` unless said. Arguments under
            ``model.network`` hold for them as those under ``data`` for datasets.
        replicates: Seeds of each arm. Or ``{min: 6, max: 60, batch: 6}``: train in batches, look at the verdicts after
            each, and stop an arm once its verdict is clear; the chance of a false one holds over all looks.
        seed: The first seed.
        name: Of the study's folder.
        root: Folder of studies, which share what is finished.
        workers: Processes that run cells; with 1, this one does.
        executor: Where cells run, if not as ``workers`` says: ``ray``, whose arguments are ``executor.address`` and the
            like, or another class path with arguments.
        checkpoints: Folder for copies of running cells' checkpoints, if the nodes of a cluster do not share the root:
            any URL of fsspec's that all of them reach, such as s3://bucket/folder. A cell that is tried again on
            another node goes on from there.
        weights: Which weights are scored: of the last epoch, or each replicate's best by its own val/loss.
        vary: The sources of randomness that differ from seed to seed: all of init, split, order, augmentation and
            dropout unless said. The others are those of the first seed.
        records: Folders whose records are used too: of other studies, or of a fit that was tested.
        comparisons: ``baseline``, each arm with the baseline; or ``all`` pairs of arms.
        alpha: Chance of any false verdict of a difference, over all comparisons and looks of the study.
        margin: The largest difference of test accuracy that does not matter, a fraction.
        tune: A setting and its grid, such as ``{model.optimizer.lr: [1e-4, 3e-4, 1e-3], replicates: 3}``: every arm is
            compared at the value that is its best on val, found on seeds of their own, the same for every arm.

    Raises:
        StudyError: Something of it makes no sense.
    """

    activations: Sequence[Any]
    fit: Mapping[str, Any] = field(default_factory=dict)
    baseline: str | None = None
    datasets: Sequence[Any] | None = None
    networks: Sequence[Any] | None = None
    replicates: Any = 30
    seed: int = 0
    name: str = "study"
    root: str = "studies"
    workers: int = 1
    executor: Any = None
    checkpoints: str | None = None
    weights: str = "last"
    vary: Sequence[str] = SOURCES
    records: Sequence[str] = ()
    comparisons: str = "baseline"
    alpha: float = 0.05
    margin: float = 0.005
    tune: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        self._check_lists()
        self._check_numbers()
        for name, known in {"weights": ("last", "best"), "comparisons": ("baseline", "all")}.items():
            if getattr(self, name) not in known:
                raise StudyError(f"study.{name} must be {' or '.join(known)}, got {getattr(self, name)!r}")
        if self.tune is not None:
            Grid.of(self.tune)
        if self.executor is not None:
            try:
                ExecutorSpec(self.executor)()
            except ValueError as error:
                raise StudyError(f"study.executor: {error}") from error
        self._check_places()

    def _check_places(self) -> None:
        taken = ("", ".", "..", "cells", "running")
        if not isinstance(self.name, str) or Path(self.name).name != self.name or self.name in taken:
            raise StudyError(f"study.name must be the name of a folder, other than cells and running: {self.name!r}")
        if not isinstance(self.root, str):
            raise StudyError(f"study.root is a folder, got {self.root!r}")
        self._check_checkpoints()
        strange = [folder for folder in self.records if not isinstance(folder, str)]
        if strange:
            raise StudyError(f"study.records is a list of folders, got {strange[0]!r}")
        absent = [folder for folder in self.records if not Path(folder, "cells").is_dir()]
        if absent:
            raise StudyError(f"study.records: {absent[0]} has no folder cells, where records are")
        for section in ("model", "trainer"):
            check_mapping(section, self.fit.get(section))

    def _check_checkpoints(self) -> None:
        if self.checkpoints is None:
            return
        if not isinstance(self.checkpoints, str):
            raise StudyError(f"study.checkpoints is the URL of a folder, got {self.checkpoints!r}")
        try:
            CheckpointCopy(self.checkpoints)
        except (ImportError, ValueError) as error:  # no such protocol, or its package is not installed
            raise StudyError(f"study.checkpoints: {one_line(error)}") from error

    def _check_numbers(self) -> None:
        whole_number("seed_everything", self.seed, 0)
        whole_number("study.workers", self.workers, 1)
        if isinstance(self.replicates, Mapping):
            self._check_design()
        else:
            whole_number("study.replicates", self.replicates, 1)
        if self.seed + self.most > FIRST_OTHER_SEED:
            raise StudyError(f"seeds lie below {FIRST_OTHER_SEED:,}, got {self.seed} and {self.most} replicates")
        for name in ("alpha", "margin"):
            if not is_number(getattr(self, name)) or not 0 < getattr(self, name) < 1:
                raise StudyError(f"study.{name} is a number between 0 and 1, got {getattr(self, name)!r}")

    def _check_design(self) -> None:
        if set(self.replicates) != {"min", "max", "batch"}:
            raise StudyError(f"study.replicates is a number, or has min, max and batch, got {dict(self.replicates)}")
        for name, value in self.replicates.items():
            whole_number(f"study.replicates.{name}", value, 1)
        try:
            Design(self.replicates["min"], self.replicates["max"], self.replicates["batch"])
        except ValueError as error:
            raise StudyError(f"study.{error}") from error

    def _check_lists(self) -> None:
        for name in ("activations", "datasets", "networks", "vary", "records"):
            value = getattr(self, name)
            if value is None and name in ("datasets", "networks"):
                continue
            if not isinstance(value, list | tuple) or not (value or name == "records") or None in value:
                raise StudyError(f"study.{name} is a list with one entry at least, none of them null, got {value!r}")
        unknown = [source for source in self.vary if source not in SOURCES]
        if unknown:
            raise StudyError(f"study.vary: unknown {unknown[0]}; sources of randomness are {', '.join(SOURCES)}")

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Study":
        """The study of a study file: ``study`` beside ``model``, ``data``, ``trainer`` and ``seed_everything``.

        Raises:
            StudyError: A key is unknown, or a value makes no sense.
        """
        config = dict(config)
        section = config.pop("study", None) or {}
        check_mapping("study", section)
        known = [f.name for f in fields(cls) if f.name not in ("fit", "seed")]
        try:
            check_keys("study", section, known)
        except ValueError as error:
            raise StudyError(str(error)) from error
        if "activations" not in section:
            raise StudyError("study.activations: which activations are compared?")
        return cls(**section, seed=config.pop("seed_everything", 0), fit=config)

    @property
    def most(self) -> int:
        """Seeds of each arm at most."""
        return cast(int, self.replicates["max"] if isinstance(self.replicates, Mapping) else self.replicates)

    @property
    def seeds(self) -> range:
        """Of every arm's replicates, at most."""
        return range(self.seed, self.seed + self.most)

    @property
    def grid(self) -> "Grid | None":
        """What is tuned, if something is."""
        return None if self.tune is None else Grid.of(self.tune)

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
