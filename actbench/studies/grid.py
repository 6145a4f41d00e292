"""The grid of a study: arms on datasets and networks, each with its cells' config."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, NamedTuple

from actbench.inference.verdict import condition_name
from actbench.specs import (
    UsageError,
    merge_config,
    nest,
    one_line,
    readable_error,
    setting,
    without,
)
from actbench.specs.compose import find_class, merged_class, same_class
from actbench.specs.spec import LISTS
from actbench.specs.values import parameters_of
from actbench.studies.cells import Cell, cell_config, data_digest, factors
from actbench.studies.definition import Study, StudyError, check_name
from actbench.studies.widths import MatchedNetwork, matched_network
from actbench.training.config import check_dataset


class PlannedCell(NamedTuple):
    """One arm on one dataset and network, with the study's names for them, on which the cell does not depend."""

    dataset: str
    network: str
    arm: str
    cell: Cell  # of one seed
    value: float | None = None  # of the tuned setting
    matched: MatchedNetwork | None = None  # where numbers of parameters are matched

    @property
    def key(self) -> tuple[str, str, str]:
        """Dataset, network and arm."""
        return self.dataset, self.network, self.arm

    @property
    def label(self) -> str:
        """The name in messages."""
        at = "" if self.value is None else f" at {self.value:g}"
        return "/".join(self.key) + at + (" (crossed)" if self.cell.crossed else "")

    @property
    def parameters(self) -> str:
        """The number of parameters beside the baseline's, in words; "" where they are not matched."""
        if self.matched is None:
            return ""
        parameters, goal = self.matched.parameters, self.matched.goal
        return f"{self.label}: {self.matched.width}, {parameters:,} parameters ({parameters / goal - 1:+.1%})"


@dataclass(frozen=True)
class PlanCache:
    """What plans of one study have found, as long as no file changes.

    Args:
        digests: Hashes of data by config; see `data_digest`.
        parsed: Canonical configs by what was parsed, with one network in place of all.
        networks: Canonical forms of networks.
    """

    digests: dict[str, str] = field(default_factory=dict)
    parsed: dict[str, dict[str, Any]] = field(default_factory=dict)
    networks: dict[str, Any] = field(default_factory=dict)


# --- names ---


def short_name(value: Any) -> str:
    """The name of a class in tables: the given name, the last part of its path, or the model that a function makes."""
    path = str(value.get("class_path", "?") if isinstance(value, Mapping) else value)
    model = arguments_of(value).get(LISTS[path][0]) if path in LISTS else None
    return str(model or path.rpartition(".")[2])


def arguments_of(spec: Any) -> dict[str, Any]:
    """The arguments of a spec; empty if the spec is malformed."""
    arguments = spec.get("init_args") if isinstance(spec, Mapping) else None
    return dict(arguments) if isinstance(arguments, Mapping) else {}


def full_name(name: str, arguments: Mapping[str, Any]) -> str:
    """A name with its arguments, ``Swish(beta=1.5)``, with classes among the arguments named in the same way."""
    shown = {
        key: full_name(short_name(value), arguments_of(value)) if isinstance(value, Mapping) else value
        for key, value in arguments.items()
    }
    return f"{name}({', '.join(f'{key}={value}' for key, value in shown.items())})" if shown else name


def distinct_names(named: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Names, with arguments added to names that are equal except for case."""
    count = Counter(name.lower() for name, _ in named)
    return [full_name(name, arguments) if count[name.lower()] > 1 else name for name, arguments in named]


# --- datasets and networks ---


def choices(study: Study, key: str, listed: Sequence[Any] | None, default: str) -> list[tuple[str, Any]]:
    """Names and specs of a study's datasets or networks: those listed, or else the one under ``key`` in its config.

    `Study` says for which entries the config's arguments hold. A StudyError names a class that was not found, an
    argument that no class of the list takes, or an argument that another class takes too.
    """
    given = setting(study.fit, key)
    shared = merged_class(key, None, given or {})
    if not isinstance(shared, Mapping):
        raise StudyError(f"{key} is a class with its arguments, got {given!r}")
    if listed is None:
        return [(short_name(shared.get("class_path", default)), shared)]
    specs = [merged_class(key, None, value) for value in listed]
    names = distinct_names([(short_name(spec), arguments_of(spec)) for spec in specs])
    try:
        for spec in specs if key == "data" else ():
            check_dataset(spec)
        completed = [with_shared(key, shared, spec) for spec in specs]
        for name in arguments_of(shared) if "class_path" not in shared else ():
            if not any(takes(key, spec, name) for spec in specs):
                raise StudyError(f"{key}.{name}: none of {', '.join(names)} takes it")
    except (ImportError, AttributeError, ValueError) as error:
        raise StudyError(f"{key}: {one_line(error)}") from error
    return list(zip(names, completed, strict=True))


def with_shared(key: str, shared: Mapping[str, Any], spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """A listed spec with the config's arguments added; a StudyError names arguments that belong to another class."""
    listed = arguments_of(spec)
    added = {
        name: value for name, value in arguments_of(shared).items() if name not in listed and takes(key, spec, name)
    }
    if not added:
        return spec
    if "class_path" in shared and not same_class(key, shared["class_path"], spec["class_path"]):
        raise StudyError(
            f"{key} gives {', '.join(added)} to {short_name(shared)}, not to {short_name(spec)}, which takes it too: "
            f"give it in each entry of the list, or leave out the class under {key}"
        )
    return {**spec, "init_args": {**added, **listed}}


def takes(key: str, spec: Mapping[str, Any], argument: str) -> bool:
    """Whether the class of a spec takes an argument."""
    parameters = parameters_of(find_class(key, spec["class_path"])[0])
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


# --- arms ---


def parse_arm(entry: Any) -> tuple[str, Any, dict[str, Any]]:
    """Name (or ""), activation and settings of an entry of ``study.activations``; a StudyError if it is not valid."""
    if not isinstance(entry, Mapping) or "class_path" in entry:
        return "", entry, {}
    name, activation = entry.get("name"), entry.get("activation")
    if activation is None:
        raise StudyError(f"an arm needs an activation, got {dict(entry)}")
    settings: dict[str, Any] = {}
    try:
        for key, value in without(entry, "name", "activation").items():
            settings = merge_config(settings, nest(str(key), value) if "." in str(key) else {key: value})
    except UsageError as error:
        raise StudyError(f"arm {name or short_name(activation)}: {error}") from error
    unknown = [key for key in settings if key not in ("model", "data", "trainer")]
    unknown += [f"model.{name}" for name in ("activation", "mechanism") if name in settings.get("model", {})]
    if unknown:
        raise StudyError(
            f"arm {name or short_name(activation)}: unknown {', '.join(map(str, unknown))}; an arm has activation, "
            "name, and settings such as model.optimizer.lr, data.batch_size or trainer.max_epochs"
        )
    return "" if name is None else str(name), activation, settings


def arm_settings(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """An arm's settings by the last part of their names; a class with its arguments stays whole."""
    for name, value in settings.items():
        if not isinstance(value, Mapping) or "class_path" in value:
            yield (prefix if name == "class_path" else name), value
        else:
            yield from arm_settings(value, prefix if name == "init_args" else name)


def arms(study: Study) -> list[tuple[str, dict[str, Any]]]:
    """Name of each arm, and the settings of this arm alone; a StudyError if they are invalid or a name repeats."""
    named, configs = [], []
    for name, activation, settings in map(parse_arm, study.activations):
        flat = dict(arm_settings(settings))
        if study.grid and study.grid.setting.rpartition(".")[2] in flat:
            label = name or short_name(activation)
            raise StudyError(f"arm {label} sets {study.grid.setting}, which study.tune chooses; leave out one of them")
        named.append((name, {}) if name else (short_name(activation), arguments_of(activation) | flat))
        configs.append(merge_config(settings, {"model": {"activation": activation}}))
    names = distinct_names(named)
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise StudyError(f"study.activations: {name} appears twice; give each its own name")
    return list(zip(names, configs, strict=True))


# --- entries ---


def planned_cells(
    study: Study,
    value: float | Callable[[tuple[str, str, str]], float] | None = None,
    *,
    known: PlanCache | None = None,
) -> list[PlannedCell]:
    """Every arm of a study on every dataset and network, each config checked.

    ``value`` is that of the tuned setting, or a function from dataset, network and arm to it; by default, the config's.
    ``known`` is what earlier calls have found.

    Raises:
        StudyError: A class was not found, its arguments do not fit, two arms are the same, or data are missing.
    """
    datasets = choices(study, "data", study.datasets, "Digits")
    networks = choices(study, "model.network", study.networks, "TutorialCNN")
    check_study_names(study, [name for name, _ in (*datasets, *networks, *arms(study))])
    tuning = isinstance(value, float | int)  # which changes nothing where all arms share the config's value
    conditions = [condition for condition in study.conditions if not (tuning and condition.shared)]
    by_hash = dict[tuple[str, str], PlannedCell]()  # and condition
    configs = CellConfigs(study, PlanCache() if known is None else known)
    for (dataset, data), (name, spec), condition, (arm, settings) in product(
        datasets, networks, conditions, arms(study)
    ):
        network = condition_name(name, condition.name)
        tuned = None if condition.shared else value((dataset, network, arm)) if callable(value) else value
        model = {"network": spec, **({"init": condition.init} if condition.init else {})}
        given = configs.given(model, data)
        config = merge_config(given, settings)
        if study.grid and tuned is not None:
            config = merge_config(config, nest(study.grid.setting, tuned))
        try:
            config, matched = configs.parse(config), None
            if condition.matched:
                matched = configs.matched(config, given)
                config = with_network(config, matched.spec)
            cell = configs.cell(config, dataset)
            if condition.shared and study.grid and callable(value):
                tuned = own_value(config, study.grid.setting)
            entry = PlannedCell(dataset, network, arm, cell, tuned, matched)
            twin = by_hash.setdefault((condition.name, cell.hash), entry)
        except ValueError as error:
            raise StudyError(f"arm {arm}: {one_line(error)}") from error
        if twin is not entry:
            raise StudyError(f"{twin.label} and {entry.label} are the same")
    return list(by_hash.values())


def check_study_names(study: Study, names: Iterable[str]) -> None:
    """Raise a StudyError for an argument of no activation, or for a name that no table can show."""
    activation = (study.fit.get("model") or {}).get("activation")
    if isinstance(activation, Mapping) and "class_path" not in activation:
        argument = next(iter(arguments_of(activation)), "class_path")
        raise StudyError(f"model.activation.{argument}: give it in study.activations, to an activation")
    for name in names:
        check_name(name)


class CellConfigs:
    """Makes the configs and cells of a study, and does once what many of them share: a plan may have ten thousand.

    Args:
        study: The study.
        known: What other plans have found.
    """

    def __init__(self, study: Study, known: PlanCache) -> None:
        self.study, self.known = study, known
        self.wider = dict[str, MatchedNetwork]()  # by what they follow from
        self.files = dict[frozenset[Any], Any]()  # what keys hold of files

    def given(self, model: Mapping[str, Any], data: Any) -> dict[str, Any]:
        """What all arms are given with some settings of the model and a dataset."""
        shared = without(self.study.fit.get("model") or {}, "activation", "replicates")
        mechanism = {"mechanism": self.study.mechanism}
        return {**self.study.fit, "model": {**shared, **mechanism, **model}, "data": data}

    def parse(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The canonical config. A network is parsed once for all arms."""
        key = repr(given["model"]["network"])
        rest = repr({**given, "model": without(given["model"], "network")})
        parsed, networks = self.known.parsed, self.known.networks
        if rest not in parsed or key not in networks:
            config = cell_config(given)
            parsed.setdefault(rest, config)
            networks[key] = config["model"]["network"]
        return with_network(parsed[rest], networks[key])

    def matched(self, config: Mapping[str, Any], given: Mapping[str, Any]) -> MatchedNetwork:
        """The network of a canonical config with as many parameters as the baseline's, which is given the same."""
        settings = dict(arms(self.study))
        name = next(iter(settings)) if self.study.baseline is None else str(self.study.baseline)
        baseline = self.parse(merge_config(given, settings.get(name, {})))
        key = repr([config["data"], config["model"], baseline["model"]])
        if key not in self.wider:
            self.wider[key] = matched_network(config, baseline, self.study.fairness.width)
        return self.wider[key]

    def cell(self, config: Mapping[str, Any], dataset: str) -> Cell:
        """The cell of a canonical config, for one seed; a ValueError names the dataset if it cannot be read."""
        study = self.study
        digest = named_digest(dataset, config, self.known.digests)
        cell = Cell(config, range(1), digest, study.weights, tuple(study.vary), study.seed)
        vars(cell)["factors"] = factors(config, digest, study.weights, sharing=cell.sharing, known=self.files)
        return cell


def with_network(config: Mapping[str, Any], network: Mapping[str, Any]) -> dict[str, Any]:
    """A config with another network."""
    return {**config, "model": {**config["model"], "network": network}}


def named_digest(dataset: str, config: Mapping[str, Any], digests: dict[str, str]) -> str:
    """Hash of the data of a config; see `data_digest`. A ValueError names the dataset."""
    try:
        return data_digest(config, digests)
    except Exception as error:  # of any kind, in a DataModule that is not ours
        raise ValueError(f"dataset {dataset}: {readable_error(one_line(error))}") from error


def own_value(config: Mapping[str, Any], key: str) -> float:
    """The value of a dotted setting in a canonical config; a ValueError if it is no number."""
    value: Any = config
    for part in key.split("."):
        value = value if isinstance(value, Mapping) and part in value else setting(value, "init_args")
        value = setting(value, part)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"study.fairness.tune: shared needs a number for {key} in the config, got {value}")
    return float(value)


def make_cells(entry: PlannedCell, blocks: Iterable[range]) -> list[Cell]:
    """An entry's cells for blocks of seeds, which share one mapping of factors."""
    cells = [replace(entry.cell, seeds=seeds) for seeds in blocks]
    for cell in cells:
        vars(cell).update(factors=entry.cell.factors, hash=entry.cell.hash)
    return cells
