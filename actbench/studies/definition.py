"""What is compared: the study file as a typed object."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, cast

from jsonargparse import Namespace
from jsonargparse.typing import OpenUnitInterval, PositiveInt
from pytorch_lightning.cli import LightningArgumentParser

from actbench.inference.stats import Design
from actbench.records import LONGEST, is_shown
from actbench.seeding import SOURCES, Source
from actbench.specs import Spec, UsageError, merge_config, one_line, without, written
from actbench.specs.values import load_yaml
from actbench.studies.executors import Executor, InProcess, LocalProcesses, Ray
from actbench.training.callbacks import CheckpointCopy
from actbench.training.config import BenchCLI

FIRST_OTHER_SEED = 10**9  # from here on are the seeds that tuning and pilots use, which no comparison may
FLAGS = {
    "dry_run": "Say what would run and what it can tell, and train nothing.",
    "pilot": "With --dry_run: train 4 seeds of each arm apart, to plan with.",
    "self_test": "At the end: train the baseline again, which must give the same, and measure false alarms and power.",
}


class ExecutorSpec(Spec):
    """Where cells run: InProcess, LocalProcesses, Ray, or the class path of an `Executor` with arguments."""

    kind = "executor"
    base = Executor
    names = MappingProxyType({cls.__name__: cls for cls in (InProcess, LocalProcesses, Ray)})


class StudyError(ValueError):
    """A study cannot be run as it was given. One line."""


@dataclass(frozen=True)
class Looks:
    """Training in batches until the verdicts are clear.

    Args:
        min: Seeds of each arm at the first look.
        max: Seeds of each arm at most.
        batch: Seeds more at each further look.
    """

    min: PositiveInt
    max: PositiveInt
    batch: PositiveInt


class Grid(NamedTuple):
    """The setting that is tuned, its values, and the number of seeds that each arm is tried with at each value."""

    setting: str
    values: Sequence[float]
    replicates: int

    @classmethod
    def of(cls, tune: Any) -> "Grid":
        """The grid of a study's ``tune``; a StudyError says what is wrong with it."""
        example = "study.tune is one setting with its values, such as {model.optimizer.lr: [1e-4, 1e-3], replicates: 3}"
        if not isinstance(tune, Mapping):
            raise StudyError(f"{example}; got {tune!r}")
        settings = {name: values for name, values in tune.items() if name != "replicates"}
        if len(settings) != 1 or "." not in str(*settings):
            raise StudyError(f"{example}; got {', '.join(map(str, settings)) or 'none'}")
        ((setting, values),) = settings.items()
        numbers = isinstance(values, list | tuple) and all(
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in values
        )
        if not numbers or len(values) < 2 or len(set(values)) < len(values):
            raise StudyError(f"study.tune: {setting} needs two numbers at least, all different, got {values!r}")
        replicates = tune.get("replicates", 3)
        if not isinstance(replicates, int) or isinstance(replicates, bool) or replicates < 1:
            raise StudyError(f"study.tune.replicates must be a whole number of at least 1, got {replicates!r}")
        whole = all(isinstance(value, int) for value in values)
        return cls(str(setting), values if whole else [float(value) for value in values], replicates)


def looks_of(given: Any) -> Looks:
    """The looks of ``study.replicates``; a StudyError unless they are min, max and batch from 1 on."""
    numbers = dict(vars(given) if isinstance(given, Namespace) else given)
    if set(numbers) != {"min", "max", "batch"} or not all(str(of).isdecimal() and int(of) for of in numbers.values()):
        raise StudyError(f"study.replicates is a number from 1 on, or has min, max and batch from 1 on, got {numbers}")
    return Looks(**{name: int(value) for name, value in numbers.items()})


def check_name(name: str) -> None:
    """Refuse, with a StudyError, a name that tables and pages cannot show."""
    if not is_shown(name):
        raise StudyError(f"a name has at most {LONGEST} letters, all of which can be printed: {name[:50]!r}")


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
        StudyError: A setting makes no sense, or a folder of records was not found.
    """

    activations: list[Any] = field(default_factory=lambda: ["relu", "swish"])
    fit: Mapping[str, Any] = field(default_factory=dict)
    baseline: str | None = None
    datasets: list[Any] | None = None
    networks: list[Any] | None = None
    replicates: PositiveInt | Looks = 30
    seed: int = 0
    name: str = "study"
    root: str = "studies"
    workers: PositiveInt = 1
    executor: ExecutorSpec | None = None
    checkpoints: str | None = None
    weights: Literal["last", "best"] = "last"
    vary: list[Source] = field(default_factory=lambda: list(SOURCES))
    records: list[str] = field(default_factory=list)
    comparisons: Literal["baseline", "all"] = "baseline"
    alpha: OpenUnitInterval = 0.05
    margin: OpenUnitInterval = 0.005
    tune: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("activations", "datasets", "networks", "vary"):
            value = getattr(self, name)
            if value is not None and (not value or None in value):
                raise StudyError(f"study.{name} is a list with one entry at least, none of them null, got {value!r}")
        if isinstance(self.replicates, Looks):
            try:
                Design(self.replicates.min, self.replicates.max, self.replicates.batch)
            except ValueError as error:
                raise StudyError(f"study.{error}") from error
        if self.seed + self.most > FIRST_OTHER_SEED:
            raise StudyError(f"seeds lie below {FIRST_OTHER_SEED:,}, got {self.seed} and {self.most} replicates")
        if self.tune is not None:
            Grid.of(self.tune)
        self._check_places()

    def _check_places(self) -> None:
        taken = ("", ".", "..", "cells", "running")
        check_name(self.name)
        if Path(self.name).name != self.name or self.name in taken:
            raise StudyError(f"study.name must be the name of a folder, other than cells and running: {self.name!r}")
        absent = [folder for folder in self.records if not Path(folder, "cells").is_dir()]
        if absent:
            raise StudyError(f"study.records: {absent[0]} has no folder cells, where records are")
        setting = "checkpoints"
        try:
            if self.checkpoints is not None:
                CheckpointCopy(self.checkpoints)
            setting = "executor"
            if self.executor is not None:
                self.executor()
        except (ImportError, ValueError) as error:  # no such protocol, or its package is not installed
            raise StudyError(f"study.{setting}: {one_line(error)}") from error

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Study":
        """The study of a study file: ``study`` beside ``model``, ``data``, ``trainer`` and ``seed_everything``.

        What only a single fit needs, such as ``trust``, does no harm; a number
        of replicates under ``model`` counts unless ``study`` has its own. A
        StudyError says which key is unknown, or which value makes no sense.
        """
        try:
            config = merge_config({}, config)
            if config.get("ckpt_path") not in (None, "null"):
                raise UsageError("ckpt_path: a study trains every cell from its start; leave it out")
            section = dict(config.get("study") or {})
            together = (config.get("model") or {}).get("replicates")
            if "replicates" not in section and str(together) not in ("None", "1"):
                section["replicates"] = together
            if config.get("vary") is not None:
                section.setdefault("vary", config["vary"])
            if isinstance(section.get("replicates"), Mapping):
                section["replicates"] = asdict(looks_of(section["replicates"]))
            given = {"seed_everything": config.get("seed_everything", 0), "study": copy.deepcopy(section)}
            parsed = study_parser().parse_object(given)
        except UsageError as error:
            raise StudyError(one_line(error)) from error
        values = vars(parsed.study)
        # As they were given: what they name is parsed with the config of each cell.
        for name in {"activations", "datasets", "networks", "tune"} & set(section):
            values[name] = load_yaml(section[name]) if isinstance(section[name], str) else section[name]
        values["records"] = values["records"] or []
        if not isinstance(values["replicates"], int):
            values["replicates"] = looks_of(values["replicates"])
        fit = without(config, "study", "seed_everything", "ckpt_path", "trust", "vary", *FLAGS)
        return cls(**values, seed=parsed.seed_everything, fit=fit)

    @property
    def most(self) -> int:
        """Number of seeds of each arm at most."""
        return self.replicates.max if isinstance(self.replicates, Looks) else int(self.replicates)

    @property
    def seeds(self) -> range:
        """Seeds of each arm at most."""
        return range(self.seed, self.seed + self.most)

    @property
    def grid(self) -> Grid | None:
        """The setting that is tuned, if one is."""
        return None if self.tune is None else Grid.of(self.tune)

    def to_config(self) -> dict[str, Any]:
        """The study as a study file holds it."""
        values = without(vars(self), "fit", "seed")
        if self.executor is not None:
            values["executor"] = self.executor.to_dict()
        if isinstance(self.replicates, Looks):
            values["replicates"] = asdict(self.replicates)
        section = {name: value for name, value in values.items() if value is not None}
        config: dict[str, Any] = written({"seed_everything": self.seed, **self.fit, "study": section})
        return config

    def make_executor(self) -> Executor:
        """The executor that the study's cells run on."""
        if self.executor is not None:
            return cast(Executor, self.executor())
        return InProcess() if self.workers == 1 else LocalProcesses(self.workers)


@cache
def study_parser() -> LightningArgumentParser:
    """LightningCLI's parser of a fit, with a group ``study``."""
    cli = BenchCLI("fit")
    parser = cli.init_parser()
    cli._add_arguments(parser)
    parser.add_class_arguments(Study, "study", skip={"fit", "seed"})
    for flag, meaning in FLAGS.items():
        parser.add_argument(f"--{flag}", action="store_true", help=meaning)
    return parser
