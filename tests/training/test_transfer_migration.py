"""Weights from a file as torch migrates them, and networks of others that activations are swapped into."""

import copy

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn
from torch.nn.functional import relu
from torch.nn.utils import parametrizations, weight_norm

from actbench.data import FakeImages
from actbench.training.classifier import Classifier

SHAPE = (1, 8, 8)


def classifier(weights=None, network=None, activation="mish", **options):
    return Classifier(activation, network, weights=weights, input_shape=SHAPE, num_classes=10, **options)


def saved(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    return str(tmp_path / "w.pt")


def said(model):
    return [line.rpartition("w.pt: ")[2] for line in model.start.report]


class Scale(nn.Module):
    """Kept the scale in its first version, and keeps its logarithm in its second."""

    _version = 2

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8))

    def forward(self, x):
        return x * self.weight.exp()

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        if local_metadata.get("version", 1) < 2:
            state_dict[f"{prefix}weight"] = state_dict[f"{prefix}weight"].log()
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


def rename(module, state, prefix, *_):
    for name in [name for name in state if name.startswith(f"{prefix}fc1.")]:
        state[f"{prefix}inner.{name.removeprefix(f'{prefix}fc1.')}"] = state.pop(name)


def rename_at_the_root(module, state, prefix, *_):
    """As many write it, for the whole network alone."""
    for name in [name for name in state if name.startswith("fc1.")]:
        state[f"inner.{name.removeprefix('fc1.')}"] = state.pop(name)


class Net(nn.Module):
    """A network in which no activation is named."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.inner = nn.Linear(64, 8)
        self.middle = nn.Identity()
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.head(relu(self.middle(self.inner(x.flatten(1)))))


class Versioned(Net):
    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.middle = Scale()


class Normed(Net):
    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.inner, self.head = map(parametrizations.weight_norm, (self.inner, self.head))


class Renamed(Net):
    hook = staticmethod(rename)

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.register_load_state_dict_pre_hook(self.hook)


class RenamedAtTheRoot(Renamed):
    hook = staticmethod(rename_at_the_root)


class Remembering(Net):
    def get_extra_state(self):
        return {"seen": getattr(self, "seen", 0)}

    def set_extra_state(self, state):
        self.seen = state["seen"]


def old_norm(classes=10):
    network = Net(classes)
    with pytest.warns(FutureWarning):
        network.inner, network.head = weight_norm(network.inner), weight_norm(network.head)
    return network.state_dict()


def first_version():
    state = Versioned().state_dict()
    state["middle.weight"] = torch.full((8,), 2.0)
    state._metadata["middle"]["version"] = 1
    return state


def second_version():
    return {name: value + 0.5 for name, value in Versioned().state_dict().items()}


def with_metadata(state, metadata):
    state = copy.copy(torch.nn.modules.module.OrderedDict(state))
    state._metadata = metadata
    return state


def renamed_file():
    return {name.replace("inner.", "fc1."): value for name, value in Net().state_dict().items()}


def remembered():
    network = Remembering()
    network.seen = 7
    return network.state_dict()


MIGRATED = {
    "an older version": (Versioned, first_version),
    "no version": (Versioned, lambda: dict(first_version())),
    "the same version": (Versioned, lambda: with_metadata(second_version(), Versioned().state_dict()._metadata)),
    "weight_norm of old": (Normed, old_norm),
    "a hook on names": (Renamed, renamed_file),
    "a hook on names at the root": (RenamedAtTheRoot, renamed_file),
    "extra state": (Remembering, remembered),
}


@pytest.mark.parametrize("prefix", ["", "module.", "net."])
@pytest.mark.parametrize("what", MIGRATED)
def test_a_file_is_migrated_as_torch_does(tmp_path, what, prefix):
    network, make = MIGRATED[what]
    state, expected = make(), network()
    expected.load_state_dict(state)
    wrapped = {f"{prefix}{name}": value for name, value in state.items()}
    metadata = {f"{prefix}{place}".rstrip("."): each for place, each in getattr(state, "_metadata", {}).items()}

    model = classifier(saved(tmp_path, with_metadata(wrapped, metadata) if metadata else wrapped), network)

    loaded = model.engine.replicate(0).network
    assert len(said(model)) == 1
    assert loaded.state_dict().keys() == expected.state_dict().keys()
    for name, value in expected.named_parameters():
        torch.testing.assert_close(loaded.get_parameter(name), value, rtol=0, atol=0)
    assert getattr(loaded, "seen", 0) == getattr(expected, "seen", 0)


def test_a_head_of_old_weight_norm_for_other_classes_stays_as_it_was_drawn(tmp_path):
    state = old_norm(7)

    model = classifier(saved(tmp_path, state), Normed)

    head = "head.bias, head.parametrizations.weight.original0, head.parametrizations.weight.original1"
    assert said(model)[1:] == [f"not loaded, because the head is for 10 classes: 3 ({head})"]
    loaded = model.engine.replicate(0).network.state_dict()
    torch.testing.assert_close(loaded["inner.parametrizations.weight.original1"], state["inner.weight_v"])


@pytest.mark.parametrize("engine", ["stack", "sequence"])
def test_our_checkpoint_knows_the_versions_of_modules(tmp_path, engine):
    model = classifier(network=Versioned, engine=engine, replicates=2)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_epochs=1, limit_train_batches=1, enable_model_summary=False, **quiet)
    trainer.fit(model, FakeImages(rows=100, batch_size=50, replicates=2))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.5)
    trainer.save_checkpoint(tmp_path / "w.ckpt")

    loaded = classifier(tmp_path / "w.ckpt", Versioned, replicates=2)

    for index in range(2):
        assert loaded.engine.replicate(index).network.middle.weight.tolist() == [0.5] * 8


# --- networks that activations are swapped into ---


class Slopes(nn.Module):
    """A slope that runs once, and one that runs twice."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(64, 4), nn.BatchNorm1d(4), nn.PReLU())
        self.middle, self.act = nn.Linear(4, 4), nn.PReLU()
        self.head = nn.Linear(4, num_classes)

    def forward(self, x):
        x = self.act(self.middle(self.stem(x.flatten(1))))
        return self.head(self.act(self.middle(x)))


def trained():
    network = Slopes()
    nn.init.constant_(network.stem[2].weight, 0.6)
    nn.init.constant_(network.act.weight, 0.7)
    return network.state_dict()


@pytest.mark.parametrize("prefix", ["", "module.", "net."])
def test_trained_slopes_go_to_the_slopes_that_run_in_their_place(tmp_path, prefix):
    state = trained()
    path = saved(tmp_path, {f"{prefix}{name}": value for name, value in state.items()})

    slopes, others = (classifier(path, Slopes, activation) for activation in ("torch.nn.PReLU", "mish"))

    swapped = slopes.engine.replicate(0)
    assert [each.weight.item() for each in swapped.activations] == [pytest.approx(value) for value in (0.6, 0.7, 0.7)]
    (line,) = said(slopes)
    assert line.startswith("loaded")
    assert "into" not in line
    assert said(others)[1] == "not used, because another activation runs there: 2 (stem.2.weight, act.weight)"
    network = Slopes().eval()
    network.load_state_dict(state)
    images = torch.rand(4, *SHAPE)
    torch.testing.assert_close(swapped.eval()(images), network(images))


def test_slopes_of_another_form_or_kind_stay_as_they_are_drawn(tmp_path):
    path = saved(tmp_path, trained())

    model = classifier(path, Slopes, {"class_path": "torch.nn.PReLU", "init_args": {"num_parameters": 4}})

    assert [each.weight.tolist() for each in model.engine.replicate(0).activations] == [[0.25] * 4] * 3
    assert said(model)[1] == "not loaded, because they belong to the activation: 2 (stem.2.weight, act.weight)"


def test_slopes_that_still_run_are_loaded_into_the_network(tmp_path):
    model = classifier(saved(tmp_path, trained()), Slopes, "mish", sites=["stem.*"])

    assert said(model)[1] == "not used, because another activation runs there: 1 (stem.2.weight)"
    assert model.engine.replicate(0).network.act.weight.item() == pytest.approx(0.7)


def test_names_that_look_like_those_of_swapped_activations_are_told_as_they_are(tmp_path):
    strange = {"activations.9.weight": torch.zeros(1), "activations.bias": torch.zeros(1)}

    model = classifier(saved(tmp_path, trained() | strange), Slopes)

    assert said(model)[-1] == "unused in the file: 2 (activations.9.weight, activations.bias)"
    with pytest.raises(ValueError, match=r"fit; inner.weight, .* and the file has activations.9.weight, activations"):
        classifier(saved(tmp_path, strange), Net)


@pytest.mark.parametrize("engine", ["stack", "sequence"])
@pytest.mark.parametrize(
    ("freeze", "free"),
    [
        ("stem.*", ["activations.1.weight", "activations.2.weight"]),
        ("stem.2.weight", ["activations.1.weight", "activations.2.weight"]),
        ("act.*", ["activations.0.weight"]),
        ("activations.1.*", ["activations.0.weight", "activations.2.weight"]),
        ("stem.0.*", ["activations.0.weight", "activations.1.weight", "activations.2.weight"]),
    ],
)
def test_a_pattern_freezes_the_activations_that_run_there(freeze, free, engine):
    model = classifier(network=Slopes, activation="torch.nn.PReLU", freeze=freeze, engine=engine)

    names = [
        name.split("activations.")[1]
        for name, p in model.named_parameters()
        if ".activations." in name and p.requires_grad
    ]
    assert [f"activations.{name}" for name in names] == free


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        ("act.*", r"'act.\*' matches only act.weight of Slopes, which is not used: another activation runs there"),
        (["stem.[01].*", "middle.*", "head.*"], "leaves nothing to train"),
        ("stem.2.wait", "the nearest are stem.2.weight"),
    ],
)
def test_freezing_what_no_longer_runs_is_refused(freeze, message):
    with pytest.raises(ValueError, match=message):
        classifier(network=Slopes, freeze=freeze)


def test_a_slope_that_still_runs_may_be_frozen():
    model = classifier(network=Slopes, freeze="act.*", sites=["stem.*"])

    assert not model.engine.replicate(0).network.act.weight.requires_grad


class OwnSlope(Net):
    """Whose module holds more than a slope that is called as a function."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.slope, self.weight = nn.Parameter(torch.full((1,), 0.25)), nn.Parameter(torch.ones(8))

    def forward(self, x):
        return self.head(nn.functional.prelu(self.inner(x.flatten(1)) * self.weight, self.slope))


def test_weights_beside_a_slope_that_no_longer_runs_may_be_frozen(tmp_path):
    path = saved(tmp_path, OwnSlope().state_dict())

    model = classifier(path, OwnSlope, freeze="weight")

    assert said(model)[1] == "not used, because another activation runs there: 1 (slope)"
    with pytest.raises(ValueError, match="'slope' matches only slope of OwnSlope"):
        classifier(network=OwnSlope, freeze="slope")
