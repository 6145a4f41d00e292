import copy

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, LightningDataModule, Trainer
from scipy.special import softmax
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from actbench.callbacks import LastCheckpoint
from actbench.classifier import Classifier
from actbench.data import FakeImages


class Dropout(nn.Module):
    """Network whose training draws from torch's global generator."""

    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        pixels = int(np.prod(input_shape))
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, 16), activation(), nn.Dropout(), nn.Linear(16, num_classes)
        )

    def forward(self, images):
        return self.layers(images)


def classifier(**options):
    return Classifier(**{"input_shape": (1, 8, 8), "num_classes": 10} | options)


def trainer(tmp_path, **options):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(default_root_dir=tmp_path, accelerator="cpu", **{"max_epochs": 1} | quiet | options)


def fitted_losses(model, data, tmp_path, **options):
    fitted = trainer(tmp_path, **options)
    fitted.fit(model, data)
    return {name: value.item() for name, value in fitted.callback_metrics.items()}


def test_scores_are_those_of_an_independent_computation(tmp_path):
    model, data = classifier(seed=1), FakeImages(rows=700, batch_size=64)

    (scores,) = trainer(tmp_path).validate(model, data, verbose=False)

    images, labels = whole_part(data, "val")
    with torch.no_grad():
        probability = softmax(model.eval()(images).double().numpy(), axis=1)
    labels = labels.numpy()
    confidence, correct = probability.max(1), probability.argmax(1) == labels
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs(correct[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in set(bins)]
    assert scores["val/loss"] == pytest.approx(-np.log(probability[np.arange(len(labels)), labels]).mean(), rel=1e-5)
    assert scores["val/acc"] == pytest.approx(correct.mean())
    assert scores["val/ece"] == pytest.approx(sum(gaps), abs=1e-5)


def whole_part(data, part):
    data.prepare_data()
    data.setup("fit")
    loader = {"train": data.train_dataloader, "val": data.val_dataloader}[part]()
    batches = [data.transfer_batch_to_device(batch, torch.device("cpu"), 0) for batch in loader]
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def test_train_loss_is_the_mean_over_rows_while_the_weights_change(tmp_path):
    model, data = (
        classifier(optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}),
        FakeImages(rows=300),
    )
    reference, losses = copy.deepcopy(model), []
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    data.prepare_data()
    data.setup("fit")
    for batch in data.train_dataloader():
        images, labels = data.transfer_batch_to_device(batch, torch.device("cpu"), 0)
        loss = nn.functional.cross_entropy(reference(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses += [loss.item()] * len(labels)

    logged = fitted_losses(model, data, tmp_path)

    assert logged["train/loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_diverged_network_has_a_loss_that_says_so(tmp_path):
    model = classifier(optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 1e30}})

    logged = fitted_losses(model, FakeImages(rows=300), tmp_path)

    assert not np.isfinite(logged["train/loss"])
    assert not np.isfinite(logged["val/loss"])


def test_what_a_network_draws_in_training_follows_from_the_seed(tmp_path):
    def weights(global_seed, seed):
        torch.manual_seed(global_seed)
        model = classifier(network=Dropout, seed=seed)
        fitted_losses(model, FakeImages(rows=200, seed=0), tmp_path)
        return model.network.layers[1].weight

    first = weights(1, seed=0)

    assert torch.equal(first, weights(2, seed=0))
    assert not torch.equal(first, weights(1, seed=1))


class SaveAtStep(Callback):
    """Saves in the middle of an epoch, as an interruption does."""

    def __init__(self, path, step):
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


SCHEDULES = {
    "none": None,
    "cosine": {"class_path": "torch.optim.lr_scheduler.CosineAnnealingLR", "init_args": {"T_max": 4}},
    "one cycle": {"class_path": "torch.optim.lr_scheduler.OneCycleLR", "init_args": {"max_lr": 0.1, "total_steps": 20}},
    "plateau": {
        "class_path": "torch.optim.lr_scheduler.ReduceLROnPlateau",
        "init_args": {"patience": 0, "threshold": 10.0, "threshold_mode": "abs", "factor": 0.5},
    },
}


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint")
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("step", [2, 7, 13, None], ids=["first epoch", "second", "third", "end of the second"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, schedule, step):
    def model():
        return classifier(network=Dropout, lr_scheduler=schedule)

    def data():
        return FakeImages(rows=350, batch_size=50)  # five steps an epoch

    whole, resumed, path = model(), model(), tmp_path / "last.ckpt"
    expected = fitted_losses(whole, data(), tmp_path, max_epochs=4, callbacks=step and SaveAtStep(path, step))
    if step is None:
        last = LastCheckpoint()
        last.dirpath = str(tmp_path)
        fitted_losses(model(), data(), tmp_path, max_epochs=2, callbacks=last, enable_checkpointing=True)
    again = trainer(tmp_path, max_epochs=4)

    again.fit(resumed, data(), ckpt_path=path)

    assert {name: value.item() for name, value in again.callback_metrics.items()} == expected
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    rates = [optimizer.param_groups[0]["lr"] for optimizer in again.optimizers]
    assert schedule is None or rates != [0.001]


def test_a_plateau_schedule_steps_once_an_epoch(tmp_path):
    model = classifier(lr_scheduler=SCHEDULES["plateau"])
    fitted = trainer(tmp_path, max_epochs=4)

    fitted.fit(model, FakeImages(rows=200))

    # The first epoch is the best by definition of the threshold; each of the three after it halves the rate.
    assert fitted.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.001 / 8)


class Foreign(LightningDataModule):
    def setup(self, stage):
        images, labels = torch.rand(60, 1, 8, 8), torch.arange(60) % 10
        self.dataset = TensorDataset(images, labels)

    def train_dataloader(self):
        return DataLoader(self.dataset, batch_size=20)

    val_dataloader = train_dataloader

    def predict_dataloader(self):
        return DataLoader(self.dataset.tensors[0], batch_size=20)


def test_a_foreign_datamodule_trains_and_predicts(tmp_path):
    model, data = classifier(), Foreign()

    logged = fitted_losses(model, data, tmp_path)
    predictions = trainer(tmp_path).predict(model, data)

    assert np.isfinite(logged["val/loss"])
    assert torch.cat([batch.probabilities for batch in predictions]).shape == (60, 10)
    assert all(batch.labels is None and batch.rows is None for batch in predictions)


def test_double_precision_stays_double(tmp_path):
    model = classifier(activation="tanh")

    fitted_losses(model, FakeImages(rows=200), tmp_path, precision="64-true")

    assert all(parameter.dtype == torch.float64 for parameter in model.parameters())
    assert model(torch.rand(2, 1, 8, 8)).dtype == torch.float64


def test_bf16_mixed_precision_trains(tmp_path):
    logged = fitted_losses(classifier(), FakeImages(rows=200), tmp_path, precision="bf16-mixed")

    assert np.isfinite(logged["val/loss"])


def test_a_fit_learns(tmp_path):
    data = FakeImages(rows=600, batch_size=32)
    model = classifier(network="MLP", optimizer={"class_path": "torch.optim.Adam", "init_args": {"lr": 0.003}})

    logged = fitted_losses(model, data, tmp_path, max_epochs=15)

    assert logged["val/acc"] > 0.6  # one in ten by chance
