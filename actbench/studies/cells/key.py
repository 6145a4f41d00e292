"""The key by which finished cells are found again: all that a cell's results follow from, and nothing else."""

import ast
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from actbench import __version__
from actbench.data.contents import files_hash, joint_hash
from actbench.seeding import Sharing, levels
from actbench.specs import without
from actbench.specs.compose import SPEC_NAMES, SPECS
from actbench.studies.cells.code import dotted_names, leaves, named_leaves, source_file, user_code
from actbench.training.callbacks import mixing_callbacks
from actbench.training.checkpoints import is_default
from actbench.training.config import LIGHTNING_DEFAULTS, is_actbench_dataset
from actbench.training.transfer import weights_digest

PRECISIONS = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}  # Lightning's short forms
MOST_FILES, MOST_BYTES = 1000, 2**26  # of a folder whose files are read


class Counts(NamedTuple):
    """Whether a setting is part of the key, and why."""

    counts: bool
    reason: str


def trainer_settings(counts: bool, reason: str, *names: str) -> dict[str, Counts]:
    """Rows of `KEY` for settings of the Trainer that count, or do not count, for one reason."""
    return {f"trainer.{name}": Counts(counts, reason) for name in names}


KEY: Mapping[str, Counts] = {
    "seed_everything": Counts(False, "each record has its own seed"),
    "trust": Counts(False, "which checkpoints are read"),
    "ckpt_path": Counts(False, "a cell starts afresh"),
    **dict.fromkeys(SPECS, Counts(True, "what is trained")),
    "model.sites": Counts(True, "which activations of someone's network are swapped"),
    "model.batch_keys": Counts(True, "which parts of a batch are trained on"),
    "model.weights": Counts(True, "the content of the file, wherever it is"),
    "model.init": Counts(True, "the scale of the initial weights"),
    "model.freeze": Counts(True, "which parameters are trained"),
    "model.lr_interval": Counts(True, "how often the learning rate changes"),
    **dict.fromkeys(
        ("model.replicates", "model.stack_width", "model.engine", "model.compile"),
        Counts(False, "a replicate does not depend on its company; engines agree to rounding"),
    ),
    "model.mechanism": Counts(False, "it is measured beside training; cells that hold it lie in a folder of their own"),
    "data": Counts(True, "the split, the batches and how they are made"),
    "data.root": Counts(False, "of our datasets: where files are, not what they hold"),
    "data.download": Counts(False, "of our datasets: how files came there, not what they hold"),
    "a path among the arguments of another DataModule": Counts(False, "where files are, not what they hold"),
    "files": Counts(True, "content of files, such as pretrained weights, that other arguments or the user's code name"),
    "folders": Counts(True, "content of folders that arguments of the model's classes name, except caches"),
    "a folder among the arguments of a callback": Counts(False, "callbacks write to folders"),
    "digest": Counts(True, "content of the data: files, labels and transforms may change under the same names"),
    "code": Counts(True, "the user's own modules and all that they import from outside installed packages"),
    "versions": Counts(True, "torch, Lightning, actbench and the packages that the user's modules import"),
    "weights": Counts(True, "which weights are scored"),
    "vary": Counts(True, "which sources of randomness differ from seed to seed"),
    "crossed": Counts(True, "which seeds share a source of randomness"),
    **trainer_settings(
        True,
        "what is trained, and for how long",
        *("precision", "max_epochs", "min_epochs", "max_steps", "min_steps", "max_time", "limit_train_batches"),
        *("overfit_batches", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm"),
        "reload_dataloaders_every_n_epochs",
    ),
    **trainer_settings(
        True,
        "what is scored, or when; early stopping and best weights follow from it",
        *("limit_val_batches", "limit_test_batches", "val_check_interval", "check_val_every_n_epoch"),
    ),
    **trainer_settings(True, "they may change anything, such as the precision", "plugins", "callbacks"),
    **trainer_settings(
        False,
        "where and how fast a cell runs; results agree to rounding",
        *("accelerator", "strategy", "devices", "num_nodes", "deterministic", "benchmark", "inference_mode"),
        *("use_distributed_sampler", "sync_batchnorm"),
    ),
    **trainer_settings(
        False,
        "what is logged, shown or kept",
        *("logger", "log_every_n_steps", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"),
        *("profiler", "detect_anomaly", "default_root_dir", "enable_autolog_hparams", "model_registry"),
    ),
    **trainer_settings(False, "it trains and keeps nothing", "num_sanity_val_steps", "limit_predict_batches"),
    **trainer_settings(False, "no cell runs with it", "fast_dev_run", "barebones"),
}


def factors(
    config: Mapping[str, Any],
    digest: str,
    weights: str,
    *,
    sharing: Sharing,
    known: dict[frozenset[Any], Any] | None = None,
) -> dict[str, Any]:
    """All that the results of a cell with these fields follow from, in plain values that JSON holds; see `Cell`.

    To a plan of many cells, ``known`` holds what was found in files, which do not change meanwhile.
    """
    model, trainer = config["model"], dict(config["trainer"])
    if "precision" in trainer:
        trainer["precision"] = PRECISIONS.get(str(trainer["precision"]), trainer["precision"])
    callbacks = trainer.pop("callbacks", [])
    settings = {
        name: value
        for name, value in trainer.items()
        if KEY[f"trainer.{name}"].counts and not is_default(name, value) and value != LIGHTNING_DEFAULTS[name]
    }
    known = {} if known is None else known
    texts = frozenset(value for value in leaves(config) if isinstance(value, str))
    if texts not in known:
        sources, packages = user_code(config)
        versions = {name: version(name).partition("+")[0] for name in sorted(packages)}
        known[texts] = sources, versions
    sources, versions = known[texts]
    others = {**without(config, "data"), "model": without(model, "weights")}
    named = frozenset((name, value, *sources) for name, value in named_leaves(others) if isinstance(value, str))
    if named not in known:
        known[named] = {**named_files(others, sources), **dict(named_folders(model))}
    files = known[named]
    start = frozenset([("model.weights", model["weights"])] if "weights" in model else ())
    if start and start not in known:
        known[start] = weights_digest(model["weights"])
    return {
        "data": without_paths(config["data"]),
        **{name: model[name] for name in SPEC_NAMES},
        "callbacks": callbacks,
        **({"seeds": "one by one"} if mixing_callbacks(config["trainer"]) else {}),  # earlier records mixed them
        **({"initial_weights": known[start]} if start else {}),
        **{name: model[name] for name in ("batch_keys", "freeze", "init", "lr_interval", "sites") if name in model},
        "trainer": settings,
        "digest": digest,
        "versions": {**versions, "actbench": __version__},
        "weights": weights,
        **({"fixed": sorted(sharing.fixed), "fixed_seed": sharing.first} if sharing.fixed else {}),
        **({"crossed": crossed_levels(sharing), "first_seed": sharing.first} if sharing.crossed else {}),
        **({"code": sources} if sources else {}),
        **({"files": files} if files else {}),
    }


def crossed_levels(sharing: Sharing) -> list[tuple[str, list[int]]]:
    """The crossed sources in order, each with the number of the seed that every replicate has, from the first on."""
    return [(source, [*levels(column)]) for column, source in enumerate(sharing.crossed)]


def without_paths(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """A DataModule with its arguments, without folders, and with the content's hash in place of a file's path."""
    arguments = dataset.get("init_args", {})
    if is_actbench_dataset(dataset["class_path"]):
        return {**dataset, "init_args": without(arguments, "root", "download")}
    files = {name: file_hash(value) for name, value in arguments.items() if is_file(value)}
    folders = [name for name, value in arguments.items() if is_folder(name, value)]
    return {**dataset, "init_args": {**without(arguments, *folders), **files}}


def is_folder(name: str, value: Any) -> bool:
    """Whether an argument is the path of a folder, not a word that happens to be the name of a folder."""
    path_like = os.sep in str(value) or value in ("", ".", "..") or re.search("root|dir|path|folder", name) is not None
    return isinstance(value, str) and path_like and os.path.isdir(Path(value))  # noqa: PTH112  # never an error


def is_file(value: Any) -> bool:
    """Whether a value is the path of a file that is not empty."""
    return isinstance(value, str) and os.path.isfile(Path(value)) and Path(value).stat().st_size > 0  # noqa: PTH113


def file_hash(path: str) -> str:
    """Hash of a file's content."""
    return files_hash((Path(path),)).hex()[:32]


def folder_hash(path: str) -> str:
    """Hash of the names and contents of files at any depth of a folder; of sizes and times if there is much to read.

    Hidden files and folders, compiled code and links to folders are left out.
    """
    files = list[Path]()
    for folder, below, names in os.walk(path):
        below[:] = [name for name in below if not name.startswith(".") and name != "__pycache__"]
        files += [Path(folder, name) for name in names if not name.startswith(".")]
    stats = {file: file.stat() for file in sorted(files) if file.is_file()}
    is_read = len(stats) <= MOST_FILES and sum(stat.st_size for stat in stats.values()) <= MOST_BYTES
    contents = [file_hash(str(file)) if is_read else f"{at.st_size} {at.st_mtime_ns}" for file, at in stats.items()]
    entries = [f"{file.relative_to(path)}\n{text}" for file, text in zip(stats, contents, strict=True)]
    return joint_hash(*map(os.fsencode, entries)).hex()[:32]


# --- code ---


def named_files(config: Mapping[str, Any], modules: Iterable[str]) -> dict[str, str]:
    """Names and hashes of files, such as pretrained weights, that a config or a text in the user's modules names.

    Names are sought in the working folder. Texts of the modules and arguments of the model are also sought in the
    folders of the modules and around them, one by one and joined, as in ``HERE.parent / "conf" / "act.json"``.
    """
    code: set[Any] = set()
    folders = set[Path]()
    for name in modules:
        file = source_file(name)
        if file is not None and file.suffix == ".py":
            code |= {node.value for node in ast.walk(ast.parse(file.read_bytes())) if isinstance(node, ast.Constant)}
            folders |= {*file.parents[: name.count(".") + 2]}  # up to the one around the folder of top-level modules
    found = {value: {file_hash(value)} for value in (*leaves(config), *code) if is_file(value)}
    known = {Path(value).resolve() for value in found}
    packages = {name.replace(".", os.sep) for name in dotted_names({"code": [*code]})}  # that hold files as resources
    texts = code | packages | {*leaves(without(config, "trainer"))}  # to whose files callbacks write
    for name, path in joined_files([*sorted(folders), Path.cwd()], texts):
        if path.resolve() not in known:
            known.add(path.resolve())
            found.setdefault(name, set()).add(file_hash(str(path)))
    return {name: "".join(sorted(hashes)) for name, hashes in found.items()}  # several folders may hold a name


def joined_files(folders: Iterable[Path], texts: Iterable[Any]) -> Iterator[tuple[str, Path]]:
    """Files in and below some folders whose paths can be joined from texts, each with its name and path.

    Folders of studies are left out: each run writes there.
    """
    parts = [PurePath(text).parts for text in texts if isinstance(text, str) and "\n" not in text]
    pieces = {PurePath(*(part for part in path if part not in (os.sep, ".."))) for path in parts} - {PurePath()}
    waiting = [(folder.resolve(), PurePath()) for folder in dict.fromkeys(folders)]
    known = {folder for folder, _ in waiting}  # links may lead in circles
    for folder, name in waiting:
        for piece in sorted(pieces):
            path = folder / piece
            if is_file(str(path)):
                if not any((above / "study.yaml").is_file() and (above / "arms").is_dir() for above in path.parents):
                    yield str(name / piece), path
            elif os.path.isdir(path) and path.resolve() not in known:  # noqa: PTH112  # never an error
                known.add(path.resolve())
                waiting.append((path, name / piece))


def named_folders(model: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Paths and hashes of folders that arguments of a model's classes name.

    Caches and folders around the working folder are left out: downloads, logs and studies change them.
    """
    for name, value in named_leaves([model[name] for name in SPEC_NAMES]):
        if is_folder(name, value) and "cache" not in name and not Path.cwd().is_relative_to(Path(value).resolve()):
            yield value, folder_hash(value)
