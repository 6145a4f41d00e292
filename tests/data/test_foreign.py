"""Users' DataModules in the real engine."""

import math
import os
import random
from collections import UserDict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

from actbench.data import ForeignData, read_batch
from actbench.specs import merge_config
from actbench.studies import compare
from actbench.studies.cells import Cell, cell_config, data_digest, run_cell
from actbench.studies.cells.run import CellCLI
from actbench.training.classifier import Classifier


@dataclass
class Scans:
    diagnosis: torch.Tensor
    scan: torch.Tensor
    weight: float = 1.0


class Pictures(NamedTuple):
    label: torch.Tensor
    image: torch.Tensor


WITH_NAMES = {
    "dataclass": lambda images, labels: Scans(labels, images),
    "namedtuple": lambda images, labels: Pictures(labels, images),
    "UserDict": lambda images, labels: UserDict(labels=labels, pixel_values=images),
}


class Own(LightningDataModule):
    """Blobs of three classes, in batches of one kind."""

    def __init__(self, kind: str = "pair", shape: tuple[int, ...] = (1, 8, 8), wrong: bool = False):
        super().__init__()
        self.kind, self.shape, self.wrong = kind, shape, wrong

    def part(self, rows=96):
        labels = torch.arange(rows) % 3
        images = torch.rand(3, *self.shape, generator=torch.Generator().manual_seed(0))[labels]
        images = images + 0.3 * torch.randn(images.shape, generator=torch.Generator().manual_seed(rows))
        pairs = {
            "pair": (images, labels),
            "index": (images, labels, torch.arange(rows)),
            "int32": (images, labels.int()),
            "column": (images, labels[:, None]),
        }
        if self.kind == "mapping":
            return DataLoader([{"image": x, "label": y} for x, y in zip(images, labels, strict=True)], 32)
        if self.kind in WITH_NAMES:
            made = WITH_NAMES[self.kind]
            return DataLoader(TensorDataset(images, labels), 32, collate_fn=lambda of: made(*default_collate(of)))
        return DataLoader(TensorDataset(*pairs[self.kind]), 32)

    train_dataloader = val_dataloader = part

    def test_dataloader(self):
        loader = self.part(30)
        if self.wrong:
            loader.dataset.tensors[1][-1] = 7
        return loader


def cell(epochs=2, model=None, **arguments):
    given = {
        "data": {"class_path": "test_foreign.Own", "init_args": arguments},
        "model": {"network": "MLP", **(model or {})},
        "trainer": {"max_epochs": epochs, "accelerator": "cpu"},
    }
    config = cell_config(merge_config({}, given))
    return Cell(config, range(2), data_digest(config))


@pytest.mark.parametrize(
    "kind", ["pair", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("column", "mapping", "index", "int32"))]
)
def test_a_datamodule_of_ones_own_is_trained_on_for_more_than_fifty_steps(tmp_path, kind):
    table = run_cell(cell(epochs=20, kind=kind), tmp_path / "cell")  # 60 steps: the recorded step takes over at 51

    assert table["epochs"].to_list() == [20, 20]
    assert min(table["test_accuracy"]) > 0.9
    assert table["order_fingerprint"].n_unique() == 1
    assert table["order_fingerprint"][0] is not None


def test_a_changed_label_is_another_dataset():
    class Other(Own):
        def part(self, rows=96):
            loader = super().part(rows)
            loader.dataset.tensors[1][0] = 1
            return loader

    assert ForeignData(Own()).scout.digest() == ForeignData(Own()).scout.digest()
    assert ForeignData(Other()).scout.digest() != ForeignData(Own()).scout.digest()


def test_labels_out_of_range_are_refused_in_any_part():
    with pytest.raises(ValueError, match="the test part has the label 7, and there are 3 classes"):
        ForeignData(Own(wrong=True)).scout.check()


def test_a_part_without_a_loader_is_named():
    class NoTest(LightningDataModule):
        train_dataloader = val_dataloader = Own.part
        kind, shape = "pair", (1, 8, 8)

    with pytest.raises(ValueError, match="NoTest has no test_dataloader, which is needed"):
        ForeignData(NoTest()).scout.check()


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


def test_a_changed_pixel_in_any_batch_is_another_dataset():
    class Other(Own):
        def train_dataloader(self):
            loader = self.part(300)
            loader.dataset.tensors[0][170, 0, 3, 5] += 1  # in the sixth batch of ten
            return loader

    class Same(Own):
        def train_dataloader(self):
            return self.part(300)

    assert ForeignData(Other()).scout.digest() != ForeignData(Same()).scout.digest()


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


def test_a_generator_of_the_loaders_own_depends_on_no_earlier_look():
    class Drawn(Own):
        def __init__(self):
            super().__init__()
            dataset, generator = self.part().dataset, torch.Generator().manual_seed(5)
            self.loader = DataLoader(dataset, 32, shuffle=True, generator=generator)

        def train_dataloader(self):
            return self.loader

    looked_at = ForeignData(Drawn())

    assert looked_at.scout.digest() == looked_at.scout.digest() == ForeignData(Drawn()).scout.digest()


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


class File(Own):
    """Labels from a file."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def part(self, rows=96):
        labels = torch.load(self.path)
        return DataLoader(
            TensorDataset(torch.rand(96, 1, 8, 8, generator=torch.Generator().manual_seed(0)), labels), 32
        )

    train_dataloader = val_dataloader = test_dataloader = part


def test_files_that_change_between_two_studies_of_one_process_are_trained_on_anew(tmp_path):
    def losses(labels):
        torch.save(labels, tmp_path / "labels.pt")
        study = {"activations": ["relu"], "replicates": 2, "root": str(tmp_path), "timing_s": 0}
        data = {"class_path": "test_foreign.File", "init_args": {"path": str(tmp_path / "labels.pt")}}
        trainer = {"max_epochs": 1, "accelerator": "cpu"}
        return compare({"model": {"network": "MLP"}, "data": data, "trainer": trainer, "study": study}).table[
            "test_loss"
        ]

    first, second = losses(torch.arange(96) % 3), losses(torch.arange(96) * 7 // 5 % 3)

    assert not first.equals(second)
    assert losses(torch.arange(96) % 3).equals(first)


class Numbers(IterableDataset):
    """A number of rows, without a length."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        number = 0
        while self.rows is None or number < self.rows:
            number += 1
            yield torch.full((1, 8, 8), float(number == 600)), number % 3


class Stream(Own):
    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def part(self, rows=None):
        return DataLoader(Numbers(self.rows), 4)

    train_dataloader = val_dataloader = test_dataloader = part


def test_a_stream_that_ends_is_known_by_all_that_it_yields():
    first, again, longer = (ForeignData(Stream(batches)).scout.digest() for batches in (599, 599, 600))

    assert first == again
    assert first != longer


@pytest.mark.slow
def test_a_stream_that_never_ends_is_never_taken_for_another():
    endless = ForeignData(Stream(None))

    with pytest.warns(UserWarning, match="part of Stream has more than 1,000 batches and no length"):
        endless.scout.check()

    assert (endless.num_classes, endless.input_shape) == (3, (1, 8, 8))
    with pytest.warns(UserWarning, match="finished replicates are not found again"):
        assert endless.scout.digest() != ForeignData(Stream(None)).scout.digest()


class Folder(LightningDataModule):
    """A folder of pictures for each class."""

    def __init__(self, root: str):
        super().__init__()
        self.root = root

    def part(self):
        return DataLoader(Counted(self.root, transform=ToTensor()), 4)

    train_dataloader = val_dataloader = test_dataloader = part


class Counted(ImageFolder):
    read = 0

    def __getitem__(self, index):
        Counted.read += 1
        return super().__getitem__(index)


Counted.__module__ = ImageFolder.__module__  # looks like torchvision's own


def test_pictures_in_folders_are_known_again_without_decoding_all_of_them(tmp_path):
    for number in range(60):
        path = tmp_path / str(number % 3) / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((6, 6, 3), number, np.uint8)).save(path)
    Counted.read = 0

    before = ForeignData(Folder(str(tmp_path)))
    digest = before.scout.digest()
    before.scout.check()
    decoded = Counted.read
    Image.fromarray(np.full((6, 6, 3), 7, np.uint8)).save(tmp_path / "2" / "59.png")  # the last one

    assert (before.num_classes, before.input_shape) == (3, (3, 6, 6))
    assert decoded < 3 * 60 / 2
    assert ForeignData(Folder(str(tmp_path))).scout.digest() != digest


def test_rows_of_a_subset_are_part_of_what_the_data_are():
    class Split(Own):
        def __init__(self, rows):
            super().__init__()
            self.rows = rows

        def train_dataloader(self):
            return DataLoader(Subset(self.part(300).dataset, self.rows), 32)

    rows = list(range(200))

    assert ForeignData(Split(rows)).scout.digest() == ForeignData(Split(rows)).scout.digest()
    assert ForeignData(Split(rows)).scout.digest() != ForeignData(Split([*rows[:-1], 201])).scout.digest()


class Cropped(Own):
    """Halves its pictures on the device, at random in training."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        images, labels = batch
        first = int(torch.randint(4, ())) if self.trainer.training else 0
        return images[..., first : first + 4, :4], labels


def test_what_a_datamodule_does_on_the_device_is_trained_on_and_known(tmp_path):
    given = cell(kind="pair").config
    config = {**given, "data": {"class_path": "test_foreign.Cropped"}}
    digest = data_digest(config)

    tables = [run_cell(Cell(config, range(2), digest), tmp_path / name) for name in "ab"]

    assert ForeignData(Cropped()).input_shape == (1, 4, 4)
    assert digest != data_digest(given)
    assert tables[0]["test_loss"].equals(tables[1]["test_loss"])


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


class OwnNoise(Dataset):
    """Draws from its own generator, which starts alike in every process."""

    def __init__(self):
        self.generator = np.random.default_rng(0)

    def __getitem__(self, index):
        return torch.from_numpy(self.generator.random((1, 8, 8), np.float32)), index % 3

    def __len__(self):
        return 12


class Noise(Own):
    def part(self, rows=12):
        return DataLoader(OwnNoise(), 4)

    train_dataloader = val_dataloader = test_dataloader = part


def test_looking_at_data_changes_nothing_of_what_is_trained_on(tmp_path):
    config = {**cell().config, "data": {"class_path": "test_foreign.Noise"}}
    digest = data_digest(config)  # reads the data without a warning

    looked = CellCLI(Cell(config, range(2)), tmp_path, [])
    looked.datamodule.scout.check()
    (first, *_), (other, *_) = (
        next(iter(cli.datamodule.train_dataloader())) for cli in (looked, CellCLI(Cell(config, range(2)), tmp_path, []))
    )

    assert torch.equal(first, other)
    assert data_digest(config) == digest


def test_data_that_differ_each_time_are_told():
    generator = np.random.default_rng(0)

    class Drawn(Dataset):
        def __getitem__(self, index):
            return torch.from_numpy(generator.random((1, 8, 8), np.float32)), index % 3

        def __len__(self):
            return 12

    class Differs(Own):
        def part(self, rows=12):
            return DataLoader(Drawn(), 4)

        train_dataloader = val_dataloader = test_dataloader = part

    with pytest.warns(UserWarning, match="part of Differs differs each time it is read"):
        ForeignData(Differs()).scout.digest()


def test_looking_at_data_changes_nothing_of_the_process(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    torch.manual_seed(3)
    before = torch.get_rng_state()

    ForeignData(Cropped()).scout.digest()
    with pytest.raises(ValueError, match="label 7"):
        ForeignData(Own(wrong=True)).scout.check()

    assert os.environ["PL_GLOBAL_SEED"] == "5"
    assert torch.get_rng_state().equal(before)


class Rows(Own):
    """Training rows that a user's sampler chooses."""

    def __init__(self, rows: int = 100, last: int = 99):
        super().__init__()
        self.chosen = [*range(rows - 1), last]

    def train_dataloader(self):
        labels = torch.arange(200) % 3
        return DataLoader(TensorDataset(torch.zeros(200, 1, 8, 8), labels), 8, sampler=self.chosen)


def test_the_rows_that_a_sampler_chooses_are_part_of_what_the_data_are():
    digests = set()
    for arguments in ({}, {"last": 150}, {"rows": 101, "last": 100}, {"last": 99}):
        data = {"class_path": "test_foreign.Rows", "init_args": arguments}
        digests.add(data_digest(cell_config(merge_config({}, {"data": data}))))

    assert len(digests) == 3


class Images(Dataset):
    """Images whose contents can only be found by reading them, of which one may be changed or broken."""

    def __init__(self, changed=None, broken=None):
        self.changed, self.broken = changed, broken

    def __getitem__(self, index):
        if isinstance(index, list):
            return default_collate([self[row] for row in index])
        if index == self.broken:
            raise OSError
        return torch.full((1, 8, 8), index + (index == self.changed) / 2), index % 3

    def __len__(self):
        return 31


class Tens:
    """Draws a batch of ten rows."""

    def __iter__(self):
        yield torch.randperm(31)[:10].tolist()


def trained_on(make, **rows):
    """The digest of a DataModule whose training loader ``make`` makes."""

    class Chosen(Own):
        def train_dataloader(self):
            return make(Images(**rows))

    return ForeignData(Chosen()).scout.digest()


@pytest.mark.parametrize(
    "make",
    [
        lambda images: DataLoader(images, 8, shuffle=True, drop_last=True),
        lambda images: DataLoader(images, 8, sampler=WeightedRandomSampler(torch.ones(31), 31)),
        *(
            pytest.param(make, marks=pytest.mark.slow)
            for make in (
                lambda images: DataLoader(images, 8, sampler=RandomSampler(images, num_samples=20)),
                lambda images: DataLoader(images, 8, sampler=SubsetRandomSampler(range(31)), drop_last=True),
                lambda images: DataLoader(images, batch_sampler=Tens()),
                lambda images: DataLoader(
                    images, batch_size=None, sampler=BatchSampler(RandomSampler(images), 8, True)
                ),
            )
        ),
    ],
)
def test_a_changed_row_that_the_first_epoch_leaves_out_is_another_dataset(make):
    assert trained_on(make) == trained_on(make)
    assert len({trained_on(make, changed=row) for row in (None, *range(0, 31, 2))}) == 17


def test_rows_that_no_epoch_yields_are_not_read():
    for make in (
        lambda images: DataLoader(images, 8, drop_last=True),
        lambda images: DataLoader(images, 8, sampler=SubsetRandomSampler(range(30))),
        lambda images: DataLoader(images, 8, sampler=range(30)),
    ):
        assert trained_on(make) == trained_on(make, broken=30)


def test_a_row_that_cannot_be_read_is_told_if_the_first_epoch_leaves_it_out():
    def make(images):
        return DataLoader(images, 8, sampler=WeightedRandomSampler(torch.arange(31) < 30, 31))

    with pytest.warns(UserWarning, match=r"the train part of Chosen cannot be read one after another \(OSError\)"):
        trained_on(make, broken=30)


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


def test_loaders_that_are_made_anew_while_training_are_not_known():
    config = {"data": {"class_path": "test_foreign.Own"}, "trainer": {"reload_dataloaders_every_n_epochs": 1}}
    config = cell_config(merge_config({}, config))

    with pytest.warns(UserWarning, match="reloads its loaders during training"):
        digests = {data_digest(config), data_digest(config)}

    assert len(digests) == 2


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


class Grainy(Images):
    """Images to which the process that reads them adds noise from each global generator."""

    def __getitem__(self, index):
        return torch.rand(1, 8, 8) + random.random() + np.random.random(), index % 3  # noqa: NPY002


class Persistent(Own):
    """Is read by processes that live on from epoch to epoch."""

    def train_dataloader(self, shuffle=True):
        return DataLoader(Grainy(), 8, shuffle, num_workers=2, persistent_workers=True)

    def val_dataloader(self):
        return self.train_dataloader(shuffle=False)


@pytest.mark.filterwarnings("ignore:.*num_workers")
def test_a_fit_with_persistent_workers_resumes_bit_for_bit(tmp_path):
    def fit(epochs, ckpt_path=None):
        quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
        trainer = Trainer(accelerator="cpu", max_epochs=epochs, **quiet)
        model = Classifier("relu", "MLP", input_shape=(1, 8, 8), num_classes=3)
        trainer.fit(model, ForeignData(Persistent()), ckpt_path=ckpt_path)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return {**model.state_dict(), **trainer.callback_metrics}

    whole = fit(3)
    fit(1)

    assert whole.keys() >= {"val/loss"}
    torch.testing.assert_close(fit(3, tmp_path / "1.ckpt"), whole, rtol=0, atol=0)
