"""Networks that start from a file's weights, and parameters that are not trained: as by hand in plain torch."""

import contextlib
import subprocess
import sys

import pytest
import torch
from hostile import FIT, guarded
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import StochasticWeightAveraging
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from small_studies import Lines, study
from torch import nn
from torch.nn.functional import cross_entropy

from actbench.cli.main import main
from actbench.data import FakeImages
from actbench.inference.verdict.pairing import pairing_faults, pairing_sentence
from actbench.networks import MLP, ConvNet, build_network
from actbench.seeding import Sharing, shared_sources
from actbench.specs import merge_config, without
from actbench.studies import compare
from actbench.studies.cells import Cell, cell_config, run_cell
from actbench.training.checkpoints import CheckpointError, load_checkpoint
from actbench.training.classifier import Classifier

pytestmark = pytest.mark.filterwarnings("ignore:.*in eval mode")  # as a held BatchNorm is
SHAPE = (1, 8, 8)
ENGINES = ("stack", "sequence")
SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05, "weight_decay": 0.1}}
ADAMW = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01, "weight_decay": 0.1}}


class Small(nn.Module):
    """A network of a user's, with BatchNorm and a trainable activation's place."""

    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), activation(), nn.Flatten())
        self.fc = nn.Linear(144, num_classes)

    def forward(self, images):
        return self.fc(self.body(images))


def small(seed=50, classes=10, activation=nn.ReLU):
    """A network as trained elsewhere, whose statistics are not those of a new one."""
    network = build_network(Small, activation, input_shape=SHAPE, num_classes=classes, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    network.body[1].running_mean.normal_(generator=generator)
    network.body[1].running_var.uniform_(0.5, 2, generator=generator)
    return network


def classifier(weights=None, network=Small, activation="relu", classes=10, **options):
    return Classifier(activation, network, weights=weights, input_shape=SHAPE, num_classes=classes, **options)


def saved(tmp_path, content, name="w.pt", **options):
    torch.save(content, tmp_path / name, **options)
    return str(tmp_path / name)


def plain(model, index=0):
    return model.engine.replicate(index).state_dict()


def assert_same(state, expected):
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=0)


def data(**options):
    return FakeImages(**{"rows": 200, "batch_size": 50, **options})


def fit(model, epochs=2, callbacks=(), **options):
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    trainer.fit(model, data(seed=model.seeds[0], replicates=len(model.seeds), **options))
    return trainer


# --- what a file may be ---


class Wrapped(LightningModule):
    def __init__(self, network):
        super().__init__()
        self.net = network
        self.loss = nn.CrossEntropyLoss(torch.ones(10))


def files():
    network = small()
    state = network.state_dict()
    return {
        "a state dict": state,
        "under state_dict": {"state_dict": state, "epoch": 3},
        "under model": {"model": state, "optimizer": {}},
        "under model_state_dict": {"model_state_dict": dict(state)},
        "of DataParallel": nn.DataParallel(network).state_dict(),
        "of torch.compile": {f"_orig_mod.{name}": value for name, value in state.items()},
        "compiled in a part": {name.replace("body.", "body._orig_mod."): value for name, value in state.items()},
        "of a LightningModule": {"state_dict": Wrapped(network).state_dict()},
        "of several wrappers": {"model": {f"module.model.{name}": value for name, value in state.items()}},
        "under another key": {"net": state, "epoch": 3, "rng": torch.zeros(8), "optimizer": {"state": {0: state}}},
        "under a number": {7: state},
        "in double precision": {name: value.double() for name, value in state.items()},
        "counted in 32 bits": state | {"body.1.num_batches_tracked": torch.tensor(0, dtype=torch.int32)},
        "in half precision": {
            name: value.half() if value.is_floating_point() else value for name, value in state.items()
        },
    }


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("what", files())
def test_all_seeds_start_from_the_weights_of_a_file(tmp_path, engine, what):
    model = classifier(saved(tmp_path, files()[what]), engine=engine, replicates=2)

    expected = small()
    if what == "in half precision":
        expected = expected.half().float()
    for index in range(2):
        assert_same(plain(model, index), expected.state_dict())


def test_torchs_older_format_is_read(tmp_path):
    path = saved(tmp_path, small().state_dict(), _use_new_zipfile_serialization=False)

    assert_same(plain(classifier(path)), small().state_dict())


def test_a_lightning_checkpoint_is_read(tmp_path):
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    trainer.strategy.connect(Wrapped(small()))
    trainer.save_checkpoint(tmp_path / "lightning.ckpt", weights_only=True)

    assert_same(plain(classifier(tmp_path / "lightning.ckpt")), small().state_dict())


def test_our_checkpoint_of_one_seed_is_shared_and_of_several_goes_seed_by_seed(tmp_path):
    one, three = (classifier(replicates=count, seed=4, engine="sequence") for count in (1, 3))
    for model, name in ((one, "one.ckpt"), (three, "three.ckpt")):
        fit(model, 1).save_checkpoint(tmp_path / name)

    shared = classifier(tmp_path / "one.ckpt", replicates=2, engine="stack")
    each = classifier(tmp_path / "three.ckpt", replicates=2, seed=5, engine="stack")

    assert_same(plain(shared, 1), plain(one))
    assert_same(plain(each, 0), plain(three, 1))
    assert_same(plain(each, 1), plain(three, 2))
    with pytest.raises(ValueError, match=r"three.ckpt holds weights of the seeds 4 to 6, and none of seed 7$"):
        classifier(tmp_path / "three.ckpt", replicates=2, seed=6)
    with shared_sources(Sharing(fixed=["init"], first=5)):
        assert_same(plain(classifier(tmp_path / "three.ckpt", seed=9)), plain(three, 1))


# --- what is loaded, and what is not ---


@pytest.mark.parametrize("engine", ENGINES)
def test_a_head_for_other_classes_stays_as_each_seed_draws_it(tmp_path, engine):
    drawn = [plain(classifier(engine=engine, replicates=2), index) for index in range(2)]

    model = classifier(saved(tmp_path, small(classes=7).state_dict()), engine=engine, replicates=2)

    for index in range(2):
        state = plain(model, index)
        assert_same(
            {name: state[name] for name in ("fc.weight", "fc.bias")},
            {n: drawn[index][n] for n in ("fc.weight", "fc.bias")},
        )
        torch.testing.assert_close(state["body.0.weight"], small().state_dict()["body.0.weight"], rtol=0, atol=0)
    assert "w.pt: not loaded, because the head is for 10 classes: 2 (fc.weight, fc.bias)" in model.start.report[1]


def test_a_head_that_the_file_lacks_and_what_it_has_too_many_is_told(tmp_path):
    state = {name: value for name, value in small().state_dict().items() if not name.startswith("fc")}

    report = classifier(saved(tmp_path, state | {"extra.weight": torch.zeros(2)})).start.report

    assert [line.rpartition("w.pt: ")[2] for line in report] == [
        "loaded: 7 (body.0.weight, body.0.bias, body.1.weight, ...)",
        "missing in the file: 2 (fc.weight, fc.bias)",
        "unused in the file: 1 (extra.weight)",
    ]


def test_the_activations_own_parameters_are_loaded_if_they_are_there(tmp_path):
    without, slopes = small().state_dict(), small(activation=lambda: nn.PReLU(init=0.7)).state_dict()

    drawn = classifier(saved(tmp_path, without), activation="prelu")
    loaded = classifier(saved(tmp_path, slopes), activation="prelu")
    other = classifier(
        saved(tmp_path, slopes), activation={"class_path": "torch.nn.PReLU", "init_args": {"num_parameters": 4}}
    )

    assert plain(drawn)["body.2.weight"].tolist() == [0.25]
    assert plain(loaded)["body.2.weight"].tolist() == [pytest.approx(0.7)]
    assert plain(other)["body.2.weight"].tolist() == [0.25] * 4
    assert drawn.start.report[-1].endswith("not loaded, because they belong to the activation: 1 (body.2.weight)")


class Bent(nn.PReLU):
    """An activation whose parameter has PReLU's name and shape, and means something else."""


def test_parameters_of_another_activation_are_not_taken_from_our_checkpoints(tmp_path):
    model = classifier(activation={"class_path": "torch.nn.PReLU", "init_args": {"init": 0.7}})
    fit(model, 1).save_checkpoint(tmp_path / "prelu.ckpt")

    bent = classifier(tmp_path / "prelu.ckpt", activation=Bent)

    assert plain(bent)["body.2.weight"].tolist() == [0.25]
    torch.testing.assert_close(plain(bent)["fc.weight"], plain(model)["fc.weight"], rtol=0, atol=0)


# --- what is refused ---


def changed(**values):
    return small().state_dict() | {name.replace("__", "."): value for name, value in values.items()}


OTHER_NETWORK = "weights of another network than Small: 0 of 6 parameters fit; body.0.weight"
TWO = r"names match without each of the prefixes online., target.: save the state dict of one network"
CODE = r"would run code \(test_transfer.Small\); if you trust the file, load it without weights_only and save its"


def doubled():
    return {f"{part}.{name}": value for part in ("online", "target") for name, value in small().state_dict().items()}


REFUSED = {
    "another network": (
        build_network(MLP, nn.ReLU, input_shape=SHAPE, num_classes=10, seed=0).state_dict(),
        OTHER_NETWORK,
    ),
    "another width": (
        changed(body__0__weight=torch.zeros(5, 1, 3, 3)),
        r"body.0.weight has the shape \(5, 1, 3, 3\) there and \(4, 1, 3, 3\) in the network",
    ),
    "other inputs of the head": (changed(fc__weight=torch.zeros(7, 100)), r"fc.weight has the shape \(7, 100\)"),
    "NaN": (changed(fc__bias=torch.full((10,), torch.nan)), "fc.bias holds NaN"),
    "inf": (changed(fc__bias=torch.full((10,), -torch.inf)), "fc.bias holds inf"),
    "more than single precision holds": (
        changed(fc__bias=torch.full((10,), 1e300, dtype=torch.float64)),
        "fc.bias holds inf",
    ),
    "NaN in statistics": (changed(body__1__running_mean=torch.full((4,), torch.nan)), "running_mean holds NaN"),
    "a negative variance": (
        changed(body__1__running_var=torch.tensor([1, 2, -0.5, 1])),
        r"body.1.running_var holds -0.5, and a variance is not negative$",
    ),
    "half a batch": (changed(body__1__num_batches_tracked=torch.tensor(0.5)), "is of type torch.float32"),
    "whole numbers": (changed(fc__bias=torch.zeros(10, dtype=torch.int64)), "fc.bias is of type torch.int64"),
    "no tensors": ({"state_dict": {"a": 1}}, "holds no state dict, alone or under state_dict, model_state_dict, model"),
    "a list": ([torch.zeros(2)], "holds no state dict"),
    "a tensor": (torch.zeros(2), "holds no state dict"),
    "two networks": (doubled(), TWO),
    "two state dicts": (
        {"net": small().state_dict(), "ema": small().state_dict()},
        "holds several state dicts, under net, ema: save one alone",
    ),
    "a whole network": (small(), CODE),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_in_a_line(tmp_path, what):
    content, message = REFUSED[what]

    with pytest.raises(ValueError, match=message) as error:
        classifier(saved(tmp_path, content))

    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_file_of_a_part_is_loaded_there(tmp_path, prefix):
    body = small().body.state_dict()

    model = classifier(saved(tmp_path, {f"{prefix}{name}": value for name, value in body.items()}))

    state = plain(model)
    assert_same({name: state[f"body.{name}"] for name in body}, body)
    assert model.start.report[0].endswith(
        "w.pt: loaded, into body.: 7 (body.0.weight, body.0.bias, body.1.weight, ...)"
    )
    assert model.start.report[1].endswith("w.pt: missing in the file: 2 (fc.weight, fc.bias)")


def test_a_wrappers_copy_of_the_network_is_no_second_network(tmp_path):
    both = {f"{part}.{name}": value for part in ("model", "ema") for name, value in small().state_dict().items()}

    assert_same(plain(classifier(saved(tmp_path, both))), small().state_dict())


class Masked(Small):
    """A buffer that holds -inf by design, as masks of attention do."""

    def __init__(self, activation, input_shape, num_classes):
        super().__init__(activation, input_shape, num_classes)
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))


def test_what_is_infinite_by_design_is_loaded(tmp_path):
    state = build_network(Masked, nn.ReLU, input_shape=SHAPE, num_classes=10, seed=50).state_dict()

    assert_same(plain(classifier(saved(tmp_path, state), Masked)), state)


def test_versions_that_are_no_versions_are_not_read(tmp_path):
    state = small().state_dict()
    state._metadata[""] = "two"
    state._metadata["body.1"] = {"version": 2}

    assert_same(plain(classifier(saved(tmp_path, state))), small().state_dict())


def test_safetensors_are_refused_with_advice(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(bytes(8) + b"{}")

    with pytest.raises(ValueError, match=r"w.safetensors is not a file of torch.save: load it with safetensors"):
        classifier(tmp_path / "w.safetensors")


def hostile(path, what):
    """A file that a stranger may send."""
    if what == "code":
        path.write_bytes(b"cos\nsystem\n(S'touch outside'\ntR.")
    elif what == "truncated":
        torch.save(small().state_dict(), path)
        path.write_bytes(path.read_bytes()[:-2000])
    elif what == "truncated, in the older format":
        torch.save(small().state_dict(), path, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes()[:-400])
    elif what == "a claim of a terabyte, in the older format":
        torch.save({"a": torch.zeros(7654321, dtype=torch.uint8)}, path, _use_new_zipfile_serialization=False)
        content = path.read_bytes()
        path.write_bytes(content.replace((7654321).to_bytes(4, "little"), (2**31 - 1).to_bytes(4, "little"))[:9999])
    elif what == "one value for all":
        torch.save({name: value.new_zeros(1).expand(10**12) for name, value in small().named_parameters()}, path)
    elif what == "a name of a megabyte":
        torch.save({"\x1b[2J" + "a." * 500_000: torch.zeros(1)}, path)
    elif what == "replicates without end":
        description = classifier().describe() | {"replicates": 10**9}
        entry = {"schema": 4, "version": "0", "seed": 0, "vary": [], "model": description, "data": None, "trainer": {}}
        entry |= {"active": torch.ones(1), "train_loss": {}, "scores": {}}
        torch.save({"actbench": entry, "state_dict": {"engine.network.a": torch.zeros(10**9, 0)}}, path)
    else:
        path.write_bytes(b"")


@pytest.mark.parametrize(
    "what",
    [
        "code",
        "truncated",
        "truncated, in the older format",
        "a claim of a terabyte, in the older format",
        "one value for all",
        "replicates without end",
        "a name of a megabyte",
        "nothing",
    ],
)
def test_a_hostile_file_is_refused_in_a_line(tmp_path, capsys, what):
    hostile(tmp_path / "w.pt", what)

    with contextlib.chdir(tmp_path), guarded(tmp_path):
        assert main(["fit", *FIT, "--model.weights", "w.pt"]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    assert len(line) < 1200
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.pt"]


def test_a_checkpoint_names_no_file_that_is_read(honest_checkpoint, tmp_path):
    content = torch.load(honest_checkpoint, weights_only=True)
    content["actbench"]["model"]["weights"] = saved(tmp_path, {})
    torch.save(content, tmp_path / "hostile.ckpt")

    with pytest.raises(CheckpointError, match=r"hostile.ckpt is damaged"):
        Classifier.load_from_checkpoint(str(tmp_path / "hostile.ckpt"))


# --- training ---


def by_hand(network, frozen, make_optimizer, batches, *, held):
    """Losses of a training in plain torch, where frozen parameters are left out of the optimiser."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen)
    optimizer = make_optimizer([parameter for parameter in network.parameters() if parameter.requires_grad])
    network.train()
    network.body[1].train(not held)
    losses = []
    for images, labels in batches:
        loss = cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def by_us(model, batches):
    """Losses of the first seed in the same training."""
    optimizer = model.configure_optimizers()
    model.train()
    losses = []
    for images, labels in batches:
        each = model.engine.losses(images, labels)
        optimizer.zero_grad()
        model.engine.backward(each.sum())
        optimizer.step()
        losses.append(each[0].item())
    return losses


@pytest.mark.parametrize("replicates", [1, 2])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("freeze", "held"), [("body.*", True), ("*.weight", False), (["body.0.*", "body.1.weight"], False)]
)
@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["SGD", "AdamW"])
def test_a_training_is_that_of_plain_torch(tmp_path, engine, freeze, held, optimizer, replicates):
    generator = torch.Generator().manual_seed(1)
    batches = [(torch.rand(8, *SHAPE, generator=generator), torch.arange(8) % 10) for _ in range(6)]
    path = saved(tmp_path, small().state_dict())
    model = classifier(path, freeze=freeze, engine=engine, optimizer=optimizer, replicates=replicates)
    frozen = {
        "body.*": ["body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias"],
        "*.weight": ["body.0.weight", "body.1.weight", "fc.weight"],
        "body.0.*": ["body.0.weight", "body.0.bias", "body.1.weight"],
    }[freeze if isinstance(freeze, str) else freeze[0]]
    network = small()
    cls = {"torch.optim.SGD": torch.optim.SGD, "torch.optim.AdamW": torch.optim.AdamW}[optimizer["class_path"]]

    expected = by_hand(network, frozen, lambda p: cls(p, **optimizer["init_args"]), batches, held=held)
    losses = by_us(model, batches)

    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    state, start = plain(model), small().state_dict()
    for name, value in network.state_dict().items():
        if name not in ("body.0.bias", "body.1.running_mean"):  # Adam makes steps of a bias's noise under a BatchNorm
            torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5)
    kept = [*frozen, *(["body.1.running_mean", "body.1.running_var", "body.1.num_batches_tracked"] if held else [])]
    assert_same({name: state[name] for name in kept}, {name: start[name] for name in kept})


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_frozen_stays_through_a_fit_and_averaging(tmp_path, engine):
    path = saved(tmp_path, small().state_dict())
    model = classifier(path, freeze="body.*", engine=engine, replicates=2, optimizer=SGD)

    fit(model, 3, [StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)])

    for index in range(2):
        state = plain(model, index)
        assert_same(
            {name: value for name, value in state.items() if name.startswith("body")},
            {name: value for name, value in small().state_dict().items() if name.startswith("body")},
        )
        assert not torch.equal(state["fc.weight"], small().state_dict()["fc.weight"])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_seed_alone_is_the_seed_in_company(tmp_path, engine):
    path = saved(tmp_path, small(classes=7).state_dict())
    options = {"freeze": "body.0.*", "engine": engine, "optimizer": SGD}
    company, alone = classifier(path, seed=3, replicates=3, **options), classifier(path, seed=4, **options)

    fit(company)
    fit(alone)

    if engine == "sequence":
        assert_same(plain(company, 1), plain(alone))
    for name, value in plain(alone).items():
        torch.testing.assert_close(plain(company, 1)[name], value, rtol=1e-4, atol=1e-6)


class Deep(Small):
    """A BatchNorm in the head, which cannot normalise one image by itself."""

    def __init__(self, activation, input_shape, num_classes):
        super().__init__(activation, input_shape, num_classes)
        self.fc = nn.Sequential(nn.Linear(144, 8), nn.BatchNorm1d(8), nn.Linear(8, num_classes))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_last_batch_of_one_image_is_no_fault_of_statistics_that_are_kept(engine):
    images = data()
    images.setup()
    batch_size = images.parts["train"].rows.shape[1] - 1

    fit(classifier(network=Deep, freeze="fc.1.*", engine=engine), 1, batch_size=batch_size)

    with pytest.raises(MisconfigurationException, match="the last of 2 batches has 1"):
        fit(classifier(network=Deep, engine=engine), 1, batch_size=batch_size)


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (
            "bdy.0.*",
            r"model.freeze: 'bdy.0.\*' matches no parameter of Small; the nearest are body.0.bias, body.0.weight",
        ),
        ("*", r"model.freeze leaves nothing to train: all 6 parameters of Small are frozen"),
        (["body.*", "fc.weight", "fc.bias"], r"leaves nothing to train"),
        ("body.2.weight", r"'body.2.weight' matches no parameter"),
    ],
)
def test_a_pattern_that_makes_no_sense_is_refused_in_a_line(freeze, message):
    with pytest.raises(ValueError, match=message):
        classifier(freeze=freeze)


def test_a_slope_may_be_frozen():
    model = classifier(activation="prelu", freeze="body.2.weight", optimizer=SGD, replicates=2, engine="stack")

    fit(model)

    assert plain(model)["body.2.weight"].tolist() == [0.25]


# --- checkpoints and the command line ---


def test_a_checkpoint_needs_the_file_no_more(tmp_path):
    path = saved(tmp_path, small().state_dict())
    model = classifier(path, freeze="body.*", replicates=2, engine="sequence")
    fit(model, 2).save_checkpoint(tmp_path / "last.ckpt")
    (tmp_path / "w.pt").unlink()

    loaded = Classifier.load_from_checkpoint(str(tmp_path / "last.ckpt"), trust=["test_transfer"])

    assert_same(loaded.engine.state_dict(), model.engine.state_dict())
    assert loaded.describe() == model.describe()
    assert str(tmp_path) not in str(load_checkpoint(tmp_path / "last.ckpt")["actbench"])
    assert loaded.frozen == ["body.*"]
    fit(loaded, 1)
    assert_same(
        {name: value for name, value in plain(loaded).items() if name.startswith("body")},
        {name: value for name, value in small().state_dict().items() if name.startswith("body")},
    )


def test_a_digest_alone_trains_nothing(tmp_path):
    digest = classifier(saved(tmp_path, small().state_dict())).start.digest

    with pytest.raises(Exception, match=rf"model.weights: {digest} is the digest of a file: give the file"):
        fit(classifier(digest))


CONVNET = [*FIT, "--data.rows", "60", "--model.network", "ConvNet", "--trainer.max_epochs", "1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder in which a fit from weights has run, and whose weights are gone."""
    folder = tmp_path_factory.mktemp("transfer")
    network = build_network(ConvNet, nn.ReLU, input_shape=SHAPE, num_classes=7, seed=9)
    saved(folder, network.state_dict())
    words = ["--model.weights", "w.pt", "--model.freeze", "stages.0.*", "--model.replicates", "2"]
    command = [sys.executable, "-m", "actbench", "fit", *CONVNET, *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "not loaded, because the head is for 10 classes: 2 (head.weight, head.bias)" in done.stdout + done.stderr
    (folder / "w.pt").rename(folder / "moved.pt")
    return folder / "lightning_logs" / "version_0"


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_checkpoint_is_scored_without_the_file(run, monkeypatch, command):
    monkeypatch.chdir(run.parent.parent)

    assert main([command, "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--trainer.accelerator", "cpu"]) == 0


@pytest.mark.parametrize("config", [True, False])
def test_a_fit_is_resumed_without_the_file(run, monkeypatch, capsys, config):
    monkeypatch.chdir(run.parent.parent)
    given = ["--config", str(run / "config.yaml")] if config else []

    resumed = ["--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--trainer.max_epochs", "2"]
    status = main(["fit", *given, *resumed, "--trainer.default_root_dir", f"again{config}"])

    assert status == 0, capsys.readouterr().err
    state = load_checkpoint(f"again{config}/lightning_logs/version_0/checkpoints/last.ckpt")
    before = load_checkpoint(run / "checkpoints" / "last.ckpt")
    assert state["epoch"] > before["epoch"]
    assert state["actbench"]["model"] == before["actbench"]["model"]
    name = "engine.network.stages.0.1.running_mean"
    torch.testing.assert_close(state["state_dict"][name], before["state_dict"][name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.weights", "other.pt"], "--model.weights contradicts the checkpoint"),
        (["--model.freeze", "head.*"], "--model.freeze contradicts the checkpoint, which has stages.0.*, not head.*"),
    ],
)
def test_other_weights_beside_a_checkpoint_are_refused(run, monkeypatch, capsys, words, message):
    monkeypatch.chdir(run.parent.parent)
    saved(run.parent.parent, small().state_dict(), "other.pt")

    assert main(["test", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), *words]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_the_file_itself_beside_its_checkpoint_is_no_contradiction(run, monkeypatch):
    monkeypatch.chdir(run.parent.parent)

    assert main(["test", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--model.weights", "moved.pt"]) == 0


def test_the_resumed_runs_config_does_not_start_afresh_without_the_file(run, monkeypatch, capsys):
    monkeypatch.chdir(run.parent.parent)
    given = ["--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--trainer.max_epochs", "2"]
    assert main(["fit", *given, "--trainer.default_root_dir", "bare"]) == 0
    capsys.readouterr()

    assert main(["fit", "--config", "bare/lightning_logs/version_0/config.yaml"]) == 2

    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "is the digest of a file: give the file" in line


def test_a_replicate_is_exported(run, monkeypatch):
    monkeypatch.chdir(run.parent.parent)

    assert main(["export", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--output", "net.pt2"]) == 0


def test_config_and_help_name_both(run, capsys):
    assert main(["fit", *CONVNET, "--model.weights", "w.pt", "--model.freeze", "a.*", "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert "  weights: w.pt\n" in printed
    assert "  freeze:\n  - a.*\n" in printed
    assert (run / "config.yaml").read_text().count("weights: w.pt") == 1
    assert main(["fit", "--help"]) == 0
    assert "Patterns of names of parameters that are not trained" in capsys.readouterr().out


# --- studies ---


def transfer_study(folder, **model):
    config = study(folder)
    config["data"]["init_args"]["rows"] = 60
    return {**config, "model": {"network": "MLP", **model}, "trainer": {"max_epochs": 1, "accelerator": "cpu"}}


def test_a_study_pairs_arms_that_start_from_one_file(tmp_path):
    network = build_network(MLP, nn.ReLU, input_shape=SHAPE, num_classes=7, seed=9)
    path = saved(tmp_path, network.state_dict())
    lines = Lines()
    config = transfer_study(tmp_path / "runs", weights=path, freeze=["layers.1.*"])
    config["study"]["replicates"] = 2

    first = compare(config, progress=lines).table
    again = compare(config, progress=lines).table
    saved(tmp_path, {**network.state_dict(), "layers.1.bias": network.state_dict()["layers.1.bias"] + 1})
    other = compare(config, progress=lines).table

    assert sum("not loaded, because the head is for 10 classes" in line for line in lines.said) == 2
    for table in (first, other):
        pairs = {*zip(table["seed"], table["init_fingerprint"], strict=True)}
        assert len(pairs) == len({fingerprint for _, fingerprint in pairs}) == 2  # the head is each seed's own
    assert set(again["cell"]) == set(first["cell"])
    assert not {*other["cell"]} & {*first["cell"]}
    assert not {*other["init_fingerprint"]} & {*first["init_fingerprint"]}


def test_a_study_without_its_file_ends_before_anything_is_trained(tmp_path):
    with pytest.raises(ValueError, match=r"arm relu: model.weights: gone.pt was not found"):
        compare(transfer_study(tmp_path / "runs", weights="gone.pt"), progress=Lines())

    assert not list((tmp_path / "runs").rglob("*.parquet"))


def test_a_file_that_changes_during_a_study_ends_its_cell(tmp_path):
    network = build_network(MLP, nn.ReLU, input_shape=SHAPE, num_classes=10, seed=9)
    config = transfer_study(tmp_path / "runs", weights=saved(tmp_path, network.state_dict()))
    cell = Cell(cell_config(merge_config({}, without(config, "study"))), range(2))
    assert cell.factors["initial_weights"].startswith("sha256:")

    saved(tmp_path, network.state_dict() | {"layers.1.bias": torch.ones(128)})

    with pytest.raises(ValueError, match=r"model.weights: .*w.pt has changed since the study was planned"):
        run_cell(cell, tmp_path / "cell")


def test_an_arm_may_start_from_weights_of_its_own(tmp_path):
    network = build_network(MLP, nn.ReLU, input_shape=SHAPE, num_classes=10, seed=9)
    config = transfer_study(tmp_path / "runs")
    trained = {"activation": "relu", "name": "trained", "model.weights": saved(tmp_path, network.state_dict())}
    config["study"] |= {"activations": ["relu", trained], "replicates": 2}

    table = compare(config, progress=Lines()).table

    assert table.filter(arm="trained")["init_fingerprint"].n_unique() == 1
    assert not pairing_faults(table, "relu")
    assert pairing_sentence(table, "relu").endswith("in another network or from another file: trained")
