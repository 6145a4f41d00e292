"""``fit``, ``validate``, ``test`` and ``predict``: LightningCLI with its faults mended.

What the user typed or wrote comes first, then the checkpoint, then the
defaults. No argument of one class is kept for another.
"""

import logging
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import jsonargparse
from jsonargparse import ArgumentError
from jsonargparse._deprecated import JsonargparseDeprecationWarning
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]
from rich import box
from rich.table import Column, Table
from torch import Tensor
from typing_extensions import override

from actbench import data
from actbench.cli.console import table_console
from actbench.cli.main import COMMANDS, fail, shown_path, shown_program
from actbench.cli.saved import as_config, data_setting, read_saved, refuse_contradictions
from actbench.networks import SwapError
from actbench.records import RANK, STATISTICS, Statistic, check_links
from actbench.seeding import SOURCES, Sharing, shared_sources
from actbench.specs import (
    UsageError,
    compose,
    dump_yaml,
    merge_config,
    one_line,
    readable_error,
    setting,
    without,
)
from actbench.training import checkpoints
from actbench.training.callbacks import (
    BestCheckpoint,
    EpochLines,
    Interruption,
    LastCheckpoint,
    ReplicateBar,
    RunFolder,
    RunLogger,
    mixes_seeds,
)
from actbench.training.config import BenchCLI, library_versions
from actbench.training.engines import EngineError
from actbench.training.mechanism import Mechanism
from actbench.training.metrics import gather, summary_statistics
from actbench.training.predictions import FORMATS, class_names, prediction_scores, write_predictions
from actbench.training.threads import choose_threads, prepare_process


class CommandCLI(BenchCLI):
    """LightningCLI for one command that was typed.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        given: The composed config of what was typed.

    Raises:
        ValueError: An option is not valid, or contradicts the checkpoint.
    """

    def __init__(self, command: str, given: Mapping[str, Any]) -> None:
        self.saved: dict[str, Any] | None = None
        if given.get("ckpt_path") not in (None, "null"):
            path = str(given["ckpt_path"])
            self.saved = read_saved(command, path, given)
            if "GradientAccumulationScheduler" in str(setting(given, "trainer.callbacks")):
                # The checkpoint has the value that the callback set, and Lightning refuses value and callback together.
                self.saved["trainer"] = without(self.saved["trainer"], "accumulate_grad_batches")
            given = merge_config(as_config(self.saved), given)
            described = self.saved["data"] or {}
            if setting(given, "data.class_path") == described.get("class_path"):
                for name in described.get("local", []):
                    if setting(given, data_setting(name)) is None:  # a default could mean other data than the fit's
                        raise UsageError(f"{path} holds no paths of the machine it was made on: give --data.{name}")
        elif command != "fit":
            raise UsageError(f"{command} needs --ckpt_path: without it, it would score an untrained network")
        super().__init__(command, given)

    @override
    def parse_arguments(self, parser: Any, args: Any) -> None:
        super().parse_arguments(parser, args)
        if self.saved:
            refuse_contradictions(self.saved, self.canonical)
            self.config.model.weights = self.saved["model"].get("weights")  # the checkpoint holds what was loaded
        part = {"validate": "val", "test": "test", "predict": "predict"}.get(self.command)
        if part and self.config.trainer[f"limit_{part}_batches"] == 0:
            raise UsageError(f"--trainer.limit_{part}_batches is 0, which leaves nothing to {self.command}")
        output = self.config.get("output")
        if output and Path(output).suffix not in FORMATS:
            raise UsageError(f"--output: {output} must end in {' or '.join(FORMATS)}")

    # --- building ---

    def _streams(self) -> AbstractContextManager[None]:
        """Share sources of randomness between replicates as the config says."""
        fixed, crossed = (
            [source for source in SOURCES if source in chosen]
            for chosen in (set(SOURCES) - set(self.config.vary), self.config.crossed)
        )
        return shared_sources(Sharing(fixed, crossed, self.config.seed_everything))

    @override
    def instantiate_classes(self) -> None:
        if self.saved and self.command == "fit":  # a resumed run goes on bit for bit
            for name in ("engine", "compile"):
                if self.config.model[name] == "auto":
                    self.config.model[name] = self.saved["model"][name]
        with self._streams():
            super().instantiate_classes()

    @override
    def build_data(self) -> Any:
        built = super().build_data()
        if self.saved:
            model = self.saved["model"]
            if self.command == "predict" and isinstance(built, data.ImageFolder):
                built.prepare_prediction(model["input_shape"], model["num_classes"], self.saved["data_state"])
            shape, classes = list(built.input_shape), built.num_classes
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
        report_mixing(callbacks, self.canonical["model"].get("replicates", 1))
        if plain_lines:  # a bar is for a terminal
            callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
        logger = self._run_logger()
        config_text = f"# {library_versions()}\n{dump_yaml(self.canonical)}"  # a fit of it starts afresh
        callbacks += [RunFolder(config_text, logger), Interruption(report_interruption)]
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
        """The logger of a new run, or of the run whose checkpoint is resumed."""
        root, ckpt_path = self.config.trainer.default_root_dir, self.config.ckpt_path
        run = Path(ckpt_path).absolute().parent.parent if ckpt_path else None
        if run is None or root is not None or not (run / "config.yaml").exists():
            return RunLogger(root or ".")
        check_links(run)
        step = self.saved and self.saved["global_step"]
        return RunLogger(run.parent.parent, name=run.parent.name, version=run.name, purge_step=step)

    # --- running ---

    def execute(self) -> int:
        """Run the command; returns the exit status."""
        with self._streams():
            self._check_data()
            prepare_process()
            choose_threads(self.trainer, self.model, self.datamodule)
            # The table that is printed afterwards shows more than Lightning's.
            options = {"verbose": False} if self.command in ("validate", "test") else {}
            run = getattr(self.trainer, self.command)
            path = self.config.ckpt_path
            try:
                result = run(self.model, datamodule=self.datamodule, ckpt_path=path, weights_only=True, **options)
            except data.DataError:  # such as a checkpoint's other classes, which Lightning restores, too
                raise
            except Exception as error:  # of many kinds
                if path and is_restore_error(error):
                    kind = f"{type(error).__name__}: "
                    reason = kind + one_line(error).removeprefix(kind)
                    raise checkpoints.CheckpointError(f"{path} is damaged: {reason}") from error
                raise
            if self.trainer.received_sigterm:
                return 143
            self._report(result)
            return 0

    def _check_data(self) -> None:
        """Refuse missing or damaged files, and too few images, before anything is written."""
        if isinstance(self.datamodule, data.ImageData) and self.trainer.is_global_zero:
            self.datamodule.prepare_data()
            self.datamodule.setup(self.command)
        elif isinstance(self.datamodule, data.ForeignData) and self.command != "predict":
            scout = self.datamodule.scout
            if self.command == "fit" and (self.trainer.limit_val_batches == 0 or scout.lacks("val")):
                vars(self.datamodule).pop("val_dataloader", None)  # a fit does without
            splits = self.datamodule.parts
            scored = [split for split in splits if split == "val" or (split == "test" and scout.has_labels(split))]
            scout.check({"fit": ["train", *scored], "validate": ["val"], "test": ["test"]}[self.command])

    def _report(self, result: Any) -> None:
        """Print where a fit's checkpoints are, print scores, or write predictions."""
        if self.command == "fit":
            report_fit(self.trainer)
            if self.model.mechanism:
                report_mechanism(self.model.mechanism)
        elif self.command == "predict":
            self._write_predictions(result)
        else:
            split = "val" if self.command == "validate" else "test"
            scores = {name: values for name, values in self.model.evaluated.items() if name.startswith(f"{split}/")}
            logged = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
            report_scores(scores, self.model.seeds, logged)

    def _write_predictions(self, result: Any) -> None:
        """Write predictions, and print their scores where labels are known."""
        output = Path(self.config.output or Path(self.config.ckpt_path).with_name("predictions.csv"))
        predictions = [batch for device in gather(result, self.trainer) for batch in device]
        scores, ensemble = prediction_scores(predictions)
        if scores:
            report_scores(scores, self.model.seeds, ensemble)
        if self.trainer.is_global_zero:
            names = class_names(self.datamodule, self.model.num_classes)
            files = self.datamodule.predicted_files() if isinstance(self.datamodule, data.ImageFolder) else None
            write_predictions(predictions, self.model.seeds, output, classes=names, files=files)
            print(f"predictions: {shown_path(output)}")


# --- checkpoints ---


def is_restore_error(error: BaseException) -> bool:
    """Whether an error comes from restored state: of the optimiser, a schedule or Lightning's loops."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    stateful = ("torch/optim", "torch/utils/_foreach_utils", "pytorch_lightning/loops")
    return any("checkpoint_connector" in file for file in files) or any(path in files[-1] for path in stateful)


def run_lightning(command: str, options: Sequence[str]) -> int:
    """Run one of Lightning's commands; returns the exit status.

    An error in the options, a checkpoint or a dataset's files is one line. Any
    other error of a run keeps its traceback.
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
    except (MisconfigurationException, data.DataError, checkpoints.CheckpointError, EngineError, SwapError) as error:
        return fail(error)
    except SystemExit as exit:
        if isinstance(exit.__context__, KeyboardInterrupt):  # before training began; Lightning would exit with 1
            raise exit.__context__ from None
        raise


# --- messages ---


def show_help(parser: LightningArgumentParser, command: str, options: Sequence[str]) -> bool:
    """Print the help of a command or class (``--data.help NAME``) if an option asks for it; returns whether it does."""
    for index, option in enumerate(options):
        if option == "-h" or option.partition("=")[0].endswith((".help", "--help")):
            parser.prog, parser.description = f"main.py {command}", COMMANDS[command]
            takes_value = option.endswith(".help")
            with suppress(SystemExit):  # raised after printing
                parser.parse_args(list(options[index : index + 1 + takes_value]))
            return True
    return False


@rank_zero_only
def report_fit(trainer: Trainer) -> None:
    """Print where a fit's checkpoints are."""
    meanings = {"last.ckpt": "last epoch", "best.ckpt": "each replicate's lowest val/loss"}
    for callback in getattr(trainer, "callbacks", []):
        if isinstance(callback, RunFolder) and callback.path:
            folder = callback.path / "checkpoints"
            written = [f"{name} ({meaning})" for name, meaning in meanings.items() if (folder / name).exists()]
            if written:
                print(f"checkpoints: {shown_path(folder)}: {', '.join(written)}")
                return
    print("no checkpoints were written")


@rank_zero_only
def report_mechanism(mechanism: Mechanism) -> None:
    """Print the latest measurement of each call of the activation: means over replicates, with standard deviations."""
    if not mechanism.snapshots:
        return
    epoch, statistics, rank = mechanism.snapshots[-1]

    def cell(values: Tensor, statistic: Statistic) -> str:
        summary = summary_statistics(100 * values if statistic.is_share else values)
        spread = f" ± {summary['sd']:.2g}" if len(values) > 1 else ""
        return f"{summary['mean']:.3g}{spread}"

    units = [f"{statistic.title}{', %' if statistic.is_share else ''}" for statistic in STATISTICS.values()]
    headings = [Column("call", overflow="fold"), Column("behind"), *(Column(unit, justify="right") for unit in units)]
    title = f"mechanism after epoch {epoch}{': mean ± sd' if len(rank) > 1 else ''}"
    table = Table(*headings, box=box.SIMPLE, title=title, title_justify="left")
    for index, names in enumerate(zip(mechanism.sites, mechanism.layers, strict=True)):
        by_statistic = zip(statistics[:, :, index], STATISTICS.values(), strict=True)
        table.add_row(*names, *(cell(values, statistic) for values, statistic in by_statistic))
    table_console().print(table)
    replicates = f"{len(rank)} replicate{'s' if len(rank) > 1 else ''}"
    print(f"effective rank of the inputs of the last layer: {cell(rank, RANK)}; {replicates}")


@rank_zero_only
def report_scores(scores: Mapping[str, Tensor], seeds: Sequence[int], metrics: Mapping[str, float]) -> None:
    """Print each replicate's scores by name, their spread, and the ensemble's scores, which are among the metrics."""
    table = Table(*(Column(heading, justify="right") for heading in ("seed", *scores)), box=box.SIMPLE)
    for index, seed in enumerate(seeds):
        table.add_row(str(seed), *(f"{values[index]:z.6f}" for values in scores.values()))
    if len(seeds) > 1:
        table.add_section()
        summaries = [summary_statistics(values) for values in scores.values()]
        for statistic in ("mean", "sd", "min", "max"):
            table.add_row(statistic, *(f"{summary[statistic]:z.6f}" for summary in summaries))
        table.add_section()
        table.add_row("ensemble", *(f"{metrics[f'{name}_ensemble']:.6f}" for name in scores))
    table_console().print(table)
    if len(seeds) > 1:
        members = next(value for name, value in metrics.items() if name.endswith("members_ensemble"))
        diverged = max(int((~values.isfinite()).sum()) for values in scores.values())
        print(
            f"{len(seeds)} replicates, {diverged} diverged; the ensemble is the mean probability over the replicates "
            f"that did not train on an image, {members:.1f} on average"
        )


def report_interruption(checkpoint: Path | None, trainer: Trainer) -> None:
    """Print the command that resumes an interrupted fit."""
    if checkpoint is None or not checkpoint.is_file():
        reason = "checkpoints are off, so nothing was saved" if checkpoint is None else "no epoch was saved yet"
        print(f"interrupted; {reason}", file=sys.stderr)
        return
    config = shown_path(checkpoint.parent.parent / "config.yaml")
    command = f"{shown_program()} fit --config {config} --ckpt_path {shown_path(checkpoint)}"
    print(f"interrupted in epoch {trainer.current_epoch + 1}; to go on: {command}", file=sys.stderr)


def report_mixing(callbacks: Sequence[Callback], replicates: int) -> None:
    """Say which callbacks may mix the seeds of a fit of several."""
    advice = "`compare` trains each alone, and so does --model.replicates 1"
    for cls in dict.fromkeys(map(type, callbacks)):
        if replicates > 1 and mixes_seeds(cls):
            print(f"{cls.__name__} sees all seeds at once, and may mix them: {advice}", file=sys.stderr)


def quieten() -> None:
    """Silence messages and warnings of the libraries that are not about the run."""
    noise = ("Tip:", "callbacks used to create the checkpoint", "TPU available")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: not any(text in record.getMessage() for text in noise)
    )
    warnings.filterwarnings("ignore", message=r".*(callbacks used to create the checkpoint|module\(s\) in eval mode)")
    warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
    warnings.filterwarnings("ignore", category=JsonargparseDeprecationWarning)
    # An empty list turns on jsonargparse's own list of class paths that a config may not name, such as os.system.
    jsonargparse.set_parsing_settings(import_path_denylist=[])
