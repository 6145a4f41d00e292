"""``fit``, ``validate``, ``test`` and ``predict``: LightningCLI with its faults mended.

What the user typed or wrote comes first, then the checkpoint, then the
defaults; no argument of one class is kept for another.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
import torch
from jsonargparse import ArgumentError, Namespace
from jsonargparse.typing import NonNegativeInt, register_type
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]
from typing_extensions import override

from actbench import __version__, cells, checkpoints, data
from actbench.callbacks import (
    BestCheckpoint,
    EpochLines,
    Interruption,
    LastCheckpoint,
    ReplicateBar,
    RunFolder,
    RunLogger,
)
from actbench.classifier import Classifier
from actbench.cli.arguments import (
    UsageError,
    check_data,
    class_paths,
    fold_specs,
    last,
    read_config,
    reset_data,
    trusted,
)
from actbench.cli.main import COMMANDS, fail, shown_path
from actbench.cli.messages import quieten, readable, report_fit, report_interruption, report_scores
from actbench.predictions import FORMATS, predicted_scores, write_predictions
from actbench.processor import choose_threads, keep_memory
from actbench.records import Store
from actbench.scores import gather
from actbench.specs import ActivationSpec, NetworkSpec, OptimizerSpec, SchedulerSpec, Spec, one_line
from actbench.stack import StackError

SPECS: dict[str, type[Spec]] = {
    "activation": ActivationSpec,
    "network": NetworkSpec,
    "optimizer": OptimizerSpec,
    "lr_scheduler": SchedulerSpec,
}

for spec_class in SPECS.values():
    register_type(spec_class, serializer=spec_class.to_dict, type_check=isinstance)


class OneLineParser(LightningArgumentParser):
    """Parser whose errors are one line."""

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UsageError(readable(message)) from ex


class BenchCLI(LightningCLI):
    """One command of actbench on Lightning's Trainer."""

    def __init__(self, command: str, options: Sequence[str]) -> None:
        self.saved: dict[str, Any] | None = None
        super().__init__(
            Classifier,
            LightningDataModule,
            args=[command, *options],
            save_config_callback=None,
            seed_everything_default=0,
            # Deterministic as far as torch can: on a processor it cost nothing measurable.
            trainer_defaults={
                "max_epochs": 100,
                "log_every_n_steps": 1,
                "enable_model_summary": False,
                "deterministic": "warn",
            },
            parser_class=OneLineParser,
            parser_kwargs={"allow_abbrev": False},
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    # --- options ---

    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        # Checkpoints are always read without running code, predictions always kept, and scores always shown.
        skipped = {"weights_only", "return_predictions", "verbose"}
        return {name: skip | skipped for name, skip in LightningCLI.subcommands().items()}

    @override
    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        kwargs["description"] = COMMANDS[subcommand]
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.add_argument(
                "--output",
                type=str | None,
                help="The table's file, .csv or .parquet (default: predictions.csv beside the checkpoint).",
            )
        return parser

    @override
    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        versions = (
            f"actbench {__version__}, torch {torch.__version__}, pytorch-lightning {version('pytorch-lightning')}"
        )
        return super().init_parser(dump_header=[versions], **kwargs)

    @override
    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--seed_everything",
            type=NonNegativeInt,
            default=0,
            help="Seed of the run: keys initial weights, split, batch order, augmentation and dropout.",
        )
        parser.add_argument(
            "--trust",
            type=str | None,
            help="Modules, separated by commas, whose classes a checkpoint may name; also ACTBENCH_TRUST.",
        )

    @override
    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(Classifier, "model")
        parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True, required=False)
        parser.add_lightning_class_args(Trainer, "trainer")
        parser.set_defaults({f"trainer.{name}": value for name, value in self.trainer_defaults.items()})
        parser.set_defaults({"data": {"class_path": "actbench.data.Digits"}})
        parser.link_arguments("seed_everything", "model.seed")
        parser.link_arguments("seed_everything", "data.init_args.seed")
        parser.link_arguments("model.replicates", "data.init_args.replicates")
        parser.link_arguments("data", "model.input_shape", compute_fn=self._input_shape, apply_on="instantiate")
        parser.link_arguments("data", "model.num_classes", compute_fn=data.num_classes, apply_on="instantiate")
        for name in ("optimizer", "lr_scheduler"):
            moved = f"the {name} belongs to the model, so that it is saved with it: use --model.{name}"
            parser.add_argument(f"--{name}", action=jsonargparse.ActionFail(message=moved), help=argparse.SUPPRESS)

    # --- parsing ---

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        command, *options = args
        check_data(options, [cls.__name__ for cls in data.DATASETS])
        ckpt_path = last(options, "ckpt_path")
        if ckpt_path:
            chosen = next(reversed(list(class_paths(options, ["data"]))), None)
            self.saved = checkpoints.read_description(str(ckpt_path), trust=trusted(options), data=chosen)
            if command == "fit" and "optimizer_states" not in checkpoints.load(str(ckpt_path)):
                raise UsageError(
                    f"no fit can go on from {ckpt_path}: its weights may be from several epochs; give last.ckpt"
                )
            self._parser(command).set_defaults(self._saved_defaults(str(ckpt_path)))
        elif command != "fit" and not {"-h", "--help"} & set(options):
            raise UsageError(f"{command} needs --ckpt_path: without it, it would score an untrained network")
        defaults = self._parser(command).get_defaults()
        specs = {
            f"model.{name}": defaults.model[name] and SPECS[name](defaults.model[name]).to_dict() for name in SPECS
        }
        options = reset_data(fold_specs(options, specs), defaults.data.class_path)
        self.config = parser.parse_args([command, *options])
        config = self.config[command]
        if self.saved:
            self._refuse_contradictions(config)
        if config.get("output") and Path(config.output).suffix not in FORMATS:
            raise UsageError(f"--output: {config.output} must end in {' or '.join(FORMATS)}")

    @override
    def _parse_ckpt_path(self) -> None:
        """Nothing: parse_arguments has taken the checkpoint into account."""

    def _saved_defaults(self, ckpt_path: str) -> dict[str, Any]:
        """What the checkpoint says, as defaults of the options."""
        assert self.saved is not None
        defaults = {f"model.{name}": self.saved["model"][name] for name in (*SPECS, "replicates")}
        defaults |= {f"trainer.{name}": value for name, value in self.saved["trainer"].items()}
        defaults["seed_everything"] = self.saved["seed"]
        if self.saved["data"]:
            defaults["data"] = with_local_paths(self.saved["data"], Path(ckpt_path))
        return defaults

    def _refuse_contradictions(self, config: Namespace) -> None:
        """Model options that are not the checkpoint's: the weights would be scored in another network."""
        assert self.saved is not None
        for name, spec_class in SPECS.items():
            # Made anew, as what was given is: another version of torch may have arguments more.
            saved = self.saved["model"][name] and spec_class(self.saved["model"][name])
            if saved != config.model[name]:
                raise UsageError(
                    f"--model.{name} contradicts the checkpoint, which has {saved or 'none'}, not "
                    f"{config.model[name] or 'none'}: leave it out, or fit another network"
                )
        if self.saved["model"]["replicates"] != config.model.replicates:
            raise UsageError(
                f"--model.replicates contradicts the checkpoint, which has {self.saved['model']['replicates']}, not "
                f"{config.model.replicates}: leave it out, or fit anew"
            )
        if self.saved["seed"] != config.seed_everything:
            raise UsageError(
                f"--seed_everything contradicts the checkpoint, whose seed is {self.saved['seed']}, not "
                f"{config.seed_everything}: another seed splits the data anew and mixes the parts"
            )

    # --- building ---

    def _input_shape(self, datamodule: LightningDataModule) -> tuple[int, ...]:
        if not isinstance(datamodule, data.ImageData):
            cells.share(datamodule)  # before anything is drawn
        shape, classes = tuple(data.input_shape(datamodule)), data.num_classes(datamodule)
        if self.saved:
            model = self.saved["model"]
            if (list(shape), classes) != (model["input_shape"], model["num_classes"]):
                raise UsageError(
                    f"{type(datamodule).__name__} does not fit the checkpoint's network: it has images of shape "
                    f"{shape} and {classes} classes, the network takes {tuple(model['input_shape'])} and "
                    f"{model['num_classes']}"
                )
        return shape

    @override
    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        if not isinstance(self.datamodule, data.ImageData):
            # What a checkpoint needs to build it again, which ours record themselves.
            init_args = self.config[self.subcommand].data.as_dict().get("init_args") or {}
            for linked in ("seed", "replicates"):
                init_args.pop(linked, None)
            self.datamodule.save_hyperparameters(init_args, logger=False)

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self._get(self.config_init, "trainer")
        if config.barebones:
            return super().instantiate_trainer(log_every_n_steps=None, **kwargs)
        plain_lines = config.enable_progress_bar is None and not sys.stdout.isatty()
        if plain_lines:
            kwargs["enable_progress_bar"] = False
        if self.subcommand != "fit":
            return super().instantiate_trainer(logger=config.logger or False, **kwargs)
        callbacks = config.callbacks
        callbacks = [] if callbacks is None else callbacks if isinstance(callbacks, list) else [callbacks]
        logger = self._run_logger()
        callbacks += [RunFolder(self._config_text(), logger), Interruption(report_interruption)]
        if config.enable_checkpointing is not False:
            callbacks += [BestCheckpoint(), LastCheckpoint()]
        if plain_lines:
            callbacks.append(EpochLines())
        elif config.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(ReplicateBar())
        if config.logger in (None, True):
            kwargs["logger"] = logger
        return super().instantiate_trainer(callbacks=callbacks, **kwargs)

    def _config_text(self) -> str:
        """The resolved config; running it again starts afresh."""
        config = self.config[self.subcommand].clone()
        config.ckpt_path = None
        text: str = self._parser(self.subcommand).dump(config, skip_none=False)
        return text

    def _run_logger(self) -> RunLogger:
        """Logger of a new run, or of the run whose checkpoint is resumed."""
        root = self._get(self.config, "trainer").default_root_dir
        ckpt_path = self._get(self.config, "ckpt_path")
        run = Path(ckpt_path).absolute().parent.parent if ckpt_path else None
        if run is None or root is not None or not (run / "config.yaml").exists():
            return RunLogger(root or ".")
        step = checkpoints.load(ckpt_path)["global_step"]
        return RunLogger(run.parent.parent, name=run.parent.name, version=run.name, purge_step=step)

    # --- running ---

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing: `execute` does, so that what is wrong with the options is told from what goes wrong in the run."""

    def execute(self) -> int:
        """Run the command; returns the exit status."""
        command = str(self.subcommand)
        arguments = {**self._prepare_subcommand_kwargs(command), "weights_only": True}
        if isinstance(self.datamodule, data.ImageData) and self.trainer.is_global_zero:
            # Before anything is written: files may be missing or damaged, images too few.
            self.datamodule.prepare_data()
            self.datamodule.setup(command)
        keep_memory()
        choose_threads(self.trainer, self.model, self.datamodule)
        if command in ("validate", "test"):
            arguments["verbose"] = False  # the table below says more
        self._measure()
        result = getattr(self.trainer, command)(**arguments)
        if self.trainer.received_sigterm:
            return 143
        if command == "fit":
            report_fit(self.trainer)
        elif command != "predict":
            part = "val" if command == "validate" else "test"
            scores = {name: values for name, values in self.model.evaluated.items() if name.startswith(f"{part}/")}
            logged = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
            report_scores(scores, self.model.seeds, logged)
            if command == "test":
                self._keep_records(Path(arguments["ckpt_path"]))
        elif command == "predict":
            self._keep_predictions(result, Path(arguments["ckpt_path"]))
        return 0

    def _measure(self) -> None:
        """Let a fit's checkpoints hold what its records need, if a study could repeat it."""
        trainer: Any = self.trainer
        if self.subcommand != "fit" or trainer.world_size > 1 or trainer.fast_dev_run or trainer.barebones:
            return
        with suppress(ValueError):  # it is a good fit all the same
            cell = cells.cell_of(self.model, self.datamodule, self.config.fit.trainer.as_dict())
            trainer.callbacks.insert(0, cells.Measurements(cell))  # checkpoints come last

    def _keep_predictions(self, result: Any, ckpt_path: Path) -> None:
        """Show what predictions of known labels score, and write them."""
        output = Path(self._get(self.config, "output") or ckpt_path.with_name("predictions.csv"))
        predictions = [batch for device in gather(result, self.trainer) for batch in device]
        scores, ensemble = predicted_scores(predictions)
        if scores:
            report_scores(scores, self.model.seeds, ensemble)
        if self.trainer.is_global_zero:
            write_predictions(predictions, self.model.seeds, output)
            print(f"predictions: {shown_path(output)}")

    def _keep_records(self, ckpt_path: Path) -> None:
        """Leave the records of the fit that was tested in its folder."""
        try:
            tested, last = (checkpoints.load(path) for path in (ckpt_path, ckpt_path.with_name("last.ckpt")))
            table = cells.records_of_test(tested, last, self.model, trainer=self.trainer, datamodule=self.datamodule)
        except ValueError as error:
            print(f"no records: {error}")
        else:
            print(f"records: {shown_path(Store(run_folder(ckpt_path) / 'cells').write(table))}")


def run(command: str, options: Sequence[str]) -> int:
    """Run one of Lightning's commands; returns the exit status.

    What is wrong with the options, a checkpoint or a dataset's files is said in
    one line. Anything else that goes wrong in a run keeps its traceback.
    """
    quieten()
    try:
        cli = BenchCLI(command, options)
    except (ValueError, ImportError, ArgumentError, MisconfigurationException) as error:
        return fail(readable(str(error)))
    try:
        return cli.execute()
    except (MisconfigurationException, data.DataError, checkpoints.CheckpointError, StackError) as error:
        return fail(one_line(error))
    except SystemExit as exit:
        if isinstance(exit.__context__, KeyboardInterrupt):  # before training began; Lightning exits with 1
            raise exit.__context__ from None
        raise


def run_folder(ckpt_path: Path) -> Path:
    """Folder of the run that a checkpoint is from; where it lies, if it was moved."""
    folder = ckpt_path.absolute().parent
    return folder.parent if (folder.parent / "config.yaml").exists() else folder


def with_local_paths(described: dict[str, Any], ckpt_path: Path) -> dict[str, Any]:
    """A DataModule's description with the paths that are not in the checkpoint, from the run's config beside it."""
    config = run_folder(ckpt_path) / "config.yaml"
    local = read_config(str(config)).get("data") if config.exists() else None
    if not isinstance(local, dict) or local.get("class_path") != described["class_path"]:
        return described
    paths = {key: value for key, value in (local.get("init_args") or {}).items() if Path(str(value)).is_absolute()}
    return {**described, "init_args": {**paths, **described["init_args"]}}
