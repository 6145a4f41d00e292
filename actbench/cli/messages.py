"""What the command line says: errors in one line, and where things are."""

import logging
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import jsonargparse
from jsonargparse._deprecated import JsonargparseDeprecationWarning
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_only
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from actbench.callbacks import RunFolder
from actbench.cli.main import shown_path, shown_program
from actbench.scores import spread
from actbench.specs import one_line


def readable(message: str) -> str:
    """What jsonargparse says of a wrong value, in one line: the option, and the cause without the types tried."""
    text = one_line(Exception(message))
    text = re.sub(r'Parser key "([^"]+)"( element \d+)?:', r"--\1:", text)
    text = re.sub(r"Does not validate against any of the Union subtypes Subtypes: .*? Errors: - (.*)", r"\1", text)
    text = re.sub(r" - Expected a <class 'NoneType'>.*", "", text)
    text = re.sub(r" Given value type: .*", "", text)
    return re.sub(r"Not of type \w+Spec: ", "", text)


@rank_zero_only
def report_fit(trainer: Trainer) -> None:
    """The last line of a fit: where its checkpoints are."""
    meanings = {"last.ckpt": "last epoch", "best.ckpt": "each replicate's lowest val/loss"}
    folder = next((c.path for c in getattr(trainer, "callbacks", []) if isinstance(c, RunFolder)), None)
    found = [name for name in meanings if folder and (folder / "checkpoints" / name).exists()]
    if folder and found:
        names = ", ".join(f"{name} ({meanings[name]})" for name in found)
        print(f"checkpoints: {shown_path(folder / 'checkpoints')}: {names}")
    else:
        print("no checkpoints were written")


@rank_zero_only
def report_scores(scores: Mapping[str, Tensor], seeds: Sequence[int], metrics: Mapping[str, float]) -> None:
    """Print a table of every replicate's scores, their spread, and those of the ensemble.

    Args:
        scores: Each replicate's, by name.
        seeds: The replicates'.
        metrics: All that was logged; the ensemble's scores are among them.
    """
    table = Table(box=box.SIMPLE)
    for heading in ("seed", *scores):
        table.add_column(heading, justify="right")
    for place, seed in enumerate(seeds):
        table.add_row(str(seed), *(f"{values[place]:.6f}" for values in scores.values()))
    if len(seeds) > 1:
        table.add_section()
        spreads = [spread(values) for values in scores.values()]
        for what in ("mean", "sd", "min", "max"):
            table.add_row(what, *(f"{of[what]:.6f}" for of in spreads))
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
