"""Activations swapped into networks that others wrote."""

import copy
import pickle
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from actbench.networks import SwapError, build_network
from actbench.specs import NetworkSpec

SHAPE = (3, 8, 8)


class Signed(nn.Module):
    """An activation that no network has, and that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        return x.abs() * self.slope


class Counts(TorchFunctionMode):
    """Counts torch's functions by name, independently of actbench."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.calls[func.__name__] += 1
        return func(*args, **kwargs or {})


def swapped(network, activation=Signed, **options):
    network = NetworkSpec(network)
    return build_network(network, activation, input_shape=SHAPE, num_classes=5, seed=0, **options)


def roles(network):
    return Counter(site.role for site in network.certificate.sites)


class Base(nn.Module):
    """A small network around one idea: convolution, `middle`, pooling, linear layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, num_classes)

    def middle(self, x):
        return x

    def forward(self, x):
        return self.head(self.middle(self.conv(x)).mean((2, 3)))


class Functional(Base):
    def middle(self, x):
        return F.relu(x)


class Statement(Base):
    def middle(self, x):
        F.relu_(x)
        return x


class Slice(Base):
    def middle(self, x):
        x[:, :2].relu_()
        return x


class Residual(Base):
    """The addition reads what the activation changed in place."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(4, 4, 1)

    def middle(self, x):
        return x + self.second(self.relu(x))


class InputChanges(Base):
    """What autograd allows for tanh, but not for an activation whose gradient needs the input."""

    def middle(self, x):
        x = x * 1
        y = torch.tanh(x)
        x.add_(1)
        return y + x


class OutputChanges(Base):
    """What autograd allows for hardswish, but not for an activation whose gradient needs the output."""

    def middle(self, x):
        y = F.hardswish(x)
        y[:, 0].mul_(2)
        return y


class ForInference(Base):
    """Code that torch cannot differentiate, in evaluation."""

    def middle(self, x):
        x = F.relu(x)
        return x if self.training else torch.from_numpy(x.numpy() * 1)


class Attribute(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.function = torch.tanh
        self.others = [nn.ELU(), nn.Tanh()]  # no submodules

    def middle(self, x):
        return self.others[0](self.function(x)) + self.others[1](x)


class Reused(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())

    def middle(self, x):
        for _ in range(3):
            x = self.block(x)
        return x


class SwishByHand(Base):
    def middle(self, x):
        return x * torch.sigmoid(x)


class SwishInPlace(Base):
    def middle(self, x):
        return x.mul_(x.sigmoid())


class SquaredReLU(Base):
    def middle(self, x):
        return F.relu(x).square()


class MishByHand(Base):
    def middle(self, x):
        return x * torch.tanh(F.softplus(x))


class GELUByHand(Base):
    def middle(self, x):
        return 0.5 * x * (1 + torch.erf(x / 2**0.5))


class TanhGELU(Base):
    def middle(self, x):
        return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


class HardSwishByHand(Base):
    def middle(self, x):
        return x * F.relu6(x + 3) / 6


class Clamped(Base):
    def middle(self, x):
        return x.clamp(min=0)


class OwnMode(Base):
    def middle(self, x):
        with Counts():
            return F.relu(x)


class PartlyWithoutGradient(Base):
    def middle(self, x):
        with torch.no_grad():
            scale = F.relu(x).mean((2, 3), keepdim=True)
        return F.relu(x) * scale


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradient * s * (1 + x * (1 - s))


class SwishModule(nn.Module):
    def forward(self, x):
        return Swish.apply(x)


class Opaque(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.act = SwishModule()

    def middle(self, x):
        return self.act(x)


class Hooked(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.relu = nn.ReLU()
        self.relu.register_forward_pre_hook(halve)

    def middle(self, x):
        return self.relu(x)


def halve(module, args):
    return (args[0] / 2,)


class Lazy(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(6), nn.ReLU(), nn.Linear(6, num_classes)
        )

    def forward(self, x):
        return self.layers(x)


class Parallel(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.block = nn.DataParallel(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()))

    def middle(self, x):
        return self.block(x)


class Attention(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.embed = nn.Linear(24, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.head(self.layer(self.embed(x.transpose(1, 2).flatten(2))).mean(1))


# What a plain network would compute with the activation in place of its own, written out by hand.
EXPECTED: dict[type, Callable] = {
    Functional: lambda net, act, x: act(x),
    Statement: lambda net, act, x: act(x),
    Slice: lambda net, act, x: torch.cat([act(x[:, :2]), x[:, 2:]], 1),
    Residual: lambda net, act, x: act(x) + net.second(act(x)),
    InputChanges: lambda net, act, x: act(x) + x + 1,
    OutputChanges: lambda net, act, x: torch.cat([act(x[:, :1]) * 2, act(x[:, 1:])], 1),
    Attribute: lambda net, act, x: act(act(x)) + act(x),
    Reused: lambda net, act, x: act(net.block[0](act(net.block[0](act(net.block[0](x)))))),
    SwishByHand: lambda net, act, x: act(x),
    SwishInPlace: lambda net, act, x: act(x),
    SquaredReLU: lambda net, act, x: act(x),
    MishByHand: lambda net, act, x: act(x),
    GELUByHand: lambda net, act, x: act(x),
    TanhGELU: lambda net, act, x: act(x),
    HardSwishByHand: lambda net, act, x: act(x),
    Clamped: lambda net, act, x: act(x),
    OwnMode: lambda net, act, x: act(x),
    PartlyWithoutGradient: lambda net, act, x: act(x) * act(x).mean((2, 3), keepdim=True).detach(),
    Opaque: lambda net, act, x: act(x),
    Hooked: lambda net, act, x: act(x / 2),
    Parallel: lambda net, act, x: act(net.block.module[0](x)),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("cls", EXPECTED)
def test_outputs_and_gradients_are_those_of_the_network_written_with_the_activation(cls, training):
    network = swapped(cls).train(training)
    for parameter in network.activations.parameters():
        parameter.data.fill_(0.3)
    inputs, own, act = torch.randn(4, *SHAPE), network.network, Signed()
    expected = own.head(EXPECTED[cls](own, act, own.conv(inputs)).mean((2, 3)))
    wanted = torch.autograd.grad(expected.square().sum(), own.conv.weight)[0]

    output = network(inputs)
    got = torch.autograd.grad(output.square().sum(), own.conv.weight)[0]

    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(got, wanted)
    assert network.certificate.proved == ("train", "eval")


@pytest.mark.parametrize("cls", EXPECTED)
def test_every_call_has_an_activation_of_its_own(cls):
    network = swapped(cls)
    calls = Counter(Attribute=3, Reused=3, PartlyWithoutGradient=2)

    assert len(network.activations) == (calls[cls.__name__] or 1)
    assert len({id(module) for module in network.activations}) == len(network.activations)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid, nn.SiLU, nn.Softplus])
@pytest.mark.parametrize("cls", [InputChanges, OutputChanges, Statement, Slice, Residual, SwishInPlace])
def test_autograd_takes_any_activation_where_memory_is_changed(cls, activation):
    swapped(cls, activation)(torch.randn(4, *SHAPE)).square().sum().backward()


def test_an_encoder_layer_is_swapped_in_evaluation_too():
    network = swapped(Attention, nn.SiLU)
    own, inputs = network.network, torch.randn(4, *SHAPE)
    plain = copy.deepcopy(own)
    plain.layer.activation = nn.SiLU()
    plain.layer.activation_relu_or_gelu = 0  # without which torch would run ReLU

    with torch.no_grad():
        torch.testing.assert_close(network.eval()(inputs), plain.eval()(inputs))

    assert roles(network) == {"hidden": 1, "softmax": 1}


def test_code_for_inference_alone_is_swapped_too():
    network, inputs = swapped(ForInference, nn.Tanh), torch.randn(4, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(inputs), network.train()(inputs))


def test_a_lazy_network_is_swapped():
    network = swapped(Lazy)

    assert len(network.activations) == 2
    assert network(torch.randn(2, *SHAPE)).shape == (2, 5)


def test_copies_and_pickles_are_swapped_too():
    network, inputs = swapped(Reused), torch.randn(2, *SHAPE)
    expected = network(inputs)

    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(other(inputs), expected)
        assert all(other.activations[0] is not module for module in network.activations)


def test_weights_besides_those_of_the_activation_are_the_networks_own():
    with_slopes, without = swapped(Reused, Signed), swapped(Reused, nn.ReLU)
    plain = build_network(NetworkSpec(Reused), nn.ReLU, input_shape=SHAPE, num_classes=5, seed=0).network

    for name, value in plain.state_dict().items():
        assert torch.equal(value, with_slopes.state_dict()[f"network.{name}"])
        assert torch.equal(value, without.state_dict()[f"network.{name}"])


def test_an_error_inside_the_network_leaves_nothing_behind():
    network = swapped(Functional)
    with pytest.raises(RuntimeError):
        network(torch.zeros(2, 7, 8, 8))

    assert torch.equal(F.relu(torch.tensor([-1.0])), torch.zeros(1))
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks


# --- what is refused ---


class NoActivation(Base):
    pass


class Recurrent(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.lstm = nn.LSTM(6, 6, batch_first=True)

    def middle(self, x):
        return F.relu(self.lstm(x.flatten(1, 2))[0].unflatten(1, (4, 6)))


class OnlyInTraining(Base):
    def middle(self, x):
        return F.relu(x) if self.training else x


class ManyTimes(Base):
    def middle(self, x):
        for _ in range(1 + int(x.std().item() > 0.5)):
            x = F.relu(x)
        return x


class Branch(Base):
    def middle(self, x):
        return F.relu(x) if x.std() > 0.5 else F.gelu(x)


class TwoOutputs(Base):
    def forward(self, x):
        return (super().forward(x), x) if self.training else super().forward(F.relu(x))


class Scripted(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.block = torch.jit.script(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()))

    def middle(self, x):
        return self.block(x)


class Compiled(Base):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.block = torch.compile(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()))

    def middle(self, x):
        return self.block(x)


class FunctionInside(Base):
    def middle(self, x):
        return Swish.apply(x)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (NoActivation, "NoActivation has no hidden site to swap; it has no activation that is recognised"),
        (Recurrent, "Recurrent: lstm .lstm. cannot be swapped: it is inside of torch's fused lstm"),
        (OnlyInTraining, "OnlyInTraining: . .relu. cannot be swapped: it is called in train only"),
        (ManyTimes, "calls that depend on values"),
        (Branch, "calls that depend on values"),
        (TwoOutputs, "TwoOutputs returns a tuple in train, which should be one tensor"),
        (Scripted, "Scripted: block is scripted"),
        (Compiled, "Compiled: block is compiled, so that its calls cannot be seen: give a plain one"),
        (FunctionInside, "inside of an autograd function"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_networks_that_cannot_be_swapped_are_refused_in_one_line(cls, message):
    with pytest.raises(SwapError, match=message) as caught:
        swapped(cls)

    assert "\n" not in str(caught.value)


def test_a_fused_layer_may_be_left_out_by_patterns():
    network = swapped(Recurrent, sites=["."])

    assert [(site.name, site.swapped) for site in network.certificate.sites] == [("lstm", False), (".", True)]


def test_without_patterns_no_site_is_chosen():
    with pytest.raises(SwapError, match="Reused has no chosen site to swap; it has 3 hidden"):
        swapped(Reused, sites=[])


def test_a_pattern_that_meets_no_site_names_the_nearest():
    with pytest.raises(SwapError, match=r"--model.sites: 'blok.1' meets no site of Reused; near it are block.1#"):
        swapped(Reused, sites=["blok.1"])


class Colourless(Base):
    def __init__(self, width=1000):
        super().__init__(width)


class FiveChannels(Base):
    def forward(self, x):
        return super().forward(x[:, :5] @ torch.ones(9, 9))


class Fixed(Base):
    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes)
        assert (num_classes, in_channels) == (5, 3)

    def middle(self, x):
        return F.relu(x)


def no_network(num_classes):
    return Base


NETWORK = Functional(5)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Colourless, r"to \(2, 1000\), which should be \(2, 5\).*it takes no num_classes.*--model.network.ARGUMENT"),
        (FiveChannels, "it takes no in_chans or in_channels, so give it such inputs as it takes"),
        (no_network, "no_network fails .* it returns a type, which should be a torch.nn.Module"),
        ("test_swap.NETWORK", "is neither a subclass of torch.nn.Module nor a function"),
    ],
)
def test_networks_that_do_not_fit_are_told_what_to_set(network, message):
    with pytest.raises(ValueError, match=message):
        swapped(network)


def test_channels_and_classes_follow_from_the_data():
    assert swapped(Fixed)(torch.zeros(2, *SHAPE)).shape == (2, 5)


class AsksForTheShape(Functional):
    def __init__(self, num_classes, input_shape):
        super().__init__(num_classes)
        assert input_shape == SHAPE


class HasAShape(Functional):
    def __init__(self, num_classes, input_shape=(224, 224)):
        super().__init__(num_classes)
        assert input_shape == (224, 224)


@pytest.mark.parametrize("network", [AsksForTheShape, HasAShape])
def test_a_network_that_asks_for_the_shape_of_an_input_gets_it(network):
    assert swapped(network)(torch.zeros(2, *SHAPE)).shape == (2, 5)


def test_sites_are_for_networks_that_do_not_take_the_activation():
    with pytest.raises(ValueError, match="MLP takes the activation itself"):
        swapped("MLP", sites="all")


def test_calls_that_were_not_examined_end_the_run():
    class Growing(Functional):
        times = 1

        def middle(self, x):
            for _ in range(self.times):
                x = F.relu(x)
            return x

    globals()["Growing"] = Growing
    Growing.__qualname__ = "Growing"
    network = swapped(Growing)
    network.network.times = 2

    with pytest.raises(SwapError, match="more often than when it was examined"):
        network(torch.zeros(2, *SHAPE))
