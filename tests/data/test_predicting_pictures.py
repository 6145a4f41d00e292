"""Pictures that are predicted: the file that a row of the table belongs to."""

import numpy as np
import polars as pl
import pytest
import torch
from pictures import write_pictures
from PIL import Image

from actbench.training.classifier import Classifier

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
