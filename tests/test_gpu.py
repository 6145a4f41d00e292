"""What holds on a GPU. Skipped without one: ``pytest -m gpu``."""

import csv
import json
import os

import polars as pl
import pytest
import torch
from pytorch_lightning import Trainer
from small_studies import Lines, study

from actbench.cli import main
from actbench.data import FakeImages
from actbench.networks import MLP, ConvNet, ResNet20, TutorialCNN, build_network
from actbench.specs import OptimizerSpec
from actbench.studies import compare
from actbench.training.classifier import Classifier
from actbench.training.engines import SequenceEngine, Stack
from actbench.training.engines.stack import replay
from actbench.training.engines.stack.chunk import Chunk
from actbench.training.engines.stack.compiling import CapturedStep

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
SHAPE = (3, 16, 16)
NETWORKS = [TutorialCNN, MLP, ConvNet, ResNet20]


def engines(network, seeds, width=None):
    def made():
        return [build_network(network, torch.nn.SiLU, input_shape=SHAPE, num_classes=10, seed=seed) for seed in seeds]

    stack = Stack(made(), seeds, input_shape=SHAPE, width=width)
    return stack.cuda(), SequenceEngine(made(), seeds, input_shape=SHAPE).cuda()


def train(engine, steps, dtype=torch.float32):
    optimizer, losses = engine.make_optimizer(OptimizerSpec("SGD")), []
    for step in range(steps):
        generators = [torch.Generator().manual_seed(100 * seed + step) for seed in engine.seeds]
        images = torch.stack([torch.rand(16, *SHAPE, generator=g, dtype=dtype) for g in generators]).cuda()
        labels = torch.stack([torch.randint(10, (16,), generator=g) for g in generators]).cuda()
        optimizer.zero_grad()
        loss = engine.losses(images, labels, key=(step,))
        engine.backward(loss.sum())
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses, 1).cpu()


def test_the_promised_command_trains_on_the_gpu(actbench, tmp_path):
    result = actbench("fit", "--trainer.accelerator", "gpu", "--trainer.devices", 1, "--trainer.max_epochs", 2)

    assert result.returncode == 0, result.stderr
    with (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").open() as file:
        assert float(list(csv.DictReader(file))[-1]["val/acc"]) > 0.2


@pytest.mark.parametrize("network", NETWORKS)
def test_both_engines_train_a_seed_to_the_same_losses(network):
    stack, sequence = engines(network, range(3))

    first, second = train(stack.double(), 20, torch.float64), train(sequence.double(), 20, torch.float64)

    assert torch.allclose(first, second, rtol=1e-9)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_stack_of_one_width_gives_a_seed_the_same_in_any_company(network):
    torch.use_deterministic_algorithms(True)
    try:
        first = train(engines(network, range(4), width=4)[0], 10)
        second = train(engines(network, [5, 3, 9, 1], width=4)[0], 10)
    finally:
        torch.use_deterministic_algorithms(False)

    assert torch.equal(first[3], second[1])
    assert torch.equal(first[1], second[3])


@pytest.mark.parametrize("network", NETWORKS)
def test_a_step_that_is_repeated_as_a_graph_is_what_would_run(monkeypatch, network):
    torch.use_deterministic_algorithms(True)
    try:
        monkeypatch.setattr(replay, "CALLS", 10**9)
        expected = train(engines(network, range(4))[0], 20)
        monkeypatch.setattr(replay, "CALLS", 4)
        engine = engines(network, range(4))[0]
        losses = train(engine, 20)
    finally:
        torch.use_deterministic_algorithms(False)

    assert torch.equal(losses, expected)
    assert engine.replay.slow is None
    assert all(isinstance(recording.run, CapturedStep) for recording in engine.replay.recordings.values())


def test_compiled_steps_train_as_others():
    plain, compiled = engines(MLP, range(4))[0], engines(MLP, range(4))[0]
    compiled.compile_steps()

    torch.testing.assert_close(train(compiled, 10), train(plain, 10), rtol=1e-3, atol=1e-4)
    assert compiled.replay.slow is None


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    def fit(epochs, **options):
        model = Classifier(network="MLP", replicates=4, input_shape=(1, 8, 8), num_classes=10)
        trainer = Trainer(
            accelerator="gpu", devices=1, max_epochs=epochs, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, default_root_dir=tmp_path, deterministic=True,
        )  # fmt: skip
        trainer.fit(model, FakeImages(rows=300, replicates=4), **options)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return model.replicate_scores()

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    expected = fit(4)
    fit(2)
    scores = fit(4, ckpt_path=tmp_path / "last.ckpt", weights_only=True)

    assert all(torch.equal(values, expected[name]) for name, values in scores.items())


@pytest.mark.parametrize("engine", ["stack", "sequence"])
def test_measuring_the_mechanism_changes_nothing_and_sees_what_a_cpu_sees(tmp_path, engine):
    def fit(accelerator, *, mechanism=True):
        model = Classifier(
            network="MLP", replicates=2, engine=engine, mechanism=mechanism, input_shape=(1, 8, 8), num_classes=10
        )
        trainer = Trainer(
            accelerator=accelerator, devices=1, max_epochs=2, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, default_root_dir=tmp_path, deterministic=True,
        )  # fmt: skip
        trainer.fit(model, FakeImages(rows=300, replicates=2))
        return model

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    plain, measured, there = fit("gpu", mechanism=False), fit("gpu"), fit("cpu")

    torch.testing.assert_close(measured.replicate_scores(), plain.replicate_scores(), rtol=0, atol=0)
    first, expected = (model.mechanism.snapshots[0].statistics.cpu() for model in (measured, there))
    torch.testing.assert_close(first, expected, rtol=1e-3, atol=1e-3)


def test_a_study_runs_on_the_gpu_and_its_records_name_it(tmp_path):
    config = study(tmp_path)
    config["trainer"] |= {"accelerator": "gpu", "devices": 1}

    table = compare(config, progress=Lines()).table

    assert table["device"].unique().to_list() == [torch.cuda.get_device_name()]
    assert table["engine"].unique().to_list() == ["stack"]
    assert table["peak_memory_mb"].min() > 0


def test_cells_of_two_workers_share_the_gpu(tmp_path):
    config = study(tmp_path, workers=2, activations=["relu", "swish", "tanh"])
    config["trainer"] |= {"accelerator": "gpu", "devices": 1}

    assert len(compare(config, progress=Lines()).table) == 9


def test_out_of_memory_halves_the_width_and_changes_no_result(monkeypatch):
    expected = train(engines(MLP, range(8))[0], 3)
    original = Chunk._logits

    def hungry(chunk, *args):
        if chunk.size > 2:
            torch.empty(2**45, device="cuda")  # 32 TiB
        return original(chunk, *args)

    monkeypatch.setattr(Chunk, "_logits", hungry)
    engine = engines(MLP, range(8))[0]

    assert torch.allclose(train(engine, 3), expected, rtol=1e-4)
    assert engine.limit == 2


def test_a_checkpoint_made_on_the_gpu_is_scored_on_the_cpu(actbench, tmp_path):
    options = ["--data", "FakeImages", "--model.network", "MLP", "--trainer.max_epochs", 2, "--model.replicates", 3]
    assert actbench("fit", *options, "--trainer.accelerator", "gpu", "--trainer.devices", 1).returncode == 0
    path = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"

    scored = actbench("validate", "--ckpt_path", path, "--trainer.accelerator", "cpu")

    assert scored.returncode == 0, scored.stderr
    last = pl.read_csv(path.parents[1] / "metrics.csv").filter(pl.col("epoch") == 1)["val/acc"]
    assert f"{last.mean():.4f}"[:5] in scored.stdout


def test_the_card_of_an_activation_is_measured_on_the_gpu(capsys):
    words = "cost --activations silu --device cuda --format json --seconds 0.05"

    assert main(words.split()) == 0

    content = json.loads(capsys.readouterr().out)
    (card,) = content["activations"]
    assert card["problem"] is None
    assert content["machine"]["elements"] == 2**25
    assert 1 < card["float32_eager_copies"] < 100
