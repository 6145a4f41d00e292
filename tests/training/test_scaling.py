"""Fits whose drawn weights are scaled before the first step."""

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from small_studies import Lines, study
from torch import nn

from actbench.cli import main
from actbench.data import FakeImages
from actbench.inference.verdict import pairing_faults
from actbench.networks import build_network, scale_by_gain
from actbench.specs import NetworkSpec
from actbench.studies import compare
from actbench.training.classifier import Classifier

STILL = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.0}}
SHAPE = (1, 8, 8)


class Nothing(nn.Module):
    def forward(self, x):
        return 0 * x


class First(Callback):
    """Keeps the first batch."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            self.images = batch[0]


def fitted(folder, epochs=1, resume=None, **options):
    """A classifier after a fit, and its first batch."""
    given = {"activation": "relu", "network": "MLP", "optimizer": STILL, "replicates": 2} | options
    model, first = Classifier(**given, input_shape=SHAPE, num_classes=10), First()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", callbacks=[first], limit_val_batches=0, **quiet)
    data = FakeImages(rows=120, batch_size=16, replicates=given["replicates"])
    trainer.fit(model, data, ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(folder / f"{epochs}.ckpt")
    return model, first.images


@pytest.mark.parametrize("engine", ["stack", "sequence"])
def test_each_replicate_is_scaled_by_the_gain_alone(tmp_path, engine):
    model, _ = fitted(tmp_path, init="gain", engine=engine)

    for replicate in range(2):
        expected = build_network(NetworkSpec("MLP"), nn.ReLU, input_shape=SHAPE, num_classes=10, seed=replicate)
        scale_by_gain(expected, torch.zeros(2, *SHAPE), 2**0.5)
        torch.testing.assert_close(model.engine.replicate(replicate).state_dict(), expected.state_dict())


@pytest.mark.parametrize("engine", ["stack", "sequence"])
def test_each_replicate_is_scaled_by_its_own_first_batch(tmp_path, engine):
    model, images = fitted(tmp_path, init="data", engine=engine)

    for replicate in range(2):
        network = model.engine.replicate(replicate).eval()
        last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
        logits = network(images[replicate]) - last.bias
        assert logits.std().item() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("init", ["gain", "data"])
def test_a_resumed_fit_is_not_scaled_again(tmp_path, init):
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}}
    whole, _ = fitted(tmp_path, 2, init=init, optimizer=adam)
    fitted(tmp_path, 1, init=init, optimizer=adam)

    resumed, _ = fitted(tmp_path, 2, tmp_path / "1.ckpt", init=init, optimizer=adam)

    for name, value in whole.engine.state_dict().items():
        assert torch.equal(resumed.engine.state_dict()[name], value), name


def test_arms_of_a_scaled_study_are_pairs(tmp_path):
    results = compare(
        study(tmp_path, activations=["relu", "tanh"]) | {"model": {"network": "MLP", "init": "gain"}}, progress=Lines()
    )

    assert not pairing_faults(results.table, "relu")
    assert results.table["init_fingerprint"].n_unique() * 2 == len(results.table)
    losses = results.table.sort("seed", "arm")["epoch_train_loss"].list.first().to_list()
    assert len(set(losses)) == len(losses)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": "gain", "activation": "test_scaling.Nothing"}, "test_scaling.Nothing is 0 for all inputs"),
        ({"init": "gain", "activation": "torch.nn.Softsign", "weights": "x.ckpt"}, "leave it or model.weights out"),
        ({"init": "data", "weights": "x.ckpt"}, "leave it or model.weights out"),
    ],
)
def test_what_cannot_be_scaled_is_refused_before_training(options, message):
    with pytest.raises(ValueError, match=message):
        Classifier(network="MLP", input_shape=SHAPE, num_classes=10, **options)


def test_an_option_that_contradicts_the_checkpoint_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit = "--trainer.max_steps 1 --trainer.accelerator cpu --trainer.default_root_dir runs"
    assert main(["fit", *fit.split(), "--model.init", "data", "--data", "Digits"]) == 0
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    capsys.readouterr()

    assert main(["validate", "--ckpt_path", str(checkpoint), "--model.init", "gain"]) == 2

    assert "--model.init contradicts the checkpoint, which has data, not gain" in capsys.readouterr().err
    assert main(["validate", "--ckpt_path", str(checkpoint), "--trainer.accelerator", "cpu"]) == 0
