"""What the command line says: errors in one line, and where things are."""

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


def show_help(parser: LightningArgumentParser, command: str, words: Sequence[str]) -> bool:
    """Print a command's help, or that of a class (``--data.help NAME``), if it is asked for; returns whether it is."""
    asked = [word.partition("=")[0].endswith((".help", "--help")) or word == "-h" for word in words]
    if True not in asked:
        return False
    parser.prog = f"main.py {command}"
    first = asked.index(True)
    takes_value = words[first].endswith(".help")
    with suppress(SystemExit):  # after it has printed
        parser.parse_args(list(words[first : first + 1 + takes_value]))
    return True


@rank_zero_only
def report_fit(trainer: Trainer) -> None:
    """The last line of a fit: where its checkpoints are."""
    meanings = {"last.ckpt": "last epoch", "best.ckpt": "each replicate's lowest val/loss"}
    folder = next((c.path for c in getattr(trainer, "callbacks", []) if isinstance(c, RunFolder)), None)
    found = [f"{name} ({of})" for name, of in meanings.items() if folder and (folder / "checkpoints" / name).exists()]
    if folder and found:
        print(f"checkpoints: {shown_path(folder / 'checkpoints')}: {', '.join(found)}")
    else:
        print("no checkpoints were written")


@rank_zero_only
def report_scores(scores: Mapping[str, Tensor], seeds: Sequence[int], metrics: Mapping[str, float]) -> None:
    """Print a table of every replicate's scores by name, their spread, and the ensemble's scores, among the metrics."""
    table = Table(*(Column(heading, justify="right") for heading in ("seed", *scores)), box=box.SIMPLE)
    for place, seed in enumerate(seeds):
        table.add_row(str(seed), *(f"{values[place]:z.6f}" for values in scores.values()))
    if len(seeds) > 1:
        table.add_section()
        spreads = [summary_statistics(values) for values in scores.values()]
        for what in ("mean", "sd", "min", "max"):
            table.add_row(what, *(f"{of[what]:z.6f}" for of in spreads))
        table.add_section()
        table.add_row("ensemble", *(f"{metrics[f'{name}_ensemble']:.6f}" for name in scores))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    if len(seeds) > 1:
        members = next(value for name, value in metrics.items() if name.endswith("members_ensemble"))
        diverged = max(int((~values.isfinite()).sum()) for values in scores.values())
        print(
            f"{len(seeds)} replicates, {diverged} diverged; the ensemble is the mean probability of the replicates "
            f"that were not trained on an image, {members:.1f} on average"
        )


def report_interruption(checkpoint: Path | None, trainer: Trainer) -> None:
    """Say how an interrupted fit goes on."""
    if checkpoint is None:
        print("interrupted; checkpoints are off, so nothing was saved", file=sys.stderr)
        return
    print(
        f"interrupted in epoch {trainer.current_epoch + 1}; to go on: "
        f"{shown_program()} fit --config {shown_path(checkpoint.parent.parent / 'config.yaml')} "
        f"--ckpt_path {shown_path(checkpoint)}",
        file=sys.stderr,
    )


def quieten() -> None:
    """Leave out what Lightning says that is not about the run."""
    noise = ("Tip:", "callbacks used to create the checkpoint", "TPU available")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda line: not any(words in line.getMessage() for words in noise)
    )
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint")
    warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
    warnings.filterwarnings("ignore", category=JsonargparseDeprecationWarning)
    # Class paths of a config may not name what only harms, such as os.system.
    jsonargparse.set_parsing_settings(import_path_denylist=[])
