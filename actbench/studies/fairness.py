"""Conditions under which a study repeats its comparison, to see whether the winner changes."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from actbench.networks import Init


class Condition(NamedTuple):
    """One way to run all arms.

    Args:
        name: What differs from the study's usual way, in words; "" for the usual way itself.
        init: How drawn weights are scaled; None leaves that to the config.
        shared: Whether all arms keep the config's value of the setting that the study tunes.
        matched: Whether each arm's network is so wide that it has as many parameters as the baseline's.
    """

    name: str = ""
    init: Init | None = None
    shared: bool = False
    matched: bool = False


@dataclass(frozen=True)
class Fairness:
    """What may decide a comparison instead of the activation; the first entry of a list is the study's usual way.

    The study compares its arms in the usual way, and again with each other entry
    in place of the usual one. All comparisons share alpha.

    Args:
        init: How drawn weights are scaled, "as_is", "gain" and "data"; see ``model.init``.
        tune: With a tuned setting: "tuned", each arm at its own best value; "shared", all arms at the config's value.
        parameters: "as_is", all arms at one width; "matched", each arm's network at the width that brings its number
            of trainable parameters nearest to that of the baseline.
        width: The network's argument that is its width, a number or numbers that are scaled together; by default, the
            first that it takes of width, hidden, channels, hidden_size, hidden_dim, embed_dim and width_mult.
        variance: Train each arm with 25 replicates more, which cross 5 seeds of each source of randomness that varies,
            to find where the noise of scores and differences comes from. They are outside the comparison.
    """

    init: list[Init] = field(default_factory=lambda: ["as_is"])
    tune: list[Literal["tuned", "shared"]] = field(default_factory=lambda: ["tuned"])
    parameters: list[Literal["as_is", "matched"]] = field(default_factory=lambda: ["as_is"])
    width: str | None = None
    variance: bool = False

    def conditions(self, setting: str | None) -> list[Condition]:
        """The usual way and the others, for a study that tunes a setting, or none."""
        inits: list[Init | None] = [*self.init] if self.init != ["as_is"] else [None]
        usual = Condition(init=inits[0], shared=self.tune[0] == "shared", matched=self.parameters[0] == "matched")
        label = (setting or "").rpartition(".")[2]
        return [
            usual,
            *(usual._replace(name=f"init {init}", init=init) for init in inits[1:]),
            *(usual._replace(name=f"{tune} {label}", shared=tune == "shared") for tune in self.tune[1:]),
            *(usual._replace(name=f"parameters {way}", matched=way == "matched") for way in self.parameters[1:]),
        ]
