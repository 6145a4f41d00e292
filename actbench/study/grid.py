"""The grid of a study: arms on datasets and networks, each with the config of its cells."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from actbench.cells import Cell, DatasetSpec, settled
from actbench.specs import NetworkSpec, Spec
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


# --- settings ---


def assign(config: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key, ``model.optimizer.lr`` say, in a nested config. What a class is given are its init_args.

    Raises:
        StudyError: What is there is not a mapping.
    """
    for name in CLASS_KEYS:
        if key.startswith(f"{name}."):
            argument = key.removeprefix(f"{name}.").removeprefix("init_args.")
            assign(config, name, with_argument(name, lookup(config, name), argument, value))
            return
    *parents, last = key.split(".")
    for place, parent in enumerate(parents, start=1):
        below = config.get(parent)
        if below is not None and not isinstance(below, Mapping):
            raise StudyError(f"{'.'.join(parents[:place])} is a mapping of settings, got {below!r}")
        config[parent] = dict(below or {})
        config = config[parent]
    config[last] = value


def with_argument(name: str, spec: Any, argument: str, value: Any) -> dict[str, Any]:
    """The spec with an argument more; with ``class_path``, another class without any."""
    if argument == "class_path":
        return {"class_path": value}
    path, arguments = parts(name, spec)
    default = "torch.optim.Adam" if name == "model.optimizer" else None
    return {"class_path": path or default, "init_args": {**arguments, argument: value}}


def lookup(config: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key, None if there is none."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def parts(name: str, spec: Any) -> tuple[Any, dict[str, Any]]:
    """The class and the arguments of a spec as it was given; no class where arguments stand alone.

    Raises:
        StudyError: It has other keys.
    """
    if not isinstance(spec, Mapping):
        return spec, {}
    arguments = spec.get("init_args") or {}
    if set(spec) - {"class_path", "init_args"} or not isinstance(arguments, Mapping):
        raise StudyError(f"{name} has a class_path and a mapping of init_args, got {dict(spec)}")
    return spec.get("class_path"), dict(arguments)


def merged(name: str, before: Any, spec: Any) -> Any:
    """A spec that is given after another: one of the same class keeps its arguments, as in a fit."""
    (old, kept), (path, arguments) = parts(name, before), parts(name, spec)
    if None not in (old, path) and short_name(old) != short_name(path):
        return spec
    return {"class_path": path or old, "init_args": {**kept, **arguments}}


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


def distinct(names: Sequence[str], arguments: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names that tell apart: those that are the same, but for case, get their arguments."""
    count = Counter(name.lower() for name in names)
    return [
        full_name(name, given) if count[name.lower()] > 1 else name
        for name, given in zip(names, arguments, strict=True)
    ]


# --- datasets and networks ---


def choices(
    study: Study, key: str, listed: Sequence[Any] | None, *, spec: type[Spec], default: str
) -> list[tuple[str, Any]]:
    """Names and specs of a study's datasets or networks: those of its list, or the one that its config has.

    Arguments of the config hold for the list as `Study` says.

    Args:
        study: Whose.
        key: Where its config has one: ``data`` or ``model.network``.
        listed: Those of the study's list, if it has one.
        spec: What they are.
        default: The class, if none is given.

    Raises:
        StudyError: A class is not there, or an argument holds for none, or might hold for another class.
    """
    path, shared = parts(key, lookup(study.fit, key))
    if listed is None:
        path = path or default
        return [(short_name(path), {"class_path": path, "init_args": shared} if shared else path)]
    names = distinct([*map(short_name, listed)], [*map(arguments_of, listed)])
    try:
        specs = [with_shared(key, path, shared, value=value, spec=spec) for value in listed]
        for name in shared if path is None else ():
            if not any(spec.takes(value, name) for value in specs):
                raise StudyError(f"{key}.{name}: none of {', '.join(names)} takes it")
    except ValueError as error:
        raise StudyError(str(error)) from error
    return list(zip(names, specs, strict=True))


def with_shared(key: str, path: Any, shared: Mapping[str, Any], *, value: Any, spec: type[Spec]) -> Any:
    """One of a list, with the config's arguments that hold for it.

    Raises:
        ValueError: An argument is another class's, or there is no such class.
    """
    own_path, own = parts(key, value)
    added = {name: of for name, of in shared.items() if name not in own and spec.takes(own_path, name)}
    if not added:
        return value
    if path is not None and spec.find(path) is not spec.find(own_path):
        raise StudyError(
            f"{key} gives {', '.join(added)} to {short_name(path)}, not to {short_name(own_path)}, which takes it too: "
            f"say it in each entry of the list, or leave out the class under {key}"
        )
    return {"class_path": own_path, "init_args": {**added, **own}}


# --- arms ---


class Arm(NamedTuple):
    """An arm as it was given: a name if it has one, its activation, and the settings that are its own."""

    name: str | None
    activation: Any
    own: dict[str, Any]

    @classmethod
    def of(cls, given: Any) -> "Arm":
        """The arm of an entry of ``study.activations``.

        Raises:
            StudyError: It lacks its activation, or a key means nothing.
        """
        if not isinstance(given, Mapping) or "class_path" in given:
            return cls(None, given, {})
        settings = dict(given)
        name, activation = settings.pop("name", None), settings.pop("activation", None)
        if activation is None:
            raise StudyError(f"an arm needs an activation, got {dict(given)}")
        own = flat(settings)
        wrong = [
            key
            for key in own
            if key.split(".")[0] not in ("model", "data", "trainer") or key in ("model", "trainer", "model.activation")
        ]
        if wrong:
            raise StudyError(
                f"arm {name or short_name(activation)}: unknown {', '.join(wrong)}; an arm has activation, name, and "
                "settings such as model.optimizer.lr, data.batch_size or trainer.max_epochs"
            )
        return cls(None if name in (None, "") else str(name), activation, own)

    @property
    def arguments(self) -> dict[str, Any]:
        """What tells it from another of the same activation: none if it has a name."""
        if self.name:
            return {}
        own = {key.removesuffix(".class_path").rpartition(".")[2]: value for key, value in self.own.items()}
        return arguments_of(self.activation) | own


def flat(settings: Mapping[Any, Any]) -> dict[str, Any]:
    """An arm's settings by dotted key. Classes with their arguments stay whole."""
    result: dict[str, Any] = {}
    for key, value in settings.items():
        if key in ("model", "trainer") and isinstance(value, Mapping):
            result |= {f"{key}.{name}": of for name, of in value.items()}
        else:
            result[str(key).replace(".init_args.", ".")] = value
    # A class before its arguments, in whatever order they were written.
    return dict(sorted(result.items(), key=lambda item: len(item[0].removesuffix(".class_path"))))


def arms(study: Study) -> list[tuple[str, dict[str, Any]]]:
    """Each arm's name, and the settings that are its own.

    Raises:
        StudyError: Two have one name, or an arm lacks its activation.
    """
    given = [Arm.of(value) for value in study.activations]
    names = distinct([arm.name or short_name(arm.activation) for arm in given], [arm.arguments for arm in given])
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise StudyError(f"study.activations: {twice[0]} is there twice; give them names of their own")
    fixed = [name for name, arm in zip(names, given, strict=True) if study.grid and study.grid.setting in arm.own]
    if study.grid and fixed:
        raise StudyError(f"arm {fixed[0]} sets {study.grid.setting}, which study.tune chooses; leave out one of them")
    return [(name, {"model.activation": arm.activation, **arm.own}) for name, arm in zip(names, given, strict=True)]


# --- all of it ---


def entries(study: Study, value: Callable[[tuple[str, str, str]], float] | None = None) -> list[Entry]:
    """All that a study compares, each config checked.

    Args:
        study: Whose.
        value: That of the tuned setting, by dataset, network and arm; as in the study's config unless given.

    Raises:
        StudyError: A class is not there, its arguments do not fit, two arms are the same, or the like.
    """
    path, arguments = parts("model.activation", lookup(study.fit, "model.activation"))
    if arguments and path is None:
        raise StudyError(f"model.activation.{next(iter(arguments))}: give it in study.activations, to an activation")
    datasets = choices(study, "data", study.datasets, spec=DatasetSpec, default="Digits")
    networks = choices(study, "model.network", study.networks, spec=NetworkSpec, default="TutorialCNN")
    result, known, specs = [], dict[str, str](), dict[tuple[type, str], dict[str, Any]]()
    for (dataset, data), (network, network_spec), (arm, own) in product(datasets, networks, arms(study)):
        settings = {"data": data, "model.network": network_spec, **own}
        tuned = value((dataset, network, arm)) if study.grid and value else None
        if study.grid and tuned is not None:
            settings[study.grid.setting] = tuned
        try:
            config = settled(with_settings(study.fit, settings), specs)
            check_length(config["trainer"])
            entry = Entry(dataset, network, arm, config, cell_of(config, study, range(1)).hash, tuned)
        except ValueError as error:
            raise StudyError(f"arm {arm}: {error}") from error
        if entry.hash in known:
            raise StudyError(f"{known[entry.hash]} and {entry.label} are the same")
        known[entry.hash] = entry.label
        result.append(entry)
    return result


def with_settings(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A config in which some dotted keys are set; what is changed below is a copy."""
    result = dict(config)
    for key, value in settings.items():
        assign(result, key, value)
    return result


def check_length(trainer: Mapping[str, Any]) -> None:
    """Refuse a training without a step, or without an end.

    Raises:
        ValueError: It is one.
    """
    limits = {name: trainer.get(name) for name in ("max_epochs", "max_steps", "limit_train_batches")}
    nothing = [name for name, value in limits.items() if value == 0]
    if nothing:
        raise ValueError(f"trainer.{nothing[0]} is 0, and a cell needs one epoch or step at least")
    if trainer.get("limit_test_batches") == 0:
        raise ValueError("trainer.limit_test_batches is 0, and every seed is scored on test")
    endless = limits["max_epochs"] == -1 and limits["max_steps"] in (None, -1)
    if endless and not trainer.get("max_time") and not trainer.get("callbacks"):
        raise ValueError("trainer.max_epochs is -1, and nothing else ends the training: give max_steps or max_time")


def cells_of(entry: Entry, study: Study, blocks: Iterable[range]) -> list[Cell]:
    """An entry's cells of these seeds. What determines their results is worked out once, and held once."""
    cells = [cell_of(entry.config, study, seeds) for seeds in blocks]
    for cell in cells:
        vars(cell).update(factors=cells[0].factors, hash=entry.hash)
    return cells


def cell_of(config: Mapping[str, Any], study: Study, seeds: range) -> Cell:
    """A study's cell of these seeds."""
    return Cell(config, seeds, study.weights, tuple(study.vary), study.seed)
