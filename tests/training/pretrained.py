"""A network that was trained elsewhere, and fits that start from its weights."""

import torch
from pytorch_lightning import Trainer
from torch import nn

from actbench.data import FakeImages
from actbench.networks import build_network
from actbench.training.classifier import Classifier

SHAPE = (1, 8, 8)
ENGINES = ("stack", "sequence")
SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05, "weight_decay": 0.1}}
ADAMW = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01, "weight_decay": 0.1}}


class Small(nn.Module):
    """A network of a user's, with BatchNorm and a trainable activation's place."""

    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), activation(), nn.Flatten())
        self.fc = nn.Linear(144, num_classes)

    def forward(self, images):
        return self.fc(self.body(images))


def small(seed=50, classes=10, activation=nn.ReLU):
    """A network as trained elsewhere, whose statistics are not those of a new one."""
    network = build_network(Small, activation, input_shape=SHAPE, num_classes=classes, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    network.body[1].running_mean.normal_(generator=generator)
    network.body[1].running_var.uniform_(0.5, 2, generator=generator)
    return network


def classifier(weights=None, network=Small, activation="relu", classes=10, **options):
    return Classifier(activation, network, weights=weights, input_shape=SHAPE, num_classes=classes, **options)


def saved(tmp_path, content, name="w.pt", **options):
    torch.save(content, tmp_path / name, **options)
    return str(tmp_path / name)


def plain(model, index=0):
    return model.engine.replicate(index).state_dict()


def assert_same(state, expected):
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=0)


def data(**options):
    return FakeImages(**{"rows": 200, "batch_size": 50, **options})


def fit(model, epochs=2, callbacks=(), **options):
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    trainer.fit(model, data(seed=model.seeds[0], replicates=len(model.seeds), **options))
    return trainer
