"""When users' data count as the same, and that finding out changes nothing."""

import os

import numpy as np
import pytest
import torch
from own_data import Own, cell
from PIL import Image
from pytorch_lightning import LightningDataModule
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

from actbench.data import ForeignData
from actbench.specs import merge_config
from actbench.studies import compare
from actbench.studies.cells import Cell, cell_config, data_digest, run_cell
from actbench.studies.cells.run import CellCLI


def test_a_changed_label_is_another_dataset():
    class Other(Own):
        def part(self, rows=96):
            loader = super().part(rows)
            loader.dataset.tensors[1][0] = 1
            return loader

    assert ForeignData(Own()).scout.digest() == ForeignData(Own()).scout.digest()
    assert ForeignData(Other()).scout.digest() != ForeignData(Own()).scout.digest()


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
        data = {"class_path": "test_digest.File", "init_args": {"path": str(tmp_path / "labels.pt")}}
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
            yield torch.full((1, 8, 8), float(number == 120)), number % 3


class Stream(Own):
    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def part(self, rows=None):
        return DataLoader(Numbers(self.rows), 4)

    train_dataloader = val_dataloader = test_dataloader = part


def test_a_stream_that_ends_is_known_by_all_that_it_yields():
    first, again, longer = (ForeignData(Stream(batches)).scout.digest() for batches in (119, 119, 120))

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
    config = {**given, "data": {"class_path": "test_digest.Cropped"}}
    digest = data_digest(config)

    tables = [run_cell(Cell(config, range(2), digest), tmp_path / name) for name in "ab"]

    assert ForeignData(Cropped()).input_shape == (1, 4, 4)
    assert digest != data_digest(given)
    assert tables[0]["test_loss"].equals(tables[1]["test_loss"])


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
    config = {**cell().config, "data": {"class_path": "test_digest.Noise"}}
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
        data = {"class_path": "test_digest.Rows", "init_args": arguments}
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


def test_loaders_that_are_made_anew_while_training_are_not_known():
    config = {"data": {"class_path": "own_data.Own"}, "trainer": {"reload_dataloaders_every_n_epochs": 1}}
    config = cell_config(merge_config({}, config))

    with pytest.warns(UserWarning, match="reloads its loaders during training"):
        digests = {data_digest(config), data_digest(config)}

    assert len(digests) == 2
