"""Modules that keep tensors from their last call, for example for plots."""

import copy

import pytest
import torch
from torch import nn

from actbench.training.classifier import Classifier
from actbench.training.device import choose_engine
from actbench.training.engines import EngineError

IMAGES, LABELS = torch.rand(6, 1, 4, 4), torch.arange(6) % 3


class Keeps(nn.Module):
    """Keeps its last output, and all of them in a list."""

    def __init__(self):
        super().__init__()
        self.outputs = []

    def forward(self, x):
        self.last = torch.tanh(x)
        self.outputs.append(self.last)
        return self.last


class Hooked(nn.Tanh):
    """Keeps its outputs with a hook."""

    def __init__(self):
        super().__init__()
        self.outputs = {}
        self.register_forward_hook(lambda module, _, output: module.outputs.update(last=output))


class KeepsForAPlot(nn.Module):
    """Keeps its last output, and never reads it."""

    def forward(self, x):
        self.last = output = torch.tanh(x)
        return output


class Remembers(nn.Module):
    """Computes with a tensor that it has kept."""

    last = None

    def forward(self, x):
        before, self.last = self.last, torch.tanh(x)
        return self.last if before is None or before.shape != x.shape else self.last + before.detach()


@pytest.mark.parametrize(
    ("activation", "engine"),
    [
        ("test_kept.KeepsForAPlot", "stack"),
        *((f"test_kept.{name}", "sequence") for name in ("Keeps", "Hooked", "KeepsForAPlot")),
    ],
)
def test_a_module_that_keeps_tensors_is_trained_and_copied_as_another(activation, engine):
    plain, keeping = (
        Classifier(name, "MLP", replicates=3, engine=engine, input_shape=(1, 4, 4), num_classes=3)
        for name in ("tanh", activation)
    )

    for model in (plain, keeping):
        model.engine.losses(IMAGES, LABELS).sum().backward()
        model.eval()

    for ours, theirs in zip(keeping.parameters(), plain.parameters(), strict=True):
        assert ours.grad.equal(theirs.grad)
    assert engine == "sequence" or copy.deepcopy(keeping)(IMAGES).equal(plain(IMAGES))
    assert keeping.engine.replicate(2)(IMAGES).shape == (6, 3)


def test_a_module_that_computes_with_what_it_has_kept_is_not_stacked():
    options = {"replicates": 2, "input_shape": (1, 4, 4), "num_classes": 3}

    with pytest.raises(EngineError, match="its code changes last as it runs"):
        Classifier("test_kept.Remembers", "MLP", engine="stack", **options)

    model = Classifier("test_kept.Remembers", "MLP", **options)
    choose_engine(model, torch.device("cpu"), batch=4)
    assert (model.engine.name, "changes last" in model.engine_reason) == ("sequence", True)
