"""The cost card of an activation: what it is, what it keeps, what it takes, and what it equals."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import nn

from actbench.activations import CATALOGUE, gaussian_moments
from actbench.activations.catalogue import entry
from actbench.activations.properties import curve_properties
from actbench.activations.saved_bytes import saved_bytes
from actbench.activations.timing import interleaved_times, training_pass
from actbench.activations.twins import same_as
from actbench.inference.stats import mean_interval
from actbench.networks import build_network
from actbench.networks.step import step_and_sites
from actbench.records import json_text
from actbench.specs import ActivationSpec, NetworkSpec, one_line

ELEMENTS = {"cpu": 2**20, "cuda": 2**25}  # of a tensor that is large enough to keep the device busy
BATCH, CLASSES = 64, 10  # of the network's training step
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TIMES = {
    f"{dtype}_{mode}_{against}": f"forward and backward pass in {dtype}, {mode}: multiple of {meaning}"
    for dtype in DTYPES
    for mode in ("eager", "compiled")
    for against, meaning in (("copies", "the time of a copy"), ("relus", "the same of ReLU, eager"))
}
RATIOS = {**TIMES, "step_share": "share of the network's training step that its activations take, float32, eager"}
COLUMNS = {
    "activation": "name, distinct on the card",
    "class_path": "its class",
    "init_args": "JSON of its arguments",
    "formula": "of the catalogue, or of the class's docstring: the first line, after a colon",
    "parameters": "trainable parameters of one instance",
    **{f"{dtype}_bytes": f"kept for the backward pass for each element of {dtype}, without output" for dtype in DTYPES},
    **{
        name + bound: f"{text}{meaning}"
        for name, meaning in RATIOS.items()
        for bound, text in (("", ""), ("_low", "lower bound of its 95 % interval: "), ("_high", "upper bound: "))
    },
    "gain": "factor of weights of variance 1/fan_in at which standard normal signals keep their size",
    "gradient_growth": "factor of gradients' mean square in each layer, where signals keep their size",
    "smoothness": "jumps, kinks or curvature jumps, if it has any, from -12 to 12; numerical",
    "places": "where these are",
    "monotone": "increasing, decreasing, constant, or no; numerical",
    "low": "greatest lower bound; minus infinity (in JSON null) if there is none; numerical",
    "high": "least upper bound; infinity (in JSON null) if there is none; numerical",
    "equals": "an activation that it equals on a grid",
    "problem": "what could not be measured, and why",
}
Card = dict[str, Any]  # with the keys of COLUMNS; what is not known is None


class CostBench:
    """Makes cards, all on one machine with one network.

    Args:
        network: Whose training step the activations take a share of, with 64 inputs, ten classes, and Adam.
        input_shape: Of one input of the network.
        seconds: Of timing for each activation.
        device: Where times are measured.
        compiles: Whether compiled activations are timed, too.
    """

    def __init__(
        self,
        network: NetworkSpec,
        input_shape: Sequence[int],
        *,
        seconds: float,
        device: torch.device,
        compiles: bool,
    ) -> None:
        self.network, self.input_shape = network, tuple(input_shape)
        self.device, self.compiles = device, compiles
        self.seconds = seconds / (1 + len(DTYPES) * (1 + compiles))  # of each measurement
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(ELEMENTS[device.type], generator=generator).to(device)
        self.images = torch.rand(BATCH, *self.input_shape, generator=generator).to(device)
        self.labels = torch.randint(CLASSES, (BATCH,), generator=generator).to(device)

    def card(self, name: str, activation: Any) -> Card:
        """The card of an activation, which is a spec's value; what fails is told in its problem, and ends nothing."""
        found: Card = {**dict.fromkeys(COLUMNS), "activation": name}
        try:
            spec = ActivationSpec(activation)
            found |= class_facts(spec)
            check_pass(spec())
        except Exception as error:  # users' code raises errors of any kind
            return {**found, "problem": one_line(error)}
        problems = []
        for what, measure in self.measurements(spec):
            try:
                found |= measure()
            except Exception as error:  # as above
                problems.append(f"{what}: {one_line(error)}")
        return {**found, "problem": "; ".join(problems) or None}

    def measurements(self, spec: ActivationSpec) -> Iterator[tuple[str, Callable[[], Card]]]:
        """What is measured, each with its name in a problem."""
        for dtype in DTYPES:
            yield f"memory in {dtype}", partial(memory_facts, spec, dtype)
        yield "curve", partial(curve_facts, spec)
        yield "equality", partial(equality_facts, spec)
        for mode, dtype in product(("eager", "compiled") if self.compiles else ("eager",), DTYPES):
            yield f"time in {dtype}, {mode}", partial(self.times, spec, dtype, mode)
        yield f"step of {self.network.cls.__name__}", partial(self.share, spec)

    def times(self, spec: ActivationSpec, name: str, mode: str) -> Card:
        """Time of a forward and a backward pass in a dtype, as it is or compiled."""
        dtype = DTYPES[name]
        inputs, target = self.inputs.to(dtype), torch.empty_like(self.inputs, dtype=dtype)
        module = spec().to(self.device, dtype)
        if mode == "compiled":
            torch._dynamo.reset()  # which would compile no more than eight modules
            module = compiled(module)
        activation, relu = training_pass(module, inputs), training_pass(nn.ReLU(), inputs)
        runs: dict[str, Callable[[], object]] = {
            "activation": activation,
            "copies": partial(target.copy_, inputs),
            "relus": relu,
        }
        times = interleaved_times(runs, seconds=self.seconds)
        return ratio(f"{name}_{mode}_copies", times["activation"], times["copies"]) | ratio(
            f"{name}_{mode}_relus", times["activation"], times["relus"]
        )

    def share(self, spec: ActivationSpec) -> Card:
        """Share of the network's training step."""
        network = network_with(spec, self.network, self.input_shape)
        step, sites = step_and_sites(network.to(self.device), self.images, self.labels)
        times = interleaved_times({"step": step, "sites": sites}, seconds=self.seconds)
        return ratio("step_share", times["sites"], times["step"])


def network_with(spec: ActivationSpec, network: NetworkSpec, input_shape: Sequence[int]) -> nn.Module:
    """The network whose step is timed; a ValueError if it does not take such inputs."""
    return build_network(network, spec, input_shape=input_shape, num_classes=CLASSES, seed=0)


def ratio(name: str, times: Sequence[float], others: Sequence[float]) -> Card:
    """Geometric mean of the ratios of paired times, with its interval by Student's t of their logarithms."""
    logarithms = mean_interval(np.log(np.divide(times, others)))
    return {name + bound: math.exp(value) for bound, value in zip(("", "_low", "_high"), logarithms, strict=True)}


def compiled(module: nn.Module) -> nn.Module:
    """A module that Inductor compiles at its first call."""
    result: nn.Module = torch.compile(module, dynamic=False)  # type: ignore[assignment]
    return result


def compile_ahead(activation: Any, device: torch.device) -> None:
    """Compile an activation in this process; Inductor keeps the code for others, which find it."""
    torch.set_num_threads(1)  # which the code depends on
    torch._dynamo.reset()
    with suppress(Exception):  # the card will tell
        for dtype in DTYPES.values():
            module = ActivationSpec(activation)().to(device, dtype)
            training_pass(compiled(module), torch.zeros(ELEMENTS[device.type], dtype=dtype, device=device))()


def class_facts(spec: ActivationSpec) -> Card:
    """Class, arguments, formula and parameters."""
    alike = (name for name, each in CATALOGUE.items() if each.cls is spec.cls)
    known = (CATALOGUE[name].formula for name in alike if ActivationSpec(name) == spec)
    return {
        "class_path": spec.class_path,
        "init_args": json_text(spec.to_dict().get("init_args", {})),
        "formula": next(known, None) or entry(spec.cls).formula or None,
        "parameters": sum(parameter.numel() for parameter in spec().parameters() if parameter.requires_grad),
    }


def check_pass(activation: nn.Module) -> None:
    """Raise ValueError for an activation that cannot be trained on standard normal numbers."""
    inputs = torch.randn(4096, generator=torch.Generator().manual_seed(0)).requires_grad_()
    output = activation(inputs * 1)
    if output.shape != inputs.shape:
        raise ValueError(f"not an activation: it maps an input of shape {tuple(inputs.shape)} to {tuple(output.shape)}")
    if not output.requires_grad:
        raise ValueError("its output has no gradient")
    if not output.isfinite().all():
        raise ValueError("it is not finite for some standard normal inputs")
    if not torch.autograd.grad(output.sum(), inputs)[0].isfinite().all():
        raise ValueError("its slope is not finite for some standard normal inputs")


def memory_facts(spec: ActivationSpec, dtype: str) -> Card:
    """Bytes kept for the backward pass."""
    return {f"{dtype}_bytes": saved_bytes(spec().to(DTYPES[dtype]), dtype=DTYPES[dtype])}


def curve_facts(spec: ActivationSpec) -> Card:
    """Gain and properties of an element-wise activation."""
    moments, properties = gaussian_moments(spec()), curve_properties(spec())
    places = ", ".join(f"{place:g}" for place in properties.places) or None
    gains = {"gain": moments.gain, "gradient_growth": moments.gradient_growth}
    return {**gains, **properties._asdict(), "places": places}


def equality_facts(spec: ActivationSpec) -> Card:
    """What an activation equals, in words: of several twins that which keeps least."""
    activation = spec()
    twins = [(saved_bytes(twin.cls(**twin.init_args)), twin) for twin in same_as(activation)]
    if not twins:
        return {}
    other, twin = min(twins, key=lambda each: each[0])
    if twin.initially:
        return {"equals": f"{twin.name} at its initial parameters"}
    kept = saved_bytes(activation)
    fewer = "half the memory" if 2 * other == kept else f"{other:g} bytes instead of {kept:g}"
    return {"equals": twin.name + (f", which keeps {fewer}" if other < kept else "")}
