"""What a checkpoint says it was made of."""

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningDataModule, Trainer

from actbench.specs import is_plain, public_path, written

# The Trainer's settings that change what is trained or scored, with the defaults. Devices, loggers and folders are not
# among them.
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


def describe_data(datamodule: LightningDataModule | None) -> dict[str, Any] | None:
    """Class path and arguments of a DataModule in plain values, without absolute paths; ``local`` names those left out.

    The arguments are those of its config, or, without one, those that it recorded with ``save_hyperparameters``.
    """
    if datamodule is None:
        return None
    described = vars(datamodule).get("description")
    if described is None:
        recorded = {name: value for name, value in datamodule.hparams.items() if is_plain(value)}
        cls = type(getattr(datamodule, "inner", datamodule))
        described = written({"class_path": public_path(cls), "init_args": recorded})
    return {"init_args": {}, **passed_on(described)}


def passed_on(described: Mapping[str, Any]) -> dict[str, Any]:
    """A DataModule's description without what no checkpoint may say: paths that lead elsewhere, and downloads."""
    local = list(described.get("local", []))
    portable_form: dict[str, Any] = portable({**described}, local)
    return {**portable_form, "local": local} if local else portable_form


def describe_trainer(trainer: Trainer) -> dict[str, Any]:
    """The settings of a Trainer that change what is trained or scored, and are not the defaults."""
    settings = {name: getattr(trainer, name) for name in TRAINER_SETTINGS}
    values = {name: value.value if isinstance(value, Enum) else value for name, value in settings.items()}
    return {name: written(value) for name, value in values.items() if is_plain(value) and not is_default(name, value)}


def is_default(name: str, value: Any) -> bool:
    """Whether a Trainer's setting says nothing. A limit of 1 is one batch, and of 1.0 all of them."""
    default = TRAINER_SETTINGS.get(name)
    return value is None or (value == default and type(value) is type(default))


def portable(value: Any, local: list[str], name: str = "") -> Any:
    """A class with its arguments, without downloads, in which paths are relative to the working directory.

    Arguments with a path that leads out of it are left out, and their dotted names added to ``local``. For a value that
    is no class, such a path is a LookupError.
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


def replace_folder(state: Any, old: str, new: str) -> Any:
    """A callback's state with the folder ``old`` at the start of each path, in keys too, replaced by ``new``."""
    if isinstance(state, str):
        return new + state.removeprefix(old) if state.startswith(old) else state
    if isinstance(state, dict):
        return {replace_folder(k, old, new): replace_folder(v, old, new) for k, v in state.items()}
    return state
