"""What is trained together: the config of a fit in canonical form, and its hash."""

import importlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any, cast

import jsonargparse
from pytorch_lightning import Callback, LightningDataModule, Trainer
from pytorch_lightning import callbacks as lightning_callbacks

from actbench import data, records
from actbench.cells.isolation import unchanged_process
from actbench.checkpoints import TRAINER_SETTINGS, is_default
from actbench.specs import ActivationSpec, NetworkSpec, OptimizerSpec, SchedulerSpec, Spec, is_plain, one_line
from actbench.streams import SOURCES

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
# Packages whose classes do what their version says, which the records hold.
RELEASED = ("actbench", "torch", "torchvision", "pytorch_lightning")
# Settings that a study sets itself.
TAKEN = (
    *("logger", "default_root_dir", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"),
    *("fast_dev_run", "barebones"),
)
# Lightning's short forms of a precision.
PRECISIONS = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}
# What else a Trainer does unless told.
UNSAID = {
    name: parameter.default
    for name, parameter in inspect.signature(Trainer).parameters.items()
    if name not in TRAINER_SETTINGS
}
TRAINER_DEFAULTS = {"max_epochs": 100, "deterministic": "warn", "devices": 1}


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
        vary: The sources of randomness that differ from seed to seed.
        fixed_seed: Keys the other sources, for every seed.
    """

    config: Mapping[str, Any]
    seeds: range
    weights: str = "last"
    vary: Sequence[str] = SOURCES
    fixed_seed: int = 0

    @cached_property
    def factors(self) -> dict[str, Any]:
        """All that determines the results but for the seeds, and nothing else: no paths, loggers or devices."""
        dataset = self.config["data"]
        if issubclass(DatasetSpec.find(dataset), data.ImageData):
            arguments = {key: value for key, value in dataset.get("init_args", {}).items() if key not in PLACES}
            dataset = {**dataset, "init_args": arguments}
        trainer = dict(self.config["trainer"])
        if "precision" in trainer:
            trainer["precision"] = PRECISIONS.get(str(trainer["precision"]), trainer["precision"])
        settings = {
            name: value
            for name, value in trainer.items()
            if name not in NEUTRAL and not is_default(name, value) and value != UNSAID.get(name)
        }
        built = {
            "data": dataset,
            **{name: self.config["model"][name] for name in CLASSES},
            "callbacks": trainer.get("callbacks") or [],
        }
        code = {path: code_of(path) for path in class_paths(built) if path.split(".")[0] not in RELEASED}
        return {
            **built,
            "trainer": settings,
            "weights": self.weights,
            **({"vary": sorted(self.vary), "fixed_seed": self.fixed_seed} if self.fixed else {}),
            **({"code": code} if code else {}),
        }

    @property
    def fixed(self) -> tuple[str, ...]:
        """The sources of randomness that are the same for every seed."""
        return tuple(source for source in SOURCES if source not in self.vary)

    @cached_property
    def hash(self) -> str:
        """Hash of the factors."""
        return records.fingerprint(self.factors)


def class_paths(value: Any) -> Iterator[str]:
    """Class paths at any depth of a config."""
    if isinstance(value, dict):
        if isinstance(value.get("class_path"), str):
            yield value["class_path"]
        for item in value.values():
            yield from class_paths(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from class_paths(item)


def code_of(class_path: str) -> str | None:
    """Hash of the module that a class is written in, so that a changed activation is another; None without source."""
    module, _, name = class_path.rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    for of in (importlib.import_module(cls.__module__), cls):  # a notebook's module has no source, its classes do
        with suppress(OSError, TypeError):
            return records.fingerprint(inspect.getsource(of))
    return None


def settled(config: Mapping[str, Any], known: dict[tuple[type, str], dict[str, Any]] | None = None) -> dict[str, Any]:
    """A fit's config in canonical form, with the defaults of model and trainer, and every class checked.

    Args:
        config: ``model``, ``data`` and ``trainer``, as in a fit's YAML.
        known: The canonical form of each spec met before; one who settles many configs keeps it.

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
    if not is_plain([value for value in trainer.values() if value is not None]):
        raise ValueError(f"trainer takes plain values, got {trainer}")
    check_trainer(records.json_text(trainer))
    known = {} if known is None else known

    def canonical(kind: type[Spec], value: Any) -> dict[str, Any]:
        key = (kind, repr(value))
        if key not in known:
            known[key] = kind(value).to_dict()
        return known[key]

    return {
        "model": {name: value and canonical(CLASSES[name], value) for name, value in specs.items()}
        | {"stack_width": model.get("stack_width")},
        "data": canonical(DatasetSpec, config.get("data") or "Digits"),
        "trainer": trainer | ({"callbacks": [canonical(CallbackSpec, value) for value in callbacks]}),
    }


@lru_cache(maxsize=1000)
def check_trainer(settings: str) -> None:
    """Refuse settings, in JSON, that a Trainer does not have, or of the wrong type, as LightningCLI does.

    Several devices are refused, too: under DDP each would run the whole study again, and take cells of its own.

    Raises:
        ValueError: There is one.
    """
    trainer = json.loads(settings)
    known = list(inspect.signature(Trainer).parameters)
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Trainer, skip={"callbacks", "logger", "plugins"})
    for name, value in trainer.items():
        if name not in known:
            near = ", ".join(get_close_matches(name, known)) or "see fit --help"
            raise ValueError(f"trainer.{name}: there is no such setting; near it: {near}")
        try:
            parser.parse_object({name: value})
        except jsonargparse.ArgumentError as error:
            raise ValueError(f"trainer.{name}: {value!r} is not of its type; see fit --help") from error
    for name, value in {"devices": trainer["devices"], "num_nodes": trainer.get("num_nodes", 1)}.items():
        if value != 1 and not (isinstance(value, list) and len(value) == 1):
            raise ValueError(f"trainer.{name}: a cell runs on one device, got {value!r}; use study.workers for several")
    try:
        with unchanged_process(0):  # a deterministic Trainer sets an environment variable
            Trainer(**trainer, logger=False, enable_progress_bar=False, enable_model_summary=False)
    except Exception as error:  # TypeError, and several of Lightning's own
        raise ValueError(f"trainer: {one_line(error)}") from error


def check_keys(what: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse keys that mean nothing.

    Raises:
        ValueError: There is one.
    """
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ValueError(f"{what}: unknown {', '.join(map(str, unknown))}; known: {', '.join(known)}")
