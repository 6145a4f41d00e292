"""A lone ``fit`` as a cell: what it needs so that ``test`` leaves the records that a study would."""

import json
from collections.abc import Mapping
from typing import Any

import polars as pl
import torch
from pytorch_lightning import LightningDataModule, Trainer
from torch import Tensor

from actbench import checkpoints
from actbench.callbacks import BestCheckpoint, RunFolder
from actbench.cells.config import TAKEN, Cell, settled
from actbench.cells.measurements import Measurements
from actbench.cells.run import to_records, validate
from actbench.classifier import Classifier

PLACED = ("devices", "num_nodes")  # which a study has of its own: one device, as a fit that is measured has


def cell_of(classifier: Classifier, datamodule: LightningDataModule, trainer: Mapping[str, Any]) -> Cell:
    """What a study would call a fit.

    Args:
        classifier: What is trained.
        datamodule: On what.
        trainer: The Trainer's settings as in a fit's YAML; it has one device, however it was told so.

    Raises:
        ValueError: It has settings that no study can have, such as plugins.
    """
    described = classifier.describe()
    settings = {name: value for name, value in trainer.items() if name not in (*TAKEN, *PLACED) and value is not None}
    config = settled(
        {
            "model": {name: described[name] for name in ("activation", "network", "optimizer", "lr_scheduler")},
            "data": checkpoints.describe_data(datamodule),
            "trainer": checkpoints.relative(settings),
        }
    )
    return Cell(config, classifier.seeds)


def records_of_test(
    tested: Mapping[str, Any],
    last: Mapping[str, Any],
    classifier: Classifier,
    *,
    trainer: Trainer,
    datamodule: LightningDataModule,
) -> pl.DataFrame:
    """Records of a fit whose checkpoint was tested.

    Args:
        tested: Content of that checkpoint: ``last.ckpt`` or ``best.ckpt``.
        last: Content of ``last.ckpt``, which knows what the fit was and cost.
        classifier: It holds the scores on test, and the weights; it is scored on val, too.
        trainer: The one that tested it.
        datamodule: On what.

    Raises:
        ValueError: They would say what is not so; the message is why.
    """
    description, states = last[checkpoints.KEY], last["callbacks"]
    measured = states.get(Measurements().state_key)
    factors = measured and json.loads(measured["factors"])
    if not factors:
        raise ValueError("its fit had settings that no study has, or settings that changed when it was resumed")
    if checkpoints.describe_data(datamodule) != description["data"]:
        raise ValueError("other data than the fit's")
    if checkpoints.describe_trainer(trainer) != description["trainer"]:
        raise ValueError("other trainer settings than the fit's")
    epochs = states[RunFolder().state_key]["epochs"]
    limits = description["trainer"]
    ended = len(epochs) == limits.get("max_epochs") or last["global_step"] == limits.get("max_steps")
    if not ended and last["state_dict"]["active"].any():  # which early stopping takes away
        raise ValueError("the fit has not ended")
    weights = "last"
    if not same_weights(tested["state_dict"], last["state_dict"]):
        chosen = states.get(BestCheckpoint().state_key)
        if not chosen or not same_weights(classifier.stack.network.state_dict(), chosen["weights"]):
            raise ValueError("neither its last weights nor its best")
        weights = "best"
    validate(trainer, classifier, datamodule)
    return to_records({**factors, "weights": weights}, classifier, epochs=epochs, measured=measured)


def same_weights(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two networks are the same bit for bit."""
    return one.keys() == other.keys() and all(
        torch.equal(value.cpu().flatten().view(torch.uint8), other[name].cpu().flatten().view(torch.uint8))
        for name, value in one.items()
    )
