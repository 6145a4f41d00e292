"""Pictures that are predicted: without folders for classes, and the file that a row of the table belongs to."""

import os
import re
import warnings

import numpy as np
import polars as pl
import pytest
import torch
from pictures import read, write_picture, write_pictures
from PIL import Image
from pytorch_lightning import Trainer

from actbench import data
from actbench.cli import main
from actbench.data import decoding
from actbench.training.classifier import Classifier
from actbench.training.predictions import class_names

CPU = torch.device("cpu")
STATE = {"classes": ["cat", "dog"], "listing": ""}  # of the pictures of a training
pytestmark = pytest.mark.usefixtures("caches")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, ended_in):
    """Two replicates that were trained on cats and dogs of 8x8 pixels."""
    folder = tmp_path_factory.mktemp("trained")
    write_pictures(folder / "photos", np.random.default_rng(1))
    fit = ["fit", "--data", "ImageFolder", "--data.root", folder / "photos", "--data.cache", folder / "cache"]
    fit += ["--data.normalize", "train", "--model.replicates", 2, "--model.network", "MLP", "--trainer.max_epochs", 1]
    ended_in(folder, *fit)
    return folder / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"


def write_names(root, rng, *names, shape=(8, 8, 3)):
    for name in names:
        write_picture(root / name, rng.integers(0, 256, shape, dtype=np.uint8))


def damage(path):
    path.write_bytes(path.read_bytes()[:-40])


def probabilities(checkpoint, path):
    """Of a file's picture, by replicate and class, normalised by hand with what the checkpoint holds."""
    classifier = Classifier.load_from_checkpoint(str(checkpoint)).eval()
    mean, deviation = (classifier.normalization[name][:, None, :, None, None] for name in ("mean", "deviation"))
    image = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1) / 255
    with torch.no_grad():
        return classifier((image - mean) / deviation).softmax(2)[:, 0].numpy()


def check_rows(table, checkpoint, root, names):
    """Every row of a table has the probabilities of the picture in its file, whose path is among the names."""
    expected = {file: probabilities(checkpoint, root / name) for file, name in names.items()}
    for seed, file, predicted, *both in table.select(
        "seed", "file", "predicted_class", "probability_0", "probability_1"
    ).iter_rows():
        np.testing.assert_allclose(both, expected[file][seed], atol=1e-5)
        assert predicted == ("cat", "dog")[expected[file][seed].argmax()]


# --- the command line ---


def test_a_folder_of_pictures_is_predicted_without_labels(tmp_path, rng, actbench, checkpoint):
    new = tmp_path / "new"
    strange = os.fsdecode(b"\xff.png")
    names = {"a, b.png": "a, b.png", 'z"\n.png': 'z"\n.png', "\\udcff.png": strange, "2024/c.png": "2024/c.png"}
    write_names(new, rng, *names.values(), "damaged.png", ".hidden.png")
    damage(new / "damaged.png")
    (new / "notes.txt").touch()
    predict = ["predict", "--ckpt_path", checkpoint, "--data.root", new, "--data.skip_damaged", "true"]

    runs = [actbench(*predict, "--output", output) for output in ("p.csv", "p.parquet")]

    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr
    for run in runs:
        assert "acc" not in run.stdout.split()
        said = run.stdout + run.stderr
        assert f"{new}: pictures to predict: 4, without labels, since {new} has a folder for the class 2024" in said
        assert "1 .txt" in said
        assert "1 hidden" in said
        assert "damaged pictures left out: 1 of 5, the first 'damaged.png'" in said
    assert ["Decoding 5 pictures" in run.stderr for run in runs] == [True, False]
    tables = [pl.read_csv(tmp_path / "p.csv"), pl.read_parquet(tmp_path / "p.parquet")]
    for table in tables:
        numbers = [f"probability_{label}" for label in range(2)]
        assert table.columns == ["seed", "index", "file", "predicted", "predicted_class", *numbers]
        files = ["a, b.png", 'z"\n.png', "\\udcff.png", "2024/c.png"]
        assert table.filter(seed=0)["file"].to_list() == table.filter(seed=1)["file"].to_list() == files
        assert table["index"].to_list() == [0, 1, 2, 3] * 2
        check_rows(table, checkpoint, new, names)


def test_each_replicates_rows_name_the_files_of_its_own_split(tmp_path, rng, actbench, checkpoint):
    labelled = tmp_path / "labelled"
    write_pictures(labelled, rng)
    damage(labelled / "cat" / "03.png")

    run = actbench("predict", "--ckpt_path", checkpoint, "--data.root", labelled, "--data.skip_damaged", "true")

    assert run.returncode == 0, run.stderr
    assert "acc" in run.stdout.split()
    table = pl.read_csv(checkpoint.with_name("predictions.csv"))
    assert table.columns[:5] == ["seed", "index", "file", "label", "predicted"]
    assert {*table.filter(seed=0)["file"]} != {*table.filter(seed=1)["file"]}
    for file, label in table.select("file", "label").iter_rows():
        assert file.split("/")[0] == ("cat", "dog")[label]
    check_rows(table, checkpoint, labelled, {file: file for file in table["file"]})


@pytest.mark.parametrize("command", ["fit", "resume", "validate", "test", "compare"])
def test_nothing_else_is_done_with_pictures_without_classes(
    tmp_path, rng, capsys, monkeypatch, caches, checkpoint, command
):
    monkeypatch.chdir(tmp_path)
    write_names(tmp_path / "new", rng, "a.png")
    write_names(tmp_path / "new", rng, "b.png", shape=(9, 7, 3))  # would be found if pictures were decoded
    words = {
        "fit": ["fit", "--data", "ImageFolder"],
        "resume": ["fit", "--ckpt_path", str(checkpoint)],
        "compare": ["compare", "--study.name", "s", "--study.activations", "[relu, swish]", "--data", "ImageFolder"],
    }.get(command, [command, "--ckpt_path", str(checkpoint)])

    status = main([*words, "--data.root", "new"])

    said = capsys.readouterr()
    assert status == 2
    assert "ImageFolder: new has no folders for classes; as it is, new can only be predicted" in said.err
    assert len(said.err.splitlines()) == 1
    assert not [path for path in tmp_path.rglob("*") if path.name not in ("new", "a.png", "b.png")]


def test_a_picture_of_another_size_is_named_with_both_sizes(tmp_path, rng, capsys, monkeypatch, checkpoint):
    monkeypatch.chdir(tmp_path)
    write_names(tmp_path / "new", rng, "a.png", shape=(9, 7, 3))
    predict = ["predict", "--ckpt_path", str(checkpoint), "--data.root", "new"]

    status = main(predict)
    error = capsys.readouterr().err.splitlines()[-1]
    write_names(tmp_path / "new", rng, "a.png")
    write_names(tmp_path / "new", rng, "b.png", shape=(9, 7, 3))
    later_status = main(predict)
    later = capsys.readouterr().err.splitlines()[-1]

    assert status == later_status == 2
    assert "'new/a.png' has 9x7 pixels (height x width), and the network takes 8x8: give --data.image_size" in error
    assert re.search(r"such as 8x8 and 9x7 .*'new/b\.png'.*give --data\.image_size", later)


def test_an_empty_folder_is_named(tmp_path, capsys, checkpoint):
    (tmp_path / "new").mkdir()

    status = main(["predict", "--ckpt_path", str(checkpoint), "--data.root", str(tmp_path / "new")])

    assert status == 2
    assert f"ImageFolder: {tmp_path / 'new'} has no picture that ends in .jpg, " in capsys.readouterr().err


# --- which pictures, and with which labels ---

LAYOUTS = {  # files, those that are predicted without labels or None, and why they have no labels
    "pictures alone": ("b.png a.png", "a.png b.png", "r has no folders for classes"),
    "one picture": ("a.png", "a.png", "r has no folders for classes"),
    "the classes": ("cat/a.png dog/b.png", None, ""),
    "pictures beside the classes": ("z.png cat/a.png dog/b.png", None, ""),
    "folders beside pictures": (
        "z.png b/x/c.png a/d.png",
        "z.png a/d.png b/x/c.png",
        "its folders a, b are not the checkpoint's classes, cat, dog",
    ),
    "one more folder": (
        "cat/a.png dog/b.png new/c.png",
        "cat/a.png dog/b.png new/c.png",
        "its folders cat, dog, new are not the checkpoint's classes, cat, dog",
    ),
    "a class alone": ("cat/a.png", "cat/a.png", "r has a folder for the class cat, and none for another"),
    "an empty class": ("cat/.hidden.png dog/b.png", "dog/b.png", "r/cat has no picture that ends in "),
    "a part without classes": ("test/b.png test/a.png", "test/a.png test/b.png", "r/test has no folders for classes"),
    "parts with classes": ("test/cat/b.png test/dog/a.png", None, ""),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_pictures_have_labels_where_the_folders_are_the_classes(tmp_path, rng, name, said):
    files, predicted, obstacle = LAYOUTS[name]
    write_names(tmp_path / "r", rng, *files.split())
    datamodule = data.ImageFolder(str(tmp_path / "r"), val_fraction=0.3, test_fraction=0.3)

    datamodule.prepare_prediction((3, 8, 8), 2, STATE)

    assert (datamodule.classes, datamodule.num_classes) == (["cat", "dog"], 2)
    if predicted is None:
        assert datamodule.found.classes == ("cat", "dog")
        return
    datamodule.setup("predict")
    datamodule.setup("predict")
    (rows,) = datamodule.predict_dataloader()
    batch = datamodule.transfer_batch_to_device(rows, CPU, 0)
    assert batch.labels is None
    assert [datamodule.predicted_files()[row] for row in batch.rows[0]] == predicted.split()
    for file, image in zip(predicted.split(), batch.inputs[0], strict=True):
        np.testing.assert_array_equal((image * 255).round().permute(1, 2, 0), Image.open(tmp_path / "r" / file))
    line = f"{tmp_path}/r: pictures to predict: {len(predicted.split())}, without labels, since "
    assert said[0].startswith(line + obstacle.replace("r", f"{tmp_path}/r", obstacle.startswith("r")))


def test_other_classes_in_folders_for_parts_are_refused(tmp_path, rng):
    for part in ("train", "test"):
        write_pictures(tmp_path / part, rng, classes=["cat", "cow"])
    datamodule = read(tmp_path)

    datamodule.prepare_prediction((3, 8, 8), 2, STATE)

    with pytest.raises(data.DataError, match="has the classes cat, cow; the checkpoint was trained on cat, dog"):
        datamodule.load_state_dict(STATE)


def test_a_part_without_classes_beside_one_with_classes_is_to_be_the_root(tmp_path, rng):
    write_pictures(tmp_path / "train", rng)
    write_names(tmp_path / "test", rng, "a.png")

    with pytest.raises(data.DataError, match=r"test has no folders for classes; to predict .* --data.root .*test$"):
        data.ImageFolder(str(tmp_path))


def test_without_the_checkpoints_classes_those_of_the_network_are_counted(tmp_path, rng):
    write_names(tmp_path, rng, "a.png")
    datamodule = data.ImageFolder(str(tmp_path))

    datamodule.prepare_prediction((3, 8, 8), 5, None)  # a network that was trained on another dataset

    assert datamodule.num_classes == 5
    assert class_names(datamodule, 5) is None


def test_classes_that_are_none_are_a_damaged_checkpoint(tmp_path, rng):
    write_names(tmp_path, rng, "a.png")

    with pytest.raises(data.DataError, match="the checkpoint is damaged"):
        data.ImageFolder(str(tmp_path)).prepare_prediction((3, 8, 8), 2, {"classes": 5})


# --- sizes, damage and the cache ---


def test_a_size_that_is_given_is_the_size(tmp_path, rng):
    write_names(tmp_path, rng, "a.png", shape=(9, 7, 3))
    write_names(tmp_path, rng, "b.png", shape=(16, 16, 3))
    datamodule = data.ImageFolder(str(tmp_path), image_size=8)

    datamodule.prepare_prediction((3, 8, 8), 2, STATE)
    datamodule.setup("predict")

    assert datamodule.tables[1].images.shape == (2, 3, 8, 8)


def test_a_damaged_picture_is_named_or_left_out(tmp_path, rng):
    write_names(tmp_path, rng, "a.png", "b.png", "c.png")
    damage(tmp_path / "b.png")

    with pytest.raises(data.DataError, match=r"b\.png' cannot be read .*--data.skip_damaged true"):
        data.ImageFolder(str(tmp_path)).setup("predict")
    datamodule = data.ImageFolder(str(tmp_path), skip_damaged=True)
    datamodule.setup("predict")

    assert datamodule.predicted_files() == ["a.png", "c.png"]
    assert datamodule.findings == ["damaged pictures left out: 1 of 3, the first 'b.png'"]


def test_without_any_whole_picture_there_is_nothing_to_predict(tmp_path):
    (tmp_path / "a.png").touch()

    with pytest.raises(data.DataError, match=r"no file in .* can be read as a picture"):
        data.ImageFolder(str(tmp_path), image_size=8, skip_damaged=True).setup("predict")


def test_pictures_without_classes_are_decoded_once_too(tmp_path, rng, monkeypatch):
    write_names(tmp_path, rng, "a.png", "deep/b.png")
    first = data.ImageFolder(str(tmp_path))
    first.setup("predict")
    monkeypatch.setattr(decoding, "read_picture", lambda *args: pytest.fail("decoded again"))

    again = data.ImageFolder(str(tmp_path))
    again.setup("predict")

    assert again.tables[1].images.equal(first.tables[1].images)


# --- in Python ---


def test_in_python_a_loaded_classifier_predicts_pictures_without_classes(tmp_path, rng, checkpoint):
    write_names(tmp_path, rng, "a.png", "b.png")
    datamodule = data.ImageFolder(str(tmp_path), normalize="train", replicates=2)
    classifier = Classifier.load_from_checkpoint(str(checkpoint))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
        (batch,) = trainer.predict(classifier, datamodule)
        trainer.predict(classifier, datamodule, ckpt_path=str(checkpoint), weights_only=True)

    assert batch.labels is None
    assert batch.rows.tolist() == [[0, 1]] * 2
    for row, file in enumerate(datamodule.predicted_files()):
        np.testing.assert_allclose(batch.probabilities[:, row], probabilities(checkpoint, tmp_path / file), atol=1e-5)
    assert datamodule.classes == ["cat", "dog"]


def test_in_python_nothing_else_is_done_with_them(tmp_path, rng):
    write_names(tmp_path, rng, "a.png")
    datamodule = data.ImageFolder(str(tmp_path), normalize="train")

    for stage in ("fit", "validate", "test", None):
        with pytest.raises(data.DataError, match="can only be predicted"):
            datamodule.setup(stage)
    with pytest.raises(data.DataError, match="can only be predicted"):
        int(datamodule.num_classes)
    datamodule.setup("predict")
    with pytest.raises(data.DataError, match="can only be predicted"):  # there is no training part
        datamodule.normalization()


def test_imagenets_means_need_no_training_part(tmp_path, rng):
    write_names(tmp_path, rng, "a.png")
    datamodule = data.ImageFolder(str(tmp_path), normalize="imagenet")

    datamodule.setup("predict")

    assert datamodule.normalization()["mean"].tolist() == torch.tensor([[0.485, 0.456, 0.406]]).tolist()
