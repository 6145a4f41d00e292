"""A stack of replicates, against each of them alone and in other company."""

import math

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from scipy import stats
from stacks import OPTIMIZERS, batches, networks, stack, train, train_alone
from torch import nn
from torch.nn import functional as F

from actbench.activations import PadeUnit
from actbench.data import Digits
from actbench.networks import MLP, ConvNet, ResNet20, TutorialCNN
from actbench.seeding import stream
from actbench.specs import OptimizerSpec
from actbench.training.classifier import Classifier
from actbench.training.engines import EngineError, Stack
from actbench.training.engines.stack.chunk import Chunk

ACTIVATIONS = (nn.SiLU, nn.Tanh, PadeUnit)
FAST = {"class_path": "torch.optim.Adam", "init_args": {"lr": 2e-3}}
pytestmark = pytest.mark.usefixtures("early_replay")


# --- stack against solo ---


def slow_if_deep(network, activation):
    """Marks of a test: convolutions with BatchNorm take seconds with each activation, and the suite trains with one."""
    return [pytest.mark.slow] if network in (ConvNet, ResNet20) and activation is not nn.SiLU else []


WAYS = pytest.mark.parametrize(
    ("optimizer", "together"),
    [
        pytest.param("SGD", False, id="SGD-one by one"),
        pytest.param("Adam", True, id="Adam-together"),
        pytest.param("SGD", True, id="SGD-together", marks=pytest.mark.slow),
        pytest.param("Adam", False, id="Adam-one by one", marks=pytest.mark.slow),
    ],
)


@WAYS
@pytest.mark.parametrize(
    ("network", "shape", "activation"),
    [
        pytest.param(
            network,
            shape,
            activation,
            id=f"{network.__name__}-{activation.__name__}",
            marks=[pytest.mark.slow] if network is ResNet20 else slow_if_deep(network, activation),
        )
        for network, shape in {
            TutorialCNN: (1, 8, 8),
            MLP: (1, 8, 8),
            ConvNet: (3, 8, 8),
            ResNet20: (1, 8, 8),
        }.items()
        for activation in ACTIVATIONS
    ],
)
def test_a_stack_trains_as_each_network_alone(network, shape, activation, optimizer, together):
    seeds, make = range(3, 6), OPTIMIZERS[optimizer]
    count = 8 if network is ResNet20 else 20  # which takes seconds, and replays its steps from the sixth on
    steps = batches(seeds, count, batch=8, shape=shape, dtype=torch.float64)

    stacked = stack(network, activation, seeds, shape, len(seeds) if together else 1).double()
    losses, logits = train(stacked, steps, make)

    for replicate, alone in enumerate(networks(network, activation, seeds, shape)):
        own = [(images[replicate], labels[replicate]) for images, labels in steps]
        expected_losses, expected_logits = train_alone(alone.double(), own, make)
        assert torch.allclose(losses[replicate], expected_losses, rtol=1e-9, atol=0)
        assert torch.allclose(logits[replicate], expected_logits, rtol=1e-9, atol=1e-9)


@WAYS
@pytest.mark.parametrize(
    ("network", "shape", "count", "atol", "activation"),
    # Through many layers of BatchNorm, rounding grows with every step, and max-pooling may choose another pixel, as it
    # does between two orders of torch's own operations. Only the first steps tell an error from rounding.
    [
        pytest.param(
            *case,
            activation,
            id=f"{case[0].__name__}-{activation.__name__}",
            # The suite trains the others in double precision.
            marks=[] if activation is nn.SiLU and case[0] in (ConvNet, ResNet20) else [pytest.mark.slow],
        )
        for case in [
            (TutorialCNN, (1, 8, 8), 20, 1e-4),
            (MLP, (1, 8, 8), 20, 1e-4),
            (ConvNet, (3, 8, 8), 6, 1e-3),
            (ResNet20, (1, 8, 8), 6, 1e-3),
        ]
        for activation in ACTIVATIONS
    ],
)
def test_in_single_precision_a_stack_trains_as_each_network_alone(
    network, shape, count, atol, activation, optimizer, together
):
    seeds, make = range(3, 5), OPTIMIZERS[optimizer]
    steps = batches(seeds, count, batch=8, shape=shape)

    stacked = stack(network, activation, seeds, shape, len(seeds) if together else 1)
    losses, logits = train(stacked, steps, make)

    for replicate, alone in enumerate(networks(network, activation, seeds, shape)):
        own = [(images[replicate], labels[replicate]) for images, labels in steps]
        expected_losses, expected_logits = train_alone(alone, own, make)
        assert torch.allclose(losses[replicate], expected_losses, rtol=1e-4, atol=0)
        assert torch.allclose(logits[replicate], expected_logits, rtol=1e-4, atol=atol * expected_logits.abs().max())


def test_replicates_start_from_the_weights_that_each_seed_gives_alone():
    stacked = stack(ConvNet, seeds=[4, 9])

    for place, alone in enumerate(networks(ConvNet, nn.SiLU, [4, 9])):
        single = stacked.replicate(place).state_dict()
        assert single.keys() == alone.state_dict().keys()
        assert all(torch.equal(single[name], value) for name, value in alone.state_dict().items())
    assert stream(4, "init").initial_seed() != stream(9, "init").initial_seed()


def test_batchnorm_keeps_the_statistics_of_each_replicate():
    seeds = range(3)
    steps = batches(seeds, 5)

    stacked = stack(ConvNet, seeds=seeds, width=3)
    train(stacked, steps)

    for replicate, alone in enumerate(networks(ConvNet, nn.SiLU, seeds)):
        train_alone(alone, [(images[replicate], labels[replicate]) for images, labels in steps], OPTIMIZERS["Adam"])
        ours, theirs = dict(stacked.replicate(replicate).named_buffers()), dict(alone.named_buffers())
        assert all(torch.allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-4) for name in theirs)
        assert ours["stages.0.1.num_batches_tracked"] == 5


ALLOWED = {
    "SGD": {"lr": 0.01, "momentum": 0.9, "nesterov": True},
    "Adam": {},
    "AdamW": {},
    "NAdam": {},
    "RAdam": {"lr": 0.01},
    "RMSprop": {},
    "Adagrad": {},
    "Adadelta": {},
    "Adamax": {},
    "Rprop": {},
    "ASGD": {},
}


@pytest.mark.parametrize("name", ALLOWED)
def test_each_allowed_optimizer_trains_as_alone(name):
    spec = OptimizerSpec({"class_path": f"torch.optim.{name}", "init_args": ALLOWED[name]})
    steps = batches(range(3), 10, dtype=torch.float64)

    losses, logits = train(stack(MLP, seeds=range(3)).double(), steps, spec)

    for replicate, alone in enumerate(networks(MLP, nn.SiLU, range(3))):
        own = [(images[replicate], labels[replicate]) for images, labels in steps]
        expected_losses, expected_logits = train_alone(alone.double(), own, spec)
        assert not torch.allclose(expected_losses[0], expected_losses[-1])
        assert torch.allclose(losses[replicate], expected_losses, rtol=1e-9)
        assert torch.allclose(logits[replicate], expected_logits, rtol=1e-9)


class Lars(torch.optim.SGD):
    """SGD with a rate for each tensor from the norms of its weights and gradient."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad.mul_(parameter.norm() / (parameter.grad.norm() + 1e-9))
        return super().step(closure)


@pytest.mark.parametrize(
    "refused", ["torch.optim.LBFGS", "torch.optim.Adafactor", "torch.optim.Muon", "torch.optim.SparseAdam", Lars]
)
def test_an_optimizer_that_would_mix_replicates_is_refused_by_name(refused):
    name = OptimizerSpec(refused).cls.__name__

    with pytest.raises(EngineError, match=rf"{name} cannot train stacked replicates: "):
        Classifier(optimizer=refused, engine="stack", replicates=2, input_shape=(1, 8, 8), num_classes=10)


@pytest.mark.slow
def test_after_a_whole_run_accuracies_are_distributed_as_those_of_plain_loops(tmp_path):
    epochs = 15
    model = Classifier("swish", input_shape=(1, 8, 8), num_classes=10, replicates=24, optimizer=FAST)
    off = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", max_epochs=epochs, **off)
    trainer.fit(model, Digits(replicates=24))
    ours = model.replicate_scores()["val/acc"].numpy()

    theirs = []
    for seed in range(100, 124):  # other seeds, because the same seeds give the same runs up to rounding
        (network,), data = networks(TutorialCNN, nn.SiLU, [seed]), Digits(seed=seed)
        data.setup("fit")
        images, labels = data.tables[0].images / 16, data.tables[0].labels
        train_rows, val_rows = data.parts["train"].rows[0], data.parts["val"].rows[0]
        optimizer, generator = torch.optim.Adam(network.parameters(), lr=2e-3), torch.Generator().manual_seed(seed)
        for _ in range(epochs):
            for rows in train_rows[torch.randperm(len(train_rows), generator=generator)].split(64):
                optimizer.zero_grad()
                F.cross_entropy(network(images[rows]), labels[rows]).backward()
                optimizer.step()
        theirs.append((network(images[val_rows]).argmax(1) == labels[val_rows]).float().mean().item())

    assert stats.ks_2samp(ours, theirs).pvalue > 1e-3
    assert abs(ours.mean() - np.mean(theirs)) < 0.01


# --- company ---


@pytest.mark.parametrize(
    ("network", "threads"),
    # Two threads wait for one another where the suite's processes share the cores.
    [
        (MLP, 1),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in ((TutorialCNN, 1), (MLP, 2), (TutorialCNN, 2))),
    ],
)
def test_a_replicate_is_the_same_bit_for_bit_in_any_company(network, threads):
    torch.set_num_threads(threads)

    def outcome(seeds, width=None):
        trained = stack(network, seeds=seeds, width=width)
        losses, logits = train(trained, batches(seeds, 10))
        return {seed: (losses[place], logits[place]) for place, seed in enumerate(seeds)}

    expected = outcome(range(8))

    for company in (
        outcome([5, 3, 0, 7, 1, 6, 2, 4]),  # in another order
        outcome(range(16)),  # grown
        outcome([3]),  # alone
        outcome(range(8), width=3),  # in chunks
    ):
        for seed in set(company) & set(expected):
            assert all(torch.equal(a, b) for a, b in zip(company[seed], expected[seed], strict=True)), seed


@pytest.mark.parametrize(
    ("network", "width"),
    [
        (ConvNet, 1),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((TutorialCNN, 1), (TutorialCNN, 4), (ConvNet, 4))),
    ],
)
def test_a_neighbour_that_diverges_changes_no_bit(network, width):
    def outcome(poison):
        trained = stack(network, width=width)
        if poison is not None:
            with torch.no_grad():
                next(trained.parameters())[2] = poison
        losses, logits = train(trained, batches(range(4), 6))
        return losses, logits

    losses, logits = outcome(None)

    others = [0, 1, 3]
    for poison in (torch.nan, torch.inf, 1e30):
        poisoned_losses, poisoned_logits = outcome(poison)
        assert poison == 1e30 or not poisoned_losses[2].isfinite().any()
        assert torch.equal(poisoned_losses[others], losses[others])
        assert torch.equal(poisoned_logits[others], logits[others])


def test_replicates_that_take_no_part_have_no_gradient():
    trained = stack(TutorialCNN)
    ((images, labels),) = batches(range(4), 1)

    losses = trained.losses(images, labels, replicates=[1, 3])
    losses[[1, 3]].sum().backward()

    assert losses.isnan().tolist() == [True, False, True, False]
    for parameter in trained.parameters():
        assert not parameter.grad[[0, 2]].any()
        assert parameter.grad[[1, 3]].any()


# --- random numbers ---


class Dropouts(nn.Module):
    """Every kind of dropout."""

    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.Dropout2d(0.3), activation(), nn.Flatten(), nn.Dropout(0.5),
            nn.Linear(256, 64), nn.AlphaDropout(0.2), activation(), nn.FeatureAlphaDropout(0.1),
            nn.Linear(64, num_classes),
        )  # fmt: skip

    def forward(self, images):
        return self.layers(images)


@pytest.mark.parametrize("activation", [nn.SiLU, nn.RReLU])
def test_what_a_replicate_draws_follows_from_its_seed_alone(activation):
    def outcome(seeds):
        torch.manual_seed(torch.seed())
        losses, _ = train(stack(Dropouts, activation, seeds), batches(seeds, 4))
        return dict(zip(seeds, losses, strict=True))

    first, second = outcome(range(4)), outcome([6, 2, 3])

    assert torch.equal(first[2], second[2])
    assert torch.equal(first[3], second[3])


def drops_in_place(x):
    F.dropout(x, 0.9, training=True, inplace=True)
    return x


@pytest.mark.parametrize(
    ("draws", "mean", "sd"),
    [
        (lambda x: torch.bernoulli(torch.ones_like(x), 0.9), 0.9, 0.3),
        (lambda x: torch.bernoulli(torch.ones_like(x), p=0.9), 0.9, 0.3),
        (lambda x: torch.bernoulli(torch.full_like(x, 0.9)), 0.9, 0.3),
        (lambda x: torch.rand_like(x.long(), dtype=torch.float64).to(x.dtype), 0.5, 12**-0.5),
        (lambda x: torch.randn_like(x, dtype=torch.float64).to(x.dtype), 0, 1),
        (lambda x: drops_in_place(torch.ones_like(x)), 1, 3),
        (lambda x: torch.dropout(torch.ones_like(x), 0.9, True), 1, 3),
        (lambda x: torch.dropout(torch.ones_like(x), p=0.9, train=True), 1, 3),
        (lambda x: F.rrelu(-torch.ones_like(x), 0.2, 0.4, training=True), -0.3, 0.2 / 12**0.5),
    ],
)
@pytest.mark.parametrize("width", [1, 4])
def test_random_functions_draw_as_torchs_do(draws, mean, sd, width):
    class Draws(nn.Module):
        def __init__(self, activation, input_shape, num_classes):
            super().__init__()
            self.scale, self.activation = nn.Parameter(torch.ones(())), activation()

        def forward(self, images):
            return self.activation(draws(images.flatten(1) * self.scale) + 0 * self.scale)[:, :10]

    drawn = stack(Draws, nn.Identity, shape=(1, 20, 20), width=width)(torch.zeros(2000, 1, 20, 20))

    assert torch.allclose(drawn.mean((1, 2)), torch.tensor(float(mean)), atol=4 * sd / 20000**0.5)
    assert torch.allclose(drawn.std((1, 2)), torch.tensor(float(sd)), rtol=0.03)
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("width", [1, 2])
def test_rrelu_has_torchs_values_and_slopes_also_at_zero(width, training):
    class Slopes(nn.Module):
        def __init__(self):
            super().__init__()
            self.inputs = nn.Parameter(torch.tensor([-2.0, 0.0, 3.0]))

        def forward(self, images):
            return F.rrelu(self.inputs, 0.5, 0.5, training).expand(len(images), 3)

    plain, images, labels = Slopes(), torch.zeros(2, 1), torch.tensor([0, 1])
    stacked = Stack([Slopes(), Slopes()], [0, 1], input_shape=(1,), width=width)

    loss, losses = F.cross_entropy(plain(images), labels), stacked.losses(images, labels)
    loss.backward()
    losses.sum().backward()

    torch.testing.assert_close(losses, loss.detach().expand(2))
    torch.testing.assert_close(stacked.network.inputs.grad, plain.inputs.grad.expand(2, 3))


@pytest.mark.parametrize("dropout", [nn.Dropout(0.3), nn.Dropout2d(0.3), nn.AlphaDropout(0.3)], ids=str)
def test_dropout_drops_its_share_and_keeps_the_moments(dropout):
    class Only(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.dropout = dropout

        def forward(self, images):
            return self.dropout(images * self.scale).flatten(1)

    shape = (50, 10, 10)
    trained = Stack([Only(), Only()], [0, 1], input_shape=shape, width=2)
    images = torch.randn(400, *shape, generator=torch.Generator().manual_seed(0))

    ours = trained(images)
    theirs = dropout.train()(images).flatten(1)

    assert not torch.equal(ours[0], ours[1])
    for replicate in ours:
        units = replicate.view(400, 50, 100)
        dropped = (
            (units == units.mode(dim=2, keepdim=True).values) if isinstance(dropout, nn.AlphaDropout) else units == 0
        )
        assert isinstance(dropout, nn.AlphaDropout) or abs(dropped.float().mean() - 0.3) < 0.02
        assert replicate.mean() == pytest.approx(theirs.mean().item(), abs=0.02)
        assert replicate.var() == pytest.approx(theirs.var().item(), rel=0.03)
    trained.eval()
    assert torch.equal(trained(images)[0], images.flatten(1))


# --- what cannot be stacked ---


class Refused(nn.Module):
    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        self.layer, self.activation = nn.Linear(math.prod(input_shape), num_classes), activation()

    def linear(self, inputs):
        return self.layer(self.activation(inputs))


class DataDependent(Refused):
    def forward(self, images):
        logits = self.linear(images.flatten(1))
        return logits * 2 if logits.sum() > 0 else logits


class GlobalRandom(Refused):
    def forward(self, images):
        logits = self.linear(images.flatten(1))
        return logits + torch.rand(10) if self.training else logits


class Recurrent(Refused):
    def __init__(self, activation, input_shape, num_classes):
        super().__init__(activation, input_shape, num_classes)
        self.recurrent = nn.LSTM(input_shape[-1], num_classes, batch_first=True)

    def forward(self, images):
        return self.linear(images.flatten(1)) + self.recurrent(images[:, 0])[0][:, -1]


class ReplacesBuffer(Refused):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images):
        if self.training:
            self.calls = self.calls + 1
        return self.linear(images.flatten(1))


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (DataDependent, "data-dependent control flow"),
        (GlobalRandom, "it calls rand"),
        (ReplacesBuffer, "changes calls as it runs"),
        (Recurrent, "weakref"),
    ],
)
@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_what_cannot_be_stacked_is_refused_with_the_reason(network, reason, seeds):
    with pytest.raises(EngineError, match=f"{network.__name__} cannot be stacked: .*{reason}"):
        stack(network, seeds=seeds)


def test_tied_parameters_stay_tied():
    class Tied(nn.Module):
        def __init__(self, activation, input_shape, num_classes):
            super().__init__()
            self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
            self.second.weight = self.first.weight
            self.head, self.activation = nn.Linear(64, num_classes), activation()

        def forward(self, images):
            return self.head(self.activation(self.second(self.first(images.flatten(1)))))

    trained = stack(Tied)
    train(trained, batches(range(4), 3))

    assert trained.network.first.weight is trained.network.second.weight
    single = trained.replicate(2)
    assert single.first.weight is single.second.weight
    images = torch.rand(4, 5, 1, 8, 8)
    assert torch.allclose(single(images[2]), trained(images)[2], atol=1e-5)


# --- memory ---


def test_out_of_memory_halves_the_width_and_changes_no_bit(monkeypatch):
    expected = train(stack(TutorialCNN, seeds=range(8)), batches(range(8), 3))
    sizes, original = [], Chunk._logits

    def logits(chunk, *args):
        sizes.append(chunk.size)
        result = original(chunk, *args)
        if chunk.size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return result

    trained = stack(TutorialCNN, seeds=range(8))
    monkeypatch.setattr(Chunk, "_logits", logits)
    losses, outputs = train(trained, batches(range(8), 3))

    assert sizes[:7] == [8, 4, 2, 2, 2, 2, 2]
    assert torch.equal(losses, expected[0])
    assert torch.equal(outputs, expected[1])


def test_batchnorm_is_not_updated_twice_when_memory_runs_out(monkeypatch):
    trained, original = stack(ConvNet, seeds=range(4), width=4), Chunk._logits

    def logits(chunk, *args):
        result = original(chunk, *args)
        if chunk.size > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return result

    monkeypatch.setattr(Chunk, "_logits", logits)
    train(trained, batches(range(4), 1))

    assert trained.network.stages[0][1].num_batches_tracked.tolist() == [1, 1, 1, 1]


def test_a_single_replicate_that_does_not_fit_is_an_error_that_says_what_was_needed(monkeypatch):
    def logits(chunk, *args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    trained = stack(TutorialCNN)
    monkeypatch.setattr(Chunk, "_logits", logits)

    with pytest.raises(EngineError, match=r"one replicate with a batch of 16 inputs.*Tried to allocate 2.00 GiB"):
        train(trained, batches(range(4), 1))
