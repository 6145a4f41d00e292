"""The shape of an activation as it is after training, so that a report can draw it without torch."""

from collections.abc import Iterator

import torch
from torch import nn

from actbench.classifier import Classifier
from actbench.networks import compared

RANGE, POINTS = 5.0, 101  # inputs from -5 to 5


def curves(classifier: Classifier) -> Iterator[dict[str, list[float] | None]]:
    """For each replicate, inputs, outputs and slopes of the activation at its first place in the network.

    They are None where it is no function of one number: it has parameters for each channel, say.
    """
    site = next(compared(classifier.stack.network), None)
    for place in range(len(classifier.seeds)):
        yield curve(site and classifier.stack.replicate(place, site).cpu().eval())


def curve(activation: nn.Module | None) -> dict[str, list[float] | None]:
    """Inputs, outputs and slopes of an activation."""
    x = torch.linspace(-RANGE, RANGE, POINTS).requires_grad_()
    try:
        with torch.enable_grad():
            y = activation(x) if activation else None
            slope = None if y is None else torch.autograd.grad(y.sum(), x)[0]
    except Exception:  # of any kind: it may refuse an input of such a shape
        y = slope = None
    if y is None or slope is None or not (y.isfinite().all() and slope.isfinite().all()):
        return dict.fromkeys(("curve_x", "curve_y", "curve_slope"))
    return {"curve_x": x.tolist(), "curve_y": y.tolist(), "curve_slope": slope.tolist()}
