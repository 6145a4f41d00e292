"""``fit``, ``validate``, ``test`` and ``predict``: LightningCLI with its faults mended.

What the user typed or wrote comes first, then the checkpoint, then the
defaults; no argument of one class is kept for another.
"""

import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]
from typing_extensions import override

from actbench import data
from actbench.cli.main import fail, shown_path
from actbench.cli.messages import quieten, report_fit, report_interruption, report_scores, show_help
from actbench.seeding import SOURCES, fixed
from actbench.specs import (
    UsageError,
    class_paths,
    compose,
    dump_yaml,
    merge_config,
    one_line,
    read_file,
    readable_error,
    setting,
    without,
)
from actbench.specs.compose import SPEC_NAMES, SPECS, nest
from actbench.training import checkpoints
from actbench.training.callbacks import (
    BestCheckpoint,
    EpochLines,
    Interruption,
    LastCheckpoint,
    ReplicateBar,
    RunFolder,
    RunLogger,
)
from actbench.training.config import BenchCLI, library_versions
from actbench.training.metrics import gather
from actbench.training.predictions import FORMATS, predicted_scores, write_predictions
from actbench.training.stack import StackError
from actbench.training.threads import choose_threads, keep_memory


class CommandCLI(BenchCLI):
    """LightningCLI for one command that was typed.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        given: The composed config of what was typed.

    Raises:
        ValueError: The options make no sense, or contradict the checkpoint.
    """

    def __init__(self, command: str, given: Mapping[str, Any]) -> None:
        self.saved: dict[str, Any] | None = None
        if given.get("ckpt_path") not in (None, "null"):
            path = str(given["ckpt_path"])
            self.saved = read_checkpoint(command, path, given)
            if "GradientAccumulationScheduler" in str(setting(given, "trainer.callbacks")):
                # The Trainer's own setting is the callback's of that moment, and Lightning refuses both.
                self.saved["trainer"] = without(self.saved["trainer"], "accumulate_grad_batches")
            given = merge_config(as_config(self.saved), given)
            check_local(self.saved, given, path)
        elif command != "fit":
            raise UsageError(f"{command} needs --ckpt_path: without it, it would score an untrained network")
        super().__init__(command, given)

    @override
    def parse_arguments(self, parser: Any, args: Any) -> None:
        super().parse_arguments(parser, args)
        if self.saved:
            refuse_contradictions(self.saved, self.canonical)
        part = {"validate": "val", "test": "test", "predict": "predict"}.get(self.command)
        if part and self.config.trainer[f"limit_{part}_batches"] == 0:
            raise UsageError(f"--trainer.limit_{part}_batches is 0, which leaves nothing to {self.command}")
        output = self.config.get("output")
        if output and Path(output).suffix not in FORMATS:
            raise UsageError(f"--output: {output} must end in {' or '.join(FORMATS)}")

    # --- building ---

    def _streams(self) -> AbstractContextManager[None]:
        """Let the sources of randomness that do not vary be those of the first replicate."""
        return fixed([source for source in SOURCES if source not in self.config.vary], self.config.seed_everything)

    @override
    def instantiate_classes(self) -> None:
        with self._streams():
            super().instantiate_classes()

    @override
    def build_data(self) -> Any:
        built = super().build_data()
        if self.saved:
            model, shape, classes = self.saved["model"], list(built.input_shape), built.num_classes
            if (shape, classes) != (model["input_shape"], model["num_classes"]):
                raise UsageError(
                    f"{built.description['class_path'].rpartition('.')[2]} does not fit the checkpoint's network: it "
                    f"has images of shape {tuple(shape)} and {classes} classes, the network takes "
                    f"{tuple(model['input_shape'])} and {model['num_classes']}"
                )
        return built

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config_init.trainer
        if config.barebones:
            return super().instantiate_trainer(log_every_n_steps=None, **kwargs)
        plain_lines = config.enable_progress_bar is None and not sys.stdout.isatty()
        if plain_lines:
            kwargs["enable_progress_bar"] = False
        if self.command != "fit":
            return super().instantiate_trainer(logger=config.logger or False, **kwargs)
        callbacks = self.own_callbacks()
        if plain_lines:  # a bar is for a terminal
            callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
        logger = self._run_logger()
        text = f"# {library_versions()}\n{dump_yaml(self.canonical)}"  # running it again starts afresh
        callbacks += [RunFolder(text, logger), Interruption(report_interruption)]
        if config.enable_checkpointing is not False:
            callbacks += [BestCheckpoint(), LastCheckpoint()]
        if plain_lines:
            callbacks.append(EpochLines())
        elif config.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(ReplicateBar())
        if config.logger in (None, True):
            kwargs["logger"] = logger
        return super().instantiate_trainer(callbacks=callbacks, **kwargs)

    def _run_logger(self) -> RunLogger:
        """Logger of a new run, or of the run whose checkpoint is resumed."""
        root, ckpt_path = self.config.trainer.default_root_dir, self.config.ckpt_path
        run = Path(ckpt_path).absolute().parent.parent if ckpt_path else None
        if run is None or root is not None or not (run / "config.yaml").exists():
            return RunLogger(root or ".")
        links = (path for path in (run, *run.rglob("*")) if path.is_symlink())
        home = run.parent.resolve() / run.name  # links above it are the user's own
        outside = next((link for link in links if not link.resolve().is_relative_to(home)), None)
        if outside:
            raise checkpoints.CheckpointError(
                f"{outside} is a link, through which nothing is written: remove it, or give --trainer.default_root_dir"
            )
        step = checkpoints.load_checkpoint(ckpt_path)["global_step"]
        return RunLogger(run.parent.parent, name=run.parent.name, version=run.name, purge_step=step)

    # --- running ---

    def execute(self) -> int:
        """Run the command; returns the exit status."""
        with self._streams():
            self._check_data()
            keep_memory()
            choose_threads(self.trainer, self.model, self.datamodule)
            # The table that is printed afterwards says more than Lightning's.
            options = {"verbose": False} if self.command in ("validate", "test") else {}
            run = getattr(self.trainer, self.command)
            path = self.config.ckpt_path
            try:
                result = run(self.model, datamodule=self.datamodule, ckpt_path=path, weights_only=True, **options)
            except Exception as error:  # of many kinds
                if path and is_of_state(error):
                    kind = type(error).__name__
                    raise checkpoints.CheckpointError(f"{path} is damaged: {kind}: {one_line(error)}") from error
                raise
            if self.trainer.received_sigterm:
                return 143
            self._report(result)
            return 0

    def _check_data(self) -> None:
        """Before anything is written, refuse files that are missing or damaged, and images that are too few."""
        if isinstance(self.datamodule, data.ImageData) and self.trainer.is_global_zero:
            self.datamodule.prepare_data()
            self.datamodule.setup(self.command)
        elif isinstance(self.datamodule, data.ForeignData) and self.command != "predict":
            parts, scout = self.datamodule.parts, self.datamodule.scout
            scored = [part for part in parts if part == "val" or (part == "test" and scout.has_labels(part))]
            scout.check({"fit": ["train", *scored], "validate": ["val"], "test": ["test"]}[self.command])

    def _report(self, result: Any) -> None:
        """Say where a fit's checkpoints are, show scores, or write predictions."""
        if self.command == "fit":
            report_fit(self.trainer)
        elif self.command == "predict":
            self._keep_predictions(result)
        else:
            part = "val" if self.command == "validate" else "test"
            scores = {name: values for name, values in self.model.evaluated.items() if name.startswith(f"{part}/")}
            logged = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
            report_scores(scores, self.model.seeds, logged)

    def _keep_predictions(self, result: Any) -> None:
        """Show what predictions of known labels score, and write them."""
        output = Path(self.config.output or Path(self.config.ckpt_path).with_name("predictions.csv"))
        predictions = [batch for device in gather(result, self.trainer) for batch in device]
        scores, ensemble = predicted_scores(predictions)
        if scores:
            report_scores(scores, self.model.seeds, ensemble)
        if self.trainer.is_global_zero:
            write_predictions(predictions, self.model.seeds, output)
            print(f"predictions: {shown_path(output)}")


# --- checkpoints ---


def is_of_state(error: BaseException) -> bool:
    """Whether an error comes from what a checkpoint restores: state of the optimiser, a schedule or Lightning."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    users = ("torch/optim", "torch/utils/_foreach_utils", "pytorch_lightning/loops")
    return any("checkpoint_connector" in file for file in files) or any(user in files[-1] for user in users)


def read_checkpoint(command: str, ckpt_path: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says it was made of; see `checkpoints.read_description`.

    Paths of the DataModule that the checkpoint does not hold come from the run's config beside it.
    """
    trusted = checkpoints.trusted_names(given.get("trust"))
    trusted += [str(path).partition(".")[0] for path in class_paths(without(given, "trainer")) if "." in str(path)]
    saved = checkpoints.read_description(ckpt_path, trust=trusted, data=setting(given, "data.class_path"))
    if command == "fit" and "optimizer_states" not in checkpoints.load_checkpoint(ckpt_path):
        raise UsageError(f"no fit can go on from {ckpt_path}: its weights may be from several epochs; give last.ckpt")
    described, folder = saved["data"], Path(ckpt_path).absolute().parent
    config = next((of for of in (folder.parent / "config.yaml", folder / "config.yaml") if of.is_file()), None)
    local = (described or {}).get("local", [])
    if config and local:
        beside = read_file(str(config), "config")
        if setting(beside, "data.class_path") == described["class_path"]:
            completed = {"data": without(described, "local")}
            for name in map(argument, local):
                if (value := setting(beside, name)) is not None:
                    completed = merge_config(completed, nest(name, value))
            saved["data"] = {**completed["data"], "local": local}
    return saved


def argument(name: str) -> str:
    """The setting of a config that is an argument of the DataModule, ``transform.size`` say."""
    return f"data.init_args.{name.replace('.', '.init_args.')}"


def as_config(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's description as a config, to which what is given is added."""
    model = without(saved["model"], "input_shape", "num_classes")
    config = {"seed_everything": saved["seed"], "vary": saved["vary"], "trainer": saved["trainer"], "model": model}
    return merge_config({}, {**config, "data": saved["data"] and without(saved["data"], "local")})


def check_local(saved: Mapping[str, Any], given: Mapping[str, Any], ckpt_path: str) -> None:
    """Refuse to score other data than the fit's because a path of theirs is neither in the checkpoint nor given."""
    described = saved["data"]
    if described and setting(given, "data.class_path") == described["class_path"]:
        for name in described.get("local", []):
            if setting(given, argument(name)) is None:
                raise UsageError(f"{ckpt_path} holds no paths of the machine it was made on: give --data.{name}")


def refuse_contradictions(saved: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Refuse options of the model that are not the checkpoint's: the weights would be scored in another network."""
    model = config["model"]
    for name in SPEC_NAMES:
        # Made anew, as what was given is: another version of torch may have arguments more.
        known, chosen = (value and SPECS[f"model.{name}"](value) for value in (saved["model"][name], model[name]))
        if known != chosen:
            raise UsageError(
                f"--model.{name} contradicts the checkpoint, which has {known or 'none'}, not "
                f"{chosen or 'none'}: leave it out, or fit another network"
            )
    if saved["model"]["replicates"] != model["replicates"]:
        raise UsageError(
            f"--model.replicates contradicts the checkpoint, which has {saved['model']['replicates']}, not "
            f"{model['replicates']}: leave it out, or fit anew"
        )
    if saved["vary"] != config.get("vary", list(SOURCES)):
        raise UsageError(f"--vary contradicts the checkpoint, in which {', '.join(saved['vary']) or 'nothing'} varies")
    if saved["seed"] != config["seed_everything"]:
        raise UsageError(
            f"--seed_everything contradicts the checkpoint, whose seed is {saved['seed']}, not "
            f"{config['seed_everything']}: another seed splits the data anew and mixes the parts"
        )


def run(command: str, options: Sequence[str]) -> int:
    """Run one of Lightning's commands; returns the exit status.

    What is wrong with the options, a checkpoint or a dataset's files is said in
    one line. Anything else that goes wrong in a run keeps its traceback.
    """
    quieten()
    try:
        if show_help(BenchCLI(command).parser, command, options):
            return 0
        given = compose(options, ["print_config"])
        if "print_config" in given:
            print(dump_yaml(BenchCLI(command, without(given, "print_config"), build=False).canonical), end="")
            return 0
        cli = CommandCLI(command, given)
    except (ValueError, ImportError, ArgumentError, MisconfigurationException) as error:
        return fail(readable_error(str(error)))
    try:
        return cli.execute()
    except (MisconfigurationException, data.DataError, checkpoints.CheckpointError, StackError) as error:
        return fail(one_line(error))
    except SystemExit as exit:
        if isinstance(exit.__context__, KeyboardInterrupt):  # before training began; Lightning exits with 1
            raise exit.__context__ from None
        raise
