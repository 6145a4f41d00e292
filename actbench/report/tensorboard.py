"""A study for TensorBoard: what its arms have learned by epoch, their final scores by setting, and its pictures."""

import json
import math
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from google.protobuf.struct_pb2 import ListValue, Value
from jaxtyping import Float
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.plugins.image import metadata as image
from tensorboard.summary.writer.record_writer import RecordWriter

from actbench.plots import forest_figures, shape_figures
from actbench.plots.curves import matrix, mean_curve
from actbench.plots.figure import Figure, Panel, file_name, files, of_panel, panels, rendered
from actbench.records import write_whole
from actbench.verdict import Told, scores
from actbench.verdict.changes import settings
from actbench.verdict.words import level

FOLDER = "tensorboard"
FILE = "events.out.tfevents.{}.study"
CURVES = {  # the names that a fit logs them by, and the columns of the records
    "train/loss": "epoch_train_loss",
    "val/loss": "epoch_val_loss",
    "val/acc": "epoch_val_accuracy",
    "val/ece": "epoch_val_ece",
}
FINAL = {
    "final/test/acc": "test_accuracy",
    "final/test/loss": "test_loss",
    "final/test/ece": "test_ece",
    "final/val/acc": "val_accuracy",
}
COST = {"cost/epoch_time_s": "epoch_time_s", "cost/peak_memory_mb": "peak_memory_mb"}
DPI = 160

Hparams = Mapping[str, str | float | bool]


class Run(NamedTuple):
    """An arm on a dataset and network: what it is called, its folder, its records, its settings and final scores."""

    name: str
    folder: Path
    table: pl.DataFrame
    hparams: Hparams
    final: Mapping[str, float]


def write_tensorboard(told: Told, folder: Path) -> None:
    """Write what TensorBoard shows of a study into ``tensorboard/`` in its folder; what was there from before goes.

    There is a run for each arm, and dataset and network if there are several.
    Custom scalars show means over seeds by epoch, in a band from the least to
    the largest as for a fit, and with Student's interval. HParams show mean
    final scores; in those on test and ``final/val/acc`` a replicate that has
    diverged counts as guessing. Images are the paired differences, and the
    activations where the records hold their shapes.

    Args:
        told: What the study's records say.
        folder: The study's.
    """
    top = folder / FOLDER
    old = list(top.rglob(FILE.format("*")))
    name = FILE.format(time.time_ns())  # later than what TensorBoard may be reading, so that it goes on to this one
    runs = list(runs_of(told, top))
    written = {top: study_values(told, runs)}
    written |= {run.folder: run_values(run, told.question.alpha) for run in runs}
    for where, values in written.items():
        write_whole(where / name, events(values))
    for path in old:
        path.unlink()
        if path.parent != top and not any(path.parent.iterdir()):
            path.parent.rmdir()


def events(values: Iterator[tuple[int, Sequence[Summary.Value]]]) -> bytes:
    """An event file: values by step, after a start at which what was read before is forgotten."""
    now, buffer = time.time(), BytesIO()
    writer = RecordWriter(buffer)
    writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    writer.write(Event(wall_time=now, session_log=SessionLog(status=SessionLog.START)).SerializeToString())
    for step, of in values:
        writer.write(Event(wall_time=now, step=step, summary=Summary(value=of)).SerializeToString())
    return buffer.getvalue()


def runs_of(told: Told, top: Path) -> Iterator[Run]:
    """The arms that have records."""
    several = [len(told.question.datasets) > 1, len(told.question.networks) > 1, True]
    cells = [
        (panel, arm, table)
        for panel in panels(told)
        for arm in told.question.arms
        if len(table := of_panel(told.table, panel, arm))
    ]
    factors = factors_of(told, cells)
    known = {name: scores(told.table, column) for name, column in FINAL.items()}
    taken: set[Path] = set()
    for (panel, arm, table), own in zip(cells, factors, strict=True):
        parts = [part for part, use in zip((*panel, arm), several, strict=True) if use]
        final = {name: list(of[*panel, arm].values()) for name, of in known.items() if (*panel, arm) in of}
        averages: dict[str, Any] = {name: np.mean(values) for name, values in final.items()}
        averages |= {name: table[column].median() for name, column in COST.items()}
        finite = {name: value for name, value in averages.items() if value is not None and math.isfinite(value)}
        where = untaken(top.joinpath(*map(folder_name, parts)), taken)
        yield Run(f"{arm} on {panel.title}", where, table, own, finite)


def folder_name(part: str) -> str:
    """A name that any file system takes."""
    return file_name(part) or "unnamed"


def untaken(path: Path, taken: set[Path]) -> Path:
    """The path, with a number where there is one that some file systems do not tell from it."""
    found, count = path, 1
    while Path(str(found).lower()) in taken:
        count += 1
        found = path.with_name(f"{path.name} ({count})")
    taken.add(Path(str(found).lower()))
    return found


def factors_of(told: Told, cells: Sequence[tuple[Panel, str, pl.DataFrame]]) -> list[Hparams]:
    """What determines each run: what it is called, and every setting."""
    tuned = {
        (of.dataset, of.network, of.arm): {tuning.setting.removeprefix("model."): of.chosen}
        for tuning in told.tunings
        for of in tuning.arms
    }
    found = [settings(table["factors"][0]) for *_, table in cells]
    epochs: list[Any] = [table["epochs"].median() for *_, table in cells]
    return [
        {name: plain(value) for name, value in of.items() if value is not None}
        | {"arm": arm, "dataset": panel.dataset, "network": panel.network, "epochs": length}
        | tuned.get((*panel, arm), {})
        for (panel, arm, _), of, length in zip(cells, found, epochs, strict=True)
    ]


def plain(value: Any) -> str | float | bool:
    """A setting as HParams hold it."""
    return value if isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)


def study_values(told: Told, runs: Sequence[Run]) -> Iterator[tuple[int, list[Summary.Value]]]:
    """What stands above all runs: the charts, the settings, the pictures."""
    images = [picture(name, of) for name, of in files([*forest_figures(told), *shape_figures(told)]).items()]
    yield 0, [charts(level(told.question)), experiment(runs), *images]


def run_values(run: Run, alpha: float) -> Iterator[tuple[int, list[Summary.Value]]]:
    """A run's settings, its scores after so many epochs, and its final ones. What is not finite is left out."""
    start = plugin_data_pb2.SessionStartInfo(group_name=run.name)
    for name, value in run.hparams.items():
        start.hparams[name].CopyFrom(wrapped(value))
    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS)
    session = [
        about(hparams.SESSION_START_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_start_info=start)),
        about(hparams.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=end)),
    ]
    yield 0, session
    scalars = dict(series(run.table, alpha))
    length = max(map(len, scalars.values()), default=0)
    for epoch in range(1, length + 1):
        row = {name: float(of[epoch - 1]) for name, of in scalars.items() if epoch <= len(of)}
        yield epoch, [scalar(name, value) for name, value in row.items() if math.isfinite(value)]
    yield length, [scalar(name, value) for name, value in run.final.items()]


def series(table: pl.DataFrame, alpha: float) -> Iterator[tuple[str, Float[np.ndarray, " epochs"]]]:
    """Mean of each score by epoch, with its interval and its least and largest value."""
    for name, column in CURVES.items():
        values = matrix(table[column].to_list())
        there = np.isfinite(values)
        mean, half = mean_curve(values, level=1 - alpha)
        most = np.inf if name.endswith("loss") else 1
        yield name, mean
        yield f"{name}_min", np.where(there, values, np.inf).min(axis=0)
        yield f"{name}_max", np.where(there, values, -np.inf).max(axis=0)
        yield f"{name}_low", np.maximum(mean - half, 0)
        yield f"{name}_high", np.minimum(mean + half, most)


def charts(coverage: str) -> Summary.Value:
    """The layout of custom scalars; that of least and largest is a fit's own."""
    bands = {"replicates: mean, least and largest": ("min", "max"), f"mean, {coverage} interval": ("low", "high")}
    categories = []
    for title, (lower, upper) in bands.items():
        own = []
        for name in CURVES:
            line = {"value": name, "lower": f"{name}_{lower}", "upper": f"{name}_{upper}"}
            content = layout_pb2.MarginChartContent(series=[layout_pb2.MarginChartContent.Series(**line)])
            own.append(layout_pb2.Chart(title=name, margin=content))
        categories.append(layout_pb2.Category(title=title, chart=own))
    layout = layout_pb2.Layout(category=categories)
    tensor = TensorProto(dtype=DT_STRING, string_val=[layout.SerializeToString()], tensor_shape=TensorShapeProto())
    metadata = custom_scalar.create_summary_metadata()
    return Summary.Value(tag=custom_scalar.CONFIG_SUMMARY_TAG, tensor=tensor, metadata=metadata)


def experiment(runs: Sequence[Run]) -> Summary.Value:
    """Which settings and which scores HParams show."""
    names = list(dict.fromkeys(name for run in runs for name in run.hparams))
    of = api_pb2.Experiment(
        hparam_infos=[info(name, [run.hparams[name] for run in runs if name in run.hparams]) for name in names],
        metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag=name)) for name in {**FINAL, **COST}],
    )
    return about(hparams.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=of))


def info(name: str, values: Sequence[str | float | bool]) -> Any:
    """A setting with the values that it takes."""
    kinds = {bool: api_pb2.DATA_TYPE_BOOL, str: api_pb2.DATA_TYPE_STRING}
    (kind, *others) = {type(value) for value in values}
    distinct = ListValue(values=[wrapped(value) for value in dict.fromkeys(values)])
    data_type = api_pb2.DATA_TYPE_UNSET if others else kinds.get(kind, api_pb2.DATA_TYPE_FLOAT64)
    return api_pb2.HParamInfo(name=name, type=data_type, domain_discrete=distinct)


def wrapped(value: str | float | bool) -> Value:
    """A setting as the protocol holds it."""
    if isinstance(value, bool):
        return Value(bool_value=value)
    return Value(string_value=value) if isinstance(value, str) else Value(number_value=value)


def about(tag: str, content: Any) -> Summary.Value:
    """A value for HParams, which is all metadata."""
    return Summary.Value(tag=tag, metadata=hparams.create_summary_metadata(content), tensor=hparams.NULL_TENSOR)


def scalar(name: str, value: float) -> Summary.Value:
    """A number."""
    return Summary.Value(tag=name, simple_value=value)


def picture(name: str, figures: Sequence[Figure]) -> Summary.Value:
    """An image, with its size before it, which a PNG holds from its 17th byte on."""
    content = rendered(figures, "png", dpi=DPI)
    size = [str(number).encode() for number in struct.unpack(">II", content[16:24])]
    tensor = TensorProto(
        dtype=DT_STRING,
        string_val=[*size, content],
        tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=3)]),
    )
    metadata: SummaryMetadata = image.create_summary_metadata(name, figures[0].title)
    return Summary.Value(tag=name, tensor=tensor, metadata=metadata)
