"""What an activation is for, by what is computed from its output."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from actbench.networks import build_network
from actbench.specs import NetworkSpec

SHAPE = (1, 8, 8)


def roles(network):
    """The functions that are swapped, and the roles of all."""
    swapped = build_network(NetworkSpec(network), nn.Mish, input_shape=SHAPE, num_classes=5, seed=0)
    sites = swapped.certificate.sites
    return [site.call for site in sites if site.swapped], [site.role for site in sites]


class Base(nn.Module):
    """One hidden ReLU, and then `middle`."""

    def __init__(self, num_classes):
        super().__init__()
        self.a = nn.Linear(64, 32)
        self.b, self.c, self.d = (nn.Linear(32, 32) for _ in range(3))
        self.head = nn.Linear(32, num_classes)

    def middle(self, x):
        return x

    def forward(self, x):
        return self.head(self.middle(F.relu(self.a(x.flatten(1)))))


class Made(Base):
    """The function in the middle is that of a test."""

    @staticmethod
    def function(net, x):
        return x

    def middle(self, x):
        return self.function(self, x)


def network(middle):
    """A class of networks with a function in the middle."""
    Made.function = staticmethod(middle)
    return Made


def heads(x):
    return x.view(-1, 4, 8)


GATES = {
    "mul": lambda net, x: x * torch.sigmoid(net.b(x)),
    "lerp": lambda net, x: torch.lerp(x, net.c(x), torch.sigmoid(net.b(x))),
    "lerp by name": lambda net, x: torch.lerp(x, net.c(x), weight=torch.sigmoid(net.b(x))),
    "addcmul": lambda net, x: torch.addcmul(x, net.c(x), torch.sigmoid(net.b(x))),
    "addcdiv": lambda net, x: torch.addcdiv(x, torch.sigmoid(net.b(x)), 1 + net.c(x).square()),
    "einsum": lambda net, x: torch.einsum("bd,bd->bd", x, torch.sigmoid(net.b(x))),
    "attention": lambda net, x: (torch.sigmoid(heads(net.b(x)) @ heads(net.c(x)).mT) @ heads(net.d(x))).flatten(1),
    "bmm": lambda net, x: torch.bmm(torch.sigmoid(heads(net.b(x)) @ heads(x).mT), heads(net.d(x))).flatten(1),
    "baddbmm": lambda net, x: torch.baddbmm(
        heads(x), torch.sigmoid(heads(net.b(x)) @ heads(x).mT), heads(net.d(x))
    ).flatten(1),
    "relu6 before the division": lambda net, x: x * F.relu6(net.b(x) + 3) / 6,
    "relu6 after the division": lambda net, x: x * (F.relu6(net.b(x) + 3) / 6),
    "the first step of a recurrence": lambda net, x: torch.sigmoid(net.b(x)) * x.new_zeros(len(x), 32) + x,
}


@pytest.mark.parametrize("middle", GATES.values(), ids=GATES)
def test_a_bounded_function_that_multiplies_is_a_gate(middle):
    assert roles(network(middle)) == (["relu"], ["hidden", "gate"])


def test_each_call_of_a_function_has_its_own_role():
    def middle(net, x):
        return x * torch.sigmoid(net.b(x)) + net.c(torch.sigmoid(net.d(x)))

    assert roles(network(middle)) == (["relu", "sigmoid"], ["hidden", "gate", "hidden"])


def assigned(x):
    x[x < 0] = 0
    return x


def assigned_to_a_copy(x):
    y = x.clone()
    y[~(x > 0) & (x < 9)] = 0
    return y


def multiplied_where_negative(x):
    x[x < 0] *= 0.1
    return x


def copied_where_positive(x):
    y = torch.zeros_like(x)
    y[x > 0] = x[x > 0]
    return y


def assigned_in_two_parts(x):
    y, positive = torch.zeros_like(x), x > 0
    y[positive] = x[positive]
    y[~positive] = 0.1 * x[~positive]
    return y


def assigned_by_index(x):
    y, places = x.clone(), torch.nonzero(x < 0, as_tuple=True)
    y[places] = 0.1 * y[places]
    return y


RELUS = {  # of one kind, or leaky
    "an assignment": assigned,
    "an assignment to a copy": assigned_to_a_copy,
    "a factor where it is negative": multiplied_where_negative,
    "an assignment to zeros": copied_where_positive,
    "two assignments to zeros": assigned_in_two_parts,
    "an assignment by index": assigned_by_index,
    "an assignment where": lambda x: x.index_put(torch.where(x < 0), torch.zeros(())),
    "masked_scatter": lambda x: x.masked_scatter(x < 0, torch.zeros_like(x)),
    "fmax": lambda x: torch.fmax(x, torch.zeros_like(x)),
    "max": lambda x: torch.max(x, torch.zeros_like(x)),
    "leaky max": lambda x: torch.max(x, 0.1 * x),
    "a mask in floats": lambda x: x * (x > 0).float(),
    "a mask of a type": lambda x: x * (x > 0).to(x.dtype),
    "a mask of its type": lambda x: x * (x > 0).type_as(x),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0.0),
    "half of x + |x|": lambda x: (x + x.abs()) / 2,
    "0.5 times x + |x|": lambda x: 0.5 * (x + x.abs()),
    "Swish through another type": lambda x: x * torch.sigmoid(x.double()).to(x.dtype),
}


@pytest.mark.parametrize("function", RELUS.values(), ids=RELUS)
def test_an_activation_by_hand_is_one_site_that_is_replaced_as_a_whole(function):
    made = network(lambda net, x: function(net.b(x)))
    swapped = build_network(NetworkSpec(made), nn.Mish, input_shape=SHAPE, num_classes=5, seed=0)
    own, x = swapped.network, torch.randn(4, *SHAPE)

    expected = own.head(F.mish(own.b(F.mish(own.a(x.flatten(1))))))

    assert [site.role for site in swapped.certificate.sites] == ["hidden", "hidden"]
    torch.testing.assert_close(swapped(x), expected)


def other_where_negative(net, x):
    y, z = net.b(x), net.c(x)
    y[y < 0] = z[y < 0]
    return y


def input_where_negative(net, x):
    y = net.b(x)
    y[y < 0] = x[y < 0]
    return y


def another_where_positive(net, x):
    y, z = net.b(x), net.c(x)
    w = torch.zeros_like(y)
    w[y > 0] = z[y > 0]
    return w


BRANCHES = {  # what joins them, and the number of activations in the network
    "a residual": (lambda net, x: x + F.relu(x), 2),
    "the larger of two layers": (lambda net, x: torch.max(net.b(x), net.c(x)), 1),
    "the largest": (lambda net, x: x - x.max(1, keepdim=True)[0], 1),
    "a mask of zeros in attention": (lambda net, x: (s := net.b(x).tril()).masked_fill(s == 0, -1e9), 1),
    "another layer where one is negative": (other_where_negative, 1),
    "another layer on zeros": (another_where_positive, 1),
    "a residual where one is negative": (input_where_negative, 1),
    "a mask of others": (lambda net, x: net.b(x).masked_fill(net.c(x) < 0, 0.0), 1),
}


@pytest.mark.parametrize(("middle", "sites"), BRANCHES.values(), ids=BRANCHES)
def test_what_joins_two_branches_is_no_activation(middle, sites):
    assert roles(network(middle)) == (["relu"] * sites, ["hidden"] * sites)


class ByHand(nn.Module):
    """A recurrent cell over the rows of an image, and a linear layer."""

    def __init__(self, num_classes):
        super().__init__()
        self.x2h, self.h2h = nn.Linear(8, 64), nn.Linear(16, 64)
        self.n = nn.Linear(16, 16)
        self.head = nn.Linear(16, num_classes)

    def forward(self, x):
        rows = x.squeeze(1)
        h, c = rows.new_zeros(len(rows), 16), rows.new_zeros(len(rows), 16)
        for row in rows[:, :3].unbind(1):
            h, c = self.step(self.x2h(row), h, c)
        return self.head(h)


class LSTM(ByHand):
    """As most people write it."""

    def step(self, x, h, c):
        i, f, g, o = (x + self.h2h(h)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class LSTMInOneSigmoid(ByHand):
    """With one sigmoid for three gates."""

    def step(self, x, h, c):
        gates, g = (x + self.h2h(h)).split((48, 16), 1)
        i, f, o = gates.sigmoid().chunk(3, 1)
        c = f * c + i * g.tanh()
        return o * c.tanh(), c


class GRU(ByHand):
    """Its tanh multiplies 1 - z."""

    def step(self, x, h, c):
        r, z, n, _ = x.chunk(4, 1)
        r, z = torch.sigmoid(r + self.n(h)), torch.sigmoid(z + self.n(h))
        n = torch.tanh(n + r * self.n(h))
        return (1 - z) * n + z * h, c


@pytest.mark.parametrize(("cls", "tanh", "sigmoid"), [(LSTM, 2, 3), (LSTMInOneSigmoid, 2, 1), (GRU, 1, 2)])
def test_the_tanh_of_a_cell_by_hand_is_swapped_and_its_gates_are_kept(cls, tanh, sigmoid):
    built = build_network(NetworkSpec(cls), nn.Softsign, input_shape=SHAPE, num_classes=5, seed=0)
    sites, x = built.certificate.sites, torch.randn(4, *SHAPE)

    with pytest.MonkeyPatch.context() as patch:  # the cell as if it were written with the other function
        patch.setattr(torch, "tanh", F.softsign)
        patch.setattr(torch.Tensor, "tanh", F.softsign)
        expected = built.network(x)

    assert Counter((site.call, site.swapped) for site in sites) == {
        ("tanh", True): 3 * tanh,
        ("sigmoid", False): 3 * sigmoid,
    }
    assert {site.role for site in sites if site.call == "sigmoid"} == {"gate"}
    torch.testing.assert_close(built(x), expected)


def test_gated_attention_and_wavenet_gate_with_their_sigmoid():
    middle = network(lambda net, x: net.d(torch.tanh(net.b(x)) * torch.sigmoid(net.c(x))))

    assert roles(middle) == (["relu", "tanh"], ["hidden", "glu", "gate"])


def test_a_tanh_that_multiplies_no_gate_is_one():
    assert roles(network(lambda net, x: x + net.c(x) * torch.tanh(net.b(x)))) == (["relu"], ["hidden", "gate"])


HIDDEN = {
    "squeeze and excite reads it": lambda net, x: (h := torch.tanh(net.b(x))) * torch.sigmoid(net.c(h)),
    "a mask is drawn": lambda net, x: torch.tanh(net.b(x)) * x.new_empty(len(x), 1).bernoulli_(0.9),
    "a parameter scales it": lambda net, x: torch.tanh(net.b(x)) * net.c.bias,
    "a matrix of weights multiplies it": lambda net, x: torch.tanh(net.b(x)) @ net.c.weight,
}


@pytest.mark.parametrize("middle", HIDDEN.values(), ids=HIDDEN)
def test_a_bounded_function_that_flows_on_is_hidden(middle):
    assert roles(network(middle))[0] == ["relu", "tanh"]


def variance(x):
    return (x * x).mean(-1, keepdim=True) - x.mean(-1, keepdim=True) ** 2


SCALES = {
    "rsqrt": lambda net, x: net.b(x) * torch.rsqrt(variance(x).clamp(min=0) + 1e-5),
    "sqrt": lambda net, x: net.b(x) / (variance(x).clamp_min(0) + 1e-5).sqrt(),
    "power": lambda net, x: net.b(x) * (variance(x).clamp(min=0) + 1e-5) ** -0.5,
    "power of an activation": lambda net, x: net.b((F.relu(net.c(x)) + 1e-5) ** 0.5),
    "product of a clamp": lambda net, x: net.b(x) * net.c(x).clamp(min=0),
    "denominator": lambda net, x: net.b(x) / (F.softplus(net.c(x)) + 1e-3),
    "reciprocal": lambda net, x: net.b(x) * (1 / (F.softplus(net.c(x)) + 1e-3)),
    "logarithm": lambda net, x: net.b(torch.log(F.softplus(net.c(x)) + 1e-3)),
    "denominator of a sum": lambda net, x: net.b(x) / (F.relu(net.c(x)).sum(-1, keepdim=True) + 1e-3),
    "root of a mean": lambda net, x: net.b(x) * torch.rsqrt(F.softplus(net.c(x)).mean(-1, keepdim=True)),
    "denominator of a product": lambda net, x: net.b(x) / (F.relu(net.c(x)) @ net.d(x).mT).sum(-1, keepdim=True),
    "its own sum": lambda net, x: net.b((y := F.softplus(net.c(x))) / y.sum(-1, keepdim=True)),
    "elu + 1": lambda net, x: net.b(x) / (F.elu(net.c(x)) + 1.1),
    "standard deviation of noise": lambda net, x: net.b(x) + (s := F.softplus(net.c(x))) * torch.randn_like(s),
}


@pytest.mark.parametrize("middle", SCALES.values(), ids=SCALES)
def test_what_has_to_be_positive_is_kept(middle):
    assert roles(network(middle)) == (["relu"], ["hidden", "scale"])


def test_a_clamp_that_flows_into_weights_is_an_activation():
    assert roles(network(lambda net, x: net.c(net.b(x).clamp(min=0)))) == (["relu", "clamp"], ["hidden", "hidden"])


def test_an_activation_that_is_normalized_afterwards_is_hidden():
    def middle(net, x):
        x = F.softplus(net.b(x))
        return (x - x.mean(-1, keepdim=True)) / (variance(x) + 1e-5).sqrt()

    assert roles(network(middle)) == (["relu", "softplus"], ["hidden", "hidden"])


def test_an_activation_whose_squares_are_summed_is_hidden():
    def middle(net, x):
        x = F.softplus(net.b(x))
        return net.c(x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5))

    assert roles(network(middle)) == (["relu", "softplus"], ["hidden", "glu"])
