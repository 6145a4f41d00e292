"""Tables of predictions, with one row per image and replicate."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from actbench.records import replacing
from actbench.training.metrics import Ensemble, Scores

FORMATS: Mapping[str, Callable[[pl.DataFrame, Path], None]] = {
    ".csv": pl.DataFrame.write_csv,
    ".parquet": pl.DataFrame.write_parquet,
}


class Prediction(NamedTuple):
    """Predictions of a classifier for a batch, on the CPU, with row numbers and labels if known."""

    rows: Int64[Tensor, "*replicates batch"] | None
    labels: Int64[Tensor, "*replicates batch"] | None
    probabilities: Float[Tensor, "replicates batch classes"]


def prediction_table(
    predictions: Sequence[Prediction],
    seeds: Sequence[int],
    classes: Sequence[str] | None = None,
    files: Sequence[str] | None = None,
) -> pl.DataFrame:
    """One row per image and replicate, sorted by ``seed`` and ``index``.

    Columns: ``seed`` of the replicate; ``index`` of the image in its dataset;
    ``file``, its path, if ``files`` has one for each index;
    ``label``, the true class, if it is known; ``predicted``, the most probable
    class; ``predicted_class``, its name among ``classes``, if these are given;
    ``probability_0``, ``probability_1``, ...
    """
    probability = torch.cat([batch.probabilities for batch in predictions], dim=1)
    shape = probability.shape[:2]
    index = concatenated([batch.rows for batch in predictions])
    label = concatenated([batch.labels for batch in predictions])
    columns = {
        "seed": torch.tensor(seeds)[:, None],
        "index": torch.arange(shape[1]) if index is None else index,
        "label": label,
        "predicted": probability.argmax(2),
    }
    columns |= {f"probability_{label}": column for label, column in enumerate(probability.unbind(2))}
    table = pl.DataFrame({name: c.expand(shape).flatten().numpy() for name, c in columns.items() if c is not None})
    for column, names, key in (("file", files, "index"), ("predicted_class", classes, "predicted")):
        if names is not None:
            # A name on disk may hold bytes that are no UTF-8, which Python writes as \udcff.
            texts = [name.encode(errors="backslashreplace").decode() for name in names]
            named = pl.Series(column, texts, dtype=pl.String).gather(table[key])
            table.insert_column(table.columns.index(key) + 1, named)
    return table.sort("seed", "index")


def class_names(datamodule: Any, count: int) -> list[str] | None:
    """The ``classes`` of a DataModule, if these are a name for each class."""
    classes: Any = getattr(datamodule, "classes", None)
    if not isinstance(classes, list | tuple) or len(classes) != count:
        return None
    return [*classes] if all(isinstance(name, str) for name in classes) else None


def prediction_scores(predictions: Sequence[Prediction]) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Scores of each replicate and of their ensemble; empty if a batch has no labels."""
    replicates, _, classes = predictions[0].probabilities.shape
    scores, ensemble = Scores(replicates, classes), Ensemble()
    for batch in predictions:
        if batch.labels is None:
            return {}, {}
        logits = batch.probabilities.log()
        scores.update(logits, batch.labels)
        ensemble.update(logits, batch.labels, batch.rows)
    # A view, because torchmetrics makes a single value a scalar.
    replicate_scores = {name: values.view(-1) for name, values in scores.compute().items()}
    return replicate_scores, {f"{name}_ensemble": value for name, value in ensemble.compute().items()}


def concatenated(batches: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """The batches as one tensor; None if one of them is missing."""
    known = [batch for batch in batches if batch is not None]
    return torch.cat(known, dim=-1) if len(known) == len(batches) else None


def write_predictions(
    predictions: Sequence[Prediction],
    seeds: Sequence[int],
    path: Path,
    *,
    classes: Sequence[str] | None = None,
    files: Sequence[str] | None = None,
) -> None:
    """Write the table completely or not at all, in the format of the file's suffix; see `FORMATS`."""
    with replacing(path) as unfinished:
        FORMATS[path.suffix](prediction_table(predictions, seeds, classes, files), unfinished)
