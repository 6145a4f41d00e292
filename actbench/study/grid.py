"""The grid of a study: arms on datasets and networks, each with the config of its cells."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from actbench.cells import Cell, settled
from actbench.study.definition import Study, StudyError

CLASS_KEYS = ("model.activation", "model.network", "model.optimizer", "model.lr_scheduler", "data", "study.executor")


class Entry(NamedTuple):
    """Records that a study wants: of one arm on one dataset and network. Labels are the study's, the hash is not."""

    dataset: str
    network: str
    arm: str
    config: Mapping[str, Any]
    hash: str
    value: float | None = None  # of the setting that is tuned

    @property
    def key(self) -> tuple[str, str, str]:
        """Dataset, network and arm."""
        return self.dataset, self.network, self.arm

    @property
    def label(self) -> str:
        """How it is called in tables."""
        return "/".join(self.key) + ("" if self.value is None else f" at {self.value:g}")


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
    fixed = [
        name for name, (_, _, own) in zip(names, settings, strict=True) if study.grid and study.grid.setting in own
    ]
    if study.grid and fixed:
        raise StudyError(f"arm {fixed[0]} sets {study.grid.setting}, which study.tune chooses; leave out one of them")
    return [(name, {"model.activation": value, **own}) for name, (_, value, own) in zip(names, settings, strict=True)]


def entries(study: Study, value: Callable[[tuple[str, str, str]], float] | None = None) -> list[Entry]:
    """All that a study compares, each config checked.

    Args:
        study: Whose.
        value: That of the tuned setting, by dataset, network and arm; as in the study's config unless given.

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
                for key, given in {"data": dataset, "model.network": network, **own}.items():
                    assign(config, key, given)
                tuned = None
                if study.grid and value:
                    tuned = value((dataset_name, network_name, arm))
                    assign(config, study.grid.setting, tuned)
                try:
                    canonical = settled(config)
                except ValueError as error:
                    raise StudyError(f"arm {arm}: {error}") from error
                cell = cell_of(canonical, study, range(1))
                entry = Entry(dataset_name, network_name, arm, canonical, cell.hash, tuned)
                if entry.hash in known:
                    raise StudyError(f"{known[entry.hash]} and {entry.label} are the same")
                known[entry.hash] = entry.label
                result.append(entry)
    return result


def cell_of(config: Mapping[str, Any], study: Study, seeds: range) -> Cell:
    """A study's cell of these seeds."""
    return Cell(config, seeds, study.weights, tuple(study.vary), study.seed)
