"""What records say of the mechanism of an activation: statistics of each of its calls, by epoch."""

from collections.abc import Mapping
from typing import NamedTuple

import polars as pl

from actbench.records.files import RecordError

DORMANT, SATURATED = 0.025, 0.01  # thresholds: of a unit's output by the mean of its layer, and of a slope
MOST_SITES, MOST_TIMES = 10_000, 100  # calls of activations in a network, and measurements of a fit
UNIT = 1.0  # most of a share


class Statistic(NamedTuple):
    """A statistic of an activation's calls: its name in words, what it is, and its bounds."""

    title: str
    meaning: str
    least: float | None = 0.0
    most: float | None = None

    @property
    def is_share(self) -> bool:
        """Whether it is a fraction, which is shown in percent."""
        return self.most == UNIT


STATISTICS: Mapping[str, Statistic] = {
    "dead": Statistic("dead units", "share of units whose slope is 0 at every image and position", most=UNIT),
    "dormant": Statistic(
        "dormant units", f"share of units with a mean |output| of at most {DORMANT:g} of their layer's mean", most=UNIT
    ),
    "saturated": Statistic("saturation", f"share of slopes below {SATURATED:g} in size", most=UNIT),
    "sparsity": Statistic("sparsity", "share of outputs that are 0", most=UNIT),
    "mean": Statistic("mean of inputs", "mean of the activation's inputs", least=None),
    "sd": Statistic("sd of inputs", "standard deviation of the activation's inputs"),
    "gradient": Statistic("gradient", "root mean square of the gradient of an image's loss by the activation's inputs"),
}
RANK = Statistic("effective rank", "effective rank of the inputs of the last layer with weights")
SITES, LAYERS, TIMES = "mechanism_sites", "mechanism_layers", "mechanism_epochs"  # columns
COLUMN_OF = {name: f"mechanism_{name}" for name in (*STATISTICS, "rank")}  # column of each statistic
UNMEASURED = "the network keeps it where torch knows no module, or calls it on what has no batch"
MECHANISM = (SITES, LAYERS, TIMES, *COLUMN_OF.values())


def check_mechanism(table: pl.DataFrame) -> None:
    """Raise a RecordError for statistics that no training writes."""
    if not table.select(pl.all_horizontal(pl.col(MECHANISM).is_null() == pl.col(SITES).is_null()).all()).item():
        raise RecordError("it has only some of the columns of a mechanism")
    measured = table.filter(pl.col(SITES).is_not_null())
    if measured.is_empty():
        return
    sites, times = pl.col(SITES).list.len(), pl.col(TIMES).list.len()
    by_time = [pl.col(column).list.len() == times for column in COLUMN_OF.values()]
    by_site = [
        (pl.col(COLUMN_OF[name]).list.eval(pl.element().list.len()).list.eval(pl.element().unique()))
        for name in STATISTICS
    ]
    right = [
        pl.col(LAYERS).list.len() == sites,
        sites <= MOST_SITES,
        times.is_between(1, MOST_TIMES),
        pl.col(TIMES).list.diff().list.drop_nulls().list.min().fill_null(1) > 0,
        pl.col(TIMES).list.min() >= 0,
        pl.col(TIMES).list.max() <= pl.col("epochs"),
        *by_time,
        *((lengths.list.len() == 1) & (lengths.list.first() == sites) for lengths in by_site),
    ]
    if not measured.select(pl.all_horizontal(right).fill_null(value=False).all()).item():
        raise RecordError("its columns of a mechanism have lists of other lengths than they should, or other epochs")
    for name, statistic in (*STATISTICS.items(), ("rank", RANK)):
        values = measured[COLUMN_OF[name]].explode()
        values = (values if name == "rank" else values.explode()).drop_nulls().drop_nans()
        below = statistic.least is not None and (values < statistic.least).any()
        if below or (statistic.most is not None and (values > statistic.most).any()):
            raise RecordError(f"its column {COLUMN_OF[name]} has a value that is out of bounds")
