"""Drawn weights of a classifier, scaled before its first step."""

import math
from typing import Any, NamedTuple

from pytorch_lightning.utilities import rank_zero_info

from actbench.activations import gaussian_moments
from actbench.data import read_batch
from actbench.networks import Init, network_name, scale_by_data, scale_by_gain
from actbench.specs import ActivationSpec


class Scaling(NamedTuple):
    """How drawn weights are scaled, the gain of the activation, and what was done, in a line, once it was."""

    init: Init
    gain: float = 1
    report: str = ""

    @classmethod
    def of(cls, init: Init, activation: ActivationSpec, weights: object) -> "Scaling":
        """The scaling for an activation; a ValueError if it has no gain, or if weights come from a file."""
        if init != "as_is" and weights is not None:
            raise ValueError(f"model.init is {init}, which scales drawn weights: leave it or model.weights out")
        if init != "gain":
            return cls(init)
        try:
            gain = gaussian_moments(activation()).gain
        except ValueError as error:
            raise ValueError(f"model.init is gain, and {error}") from error
        if math.isinf(gain):
            raise ValueError(f"model.init is gain, and {activation.class_path} is 0 for all inputs")
        return cls(init, gain)


def scale_weights(classifier: Any, batch: Any) -> None:
    """Scale the weights of each replicate, by its own part of the first batch if by data, and log what was done.

    Weights of a classifier whose scaling is ``as_is`` stay as they are.
    """
    (init, gain, _), engine = classifier.scaling, classifier.engine
    if init == "as_is":
        return
    images = read_batch(batch, classifier.batch_keys).inputs.to(classifier.dtype)
    state = engine.state_dict()
    for index in range(len(engine)):
        network = engine.replicate(index)
        inputs = images if images.ndim == engine.ndim else images[index]
        scaled = scale_by_gain(network, inputs[:2], gain) if init == "gain" else scale_by_data(network, inputs)
        for name, parameter in network.named_parameters(remove_duplicate=False):
            state[f"network.{name}"][index] = parameter.detach()
    if classifier.trainer.world_size > 1:  # whose batches differ
        state = classifier.trainer.strategy.broadcast(state)
    engine.load_state_dict(state)
    line = f"{network_name(network)}, init {init}: weights of {scaled.scaled} of {scaled.layers} layers scaled"
    if init == "gain":
        line += f", by a gain of {gain:.4g} in the {scaled.behind} that read {classifier.activation.class_path}"
        if scaled.normalized:
            line += f"; a normalisation after {scaled.normalized} undoes the scale of their outputs"
    classifier.scaling = classifier.scaling._replace(report=line)
    rank_zero_info(line)
