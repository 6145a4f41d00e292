"""The question of a study, in plain values: what it compares, on how many seeds, and by which rule."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, Literal, NamedTuple

from actbench.inference.stats import Design
from actbench.records import fingerprint

MOST = {"rows": 10_000, "comparisons": 10_000, "replicates": 100_000}  # so that a report ends in time
LEAST_ALPHA = 1e-9


class Panel(NamedTuple):
    """A dataset and a network."""

    dataset: str
    network: str

    @property
    def title(self) -> str:
        """Both names in words."""
        return f"{self.dataset} with {self.network}"


class Comparison(NamedTuple):
    """An arm and its baseline on one dataset, or on the mean over all (None), in one network."""

    dataset: str | None
    network: str
    arm: str
    baseline: str


def condition_name(network: str, condition: str) -> str:
    """The name of a network under another condition than the study's usual one, which is ""."""
    return f"{network}, {condition}" if condition else network


class PlannedArm(NamedTuple):
    """An arm on a dataset and network, with the hash of the cell whose records are compared."""

    dataset: str
    network: str
    arm: str
    cell: str


@dataclass(frozen=True)
class Question:
    """The question of a study.

    Args:
        asked: What is compared, arms in their order.
        baseline: The arm that the others are compared with.
        seed: The first seed.
        replicates: Seeds of each arm; or ``min``, ``max`` and ``batch``, to stop once the verdicts are clear.
        comparisons: With the baseline, or all pairs of arms.
        alpha: Chance of any false verdict of a difference, over all comparisons and looks.
        margin: The largest difference of accuracies that does not matter, a fraction.
        tune: The setting in which each arm is tuned, with its grid; None without tuning.
        conditions: Other conditions than the usual one, such as ``init gain``, under which all arms are compared too.
            The networks' names end with them.

    Raises:
        ValueError: The baseline is not an arm, a combination of dataset, network and arm is missing or occurs twice,
            the replicates allow no looks, or the study is too large.
    """

    asked: Sequence[PlannedArm]
    baseline: str
    seed: int = 0
    replicates: int | Mapping[str, int] = 30
    comparisons: Literal["baseline", "all"] = "baseline"
    alpha: float = 0.05
    margin: float = 0.005
    tune: Mapping[str, Any] | None = None
    conditions: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.baseline not in self.arms:
            raise ValueError(f"baseline {self.baseline} is none of {', '.join(self.arms)}")
        distinct = {row[:3] for row in self.asked}
        if not len(distinct) == len(self.asked) == len(self.datasets) * len(self.networks) * len(self.arms):
            raise ValueError("an arm is missing on a dataset and network, or occurs twice")
        _ = self.design  # raises for a design without looks
        extent = {"rows": len(self.asked), "comparisons": len(self.family), "replicates": self.most}
        for name, most in MOST.items():
            if extent[name] > most:
                raise ValueError(f"a study has at most {most:,} {name}, got {extent[name]:,}")
        if self.alpha < LEAST_ALPHA:
            raise ValueError(f"alpha must be at least {LEAST_ALPHA}, got {self.alpha}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Question":
        """The question that `to_dict` wrote."""
        return cls(**{**values, "asked": [PlannedArm(*row) for row in values["asked"]]})

    def to_dict(self) -> dict[str, Any]:
        """The question in plain values, as JSON holds them."""
        values = {**asdict(self), "asked": [list(row) for row in self.asked]}
        if not self.conditions:  # so that older plans keep their hash
            del values["conditions"]
        return values

    @cached_property
    def hash(self) -> str:
        """Hash of the whole plan: what is compared, on how many seeds, and by which rule."""
        return fingerprint(self.to_dict())

    @cached_property
    def design(self) -> Design | None:
        """The looks of a sequential study; None for a fixed number of replicates."""
        if isinstance(self.replicates, int):
            return None
        return Design(self.replicates["min"], self.replicates["max"], self.replicates["batch"])

    @property
    def most(self) -> int:
        """Largest number of seeds of an arm."""
        return self.replicates if isinstance(self.replicates, int) else self.replicates["max"]

    @property
    def arms(self) -> list[str]:
        """Names of the arms in their order."""
        return list(dict.fromkeys(row.arm for row in self.asked))

    @property
    def datasets(self) -> list[str]:
        """Names of the datasets."""
        return list(dict.fromkeys(row.dataset for row in self.asked))

    @property
    def networks(self) -> list[str]:
        """Names of the networks."""
        return list(dict.fromkeys(row.network for row in self.asked))

    @property
    def usual_networks(self) -> list[str]:
        """Names of the networks under the usual condition."""
        under = {condition_name(network, name) for network in self.networks for name in self.conditions}
        return [network for network in self.networks if network not in under]

    @property
    def panels(self) -> list[Panel]:
        """Every dataset with every network."""
        return list(dict.fromkeys(Panel(row.dataset, row.network) for row in self.asked))

    @cached_property
    def family(self) -> list[Comparison]:
        """All comparisons that share alpha: on each dataset and network, and on the mean over several datasets."""
        arms = [self.baseline, *(arm for arm in self.arms if arm != self.baseline)]
        all_pairs = [(arm, other) for other, arm in combinations(arms, 2)]
        pairs = all_pairs if self.comparisons == "all" else [(arm, self.baseline) for arm in arms[1:]]
        datasets: list[str | None] = [*self.datasets, *([None] if len(self.datasets) > 1 else [])]
        return [
            Comparison(dataset, network, *pair) for dataset in datasets for network in self.networks for pair in pairs
        ]

    def parts(self, comparison: Comparison) -> list[Comparison]:
        """The comparisons whose mean a comparison over all datasets is; any other comparison is its only part."""
        datasets = self.datasets if comparison.dataset is None else [comparison.dataset]
        return [comparison._replace(dataset=dataset) for dataset in datasets]
