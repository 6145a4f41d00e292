"""Checkpoints of others: nothing in them runs, fills memory, or reaches out of the run; one line says why."""

import resource
import shutil
from io import BytesIO
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch
from hostile import FIT, doubled, guarded, nested, plant_decoy
from pytorch_lightning import Trainer
from torch import nn

from actbench.cli.main import main
from actbench.data import FakeImages
from actbench.training.checkpoints import CheckpointError
from actbench.training.classifier import Classifier


def holding_itself():
    value = []
    value.append(value)
    return value


def model(**changes):
    return lambda content: content["actbench"]["model"].update(changes)


HOSTILE = {
    "a list doubled sixty times": lambda content: content["actbench"]["trainer"].update(precision=doubled(60)),
    "a list doubled sixty times elsewhere": lambda content: content.update(loops=doubled(60)),
    "two hundred mappings": lambda content: content["actbench"].update(data=nested(200)),
    "a list that holds itself": lambda content: content["actbench"].update(scores=holding_itself()),
    "a thousand million replicates": model(replicates=10**9),
    "no replicate": model(replicates=0),
    "a network that fills memory": model(
        network={"class_path": "actbench.networks.MLP", "init_args": {"hidden": [24000, 24000]}}
    ),
    "ten thousand layers": model(network={"class_path": "actbench.networks.MLP", "init_args": {"hidden": [1] * 10**4}}),
    "an image that fills memory": model(input_shape=[3, 25000, 25000]),
    "an activation that fills memory": model(
        activation={"class_path": "torch.nn.PReLU", "init_args": {"num_parameters": 10**9}}
    ),
    "no weights": lambda content: content.update(state_dict={}),
    "weights that are text": lambda content: content.update(state_dict={"engine.network.layers.1.weight": "x"}),
    "weights of another shape": lambda content: content["state_dict"].update(
        {"engine.network.layers.1.weight": torch.zeros(1, 3)}
    ),
    "a class that is not there": model(network={"class_path": "torch.nn.Nope"}),
    "an argument that is not there": model(network={"class_path": "actbench.networks.MLP", "init_args": {"depth": 3}}),
    "classes below none": model(num_classes=-1),
    "weights of one value": lambda content: content["state_dict"].update(
        {name: torch.zeros(1).expand(value.shape) for name, value in content["state_dict"].items()}
    ),
    "sparse weights": lambda content: content["state_dict"].update(
        {name: value.to_sparse() for name, value in content["state_dict"].items()}
    ),
    "an activation on a device of its own": model(
        activation={"class_path": "torch.nn.PReLU", "init_args": {"num_parameters": 5 * 10**8, "device": "cpu"}}
    ),
    "more replicates than anybody trains": model(replicates=10**12),
    "an optimiser's state of one value": lambda content: content["optimizer_states"][0]["state"][0].update(
        exp_avg=torch.zeros(1).expand(10**12)
    ),
}


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=[pytest.mark.slow] if what.endswith("elsewhere") else []) for what in HOSTILE]
)
def test_a_checkpoint_that_would_take_all_memory_or_time_is_refused_in_a_line(
    honest_checkpoint, tmp_path, capsys, what
):
    content = torch.load(honest_checkpoint, weights_only=True)
    HOSTILE[what](content)
    path = tmp_path / "hostile.ckpt"
    torch.save(content, path)
    before = resource.getrusage(resource.RUSAGE_SELF)

    with pytest.raises(CheckpointError) as refused:
        Classifier.load_from_checkpoint(str(path))
    assert main(["test", "--ckpt_path", str(path)]) == 2

    after = resource.getrusage(resource.RUSAGE_SELF)
    assert len(str(refused.value).splitlines()) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert after.ru_utime - before.ru_utime < 10  # both
    assert after.ru_maxrss - before.ru_maxrss < 2**20  # KiB


@pytest.mark.parametrize("engine", ["stack", "sequence"])
def test_an_optimizers_state_that_does_not_fit_the_weights_is_refused(tmp_path, engine):
    def fit(epochs, **options):
        classifier = Classifier(network="MLP", engine=engine, replicates=2, input_shape=(1, 8, 8), num_classes=10)
        trainer = Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(classifier, FakeImages(rows=100, replicates=2), **options)
        return trainer

    path = tmp_path / "last.ckpt"
    fit(1).save_checkpoint(path)
    content = torch.load(path, weights_only=True)
    for state in content["optimizer_states"][0]["state"].values():
        state["exp_avg"] = torch.zeros(2, 1)
    torch.save(content, path)

    with pytest.raises(CheckpointError, match="optimizer's state does not fit its weights"):
        fit(2, ckpt_path=path, weights_only=True)


@pytest.mark.parametrize("rows", [3 * 10**8, 10**12, 10**30])
def test_a_checkpoint_whose_data_would_fill_memory_is_refused_in_a_line(honest_checkpoint, tmp_path, capsys, rows):
    content = torch.load(honest_checkpoint, weights_only=True)
    content["actbench"]["data"]["init_args"].update(rows=rows)
    torch.save(content, tmp_path / "hostile.ckpt")

    with guarded(tmp_path):
        assert main(["test", "--ckpt_path", str(tmp_path / "hostile.ckpt")]) == 2

    assert len(capsys.readouterr().err.splitlines()) == 1


def number(value):
    """A whole number as pickle writes it."""
    content = value.to_bytes(value.bit_length() // 8 + 1, "little")
    return b"\x8a" + bytes([len(content)]) + content


TEXT = b"X" + (10**6).to_bytes(4, "little") + b"a" * 10**6 + b"q\x01"
PICKLES = {
    "a bytearray of two gigabytes": b"cbuiltins\nbytearray\nJ" + (2 * 10**9).to_bytes(4, "little") + b"\x85R",
    "bytes made of one text": b"]("
    + TEXT
    + b"X\x05\x00\x00\x00utf-8q\x02"
    + b"c_codecs\nencode\nh\x01h\x02\x86R" * 2500
    + b"e",
    "keys that collide": b"}(" + b"".join(number(n * (2**61 - 1)) + b"N" for n in range(1, 80_000)) + b"u",
    "millions of values": b"](" + b"N" * 6_000_000 + b"e",
    "nothing": b"",
}


@pytest.mark.parametrize("what", PICKLES)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_grows_is_refused_in_a_line(honest_checkpoint, tmp_path, capsys, what, zipped):
    path, content = tmp_path / "hostile.ckpt", b"\x80\x02" + PICKLES[what] + b"."
    path.write_bytes(content)
    if zipped:
        with ZipFile(honest_checkpoint) as whole, ZipFile(path, "w") as other:
            for entry in whole.infolist():
                other.writestr(entry.filename, content if entry.filename.endswith("data.pkl") else whole.read(entry))

    with guarded(tmp_path):
        assert main(["test", "--ckpt_path", str(path)]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert "hostile.ckpt is damaged or not a checkpoint" in line


@pytest.mark.parametrize("value", [-(10**9), 10**30])
def test_a_run_that_is_nowhere_is_not_resumed(run_folder, tmp_path, monkeypatch, capsys, value):
    monkeypatch.chdir(tmp_path)
    content = torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)
    content["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"] = value
    torch.save(content, tmp_path / "hostile.ckpt")

    with guarded(tmp_path):
        assert main(["fit", "--ckpt_path", "hostile.ckpt", "--trainer.max_epochs", "3"]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert "its entries are not what pytorch-lightning writes" in line


def test_a_run_is_not_resumed_through_a_link(run_folder, tmp_path, capsys):
    shutil.copytree(run_folder, tmp_path / "theirs")
    (tmp_path / "theirs" / "checkpoints").rename(tmp_path / "outside")
    (tmp_path / "theirs" / "checkpoints").symlink_to(tmp_path / "outside")
    before = {path.name: path.read_bytes() for path in (tmp_path / "outside").iterdir()}
    path = tmp_path / "theirs" / "checkpoints" / "last.ckpt"

    assert (
        main(
            ["fit", "--config", str(run_folder / "config.yaml"), "--ckpt_path", str(path), "--trainer.max_epochs", "2"]
        )
        == 2
    )

    assert "checkpoints is a link, through which nothing is written" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "outside").iterdir()} == before


@pytest.mark.filterwarnings("ignore:Checkpoint directory:UserWarning")
def test_nothing_outside_is_deleted_for_a_path_in_a_callbacks_state(run_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor", "val/loss"]
    assert main(["fit", *FIT, "--trainer.max_epochs", "1", *options]) == 0
    (tmp_path / "lightning_logs" / "version_0").rename(tmp_path / "theirs")
    (tmp_path / "victim").mkdir()
    path = tmp_path / "theirs" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    (key,) = (key for key in content["callbacks"] if "'val/loss'" in key)
    victim, worst = "CHECKPOINTS/../../victim", torch.tensor(1e9)
    state = {"best_k_models": {victim: worst}, "kth_best_model_path": victim, "kth_value": worst}
    content["callbacks"][key].update(state, best_model_path=victim, best_model_score=worst, last_model_path=victim)
    torch.save(content, path)
    capsys.readouterr()

    assert main(["fit", "--ckpt_path", str(path), "--trainer.max_epochs", "3", *options]) == 2

    assert "its callbacks have the path 'CHECKPOINTS/../../victim'" in capsys.readouterr().err
    assert (tmp_path / "victim").exists()


@pytest.mark.parametrize("name", ["hparams.yaml", "metrics.csv", "checkpoints/last.ckpt"])
def test_no_file_is_written_through_a_link_in_a_run(run_folder, tmp_path, capsys, name):
    shutil.copytree(run_folder, tmp_path / "theirs")
    checkpoint = shutil.copy(
        run_folder / "checkpoints" / "last.ckpt", tmp_path / "theirs" / "checkpoints" / "other.ckpt"
    )
    (tmp_path / "theirs" / name).unlink()
    (tmp_path / "theirs" / name).symlink_to(tmp_path / "outside.yaml")

    assert main(["fit", "--ckpt_path", str(checkpoint), "--trainer.max_epochs", "2"]) == 2

    assert f"{name} is a link, through which nothing is written" in capsys.readouterr().err
    assert not (tmp_path / "outside.yaml").exists()


def twice(content):
    """An archive with a second one behind it, whose directory Python finds, and torch does not."""
    buffer = BytesIO()
    with ZipFile(buffer, "w") as other:
        other.writestr("archive/data.pkl", b"\x80\x02N.")
    end = content.rfind(b"PK\x05\x06")
    second, last = buffer.getvalue(), buffer.getvalue().rfind(b"PK\x05\x06")
    return content[:end] + second[:last] + content[end : end + 12] + second[last + 12 : last + 16] + content[end + 16 :]


@pytest.mark.parametrize("what", ["capitals", "two directories", "older format"])
def test_an_archive_that_torch_may_read_otherwise_is_refused(honest_checkpoint, tmp_path, capsys, what):
    path, pickled = tmp_path / "hostile.ckpt", b"\x80\x02" + PICKLES["a bytearray of two gigabytes"] + b"."
    if what == "older format":
        torch.save(torch.load(honest_checkpoint, weights_only=True), path, _use_new_zipfile_serialization=False)
    else:
        with ZipFile(honest_checkpoint) as whole, ZipFile(path, "w") as other:
            for entry in whole.infolist():
                name = entry.filename.replace("data.pkl", "DATA.PKL") if what == "capitals" else entry.filename
                other.writestr(name, pickled if name.lower().endswith("data.pkl") else whole.read(entry))
    if what == "two directories":
        path.write_bytes(twice(path.read_bytes()))

    with guarded(tmp_path):
        assert main(["test", "--ckpt_path", str(path)]) == 2

    assert len(capsys.readouterr().err.splitlines()) == 1


STATES = {
    "a step beyond all": lambda content: content.update(global_step=2**63),
    "weights that are not the network's": lambda content: content["state_dict"].update(foo=torch.zeros(2)),
    "a weight without a name": lambda content: content["state_dict"].update({1: torch.zeros(2)}),
    "epochs without end": lambda content: next(
        state for state in content["callbacks"].values() if "epochs" in state
    ).update(epochs=[{"epoch": 0}] * 500_001),
}


@pytest.mark.parametrize("what", STATES)
def test_a_run_that_no_fit_leaves_is_not_resumed(run_folder, tmp_path, monkeypatch, capsys, what):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run_folder, tmp_path / "theirs")
    path = tmp_path / "theirs" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["state_dict"] = dict(content["state_dict"])
    STATES[what](content)
    torch.save(content, path)

    with guarded(tmp_path):
        assert main(["fit", "--ckpt_path", str(path), "--trainer.max_epochs", "2"]) == 2

    assert len([line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]) == 1


@pytest.mark.parametrize("kind", [torch.float16, torch.float64, torch.bfloat16])
def test_kept_weights_of_another_precision_are_taken(run_folder, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    content = torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)
    for state in content["callbacks"].values():
        if "weights" in state:
            state["weights"] = {name: value.to(kind) for name, value in state["weights"].items()}
    torch.save(content, tmp_path / "last.ckpt")

    assert main(["fit", "--ckpt_path", "last.ckpt", "--trainer.max_epochs", "2", "--trainer.logger", "false"]) == 0


def test_a_folder_in_the_place_of_a_file_is_told_in_a_line(run_folder, tmp_path, capsys):
    words = [
        "predict",
        "--ckpt_path",
        str(run_folder / "checkpoints" / "last.ckpt"),
        "--output",
        str(tmp_path / "x.csv"),
    ]
    (tmp_path / "x.csv").mkdir()

    assert main(words) == 2

    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_archive_that_is_larger_inside_is_refused(honest_checkpoint, tmp_path):
    path = tmp_path / "packed.ckpt"
    with ZipFile(honest_checkpoint) as whole, ZipFile(path, "w", ZIP_DEFLATED) as packed:
        for entry in whole.infolist():
            packed.writestr(entry.filename, whole.read(entry))

    with pytest.raises(CheckpointError, match=r"its entry \S+ is packed"):
        Classifier.load_from_checkpoint(str(path))


def test_an_honest_checkpoint_is_taken(honest_checkpoint):
    assert Classifier.load_from_checkpoint(str(honest_checkpoint)).seeds == range(1)


class Ramp(nn.Sequential):
    """Computes with values while it is built, as networks with stochastic depth do."""

    def __init__(self, activation, input_shape, num_classes):
        widths = [int(width.item()) for width in torch.linspace(8, 4, 2)]
        super().__init__(nn.Flatten(), nn.Linear(64, widths[0]), activation(), nn.Linear(widths[0], num_classes))


def test_a_network_that_computes_while_it_is_built_is_taken(tmp_path):
    path = tmp_path / "last.ckpt"
    options = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = Trainer(max_epochs=1, accelerator="cpu", **options)
    trainer.fit(Classifier("relu", Ramp, input_shape=(1, 8, 8), num_classes=10), FakeImages(rows=200))
    trainer.save_checkpoint(path)

    assert Classifier.load_from_checkpoint(str(path), trust=["test_hostile_checkpoints"]).num_classes == 10


BOOM = {"class_path": "hostile_decoy.Boom"}


def data(class_path):
    return lambda content: content["actbench"].update(data={"class_path": class_path, "init_args": {}})


LAMBDA = "torch.optim.lr_scheduler.LambdaLR"
DECOYS = {
    "the activation": model(activation=BOOM),
    "the network": model(network=BOOM),
    "an argument": model(network={"class_path": "actbench.networks.MLP", "init_args": {"hidden": BOOM}}),
    "the data": data("hostile_decoy.Boom"),
    "an argument of the data": lambda content: content["actbench"]["data"]["init_args"].update(seed=BOOM),
    "the Trainer": lambda content: content["actbench"]["trainer"].update(precision=BOOM),
    "a function": data("actbench.data.Digits.from_datasets"),
    "a class of another kind": data("torch.nn.ReLU"),
    "a function of a schedule": model(
        lr_scheduler={"class_path": LAMBDA, "init_args": {"lr_lambda": "hostile_decoy.f"}}
    ),
    "a function in a list": model(
        lr_scheduler={
            "class_path": "torch.optim.lr_scheduler.LambdaLR",
            "init_args": {"lr_lambda": ["hostile_decoy.f"]},
        }
    ),
    "a class in JSON": model(
        network={
            "class_path": "torchvision.ops.MLP",
            "init_args": {"norm_layer": '{"class_path": "hostile_decoy.Boom"}'},
        }
    ),
    "a text for a number": model(optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": "hostile_decoy.f"}}),
    "a download": model(optimizer={"class_path": "torchvision.datasets.utils.download_url"}),
}


@pytest.mark.parametrize("what", DECOYS)
def test_what_is_not_trusted_or_of_another_kind_is_not_imported(honest_checkpoint, tmp_path, monkeypatch, capsys, what):
    monkeypatch.chdir(tmp_path)
    content = torch.load(honest_checkpoint, weights_only=True)
    DECOYS[what](content)
    torch.save(content, tmp_path / "hostile.ckpt")
    plant_decoy(tmp_path)

    with guarded(tmp_path):
        assert main(["test", "--ckpt_path", "hostile.ckpt"]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert "--trust torch" not in line


@pytest.mark.parametrize(("command", "part"), [("validate", "val"), ("test", "test"), ("predict", "predict")])
def test_a_limit_that_leaves_nothing_is_refused(run_folder, capsys, command, part):
    words = [
        command,
        "--ckpt_path",
        str(run_folder / "checkpoints" / "last.ckpt"),
        f"--trainer.limit_{part}_batches",
        "0",
    ]

    assert main(words) == 2

    message = f"error: --trainer.limit_{part}_batches is 0, which leaves nothing to {command}\n"
    assert capsys.readouterr().err == message


def test_a_checkpoint_says_neither_where_data_are_nor_that_they_are_downloaded(
    honest_checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    content = torch.load(honest_checkpoint, weights_only=True)
    arguments = {"root": "../elsewhere", "download": True}
    content["actbench"]["data"] = {"class_path": "actbench.data.MNIST", "init_args": arguments}
    torch.save(content, tmp_path / "hostile.ckpt")

    with guarded(tmp_path):
        assert main(["test", "--ckpt_path", "hostile.ckpt"]) == 2

    assert (
        capsys.readouterr().err
        == "error: hostile.ckpt holds no paths of the machine it was made on: give --data.root\n"
    )
