"""Statistics of calls of the activation: what they are, that they find what is known, and that they change nothing."""

import random

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.callbacks import StochasticWeightAveraging
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from actbench.data import Digits, FakeImages, adopt
from actbench.records import STATISTICS
from actbench.training.checkpoints import CheckpointError
from actbench.training.classifier import Classifier
from actbench.training.mechanism import Mechanism, effective_rank, site_statistics
from actbench.training.mechanism.callback import fixed_batch
from actbench.training.mechanism.measuring import measure
from actbench.training.mechanism.recording import RecordedPass

NAMES = [*STATISTICS]


class Twice(nn.Module):
    """BatchNorm, dropout, and an activation that is called twice."""

    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.activation = activation()
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 64, 16), activation(), nn.Dropout(), nn.Linear(16, 10))

    def forward(self, images):
        x = self.activation(self.first(images))
        return self.head(self.activation(x + self.second(x)))


def classifier(activation="relu", network="TutorialCNN", **options):
    return Classifier(activation, network, **{"input_shape": (1, 8, 8), "num_classes": 10} | options)


def trainer(folder, **options):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return Trainer(default_root_dir=folder, accelerator="cpu", **quiet | options)


def batch(replicates, rows=16, shape=(1, 8, 8)):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(replicates, rows, *shape, generator=generator)
    return images, torch.randint(10, (replicates, rows), generator=generator)


def by_name(statistics):
    return dict(zip(NAMES, statistics, strict=True))


def count_by_hooks(network, images, labels):
    """The statistics of a plain network's activations, one image at a time and unit by unit, in plain torch."""
    seen = []

    def note(module, args, output):
        args[0].retain_grad()
        seen.append((module, args[0], output))

    network = network.eval()
    handles = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, nn.ReLU | nn.Sigmoid)]
    calls = []
    for image, label in zip(images, labels, strict=True):
        seen.clear()
        F.cross_entropy(network(image[None]), label[None]).backward()
        calls.append([(x.detach()[0], x.grad[0], y.detach()[0]) for _, x, y in seen])
    for handle in handles:
        handle.remove()
    found = []
    for index, (module, *_) in enumerate(seen):
        x, gradient, y = (torch.stack([call[index][part] for call in calls]).double() for part in (0, 1, 2))
        slope = (x > 0).double() if isinstance(module, nn.ReLU) else y * (1 - y)
        units = y.abs().transpose(0, 1).flatten(1).mean(1)
        found.append(
            {
                "dead": (slope.transpose(0, 1).flatten(1).amax(1) == 0).double().mean(),
                "dormant": (units / units.mean() <= 0.025).double().mean(),
                "saturated": (slope < 0.01).double().mean(),
                "sparsity": (y == 0).double().mean(),
                "mean": x.mean(),
                "sd": x.std(correction=0),
                "gradient": gradient.square().mean().sqrt(),
            }
        )
    return found


@pytest.mark.parametrize("engine", ["stack", "sequence"])
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_statistics_are_those_counted_by_plain_hooks(engine, activation):
    model, (images, labels) = classifier(activation, replicates=3, engine=engine), batch(3)

    _, statistics, _ = measure(model.engine, images, labels, RecordedPass())

    for index in range(3):
        counted = count_by_hooks(model.engine.replicate(index), images[index], labels[index])
        for name, values in by_name(statistics[:, index]).items():
            expected = torch.tensor([float(call[name]) for call in counted]).double()
            torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: name + text)


def test_a_unit_is_dead_dormant_or_saturated_by_definition():
    outputs = torch.tensor([[1.0, 0.0, 0.02, 3.0], [3.0, 0.0, 0.02, 1.0]])[None]  # two images, four units
    slopes = torch.tensor([[1.0, 0.0, 0.005, 0.0], [0.0, 0.0, 0.005, 1.0]])[None]

    found = by_name(site_statistics(outputs + 1, outputs, slopes, torch.full_like(outputs, 2.0), axis=-1)[:, 0])

    assert found["dead"] == 1 / 4
    assert found["dormant"] == 2 / 4  # means 2, 0, .02 and 2, of a layer with 1.005
    assert found["saturated"] == 6 / 8
    assert found["sparsity"] == 2 / 8
    assert found["mean"] == pytest.approx(float(outputs.mean()) + 1)
    assert found["sd"] == pytest.approx(float(outputs.std(correction=0)))
    assert found["gradient"] == 2


def test_a_layer_that_is_zero_everywhere_is_dormant_and_one_that_is_not_finite_says_nothing():
    zeros, broken = torch.zeros(1, 4, 3), torch.full((1, 4, 3), torch.nan)

    nothing = by_name(site_statistics(zeros, zeros, zeros, zeros, axis=-1)[:, 0])
    unknown = site_statistics(broken, broken, broken, broken, axis=-1)

    assert nothing["dormant"] == nothing["dead"] == 1
    assert unknown.isnan().all()


def test_effective_rank_is_that_of_roy_and_vetterli():
    rng = np.random.default_rng(0)
    matrices = rng.normal(size=(4, 5, 7)) * np.arange(1, 8)
    shares = [np.linalg.svd(matrix, compute_uv=False) for matrix in matrices]
    shares = [values / values.sum() for values in shares]
    expected = [np.exp(-(values * np.log(values)).sum()) for values in shares]

    found = effective_rank(torch.tensor(matrices))

    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(effective_rank(torch.tensor(matrices).mT), expected, rtol=1e-6)
    assert effective_rank(torch.eye(6)[None]).item() == pytest.approx(6)
    assert effective_rank(torch.ones(1, 6, 3)).item() == pytest.approx(1, abs=1e-6)
    assert effective_rank(torch.zeros(1, 6, 3)).item() == 0
    assert effective_rank(torch.full((1, 2, 3), torch.inf)).isnan().all()


def test_engines_measure_alike_calls_that_are_repeated():
    found = []
    for engine in ("stack", "sequence"):
        model, recorded = classifier("prelu", Twice, replicates=2, engine=engine), RecordedPass()
        found.append(measure(model.engine, *batch(2), recorded)[1:])

    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-6)
    assert [call.name for call in recorded.calls] == ["activation", "activation#2", "head.2"]
    assert [call.layer for call in recorded.calls] == ["convolution 1", "convolution 2", "linear layer 1"]
    assert [call.axis for call in recorded.calls] == [1, 1, 1]


def test_an_activation_that_writes_into_its_input_is_measured_like_another():
    found = []
    for inplace in (False, True):
        relu = {"class_path": "torch.nn.ReLU", "init_args": {"inplace": inplace}}
        model = classifier(relu, Twice, replicates=2, engine="stack")
        found.append(measure(model.engine, *batch(2), RecordedPass())[1:])

    torch.testing.assert_close(*found, rtol=0, atol=0)


class ReadsAgain(nn.Module):
    """Adds the activation's output to itself, or to the input into which the activation has written."""

    def __init__(self, activation, input_shape, num_classes, itself=True):
        super().__init__()
        self.itself = itself
        self.first, self.head = nn.Linear(64, 16), nn.Linear(16, 10)
        self.activation = activation()

    def forward(self, images):
        x = self.first(images.flatten(1))
        y = self.activation(x)
        return self.head(y + (y if self.itself else x))


@pytest.mark.parametrize("engine", ["stack", "sequence"])
def test_what_an_activation_writes_into_its_input_is_read_by_others(engine):
    found = []
    for inplace in (False, True):
        relu = {"class_path": "torch.nn.ReLU", "init_args": {"inplace": inplace}}
        network = {"class_path": "test_mechanism.ReadsAgain", "init_args": {"itself": not inplace}}
        model = classifier(relu, network, replicates=2, engine=engine)
        found.append(measure(model.engine, *batch(2), RecordedPass())[1:])

    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_a_batch_that_all_replicates_share_is_measured_by_each():
    images, labels = batch(1)
    engine = classifier(replicates=3, engine="stack").engine

    shared = measure(engine, images[0], labels[0], RecordedPass())
    own = measure(engine, images.repeat(3, 1, 1, 1, 1), labels.repeat(3, 1), RecordedPass())

    torch.testing.assert_close(shared[1:], own[1:])


def test_chunks_of_a_stack_are_measured_as_the_whole(monkeypatch):
    whole, parts = (classifier(replicates=5, engine="stack", stack_width=width).engine for width in (None, 2))

    found = [measure(engine, *batch(5), RecordedPass())[1:] for engine in (whole, parts)]

    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


class Branching(nn.Module):
    """A network that calls its activation by a keyword, and once more where weights are so."""

    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        self.flat, self.first, self.act = nn.Flatten(), nn.Linear(64, 8), activation()
        self.head = nn.Linear(8, num_classes)

    def forward(self, images):
        x = self.act(input=self.first(input=self.flat(images)))
        return self.head(self.act(x) if self.first.bias[0] > 0 else x)


def test_replicates_that_make_other_calls_than_the_first_are_measured_as_far_as_they_go():
    model, recorded = classifier("relu", Branching, replicates=8, engine="sequence"), RecordedPass()

    calls, statistics, _ = measure(model.engine, *batch(8), recorded)

    more = torch.tensor([bool(model.engine.replicate(index).first.bias[0] > 0) for index in range(8)])
    assert 0 < more.sum() < 8
    assert [call.name for call in calls] == (["act", "act#2"] if more[0] else ["act"])
    assert statistics[:, :, 0].isfinite().all()
    if more[0]:
        assert (statistics[:, :, 1].isfinite().all(0) == more).all()


def test_calls_of_a_swapped_network_have_the_names_of_their_sites():
    network = {"class_path": "torchvision.models.squeezenet1_1"}
    model = classifier("leaky_relu", network, input_shape=(3, 32, 32), replicates=2)
    recorded = RecordedPass()

    _, statistics, rank = measure(model.engine, *batch(2, 4, (3, 32, 32)), recorded)

    assert [call.name for call in recorded.calls] == [site.name for site in model.swap.sites if site.swapped]
    assert len(recorded.calls) == statistics.shape[2] > 20
    assert (by_name(statistics)["dead"] == 0).all()
    assert (by_name(statistics)["gradient"] > 0).all()
    assert (rank >= 1).all()


# --- what is known ---


def test_gradients_vanish_in_a_deep_mlp_of_sigmoids():
    network = {"class_path": "MLP", "init_args": {"hidden": [64] * 8}}

    sigmoid, selu = (
        by_name(measure(classifier(name, network, replicates=4).engine, *batch(4), RecordedPass())[1])["gradient"]
        for name in ("sigmoid", "selu")
    )

    assert (sigmoid[:, 0] < 1e-5 * sigmoid[:, -1]).all()
    assert (selu[:, 0] > 1e-2 * selu[:, -1]).all()


@pytest.mark.parametrize(("activation", "dies"), [("relu", True), ("leaky_relu", False)])
def test_the_tutorials_third_convolution_dies_under_relu_in_seeds_that_fail(tmp_path, activation, dies):
    # Seed 0 trains, and seed 1 fails.
    model = classifier(activation, replicates=2, engine="stack", mechanism=True)

    trainer(tmp_path, max_epochs=2).fit(model, Digits(replicates=2))

    by_epoch = [by_name(snapshot.statistics)["dead"] for snapshot in model.mechanism.snapshots]
    third = model.mechanism.layers.index("convolution 3")
    assert len(by_epoch) == 3
    assert by_epoch[-1][:, third].tolist() == ([0, 1] if dies else [0, 0])


# --- nothing changes ---


def values_of(model):
    scores = {name: values for name, values in model.replicate_scores().items()}
    return {**model.engine.state_dict(), **scores}


def generators():
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002


@pytest.mark.parametrize(("engine", "replicates"), [("stack", 3), ("sequence", 3), ("sequence", 1)])
def test_a_fit_that_is_measured_gives_the_same_results_bit_for_bit(tmp_path, engine, replicates):
    ends, rows = [], 500 if engine == "stack" else 200  # 56 steps of a stack, the last ones replayed
    for mechanism in (False, True):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        options = {"replicates": replicates, "engine": engine, "mechanism": mechanism}
        model = classifier("rrelu", Twice, **options)
        fit = trainer(tmp_path, max_epochs=4)
        fit.fit(model, FakeImages(rows=rows, batch_size=25, replicates=replicates))
        ends.append((values_of(model), generators(), model.engine.remark()))

    (before, *others), (after, *same) = ends
    assert others == same
    assert ("replayed" in model.engine.remark()) == (engine == "stack")
    torch.testing.assert_close(before, after, rtol=0, atol=0)
    assert [snapshot.epoch for snapshot in model.mechanism.snapshots] == [0, 1, 2, 4]
    assert all(snapshot.statistics.isfinite().all() for snapshot in model.mechanism.snapshots)


@pytest.mark.parametrize("engine", ["stack", "sequence"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_are_measured_and_change_nothing_either(tmp_path, engine, precision):
    ends = []
    for mechanism in (False, True):
        model = classifier("relu", Twice, replicates=2, engine=engine, mechanism=mechanism)
        trainer(tmp_path, max_epochs=1, precision=precision).fit(model, FakeImages(rows=100, replicates=2))
        ends.append(values_of(model))

    torch.testing.assert_close(*ends, rtol=0, atol=0)
    assert all(snapshot.statistics.isfinite().all() for snapshot in model.mechanism.snapshots)


def test_weights_that_are_averaged_at_the_end_are_measured_then(tmp_path):
    model = classifier(network="MLP", replicates=2, engine="stack", mechanism=True)
    averaging = StochasticWeightAveraging(1e-2, swa_epoch_start=1)
    trainer(tmp_path, max_epochs=4, callbacks=[averaging]).fit(model, FakeImages(rows=200, replicates=2))

    _, statistics, _ = measure(model.engine, *fixed_batch(model.trainer, model), RecordedPass())

    torch.testing.assert_close(model.mechanism.snapshots[-1].statistics, statistics, rtol=0, atol=0)


def test_a_resumed_fit_has_the_same_measurements_bit_for_bit(tmp_path):
    def fit(epochs, checkpoint=None):
        model = classifier("prelu", Twice, replicates=2, engine="stack", mechanism=True)
        run = trainer(tmp_path, max_epochs=epochs)
        run.fit(model, FakeImages(rows=200, replicates=2), ckpt_path=checkpoint, weights_only=True)
        run.save_checkpoint(tmp_path / "last.ckpt")
        return model

    whole = fit(4)
    fit(2)
    resumed = fit(4, tmp_path / "last.ckpt")

    torch.testing.assert_close(resumed.mechanism.snapshots, whole.mechanism.snapshots, rtol=0, atol=0)
    torch.testing.assert_close(values_of(resumed), values_of(whole), rtol=0, atol=0)
    assert resumed.mechanism.sites == whole.mechanism.sites


class Own(LightningDataModule):
    """Images of one's own, which draw noise as they are read, from a generator that all parts share."""

    def setup(self, stage):
        generator = torch.Generator().manual_seed(0)

        class Noisy(TensorDataset):
            def __getitem__(self, index):
                image, label = super().__getitem__(index)
                return image + 0.1 * torch.randn(image.shape, generator=generator), label

        self.data = Noisy(torch.rand(90, 1, 8, 8, generator=generator), torch.arange(90) % 10)

    def train_dataloader(self):
        return DataLoader(self.data, 30, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.data, 25)


@pytest.mark.filterwarnings("ignore:.*differs each time", "ignore:.*num_workers")
def test_a_users_data_are_measured_in_a_copy(tmp_path):
    ends = []
    for mechanism in (False, True):
        data = adopt(Own(), remake=lambda: adopt(Own()))
        model = classifier(replicates=2, network="MLP", mechanism=mechanism)
        trainer(tmp_path, max_epochs=2, num_sanity_val_steps=0).fit(model, data)
        ends.append(values_of(model))

    torch.testing.assert_close(*ends, rtol=0, atol=0)
    assert len(model.mechanism.snapshots) == 3


@pytest.mark.filterwarnings("ignore:.*num_workers", "ignore:.*no .val_dataloader")
def test_loaders_without_a_datamodule_are_measured_and_a_fit_without_val_is_refused(tmp_path):
    rows = TensorDataset(torch.rand(100, 1, 8, 8), torch.arange(100) % 10)
    model = classifier(network="MLP", mechanism=True)

    trainer(tmp_path, max_epochs=1, check_val_every_n_epoch=2).fit(model, DataLoader(rows, 50), DataLoader(rows, 40))

    assert len(model.mechanism.snapshots) == 2
    with pytest.raises(Exception, match="labelled images of val, and there are none"):
        trainer(tmp_path, max_epochs=1).fit(classifier(network="MLP", mechanism=True), DataLoader(rows, 50))


def test_a_replicate_that_stops_early_has_its_own_measurements_only(tmp_path):
    model = classifier(network="MLP", replicates=2, engine="stack", mechanism=True)
    trainer(tmp_path, max_epochs=6).fit(model, FakeImages(rows=200, replicates=2))

    stopped, whole = (model.mechanism.columns(0, epochs=epochs) for epochs in (3, 6))

    assert whole["mechanism_epochs"] == [0, 1, 2, 4, 6]
    assert stopped["mechanism_epochs"] == [0, 1, 2, 3]
    assert all(stopped[name] == values[:4] for name, values in whole.items() if name != "mechanism_epochs")


@pytest.mark.parametrize(
    "change",
    [
        {"sites": [1, 2]},
        {"snapshots": [3]},
        {"snapshots": [{"epoch": 0}]},
        {"snapshots": [{"epoch": 0, "statistics": torch.zeros(2, 2, 2), "rank": torch.zeros(2)}]},
    ],
)
def test_a_state_that_no_fit_has_is_refused(tmp_path, change):
    model = classifier(network="MLP", replicates=2, mechanism=True)
    model.mechanism.sites = ["a", "b"]
    honest = {"sites": ["a", "b"], "layers": ["", ""], "snapshots": []}

    with pytest.raises(CheckpointError, match="damaged"):  # noqa: PT012
        model.mechanism.load_state_dict(honest | change)
        model.mechanism.on_fit_start(None, model)


def test_a_fit_measures_nothing_unless_it_is_asked_to():
    assert classifier().mechanism is None
    assert isinstance(classifier(mechanism=True).mechanism, Mechanism)


class Layouts(nn.Module):
    """Activations where the features lie on other axes than the layer before has them; half of the units are off."""

    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        self.conv, self.squeeze = nn.Conv2d(1, 6, 3, padding=1), nn.Linear(6, 6)
        self.channels_last, self.norm, self.squeezed = activation(), nn.LayerNorm(6), activation()
        self.rnn, self.recurrent = nn.GRU(6, 4, batch_first=True), activation()
        self.head = nn.Linear(4, num_classes)
        for layer in (self.conv, self.norm):
            nn.init.constant_(layer.bias[:3], -50.0)

    def forward(self, images):
        x = self.conv(images)
        x = self.channels_last(self.norm(x.movedim(1, -1))).movedim(-1, 1)
        gates = self.squeeze(x.mean((2, 3)))
        x = self.squeezed(x * 0 + self.conv.bias[:, None, None] + 0 * gates[:, :, None, None])
        h, _ = self.rnn(x.flatten(2).movedim(1, -1))
        return self.head(self.recurrent(h).mean(1))


def test_units_are_features_wherever_they_lie():
    model = classifier("relu", "test_mechanism.Layouts", replicates=2)

    calls, statistics, _ = measure(model.engine, *batch(2), RecordedPass())

    dead = dict(zip((call.name for call in calls), by_name(statistics)["dead"][0].tolist(), strict=True))
    assert dead["channels_last"] == 0.5
    assert dead["squeezed"] >= 0.5
    assert [call.axis for call in calls] == [3, 1, 2]


class Parallel(nn.Module):
    """Branches of 8 and 12 channels, in sequences of 12 numbers; half of the units of the first are off."""

    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        self.narrow, self.wide = nn.Conv1d(8, 8, 3, padding=1), nn.Conv1d(8, 12, 3, padding=1)
        self.first, self.second, self.doubtful, self.clear = (activation() for _ in range(4))
        self.head = nn.Linear(20, num_classes)
        nn.init.constant_(self.narrow.bias[:4], -50.0)

    def forward(self, images):
        sequences = torch.cat([images[:, 0], images[:, 0, :, :4]], 2)
        narrow, wide = self.narrow(sequences), self.wide(sequences)
        both = torch.cat([self.first(narrow), self.second(wide)], 1)
        scaled = self.doubtful(2 * narrow).mean() + self.clear(2 * narrow[..., :10]).mean()
        return self.head(both.mean(2)) + scaled


def test_units_of_parallel_branches_are_their_own():
    model = classifier("relu", "test_mechanism.Parallel", replicates=2)

    calls, statistics, _ = measure(model.engine, *batch(2), RecordedPass())

    # 2 * narrow may be turned, with 12 channels on the last axis, or come from the layer with 8.
    assert [call.axis for call in calls] == [1, 1, None, 1]
    for dead in by_name(statistics)["dead"]:
        assert dead[0] >= 0.5
        assert dead[2].isnan()


class Deep(nn.Module):
    """An activation with a layer of its own."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Linear(1, 1)

    def forward(self, x):
        return torch.relu(x) * self.slope(torch.ones(1, 1, device=x.device)).exp().squeeze()


def test_layers_within_an_activation_are_not_the_layers_before():
    names = []
    for activation in ("relu", "test_mechanism.Deep"):
        recorded = RecordedPass()
        measure(classifier(activation, "TutorialCNN", replicates=2).engine, *batch(2), recorded)
        names.append([(call.name, call.layer, call.axis) for call in recorded.calls])

    assert names[0] == names[1]


class Checkpointed(nn.Module):
    """A part that is computed again in the backward pass, and an activation of a parameter."""

    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        self.scale, self.of_scale = nn.Parameter(torch.ones(16)), activation()
        self.part, self.head = nn.Sequential(nn.Linear(64, 16), activation()), nn.Linear(16, num_classes)

    def forward(self, images):
        x = checkpoint(self.part, images.flatten(1), use_reentrant=False)
        return self.head(x * self.of_scale(self.scale))


class Hidden(nn.Module):
    """An activation in a plain list."""

    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        self.body, self.head, self.activations = nn.Linear(64, 8), nn.Linear(8, num_classes), [activation()]

    def forward(self, images):
        return self.head(self.activations[0](self.body(images.flatten(1))))


def test_a_fit_says_that_no_call_can_be_measured(tmp_path):
    model = classifier("relu", "test_mechanism.Hidden", mechanism=True)

    with pytest.warns(UserWarning, match="no call of the activation can be measured: the network keeps it"):
        trainer(tmp_path, max_epochs=1).fit(model, Digits())

    assert model.mechanism.columns(0, 1)["mechanism_sites"] == []


def test_parts_that_are_computed_again_and_calls_without_a_batch_do_no_harm():
    calls, statistics, _ = measure(
        classifier("relu", "test_mechanism.Checkpointed", replicates=2).engine, *batch(2), RecordedPass()
    )

    assert [call.name for call in calls] == ["part.1"]
    assert by_name(statistics)["gradient"].isfinite().all()
