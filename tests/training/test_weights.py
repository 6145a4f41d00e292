"""Networks that start from a file's weights: which are read, loaded, left or refused."""

import contextlib

import pytest
import torch
from hostile import FIT, guarded
from pretrained import ENGINES, SHAPE, Small, assert_same, classifier, fit, plain, saved, small
from pytorch_lightning import LightningModule, Trainer
from torch import nn

from actbench.cli.main import main
from actbench.networks import MLP, build_network
from actbench.seeding import Sharing, shared_sources
from actbench.training.checkpoints import CheckpointError
from actbench.training.classifier import Classifier

pytestmark = pytest.mark.filterwarnings("ignore:.*in eval mode")  # as a held BatchNorm is

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


def test_averages_beside_the_weights_are_said_to_be_unused(tmp_path):
    content = {"model_ema": small(classes=7).state_dict(), "model": {"state_dict": small().state_dict()}, "epoch": 3}

    model = classifier(saved(tmp_path, content))

    assert_same(plain(model), small().state_dict())
    assert model.start.report[0].endswith("w.pt: not used, because the file has model: 1 (model_ema)")


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
CODE = r"would run code \(pretrained.Small\); if you trust the file, load it without weights_only and save its"


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
