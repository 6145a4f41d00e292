"""Tables of predictions: one row an image."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import polars as pl
import torch
from pytorch_lightning import Trainer

from actbench.classifier import Prediction

FORMATS: Mapping[str, Callable[[pl.DataFrame, Path], None]] = {
    ".csv": pl.DataFrame.write_csv,
    ".parquet": pl.DataFrame.write_parquet,
}


def gather(predictions: list[Prediction], trainer: Trainer) -> list[Prediction]:
    """The predictions of all devices."""
    if trainer.world_size == 1:
        return predictions
    parts: list[list[Prediction]] = [[]] * trainer.world_size
    torch.distributed.all_gather_object(parts, predictions)
    return [batch for part in parts for batch in part]


def prediction_table(predictions: Sequence[Prediction]) -> pl.DataFrame:
    """Rows in order of ``index``, the image's place in its dataset.

    Columns: ``index``; ``label``, the true class, if it is known; ``predicted``,
    the most probable class; ``probability_0``, ``probability_1``, ...
    """
    probability = torch.cat([batch.probabilities for batch in predictions])
    columns = {}
    columns["index"] = concatenated([batch.rows for batch in predictions])
    if columns["index"] is None:
        columns["index"] = torch.arange(len(probability))
    columns["label"] = concatenated([batch.labels for batch in predictions])
    columns["predicted"] = probability.argmax(1)
    columns |= {f"probability_{place}": column for place, column in enumerate(probability.unbind(1))}
    return pl.DataFrame({name: c.numpy() for name, c in columns.items() if c is not None}).sort("index")


def concatenated(parts: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """The parts as one tensor, None if one is missing."""
    known = [part for part in parts if part is not None]
    return torch.cat(known) if len(known) == len(parts) else None


def write_predictions(predictions: Sequence[Prediction], path: Path) -> None:
    """Write the table, whole or not at all, in the format that the file's ending names; see `FORMATS`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    FORMATS[path.suffix](prediction_table(predictions), unfinished)
    unfinished.replace(path)
