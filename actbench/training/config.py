"""The configuration of a run: a composed mapping, parsed and built by LightningCLI.

A command line, an arm of a study and the description in a checkpoint are each
composed into a mapping (`actbench.specs.compose`), parsed here by one parser, and
written in one canonical form. A cell of a study is therefore a ``fit``.
"""

import difflib
import re
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, ClassVar, NoReturn

import torch
from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeInt
from pytorch_lightning import Callback, LightningDataModule, Trainer, seed_everything
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, _get_short_description
from typing_extensions import override

from actbench import __version__, data
from actbench.data import ForeignData, ImageData, adopt
from actbench.seeding import CROSSED_REPLICATES, SOURCES, Source
from actbench.specs import UsageError, correct_parsed, import_object, one_line, readable_error, to_plain, without
from actbench.specs.compose import SPEC_NAMES
from actbench.specs.values import ABSENT, correct_arguments, defaults_of, parse_values
from actbench.training.callbacks import KeyedDraws, is_users
from actbench.training.classifier import Classifier
from actbench.training.lightning_alias import use_one_lightning

DEFAULTS = {"activation": "relu", "network": "TutorialCNN", "optimizer": "torch.optim.Adam"}
LINKED = {  # arguments of our datasets that follow from options of the run
    "seed": "a run has one seed, that of --seed_everything",
    "replicates": "its value is that of --model.replicates",
}
TRAINER_DEFAULTS = {
    "max_epochs": 100,
    "log_every_n_steps": 1,
    "enable_model_summary": False,
    "deterministic": "warn",  # as far as torch can; on a CPU it has no measurable cost
}
LIGHTNING_DEFAULTS = defaults_of(Trainer)

use_one_lightning()


class OneLineParser(LightningArgumentParser):
    """Parser with errors of one line."""

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        text = readable_error(message)
        unknown = re.search(r"(?:Group '(?P<group>[\w.]+)' does not accept option|Option) '(?P<name>[\w.+]+)'", text)
        if unknown:
            name = f"{unknown['group']}.{unknown['name']}" if unknown["group"] else unknown["name"]
            close = difflib.get_close_matches(name, [action.dest for action in self._actions], n=3, cutoff=0.7)
            hint = f"; did you mean {' or '.join(f'--{option}' for option in close)}?" if close else ""
            text = f"unknown option --{name}{hint}"
        raise UsageError(text) from ex


class BenchCLI(LightningCLI):
    """LightningCLI for one command, from a composed config.

    Each command's parser is built once per process, because a study parses every arm.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        config: The composed config; see `compose`. Without it, only the parser is built.
        build: Whether to build DataModule, model and Trainer; ``canonical`` is set without them.

    Raises:
        ValueError: An option is unknown or has a wrong value. One line.
    """

    parsers: ClassVar[dict[str, LightningArgumentParser]] = {}

    def __init__(self, command: str, config: Mapping[str, Any] | None = None, *, build: bool = True) -> None:
        self.command = command
        self.given = config
        self.builds = build and config is not None
        super().__init__(
            Classifier,
            LightningDataModule,
            run=False,
            save_config_callback=None,
            parser_class=OneLineParser,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    # --- options ---

    @override
    def setup_parser(self, *args: Any) -> None:
        if self.command not in BenchCLI.parsers:
            super().setup_parser(False, {"description": _get_short_description(getattr(Trainer, self.command))}, {})
            # Checkpoints are always read safely, predictions always returned, and scores always shown.
            skipped = self.subcommands()[self.command] | {"weights_only", "return_predictions", "verbose"}
            self.parser.add_method_arguments(Trainer, self.command, skip=skipped)
            if self.command == "predict":
                self.parser.add_argument(
                    "--output",
                    type=str | None,
                    help="File of the table, .csv or .parquet (default: predictions.csv beside the checkpoint).",
                )
            BenchCLI.parsers[self.command] = self.parser
        self.parser = BenchCLI.parsers[self.command]

    @override
    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--seed_everything",
            type=NonNegativeInt,
            default=0,
            help="Seed of the run, which keys initial weights, split, batch order, augmentation and dropout.",
        )
        parser.add_argument(
            "--vary",
            type=list[Source],
            default=list(SOURCES),
            help="Sources of randomness that differ between replicates, by default all: init, split, order, "
            "augmentation and dropout. Replicates share the others with the first replicate.",
        )
        parser.add_argument(
            "--crossed",
            type=list[Source],
            default=[],
            help="Sources of randomness to cross: of each there are 5 seeds, which up to 25 replicates combine so that "
            "any two sources meet in every combination once. A study crosses them to find where its noise comes from.",
        )
        parser.add_argument(
            "--trust",
            type=str | None,
            help="Modules, separated by commas, whose classes a checkpoint may name. ACTBENCH_TRUST adds more.",
        )

    @override
    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        linked = {"seed", "input_shape", "num_classes"}  # set by the run and its data when the model is built
        parser.add_class_arguments(Classifier, "model", skip=linked, sub_configs=True, instantiate=False)
        parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True, required=False)
        parser.add_lightning_class_args(Trainer, "trainer")
        parser.set_defaults({f"trainer.{name}": value for name, value in TRAINER_DEFAULTS.items()})

    # --- parsing and building ---

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = Namespace()  # type: ignore[no-untyped-call]
        if self.given is not None:
            self.config, given = parse_values(parser, with_defaults(self.given))
            correct_parsed(self.config, given)
            # A limit of 3 means three batches; jsonargparse may turn it into 3.0, three times all batches.
            correct_arguments(Trainer, vars(self.config.trainer), given["trainer"])
            check_crossed(self.config)
            self.canonical = canonical(self.config, given)

    @override
    def _set_seed(self) -> None:
        if self.builds:
            seed_everything(self.config.seed_everything, verbose=False)

    def build_data(self) -> Any:
        """The DataModule alone; all replicates share one that is not actbench's own."""
        config = self.config.clone()
        if is_actbench_dataset(config.data.class_path):
            config.data.init_args.seed = config.seed_everything
            config.data.init_args.replicates = config.model.replicates

        def instantiate() -> Any:
            return self.parser.instantiate(Namespace(data=config.data.clone())).data  # type: ignore[no-untyped-call]

        keys = config.model.batch_keys
        datamodule = adopt(instantiate(), keys=keys, remake=lambda: ForeignData(instantiate(), keys=keys))
        datamodule.description = self.canonical["data"]
        return datamodule

    @override
    def instantiate_classes(self) -> None:
        if not self.builds:
            return
        self.datamodule = self.build_data()
        rest = self.config.clone()
        del rest["data"]
        self.config_init = self.parser.instantiate(rest)
        self.model = Classifier(
            **vars(self.config_init.model),
            input_shape=tuple(self.datamodule.input_shape),
            num_classes=int(self.datamodule.num_classes),
            seed=self.config.seed_everything,
        )
        try:
            self.trainer = self.instantiate_trainer()
        except RuntimeError as error:  # settings of a cluster that Lightning does not take
            raise UsageError(one_line(error)) from error

    def own_callbacks(self) -> list[Callback]:
        """Callbacks from the config, after one that keys what they draw if a user has written any."""
        given = self.config_init.trainer.callbacks or []
        callbacks = [*given] if isinstance(given, list) else [given]
        return [KeyedDraws(), *callbacks] if any(is_users(type(callback)) for callback in callbacks) else callbacks


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """A composed config in which arguments without a class are given to the default class, if there is one."""
    if "study" in config:
        raise UsageError("--config has a section 'study', which `compare` runs")
    for name in {"optimizer", "lr_scheduler"} & set(config):
        raise UsageError(f"--{name}: the {name} belongs to the model, so that it is saved with it: use --model.{name}")
    model, trainer = dict(config.get("model") or {}), dict(config.get("trainer") or {})
    dataset = {"class_path": "actbench.data.Digits", **(config.get("data") or {})}
    for name in SPEC_NAMES:
        value = model.get(name)
        if isinstance(value, Mapping) and "class_path" not in value:
            if name not in DEFAULTS:
                argument = next(iter(value.get("init_args", {})), "class_path")
                raise UsageError(f"--model.{name}.{argument}: give --model.{name} too, the class that takes it")
            model[name] = {"class_path": DEFAULTS[name], **value}
        elif value is None and name in DEFAULTS:
            model.pop(name, None)
    check_dataset(dataset)
    limited = any(str(trainer.get(name)) not in ("None", "null", "-1") for name in ("max_steps", "max_time"))
    if limited and trainer.get("max_epochs") is None:
        trainer["max_epochs"] = -1  # no limit, as in Lightning
    return {**config, "trainer": trainer, "model": model, "data": dataset}


def check_dataset(dataset: Mapping[str, Any]) -> None:
    """Raise UsageError for a dataset with an unknown name, or with arguments that follow from the run."""
    path = str(dataset["class_path"])
    if "." not in path:
        names = [cls.__name__ for cls in data.DATASETS]
        close = difflib.get_close_matches(path.lower(), map(str.lower, names), n=3, cutoff=0.5)
        hint = [name for name in names if name.lower() in close] or names
        raise UsageError(f"--data: unknown dataset '{path}'; give a class path or one of {', '.join(hint)}")
    for name, reason in LINKED.items() if is_actbench_dataset(path) else ():
        if name in (dataset.get("init_args") or {}):
            raise UsageError(f"--data.{name}: {reason}")


def check_crossed(parsed: Namespace) -> None:
    """Raise UsageError for crossed sources that do not vary, or that have more replicates than combinations."""
    fixed = [source for source in parsed.crossed if source not in parsed.vary]
    if fixed:
        raise UsageError(f"--crossed: {', '.join(fixed)} does not vary, see --vary")
    if parsed.crossed and parsed.model.replicates > CROSSED_REPLICATES:
        raise UsageError(
            f"--crossed combines 5 seeds of each source in {CROSSED_REPLICATES} replicates, "
            f"got --model.replicates {parsed.model.replicates}"
        )


def is_actbench_dataset(class_path: str) -> bool:
    """Whether a class path names a dataset of actbench, or a user's subclass of `ImageData`."""
    try:
        return issubclass(import_object(class_path), ImageData)
    except Exception:  # users' modules raise errors of any kind; the parser will say what is wrong
        return False


def canonical(parsed: Namespace, given: Mapping[str, Any]) -> dict[str, Any]:
    """A fit's config in the form of config.yaml, checkpoints, records and pages. Parsing it gives it again.

    It holds every setting of model and data that a config can hold, and the
    settings of the Trainer that are not Lightning's defaults. ``given`` is the
    composed config `with_defaults`, and ``parsed`` the parser's result.
    """
    model = {name: parsed.model[name] and parsed.model[name].to_dict() for name in SPEC_NAMES}
    names = ("replicates", "engine", "compile", "stack_width", "batch_keys", "sites", "weights", "freeze", "init")
    options = {name: to_plain(parsed.model[name]) for name in (*names, "lr_interval")}
    options["mechanism"] = parsed.model.mechanism or None
    if isinstance(options["freeze"], str):
        options["freeze"] = [options["freeze"]]
    model |= {name: value for name, value in options.items() if value not in (None, "auto", "hidden", "as_is")}
    dataset = to_plain(parsed.data, given["data"])
    if is_actbench_dataset(dataset["class_path"]):
        dataset["init_args"] = without(dataset.get("init_args", {}), *LINKED)
    trainer = {
        name: to_plain(value, given["trainer"].get(name, ABSENT))
        for name, value in vars(parsed.trainer).items()
        if value != LIGHTNING_DEFAULTS[name] or type(value) is not type(LIGHTNING_DEFAULTS[name])
    }
    if isinstance(trainer.get("callbacks"), dict):
        trainer["callbacks"] = [trainer["callbacks"]]
    seeds: dict[str, Any] = {"seed_everything": int(parsed.seed_everything)}
    if set(parsed.vary) < set(SOURCES):
        seeds["vary"] = [source for source in SOURCES if source in parsed.vary]
    if parsed.crossed:
        seeds["crossed"] = [source for source in SOURCES if source in parsed.crossed]
    return {**seeds, "trainer": trainer, "model": model, "data": dataset}


def library_versions() -> str:
    """Versions of actbench and the libraries that determine a run's results."""
    return f"actbench {__version__}, torch {torch.__version__}, pytorch-lightning {version('pytorch-lightning')}"
