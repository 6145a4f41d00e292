import ast
import inspect
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision.datasets
from datasets import Site, publish, serve, write_dataset, write_idx, write_mnist
from jsonargparse import ArgumentParser
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from actbench import data
from actbench.seeding import stream

FROM_FILES = ["MNIST", "FashionMNIST", "KMNIST", "QMNIST", "CIFAR10", "CIFAR100", "SVHN"]
ALL = ["Digits", "FakeImages", *FROM_FILES]
CPU = torch.device("cpu")
FITS = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning 2.6 under newer torch


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes a DataModule by name and sets it up, with generated files where it needs files."""
    written = set()

    def make(name, **options):
        if name in FROM_FILES:
            options.setdefault("root", str(tmp_path / name))
            if name not in written:
                write_dataset(name, Path(options["root"]), monkeypatch)
                written.add(name)
        datamodule = getattr(data, name)(**options)
        datamodule.prepare_data()
        datamodule.setup("fit")
        return datamodule

    return make


def trainer(epoch=0, rank=0, world=1, overfit_batches=0.0):
    return SimpleNamespace(current_epoch=epoch, global_rank=rank, world_size=world, overfit_batches=overfit_batches)


def all_rows(loader):
    return torch.cat([batch.rows[0] for batch in loader])


def part_rows(datamodule, part):
    return all_rows(getattr(datamodule, f"{part}_dataloader")()).sort().values


def images_of(datamodule, part, rows):
    return datamodule.transfer_batch_to_device(data.Rows(part, rows[None]), CPU, 0)[0][0]


# --- split ---


@pytest.mark.parametrize("name", ALL)
def test_parts_are_disjoint_complete_and_stratified(make, name):
    datamodule = make(name)

    parts = [part_rows(datamodule, part) for part in ("train", "val", "test")]

    split = parts[:2] if name in FROM_FILES else parts
    labels = datamodule.tables[0].labels
    assert torch.cat(split).sort().values.tolist() == list(range(len(labels)))
    fractions = [0.9, 0.1] if name in FROM_FILES else [0.7, 0.15, 0.15]
    for rows, fraction in zip(split, fractions, strict=True):
        for label in range(datamodule.num_classes):
            count = int((labels[rows] == label).sum())
            assert count > 0
            assert abs(count - fraction * int((labels == label).sum())) <= 1


@pytest.mark.parametrize("name", ALL)
def test_split_follows_from_the_seed(make, name):
    one, same, other = (part_rows(make(name, seed=seed), "val") for seed in (1, 1, 2))

    assert one.equal(same)
    assert not one.equal(other)


@pytest.mark.parametrize("name", FROM_FILES)
def test_train_and_val_are_from_the_training_files_and_test_from_the_test_files(make, name):
    datamodule = make(name)
    source, root = getattr(torchvision.datasets, name), datamodule.root
    parts = {"split": "train"}, {"split": "test"}
    train, test = (source(root, **part) for part in (parts if name == "SVHN" else ({}, {"train": False})))

    for part, files in {"train": train, "val": train, "test": test, "predict": test}.items():
        for batch in getattr(datamodule, f"{part}_dataloader")():
            (images, *_), (labels, *_), rows = datamodule.transfer_batch_to_device(batch, CPU, 0)
            row = batch.rows[0, 0]

            image, label = files[int(row)]
            expected = np.asarray(image, dtype=np.float32).reshape(*datamodule.input_shape[1:], -1) / 255
            np.testing.assert_array_equal(images[0].permute(1, 2, 0), expected)
            assert labels[0] == label
            assert rows.equal(batch.rows)


def test_digits_are_scikit_learns_scaled_to_one(make):
    digits, datamodule = load_digits(), make("Digits")

    (batch,) = datamodule.predict_dataloader()
    images, labels, index = (part[0] for part in datamodule.transfer_batch_to_device(batch, CPU, 0))

    np.testing.assert_allclose(images[:, 0], digits.images[index] / 16)
    np.testing.assert_array_equal(labels, digits.target[index])


@pytest.mark.parametrize("name", ALL)
def test_images_lie_between_zero_and_one(make, name):
    datamodule = make(name)

    images, labels, _ = datamodule.transfer_batch_to_device(next(iter(datamodule.train_dataloader())), CPU, 0)

    assert images.shape == (1, 64, *datamodule.input_shape)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert images.min() >= 0
    assert 0.5 < images.max() <= 1


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


def test_a_part_without_some_class_is_refused():
    datamodule = data.FakeImages(rows=30)

    with pytest.raises(data.DataError, match=r"the test part of FakeImages has no image of class 0: 30 images"):
        datamodule.setup("fit")


# --- batches ---


def test_every_row_comes_once_an_epoch_in_a_new_order(make):
    datamodule = make("Digits")
    datamodule.trainer = trainer()
    loader = datamodule.train_dataloader()

    epochs = []
    for datamodule.trainer.current_epoch in range(3):
        epochs.append(all_rows(loader))

    assert len(list(loader)) == len(loader) == -(-len(epochs[0]) // 64)
    for epoch in epochs:
        assert epoch.sort().values.equal(datamodule.parts["train"].rows[0])
    assert not any(epochs[i].equal(epochs[j]) for i, j in [(0, 1), (0, 2), (1, 2)])


def test_order_follows_from_seed_and_epoch_alone(make):
    def order(seed, epoch, **options):
        datamodule = make("Digits", seed=seed, **options)
        datamodule.trainer = trainer(epoch)
        torch.manual_seed(torch.seed())
        return all_rows(datamodule.train_dataloader())

    assert order(1, 5).equal(order(1, 5, batch_size=7))
    assert not order(1, 5).equal(order(2, 5))
    assert not order(1, 5).equal(order(1, 6))


def test_overfitting_sees_the_same_batches_every_epoch(make):
    datamodule = make("Digits")
    datamodule.trainer = trainer(epoch=3, overfit_batches=2)

    assert all_rows(datamodule.train_dataloader()).equal(datamodule.parts["train"].rows[0])


def test_scored_parts_come_in_row_order(make):
    datamodule = make("FakeImages", rows=9000)

    for loader in (datamodule.val_dataloader(), datamodule.test_dataloader(), datamodule.predict_dataloader()):
        rows = all_rows(loader)
        assert len(loader) == 2
        assert rows.equal(rows.sort().values)


@pytest.mark.parametrize("world", [2, 3, 100])
def test_devices_share_every_batch(make, world):
    alone = make("Digits")
    devices = [make("Digits") for _ in range(world)]
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
def test_a_resumed_loader_goes_on_where_it_stopped(make, done):
    whole = make("Digits").train_dataloader()
    expected = [batch.rows.tolist() for batch in whole]
    stopped = make("Digits").train_dataloader()
    for _, _ in zip(range(done), stopped, strict=False):
        pass
    resumed = make("Digits").train_dataloader()

    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))

    rest = [batch.rows.tolist() for batch in resumed]
    again = [batch.rows.tolist() for batch in resumed]
    assert len(expected) == 20
    assert rest == expected[done % 20 :]
    assert again == expected


def test_the_place_in_a_shortened_epoch_is_not_that_in_the_next(make):
    datamodule = make("Digits")
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
def test_a_resumed_fit_sees_what_the_uninterrupted_one_saw(make, tmp_path, step, limit):
    fits = [(make("CIFAR10", batch_size=50, augment=True), path) for path in (None, tmp_path / "middle.ckpt")]
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


@FITS
def test_fake_images_can_be_learned_and_predictions_say_their_rows(make):
    datamodule = data.FakeImages()
    model = Recorder(datamodule)

    quiet_trainer().fit(model, datamodule=datamodule)
    scores = quiet_trainer().test(model, datamodule=datamodule, verbose=False)
    rows = torch.cat(quiet_trainer().predict(model, datamodule=datamodule))

    assert scores[0]["accuracy"] > 0.4
    assert rows.equal(datamodule.parts["test"].rows[0])


def test_fake_images_do_not_follow_the_seed(make):
    one, other = (make("FakeImages", seed=seed).tables[0] for seed in (1, 2))

    assert one.images.equal(other.images)
    assert one.labels.equal(other.labels)


def test_tables_are_moved_to_the_device_once(make):
    datamodule, device = make("CIFAR10", augment=True), torch.device("meta")
    train, val = next(iter(datamodule.train_dataloader())), next(iter(datamodule.val_dataloader()))

    images, *_ = datamodule.transfer_batch_to_device(train, device, 0)
    moved = datamodule.tables[0].images
    datamodule.transfer_batch_to_device(val, device, 0)

    assert images.device == moved.device == device
    assert datamodule.tables[0].images is moved


def test_other_batches_are_moved_as_lightning_moves_them(make):
    batch = {"images": torch.ones(2), "name": "other"}

    moved = make("FakeImages").transfer_batch_to_device(batch, torch.device("meta"), 0)

    assert moved["images"].device.type == "meta"
    assert moved["name"] == "other"


# --- augmentation ---


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100", "SVHN"])
def test_augmentation_is_that_of_a_loop_over_images(make, name):
    datamodule, plain = make(name, augment=True, seed=3), make(name, seed=3)
    datamodule.trainer = trainer(epoch=2)
    (rows,) = datamodule.parts["train"].rows

    images = images_of(datamodule, "train", rows).numpy()

    generator = stream(3, "augmentation", 2)
    edges = torch.randint(9, (len(datamodule.tables[0].labels), 2), generator=generator).tolist()
    flips = torch.randint(2, (len(edges), 1), generator=generator).tolist()
    for row, ours, image in zip(rows.tolist(), images, images_of(plain, "train", rows).numpy(), strict=True):
        padded = np.zeros((3, 40, 40), dtype=np.float32)
        padded[:, 4:36, 4:36] = image
        top, left = edges[row]
        expected = padded[:, top : top + 32, left : left + 32]
        if flips[row][0] and name != "SVHN":
            expected = expected[:, :, ::-1]
        np.testing.assert_array_equal(ours, expected)


def test_augmentation_follows_from_seed_epoch_and_row_alone(make):
    def augmented(seed, epoch, batch_size):
        datamodule = make("CIFAR10", augment=True, seed=seed)
        datamodule.parts = parts
        datamodule.trainer = trainer(epoch)
        order = torch.arange(200).flip(0) if batch_size == 7 else torch.arange(200)
        batches = [images_of(datamodule, "train", rows) for rows in order.split(batch_size)]
        return torch.cat(batches)[order]

    parts = make("CIFAR10").parts
    reference = augmented(1, 5, 200)

    assert reference.equal(augmented(1, 5, 7))
    assert not reference.equal(augmented(2, 5, 200))
    assert not reference.equal(augmented(1, 6, 200))


@pytest.mark.parametrize("part", ["val", "test", "predict"])
def test_scored_images_are_not_augmented(make, part):
    augmented, plain = make("CIFAR10", augment=True), make("CIFAR10")
    (rows,) = plain.parts[part].rows

    assert images_of(augmented, part, rows).equal(images_of(plain, part, rows))


# --- files ---


@pytest.mark.parametrize("name", FROM_FILES)
def test_a_folder_that_is_not_there_is_named(tmp_path, name):
    root = tmp_path / "nowhere"

    with pytest.raises(data.DataError) as error:
        getattr(data, name)(root=str(root)).prepare_data()

    assert f"the folder {root} was not found" in str(error.value)
    assert f"main.py fit --data {name} --data.root {root} --data.download true" in str(error.value)


def files_of(datamodule):
    return [Path(datamodule.root, file) for file in datamodule.files()]


@pytest.mark.parametrize("name", FROM_FILES)
def test_a_missing_file_is_named(make, name):
    datamodule = make(name)
    for path in files_of(datamodule):
        path.rename(path.with_suffix(".away"))

        with pytest.raises(data.DataError) as error:
            type(datamodule)(root=datamodule.root).prepare_data()

        assert f"{path} is missing; to fetch it: python main.py fit --data {name}" in str(error.value)
        assert "\n" not in str(error.value)
        path.with_suffix(".away").rename(path)


@pytest.mark.parametrize("name", ["CIFAR10", "SVHN"])
def test_an_archive_is_no_file_where_no_archives_are_read(make, name):
    datamodule = make(name)
    path = files_of(datamodule)[0]
    path.rename(f"{path}.gz")

    with pytest.raises(data.DataError, match=f"{path.name} is missing; to fetch it: "):
        type(datamodule)(root=datamodule.root).prepare_data()


DAMAGES = {
    "truncated": lambda content: content[:-7],
    "half": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "header only": lambda content: content[:6],
    "longer": lambda content: content + b"more",
    "garbage": lambda content: bytes(len(content)),
    "first byte": lambda content: bytes([content[0] ^ 255]) + content[1:],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FROM_FILES)
def test_a_damaged_file_is_named(make, name, damage):
    datamodule = make(name)
    for path in files_of(datamodule):
        content = path.read_bytes()
        path.write_bytes(DAMAGES[damage](content))

        with pytest.raises(data.DataError) as error:
            type(datamodule)(root=datamodule.root).prepare_data()

        assert f"{path} is damaged" in str(error.value)
        assert "\n" not in str(error.value)
        path.write_bytes(content)


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100", "SVHN"])
def test_one_wrong_pixel_is_found_where_a_sum_is_known(make, name):
    datamodule = make(name)
    path = files_of(datamodule)[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    with pytest.raises(data.DataError, match=f"{path.name} is damaged: its MD5 sum is not"):
        type(datamodule)(root=datamodule.root).prepare_data()


@pytest.mark.parametrize(
    ("file", "array", "message"),
    [
        ("train-labels-idx1-ubyte", np.arange(199) % 10, "train part has 200 images and 199 labels"),
        ("t10k-labels-idx1-ubyte", np.arange(50) % 11, "test part has labels from 0 to 10, not 0 to 9"),
        ("t10k-images-idx3-ubyte", np.zeros((50, 27, 28)), r"shape \(1, 27, 28\), not \(1, 28, 28\)"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(tmp_path, file, array, message):
    write_mnist(tmp_path)
    write_idx(tmp_path / "MNIST" / "raw" / file, array)

    with pytest.raises(data.DataError, match=f"MNIST in {tmp_path} is damaged: its .*{message}"):
        data.MNIST(root=str(tmp_path)).prepare_data()


def test_an_empty_dataset_is_refused(tmp_path):
    write_mnist(tmp_path, rows=0)

    with pytest.raises(data.DataError, match="train-images-idx3-ubyte is damaged: its header says that it is empty"):
        data.MNIST(root=str(tmp_path)).prepare_data()


def test_a_file_that_may_not_be_read_is_named(make, monkeypatch):
    def refuse(self, root, part):
        raise PermissionError(13, "Permission denied", str(root / part))

    datamodule = make("CIFAR10")
    monkeypatch.setattr(data.CIFAR10, "read_part", refuse)

    with pytest.raises(data.DataError, match=r"CIFAR10 in .* cannot be read: .*Permission denied: '.*train'"):
        data.CIFAR10(root=datamodule.root).prepare_data()


def test_old_files_of_torchvision_are_not_taken_for_the_dataset(make):
    datamodule = make("MNIST")
    processed = Path(datamodule.root, "MNIST", "processed")
    processed.mkdir()
    for file in ("training.pt", "test.pt"):
        torch.save((torch.zeros(1, 28, 28, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)), processed / file)

    assert len(make("MNIST").tables[0].labels) == 200


# --- download ---


@pytest.mark.parametrize("name", FROM_FILES)
def test_a_download_that_breaks_off_leaves_nothing_and_the_next_succeeds(make, tmp_path, monkeypatch, name):
    original = make(name)
    root, site = tmp_path / "root", tmp_path / "site"
    site.mkdir()
    with serve(site) as url:
        names = publish(name, Path(original.root), site, url, monkeypatch)
        datamodule = getattr(data, name)(root=str(root), download=True)

        monkeypatch.setattr(Site, "broken", names[-1:])
        with pytest.raises(data.DataError) as error:
            datamodule.prepare_data()
        left = list(root.iterdir())
        monkeypatch.setattr(Site, "broken", ())
        datamodule.prepare_data()

    assert f"{name} could not be downloaded to {root}: " in str(error.value)
    assert "\n" not in str(error.value)
    assert left == []
    assert {path for path in root.rglob("*") if path.is_file()} == set(files_of(datamodule))
    getattr(data, name)(root=str(root), download=True).prepare_data()  # the site is gone: nothing is fetched
    for ours, theirs in zip(datamodule.tables, original.tables, strict=True):
        assert ours.images.equal(theirs.images)
        assert ours.labels.equal(theirs.labels)


@pytest.mark.parametrize("name", ["MNIST", "CIFAR10", "SVHN"])
def test_download_mends_a_damaged_file(make, tmp_path, monkeypatch, name):
    datamodule, site = make(name), tmp_path / "site"
    site.mkdir()
    with serve(site) as url:
        publish(name, Path(datamodule.root), site, url, monkeypatch)
        files_of(datamodule)[1].write_bytes(b"damaged")

        mended = type(datamodule)(root=datamodule.root, download=True)
        mended.prepare_data()

    assert mended.tables[0].images.equal(datamodule.tables[0].images)
    assert len(make(name).tables) == 2


def test_a_site_that_cannot_be_reached_is_said_in_one_line(make, tmp_path, monkeypatch):
    original, site = make("CIFAR10"), tmp_path / "site"
    site.mkdir()
    with serve(site) as url:
        publish("CIFAR10", Path(original.root), site, url, monkeypatch)

    with pytest.raises(data.DataError, match=r"CIFAR10 could not be downloaded to .*Connection refused"):
        data.CIFAR10(root=str(tmp_path / "root"), download=True).prepare_data()


def test_an_interrupted_download_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(self, folder):
        Path(folder, "part").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(data.MNIST, "fetch", interrupted)

    with pytest.raises(KeyboardInterrupt):
        data.MNIST(root=str(tmp_path), download=True).prepare_data()

    assert list(tmp_path.iterdir()) == []


def test_files_are_read_once(make, monkeypatch):
    datamodule = make("MNIST")
    monkeypatch.setattr(data.MNIST, "read", lambda self: pytest.fail("read again"))

    datamodule.prepare_data()
    datamodule.setup("test")


def test_a_process_that_prepared_nothing_reads_for_itself(make):
    prepared = make("MNIST")
    other = data.MNIST(root=prepared.root)

    other.setup("fit")

    assert other.parts["val"].rows.equal(prepared.parts["val"].rows)


# --- options ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"val_fraction": 0.0}, "val_fraction must lie strictly between 0 and 1, got 0.0"),
        ({"val_fraction": 1.0}, "val_fraction must lie strictly between 0 and 1, got 1.0"),
        ({"test_fraction": -0.1}, "test_fraction must lie strictly between 0 and 1, got -0.1"),
        (
            {"val_fraction": 0.5, "test_fraction": 0.5},
            r"val_fraction \+ test_fraction must be below 1, got 0.5 \+ 0.5",
        ),
        ({"rows": 0}, "rows must be at least 1, got 0"),
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        data.FakeImages(**options)


@pytest.mark.parametrize("name", ALL)
def test_every_option_is_explained_in_the_help(name, capsys):
    parser = ArgumentParser()
    parser.add_class_arguments(getattr(data, name), "data")

    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])

    text = " ".join(capsys.readouterr().out.split())
    for option in inspect.signature(getattr(data, name)).parameters:
        _, described = text.rsplit(f"--data.{option} ", 1)
        assert described.split("(type:")[0].strip().endswith("."), option


@pytest.mark.parametrize("name", ALL)
def test_recorded_options_build_the_same_data_again(name):
    cls = getattr(data, name)
    changed = {"batch_size": 7, "val_fraction": 0.3}

    recorded = dict(cls(seed=3, **changed).hparams)

    assert recorded.keys() == inspect.signature(cls).parameters.keys() - {"seed", "replicates"}
    assert recorded == json.loads(json.dumps(recorded))
    assert recorded.items() >= changed.items()
    assert dict(cls(**recorded).hparams) == recorded


def test_no_module_imports_heavy_packages_until_it_needs_them():
    for path in Path(data.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"sklearn", "torchvision", "scipy"}


# --- any LightningDataModule ---


class Foreign(LightningDataModule):
    """A user's DataModule that knows nothing about its data until it is set up."""

    def __init__(self, loader=None, **attributes):
        super().__init__()
        self.loader = loader
        vars(self).update(attributes)

    def setup(self, stage):
        self.stage = stage

    def train_dataloader(self):
        assert self.stage == "fit"
        return self.loader


def loader(labels, shape=(3, 5, 4), batch_size=2, **attributes):
    dataset = TensorDataset(torch.rand(len(labels), *shape), torch.tensor(labels))
    vars(dataset).update(attributes)
    return DataLoader(dataset, batch_size=batch_size, shuffle=True)


@pytest.mark.parametrize("name", ALL)
def test_our_data_say_their_shape_and_classes_without_files(name):
    datamodule = getattr(data, name)()

    shape, classes = datamodule.input_shape, datamodule.num_classes

    assert datamodule.tables == []
    assert shape == ((1, 8, 8) if name in ALL[:2] else (1, 28, 28) if "MNIST" in name else (3, 32, 32))
    assert classes == (100 if name == "CIFAR100" else 10)


@pytest.mark.parametrize(
    ("foreign", "classes"),
    [
        (Foreign(num_classes=7), 7),
        (Foreign(num_classes=np.int64(7)), 7),
        (Foreign(classes=["cat", "dog"]), 2),
        (Foreign(loader([0, 1, 0, 1], classes=["cat", "dog", "cow"])), 3),
        (Foreign(loader([0, 0, 0, 0, 4, 1, 0, 0])), 5),
    ],
)
def test_classes_are_said_or_else_counted_over_all_batches(foreign, classes):
    before = torch.get_rng_state()

    assert data.adopt(foreign).num_classes == classes
    assert torch.get_rng_state().equal(before)


def test_shape_is_said_or_else_that_of_the_first_batch():
    silent = Foreign(loader([0, 1, 2]))
    before = torch.get_rng_state()

    assert data.adopt(Foreign(input_shape=[1, 2, 3])).input_shape == (1, 2, 3)
    assert data.adopt(silent).input_shape == (3, 5, 4)
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize(
    ("batches", "found"),
    [
        ([torch.rand(2, 3)], r"no labels: float32 \(2, 3\)"),
        ([[torch.ones(2, 3, dtype=torch.uint8), torch.ones(2)]], r"not list of uint8 \(2, 3\), float32 \(2,\)"),
        ([{"images": torch.rand(2, 3)}], "no labels: dict"),
        ([(torch.rand(2), torch.ones(2, dtype=torch.int64))], r"not tuple of float32 \(2,\), int64 \(2,\)"),
        ([], "the train part of Foreign has no batch"),
    ],
)
@pytest.mark.parametrize("ask", ["input_shape", "num_classes"])
def test_batches_that_are_not_images_and_labels_are_described(ask, batches, found):
    with pytest.raises(ValueError, match=found):
        getattr(data.adopt(Foreign(batches)), ask)
