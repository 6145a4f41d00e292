import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import all_rows
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.nn.functional import cross_entropy

from actbench import data
from actbench.seeding import stream

CPU = torch.device("cpu")
FITS = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning 2.6 under newer torch


def trainer(epoch=0, rank=0, world=1, overfit_batches=0.0):
    return SimpleNamespace(current_epoch=epoch, global_rank=rank, world_size=world, overfit_batches=overfit_batches)


def test_stratified_split_keeps_rare_classes_in_proportion():
    labels = torch.tensor([0] * 1000 + [1] * 3 + [2] * 77)[torch.randperm(1080)]
    fractions = (0.5, 0.3, 0.2)

    parts = data.stratified_split(labels, fractions, stream(0, "split"))

    assert torch.cat(parts).sort().values.equal(torch.arange(1080))
    for part, fraction in zip(parts, fractions, strict=True):
        expected = fraction * labels.bincount()
        assert ((labels[part].bincount(minlength=3) - expected).abs() <= 1).all()
        assert part.equal(part.sort().values)


@pytest.mark.parametrize("fractions", [(0.5, 0.4), (1.2, -0.2)])
def test_stratified_split_refuses_fractions_that_are_no_shares(fractions):
    with pytest.raises(ValueError, match="fractions must be positive and sum to 1"):
        data.stratified_split(torch.zeros(9, dtype=torch.int64), fractions, stream(0, "split"))


def test_every_row_comes_once_an_epoch_in_a_new_order(make_data):
    datamodule = make_data("Digits")
    datamodule.trainer = trainer()
    loader = datamodule.train_dataloader()

    epochs = []
    for datamodule.trainer.current_epoch in range(3):
        epochs.append(all_rows(loader))

    assert len(list(loader)) == len(loader) == -(-len(epochs[0]) // 64)
    for epoch in epochs:
        assert epoch.sort().values.equal(datamodule.parts["train"].rows[0])
    assert not any(epochs[i].equal(epochs[j]) for i, j in [(0, 1), (0, 2), (1, 2)])


def test_order_follows_from_seed_and_epoch_alone(make_data):
    def order(seed, epoch, **options):
        datamodule = make_data("Digits", seed=seed, **options)
        datamodule.trainer = trainer(epoch)
        torch.manual_seed(torch.seed())
        return all_rows(datamodule.train_dataloader())

    assert order(1, 5).equal(order(1, 5, batch_size=7))
    assert not order(1, 5).equal(order(2, 5))
    assert not order(1, 5).equal(order(1, 6))


def test_overfitting_sees_the_same_batches_every_epoch(make_data):
    datamodule = make_data("Digits")
    datamodule.trainer = trainer(epoch=3, overfit_batches=2)

    assert all_rows(datamodule.train_dataloader()).equal(datamodule.parts["train"].rows[0])


def test_scored_parts_come_in_row_order(make_data):
    datamodule = make_data("FakeImages", rows=9000)

    for loader in (datamodule.val_dataloader(), datamodule.test_dataloader(), datamodule.predict_dataloader()):
        rows = all_rows(loader)
        assert len(loader) == 2
        assert rows.equal(rows.sort().values)


@pytest.mark.parametrize("world", [2, 3, 100])
def test_devices_share_every_batch(make_data, world):
    alone = make_data("Digits")
    devices = [make_data("Digits") for _ in range(world)]
    for rank, datamodule in enumerate(devices):
        datamodule.trainer = trainer(rank=rank, world=world)

    for batch, *shares in zip(
        alone.train_dataloader(), *(device.train_dataloader() for device in devices), strict=True
    ):
        assert torch.cat([share.rows for share in shares], dim=1).sort().values.equal(batch.rows.sort().values)
        assert max(s.rows.shape[1] for s in shares) - min(s.rows.shape[1] for s in shares) <= 1
        images, labels, _ = alone.transfer_batch_to_device(shares[-1], CPU, 0)
        assert len(images) == len(labels) == len(shares[-1].rows)  # which may be 0


@pytest.mark.parametrize("done", [0, 1, 5, 19, 20])
def test_a_resumed_loader_goes_on_where_it_stopped(make_data, done):
    whole = make_data("Digits").train_dataloader()
    expected = [batch.rows.tolist() for batch in whole]
    stopped = make_data("Digits").train_dataloader()
    for _, _ in zip(range(done), stopped, strict=False):
        pass
    resumed = make_data("Digits").train_dataloader()

    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))

    rest = [batch.rows.tolist() for batch in resumed]
    again = [batch.rows.tolist() for batch in resumed]
    assert len(expected) == 20
    assert rest == expected[done % 20 :]
    assert again == expected


def test_the_place_in_a_shortened_epoch_is_not_that_in_the_next(make_data):
    datamodule = make_data("Digits")
    datamodule.trainer = trainer(epoch=4)
    loader = datamodule.train_dataloader()
    next(iter(loader))  # as with limit_train_batches=1

    datamodule.trainer.current_epoch = 5
    loader.load_state_dict(loader.state_dict())

    assert len(list(loader)) == 20


class Recorder(LightningModule):
    """A linear network that records its batches, and a checkpoint in the middle of an epoch."""

    def __init__(self, datamodule):
        super().__init__()
        self.network = torch.nn.Linear(int(np.prod(datamodule.input_shape)), datamodule.num_classes)
        self.seen = []

    def training_step(self, batch, batch_idx):
        (images,), (labels,), _ = batch
        self.seen.append((self.current_epoch, batch_idx, images.sum((1, 2, 3)).tolist(), labels.tolist()))
        return cross_entropy(self.network(images.flatten(1)), labels)

    def validation_step(self, batch, batch_idx):
        pass

    def test_step(self, batch, batch_idx):
        (images,), (labels,), _ = batch
        self.log("accuracy", (self.network(images.flatten(1)).argmax(1) == labels).float().mean())

    def predict_step(self, batch, batch_idx):
        return batch[2][0]

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05)


class SaveAt(Callback):
    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def quiet_trainer(**options):
    off = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    return Trainer(accelerator="cpu", devices=1, max_epochs=3, **off, **options)


@FITS
@pytest.mark.parametrize(("step", "limit"), [(5, 1.0), (3, 3), (4, 3)])
def test_a_resumed_fit_sees_what_the_uninterrupted_one_saw(make_data, tmp_path, step, limit):
    fits = [(make_data("CIFAR10", batch_size=50, augment=True), path) for path in (None, tmp_path / "middle.ckpt")]
    models = [Recorder(datamodule) for datamodule, _ in fits]

    for model, (datamodule, path) in zip(models, fits, strict=True):
        callbacks = [SaveAt(step, tmp_path / "middle.ckpt")] if path is None else []
        quiet_trainer(callbacks=callbacks, limit_train_batches=limit).fit(
            model, datamodule=datamodule, ckpt_path=path, weights_only=None if path is None else True
        )

    whole, rest = (model.seen for model in models)
    assert len(whole) == 3 * (3 if limit == 3 else 4)
    assert rest == whole[step:]
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert ours.equal(theirs)


def test_tables_are_moved_to_the_device_once(make_data):
    datamodule, device = make_data("CIFAR10", augment=True), torch.device("meta")
    train, val = next(iter(datamodule.train_dataloader())), next(iter(datamodule.val_dataloader()))

    images, *_ = datamodule.transfer_batch_to_device(train, device, 0)
    moved = datamodule.tables[0].images
    datamodule.transfer_batch_to_device(val, device, 0)

    assert images.device == moved.device == device
    assert datamodule.tables[0].images is moved


def test_other_batches_are_moved_as_lightning_moves_them(make_data):
    batch = {"images": torch.ones(2), "name": "other"}

    moved = make_data("FakeImages").transfer_batch_to_device(batch, torch.device("meta"), 0)

    assert moved["images"].device.type == "meta"
    assert moved["name"] == "other"


@FITS
def test_fake_images_can_be_learned_and_predictions_say_their_rows(make_data):
    datamodule = data.FakeImages()
    model = Recorder(datamodule)

    quiet_trainer().fit(model, datamodule=datamodule)
    scores = quiet_trainer().test(model, datamodule=datamodule, verbose=False)
    rows = torch.cat(quiet_trainer().predict(model, datamodule=datamodule))

    assert scores[0]["accuracy"] > 0.4
    assert rows.equal(datamodule.parts["test"].rows[0])
