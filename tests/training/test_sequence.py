"""The sequence trains what plain torch trains, and seed for seed what the stack trains."""

import random

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from actbench.data import FakeImages
from actbench.networks import MLP, ConvNet, TutorialCNN, build_network
from actbench.seeding import stream_seed
from actbench.specs import OptimizerSpec
from actbench.training.classifier import Classifier
from actbench.training.engines import EngineError, SequenceEngine, Stack
from actbench.training.engines.draws import Draws, global_draws

SHAPE = (1, 8, 8)
SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}}


class Flat(nn.Module):
    """Base of the small networks below."""

    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        self.first, self.activation, self.last = nn.Linear(64, 16), activation(), nn.Linear(16, num_classes)

    def forward(self, images):
        return self.last(self.activation(self.first(images.flatten(1))))


class Branching(Flat):
    """It branches on values, which vmap refuses."""

    def forward(self, images):
        hidden = self.first(images.flatten(1))
        return self.last(self.activation(hidden) if hidden.mean() > 0 else hidden)


class Squash(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradient * s * (1 + x * (1 - s))


class OwnFunction(Flat):
    """Its activation is an autograd.Function that knows nothing of vmap."""

    def forward(self, images):
        return self.last(Squash.apply(self.activation(self.first(images.flatten(1)))))


class Checkpointed(Flat):
    """A reentrant checkpoint, which runs a part of the network again as gradients are computed."""

    def forward(self, images):
        inputs = images.flatten(1).requires_grad_()
        return self.last(checkpoint(lambda x: self.activation(self.first(x)), inputs, use_reentrant=True))


class Attending(nn.Module):
    """A layer of a transformer, with dropout, over the rows of an image."""

    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, activation=activation(), batch_first=True)
        self.last = nn.Linear(64, num_classes)

    def forward(self, images):
        return self.last(self.layer(images.squeeze(1)).flatten(1))


class Hooked(Flat):
    """The gradient of one parameter is doubled by a hook."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.first.weight.register_hook(lambda gradient: 2 * gradient)


class Counting(Flat):
    """It counts its calls in training, and scales by the count."""

    calls = 0

    def forward(self, images):
        self.calls += self.training
        return super().forward(images) * (1 + self.calls / 100)


class Drawing(Flat):
    """It draws from the global generators of torch, NumPy and Python."""

    def forward(self, images):
        draws = random.random() + np.random.rand() + torch.rand(()).item()  # noqa: NPY002
        return super().forward(images) * draws


SEEN = list[torch.Tensor]()  # integers that come to functions of torch beside tensors of the class below


class SeesLabels(torch.Tensor):
    """It notes what it sees of labels."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        SEEN.extend([each for each in args if type(each) is torch.Tensor and each.dtype == torch.int64])
        return super().__torch_function__(function, types, args, kwargs or {})


class OwnTensors(Flat):
    """Its activation returns a subclass of tensors."""

    def forward(self, images):
        return self.last(self.activation(self.first(images.flatten(1))).as_subclass(SeesLabels))


def networks(network, seeds, activation=nn.SiLU):
    return [build_network(network, activation, input_shape=SHAPE, num_classes=4, seed=seed) for seed in seeds]


def sequence(network, seeds=range(3)):
    return SequenceEngine(networks(network, seeds), seeds, input_shape=SHAPE)


def stack(network, seeds=range(3)):
    return Stack(networks(network, seeds), seeds, input_shape=SHAPE, width=None)


def batch(seeds, step, dtype=torch.float64):
    generators = [torch.Generator().manual_seed(100 * seed + step) for seed in seeds]
    images = torch.stack([torch.rand(8, *SHAPE, generator=g, dtype=dtype) for g in generators])
    return images, torch.stack([torch.randint(4, (8,), generator=g) for g in generators])


def train(engine, optimizer, steps, *, stopped=()):
    """Losses of each replicate and step."""
    losses = []
    running = [index for index in range(len(engine)) if index not in stopped]
    for step in steps:

        def closure(step=step):
            optimizer.zero_grad()
            loss = engine.losses(*batch(engine.seeds, step), replicates=running, key=(step,))
            engine.backward(loss[running].sum())
            losses.append(loss.detach())
            return loss.sum()

        with engine.unchanged(stopped):
            optimizer.step(closure)
    return torch.stack(losses, 1)


def train_alone(network, optimizer, seed, steps):
    """The same by a loop of plain torch."""
    losses = []
    for step in steps:
        images, labels = batch([seed], step)

        def closure(images=images, labels=labels, step=step):
            optimizer.zero_grad()
            torch.manual_seed(stream_seed(seed, "dropout", step))
            loss = cross_entropy(network(images[0]), labels[0])
            loss.backward()
            losses.append(loss.detach())
            return loss

        optimizer.step(closure)
    return torch.stack(losses)


def test_labels_and_scores_stay_with_functions_of_torch():
    SEEN.clear()
    engine, plain = sequence(OwnTensors).double(), sequence(Flat).double()

    losses = train(engine, engine.make_optimizer(OptimizerSpec(SGD)), range(3))
    logits = engine(batch(range(3), 3)[0])

    assert SEEN == []
    assert type(logits) is torch.Tensor
    assert torch.equal(losses, train(plain, plain.make_optimizer(OptimizerSpec(SGD)), range(3)))
    assert torch.equal(logits, plain(batch(range(3), 3)[0]))


@pytest.mark.parametrize("network", [Branching, OwnFunction, Hooked, Counting, Checkpointed])
def test_whatever_plain_torch_trains_is_trained_bit_for_bit(network):
    seeds = range(4, 7)
    engine = sequence(network, seeds).double()

    losses = train(engine, engine.make_optimizer(OptimizerSpec(SGD)), range(20))

    for index, (seed, alone) in enumerate(zip(seeds, networks(network, seeds), strict=True)):
        optimizer = torch.optim.SGD(alone.double().parameters(), foreach=True, **SGD["init_args"])
        expected = train_alone(alone, optimizer, seed, range(20))
        assert torch.equal(losses[index], expected)
        assert all(map(torch.equal, engine.replicate(index).parameters(), alone.parameters()))


def test_a_transformer_with_dropout_follows_its_seed():
    first, second = (train(e, e.make_optimizer(OptimizerSpec(SGD)), range(10)) for e in map(attending, ([0, 1], [1])))

    assert torch.equal(first[1], second[0])
    assert first[1].isfinite().all()


def attending(seeds):
    return sequence(Attending, seeds).double()


class Lars(torch.optim.SGD):
    """SGD with a rate for each tensor from the norms of its weights and gradient."""

    @torch.no_grad()
    def step(self, closure=None):
        if closure is not None:
            with torch.enable_grad():
                closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad.mul_(parameter.norm() / (parameter.grad.norm() + 1e-9))
        super().step()


class Coupled(torch.optim.SGD):
    """SGD whose rate follows from the norm over all parameters, as in Prodigy."""

    @torch.no_grad()
    def step(self, closure=None):
        if closure is not None:
            with torch.enable_grad():
                closure()
        parameters = self.param_groups[0]["params"]
        norm = torch.stack([parameter.grad.norm() for parameter in parameters]).norm()
        self.param_groups[0]["largest"] = max(self.param_groups[0].get("largest", 0.0), norm.item())
        for parameter in parameters:
            parameter.grad.div_(self.param_groups[0]["largest"])
        super().step()


@pytest.mark.parametrize("optimizer", ["torch.optim.Adafactor", "torch.optim.Adam", Lars, Coupled])
def test_optimizers_of_any_kind_train_each_replicate_as_if_alone(optimizer):
    spec = OptimizerSpec({"class_path": optimizer, "init_args": {"lr": 0.05}} if isinstance(optimizer, str) else {
        "class_path": f"{__name__}.{optimizer.__name__}", "init_args": {"lr": 0.05}})  # fmt: skip
    engine = sequence(Flat).double()

    losses = train(engine, engine.make_optimizer(spec), range(10))

    for index, alone in enumerate(networks(Flat, range(3))):
        expected = train_alone(alone, spec(alone.double().parameters()), index, range(10))
        assert torch.allclose(losses[index], expected, rtol=1e-12)


class Bare(nn.Module):
    """Two layers without biases, whose weights are matrices, as Muon needs them."""

    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 16, bias=False), activation(), nn.Linear(16, num_classes, bias=False)
        )

    def forward(self, images):
        return self.layers(images)


def test_muon_trains_each_replicate_as_if_alone():
    spec, engine = OptimizerSpec("Muon"), sequence(Bare).double()

    losses = train(engine, engine.make_optimizer(spec), range(6))

    for index, alone in enumerate(networks(Bare, range(3))):
        expected = train_alone(alone, spec(alone.double().parameters()), index, range(6))
        assert torch.allclose(losses[index], expected, rtol=1e-12)


def test_an_optimizer_that_computes_the_loss_itself_trains_one_replicate_alone():
    spec = OptimizerSpec({"class_path": "torch.optim.LBFGS", "init_args": {"max_iter": 4}})
    engine = sequence(Flat, [2]).double()

    losses = train(engine, engine.make_optimizer(spec), range(4))

    (alone,) = networks(Flat, [2])
    assert torch.equal(losses[0], train_alone(alone, spec(alone.double().parameters()), 2, range(4)))
    with pytest.raises(EngineError, match="LBFGS computes the loss several times in a step: set replicates to 1"):
        sequence(Flat).make_optimizer(spec)


def test_what_a_replicate_draws_follows_from_its_seed_alone():
    spec = OptimizerSpec(SGD)

    def outcome(seeds):
        random.seed(random.SystemRandom().random())
        np.random.seed(random.randrange(2**32))  # noqa: NPY002
        torch.manual_seed(random.randrange(2**32))
        # Python's generator is looked at in test_seeding.py, because checks of types draw from it, too.
        state = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
        engine = sequence(Drawing, seeds).double()
        losses = train(engine, engine.make_optimizer(spec), range(4))
        after = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
        assert torch.equal(state[0], after[0])
        assert state[1] == after[1]
        return dict(zip(seeds, losses, strict=True))

    first, second = outcome(range(4)), outcome([6, 2, 3])

    assert torch.equal(first[2], second[2])
    assert torch.equal(first[3], second[3])
    assert not torch.equal(first[2], first[3])


class Dropping(nn.Module):
    """Dropout of elements and of channels."""

    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.Dropout2d(0.3), activation(), nn.Flatten(), nn.Dropout(0.5),
            nn.Linear(256, 64), nn.AlphaDropout(0.2), activation(), nn.Linear(64, num_classes),
        )  # fmt: skip

    def forward(self, images):
        return self.layers(images)


@pytest.mark.parametrize("network", [TutorialCNN, MLP, ConvNet, Dropping, Flat])
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_both_engines_train_a_seed_to_the_same_losses(network, optimizer):
    engines = sequence(network).double(), stack(network).double()
    spec = OptimizerSpec(SGD if optimizer == "SGD" else "Adam")

    first, second = (train(engine, engine.make_optimizer(spec), range(20)) for engine in engines)

    assert torch.allclose(first, second, rtol=1e-9, atol=0)
    assert not torch.allclose(first[:, 0], first[:, -1])


class Noisy(nn.Module):
    """It draws from torch's functions, also for images and for tensors that are not contiguous."""

    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        self.body, self.activation = TutorialCNN(activation, input_shape, 64), activation()
        self.last = nn.Linear(64, num_classes)

    def forward(self, images):
        hidden = self.body(images + 0.1 * torch.randn_like(images))
        hidden = nn.functional.dropout(hidden.T, 0.2, self.training).T + 0.1 * torch.rand_like(hidden.T).T
        hidden = nn.functional.dropout1d(hidden, 0.2, self.training)
        return self.last(nn.functional.rrelu(hidden, training=self.training))


@pytest.mark.parametrize(
    ("network", "activation"),
    [
        (Noisy, nn.SiLU),
        (TutorialCNN, nn.RReLU),
        (TutorialCNN, lambda: nn.Sequential(nn.Tanh(), nn.Dropout(0.2))),
        (TutorialCNN, lambda: nn.Sequential(nn.Tanh(), nn.AlphaDropout(0.2))),
    ],
)
def test_both_engines_draw_the_same(network, activation):
    seeds = range(3)
    made = [networks(network, seeds, activation) for _ in range(2)]
    engines = (
        SequenceEngine(made[0], seeds, input_shape=SHAPE).double(),
        Stack(made[1], seeds, input_shape=SHAPE, width=None).double(),
    )

    first, second = (train(engine, engine.make_optimizer(OptimizerSpec(SGD)), range(5)) for engine in engines)

    assert torch.allclose(first, second, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("dropout", "shape"), [(nn.Dropout1d, (6, 5)), (nn.Dropout3d, (6, 2, 3, 4))])
def test_channels_of_an_input_without_a_batch_are_dropped_as_torch_drops_them(dropout, shape):
    with Draws(global_draws, torch.zeros(())):
        dropped = dropout(0.5)(torch.ones(shape)).flatten(1)

    assert ((dropped == 0).all(1) | (dropped == 2).all(1)).all()


def test_what_is_drawn_in_evaluation_does_not_follow_from_the_training_before():
    engine = sequence(Drawing).double()
    images = batch(range(3), 0)[0]
    before = engine(images)

    engine.losses(*batch(range(3), 1), key=(4, 2))

    assert torch.equal(engine(images), before)


def test_a_seed_that_counts_does_not_depend_on_its_place():
    losses = {seeds: train(e, e.make_optimizer(OptimizerSpec(SGD)), range(3))
              for seeds in ((4, 5), (5,)) for e in [sequence(Counting, list(seeds)).double()]}  # fmt: skip

    assert torch.equal(losses[4, 5][1], losses[5,][0])


class Averaged(torch.optim.SGD):
    """It keeps a mean of norms as a number of Python."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            state["mean"] = 0.9 * state.get("mean", 0.0) + 0.1 * parameter.grad.norm().item()
            parameter.sub_(0.01 * parameter.grad / (state["mean"] + 1e-3))
        return loss


def test_an_optimizers_numbers_of_python_are_resumed_for_each_replicate():
    spec = OptimizerSpec({"class_path": f"{__name__}.Averaged", "init_args": {"lr": 0.1}})
    first, second, whole = (sequence(Flat).double() for _ in range(3))
    optimizers = [engine.make_optimizer(spec) for engine in (first, second, whole)]
    train(first, optimizers[0], range(3))

    second.load_state_dict(first.state_dict())
    optimizers[1].load_state_dict(optimizers[0].state_dict())

    assert torch.equal(train(second, optimizers[1], range(3, 6)), train(whole, optimizers[2], range(6))[:, 3:])


class Alternating(Flat):
    """A layer has a gradient in some steps only."""

    def forward(self, images):
        hidden = images.flatten(1)[:, :16]
        return self.last(self.activation(self.first(images.flatten(1)) if hidden.mean() > 0.5 else hidden))


def test_a_layer_without_gradients_is_trained_with_momentum():
    engine = sequence(Alternating).double()

    losses = train(engine, engine.make_optimizer(OptimizerSpec(SGD)), range(12))

    for index, alone in enumerate(networks(Alternating, range(3))):
        optimizer = torch.optim.SGD(alone.double().parameters(), foreach=True, **SGD["init_args"])
        assert torch.equal(losses[index], train_alone(alone, optimizer, index, range(12)))


def test_the_form_of_the_optimizer_that_was_asked_for_is_used():
    spec = OptimizerSpec({"class_path": "torch.optim.Adam", "init_args": {"fused": False}})

    groups = stack(MLP).make_optimizer(spec).param_groups

    assert [group["fused"] for group in groups] == [False]


class RandomWidth(nn.Module):
    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        width = int(torch.randint(8, 64, ()))
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, width), activation(), nn.Linear(width, num_classes))

    def forward(self, images):
        return self.layers(images)


def test_a_shape_that_depends_on_the_seed_needs_one_replicate():
    with pytest.raises(EngineError, match="the shape of RandomWidth depends on the seed: set replicates to 1"):
        sequence(RandomWidth)
    assert len(sequence(RandomWidth, [1])) == 1


@pytest.mark.parametrize("name", ["SGD", "Adam", "NAdam", "Adadelta", "ASGD", "Rprop"])
@pytest.mark.parametrize("activation", [nn.SiLU, nn.PReLU])
@pytest.mark.parametrize("order", ["stack first", "sequence first"])
def test_a_run_goes_on_in_the_other_engine(order, activation, name):
    spec = OptimizerSpec(name)

    def engine(cls):
        made = [build_network(MLP, activation, input_shape=SHAPE, num_classes=4, seed=seed) for seed in range(3)]
        options = {"width": None} if cls is Stack else {}
        return cls(made, range(3), input_shape=SHAPE, **options).double()

    kinds = (Stack, SequenceEngine) if order == "stack first" else (SequenceEngine, Stack)
    first, second, whole = engine(kinds[0]), engine(kinds[1]), engine(kinds[1])
    optimizers = [each.make_optimizer(spec) for each in (first, second, whole)]
    train(first, optimizers[0], range(5), stopped=[1])

    second.load_state_dict(first.state_dict())
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    losses = train(second, optimizers[1], range(5, 10), stopped=[1])

    expected = train(whole, optimizers[2], range(10), stopped=[1])[:, 5:]
    assert torch.allclose(losses, expected, rtol=1e-9, equal_nan=True)
    assert losses.isnan().any(1).tolist() == [False, True, False]


def test_a_setting_of_the_optimizer_reaches_all_replicates():
    engine = sequence(Flat).double()
    optimizer = engine.make_optimizer(OptimizerSpec(SGD))
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.0)
    train(engine, optimizer, range(1))
    schedule.step()
    before = {name: value.clone() for name, value in engine.state_dict().items()}

    train(engine, optimizer, range(1, 3))

    assert all(torch.equal(value, before[name]) for name, value in engine.state_dict().items())


@pytest.mark.parametrize("replicates", [1, 2])
def test_what_changes_after_the_backward_pass_counts_in_that_step(replicates):
    engine = sequence(Flat, range(replicates)).double()
    optimizer = engine.make_optimizer(OptimizerSpec(SGD))
    train(engine, optimizer, range(1))
    before = [parameter.clone() for parameter in engine.parameters()]

    def closure():
        for parameter in engine.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.param_groups[0].update(lr=0.5, weight_decay=0.0)
        for kept in optimizer.state.values():
            kept["momentum_buffer"].zero_()

    optimizer.step(closure)

    assert len(optimizer.state) == len(before) > 0
    assert all(torch.allclose(new, old - 0.5) for new, old in zip(engine.parameters(), before, strict=True))


def test_a_group_of_parameters_that_is_added_is_trained():
    engine = sequence(Flat).double()
    optimizer = engine.make_optimizer(OptimizerSpec(SGD))
    for group in (optimizer, *optimizer.optimizers):
        for each in group.param_groups:
            each["params"] = each["params"][:0]
    frozen = [parameter.clone() for parameter in engine.parameters()]
    train(engine, optimizer, range(1))
    assert all(map(torch.equal, frozen, engine.parameters()))

    optimizer.add_param_group({"params": list(engine.parameters())})
    train(engine, optimizer, range(1, 2))

    assert not any(map(torch.equal, frozen, engine.parameters()))


@pytest.mark.parametrize("engine", ["stack", "sequence"])
def test_one_replicate_gives_logits_as_every_lightning_module(engine):
    model = Classifier(network="MLP", engine=engine, input_shape=SHAPE, num_classes=10)

    assert model(torch.rand(5, *SHAPE)).shape == (5, 10)
    assert model(torch.rand(1, 5, *SHAPE)).shape == (1, 5, 10)


def test_one_replicate_in_the_sequence_can_be_differentiated():
    model = Classifier(network="MLP", input_shape=SHAPE, num_classes=10)

    model(torch.rand(5, *SHAPE)).sum().backward()

    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("engines", [("stack", "sequence"), ("sequence", "stack")])
def test_a_checkpoint_resumes_in_the_other_engine(tmp_path, engines):
    def fit(engine, epochs, **options):
        model = Classifier(
            network="MLP", engine=engine, replicates=3, input_shape=SHAPE, num_classes=10,
            lr_scheduler={"class_path": "StepLR", "init_args": {"step_size": 2}},
        )  # fmt: skip
        trainer = Trainer(
            default_root_dir=tmp_path, accelerator="cpu", max_epochs=epochs, precision="64-true", logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(model, FakeImages(rows=200, replicates=3), **options)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return model.replicate_scores()

    expected = fit(engines[1], 6)
    fit(engines[0], 3)

    scores = fit(engines[1], 6, ckpt_path=tmp_path / "last.ckpt", weights_only=True)

    for name, values in scores.items():
        assert torch.allclose(values, expected[name], rtol=1e-9), name


def test_a_width_is_of_a_stack():
    with pytest.raises(ValueError, match="stack_width is of the stack"):
        Classifier(engine="sequence", stack_width=2, replicates=2, input_shape=SHAPE, num_classes=10)


class GradientInside(Flat):
    """It takes a gradient in its forward pass, as a network of energies does."""

    def forward(self, images):
        with torch.enable_grad():
            hidden = self.activation(self.first(images.flatten(1)))
            (slope,) = torch.autograd.grad(hidden.square().sum(), hidden, create_graph=True)
        return self.last(hidden + slope)


def test_a_network_that_takes_a_gradient_inside_is_trained(tmp_path):
    model = Classifier("swish", GradientInside, replicates=2, input_shape=SHAPE, num_classes=10)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )

    trainer.fit(model, FakeImages(200, replicates=2))

    assert model.engine.name == "sequence"
    assert model.replicate_scores()["val/loss"].isfinite().all()
