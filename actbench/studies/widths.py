"""Widths at which a network has as many parameters with one activation as with another."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch

from actbench.networks import build_network, list_sites
from actbench.specs import ActivationSpec, NetworkSpec
from actbench.studies.cells import build_data

USUAL = ("width", "hidden", "channels", "hidden_size", "hidden_dim", "embed_dim", "width_mult")
FARTHEST = 16.0  # factor by which a width may change
FARTHEST_STEP = 16  # from a width with which no network can be built
APART = 0.1  # most relative difference of numbers of parameters that count as matched
STEPS = 16  # of a bisection, after which a factor is known to .01 %


class MatchedNetwork(NamedTuple):
    """A network at another width.

    Args:
        spec: The network in canonical form.
        parameters: Trainable parameters with the arm's activation, whatever is frozen.
        goal: Those of the baseline's network, which they are to be near.
        width: The argument that was changed, and its value.
    """

    spec: Mapping[str, Any]
    parameters: int
    goal: int
    width: str


def matched_network(config: Mapping[str, Any], baseline: Mapping[str, Any], argument: str | None) -> MatchedNetwork:
    """A config's network, so wide that its number of parameters is as near as possible to the baseline's.

    Args:
        config: Canonical config of an arm.
        baseline: Canonical config of the baseline on the same data.
        argument: The network's argument that is its width: a number, or numbers that are scaled together; by default,
            the first of `USUAL` that it takes.

    Raises:
        ValueError: The network takes no such argument, cannot be built, or has no width within `FARTHEST` that comes
            nearer than `APART`.
    """
    spec = config["model"]["network"]
    given = spec.get("init_args") or {}
    name = next((name for name in ([argument] if argument else USUAL) if is_width(given.get(name))), None)
    if name is None:
        title = spec["class_path"].rpartition(".")[2]
        lacking = f"no width {argument}" if argument else f"none of {', '.join(USUAL)}"
        raise ValueError(
            f"study.fairness.parameters: {title} has {lacking}; study.fairness.width names the argument that is its "
            "width, with a number or numbers in model.network"
        )
    data = build_data(config)
    fitting = {"input_shape": tuple(data.input_shape), "num_classes": int(data.num_classes)}
    goal = parameter_count(NetworkSpec(baseline["model"]["network"]), baseline["model"], fitting)
    tried = dict[str, MatchedNetwork]()

    def at(factor: float) -> int:
        """Number of parameters where the width is multiplied by a factor."""
        problem = None
        for value in near(scaled(given[name], factor)):  # heads or groups may have to divide a width
            try:
                if str(value) not in tried:
                    network = NetworkSpec({**spec, "init_args": {**given, name: value}})
                    count = parameter_count(network, config["model"], fitting)
                    tried[str(value)] = MatchedNetwork(network.to_dict(), count, goal, f"{name} {value}")
            except ValueError as error:
                problem = problem or error
            else:
                return tried[str(value)].parameters
        raise problem or ValueError(f"no width near {given[name]}")

    low, high = -math.log(FARTHEST), math.log(FARTHEST)
    if at(1.0) != goal:
        low, high = (low, 0.0) if at(1.0) > goal else (0.0, high)
        for _ in range(STEPS):
            middle = (low + high) / 2
            low, high = (low, middle) if at(math.exp(middle)) > goal else (middle, high)
    nearest = min(tried.values(), key=lambda each: abs(each.parameters - goal))  # of equals the first, as wide as given
    if abs(nearest.parameters / goal - 1) > APART:
        raise ValueError(
            f"study.fairness.parameters: no width comes near the baseline's {goal:,} parameters; {nearest.width} has "
            f"{nearest.parameters:,}"
        )
    return nearest


def parameter_count(network: NetworkSpec, model: Mapping[str, Any], fitting: Mapping[str, Any]) -> int:
    """Trainable parameters of a network with a model's activation, which counts at each site where it is swapped in."""
    activation = ActivationSpec(model["activation"])
    if not network.foreign:
        return trainable(build_network(network, activation, **fitting, seed=0))
    certificate = list_sites(network, **fitting, sites=model.get("sites", "hidden")).certificate
    with torch.random.fork_rng(devices=()):
        parameters = trainable(network(**fitting))
    return parameters + sum(site.swapped for site in certificate.sites) * trainable(activation())


def trainable(module: torch.nn.Module) -> int:
    """Number of a module's parameters that are trained."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def is_width(value: Any) -> bool:
    """Whether a value is a positive number, or several."""
    numbers = value if isinstance(value, list | tuple) and value else [value]
    return all(isinstance(number, int | float) and not isinstance(number, bool) and number > 0 for number in numbers)


def scaled(width: Any, factor: float) -> Any:
    """A width times a factor; whole numbers stay whole, and at least 1."""
    if isinstance(width, list | tuple):
        return [scaled(number, factor) for number in width]
    return max(1, round(width * factor)) if isinstance(width, int) else width * factor


def near(width: Any) -> Iterator[Any]:
    """A width, and, of a whole number, the nearest others."""
    yield width
    if isinstance(width, int):
        for step in range(1, FARTHEST_STEP):
            yield from (other for other in (width + step, width - step) if other > 0)
