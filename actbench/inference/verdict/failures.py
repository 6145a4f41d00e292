"""Which replicates failed to train."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from jaxtyping import Float
from scipy import stats as distributions

from actbench.inference.stats import Failed, guessing_p
from actbench.inference.verdict.evidence import by_cell
from actbench.inference.verdict.question import Comparison, Question

LEVEL = 0.01  # chance that any replicate of a study which guesses passes for trained
MOST_ROWS = 100_000  # of val, that are tried where a record does not say how many there were
ROUNDING = 1e-7  # relative, of an accuracy in float32

Failures = Mapping[tuple[str, str, str], Mapping[int, bool]]


def planned_replicates(question: Question) -> int:
    """The most replicates of a study that are compared."""
    return len(question.asked) * question.most


def guessing_level(question: Question) -> float:
    """Level of the test of one replicate, with which that of the whole study is `LEVEL`."""
    return LEVEL / planned_replicates(question)


def mark_failures(table: pl.DataFrame, question: Question) -> pl.DataFrame:
    """Records with a column ``failed``: the replicate diverged, or its accuracy on val is not above that of guessing.

    A binomial test compares it with the share of the most frequent class. Records
    that do not know val's size are judged by `fewest_rows`, as if its classes were
    equally frequent. Where val is so small that even no error would pass the test,
    or was not scored, a replicate failed only if it diverged.
    """
    level, unknown = guessing_level(question), pl.col("val_rows").is_null() & ~pl.col("diverged")
    older = table.filter(unknown).group_by("dataset_name").agg(pl.col("val_accuracy").drop_nulls().unique())
    rows_fitted = {name: fewest_rows(np.array(accuracies)) for name, accuracies in older.iter_rows()}
    rows, guess, accuracy = (
        table.select(expression.cast(pl.Float64).fill_null(np.nan)).to_series().to_numpy()
        for expression in (
            pl.coalesce("val_rows", pl.col("dataset_name").replace_strict(rows_fitted, default=None)),
            pl.coalesce("val_guess", 1 / pl.col("classes")),
            pl.col("val_accuracy"),
        )
    )
    guesses = (guessing_p(np.round(accuracy * rows), rows, guess) > level) & (guess**rows <= level)
    return table.with_columns(failed=pl.col("diverged") | pl.Series(guesses, dtype=pl.Boolean))


def passing_share(rows: int, guess: float, level: float) -> float:
    """The least share of correct rows with which a replicate passes for trained; see `guessing_p`."""
    return (1 + float(distributions.binom.isf(level, rows, guess))) / rows


def fewest_rows(accuracies: Float[np.ndarray, " replicates"]) -> int | None:
    """Fewest rows of which all accuracies can be shares, to rounding; None if `MOST_ROWS` are too few.

    Fewer rows make a test less certain, so that no replicate passes for trained by a guess at their number.
    """
    rows = np.arange(1, MOST_ROWS + 1)
    for accuracy in accuracies:
        correct = accuracy * rows
        rows = rows[np.abs(correct - np.round(correct)) <= ROUNDING * rows]
    return int(rows[0]) if len(rows) and len(accuracies) else None


def failures_by_cell(table: pl.DataFrame, question: Question) -> Failures:
    """Whether each seed failed, by dataset, network and arm."""
    return by_cell(mark_failures(table, question), pl.col("failed"))


def failed_pairs(failures: Failures, comparison: Comparison, question: Question, seeds: Sequence[int]) -> Failed:
    """Whether arm and baseline failed with each of these seeds; over several datasets, on any of them."""
    sides = [
        [failures.get((str(part.dataset), part.network, arm), {}) for part in question.parts(comparison)]
        for arm in (comparison.arm, comparison.baseline)
    ]
    failed = [[any(cell[seed] for cell in side) for side in sides] for seed in seeds]
    return np.array(failed, dtype=bool).reshape(len(seeds), 2)
