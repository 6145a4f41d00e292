"""Recorded steps that are compiled, or repeated as one graph at fixed addresses."""

import pytest
import torch
import torch._inductor.config as inductor
import yaml
from pytorch_lightning import Trainer
from small_studies import Lines, study
from torch import nn

from actbench.data import FakeImages
from actbench.networks import MLP, build_network
from actbench.studies import compare
from actbench.training.classifier import Classifier
from actbench.training.engines import EngineError, Stack, choice
from actbench.training.engines.stack.compiling import CapturedStep, missing_compiler

needs_compiler = pytest.mark.skipif(missing_compiler() is not None, reason="no C++ compiler")
SHAPE = (1, 4, 4)


class Mixed(nn.Module):
    """Has buffers that a step changes, random draws, and an activation in two places."""

    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16, 16),
            nn.BatchNorm1d(16),
            activation(),
            nn.Dropout(0.2),
            nn.Linear(16, 16),
            activation(),
            nn.Linear(16, num_classes),
        )

    def forward(self, x):
        return self.layers(x)


def stack(network=Mixed, activation=nn.SiLU, replicates=3, width=None):
    seeds = range(replicates)
    built = [build_network(network, activation, input_shape=SHAPE, num_classes=4, seed=seed) for seed in seeds]
    return Stack(built, seeds, input_shape=SHAPE, width=width)


def train(engine, steps=6):
    """Losses of some steps; the first starts from the given weights."""
    optimizer = torch.optim.SGD(engine.parameters(), lr=0.1)
    losses = []
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        images = torch.rand(len(engine), 8, *SHAPE, generator=generator)
        labels = torch.randint(4, (len(engine), 8), generator=generator)
        optimizer.zero_grad()
        loss = engine.losses(images, labels, key=(0, step))
        loss.sum().backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


# --- graphs at fixed addresses, with a capture that a CPU can do ---


def repeated(step):
    """Repeats a step by running it again, and writes its results where they first were."""
    step()
    holder = step.__closure__[[*step.__code__.co_freevars].index("self")].cell_contents
    first = holder.results

    def repeat():
        step()
        for old, new in zip(first, holder.results, strict=True):
            old.copy_(new)
        holder.results = first

    return repeat


def test_a_captured_step_leaves_what_it_is_given_and_keeps_what_it_has_given():
    def step(weight, count, images):
        count.add_(1)
        return [(weight * images).sum(1), weight * count]

    given = [torch.rand(3), torch.zeros(()), torch.rand(2, 3)]
    captured = CapturedStep(step, given, [1], repeated)
    first_images, second_images = torch.rand(2, 3), torch.rand(2, 3)
    weight, count = torch.rand(3), torch.tensor(4.0)

    first = captured(weight, count, first_images)
    kept = [value.clone() for value in first]
    second = captured(weight, count, second_images)

    assert count == 6
    torch.testing.assert_close(first, [(weight * first_images).sum(1), weight * 5], rtol=0, atol=0)
    torch.testing.assert_close(second, [(weight * second_images).sum(1), weight * 6], rtol=0, atol=0)
    torch.testing.assert_close(first, kept, rtol=0, atol=0)
    assert given[1] == 0


# --- Inductor ---


@needs_compiler
def test_compiled_steps_train_as_steps_that_are_not():
    plain, compiled = stack(), stack()
    compiled.compile_steps()

    expected, losses = train(plain), train(compiled)

    assert compiled.remark() == "recorded steps were compiled"
    assert len(compiled.replay.recordings) == 1
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(compiled.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-4)


@needs_compiler
def test_every_usual_step_is_compiled_so_that_a_later_start_gives_the_same():
    whole, rest = stack(), stack()
    for engine in (whole, rest):
        engine.compile_steps()

    train(whole, 3)
    rest.load_state_dict(whole.state_dict())

    torch.testing.assert_close(train(rest), train(whole), rtol=0, atol=0)


@needs_compiler
def test_a_step_with_other_values_of_python_is_not_compiled():
    engine, plain = stack(activation=lambda: nn.LeakyReLU(0.1)), stack(activation=lambda: nn.LeakyReLU(0.3))
    engine.compile_steps()
    for module in engine.modules():
        if isinstance(module, nn.LeakyReLU):
            module.negative_slope = 0.3

    losses = train(engine)

    assert not engine.replay.recordings
    torch.testing.assert_close(losses, train(plain), rtol=0, atol=0)


@needs_compiler
def test_a_chunk_of_the_rest_is_not_compiled():
    engine = stack(replicates=3, width=2)
    engine.compile_steps()

    losses = train(engine, 2)

    assert len(engine.replay.recordings) == 1
    torch.testing.assert_close(losses[:, 2:], train(stack(replicates=3, width=2), 2)[:, 2:], rtol=0, atol=0)


def test_a_machine_without_a_compiler_says_so_before_the_first_step():
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}):
        with pytest.raises(EngineError, match=r"model\.compile is true, but no C\+\+ compiler was found"):
            stack().compile_steps()
        assert pays(stack()) is None


# --- whether it pays ---


def pays(engine, steps=10**9):
    return choice.compiling_pays(
        engine, replicates=3, batch=8, steps=steps, device=torch.device("cpu"), dtype=torch.float32
    )


def test_a_short_training_is_not_weighed(monkeypatch):
    monkeypatch.setattr(Stack, "step_time", None)

    assert pays(stack(), steps=1000) is None


@needs_compiler
@pytest.mark.parametrize(
    ("steps", "replayed", "compiled", "cost", "expected"),
    [
        (100_000, 0.010, 0.008, 60, "compiled steps take 80% of the time of replayed ones"),
        (80_000, 0.010, 0.008, 60, None),  # saves 160 s, and three times the cost are 180
        (20_000, 0.010, 0.001, 1, None),  # 200 s of steps are too few to look
        (10**9, 0.010, 0.011, 1, None),
        (float("nan"), 0.010, 0.008, 1, None),  # a number of steps that is not known
    ],
)
def test_compiling_has_to_pay_three_times(monkeypatch, steps, replayed, compiled, cost, expected):
    def step_time(engine, replay, images, labels):
        first = not replay.recordings
        replay.recordings[0] = None
        return (cost if first else compiled) if replay.compiles else replayed

    monkeypatch.setattr(Stack, "step_time", step_time)

    assert pays(stack(), steps) == expected


@needs_compiler
def test_a_trial_changes_nothing(monkeypatch):
    monkeypatch.setattr(choice, "LONG", 0)
    engine = stack()
    before = {name: value.clone() for name, value in engine.state_dict().items()}

    pays(engine)

    torch.testing.assert_close(engine.state_dict(), before, rtol=0, atol=0)
    assert not engine.replay.recordings


# --- fits and studies ---


def fit(folder, **settings):
    model = Classifier("swish", MLP, replicates=2, input_shape=SHAPE, num_classes=4, **settings)
    data = FakeImages(64, 1, 4, 4, 4, batch_size=16, replicates=2)
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False, default_root_dir=folder,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, data)
    return model


def test_a_short_fit_is_not_compiled(tmp_path):
    model = fit(tmp_path)

    assert model.describe()["compile"] is False
    assert "compile" not in model.engine.remark()


def test_only_a_stack_is_compiled(tmp_path):
    with pytest.raises(EngineError, match="only a stack's steps can be compiled, and the engine is sequence"):
        fit(tmp_path, engine="sequence", compile=True)


@needs_compiler
@pytest.mark.slow
def test_a_study_compiles_only_if_it_says_so_and_then_all_arms(tmp_path, monkeypatch):
    monkeypatch.setattr("actbench.training.device.reason_to_compile", lambda *arguments: "it pays")
    plain, config = study(tmp_path / "plain"), study(tmp_path / "compiled")
    config["model"]["compile"] = True

    assert compare(plain, progress=Lines()).table["engine"].unique().to_list() == ["stack"]
    for path in tmp_path.glob("plain/s/arms/*.yaml"):
        assert yaml.safe_load(path.read_text())["model"]["compile"] is False

    table = compare(config, progress=Lines()).table
    assert table["engine"].unique().to_list() == ["compiled stack"]
    assert table["engine_reason"].str.contains("recorded steps were compiled").all()
    for path in tmp_path.glob("compiled/s/arms/*.yaml"):
        assert yaml.safe_load(path.read_text())["model"]["compile"] is True

    del config["model"]["compile"]
    config["study"]["activations"] = ["relu", "swish", "tanh"]
    grown = compare(config, progress=Lines()).table
    assert grown["engine"].unique().to_list() == ["compiled stack"]
