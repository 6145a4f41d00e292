"""Callbacks that average weights: the averages are saved, scored and recorded."""

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging, StochasticWeightAveraging, WeightAveraging
from torch import nn

from actbench.data import FakeImages
from actbench.specs import merge_config
from actbench.studies.cells import Cell, cell_config, run_cell
from actbench.training.callbacks import BestCheckpoint, LastCheckpoint
from actbench.training.classifier import Classifier


class Small(nn.Sequential):
    """BatchNorm after a convolution."""

    def __init__(self, activation, input_shape, num_classes):
        channels, height, width = input_shape
        features = nn.Conv2d(channels, 2, 3, padding=1), nn.BatchNorm2d(2), activation(), nn.Flatten()
        super().__init__(*features, nn.Linear(2 * height * width, num_classes))


class Watch(Callback):
    """Records the parameters at each hook."""

    def __init__(self):
        self.starts, self.steps, self.validated = [], [], []

    def on_train_epoch_start(self, trainer, pl_module):
        self.starts.append(parameters(pl_module))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append(parameters(pl_module))

    def on_validation_batch_end(self, trainer, pl_module, *args):
        self.validated.append(parameters(pl_module))


def parameters(module):
    return [value.detach().clone() for value in module.parameters()]


def mean(states):
    return [torch.stack(values).mean(0) for values in zip(*states, strict=True)]


def exponential(states, decay):
    average = states[0]
    for state in states[1:]:
        average = [decay * old + (1 - decay) * new for old, new in zip(average, state, strict=True)]
    return average


def close(ours, theirs):
    return all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(ours, theirs, strict=True))


def trained(tmp_path, *callbacks, network="MLP", epochs=4, **options):
    model = Classifier("relu", network, replicates=3, input_shape=(1, 8, 8), num_classes=10, **options)
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        callbacks=[*callbacks, LastCheckpoint()],
    )
    trainer.fit(model, FakeImages(rows=200, replicates=3))
    return trainer, model, tmp_path / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize(
    ("callback", "average"),
    [
        (lambda: StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=2), lambda watch: mean(watch.starts[1:])),
        (lambda: EMAWeightAveraging(decay=0.9), lambda watch: exponential(watch.steps, 0.9)),
        (WeightAveraging, lambda watch: mean(watch.steps)),
    ],
)
def test_the_last_checkpoint_holds_the_average_that_test_scores(tmp_path, callback, average):
    watch = Watch()

    trainer, model, last = trained(tmp_path, watch, callback())

    expected = average(watch)
    kept = Classifier.load_from_checkpoint(str(last))
    assert close(parameters(model), expected)
    assert not close(parameters(model), watch.steps[-1])
    assert all(torch.equal(a, b) for a, b in zip(parameters(kept), parameters(model), strict=True))
    in_memory = trainer.test(model, FakeImages(rows=200, replicates=3), verbose=False)
    again = trainer.test(kept, FakeImages(rows=200, replicates=3), verbose=False)
    assert again == in_memory


@pytest.mark.parametrize("stack_width", [1, 3])
def test_statistics_of_averaged_weights_are_those_of_one_pass_over_the_training_data(tmp_path, stack_width):
    averaging = StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=2)

    _, model, last = trained(
        tmp_path, averaging, network="test_averaging.Small", stack_width=stack_width, optimizer="SGD"
    )

    kept = torch.load(last, weights_only=True)["state_dict"]
    data = FakeImages(rows=200, replicates=3)
    data.setup()
    for seed in range(3):
        network = model.engine.replicate(seed)
        norm = network[1]
        norm.reset_running_stats()
        norm.momentum = None  # torch's own cumulative average
        network.train()
        loader = data.train_dataloader()
        loader.trainer = None
        with torch.no_grad():
            for batch in in_order(data, epoch=4):
                network(batch[seed])
        name = "engine.network.1.running_mean"
        assert torch.allclose(kept[name][seed], norm.running_mean, atol=1e-6)
        assert torch.allclose(kept[name.replace("mean", "var")][seed], norm.running_var, rtol=1e-4)


def in_order(data, epoch):
    """Images of an epoch's batches, (replicates, batch, ...)."""

    class At:
        current_epoch, global_rank, world_size, overfit_batches = epoch, 0, 1, 0

    loader = data.train_dataloader()
    loader.trainer = At()
    return [data.transfer_batch_to_device(rows, torch.device("cpu"), 0)[0] for rows in loader]


def test_the_best_weights_are_the_averages_that_were_validated(tmp_path):
    watch, best = Watch(), BestCheckpoint()

    trained(tmp_path, EMAWeightAveraging(decay=0.9), watch, best)

    validated = watch.validated[1:]  # the first is Lightning's sanity check
    epochs = best.epoch.tolist()
    for name, parameter in enumerate(best.weights.values()):
        for seed in range(3):
            assert torch.equal(parameter[seed], validated[epochs[seed]][name][seed])


@pytest.mark.parametrize("weights", ["last", "best"])
def test_a_cell_records_the_scores_of_its_averages(tmp_path, weights):
    given = {
        "data": {"class_path": "FakeImages", "init_args": {"rows": 200}},
        "model": {"network": "MLP"},
        "trainer": {
            "max_epochs": 4,
            "accelerator": "cpu",
            "callbacks": [{"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.9}}],
        },
    }

    table = run_cell(Cell(cell_config(merge_config({}, given)), range(3), weights=weights), tmp_path / "cell")

    by_epoch = table["epoch_val_loss"].to_list()
    scored = [min(losses) if weights == "best" else losses[-1] for losses in by_epoch]
    assert table["val_loss"].to_list() == pytest.approx(scored, rel=1e-6)
