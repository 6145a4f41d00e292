"""Records of studies that never ran, for tests of what is said of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from actbench import __version__
from actbench.inference.stats import Interval
from actbench.inference.verdict import (
    VARIANCE,
    Certificate,
    History,
    PlannedArm,
    Question,
    StudyResults,
    load_results,
    to_json_values,
)
from actbench.inference.verdict.timing import StepTiming, Timings
from actbench.records import (
    COLUMN_OF,
    COLUMNS,
    LAYERS,
    SITES,
    STATISTICS,
    TIMES,
    fingerprint,
    read_records,
    to_frame,
    write_records,
)
from actbench.seeding import levels

EPOCHS = 4
KNOWN = {pl.String: "not known", pl.Int64: 1}
# Of columns that a test does not care for.
BARE = {name: KNOWN.get(column.type) for name, column in COLUMNS.items()} | {
    "factors": "{}",
    "config": "{}",
    "swap": None,
    "val_rows": None,
    "epoch_train_loss": [],
}


def record(arm: str, seed: int, accuracy: float | None, **columns: Any) -> dict[str, Any]:
    """A record without names; an accuracy of None is a replicate that has diverged in its second epoch."""
    score = 0.1 if accuracy is None else accuracy
    epochs = columns.pop("epochs", EPOCHS)
    rising = (score * (1 - 0.5 ** np.arange(1, epochs + 1))).tolist()
    if accuracy is None:
        rising[1:] = [float("nan")] * (epochs - 1)
    return (
        BARE
        | {
            "cell": fingerprint(arm),
            "activation": f"torch.nn.{arm}",
            "seed": seed,
            "test_accuracy": score,
            "test_loss": float("nan") if accuracy is None else 1 - score,
            "test_ece": 0.1,
            "val_accuracy": score,
            "val_loss": float("inf") if accuracy is None else 1 - score,
            "epochs": epochs,
            "epoch_train_loss": [1.2 - value for value in rising],
            "epoch_val_loss": [1.1 - value for value in rising],
            "epoch_val_accuracy": rising,
            "diverged": accuracy is None,
            "diverged_epoch": 1 if accuracy is None else None,
            "classes": 10,
            "parameters": 1234,
            "init_fingerprint": str(seed),
            "order_fingerprint": str(seed),
            "epoch_time_s": 0.010 + 0.001 * len(arm),
            "peak_memory_mb": 800.0 + len(arm),
            "busy": False,
            "device": "a processor",
            "threads": 1,
            "started": "2026-01-02T03:04:05+00:00",
            "actbench_version": __version__,
            "torch_version": "2.11.0",
            "lightning_version": "2.6.6",
            "python_version": "3.11.7",
            "commit": "abc1234",
            "config": json.dumps({"model": {"activation": {"class_path": arm}}, "trainer": {"max_epochs": epochs}}),
        }
        | columns
    )


def records(arm: str, accuracies: Sequence[float | None], *, dataset: str = "Digits", **columns: Any) -> pl.DataFrame:
    """Records of an arm, one seed after another from 0 on; see `record`."""
    table = to_frame(record(arm, seed, accuracy, **columns) for seed, accuracy in enumerate(accuracies))
    names = {"arm": arm, "dataset_name": dataset, "network_name": "MLP"}
    return table.select(*(pl.lit(value).alias(name) for name, value in names.items()), pl.all())


def study(
    folder: Path,
    tables: Sequence[pl.DataFrame],
    *,
    arms: Sequence[str] = ("relu", "swish"),
    datasets: Sequence[str] = ("Digits",),
    tuned: pl.DataFrame | None = None,
    tested: bool = False,
    timings: Timings | None = None,
    **settings: Any,
) -> StudyResults:
    """Write a study's folder, and tell what its records say.

    Args:
        folder: The study's.
        tables: See `records`.
        arms: The first is the baseline.
        datasets: Names.
        tuned: Records of the tuning, with the column ``value``.
        tested: Whether a self-test has passed.
        timings: Content of ``timing.json``; None for no such file.
        settings: Of the question.
    """
    asked = [PlannedArm(dataset, "MLP", arm, fingerprint(arm)) for dataset in datasets for arm in arms]
    question = Question(asked, arms[0], **{"replicates": 8, **settings})
    write_records(folder / "records.parquet", pl.concat(tables))
    if tuned is not None:
        write_records(folder / "tuning.parquet", tuned)
    certificate = Certificate(
        "Digits", "MLP", 8, 8, 2000, 6, 0.05, Interval(0.04, 0.03, 0.05), 0.01, 0.8, Interval(0.8, 0.7, 0.9)
    )
    certificates = {question.hash: [to_json_values(certificate)]} if tested else {}
    History(certificates=certificates).planned(question).write(folder)
    if timings is not None:
        timings.write(folder)
    return load_results(folder)


def random_study(
    folder: Path, *, arms: int, seeds: int, datasets: int = 1, epochs: int = EPOCHS, **settings: Any
) -> StudyResults:
    """A study of so many arms, seeds and datasets, always the same."""
    rng = np.random.default_rng(0)
    names = [f"arm{number}" for number in range(arms)]
    data = [f"Data{number}" for number in range(datasets)]
    luck = rng.normal(0, 0.01, (datasets, seeds))
    tables = []
    for dataset, dataset_luck in zip(data, luck, strict=True):
        for index, arm in enumerate(names):
            accuracies = np.minimum(0.9 + 0.002 * index + dataset_luck + rng.normal(0, 0.005, seeds), 1).tolist()
            tables.append(records(arm, accuracies, dataset=dataset, epochs=epochs))
    return study(folder, tables, arms=names, datasets=data, **{"replicates": seeds, **settings})


def failing_study(folder: Path) -> StudyResults:
    """Three arms with 30 seeds, of which relu and tanh fail with the first nine, and swish never does."""
    rng = np.random.default_rng(0)
    size = {"val_rows": 180, "val_guess": 0.11}
    tables = []
    for arm, lost in {"relu": 9, "swish": 0, "tanh": 9}.items():
        accuracies = rng.binomial(180, 0.95, 30) / 180
        accuracies[:lost] = 18 / 180
        tables.append(records(arm, accuracies.tolist(), **size))
    return study(folder, tables, arms=("relu", "swish", "tanh"), replicates=30)


def crossed_factors(sources: Sequence[str] = ("init", "split", "order"), first: int = 0) -> str:
    """Factors of records whose seeds cross these sources, as JSON."""
    crossed = [(source, levels(column)) for column, source in enumerate(sources)]
    return json.dumps({"crossed": crossed, "first_seed": first})


def noisy_study(folder: Path) -> StudyResults:
    """Two arms with eight seeds, and 25 crossed ones of which the split makes up most of the difference."""
    study(folder, [records("relu", [0.80, 0.81] * 4), records("swish", [0.82, 0.84] * 4)])
    rng = np.random.default_rng(0)
    base = 0.8 + rng.normal(0, 0.01, 25)
    difference = 0.03 + 0.02 * (np.array(levels(1)) - 2) + rng.normal(0, 0.004, 25)
    arms = {"relu": base, "swish": base + difference}
    tables = [records(arm, scores.tolist(), factors=crossed_factors()) for arm, scores in arms.items()]
    write_records(folder / VARIANCE, pl.concat(tables))
    return load_results(folder)


def step_timing(arm: str, log_ratios: Sequence[float], *, dataset: str = "Digits") -> StepTiming:
    """An arm's steps timed beside relu, whose step for eight replicates takes 20 ms and whose epoch has 10 steps."""
    return StepTiming(
        dataset=dataset,
        network="MLP",
        arm=arm,
        baseline="relu",
        cell=fingerprint(arm),
        baseline_cell=fingerprint("relu"),
        log_ratios=log_ratios,
        step_s=0.02 * float(np.exp(np.mean(log_ratios))),
        baseline_step_s=0.02,
        epoch_steps=10.0,
        baseline_epoch_steps=10.0,
        replicates=8,
        device="a processor",
        clock="processor time",
        threads=1,
        engine="stack",
        torch_version="2.11.0",
        measured="2026-01-02T03:04:05+00:00",
    )


TWIN_LOGS = [0.002, -0.001, 0.001, -0.002, 0.0, 0.001]
SLOW_LOGS = [0.69, 0.70, 0.68, 0.69, 0.70, 0.69]  # about ln 2


def timed_study(folder: Path, datasets: Sequence[str] = ("Digits",), **settings: Any) -> StudyResults:
    """A twin of relu under another name, and swish, which is better and takes twice the time."""
    scores = np.array([0.95, 0.96, 0.94, 0.95, 0.97, 0.93, 0.95, 0.96])
    noise = np.array([0.001, -0.001] * 4)
    arms = {"relu": scores, "twin": scores + noise, "swish": scores + 0.02 + noise}
    tables = [records(arm, of.tolist(), dataset=dataset) for dataset in datasets for arm, of in arms.items()]
    logs = {"twin": TWIN_LOGS, "swish": SLOW_LOGS}
    rows = [step_timing(arm, of, dataset=dataset) for dataset in datasets for arm, of in logs.items()]
    saved = {fingerprint(arm): size for arm, size in {"relu": 0.0, "twin": 0.0, "swish": 4.0}.items()}
    timings = {"timings": Timings(rows, saved)} | settings
    return study(folder, tables, arms=tuple(arms), datasets=datasets, **timings)


def with_shapes(table: pl.DataFrame, *, learned: bool = False) -> pl.DataFrame:
    """Records that hold their activation's curve: a hinge, whose slope below 0 each seed has learned or none has."""
    x = np.linspace(-3, 3, 25)
    slopes = [0.1 * seed if learned else 0.0 for seed in table["seed"]]
    curves = {
        "curve_x": [x.tolist() for _ in slopes],
        "curve_y": [np.where(x > 0, x, slope * x).tolist() for slope in slopes],
        "curve_slope": [np.where(x > 0, 1.0, slope).tolist() for slope in slopes],
    }
    return table.with_columns(pl.Series(name, of, dtype=pl.List(pl.Float64)) for name, of in curves.items())


def golden(folder: Path) -> StudyResults:
    """Three arms, eight seeds, one replicate diverged, one arm measured on a busy machine, tuned and tested."""
    relu = [0.95, 0.96, 0.94, 0.95, 0.97, 0.93, 0.95, 0.96]
    swish = [0.96, 0.98, 0.95, 0.97, 0.98, 0.95, 0.96, 0.98]
    tanh: list[float | None] = [0.95, 0.95, 0.94, 0.96, 0.97, 0.92, 0.95, None]
    tables = [
        with_shapes(records("relu", relu)),
        with_shapes(records("swish", swish), learned=True),
        with_shapes(records("tanh", tanh, busy=True)),
    ]
    grid = {0.001: 0.90, 0.01: 0.94, 0.1: 0.2}
    tuned = pl.concat(
        [
            records(arm, [score + shift, score - shift]).with_columns(pl.lit(value).alias("value"))
            for arm, shift in {"relu": 0.01, "swish": 0.02, "tanh": 0.03}.items()
            for value, score in grid.items()
        ]
    )
    tune = {"model.optimizer.lr": list(grid), "replicates": 2}
    return study(folder, tables, arms=("relu", "swish", "tanh"), tuned=tuned, tested=True, tune=tune)


def with_mechanism(table: pl.DataFrame, dead: Sequence[bool] = ()) -> pl.DataFrame:
    """Records that hold a mechanism of two calls; the units of the second die in the first epoch of some seeds."""
    seeds, epochs = len(table), [0, 1, 2, EPOCHS]
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {
        SITES: [["layers.1", "layers.3"]] * seeds,
        LAYERS: [["convolution 1", "linear layer 1"]] * seeds,
        TIMES: [epochs] * seeds,
        COLUMN_OF["rank"]: rng.uniform(1, 10, (seeds, len(epochs))).tolist(),
    }
    for name in STATISTICS:
        values = rng.uniform(0.1, 0.5, (seeds, len(epochs), 2))
        if name == "dead":
            values[:] = 0
            values[np.flatnonzero(dead), 1:, 1] = 1
        columns[COLUMN_OF[name]] = values.tolist()
    return table.with_columns(pl.Series(name, of, dtype=COLUMNS[name].type) for name, of in columns.items())


def measured_study(folder: Path) -> StudyResults:
    """`failing_study`, whose failed seeds of relu have dead units behind the first linear layer."""
    failing_study(folder)
    table = read_records(folder / "records.parquet")
    tables = [
        with_mechanism(own, own["val_accuracy"] < 0.5 if arm == "relu" else ())
        for (arm,), own in table.group_by("arm", maintain_order=True)
    ]
    write_records(folder / "records.parquet", pl.concat(tables))
    return load_results(folder)
