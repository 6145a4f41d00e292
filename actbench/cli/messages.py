"""Messages of the command line: help, scores, and where checkpoints are."""

import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import jsonargparse
from jsonargparse._deprecated import JsonargparseDeprecationWarning
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.utilities import rank_zero_only
from rich import box
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor

from actbench.cli.main import shown_path, shown_program
from actbench.training.callbacks import RunFolder
from actbench.training.metrics import summary_statistics


def show_help(parser: LightningArgumentParser, command: str, options: Sequence[str]) -> bool:
    """Print the help of a command or class (``--data.help NAME``) if an option asks for it; returns whether it does."""
    for index, option in enumerate(options):
        if option == "-h" or option.partition("=")[0].endswith((".help", "--help")):
            parser.prog = f"main.py {command}"
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
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if len(seeds) > 1:
        members = next(value for name, value in metrics.items() if name.endswith("members_ensemble"))
        diverged = max(int((~values.isfinite()).sum()) for values in scores.values())
        print(
            f"{len(seeds)} replicates, {diverged} diverged; the ensemble is the mean probability over the replicates "
            f"that did not train on an image, {members:.1f} on average"
        )


def report_interruption(checkpoint: Path | None, trainer: Trainer) -> None:
    """Print the command that resumes an interrupted fit."""
    if checkpoint is None:
        print("interrupted; checkpoints are off, so nothing was saved", file=sys.stderr)
        return
    config = shown_path(checkpoint.parent.parent / "config.yaml")
    command = f"{shown_program()} fit --config {config} --ckpt_path {shown_path(checkpoint)}"
    print(f"interrupted in epoch {trainer.current_epoch + 1}; to go on: {command}", file=sys.stderr)


def quieten() -> None:
    """Silence messages and warnings of the libraries that are not about the run."""
    noise = ("Tip:", "callbacks used to create the checkpoint", "TPU available")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: not any(text in record.getMessage() for text in noise)
    )
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint")
    warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
    warnings.filterwarnings("ignore", category=JsonargparseDeprecationWarning)
    # An empty list turns on jsonargparse's own list of class paths that a config may not name, such as os.system.
    jsonargparse.set_parsing_settings(import_path_denylist=[])
