"""Users' DataModules in the real engine."""

import math
import random
from typing import NamedTuple

import numpy as np
import pytest
import torch
from own_data import WITH_NAMES, Own, Pictures, Scans, cell
from pytorch_lightning import Callback, LightningDataModule, Trainer
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import DataLoader, Dataset, IterableDataset

from actbench.cli.main import main
from actbench.data import ForeignData, read_batch
from actbench.specs import merge_config
from actbench.studies import compare
from actbench.studies.cells import Cell, cell_config, data_digest, run_cell
from actbench.training.classifier import Classifier


@pytest.mark.parametrize(
    "kind", ["pair", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("column", "mapping", "index", "int32"))]
)
def test_a_datamodule_of_ones_own_is_trained_on_for_more_than_fifty_steps(tmp_path, kind):
    table = run_cell(cell(epochs=20, kind=kind), tmp_path / "cell")  # 60 steps: the recorded step takes over at 51

    assert table["epochs"].to_list() == [20, 20]
    assert min(table["test_accuracy"]) > 0.9
    assert table["order_fingerprint"].n_unique() == 1
    assert table["order_fingerprint"][0] is not None


def test_labels_out_of_range_are_refused_in_any_part():
    with pytest.raises(ValueError, match="the test part has the label 7, and there are 3 classes"):
        ForeignData(Own(wrong=True)).scout.check()


def test_a_part_without_a_loader_is_named():
    class NoTest(LightningDataModule):
        train_dataloader = val_dataloader = Own.part
        kind, shape = "pair", (1, 8, 8)

    with pytest.raises(ValueError, match="NoTest has no test_dataloader, which is needed"):
        ForeignData(NoTest()).scout.check()


def test_a_part_that_is_none_in_place_of_a_method_is_missing():
    class NoTest(Own):
        test_dataloader = None

    own = ForeignData(NoTest())

    assert own.parts == ["train", "val"]
    with pytest.raises(ValueError, match="NoTest has no test_dataloader, which is needed"):
        own.scout.check()


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_loader_that_is_none_counts_as_missing(part):
    own = ForeignData(Own())
    setattr(own.inner, f"{part}_dataloader", lambda: None)

    assert not own.scout.has_labels(part)
    with pytest.raises(ValueError, match=f"Own has no {part}_dataloader, which is needed"):
        own.scout.check()


class NoneInVal(Own):
    def val_dataloader(self):
        return None


class NothingInVal(Own):
    def val_dataloader(self):
        return []


@pytest.mark.parametrize("cls", [NoneInVal, NothingInVal])
def test_a_fit_does_without_val_where_there_is_none(tmp_path, monkeypatch, cls):
    monkeypatch.chdir(tmp_path)
    words = f"--data test_foreign.{cls.__name__} --model.network MLP --trainer.max_epochs 1 --trainer.accelerator cpu"

    with pytest.warns(UserWarning, match="have no `val_dataloader`"):
        assert main(["fit", *words.split()]) == 0

    folder = tmp_path / "lightning_logs" / "version_0"
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["last.ckpt"]
    assert "val/loss" not in (folder / "metrics.csv").read_text()


class NoTestHere(Own):
    def test_dataloader(self):
        raise FileNotFoundError("the test files are elsewhere")


def test_a_fit_asks_for_no_test_part(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "--data test_foreign.NoTestHere --model.network MLP --trainer.max_epochs 1 --trainer.accelerator cpu"

    assert main(["fit", *words.split()]) == 0
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        ForeignData(NoTestHere()).scout.check()


def test_keys_of_a_mapping_are_found_or_named():
    images, labels = torch.rand(4, 1, 2, 2), torch.arange(4)

    assert read_batch({"pixel_values": images, "target": labels}).labels.equal(labels)
    assert read_batch({"a": images, "b": labels}, ["a", "b"]).inputs.equal(images)
    with pytest.raises(ValueError, match=r"a dict of a, b; name the keys .* --model.batch_keys"):
        read_batch({"a": images, "b": labels})


def test_members_of_a_dataclass_or_namedtuple_are_found_by_their_names():
    class Unusual(NamedTuple):
        scan: torch.Tensor
        diagnosis: torch.Tensor

    images, labels = torch.rand(4, 1, 2, 2), torch.arange(4)

    assert read_batch(Pictures(labels, images)).inputs.equal(images)
    assert read_batch(Scans(labels, images), ["scan", "diagnosis"]).labels.equal(labels)
    assert read_batch(Unusual(labels, images), ["diagnosis", "scan"]).inputs.equal(images)
    assert read_batch(Unusual(images, labels)).labels.equal(labels)  # by position
    with pytest.raises(ValueError, match=r"a Scans of diagnosis, scan, weight; name the keys .* --model.batch_keys"):
        read_batch(Scans(labels, images))
    with pytest.raises(ValueError, match=r"no inputs in a batch that is a Pictures of label, image; name the keys"):
        read_batch(Pictures(labels, images), ["scan", "label"])


@pytest.mark.parametrize("engine", ["stack", pytest.param("sequence", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", WITH_NAMES)
def test_members_with_names_are_trained_on_as_pairs_are(tmp_path, kind, engine):
    keys = {"batch_keys": ["scan", "diagnosis"]} if kind == "dataclass" else {}
    named = cell(kind=kind, model={"engine": engine, **keys})
    table = run_cell(named, tmp_path / "named")
    pairs = run_cell(cell(kind="pair", model={"engine": engine}), tmp_path / "pairs")

    assert table["order_fingerprint"][0] is not None
    for name in ("order_fingerprint", "epoch_train_loss", "epoch_val_loss", "test_loss", "test_accuracy"):
        assert table[name].to_list() == pairs[name].to_list()


@pytest.mark.parametrize("labels", [torch.eye(3, dtype=torch.int64), torch.arange(2), torch.rand(3)])
def test_labels_that_are_no_class_of_each_input_are_refused(labels):
    with pytest.raises(ValueError, match="labels must be one whole number for each of 3 inputs, not "):
        read_batch((torch.rand(3, 1, 2, 2), labels))


def test_a_last_batch_of_one_row_may_have_a_column_of_labels():
    assert read_batch((torch.rand(1, 4), torch.tensor([[2]]))).labels.tolist() == [2]


class Frees(Own):
    """Makes its data in setup and frees them in teardown."""

    def setup(self, stage):
        self.rows = 96

    def teardown(self, stage):
        self.rows = None

    def train_dataloader(self):
        return [self.part(self.rows)]

    def val_dataloader(self):
        return self.part(self.rows)

    def test_dataloader(self):
        return self.part(self.rows)


def test_a_datamodule_that_frees_its_data_is_set_up_again_for_its_test(tmp_path):
    given = {
        "data": {"class_path": "test_foreign.Frees"},
        "model": {"network": "MLP"},
        "trainer": {"max_epochs": 1, "accelerator": "cpu"},
    }
    config = cell_config(merge_config({}, given))

    table = run_cell(Cell(config, range(2), data_digest(config)), tmp_path / "cell")

    assert len(table) == 2


def test_a_loader_that_lightning_cannot_make_anew_is_predicted():
    class Positional(DataLoader):
        def __init__(self, rows):
            super().__init__(rows, 4)

    class Predicts(Own):
        def predict_dataloader(self):
            return Positional([(torch.rand(1, 8, 8), f"{row}.png") for row in range(6)])

    model = Classifier("relu", "MLP", input_shape=(1, 8, 8), num_classes=3)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)

    predictions = trainer.predict(model, datamodule=ForeignData(Predicts()))

    assert [batch.probabilities.shape for batch in predictions] == [(1, 4, 3), (1, 2, 3)]
    assert [batch.labels for batch in predictions] == [None, None]


MINE = """
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset
class Mine(LightningDataModule):
    num_classes = 3
    def part(self, last=0):
        labels = torch.arange(96) % 3
        labels[-1] = last
        return DataLoader(TensorDataset(torch.rand(96, 1, 8, 8), labels), 32)
    train_dataloader = val_dataloader = part
class Wrong(Mine):
    def test_dataloader(self):
        return self.part(last=9)
class Unlabelled(Mine):
    def test_dataloader(self):
        return DataLoader(TensorDataset(torch.rand(8, 1, 8, 8)), 4)
"""


@pytest.mark.parametrize(("name", "status"), [("Wrong", 2), ("Unlabelled", 0)])
def test_a_fit_checks_the_labels_of_every_part_that_has_some_before_it_trains(actbench, tmp_path, name, status):
    (tmp_path / "mine.py").write_text(MINE)

    result = actbench("fit", "--data", f"mine.{name}", "--model.network", "MLP", "--trainer.max_epochs", 1)

    assert result.returncode == status, result.stderr
    wrong = "error: the test part has the label 9, and there are 3 classes"
    assert (result.stderr.splitlines()[-1] == wrong) == (name == "Wrong")
    assert ("epoch 1/1" in result.stdout) == (name == "Unlabelled")


class Noisy(Own):
    """Scores pictures with random augmentation."""

    def val_dataloader(self):
        dataset = self.part(60).dataset
        return DataLoader(dataset, 20, collate_fn=noisy)

    test_dataloader = val_dataloader


def noisy(rows):
    images, labels = zip(*rows, strict=True)
    return torch.stack(images) + torch.randn(len(rows), 1, 8, 8), torch.stack(labels)


def test_all_arms_are_scored_on_the_same_random_pictures(tmp_path):
    config = {**cell().config, "data": {"class_path": "test_foreign.Noisy"}}
    one = run_cell(Cell(config, range(2)), tmp_path / "one")
    torch.rand(7)
    longer = {**config, "trainer": {**config["trainer"], "limit_train_batches": 1, "max_epochs": 6}}
    few = run_cell(Cell({**longer, "model": {**config["model"], "optimizer": STILL}}, range(2)), tmp_path / "few")
    many = run_cell(Cell({**config, "model": {**config["model"], "optimizer": STILL}}, range(2)), tmp_path / "many")

    assert few["val_loss"].equals(many["val_loss"])
    assert few["test_loss"].equals(many["test_loss"])
    assert not one["test_loss"].equals(many["test_loss"])


STILL = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.0}}


class Seeded(Own):
    """Shuffles with its own seed."""

    def __init__(self, seed: int):
        super().__init__()
        self.seed = seed

    def train_dataloader(self):
        return DataLoader(self.part().dataset, 32, shuffle=True, generator=torch.Generator().manual_seed(self.seed))


def test_a_seed_of_the_datamodules_own_keys_the_order(tmp_path):
    def orders(seed, name):
        config = {**cell().config, "data": {"class_path": "test_foreign.Seeded", "init_args": {"seed": seed}}}
        return run_cell(Cell(config, range(2)), tmp_path / name)["order_fingerprint"].to_list()

    assert orders(1, "a") == orders(1, "b") != orders(2, "c")


class Batches:
    """A loader that is not a DataLoader but an iterable of batches."""

    def __iter__(self):
        labels = torch.arange(8) % 3
        for number in range(6):
            yield torch.full((8, 1, 8, 8), number / 6), labels


class Iterables(Own):
    def train_dataloader(self):
        return Batches()


def test_a_plain_iterable_of_batches_is_trained_on_and_proved(tmp_path):
    table = compare(
        {
            "model": {"network": "MLP"},
            "data": {"class_path": "test_foreign.Iterables"},
            "trainer": {"max_epochs": 1, "accelerator": "cpu"},
            "study": {"activations": ["relu", "tanh"], "replicates": 2, "root": str(tmp_path), "timing_s": 0},
        }
    ).table

    assert table["order_fingerprint"].null_count() == 0
    assert table["order_fingerprint"].n_unique() == 1


class Combined(Own):
    def val_dataloader(self):
        return CombinedLoader([super().val_dataloader()], "sequential")


class Several(Own):
    def val_dataloader(self):
        return CombinedLoader([super().val_dataloader()] * 2, "sequential")


def test_lightnings_combined_loader_is_taken_if_it_has_one_loader():
    assert data_digest(cell_config(merge_config({}, {"data": {"class_path": "test_foreign.Combined"}})))
    with pytest.raises(ValueError, match="val_dataloader of Several gives 2 loaders, and one is needed"):
        data_digest(cell_config(merge_config({}, {"data": {"class_path": "test_foreign.Several"}})))


class Named(Own):
    num_classes = "three"


def test_a_number_of_classes_that_is_a_word_is_refused():
    with pytest.raises(ValueError, match="num_classes of Named is 'three', and should be a whole number"):
        data_digest(cell_config(merge_config({}, {"data": {"class_path": "test_foreign.Named"}})))


def test_an_empty_batch_is_refused_in_a_line():
    with pytest.raises(ValueError, match="not list of nothing"):
        read_batch([])


class Clipped(Own):
    def __init__(self, clip: float = math.inf):
        super().__init__()


def test_a_default_that_is_infinite_is_taken(tmp_path):
    config = merge_config({}, {"data": {"class_path": "test_foreign.Clipped"}, "model": {"network": "MLP"}})
    cell = Cell(cell_config(merge_config(config, {"trainer": {"max_epochs": 1, "accelerator": "cpu"}})), range(2))

    table = run_cell(cell, tmp_path)

    assert '"clip":"inf"' in table["factors"][0]
    assert '"clip":"inf"' in table["config"][0]


class Grainy(Dataset):
    """Images to which the process that reads them adds noise from each global generator."""

    def __getitem__(self, index):
        return torch.rand(1, 8, 8) + random.random() + np.random.random(), index % 3  # noqa: NPY002

    def __len__(self):
        return 31


class SaveAt(Callback):
    """Saves a checkpoint after a batch, by its number over all epochs."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def fitted(inner, *callbacks, max_epochs=3, ckpt_path=None, **settings):
    """Weights and scores of a fit on a user's DataModule, the fingerprint of its batches, and the Trainer."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = Trainer(accelerator="cpu", max_epochs=max_epochs, callbacks=[*callbacks], **quiet, **settings)
    model, datamodule = Classifier("relu", "MLP", input_shape=(1, 8, 8), num_classes=3), ForeignData(inner)
    trainer.fit(model, datamodule, ckpt_path=ckpt_path)
    return {**model.state_dict(), **trainer.callback_metrics}, datamodule.order, trainer


class Persistent(Own):
    """Is read by processes that live on from epoch to epoch."""

    def train_dataloader(self, shuffle=True):
        return DataLoader(Grainy(), 8, shuffle=shuffle, num_workers=2, persistent_workers=True)

    def val_dataloader(self):
        return self.train_dataloader(shuffle=False)


@pytest.mark.filterwarnings("ignore:.*num_workers")
def test_a_fit_with_persistent_workers_resumes_bit_for_bit(tmp_path):
    whole, _, _ = fitted(Persistent())
    fitted(Persistent(), max_epochs=1)[2].save_checkpoint(tmp_path / "first.ckpt")

    resumed, _, _ = fitted(Persistent(), ckpt_path=tmp_path / "first.ckpt")

    assert whole.keys() >= {"val/loss"}
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.*num_workers", "ignore:.*overfit")
@pytest.mark.parametrize("step", [2, 5])  # at the end of an epoch, and within one
def test_a_fit_that_overfits_random_rows_resumes_bit_for_bit(tmp_path, step):
    whole, order, _ = fitted(Persistent(), SaveAt(step, tmp_path / "middle.ckpt"), overfit_batches=2)

    resumed, same_order, _ = fitted(Persistent(), ckpt_path=tmp_path / "middle.ckpt", overfit_batches=2)

    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)
    assert same_order == order is not None


class Rows(IterableDataset):
    """A stream, which has no length."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __iter__(self):
        return iter(self.dataset)


class Streamed(Own):
    def train_dataloader(self):
        return DataLoader(Rows(self.part().dataset), 8)


@pytest.mark.parametrize("step", [5, 17])  # in the first epoch, and in the second
def test_a_fit_on_a_stream_resumes_within_an_epoch_bit_for_bit(tmp_path, step):
    whole = fitted(Streamed(), SaveAt(step, tmp_path / "middle.ckpt"))

    resumed = fitted(Streamed(), ckpt_path=tmp_path / "middle.ckpt")

    torch.testing.assert_close(resumed[0], whole[0], rtol=0, atol=0)
    assert (resumed[1], resumed[2].global_step) == (whole[1], whole[2].global_step)
