"""The shape of an activation as it is after training, so that a report can draw it without torch."""

from collections.abc import Iterator
from contextlib import suppress

import torch
from torch import nn

from actbench.networks import compared
from actbench.training.classifier import Classifier

RANGE, POINTS = 5.0, 101  # inputs from -5 to 5


def curves(classifier: Classifier) -> Iterator[dict[str, list[float] | None]]:
    """For each replicate, inputs, outputs and slopes of the activation at its first place in the network.

    They are None where the activation is no function of one number, as with parameters for each channel.
    """
    site = next(compared(classifier.stack.network), None)
    for place in range(len(classifier.seeds)):
        yield curve(site and classifier.stack.replicate(place, site).cpu().eval())


def curve(activation: nn.Module | None) -> dict[str, list[float] | None]:
    """Inputs, outputs and slopes of an activation."""
    x = torch.linspace(-RANGE, RANGE, POINTS).requires_grad_()
    if activation:
        with suppress(Exception), torch.enable_grad():  # of any kind: it may refuse an input of such a shape
            y = activation(x)
            slope = torch.autograd.grad(y.sum(), x)[0]
            if y.isfinite().all() and slope.isfinite().all():
                return {"curve_x": x.tolist(), "curve_y": y.tolist(), "curve_slope": slope.tolist()}
    return dict.fromkeys(("curve_x", "curve_y", "curve_slope"))
