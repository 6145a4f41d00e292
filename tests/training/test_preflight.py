"""Settings that would fail in the middle of a fit or a study are refused before its first step."""

import gzip
import math

import pytest
import torch
from datasets import write_mnist
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler, TensorDataset

from actbench.data import MNIST, FakeImages, ForeignData, RowBatches
from actbench.data.images import DataError
from actbench.networks import freeze_parameters
from actbench.studies import StudyError, compare
from actbench.training import preflight
from actbench.training.classifier import Classifier

NORMALISED = "test_preflight.Normalised"
PAIRS = "test_preflight.Pairs"


class Normalised(nn.Sequential):
    """A hidden layer with BatchNorm, which fails for a batch of one image."""

    def __init__(self, activation, input_shape, num_classes):
        hidden = nn.Linear(64, 8), nn.BatchNorm1d(8), activation()
        super().__init__(nn.Flatten(), *hidden, nn.Linear(8, num_classes))


class Pairs(nn.Sequential):
    """A network that takes its images two by two."""

    def __init__(self, activation, input_shape, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(64, 8), activation(), nn.Linear(8, num_classes))

    def forward(self, x):
        return super().forward(x.unflatten(0, (-1, 2)).flatten(0, 1))


class Own(LightningDataModule):
    """64 rows in batches of 9, the last with one row."""

    def __init__(self, drop_last: bool = False):
        super().__init__()
        self.drop_last = drop_last

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.rand(64, 1, 8, 8), torch.arange(64) % 3), 9, drop_last=self.drop_last)

    val_dataloader = test_dataloader = train_dataloader


class Filled(BatchSampler):
    """Fills the last batch with rows of the first."""

    def __iter__(self):
        for rows in super().__iter__():
            yield [*rows, *range(self.batch_size - len(rows))]


class Parts(LightningDataModule):
    """Parts of so many rows, in batches of 10."""

    def __init__(self, val: int = 20, test: int = 20, sampler: type = BatchSampler):
        super().__init__()
        self.sizes = {"train": 20, "val": val, "test": test}
        self.sampler = sampler

    def loader(self, part):
        rows, generator = self.sizes[part], torch.Generator().manual_seed(len(part))
        dataset = TensorDataset(torch.rand(rows, 1, 8, 8, generator=generator), torch.arange(rows) % 3)
        return DataLoader(dataset, batch_sampler=self.sampler(SequentialSampler(dataset), 10, False))

    def train_dataloader(self):
        return self.loader("train")

    def val_dataloader(self):
        return self.loader("val")

    def test_dataloader(self):
        return self.loader("test")


def one_cycle(total_steps):
    return {"class_path": "OneCycleLR", "init_args": {"max_lr": 0.01, "total_steps": total_steps}}


def fit(tmp_path, data, *, network="MLP", lr_scheduler=None, callbacks=(), **limits):
    model = Classifier("relu", network, lr_scheduler=lr_scheduler, input_shape=(1, 8, 8), num_classes=10)
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        callbacks=list(callbacks),
        **limits,
    )
    trainer.fit(model, data)
    return trainer


def study(tmp_path, *, trainer=None, data=None, activations=("relu", "swish"), replicates=2, **model):
    return {
        "model": {"network": "MLP", **model},
        "data": {"class_path": "FakeImages", "init_args": {"rows": 300, "batch_size": 30, **(data or {})}},  # 7 steps
        "trainer": {"max_epochs": 3, "accelerator": "cpu", **(trainer or {})},
        "study": {
            **{"activations": list(activations), "replicates": replicates},
            **{"root": str(tmp_path / "studies"), "timing_s": 0},
        },
    }


def refused(tmp_path, match, **settings):
    with pytest.raises(StudyError, match=match):
        compare(study(tmp_path, **settings))
    assert not (tmp_path / "studies" / "study").exists()


# --- schedules ---


def test_a_schedule_that_ends_before_the_fit_is_refused_with_both_numbers(tmp_path):
    data = FakeImages(rows=300, batch_size=30)

    with pytest.raises(MisconfigurationException, match="OneCycleLR is 20 steps long, and the training 21: "):
        fit(tmp_path, data, lr_scheduler=one_cycle(20), max_epochs=3)

    for total_steps, callbacks, limits in [
        (21, [], {}),
        (30, [], {}),
        (20, [], {"max_steps": 20}),
        (20, [], {"limit_train_batches": 6}),
        (11, [], {"accumulate_grad_batches": 2, "max_epochs": 2}),
        (20, [Timer("00:00:00:00")], {}),
    ]:
        limits = {"max_epochs": 3, **limits}
        trainer = fit(tmp_path, data, lr_scheduler=one_cycle(total_steps), callbacks=callbacks, **limits)
        assert trainer.global_step <= total_steps


@pytest.mark.parametrize("total_steps", [20, 22])
def test_a_schedule_of_another_length_is_refused_before_a_study_writes_anything(tmp_path, total_steps):
    refused(
        tmp_path,
        rf"relu in MLP: OneCycleLR is {total_steps} steps long, and the training 21",
        lr_scheduler=one_cycle(total_steps),
    )


def test_a_schedule_does_not_fit_an_arm_with_another_batch_size(tmp_path):
    arm = {"name": "large", "activation": "swish", "data.batch_size": 70}

    refused(
        tmp_path,
        "large in MLP: OneCycleLR is 21 steps long, and the training 9",
        activations=["relu", arm],
        lr_scheduler=one_cycle(21),
    )


def test_a_schedule_that_fits_every_arm_is_trained_to_its_end(tmp_path):
    assert compare(study(tmp_path, lr_scheduler=one_cycle(21))).table["epochs"].to_list() == [3] * 4


def test_a_plateau_that_waits_for_a_validation_that_never_comes_is_refused(tmp_path):
    refused(
        tmp_path,
        "ReduceLROnPlateau watches val/loss, and nothing would be validated",
        lr_scheduler="ReduceLROnPlateau",
        replicates=1,
        trainer={"check_val_every_n_epoch": 4},
    )


# --- a last batch of one ---


def test_a_last_batch_that_the_network_does_not_take_is_refused_before_the_first_step(tmp_path):
    message = (
        r"the last of 12 batches has 1 of 19 rows, with which Normalised fails: .*; set data.drop_last to true, or "
        "choose another batch size"
    )

    with pytest.raises(MisconfigurationException, match=message):
        fit(tmp_path, FakeImages(rows=300, batch_size=19), network=NORMALISED, max_epochs=1)

    trained = [
        fit(tmp_path, FakeImages(rows=300, batch_size=19, **options), network=network, max_epochs=1, **limits)
        for network, options, limits in [
            (NORMALISED, {"drop_last": True}, {}),
            (NORMALISED, {}, {"limit_train_batches": 11}),
            ("MLP", {}, {}),
        ]
    ]
    assert [trainer.global_step for trainer in trained] == [11, 11, 12]


def test_a_last_batch_that_the_network_does_not_take_is_refused_before_a_study(tmp_path):
    refused(tmp_path, "the last of 12 batches has 1 of 19 rows", data={"batch_size": 19}, network=NORMALISED)

    table = compare(study(tmp_path, data={"batch_size": 19, "drop_last": True}, network=NORMALISED)).table
    assert len(table) == 4


def test_a_last_batch_that_cannot_be_scored_is_refused_before_the_first_step(tmp_path):
    message = "the last batch that is scored has 5 of 10 rows, with which Pairs fails: .*; choose another batch size"
    data = ForeignData(Parts(val=15))

    with pytest.raises(MisconfigurationException, match=message):
        fit(tmp_path, data, network=PAIRS, max_epochs=1, num_sanity_val_steps=0)

    with pytest.raises(MisconfigurationException, match=message):  # by the check before training
        fit(tmp_path, data, network=PAIRS, max_epochs=1)


@pytest.mark.parametrize(
    "limits",
    [
        {"limit_val_batches": 1},
        {"limit_val_batches": 0.5},
        {"limit_val_batches": 0},
        {"check_val_every_n_epoch": 2, "num_sanity_val_steps": 1},
        {"max_steps": 1, "num_sanity_val_steps": 1},
    ],
)
def test_a_last_batch_that_is_never_scored_is_no_fault(tmp_path, limits):
    data = ForeignData(Parts(val=15))

    assert fit(tmp_path, data, network=PAIRS, **{"max_epochs": 1, **limits}).global_step == limits.get("max_steps", 2)


def test_what_a_batch_sampler_of_the_users_makes_is_not_foreseen(tmp_path):
    data = ForeignData(Parts(val=15, sampler=Filled))

    assert fit(tmp_path, data, network=PAIRS, max_epochs=1).global_step == 2


@pytest.mark.parametrize("part", [pytest.param("val", marks=pytest.mark.slow), "test"])
def test_a_last_batch_that_cannot_be_scored_is_refused_before_a_study(part, tmp_path):
    def settings(**sizes):
        data = {"class_path": "test_preflight.Parts", "init_args": sizes}
        return {**study(tmp_path, network=PAIRS), "data": data}

    with pytest.raises(StudyError, match="the last batch that is scored has 5 of 10 rows, with which Pairs fails"):
        compare(settings(**{part: 15}))

    assert len(compare(settings()).table) == 4


def test_a_loader_of_the_users_is_told_how_to_drop_its_last_batch(tmp_path):
    with pytest.raises(MisconfigurationException, match=r"has 1 of 9 rows, .*; give its DataLoader drop_last=True"):
        fit(tmp_path, ForeignData(Own()), network=NORMALISED, max_epochs=1)

    assert fit(tmp_path, ForeignData(Own(drop_last=True)), network=NORMALISED, max_epochs=1).global_step == 7


def test_a_dropped_batch_is_another_each_epoch_and_the_others_stay():
    rows = torch.arange(10).expand(2, -1)
    whole, dropped = (list(RowBatches("train", rows, 4, seeds=[0, 1], drop_last=drop)) for drop in (False, True))

    assert [len(batch.rows[0]) for batch in whole] == [4, 4, 2]
    assert all(torch.equal(a.rows, b.rows) for a, b in zip(whole, dropped, strict=False))
    assert len(dropped) == len(RowBatches("train", rows, 4, drop_last=True)) == 2


def test_dropping_the_only_batch_is_refused():
    with pytest.raises(DataError, match="drop_last leaves no batch: 210 training images, batch_size 211"):
        FakeImages(rows=300, batch_size=211, drop_last=True).setup()


# --- arms that are the same ---


class Mine(nn.Module):
    """ReLU under another name."""

    def forward(self, x):
        return x.clamp(min=0)


class Noisy(nn.Module):
    """ReLU, of noisy inputs in training."""

    def forward(self, x):
        return torch.relu(x + 0.1 * torch.randn_like(x) if self.training else x)


class ZeroHead(nn.Module):
    """A network whose logits are zero before the first step."""

    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        self.hidden, self.activation, self.head = nn.Linear(64, 8), activation(), nn.Linear(8, num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images):
        return self.head(self.activation(self.hidden(images.flatten(1))))


class Unheard(ZeroHead):
    """Calls its activation and ignores the result."""

    def forward(self, images):
        hidden = self.hidden(images.flatten(1))
        self.activation(hidden)
        return self.head(hidden)


@pytest.mark.parametrize(
    ("network", "activations", "results"),
    [
        ("MLP", ["relu", "test_preflight.Mine", "swish"], ["relu and Mine give the same outputs bit for bit in MLP"]),
        ("test_preflight.ZeroHead", ["relu", "swish"], []),
        ("MLP", ["relu", "test_preflight.Noisy"], []),
        ("test_preflight.Unheard", ["relu", "swish"], ["relu and swish give the same outputs bit for bit in Unheard"]),
        pytest.param(
            "MLP",
            ["relu", {"name": "fast", "activation": "relu", "model.optimizer.lr": 0.1}],
            [],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_arms_that_give_the_same_are_told_before_training(tmp_path, capsys, network, activations, results):
    compare(study(tmp_path, network=network, activations=activations))

    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if "bit for bit" in line] == results
    assert said[: len(results)] == results


# --- callbacks and data ---


@pytest.mark.parametrize("name", ["LearningRateMonitor", "DeviceStatsMonitor"])
def test_a_callback_that_needs_a_logger_is_refused_by_name_before_a_study(tmp_path, name):
    refused(tmp_path, f"relu in MLP: .*{name}.*logger", trainer={"callbacks": [{"class_path": name}]})


class Unsized(IterableDataset):
    def __iter__(self):
        for row in range(80):
            yield torch.full((1, 8, 8), row % 3 / 3), row % 3


class Streams(Own):
    def train_dataloader(self):
        return DataLoader(Unsized(), 8)


def test_a_study_on_data_without_a_length_is_planned_trained_and_timed(tmp_path):
    config = study(tmp_path, trainer={"max_epochs": -1, "max_steps": 25})
    config["data"] = {"class_path": "test_preflight.Streams"}

    table = compare(config).table

    assert table["epochs"].to_list() == [3] * 4
    assert table["epoch_time_s"].is_finite().all()


def test_archives_in_place_of_files_are_read_and_nothing_is_written(tmp_path):
    write_mnist(tmp_path)
    before = MNIST(str(tmp_path)).digest()
    for path in (tmp_path / "MNIST" / "raw").iterdir():
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()

    assert MNIST(str(tmp_path)).digest() == before
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".gz"}


def test_a_damaged_archive_is_named_and_leaves_nothing(tmp_path):
    write_mnist(tmp_path)
    raw = tmp_path / "MNIST" / "raw"
    archive = raw / "t10k-labels-idx1-ubyte.gz"
    (raw / "t10k-labels-idx1-ubyte").rename(archive)

    with pytest.raises(DataError, match=f"{archive.name} cannot be unpacked: "):
        MNIST(str(tmp_path)).prepare_data()

    assert len(list(raw.iterdir())) == 4


# --- running statistics ---


class SlowNorm(nn.Module):
    """BatchNorm that averages over a hundred batches, as MobileNetV3's does."""

    def __init__(self, activation, input_shape, num_classes, momentum: float = 0.01):
        super().__init__()
        norm = nn.BatchNorm1d(math.prod(input_shape), momentum=momentum)
        self.layers = nn.Sequential(nn.Flatten(), norm, activation(), nn.LazyLinear(num_classes))

    def forward(self, images):
        return self.layers(images)


SLOW = "test_preflight.SlowNorm"
SHORT = "SlowNorm: BatchNorm with a momentum of 0.01 still holds {} of its initial statistics after {} batches"


def test_statistics_that_will_not_settle_are_told_before_a_study_trains(tmp_path, capsys):
    compare(study(tmp_path, network=SLOW))  # 7 batches, thrice

    assert SHORT.format(f"{0.99**21:.0%}", 21) in capsys.readouterr().out


@pytest.mark.parametrize(("momentum", "batches"), [(0.1, 44), (0.01, 459), (None, 1), (1.0, 1)])
def test_statistics_that_settle_are_not_told(momentum, batches):
    network = SlowNorm(nn.ReLU, (1, 8, 8), 10, momentum=momentum)

    assert preflight.unsettled_statistics(network, batches) is None
    assert momentum in (None, 1.0) or preflight.unsettled_statistics(network, batches - 1)


def test_statistics_that_came_with_weights_or_are_held_are_not_told():
    given, held = (SlowNorm(nn.ReLU, (1, 8, 8), 10) for _ in range(2))
    given.layers[1].running_mean += 1
    freeze_parameters([held], ["layers.1.*"], input_shape=(1, 8, 8))

    assert preflight.unsettled_statistics(given, 10) is None
    assert preflight.unsettled_statistics(held, 10) is None
