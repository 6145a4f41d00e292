import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from actbench.data import FakeImages
from actbench.training.classifier import Classifier
from actbench.training.metrics import Ensemble, MeanLoss, Scores, summary_statistics


def drawn(replicates=3, rows=500, classes=4):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(replicates, rows, classes, generator=generator)
    return logits, torch.randint(classes, (replicates, rows), generator=generator)


@pytest.mark.parametrize("shared", [True, False])
def test_scores_of_each_replicate_are_those_of_torchmetrics(shared):
    logits, labels = drawn()
    labels = labels[0] if shared else labels
    scores = Scores(3, 4)

    for part in (slice(0, 200), slice(200, 500)):
        scores.update(logits[:, part], labels[..., part])

    values = scores.compute()
    for replicate in range(3):
        truth = labels if shared else labels[replicate]
        loss = torch.nn.functional.cross_entropy(logits[replicate], truth)
        accuracy = MulticlassAccuracy(4, average="micro")(logits[replicate], truth)
        calibration = MulticlassCalibrationError(4, n_bins=15)(logits[replicate].softmax(1), truth)
        assert values["loss"][replicate] == pytest.approx(loss.item(), rel=1e-5)
        assert values["acc"][replicate] == accuracy
        assert values["ece"][replicate] == pytest.approx(calibration.item(), abs=1e-6)


def test_labels_are_counted_by_class():
    logits, labels = drawn()
    scores = Scores(3, 4)

    for part in (slice(0, 200), slice(200, 500)):
        scores.update(logits[:, part], labels[:, part])

    assert scores.labels.tolist() == [torch.bincount(row, minlength=4).tolist() for row in labels]


def test_a_diverged_replicate_scores_nan_and_at_chance_without_touching_others():
    logits, labels = drawn()
    expected, scores = Scores(3, 4), Scores(3, 4)
    expected.update(logits, labels)

    scores.update(logits.index_fill(0, torch.tensor([1]), torch.nan), labels)

    for name, values in scores.compute().items():
        assert torch.equal(values[[0, 2]], expected.compute()[name][[0, 2]])
    assert scores.compute()["loss"][1].isnan()


def test_the_mean_loss_counts_active_replicates_only():
    loss = MeanLoss(3)

    loss.update(torch.tensor([1.0, 2.0, torch.nan]), 10, torch.tensor([True, True, False]))
    loss.update(torch.tensor([4.0, torch.nan, torch.nan]), 5, torch.tensor([True, False, False]))

    assert loss.compute()[:2].tolist() == [2.0, 2.0]
    assert loss.compute()[2].isnan()


def test_images_without_row_numbers_are_not_mixed_between_devices():
    logits, labels = drawn()
    devices = [Ensemble(0), Ensemble(1)]
    devices[0].update(logits[:, :250], labels[0, :250], None)
    devices[1].update(logits[:, 250:], labels[0, 250:], None)

    whole = Ensemble()
    whole.batches = [batch for device in devices for batch in device.batches]
    scores = whole.compute()

    mean = logits.softmax(2).mean(0)
    assert scores["members"] == 3
    assert scores["acc"] == pytest.approx((mean.argmax(1) == labels[0]).float().mean().item())
    assert scores["loss"] == pytest.approx(-mean.log()[torch.arange(500), labels[0]].mean().item(), rel=1e-5)


def test_spread_is_numpys_over_what_is_finite():
    values = np.array([0.5, 0.75, 1.0])

    of = summary_statistics(torch.tensor([0.5, torch.nan, 0.75, 1.0, torch.inf]))

    assert of == {"mean": values.mean(), "sd": values.std(ddof=1), "min": 0.5, "max": 1.0}
    assert summary_statistics(torch.tensor([0.5]))["sd"] == 0
    assert np.isnan(list(summary_statistics(torch.tensor([torch.nan])).values())).all()


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_scores_in_half_precision_count_every_row(tmp_path, precision):
    data = FakeImages(rows=10_000, batch_size=1, replicates=2)
    model = Classifier("relu", "MLP", replicates=2, input_shape=(1, 8, 8), num_classes=10)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(precision=precision, default_root_dir=tmp_path, **options)

    trainer.test(model, data, verbose=False)
    predictions = trainer.predict(model, data)

    probabilities, labels = (torch.cat(column, 1) for column in list(zip(*predictions, strict=True))[:0:-1])
    assert labels.shape[1] > 1000  # bfloat16 counts to 256, and float16 to 2048
    hits = (probabilities.argmax(2) == labels).sum(1)
    assert model.evaluated["test/acc"].tolist() == pytest.approx((hits / labels.shape[1]).tolist(), abs=1e-6)
    losses = [cross_entropy(own.log(), truth) for own, truth in zip(probabilities, labels, strict=True)]
    assert model.evaluated["test/loss"].tolist() == pytest.approx([loss.item() for loss in losses], rel=1e-4)


def test_losses_of_training_in_half_precision_are_summed_in_more():
    mean = nn.ModuleList([MeanLoss(1)]).to(torch.bfloat16)[0]

    for _ in range(3000):
        mean.update(torch.tensor([0.5], dtype=torch.bfloat16), 1, torch.tensor([True]))

    assert mean.rows.item() == 3000
    assert mean.compute().item() == 0.5
