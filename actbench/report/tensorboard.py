"""A study for TensorBoard: scores of its arms by epoch, their final scores by setting, and its figures."""

import json
import math
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.image import metadata as image
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto

from actbench.inference.frames import arm_frame
from actbench.inference.verdict import StudyResults
from actbench.inference.verdict.changes import arm_title, factor_values
from actbench.inference.verdict.evidence import epoch_matrix, mean_curve
from actbench.inference.verdict.phrases import level
from actbench.inference.verdict.question import Panel
from actbench.records import check_links, replace_file
from actbench.report.figures import forest_figures, shape_figures
from actbench.report.figures.figure import Figure, figures_by_file, file_name, panel_records, render

FOLDER = "tensorboard"
FILE = "events.out.tfevents.{}.study"
CURVES = {  # names under which a fit logs them, and columns of the records
    "train/loss": "epoch_train_loss",
    "val/loss": "epoch_val_loss",
    "val/acc": "epoch_val_accuracy",
    "val/ece": "epoch_val_ece",
}
FINAL = {  # names of metrics in HParams, and columns of the arms' frame
    "final/test/acc": "test_accuracy",
    "final/test/loss": "test_loss",
    "final/test/ece": "test_ece",
    "final/val/acc": "val_accuracy",
    "cost/epoch_time_s": "epoch_time_s",
    "cost/peak_memory_mb": "peak_memory_mb",
}
DPI = 160

KINDS = {bool: api_pb2.DATA_TYPE_BOOL, str: api_pb2.DATA_TYPE_STRING}  # types of settings; others are numbers


class Run(NamedTuple):
    """An arm on a dataset and network: its name, folder, records, settings and final scores."""

    name: str
    folder: Path
    records: pl.DataFrame
    hparams: Mapping[str, str | float | bool]
    final: Mapping[str, float | None]


def write_tensorboard(results: StudyResults, folder: Path) -> None:
    """Write TensorBoard's files of a study into ``tensorboard/`` in its folder, in place of those written before.

    Each arm has a run, for each dataset and network if there are several. Custom
    scalars show means over seeds by epoch, in a band from the least to the largest
    value as for a fit, and with Student's interval. HParams show the final scores
    and costs of the tables. Images show the paired differences, and the
    activations where the records hold their shapes.
    """
    top = check_links(folder / FOLDER)
    old = list(top.rglob(FILE.format("*")))
    name = FILE.format(time.time_ns())  # after the file that TensorBoard may be reading, so that it comes next
    runs = list(make_runs(results, top))
    figures = figures_by_file([*forest_figures(results), *shape_figures(results)])
    images = [image_value(name, group) for name, group in figures.items()]
    contents = {top: events([(0, [chart_layout(level(results.question)), experiment(runs), *images])])}
    contents |= {run.folder: events(run_values(run, results.question.alpha)) for run in runs}
    for run_folder, content in contents.items():
        replace_file(run_folder / name, content)
    for path in old:
        path.unlink(missing_ok=True)  # another process may report the same study
        if path.parent != top:
            with suppress(OSError):  # it is not empty, or is gone
                path.parent.rmdir()


def events(values: Iterable[tuple[int, Sequence[Summary.Value]]]) -> bytes:
    """An event file: values by step, after a start at which TensorBoard forgets what it read before."""
    now, buffer = time.time(), BytesIO()
    writer = RecordWriter(buffer)
    writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    writer.write(Event(wall_time=now, session_log=SessionLog(status=SessionLog.START)).SerializeToString())
    for step, summary_values in values:
        writer.write(Event(wall_time=now, step=step, summary=Summary(value=summary_values)).SerializeToString())
    return buffer.getvalue()


def make_runs(results: StudyResults, top: Path) -> Iterator[Run]:
    """A run for each arm that has records, with its name and every setting as HParams."""
    several = [len(results.question.datasets) > 1, len(results.question.networks) > 1, True]
    taken: set[str] = set()
    for row in arm_frame(results).iter_rows(named=True):
        panel, arm = Panel(row["dataset"], row["network"]), row["arm"]
        records, cell = panel_records(results.table, panel, arm), (*panel, arm)
        chosen = {tuning.setting.removeprefix("model."): row[tuning.setting] for tuning in results.tunings[:1]}
        names = {"arm": arm, **panel._asdict(), "epochs": row["epochs"], **chosen}
        hparams = {
            name: value if isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)
            for name, value in {**factor_values(records["factors"][0]), **names}.items()
            if value is not None
        }
        final = {name: row[column] for name, column in FINAL.items()}
        path = top.joinpath(*(file_name(name) or "unnamed" for name, use in zip(cell, several, strict=True) if use))
        numbered = (path.with_name(f"{path.name} ({number})") for number in count(2))
        # Some file systems do not distinguish small letters and capitals.
        folder = next(candidate for candidate in chain([path], numbered) if str(candidate).lower() not in taken)
        taken.add(str(folder).lower())
        yield Run(arm_title(*cell), folder, records, hparams, final)


def run_values(run: Run, alpha: float) -> Iterator[tuple[int, list[Summary.Value]]]:
    """A run's settings, its scores after each epoch, and its final scores."""
    end = hparams_value(hparams_metadata.SESSION_END_INFO_TAG, session_end_info={"status": api_pb2.STATUS_SUCCESS})
    yield 0, [*hparams_pb(run.hparams, trial_id=run.name, start_time_secs=0).value, end]
    curves = dict(score_curves(run.records, alpha))
    length = max(map(len, curves.values()), default=0)
    for epoch in range(length):
        yield epoch + 1, scalars({name: curve[epoch] for name, curve in curves.items() if epoch < len(curve)})
    yield length, scalars(run.final)


def score_curves(records: pl.DataFrame, alpha: float) -> Iterator[tuple[str, Float[np.ndarray, " epochs"]]]:
    """Mean of each score by epoch, with its interval and its least and largest value."""
    for name, column in CURVES.items():
        values = epoch_matrix(records[column])
        known = np.isfinite(values)
        mean, low, high = mean_curve(values, level=1 - alpha, most=np.inf if name.endswith("loss") else 1)
        yield name, mean
        yield f"{name}_min", np.where(known, values, np.inf).min(axis=0)
        yield f"{name}_max", np.where(known, values, -np.inf).max(axis=0)
        yield f"{name}_low", low
        yield f"{name}_high", high


def scalars(values: Mapping[str, float | None]) -> list[Summary.Value]:
    """Numbers by name; those that are not finite are left out."""
    return [
        Summary.Value(tag=name, simple_value=value)
        for name, value in values.items()
        if value is not None and math.isfinite(value)
    ]


def chart_layout(coverage: str) -> Summary.Value:
    """The layout of custom scalars; the band from least to largest is named as for a fit."""
    bands = {"replicates: mean, least and largest": ("min", "max"), f"mean, {coverage} interval": ("low", "high")}
    layout = layout_pb2.Layout()
    for title, (lower, upper) in bands.items():
        lines = {name: {"value": name, "lower": f"{name}_{lower}", "upper": f"{name}_{upper}"} for name in CURVES}
        layout.category.add(
            title=title, chart=[{"title": name, "margin": {"series": [line]}} for name, line in lines.items()]
        )
    tensor, metadata = make_tensor_proto(layout.SerializeToString()), custom_scalar.create_summary_metadata()
    return Summary.Value(tag=custom_scalar.CONFIG_SUMMARY_TAG, tensor=tensor, metadata=metadata)


def experiment(runs: Sequence[Run]) -> Summary.Value:
    """The settings that HParams show, with all their values, and the scores."""
    content = api_pb2.Experiment(metric_infos=[{"name": {"tag": name}} for name in FINAL])
    for name in dict.fromkeys(name for run in runs for name in run.hparams):
        values = [run.hparams[name] for run in runs if name in run.hparams]
        (kind, *others) = {type(value) for value in values}
        data_type = api_pb2.DATA_TYPE_UNSET if others else KINDS.get(kind, api_pb2.DATA_TYPE_FLOAT64)
        content.hparam_infos.add(name=name, type=data_type).domain_discrete.extend(dict.fromkeys(values))
    return hparams_value(hparams_metadata.EXPERIMENT_TAG, experiment=content)


def hparams_value(tag: str, **content: Any) -> Summary.Value:
    """A value for HParams, which consists of metadata only."""
    metadata = hparams_metadata.create_summary_metadata(HParamsPluginData(**content))
    return Summary.Value(tag=tag, metadata=metadata, tensor=hparams_metadata.NULL_TENSOR)


def image_value(name: str, figures: Sequence[Figure]) -> Summary.Value:
    """An image after its width and height, which a PNG holds from its 17th byte on."""
    content = render(figures, "png", dpi=DPI)
    size = [str(number).encode() for number in struct.unpack(">II", content[16:24])]
    metadata = image.create_summary_metadata(name, figures[0].title)
    return Summary.Value(tag=name, tensor=make_tensor_proto([*size, content]), metadata=metadata)
