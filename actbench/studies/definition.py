"""The settings of a study: its file as a typed object."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from types import FunctionType, MappingProxyType, MethodType
from typing import Any, Literal, NamedTuple, cast

from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeFloat, OpenUnitInterval, PositiveFloat, PositiveInt
from pytorch_lightning.cli import LightningArgumentParser

from actbench.inference.stats import Design
from actbench.records import LONGEST, is_printable
from actbench.seeding import CROSSED_REPLICATES, SOURCES, Source
from actbench.specs import Spec, UsageError, merge_config, one_line, to_plain, without
from actbench.specs.compose import Items
from actbench.specs.values import load_yaml, public_path
from actbench.studies.executors import Executor, InProcess, LocalProcesses, Ray
from actbench.studies.fairness import Condition, Fairness
from actbench.training.callbacks import CheckpointCopy
from actbench.training.config import BenchCLI

FIRST_OTHER_SEED = 10**9  # tuning and pilots use the seeds from here on, a comparison the seeds below
ASKED_MARGIN, LARGEST_MARGIN = 0.1, 0.5  # from which a margin is asked about, and refused: it may be in per cent
FLAGS = {
    "dry_run": "Print what would run and what the study can detect, and train nothing.",
    "pilot": "With --dry_run: train 4 separate seeds of each arm, to plan with.",
    "self_test": "At the end: check that the baseline gives the same scores again, and measure false alarms and power.",
}


class ExecutorSpec(Spec):
    """Where cells run: InProcess, LocalProcesses, Ray, or the class path of an `Executor` with arguments."""

    kind = "executor"
    base = Executor
    names = MappingProxyType({cls.__name__: cls for cls in (InProcess, LocalProcesses, Ray)})


class StudyError(ValueError):
    """A study cannot run with its settings; the message is one line."""


def with_paths(value: Any) -> Any:
    """A config with the paths of its classes and functions; ValueError if one cannot be imported by name."""
    if isinstance(value, Mapping):
        items = {name: with_paths(item) for name, item in value.items()}
        return Items(items) if isinstance(value, Items) else items
    if type(value) in (list, tuple):
        return type(value)(map(with_paths, value))
    return public_path(value) if isinstance(value, type | FunctionType | MethodType) else value


@dataclass(frozen=True)
class Looks:
    """Training in batches until the verdicts are clear.

    Args:
        min: Seeds of each arm at the first look.
        max: Seeds of each arm at the last look.
        batch: Seeds that each look adds.
    """

    min: PositiveInt
    max: PositiveInt
    batch: PositiveInt


class Grid(NamedTuple):
    """The setting that is tuned, its values, and the number of seeds of each arm at each value."""

    setting: str
    values: Sequence[float]
    replicates: int

    @classmethod
    def parse(cls, tune: Any) -> "Grid":
        """The grid of a study's ``tune``; a StudyError if it is not valid."""
        example = "study.tune is one setting with its values, such as {model.optimizer.lr: [1e-4, 1e-3], replicates: 3}"
        if not isinstance(tune, Mapping):
            raise StudyError(f"{example}; got {tune!r}")
        settings = without(tune, "replicates")
        if len(settings) != 1 or "." not in str(*settings):
            raise StudyError(f"{example}; got {', '.join(map(str, settings)) or 'none'}")
        ((setting, values),) = settings.items()
        numeric = isinstance(values, list | tuple) and all(
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in values
        )
        if not numeric or len(values) < 2 or len(set(values)) < len(values):
            raise StudyError(f"study.tune: {setting} needs at least two numbers, all different, got {values!r}")
        replicates = tune.get("replicates", 3)
        if not isinstance(replicates, int) or isinstance(replicates, bool) or replicates < 1:
            raise StudyError(f"study.tune.replicates must be a whole number of at least 1, got {replicates!r}")
        whole = all(isinstance(value, int) for value in values)
        return cls(str(setting), values if whole else [float(value) for value in values], replicates)


def parse_looks(replicates: Any) -> Looks:
    """The looks of ``study.replicates``; a StudyError unless it has min, max and batch of at least 1."""
    numbers = dict(vars(replicates) if isinstance(replicates, Namespace) else replicates)
    positive = all(str(number).isdecimal() and int(number) for number in numbers.values())
    if set(numbers) != {"min", "max", "batch"} or not positive:
        raise StudyError(f"study.replicates is at least 1, or has min, max and batch of at least 1, got {numbers}")
    return Looks(**{name: int(number) for name, number in numbers.items()})


def large_margin(margin: float) -> str | None:
    """A question about a margin that may be in per cent or points; None if the margin is usual."""
    if margin < ASKED_MARGIN:
        return None
    return f"study.margin: {margin:g} is a difference of {100 * margin:g} points; was {margin / 100:g} meant?"


def check_name(name: str) -> None:
    """Raise a StudyError for a name that tables and pages cannot show."""
    if not is_printable(name):
        raise StudyError(f"a name has at most {LONGEST} letters, all of which can be printed: {name[:50]!r}")


@dataclass(frozen=True)
class Study:
    """The settings of a study.

    Args:
        activations: The arms: names, class paths, class paths with arguments, or mappings with ``activation``, a
            ``name``, and any settings that differ, such as ``model.optimizer.lr``.
        fit: ``model``, ``data`` and ``trainer``, as in a fit's YAML; they hold for every cell.
        baseline: Name of the arm that the others are compared with; by default, the first.
        datasets: Names, or class paths with arguments; by default, the dataset under ``data``. Arguments under
            ``data`` without a class, such as ``data.batch_size``, hold for each dataset of the list that takes them
            and does not set them itself. Arguments of a class under ``data`` hold for that class, and are refused if
            another class of the list takes them.
        networks: Names, or class paths with arguments; by default, the network under ``model``. Arguments under
            ``model.network`` hold for networks as arguments under ``data`` do for datasets.
        replicates: Seeds of each arm. Or ``{min: 6, max: 60, batch: 6}``: train in batches, look at the verdicts after
            each, and stop an arm once its verdict is clear; ``alpha`` holds over all looks.
        seed: The first seed.
        name: Name of the study's folder.
        root: Folder of studies, which share finished cells.
        workers: Processes that run cells; with 1, cells run in this process.
        executor: Where cells run instead: ``ray``, with arguments such as ``executor.address``, or another class path
            with arguments.
        checkpoints: Folder for copies of running cells' checkpoints, if the nodes of a cluster do not share the root:
            any URL of fsspec's that all nodes reach, such as s3://bucket/folder. A cell that is tried again on another
            node resumes from its copy.
        weights: Which weights are scored: those of the last epoch, or each replicate's best by its own val/loss.
        vary: Sources of randomness that differ from seed to seed: by default, all of init, split, order, augmentation
            and dropout. The others are those of the first seed.
        records: Folders with a folder ``cells``, such as another study's root, whose records are used too.
        comparisons: ``baseline``, each arm with the baseline; or ``all`` pairs of arms.
        alpha: Chance of any false verdict of a difference, over all comparisons and looks of the study.
        margin: The largest difference of test accuracy that does not matter, a fraction below 0.5: 0.005 is half a
            point.
        timing_s: Most seconds of timing on each dataset and network, once all cells are trained: training steps of each
            arm and of the baseline in turns, until their ratio is known within 3 %. With 0, nothing is timed.
        target: Accuracy on val, a fraction, for the time that each arm takes to reach it; by default, the median of the
            baseline at its end.
        tune: A setting and its grid, such as ``{model.optimizer.lr: [1e-4, 3e-4, 1e-3], replicates: 3}``: every arm is
            compared at its best value on val, found on separate seeds that are the same for every arm.
        mechanism: Whether dead units, gradients and more are measured at each call of the activation, by epoch; see
            ``model.mechanism``. Finished cells without it are trained again, with the same results.
        fairness: Conditions under which all arms are compared again, such as ``{init: [as_is, gain, data]}``, and
            whether to find out where the noise comes from (``variance: true``).

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
    margin: PositiveFloat = 0.005
    timing_s: NonNegativeFloat = 20.0
    target: OpenUnitInterval | None = None
    tune: dict[str, Any] | None = None
    mechanism: bool = False
    fairness: Fairness = field(default_factory=Fairness)

    def __post_init__(self) -> None:
        for name in ("activations", "datasets", "networks", "vary"):
            value = getattr(self, name)
            if value is not None and (not value or None in value):
                raise StudyError(f"study.{name} is a list of at least one entry, none of them null, got {value!r}")
        self._check_rule()
        if self.tune is not None:
            Grid.parse(self.tune)
        self._check_fairness()
        self._check_folders()
        for setting, make in (("checkpoints", CheckpointCopy), ("executor", lambda executor: executor())):
            value = getattr(self, setting)
            try:
                if value is not None:
                    make(value)
            except (ImportError, ValueError) as error:  # an unknown protocol, or a package that is not installed
                raise StudyError(f"study.{setting}: {one_line(error)}") from error

    def _check_rule(self) -> None:
        if isinstance(self.replicates, Looks):
            try:
                Design(self.replicates.min, self.replicates.max, self.replicates.batch)
            except ValueError as error:
                raise StudyError(f"study.{error}") from error
        if self.margin >= LARGEST_MARGIN:
            raise StudyError(str(large_margin(self.margin)))
        most = max(self.most, CROSSED_REPLICATES if self.fairness.variance else 0)
        if self.seed + most > FIRST_OTHER_SEED:
            raise StudyError(f"seeds lie below {FIRST_OTHER_SEED:,}, got {self.seed} and {most} replicates")

    def _check_fairness(self) -> None:
        for name, entries in without(asdict(self.fairness), "width", "variance").items():
            if not entries or len(set(entries)) < len(entries):
                raise StudyError(f"study.fairness.{name} is a list of entries that are all different, got {entries}")
        if "shared" in self.fairness.tune and self.tune is None:
            raise StudyError("study.fairness.tune compares with a tuned setting; give it in study.tune")
        if self.tune is not None and "tuned" not in self.fairness.tune:
            raise StudyError("study.fairness.tune has no tuned, so nothing would be tuned; leave out study.tune")
        if self.fairness.width is not None and "matched" not in self.fairness.parameters:
            raise StudyError(
                "study.fairness.width belongs to parameters that are matched; see study.fairness.parameters"
            )
        if self.fairness.init != ["as_is"] and (self.fit.get("model") or {}).get("init", "as_is") != "as_is":
            raise StudyError(
                "model.init and study.fairness.init both say how weights are scaled; leave out one of them"
            )
        if self.fairness.variance and len(set(self.vary)) < 2:
            raise StudyError(
                "study.fairness.variance crosses two sources of randomness at least, and study.vary has only "
                f"{', '.join(set(self.vary))}"
            )

    def _check_folders(self) -> None:
        check_name(self.name)
        if Path(self.name).name != self.name or self.name in ("", ".", "..", "cells", "running"):
            raise StudyError(f"study.name must be the name of a folder, other than cells and running: {self.name!r}")
        for folder in self.records:
            if not Path(folder, "cells").is_dir():
                raise StudyError(f"study.records: {folder} has no folder cells, where records are")

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Study":
        """The study of a study file: ``study`` beside ``model``, ``data``, ``trainer`` and ``seed_everything``.

        A class or function may stand in place of its path.
        Settings of a single fit alone, such as ``trust``, are ignored.
        ``model.replicates``, ``model.mechanism`` and ``vary`` count unless ``study`` has its own. A
        StudyError says which key is unknown, or which value makes no sense.
        """
        try:
            config = merge_config({}, with_paths(config))
            if config.get("ckpt_path") not in (None, "null"):
                raise UsageError("ckpt_path: a study trains every cell from its start; leave it out")
            section = dict(config.get("study") or {})
            model = config.get("model") or {}
            replicates = model.get("replicates")
            if model.get("mechanism") is not None:
                section.setdefault("mechanism", model["mechanism"])
            if str(replicates) not in ("None", "1"):
                section.setdefault("replicates", replicates)
            if config.get("crossed"):
                raise UsageError("crossed: study.fairness.variance crosses sources of randomness; leave it out")
            if config.get("vary") is not None:
                section.setdefault("vary", config["vary"])
            if isinstance(section.get("replicates"), Mapping):
                section["replicates"] = asdict(parse_looks(section["replicates"]))
            given = {"seed_everything": config.get("seed_everything", 0), "study": copy.deepcopy(section)}
            parsed = study_parser().parse_object(given)
        except ValueError as error:
            raise StudyError(one_line(error)) from error
        values = vars(parsed.study)
        # Unparsed, because the classes that they name are parsed with the config of each cell.
        for name in {"activations", "datasets", "networks", "tune"} & set(section):
            values[name] = load_yaml(section[name]) if isinstance(section[name], str) else section[name]
        values["records"] = values["records"] or []
        values["fairness"] = Fairness(**vars(values["fairness"]))
        if not isinstance(values["replicates"], int):
            values["replicates"] = parse_looks(values["replicates"])
        fit = without(config, "study", "seed_everything", "ckpt_path", "trust", "vary", "crossed", *FLAGS)
        return cls(**values, seed=parsed.seed_everything, fit=fit)

    @property
    def most(self) -> int:
        """The largest number of seeds of an arm."""
        return self.replicates.max if isinstance(self.replicates, Looks) else int(self.replicates)

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return Path(self.root, self.name)

    @property
    def seeds(self) -> range:
        """Seeds of an arm that is trained to the end."""
        return range(self.seed, self.seed + self.most)

    @property
    def grid(self) -> Grid | None:
        """The tuned setting with its values; None without tuning."""
        return None if self.tune is None else Grid.parse(self.tune)

    @property
    def conditions(self) -> list[Condition]:
        """The ways in which all arms are compared, the usual one first."""
        return self.fairness.conditions(self.grid.setting if self.grid else None)

    def to_config(self) -> dict[str, Any]:
        """The content of the study's file."""
        values = without(vars(self), "fit", "seed")
        if self.executor is not None:
            values["executor"] = self.executor.to_dict()
        if isinstance(self.replicates, Looks):
            values["replicates"] = asdict(self.replicates)
        values["fairness"] = None if self.fairness == Fairness() else asdict(self.fairness)
        section = {name: value for name, value in values.items() if value is not None}
        config: dict[str, Any] = to_plain({"seed_everything": self.seed, **self.fit, "study": section})
        return config

    def make_executor(self) -> Executor:
        """The executor that runs the study's cells."""
        if self.executor is not None:
            return cast(Executor, self.executor())
        return InProcess() if self.workers == 1 else LocalProcesses(self.workers)


@cache
def study_parser() -> LightningArgumentParser:
    """LightningCLI's parser of a fit with the group ``study`` added."""
    cli = BenchCLI("fit")
    parser = cli.init_parser()
    cli._add_arguments(parser)
    parser.add_class_arguments(Study, "study", skip={"fit", "seed"})
    for flag, meaning in FLAGS.items():
        parser.add_argument(f"--{flag}", action="store_true", help=meaning)
    return parser
