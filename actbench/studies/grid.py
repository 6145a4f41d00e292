"""The grid of a study: arms on datasets and networks, each with the config of its cells."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

from actbench.specs import NetworkSpec, UsageError, import_object, merge_config, nest, one_line, readable_error, without
from actbench.specs.compose import merged_class, same_class
from actbench.specs.values import parameters_of
from actbench.studies.cells import Cell, cell_config, data_digest
from actbench.studies.definition import Study, StudyError, check_name
from actbench.training.config import check_dataset


class PlannedCell(NamedTuple):
    """One arm on one dataset and network, under the study's names; the cell does not depend on them."""

    dataset: str
    network: str
    arm: str
    cell: Cell  # of one seed
    value: float | None = None  # of the setting that is tuned

    @property
    def key(self) -> tuple[str, str, str]:
        """Dataset, network and arm."""
        return self.dataset, self.network, self.arm

    @property
    def label(self) -> str:
        """Its name in messages."""
        return "/".join(self.key) + ("" if self.value is None else f" at {self.value:g}")


# --- names ---


def short_name(value: Any) -> str:
    """What a class is called in tables: the name that was given, or the class's own."""
    path = value.get("class_path", "?") if isinstance(value, Mapping) else str(value)
    return str(path).rpartition(".")[2]


def arguments_of(value: Any) -> dict[str, Any]:
    """The arguments of a spec that may be wrong."""
    arguments = value.get("init_args") if isinstance(value, Mapping) else None
    return dict(arguments) if isinstance(arguments, Mapping) else {}


def full_name(name: str, arguments: Mapping[str, Any]) -> str:
    """A name with its arguments, ``Swish(beta=1.5)``, among which classes are named in the same way."""
    shown = {
        key: full_name(short_name(value), arguments_of(value)) if isinstance(value, Mapping) else value
        for key, value in arguments.items()
    }
    return f"{name}({', '.join(f'{key}={value}' for key, value in shown.items())})" if shown else name


def distinct(named: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Names that tell apart: those that are the same, but for case, get their arguments."""
    count = Counter(name.lower() for name, _ in named)
    return [full_name(name, arguments) if count[name.lower()] > 1 else name for name, arguments in named]


# --- datasets and networks ---


def choices(study: Study, key: str, listed: Sequence[Any] | None, default: str) -> list[tuple[str, Any]]:
    """Names and specs of a study's datasets or networks: those listed, or the one that its config has under ``key``.

    Arguments of the config hold for the list as `Study` says. A StudyError says which class was not found,
    and which argument no class of the list takes, or another class takes too.
    """
    given = study.fit.get("data") if key == "data" else (study.fit.get("model") or {}).get("network")
    shared = merged_class(key, None, given or {})
    if not isinstance(shared, Mapping):
        raise StudyError(f"{key} is a class with its arguments, got {given!r}")
    if listed is None:
        return [(short_name(shared.get("class_path", default)), shared)]
    specs = [merged_class(key, None, value) for value in listed]
    names = distinct([(short_name(spec), arguments_of(spec)) for spec in specs])
    try:
        for spec in specs if key == "data" else ():
            check_dataset(spec)
        together = [with_shared(key, shared, spec) for spec in specs]
        for name in arguments_of(shared) if "class_path" not in shared else ():
            if not any(takes(key, spec, name) for spec in specs):
                raise StudyError(f"{key}.{name}: none of {', '.join(names)} takes it")
    except (ImportError, AttributeError, ValueError) as error:
        raise StudyError(f"{key}: {one_line(error)}") from error
    return list(zip(names, together, strict=True))


def with_shared(key: str, shared: Mapping[str, Any], spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """An entry of a list, with the config's arguments that hold for it; a StudyError says which are another class's."""
    own = arguments_of(spec)
    added = {name: of for name, of in arguments_of(shared).items() if name not in own and takes(key, spec, name)}
    if not added:
        return spec
    if "class_path" in shared and not same_class(key, shared["class_path"], spec["class_path"]):
        raise StudyError(
            f"{key} gives {', '.join(added)} to {short_name(shared)}, not to {short_name(spec)}, which takes it too: "
            f"say it in each entry of the list, or leave out the class under {key}"
        )
    return {**spec, "init_args": {**added, **own}}


def takes(key: str, spec: Mapping[str, Any], argument: str) -> bool:
    """Whether the class of a spec takes an argument."""
    path = spec["class_path"]
    parameters = parameters_of(NetworkSpec.find(path)[0] if key == "model.network" else import_object(path))
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


# --- arms ---


class Arm(NamedTuple):
    """An arm as given: its name, if any, its activation, and the settings that are its own."""

    name: str | None
    activation: Any
    own: Mapping[str, Any]

    @classmethod
    def of(cls, given: Any) -> "Arm":
        """The arm of an entry of ``study.activations``; a StudyError if it has no activation, or a key is unknown."""
        if not isinstance(given, Mapping) or "class_path" in given:
            return cls(None, given, {})
        name, activation = given.get("name"), given.get("activation")
        if activation is None:
            raise StudyError(f"an arm needs an activation, got {dict(given)}")
        own: dict[str, Any] = {}
        try:
            for key, value in without(given, "name", "activation").items():
                own = merge_config(own, nest(str(key), value) if "." in str(key) else {key: value})
        except UsageError as error:
            raise StudyError(f"arm {name or short_name(activation)}: {error}") from error
        wrong = [key for key in own if key not in ("model", "data", "trainer")]
        wrong += ["model.activation"] if "activation" in own.get("model", {}) else []
        if wrong:
            raise StudyError(
                f"arm {name or short_name(activation)}: unknown {', '.join(map(str, wrong))}; an arm has activation, "
                "name, and settings such as model.optimizer.lr, data.batch_size or trainer.max_epochs"
            )
        return cls(None if name in (None, "") else str(name), activation, own)

    @property
    def arguments(self) -> dict[str, Any]:
        """What tells an arm without a name from another of the same activation."""
        return {} if self.name else arguments_of(self.activation) | dict(arm_settings(self.own))


def arm_settings(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """An arm's settings by the last part of their names; a class with its arguments stays whole."""
    for name, value in settings.items():
        if not isinstance(value, Mapping) or "class_path" in value:
            yield (prefix if name == "class_path" else name), value
        else:
            yield from arm_settings(value, prefix if name == "init_args" else name)


def arms(study: Study) -> list[tuple[str, dict[str, Any]]]:
    """Each arm's name, and the settings that are its own; a StudyError says which make no sense or share a name."""
    given = [Arm.of(value) for value in study.activations]
    names = distinct([(arm.name or short_name(arm.activation), arm.arguments) for arm in given])
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise StudyError(f"study.activations: {twice[0]} is there twice; give them names of their own")
    for name, arm in zip(names, given, strict=True):
        if study.grid and study.grid.setting.rpartition(".")[2] in dict(arm_settings(arm.own)):
            raise StudyError(f"arm {name} sets {study.grid.setting}, which study.tune chooses; leave out one of them")
    settings = [merge_config(arm.own, {"model": {"activation": arm.activation}}) for arm in given]
    return list(zip(names, settings, strict=True))


# --- all of it ---


def entries(
    study: Study,
    value: float | Callable[[tuple[str, str, str]], float] | None = None,
    *,
    digests: dict[str, str] | None = None,
) -> list[PlannedCell]:
    """All that a study compares, each config checked.

    ``value`` is that of the tuned setting, for all or by dataset, network and arm; the config's unless given.
    ``digests`` are of data that this study has read before; see `data_digest`.

    Raises:
        StudyError: A class was not found, its arguments do not fit, two arms are the same, or data are missing.
    """
    given = study.fit.get("model") or {}
    activation = given.get("activation")
    if isinstance(activation, Mapping) and "class_path" not in activation:
        argument = next(iter(arguments_of(activation)), "class_path")
        raise StudyError(f"model.activation.{argument}: give it in study.activations, to an activation")
    datasets = choices(study, "data", study.datasets, "Digits")
    networks = choices(study, "model.network", study.networks, "TutorialCNN")
    for name, _ in (*datasets, *networks, *arms(study)):
        check_name(name)
    found = dict[str, PlannedCell]()
    digests = {} if digests is None else digests
    for (dataset, data), (network, network_spec), (arm, own) in product(datasets, networks, arms(study)):
        tuned = value((dataset, network, arm)) if callable(value) else value
        model = {**without(given, "activation", "replicates"), "network": network_spec}
        config = merge_config({**study.fit, "model": model, "data": data}, own)
        if study.grid and tuned is not None:
            config = merge_config(config, nest(study.grid.setting, tuned))
        try:
            config = cell_config(config)
            try:
                digest = data_digest(config, digests)
            except Exception as error:  # of any kind, in a DataModule that is not ours
                raise ValueError(f"dataset {dataset}: {readable_error(str(error))}") from error
            cell = Cell(config, range(1), digest, study.weights, tuple(study.vary), study.seed)
            entry = PlannedCell(dataset, network, arm, cell, tuned)
            twin = found.setdefault(cell.hash, entry)
        except ValueError as error:
            raise StudyError(f"arm {arm}: {one_line(error)}") from error
        if twin is not entry:
            raise StudyError(f"{twin.label} and {entry.label} are the same")
    return list(found.values())


def cells_of(entry: PlannedCell, blocks: Iterable[range]) -> list[Cell]:
    """An entry's cells of these seeds, which share one mapping of factors."""
    cells = [replace(entry.cell, seeds=seeds) for seeds in blocks]
    for cell in cells:
        vars(cell).update(factors=entry.cell.factors, hash=entry.cell.hash)
    return cells
