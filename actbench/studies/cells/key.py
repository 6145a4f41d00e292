"""What a cell's results follow from, and what they do not: the key by which finished cells are found again."""

import ast
import importlib
import importlib.util
import inspect
import os
import re
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from uuid import uuid4

from actbench import __version__
from actbench.data.contents import files_hash
from actbench.specs import without
from actbench.specs.compose import SPEC_NAMES
from actbench.training.checkpoints import is_default
from actbench.training.config import LIGHTNINGS, is_ours

PRECISIONS = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}  # Lightning's short forms


class Counts(NamedTuple):
    """Whether something is part of the key, and why."""

    counts: bool
    reason: str


WHERE = Counts(False, "where and how fast it runs; results agree to rounding")
SHOWS = Counts(False, "what is logged, shown or kept")
TRAINS = Counts(True, "what is trained, and for how long")
SCORES = Counts(True, "what is scored, or when; early stopping and best weights follow from it")

KEY: Mapping[str, Counts] = {
    "seed_everything": Counts(False, "each record has its own seed"),
    "trust": Counts(False, "which checkpoints are read"),
    "ckpt_path": Counts(False, "a cell starts afresh"),
    "model.activation": TRAINS,
    "model.network": TRAINS,
    "model.optimizer": TRAINS,
    "model.lr_scheduler": TRAINS,
    "model.batch_keys": Counts(True, "what of a batch is trained on"),
    "model.replicates": Counts(False, "a replicate does not depend on its company"),
    "model.stack_width": Counts(False, "a replicate does not depend on its company"),
    "data": Counts(True, "the split, the batches and how they are made"),
    "data.root": Counts(False, "of our datasets: where files are, not what they hold"),
    "data.download": Counts(False, "of our datasets: how files came there, not what they hold"),
    "a path among the arguments of another DataModule": Counts(False, "where files are, not what they hold"),
    "files": Counts(True, "what files hold that another argument or the user's code names, such as pretrained weights"),
    "digest": Counts(True, "what the data hold: files, labels and transforms may change under the same names"),
    "code": Counts(True, "the user's own modules, with all that they import from outside of installed packages"),
    "versions": Counts(True, "torch, Lightning, actbench and the packages that the user's modules import"),
    "weights": SCORES,
    "vary": Counts(True, "which sources of randomness differ from seed to seed"),
    "trainer.accelerator": WHERE,
    "trainer.strategy": WHERE,
    "trainer.devices": WHERE,
    "trainer.num_nodes": WHERE,
    "trainer.plugins": Counts(True, "they may change anything, precision above all"),
    "trainer.precision": TRAINS,
    "trainer.logger": SHOWS,
    "trainer.callbacks": Counts(True, "they may change anything"),
    "trainer.fast_dev_run": Counts(False, "no cell is run so"),
    "trainer.max_epochs": TRAINS,
    "trainer.min_epochs": TRAINS,
    "trainer.max_steps": TRAINS,
    "trainer.min_steps": TRAINS,
    "trainer.max_time": TRAINS,
    "trainer.limit_train_batches": TRAINS,
    "trainer.limit_val_batches": SCORES,
    "trainer.limit_test_batches": SCORES,
    "trainer.limit_predict_batches": Counts(False, "no cell predicts"),
    "trainer.overfit_batches": TRAINS,
    "trainer.val_check_interval": SCORES,
    "trainer.check_val_every_n_epoch": SCORES,
    "trainer.num_sanity_val_steps": Counts(False, "nothing is trained or kept"),
    "trainer.log_every_n_steps": SHOWS,
    "trainer.enable_checkpointing": SHOWS,
    "trainer.enable_progress_bar": SHOWS,
    "trainer.enable_model_summary": SHOWS,
    "trainer.accumulate_grad_batches": TRAINS,
    "trainer.gradient_clip_val": TRAINS,
    "trainer.gradient_clip_algorithm": TRAINS,
    "trainer.deterministic": WHERE,
    "trainer.benchmark": WHERE,
    "trainer.inference_mode": WHERE,
    "trainer.use_distributed_sampler": WHERE,
    "trainer.profiler": SHOWS,
    "trainer.detect_anomaly": Counts(False, "it looks on"),
    "trainer.barebones": Counts(False, "no cell is run so"),
    "trainer.sync_batchnorm": WHERE,
    "trainer.reload_dataloaders_every_n_epochs": TRAINS,
    "trainer.default_root_dir": SHOWS,
    "trainer.enable_autolog_hparams": SHOWS,
    "trainer.model_registry": SHOWS,
}


def factors(
    config: Mapping[str, Any], digest: str, weights: str, *, fixed: Sequence[str], fixed_seed: int
) -> dict[str, Any]:
    """What the results of a cell with these fields follow from, in plain values that JSON holds; see `Cell`."""
    model, trainer = config["model"], dict(config["trainer"])
    if "precision" in trainer:
        trainer["precision"] = PRECISIONS.get(str(trainer["precision"]), trainer["precision"])
    callbacks = trainer.pop("callbacks", [])
    settings = {
        name: value
        for name, value in trainer.items()
        if KEY[f"trainer.{name}"].counts and not is_default(name, value) and value != LIGHTNINGS[name]
    }
    own, packages = code(config)
    result = {
        "data": without_paths(config["data"]),
        **{name: model[name] for name in SPEC_NAMES},
        "callbacks": callbacks,
        **({"batch_keys": model["batch_keys"]} if "batch_keys" in model else {}),
        "trainer": settings,
        "digest": digest,
        "versions": {name: version(name).partition("+")[0] for name in sorted(packages)} | {"actbench": __version__},
        "weights": weights,
        **({"fixed": sorted(fixed), "fixed_seed": fixed_seed} if fixed else {}),
        **({"code": own} if own else {}),
        **({"files": files} if (files := dict(files_named(without(config, "data"), own))) else {}),
    }
    return result


def without_paths(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """A DataModule with its arguments, but for those that say where files are: a file counts by what it holds."""
    arguments = dataset.get("init_args", {})
    if is_ours(dataset["class_path"]):
        return {**dataset, "init_args": without(arguments, "root", "download")}
    files = {name: hash_of(value) for name, value in arguments.items() if is_file(value)}
    folders = [name for name, value in arguments.items() if is_folder(name, value)]
    return {**dataset, "init_args": {**without(arguments, *folders), **files}}


def is_folder(name: str, value: Any) -> bool:
    """Whether an argument is a folder, and no word that happens to be the name of one."""
    named = os.sep in str(value) or value in ("", ".", "..") or re.search("root|dir|path|folder", name) is not None
    return isinstance(value, str) and named and os.path.isdir(Path(value))  # noqa: PTH112  # never an error


def is_file(value: Any) -> bool:
    """Whether a value is the path of a file that holds something."""
    return isinstance(value, str) and os.path.isfile(Path(value)) and Path(value).stat().st_size > 0  # noqa: PTH113


def hash_of(file: str) -> str:
    """Hash of a file's content."""
    return files_hash((Path(file),)).hex()[:32]


# --- code ---


def code(config: Mapping[str, Any]) -> tuple[dict[str, str], set[str]]:
    """Hashes of the user's own modules that a config's classes come from or import, and the packages they rest on.

    Everything that looks like a dotted name counts, since functions and types are given by name, too. What a module
    imports only while it runs, by a name that it makes up, is not seen.
    """
    found: dict[str, str] = {}
    packages = {"torch", "torchvision", "pytorch-lightning"}
    waiting = [module for path in dotted_names(config) for module in modules_of(path)]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        file = file_of(name)
        if file is None:
            distributions = distributions_of().get(name.partition(".")[0], [])
            packages |= {of for of in distributions if of != "actbench"}
        else:
            found[name] = source_hash(name, file)
            waiting += imports(name, file)
    return found, packages


def files_named(config: Mapping[str, Any], modules: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Files, such as pretrained weights, that a config or a text in the user's own modules names, with their hashes."""
    waiting: list[Any] = [config]
    for name in modules:
        file = file_of(name)
        if file is not None and file.suffix == ".py":
            waiting += [node.value for node in ast.walk(ast.parse(file.read_bytes())) if isinstance(node, ast.Constant)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        elif is_file(value):
            yield value, hash_of(value)


def dotted_names(value: Any) -> Iterator[str]:
    """Texts at any depth that may name a class or a function."""
    if isinstance(value, str):
        if "." in value and all(part.isidentifier() for part in value.split(".")):
            yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from dotted_names(item)


def modules_of(path: str) -> Iterator[str]:
    """Modules in which a class and its base classes are written; none if the text is no path of one."""
    module, _, name = path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)  # what a parsed config names was imported
    if found is not None:
        yield module
    for cls in inspect.getmro(found) if isinstance(found, type) else (found,):
        yield from (name for name in [getattr(cls, "__module__", None)] if isinstance(name, str) and name != "builtins")


@cache
def installed_folders() -> tuple[Path, ...]:
    """Folders of the standard library and of installed packages."""
    paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple(Path(path).resolve() for path in (*paths, *site.getsitepackages(), site.getusersitepackages()))


distributions_of = cache(packages_distributions)
PACKAGE = Path(__file__).resolve().parents[2]  # actbench


def file_of(name: str) -> Path | None:
    """The file of a user's own module; None for an installed one, and for actbench, which versions tell."""
    module = sys.modules.get(name)
    with suppress(Exception):  # of any kind, in the packages above it
        spec = getattr(module, "__spec__", None) or importlib.util.find_spec(name)
        if module is not None and spec is None:  # a notebook, or a script that was started
            return Path(getattr(module, "__file__", None) or "")
        if spec is not None and spec.origin and spec.has_location:
            file = Path(spec.origin).resolve()
            return None if any(map(file.is_relative_to, (*installed_folders(), PACKAGE))) else file
    return None


def source_hash(name: str, file: Path) -> str:
    """Hash of a module's file; of a notebook's, whose cells are kept nowhere else, of its functions and classes."""
    if file.is_file():
        return sha256(file.read_bytes()).hexdigest()[:32]
    text = ""
    for value in vars(sys.modules[name]).values():
        if getattr(value, "__module__", None) == name and (inspect.isclass(value) or inspect.isfunction(value)):
            try:
                text += inspect.getsource(value)
            except (OSError, TypeError):  # what cannot be known is another each time
                text += uuid4().hex
    return sha256(text.encode()).hexdigest()[:32]


def imports(name: str, file: Path) -> list[str]:
    """Modules that a module imports, at its start or in a function, and the package that it lies in."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found = [name.rpartition(".")[0]] if "." in name else []
    if file.suffix == ".py":
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                found += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = "." * node.level + (node.module or "")
                base = importlib.util.resolve_name(base, package) if node.level else base
                found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    module = sys.modules.get(name)
    for value in vars(module).values() if module else ():  # what came by other ways
        found.append(value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None) or "")
    return [of for of in found if isinstance(of, str) and of and of not in ("builtins", "__future__")]
