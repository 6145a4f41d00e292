"""A checkpoint's description of its data and Trainer."""

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningDataModule, Trainer

from actbench import __version__
from actbench.seeding import crossed_sources, varying_sources
from actbench.specs import is_plain, public_path, to_plain

SCHEMA = 4  # of a checkpoint's description

# Settings of the Trainer that change what is trained or scored, with defaults. Devices, loggers and folders do not.
TRAINER_SETTINGS = {
    "max_epochs": None,
    "min_epochs": 0,
    "max_steps": -1,
    "min_steps": None,
    "precision": "32-true",
    "accumulate_grad_batches": 1,
    "gradient_clip_val": None,
    "gradient_clip_algorithm": None,
    "check_val_every_n_epoch": 1,
    "val_check_interval": 1.0,
    "limit_train_batches": 1.0,
    "limit_val_batches": 1.0,
    "limit_test_batches": 1.0,
    "limit_predict_batches": 1.0,
}


def describe_run(classifier: Any) -> dict[str, Any]:
    """What a checkpoint says of a run, besides the state of its training."""
    return {
        "schema": SCHEMA,
        "version": __version__,
        "seed": classifier.seeds[0],
        "model": classifier.describe(),
        "vary": varying_sources(),
        "data": describe_data(getattr(classifier.trainer, "datamodule", None)),
        "normalization": classifier.normalization,
        "trainer": describe_trainer(classifier.trainer),
        "scores": {name: value.cpu() for name, value in classifier.evaluated.items()},
    } | ({"crossed": crossed} if (crossed := crossed_sources()) else {})


def describe_model(classifier: Any) -> dict[str, Any]:
    """The arguments of a classifier in plain values, without seed and width."""
    sites = None if classifier.sites == "hidden" else classifier.sites
    options = {"batch_keys": classifier.batch_keys, "sites": sites}
    options |= {"init": None if classifier.scaling.init == "as_is" else classifier.scaling.init}
    options |= {"weights": classifier.start.digest, "freeze": classifier.frozen, "lr_interval": classifier.lr_interval}
    mechanism = {"mechanism": True} if classifier.mechanism else {}
    return {
        "activation": classifier.activation.to_dict(),
        "network": classifier.network_spec.trained_form(),
        "optimizer": classifier.optimizer.to_dict(),
        "lr_scheduler": classifier.lr_scheduler and classifier.lr_scheduler.to_dict(),
        "replicates": len(classifier.seeds),
        "engine": classifier.engine.name,
        "compile": classifier.compiles,
        "input_shape": list(classifier.input_shape),
        "num_classes": classifier.num_classes,
        **mechanism,
    } | {name: value if isinstance(value, str) else list(value) for name, value in options.items() if value}


def describe_data(datamodule: LightningDataModule | None) -> dict[str, Any] | None:
    """Class path and arguments of a DataModule in plain values; ``local`` names arguments left out as absolute paths.

    The arguments come from its config, or else from ``save_hyperparameters``.
    """
    if datamodule is None:
        return None
    described = vars(datamodule).get("description")
    if described is None:
        recorded = {name: value for name, value in datamodule.hparams.items() if is_plain(value)}
        cls = type(getattr(datamodule, "inner", datamodule))
        described = to_plain({"class_path": public_path(cls), "init_args": recorded})
    return {"init_args": {}, **passed_on(described)}


def passed_on(described: Mapping[str, Any]) -> dict[str, Any]:
    """A DataModule's description without downloads and outside paths, which no checkpoint may name."""
    local = list(described.get("local", []))
    portable_form: dict[str, Any] = portable({**described}, local)
    return {**portable_form, "local": local} if local else portable_form


def describe_trainer(trainer: Trainer) -> dict[str, Any]:
    """Settings of a Trainer that change what is trained or scored and differ from the defaults."""
    settings = {name: getattr(trainer, name) for name in TRAINER_SETTINGS}
    values = {name: value.value if isinstance(value, Enum) else value for name, value in settings.items()}
    return {name: to_plain(value) for name, value in values.items() if is_plain(value) and not is_default(name, value)}


def is_default(name: str, value: Any) -> bool:
    """Whether a Trainer's setting is unset or the default. A limit of 1 is one batch; a limit of 1.0 is all batches."""
    default = TRAINER_SETTINGS.get(name)
    return value is None or (value == default and type(value) is type(default))


def portable(value: Any, local: list[str], name: str = "") -> Any:
    """A class with its arguments, without ``download``, and with paths relative to the working directory.

    Arguments with a path outside of that directory are left out, and their dotted names are added to ``local``. Outside
    of a class's arguments, such a path raises LookupError.
    """
    if isinstance(value, str):
        if ".." in Path(value).parts or not Path.cwd().joinpath(value).is_relative_to(Path.cwd()):
            raise LookupError(value)
        return str(Path(value).relative_to(Path.cwd())) if Path(value).is_absolute() else value
    if isinstance(value, list):
        return [portable(item, local, name) for item in value]
    if not isinstance(value, dict):
        return value
    if "class_path" not in value:
        return {key: portable(item, local, f"{name}.{key}") for key, item in value.items()}
    arguments = {}
    for argument, item in value.get("init_args", {}).items():
        if argument == "download":
            continue
        try:
            arguments[argument] = portable(item, local, f"{name}.{argument}")
        except LookupError:
            local.append(f"{name}.{argument}".lstrip("."))
    return {**value, "init_args": arguments} if "init_args" in value else value
