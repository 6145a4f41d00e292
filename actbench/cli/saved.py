"""What a checkpoint says beside what the user says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actbench.seeding import SOURCES
from actbench.specs import NetworkSpec, Spec, UsageError, class_paths, merge_config, read_file, setting, without
from actbench.specs.compose import SPEC_NAMES, SPECS, nest
from actbench.specs.values import ABSENT
from actbench.training import checkpoints
from actbench.training.transfer import digest_beside

MOST_NAMED = 3  # arguments in the message about a contradiction


def read_saved(command: str, ckpt_path: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The description in a checkpoint, with the optimiser steps that it has taken and the state of its DataModule.

    They are ``global_step`` and ``data_state``, which is None if there is none or another DataModule is used.

    Paths of the DataModule, which a checkpoint does not hold, come from the run's config beside it.
    """
    trusted = checkpoints.trusted_names(given.get("trust"))
    trusted += [str(path).partition(".")[0] for path in class_paths(without(given, "trainer")) if "." in str(path)]
    description, content = checkpoints.read_checkpoint(ckpt_path, trust=trusted, data=setting(given, "data.class_path"))
    if command == "fit" and "optimizer_states" not in content:
        raise UsageError(f"no fit can go on from {ckpt_path}: it holds no state of the optimizer; give last.ckpt")
    name = description["data"] and description["data"]["class_path"].rpartition(".")[2]
    saved = {**description, "global_step": content["global_step"], "data_state": content.get(name)}
    described, folder = saved["data"], Path(ckpt_path).absolute().parent
    local = (described or {}).get("local", [])
    configs = [path for path in (folder.parent / "config.yaml", folder / "config.yaml") if path.is_file()]
    if configs and local:
        config = read_file(str(configs[0]), "config")
        if setting(config, "data.class_path") == described["class_path"]:
            completed = {"data": without(described, "local")}
            for name in map(data_setting, local):
                if (value := setting(config, name)) is not None:
                    completed = merge_config(completed, nest(name, value))
            saved["data"] = {**completed["data"], "local": local}
    return saved


def data_setting(argument: str) -> str:
    """The setting of a DataModule's argument, which may be an argument's argument such as ``transform.size``."""
    return f"data.init_args.{argument.replace('.', '.init_args.')}"


def as_config(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's description as a config."""
    model = without(saved["model"], "input_shape", "num_classes", "engine", "compile")
    config = {"seed_everything": saved["seed"], "trainer": saved["trainer"], "model": model}
    config |= {"vary": saved["vary"], "crossed": saved.get("crossed", [])}
    return merge_config({}, {**config, "data": saved["data"] and without(saved["data"], "local")})


def refuse_contradictions(saved: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raise a UsageError for options that contradict the checkpoint: another network or split would be scored."""
    values = {}
    for name in SPEC_NAMES:  # built from both, because another version of torch may add arguments
        option = f"model.{name}"
        values[option] = tuple(
            value and SPECS[option](value) for value in (saved["model"][name], config["model"][name])
        )
    networks = (NetworkSpec(model["network"]) for model in (saved["model"], config["model"]))
    values["model.network"] = tuple(NetworkSpec(network.trained_form()) for network in networks)
    values["model.freeze"] = tuple(", ".join(model.get("freeze", [])) for model in (saved["model"], config["model"]))
    start = saved["model"].get("weights")
    values["model.weights"] = start, digest_beside(config["model"].get("weights"), start)
    for name, default in (("sites", "hidden"), ("init", "as_is"), ("lr_interval", "none")):
        values[f"model.{name}"] = tuple(str(model.get(name, default)) for model in (saved["model"], config["model"]))
    values["model.replicates"] = saved["model"]["replicates"], config["model"]["replicates"]
    for name, every in (("vary", SOURCES), ("crossed", ())):
        values[name] = ", ".join(saved.get(name, every)), ", ".join(config.get(name, every))
    values["seed_everything"] = str(saved["seed"]), str(config["seed_everything"])
    for option, (old, new) in values.items():
        if old != new:
            hint = "since another seed mixes the splits" if option == "seed_everything" else "or fit anew"
            raise UsageError(
                f"--{option} contradicts the checkpoint, which has {apart(old, new)}, not {apart(new, old)}: "
                f"leave it out, {hint}"
            )


def apart(value: Any, other: Any) -> str:
    """What tells an option's value from another: of a spec its class, or the first arguments that differ."""
    if not isinstance(value, Spec):
        return str(value or "none")
    if not isinstance(other, Spec) or value.class_path != other.class_path:
        return value.class_path
    own, others = (spec.to_dict()["init_args"] for spec in (value, other))
    names = [n for n in sorted({**own, **others}) if own.get(n, ABSENT) != others.get(n, ABSENT)]
    words = [f"{name}={own[name]}" if name in own else f"no {name}" for name in names[:MOST_NAMED]]
    return ", ".join([*words, *(["..."] if len(names) > MOST_NAMED else [])])
