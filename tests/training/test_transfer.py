"""Trainings that start from a file's weights, or train some parameters only: as by hand in plain torch."""

import pytest
import torch
from hostile import FIT
from pretrained import ADAMW, ENGINES, SGD, SHAPE, Small, assert_same, classifier, data, fit, plain, saved, small
from pytorch_lightning.callbacks import StochasticWeightAveraging
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from small_studies import Lines, study
from torch import nn
from torch.nn.functional import cross_entropy

from actbench.cli.main import main
from actbench.inference.verdict.pairing import pairing_faults, pairing_sentence
from actbench.networks import MLP, ConvNet, build_network
from actbench.specs import merge_config, without
from actbench.studies import compare
from actbench.studies.cells import Cell, cell_config, run_cell
from actbench.training.checkpoints import load_checkpoint
from actbench.training.classifier import Classifier

pytestmark = pytest.mark.filterwarnings("ignore:.*in eval mode")  # as a held BatchNorm is

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

    loaded = Classifier.load_from_checkpoint(str(tmp_path / "last.ckpt"), trust=["pretrained"])

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
def run(tmp_path_factory, ended_in):
    """The folder in which a fit from weights has run, and whose weights are gone."""
    folder = tmp_path_factory.mktemp("transfer")
    network = build_network(ConvNet, nn.ReLU, input_shape=SHAPE, num_classes=7, seed=9)
    saved(folder, network.state_dict())
    words = ["--model.weights", "w.pt", "--model.freeze", "stages.0.*", "--model.replicates", "2"]
    done = ended_in(folder, "fit", *CONVNET, *words)
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
