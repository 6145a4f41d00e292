"""A study: activations compared on datasets and networks, seed by seed. What is finished is never done twice."""

import copy
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import polars as pl
import yaml
from filelock import FileLock, Timeout
from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from actbench.cells import Cell, DatasetSpec, check_keys, run_cell, settled
from actbench.executors import Executor, Failure, InProcess, LocalProcesses
from actbench.progress import Progress, fitting_progress
from actbench.records import RecordError, Store, json_text, write_records
from actbench.specs import Spec

WIDTH = 32  # replicates of a cell at most: more gain nothing on a processor, and less would be lost with one
CLASS_KEYS = ("model.activation", "model.network", "model.optimizer", "model.lr_scheduler", "data", "study.executor")
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


class MissingError(RuntimeError):
    """A study has ended without all of its records; what is finished is kept. One line."""


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

    def __post_init__(self) -> None:
        for name in ("activations", "datasets", "networks"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, list | tuple) or not value):
                raise StudyError(f"study.{name} is a list with one entry at least, got {value!r}")
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


class Entry(NamedTuple):
    """Records that a study wants: of one arm on one dataset and network. Labels are the study's, cells are not."""

    dataset: str
    network: str
    arm: str
    config: Mapping[str, Any]


class Plan(NamedTuple):
    """What a study wants, what of it is there, and what is missing, in the order in which it will run."""

    entries: Sequence[Entry]
    baseline: str
    cached: int  # replicates
    missing: Sequence[Cell]


def assign(config: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key, ``model.optimizer.lr`` say, in a nested config. What a class is given are its init_args."""
    for name in CLASS_KEYS:
        if key.startswith(f"{name}."):
            argument = key.removeprefix(f"{name}.").removeprefix("init_args.")
            current = lookup(config, name)
            spec: dict[str, Any] = dict(current) if isinstance(current, Mapping) else {"class_path": current}
            if argument == "class_path":
                spec = {"class_path": value}
            else:
                spec["init_args"] = {**(spec.get("init_args") or {}), argument: value}
            if spec["class_path"] is None:
                default = {"model.optimizer": "torch.optim.Adam", "model.network": "TutorialCNN", "data": "Digits"}
                spec["class_path"] = default.get(name)
            assign(config, name, spec)
            return
    *parents, last = key.split(".")
    for parent in parents:
        below = config.get(parent)
        config[parent] = dict(below) if isinstance(below, Mapping) else {}
        config = config[parent]
    config[last] = value


def lookup(config: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key, None if there is none."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def short_name(value: Any) -> str:
    """What a class is called in tables: the name that was given, or the class's own."""
    path = value.get("class_path", "?") if isinstance(value, Mapping) else str(value)
    return str(path).rpartition(".")[2]


def distinct(names: Sequence[str], values: Sequence[Any]) -> list[str]:
    """Names that tell values apart: those that are the same get their arguments."""

    def full(name: str, value: Any) -> str:
        arguments = (value.get("init_args") or {}) if isinstance(value, Mapping) else {}
        return f"{name}({', '.join(f'{key}={value}' for key, value in arguments.items())})" if arguments else name

    return [full(name, value) if names.count(name) > 1 else name for name, value in zip(names, values, strict=True)]


def arms(study: Study) -> list[tuple[str, dict[str, Any]]]:
    """Each arm's name, and the settings that are its own.

    Raises:
        StudyError: Two have one name, or an arm lacks its activation.
    """
    settings = []
    for given in study.activations:
        if isinstance(given, Mapping) and "class_path" not in given:
            own = dict(given)
            name, activation = own.pop("name", None), own.pop("activation", None)
            if activation is None:
                raise StudyError(f"an arm needs an activation, got {dict(given)}")
            wrong = [key for key in own if key.split(".")[0] not in ("model", "data", "trainer")]
            if wrong:
                raise StudyError(
                    f"arm {name or short_name(activation)}: unknown {', '.join(wrong)}; settings begin with model., "
                    "data. or trainer."
                )
            settings.append((name, activation, own))
        else:
            settings.append((None, given, {}))
    names = distinct([name or short_name(value) for name, value, _ in settings], [value for _, value, _ in settings])
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise StudyError(f"study.activations: {twice} is there twice; give them names of their own")
    return [(name, {"model.activation": value, **own}) for name, (_, value, own) in zip(names, settings, strict=True)]


def entries(study: Study) -> list[Entry]:
    """All that a study compares, each config checked.

    Raises:
        StudyError: A class is not there, its arguments do not fit, two arms are the same, or the like.
    """
    datasets = study.datasets or [study.fit.get("data") or "Digits"]
    networks = study.networks or [lookup(study.fit, "model.network") or "TutorialCNN"]
    result, known = [], dict[str, str]()
    for dataset, dataset_name in zip(datasets, distinct([*map(short_name, datasets)], datasets), strict=True):
        for network, network_name in zip(networks, distinct([*map(short_name, networks)], networks), strict=True):
            for arm, own in arms(study):
                config = copy.deepcopy({key: value for key, value in study.fit.items()})
                for key, value in {"data": dataset, "model.network": network, **own}.items():
                    assign(config, key, value)
                try:
                    canonical = settled(config)
                except ValueError as error:
                    raise StudyError(f"arm {arm}: {error}") from error
                entry = Entry(dataset_name, network_name, arm, canonical)
                cell = cell_of(entry, study, range(1)).hash
                if cell in known:
                    raise StudyError(f"{known[cell]} and {dataset_name}/{network_name}/{arm} are the same")
                known[cell] = f"{dataset_name}/{network_name}/{arm}"
                result.append(entry)
    return result


def cell_of(entry: Entry, study: Study, seeds: range) -> Cell:
    """An entry's replicates of these seeds."""
    return Cell(entry.config, seeds, study.weights)


def blocks(seeds: Sequence[int], width: int = WIDTH) -> Iterator[range]:
    """Missing seeds in runs of at most so many.

    Taking any of the blocks away leaves the others as they are, so what is
    interrupted goes on with the same blocks.
    """
    start = 0
    for place in range(1, len(seeds) + 1):
        if place == len(seeds) or seeds[place] != seeds[place - 1] + 1 or place - start == width:
            yield range(seeds[start], seeds[place - 1] + 1)
            start = place


def make_plan(study: Study) -> Plan:
    """What is there and what is missing. No record is read.

    Raises:
        StudyError: The study makes no sense.
    """
    wanted = entries(study)
    names = list(dict.fromkeys(entry.arm for entry in wanted))
    baseline = study.baseline or names[0]
    if baseline not in names:
        raise StudyError(f"study.baseline: {baseline} is not among the arms {', '.join(names)}")
    index = Store(Path(study.root, "cells")).index()
    cached, missing = 0, list[list[Cell]]()
    for entry in wanted:
        there = index.get(cell_of(entry, study, range(1)).hash, {})
        lacking = [seed for seed in range(study.seed, study.seed + study.replicates) if seed not in there]
        cached += study.replicates - len(lacking)
        missing.append([cell_of(entry, study, seeds) for seeds in blocks(lacking)])
    # Arms take turns, so that what else the machine does meets all of them.
    longest = max(map(len, missing), default=0)
    in_turns = [cells[turn] for turn in range(longest) for cells in missing if turn < len(cells)]
    return Plan(wanted, baseline, cached, in_turns)


def collect(study: Study, plan: Plan, report: Callable[[str], None]) -> pl.DataFrame:
    """The records of a study that are there, with the columns ``arm``, and names of dataset and network.

    A file that is damaged or foreign is set aside and reported; its seeds are missing then.
    """
    store = Store(Path(study.root, "cells"))
    tables = []
    index = store.index()
    for entry in plan.entries:
        there = index.get(cell_of(entry, study, range(1)).hash, {})
        seeds = range(study.seed, study.seed + study.replicates)
        for path in dict.fromkeys(there[seed] for seed in seeds if seed in there):
            try:
                table = store.read(path)
            except RecordError as error:
                report(f"{error}; set aside as {store.set_aside(path).name}, and run again")
                continue
            own = [seed for seed in seeds if there.get(seed) == path]
            labels = {"arm": entry.arm, "dataset_name": entry.dataset, "network_name": entry.network}
            labelled = table.filter(pl.col("seed").is_in(own)).select(
                *(pl.lit(value).alias(name) for name, value in labels.items()), pl.all()
            )
            tables.append(labelled)
    return pl.concat(tables) if tables else pl.DataFrame()


def compare(
    study: Study | Mapping[str, Any],
    *,
    progress: Progress | None = None,
    work: Callable[[tuple[Cell, Path]], pl.DataFrame] | None = None,
) -> pl.DataFrame:
    """Run what a study lacks, and return its records, a row for each replicate.

    Args:
        study: A `Study`, or what a study file holds.
        progress: What is said meanwhile; unless given, bars in a terminal and lines elsewhere.
        work: What trains a cell in its folder, if not `run_cell`.

    Returns:
        Columns of `actbench.records.COLUMNS`, and ``arm``, ``dataset_name``, ``network_name``.

    Raises:
        StudyError: The study makes no sense, or a dataset is not there.
        MissingError: Cells have failed.
    """
    study = study if isinstance(study, Study) else Study.of(study)
    check_data(make_plan(study))  # what makes no sense is refused before anything is written
    folder = Path(study.root, study.name)
    folder.mkdir(parents=True, exist_ok=True)
    progress = progress or fitting_progress()
    collect(study, make_plan(study), progress.say)  # so that what is damaged is missing
    plan = make_plan(study)
    executor = executor_of(study)
    if work is None:
        work = partial(train, progress=progress) if isinstance(executor, InProcess) else train
    with progress:
        failures = run_missing(study, plan, executor, progress, work)
    table = collect(study, make_plan(study), progress.say)
    (folder / "study.yaml").write_text(yaml.safe_dump(to_config(study), sort_keys=False))
    if len(table):
        write_records(folder / "records.parquet", table)
    if failures:
        raise MissingError(
            f"{len(failures)} cells are missing: {'; '.join(failures)}; the same command tries them again"
        )
    return table


def executor_of(study: Study) -> Executor:
    """Where the study's cells run."""
    if study.executor is not None:
        return cast(Executor, ExecutorSpec(study.executor)())
    return InProcess() if study.workers == 1 else LocalProcesses(study.workers)


def check_data(plan: Plan) -> None:
    """Fetch and read the datasets of the cells that are missing.

    Raises:
        StudyError: One is not there, or is damaged.
    """
    datasets = {json_text(cell.config["data"]): cell.config["data"] for cell in plan.missing}
    for dataset in datasets.values():
        try:
            DatasetSpec(dataset).build(range(1)).prepare_data()
        except ValueError as error:
            raise StudyError(f"dataset {short_name(dataset)}: {error}") from error


class Epochs(Callback):
    """Tells of a cell's epochs."""

    def __init__(self, name: str, progress: Progress) -> None:
        self.name, self.progress = name, progress

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.progress.epoch(self.name, trainer.current_epoch + 1, trainer.max_epochs)


def train(task: tuple[Cell, Path], progress: Progress | None = None) -> pl.DataFrame:
    """Run a cell in its folder, and remove that."""
    cell, folder = task
    name = f"{short_name(cell.config['model']['activation'])} seeds {cell.seeds[0]}-{cell.seeds[-1]}"
    table = run_cell(cell, folder, [Epochs(name, progress)] if progress else [])
    shutil.rmtree(folder, ignore_errors=True)
    return table


def run_missing(
    study: Study,
    plan: Plan,
    executor: Executor,
    progress: Progress,
    work: Callable[[tuple[Cell, Path]], pl.DataFrame],
) -> list[str]:
    """Run cells until none is missing; returns what has failed. Another process may run some of them."""
    root, store = Path(study.root), Store(Path(study.root, "cells"))
    running = root / "running"
    running.mkdir(parents=True, exist_ok=True)
    locks: dict[str, FileLock] = {}
    names = {cell_of(entry, study, range(1)).hash: entry for entry in plan.entries}
    waiting, failures = list(plan.missing), list[str]()
    progress.begin(len(waiting))

    def tasks() -> Iterator[tuple[Cell, Path]]:
        while waiting:
            for cell in list(waiting):
                path = store.path(cell.hash, cell.seeds)
                lock = FileLock(running / f"{path.stem}.lock")
                try:
                    lock.acquire(blocking=False)
                except Timeout:
                    continue
                waiting.remove(cell)
                if path.exists():  # another process was quicker
                    lock.release()
                    continue
                locks[path.stem] = lock
                yield cell, running / path.stem
                break
            else:
                if waiting:
                    time.sleep(0.5)

    results = executor.run(work, tasks())
    try:
        for (cell, folder), result in results:
            entry = names[cell.hash]
            label = f"{entry.dataset}/{entry.network}/{entry.arm} seeds {cell.seeds[0]}-{cell.seeds[-1]}"
            if isinstance(result, Failure):
                failures.append(f"{label}: {result}")
                progress.end_cell(f"{failures[-1]} (failed)")
            else:
                store.write(result)
                accuracy: Any = result["val_accuracy"].mean()
                progress.end_cell(f"{label}: val accuracy {accuracy:.4f}")
            locks.pop(folder.name).release()
    finally:
        results.close()  # type: ignore[attr-defined]
        for lock in locks.values():
            lock.release()
    return failures


def to_config(study: Study) -> dict[str, Any]:
    """A study as a study file holds it."""
    section = {f.name: getattr(study, f.name) for f in fields(study) if f.name not in ("fit", "seed")}
    section = {name: value for name, value in section.items() if value is not None}
    config: dict[str, Any] = json.loads(json.dumps({"seed_everything": study.seed, **study.fit, "study": section}))
    return config


def pairs(table: pl.DataFrame, baseline: str) -> list[str]:
    """What is wrong with the pairing: arms whose weights or order are not the baseline's for the same seed.

    Weights are compared where both have as many parameters; an activation's own do not count.
    """
    wrong = []
    keys = ["dataset_name", "network_name", "seed"]
    base = table.filter(arm=baseline).select(*keys, "init_fingerprint", "order_fingerprint")
    for (arm,), own in table.filter(pl.col("arm") != baseline).group_by("arm", maintain_order=True):
        joined = own.join(base, on=keys, suffix="_base")
        for what, column in (("initial weights", "init_fingerprint"), ("batch order", "order_fingerprint")):
            differ = joined.filter(pl.col(column).ne_missing(pl.col(f"{column}_base")) | pl.col(column).is_null())
            if len(differ):
                wrong.append(f"{arm}: {len(differ)} seeds have another {what} than {baseline}, or an unknown one")
    return wrong
