import os
import re
import warnings

import numpy as np
import polars as pl
import pytest
import torch
from pictures import read, write_picture, write_pictures
from pytorch_lightning import Trainer
from torchvision import transforms

from actbench import data
from actbench.cli import main
from actbench.seeding import stream
from actbench.training.classifier import Classifier

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("caches")


# --- normalisation and augmentation ---


@pytest.mark.parametrize("channels", [1, 3])
def test_imagenet_normalisation_is_torchvisions(tmp_path, rng, channels):
    write_pictures(tmp_path, rng)
    datamodule = read(tmp_path, normalize="imagenet", channels=channels)
    (batch,) = datamodule.test_dataloader()

    (images,), _, (rows,) = datamodule.transfer_batch_to_device(batch, CPU, 0)

    mean, deviation = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]) if channels == 3 else ([0.449], [0.226])
    expected = transforms.Normalize(mean, deviation)(datamodule.tables[0].images[rows] / 255)
    torch.testing.assert_close(images, expected)


def test_normalisation_by_the_training_part_is_each_replicates_own(tmp_path, rng):
    write_pictures(tmp_path, rng, count=20)
    together = read(tmp_path, normalize="train", replicates=3, seed=4)

    for part in ("train", "val", "test"):
        batch = next(iter(getattr(together, f"{part}_dataloader")()))
        images, _, rows = together.transfer_batch_to_device(batch, CPU, 0)
        for replicate in range(3):
            alone = read(tmp_path, normalize="train", seed=4 + replicate)
            single = data.Rows(part, rows[replicate : replicate + 1])
            assert alone.transfer_batch_to_device(single, CPU, 0)[0][0].equal(images[replicate])
            train = together.tables[0].images[together.parts["train"].rows[replicate]].numpy() / 255
            mean, deviation = (
                value(train, axis=(0, 2, 3))[:, None, None].astype(np.float32) for value in (np.mean, np.std)
            )
            expected = (together.tables[0].images[rows[replicate]].numpy() / 255 - mean) / deviation
            np.testing.assert_allclose(images[replicate], expected, rtol=1e-4, atol=1e-5)


def test_a_channel_that_never_changes_becomes_zero(tmp_path, rng):
    for name in ("cat", "dog"):
        for number in range(8):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            pixels[..., 1] = 77
            write_picture(tmp_path / name / f"{number}.png", pixels)
    datamodule = read(tmp_path, normalize="train", val_fraction=0.25, test_fraction=0.25)

    images = datamodule.transfer_batch_to_device(next(iter(datamodule.train_dataloader())), CPU, 0)[0]

    assert images[:, :, 1].abs().max() < 1e-6


def test_training_pictures_are_augmented_with_black_before_they_are_normalised(tmp_path, rng):
    write_pictures(tmp_path, rng)
    options = {"seed": 3, "image_size": [8, 6]}
    augmented, plain = (read(tmp_path, augment=augment, normalize="imagenet", **options) for augment in (True, False))
    (rows,) = plain.parts["train"].rows

    images = augmented.transfer_batch_to_device(data.Rows("train", rows[None]), CPU, 0)[0][0].numpy()

    generator = stream(3, "augmentation", 0)
    edges = torch.randint(9, (24, 2), generator=generator).tolist()
    flips = torch.randint(2, (24, 1), generator=generator).tolist()
    mean, deviation = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    for row, ours in zip(rows.tolist(), images, strict=True):
        padded = np.pad(plain.tables[0].images[row].permute(1, 2, 0).numpy(), ((4, 4), (4, 4), (0, 0)))
        top, left = edges[row]
        expected = padded[top : top + 8, left : left + 6]
        expected = expected[:, ::-1] if flips[row][0] else expected
        np.testing.assert_allclose(ours.transpose(1, 2, 0), (expected / 255 - mean) / deviation, rtol=1e-4, atol=1e-5)


# --- normalisation, in checkpoints ---


@pytest.fixture
def trained_on_dark(tmp_path, rng, actbench):
    """A folder whose pictures are bright, and a checkpoint of two replicates that were trained on dark ones."""
    for name, least in (("dark", 0), ("bright", 156)):
        for cls in ("cat", "dog"):
            for number in range(12):
                pixels = rng.integers(least, least + 100, (8, 8, 3), dtype=np.uint8)
                write_picture(tmp_path / name / cls / f"{number:02d}.png", pixels)
    fit = ["fit", "--data", "ImageFolder", "--data.root", tmp_path / "dark", "--trainer.max_epochs", 1]
    fitted = actbench(*fit, "--data.normalize", "train", "--model.replicates", 2, "--model.network", "MLP")
    assert fitted.returncode == 0, fitted.stderr
    return tmp_path / "bright", tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"


def dark_scales(dark):
    """By NumPy, for each of two replicates."""
    datamodule = read(dark, replicates=2)
    train = [datamodule.tables[0].images[rows].numpy() / 255 for rows in datamodule.parts["train"].rows]
    return [np.stack([value(pixels, axis=(0, 2, 3)) for pixels in train]) for value in (np.mean, np.std)]


def bright_probabilities(folder, checkpoint):
    """Of the test part of bright pictures, normalised by hand as the dark ones were in training."""
    classifier = Classifier.load_from_checkpoint(str(checkpoint)).eval()
    datamodule = read(folder, replicates=2)
    mean, deviation = (torch.tensor(values, dtype=torch.float32) for values in dark_scales(folder.parent / "dark"))
    rows = datamodule.parts["test"].rows
    images = datamodule.tables[0].images[rows] / 255
    inputs = (images - mean[:, None, :, None, None]) / deviation[:, None, :, None, None]
    with torch.no_grad():
        return rows, classifier(inputs).softmax(2), datamodule.tables[0].labels[rows]


def test_a_checkpoint_is_scored_with_the_means_of_its_training(tmp_path, actbench, trained_on_dark):
    folder, checkpoint = trained_on_dark
    rows, expected, labels = bright_probabilities(folder, checkpoint)

    options = ["--ckpt_path", checkpoint, "--data.root", folder]
    predicted, tested = actbench("predict", *options), actbench("test", *options)
    export = actbench("export", "--ckpt_path", checkpoint, "--replicate", 1, "--output", tmp_path / "net.pt2")

    assert (predicted.returncode, tested.returncode, export.returncode) == (0, 0, 0), predicted.stderr + export.stderr
    table = pl.read_csv(checkpoint.with_name("predictions.csv"))
    for replicate in range(2):
        ours = table.filter(pl.col("seed") == replicate).sort("index")["probability_1"].to_numpy()
        order = rows[replicate].argsort()
        np.testing.assert_allclose(ours, expected[replicate, order, 1], atol=1e-5)
        named = table.filter(pl.col("seed") == replicate).sort("index")["predicted_class"]
        assert named.to_list() == [("cat", "dog")[label] for label in expected[replicate, order].argmax(1)]
        loss = torch.nn.functional.nll_loss(expected[replicate].log(), labels[replicate]).item()
        row = next(line.split() for line in tested.stdout.splitlines() if line.split()[:1] == [str(replicate)])
        assert float(row[1]) == pytest.approx(loss, abs=1e-5)
    mean, deviation = dark_scales(tmp_path / "dark")
    said = re.search(r"by channel minus \[(.*)\], over \[(.*)\]", export.stdout)
    for text, values in zip(said.groups(), (mean[1], deviation[1]), strict=True):
        np.testing.assert_allclose(np.float64(text.split(", ")), values, rtol=1e-4)


def test_in_python_a_loaded_classifier_is_scored_with_the_means_of_its_training(trained_on_dark):
    folder, checkpoint = trained_on_dark
    _, expected, labels = bright_probabilities(folder, checkpoint)
    classifier = Classifier.load_from_checkpoint(str(checkpoint))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
        datamodule = data.ImageFolder(str(folder), normalize="train", replicates=2)
        trainer.test(classifier, datamodule, verbose=False)

    mean, deviation = dark_scales(folder.parent / "dark")
    np.testing.assert_allclose(classifier.normalization["mean"], mean, rtol=1e-4)
    np.testing.assert_allclose(classifier.normalization["deviation"], deviation, rtol=1e-4)
    losses = [torch.nn.functional.nll_loss(p.log(), y).item() for p, y in zip(expected, labels, strict=True)]
    np.testing.assert_allclose(classifier.evaluated["test/loss"], losses, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "none"}, "data.normalize is train, and was none when the network was trained"),
        (None, "the checkpoint has no means of a training part"),
        ({"mean": torch.zeros(2, 4)}, "is not what actbench .* writes"),
        ({"mean": torch.full((2, 3), torch.nan)}, "is not what actbench .* writes"),
        ({"deviation": torch.zeros(2, 3)}, "is not what actbench .* writes"),
        ({"deviation": "a"}, "is not what actbench .* writes"),
        ({"kind": "other"}, "is not what actbench .* writes"),
    ],
)
def test_another_normalisation_in_a_checkpoint_is_refused(trained_on_dark, capsys, change, message):
    folder, checkpoint = trained_on_dark
    content = torch.load(checkpoint, weights_only=True)
    saved = content["actbench"]["normalization"]
    content["actbench"]["normalization"] = None if change is None else saved | change
    torch.save(content, checkpoint)

    status = main(["test", "--ckpt_path", str(checkpoint), "--data.root", str(folder)])

    error = capsys.readouterr().err.splitlines()[-1]
    assert status == 2
    assert re.search(message, error)
    assert "damaged: DataError" not in error


def test_another_option_than_in_training_is_refused(trained_on_dark, capsys):
    folder, checkpoint = trained_on_dark

    status = main(["test", "--ckpt_path", str(checkpoint), "--data.root", str(folder), "--data.normalize", "none"])

    assert status == 2
    assert "data.normalize is none, and was train when the network was trained" in capsys.readouterr().err


def test_a_folder_of_test_pictures_alone_is_scored_but_not_trained_on(tmp_path, actbench, trained_on_dark):
    folder, checkpoint = trained_on_dark
    (tmp_path / "new").mkdir()
    folder.rename(tmp_path / "new" / "test")
    (tmp_path / "new" / "test" / "dog" / "00.png").unlink()
    options = ["--data.root", tmp_path / "new"]

    predicted = actbench("predict", "--ckpt_path", checkpoint, *options)
    validated = actbench("validate", "--ckpt_path", checkpoint, *options)
    fitted = actbench("fit", "--data", "ImageFolder", *options)

    assert predicted.returncode == 0, predicted.stderr
    assert f"{tmp_path / 'new'}: 2 classes (cat, dog), pictures: 23 in test\n" in predicted.stderr
    table = pl.read_csv(checkpoint.with_name("predictions.csv"))
    assert table["index"].to_list() == [*range(23), *range(23)]
    mean, deviation = (torch.tensor(values, dtype=torch.float32) for values in dark_scales(tmp_path / "dark"))
    images = read_without_training(tmp_path / "new") / 255
    inputs = (images - mean[:, None, :, None, None]) / deviation[:, None, :, None, None]
    with torch.no_grad():
        expected = Classifier.load_from_checkpoint(str(checkpoint)).eval()(inputs).softmax(2)[..., 1]
    np.testing.assert_allclose(table["probability_1"].to_numpy(), expected.flatten(), atol=1e-5)
    for run, part in ((validated, "val"), (fitted, "train")):
        assert run.returncode == 2
        assert run.stderr.splitlines()[-1].endswith(f"new has a folder test, but none {part}")


def read_without_training(folder):
    datamodule = data.ImageFolder(str(folder))
    datamodule.setup("test")
    return datamodule.tables[1].images


def test_of_test_pictures_alone_a_class_may_have_none(tmp_path, rng):
    write_pictures(tmp_path / "test", rng, classes=["cat", "fox"])
    (tmp_path / "test" / "dog").mkdir()
    datamodule = data.ImageFolder(str(tmp_path))

    datamodule.setup("test")

    assert datamodule.tables[1].labels.tolist() == [0] * 12 + [2] * 12
    assert datamodule.findings == ["the test part has no picture of class 'dog'"]


def test_without_a_training_part_there_are_no_means(tmp_path, rng):
    write_pictures(tmp_path / "test", rng)
    datamodule = data.ImageFolder(str(tmp_path), normalize="train")
    datamodule.setup("test")

    with pytest.raises(data.DataError, match="has a folder test, but none train"):
        datamodule.transfer_batch_to_device(next(iter(datamodule.test_dataloader())), CPU, 0)


def test_a_split_of_other_pictures_than_in_training_is_said(tmp_path, rng, actbench):
    write_pictures(tmp_path / "pictures", rng)
    fit = ["fit", "--data", "ImageFolder", "--data.root", "pictures", "--trainer.max_epochs", 1]
    assert actbench(*fit, "--model.network", "MLP").returncode == 0
    test = ["test", "--ckpt_path", "lightning_logs/version_0/checkpoints/last.ckpt"]
    line = "the pictures are not those that the checkpoint was trained on, and are split anew"

    same = actbench(*test)
    write_picture(tmp_path / "pictures" / "cat" / "z.png", np.zeros((8, 8, 3), dtype=np.uint8))
    more = actbench(*test)
    write_pictures(tmp_path / "new" / "test", rng)
    new = actbench(*test, "--data.root", "new")

    assert [run.returncode for run in (same, more, new)] == [0, 0, 0]
    assert [run.stderr.count(line) for run in (same, more, new)] == [0, 1, 0]


@pytest.mark.parametrize(
    "state", [{}, [], {"classes": "cat", "listing": ""}, {"classes": [1], "listing": ""}, {"classes": ["cat", "dog"]}]
)
def test_a_damaged_state_is_refused(tmp_path, rng, state):
    write_pictures(tmp_path, rng)

    with pytest.raises(data.DataError, match="the checkpoint is damaged"):
        data.ImageFolder(str(tmp_path)).load_state_dict(state)


def test_a_cache_within_the_pictures_is_refused(tmp_path, rng):
    write_pictures(tmp_path, rng)

    with pytest.raises(ValueError, match="cache must lie outside of root"):
        data.ImageFolder(str(tmp_path), cache=str(tmp_path / "cat" / "cache"))


def test_classes_may_have_any_name_and_a_root_one_that_can_be_logged(tmp_path, rng):
    names = [os.fsdecode(name) for name in (b"caf\xe9", b"a\nb", "\N{GRINNING FACE}".encode(), b"{x: 1}")]
    write_pictures(tmp_path / "pictures", rng, classes=names)

    assert read(tmp_path / "pictures").classes == sorted(names)
    write_pictures(tmp_path / names[0], rng)
    with pytest.raises(ValueError, match="root must be a path in UTF-8"):
        data.ImageFolder(str(tmp_path / names[0]))
