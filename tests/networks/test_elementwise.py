"""Nonlinear maps of elements that are not known to be activations are listed, and swapped where they are named."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from actbench.networks import SwapError, build_network, list_sites
from actbench.specs import NetworkSpec

SHAPE = (1, 8, 8)


class Middle(nn.Module):
    """Layers with a function between them, and ReLU at last."""

    function = staticmethod(lambda net, x: x)

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = (nn.Linear(n, m) for n, m in [(64, 32), (32, 32), (32, 16), (16, 5)])
        self.scale = nn.Parameter(torch.rand(32))

    def forward(self, x):
        return self.head(F.relu(self.c(self.function(self, self.b(self.a(x.flatten(1)))))))


def network(function):
    """A spec of a network with a function of a network and a tensor in the middle."""
    Middle.function = staticmethod(function)
    return NetworkSpec(Middle)


def built(function, **options):
    return build_network(network(function), nn.Mish, input_shape=SHAPE, num_classes=5, seed=0, **options)


OTHERS = {  # and the calls that are one site
    "sin": (lambda net, x: x.sin(), "sin"),
    "softplus by hand": (lambda net, x: torch.log(1 + torch.exp(x)), "exp, add, log"),
    "sigmoid by hand": (lambda net, x: 1 / (1 + torch.exp(-x)), "neg, exp, add, rdiv"),
    "a clamp": (lambda net, x: x.clamp(-1, 1), "clamp"),
    "a power": (lambda net, x: x**3, "pow"),
    "a product with itself": (lambda net, x: x * x, "mul"),
    "a factor before": (lambda net, x: torch.sin(30 * x), "sin"),
    "rounded in place": (lambda net, x: x.mul(4).round_(), "round"),
    "x sin(x)": (lambda net, x: x * torch.sin(x), "sin, mul"),
    "a cube by hand": (lambda net, x: x * x * x, "mul, mul"),
    "Gauss": (lambda net, x: torch.exp(-x * x), "neg, mul, exp"),
    "ISRU": (lambda net, x: x / torch.sqrt(1 + x * x), "mul, add, sqrt, div"),
    "Snake": (lambda net, x: x + torch.sin(net.scale * x) ** 2 / net.scale, "mul, sin, pow, div, add"),
    "a polynomial with parameters": (lambda net, x: net.scale * x + net.scale * x * x, "mul, mul, mul, add"),
    "a sigmoid by hand, steeper": (lambda net, x: 1 / (1 + torch.exp(-2 * x)), "mul, exp, add, rdiv"),
    "softplus of two tensors": (lambda net, x: torch.logaddexp(x, torch.zeros_like(x)), "logaddexp"),
    "a clamp by a tensor": (lambda net, x: torch.clamp(x, min=torch.zeros(())), "clamp"),
    "a wide clamp": (lambda net, x: x.clamp(-5, 5), "clamp"),
    "through another type": (lambda net, x: x.double().sin().float(), "sin"),
    "a gate by hand": (lambda net, x: x * (1 / (1 + torch.exp(-net.b(x)))), "neg, exp, add, rdiv"),
}


@pytest.mark.parametrize(("function", "calls"), OTHERS.values(), ids=OTHERS)
def test_another_map_is_kept_and_said(function, calls):
    certificate = built(function).certificate

    assert [(site.call, site.role, site.swapped) for site in certificate.sites] == [
        (calls, "other", False),
        ("relu", "hidden", True),
    ]
    assert certificate.sites[0].reason == "not known to be an activation: name it in --model.sites to swap it"
    assert certificate.text == "1 of 2 sites swapped: 1 hidden; kept 1 other map; proved in train and eval"


WHOLE = [name for name in OTHERS if name not in ("a factor before", "rounded in place", "a gate by hand")]


@pytest.mark.parametrize("name", WHOLE)
def test_another_map_is_swapped_as_a_whole_where_a_pattern_names_it(name):
    swapped = built(OTHERS[name][0], sites=[".#*"])
    own, x = swapped.network, torch.randn(4, *SHAPE)

    expected = own.head(F.relu(own.c(F.mish(own.b(own.a(x.flatten(1)))))))

    torch.testing.assert_close(swapped(x), expected)
    assert swapped.certificate.proved == ("train", "eval")


def rms_norm(net, x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * net.scale


def layer_norm(net, x):
    centred = x - x.mean(-1, keepdim=True)
    return net.scale * centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-6)


NONE = {
    "RMS normalisation": rms_norm,
    "layer normalisation": layer_norm,
    "a norm": lambda net, x: x * (1 / (x.norm(dim=-1, keepdim=True) + 1e-6)),
    "another type of fewer bits": lambda net, x: x.to(torch.bfloat16).to(x.dtype),
    "a norm of neighbours": lambda net, x: x / (F.avg_pool1d((x * x).unsqueeze(1), 3, 1, 1).squeeze(1) + 1e-3).sqrt(),
    "a scale by the largest": lambda net, x: x / x.abs().amax(-1, keepdim=True),
    "distances": lambda net, x: (((x - net.scale) ** 2).cumsum(-1)).softmax(-1) @ net.b.weight,
    "attention by hand": lambda net, x: (e := torch.exp(x)) / e.sum(-1, keepdim=True),
    "a scale for each channel": lambda net, x: x * net.scale,
    "dropout": lambda net, x: F.dropout(x, 0.5, net.training),
    "a line": lambda net, x: 2 * x + 1,
    "a shape": lambda net, x: x.view(-1, 4, 8).flip(-1).flatten(1),
    "another type": lambda net, x: x.double().float(),
    "a guard against overflow": lambda net, x: x.clamp(-1e4, 1e4),
    "noise": lambda net, x: x + torch.randn_like(x) ** 2 if net.training else x,
}


@pytest.mark.parametrize("function", NONE.values(), ids=NONE)
def test_what_maps_no_element_for_itself_is_no_site(function):
    assert "other" not in [site.role for site in built(function).certificate.sites]


class Sines(Middle):
    """Two sines, and no activation that is known."""

    def forward(self, x):
        return self.head(torch.sin(self.c(torch.sin(self.b(self.a(x.flatten(1)))))))


def test_a_network_with_other_maps_alone_names_them():
    with pytest.raises(
        SwapError, match=r"no hidden site to swap; it has 2 other maps, .*sites can name: \.#sin0, \.#sin1$"
    ):
        build_network(NetworkSpec(Sines), nn.ReLU, input_shape=SHAPE, num_classes=5, seed=0)
    assert build_network(NetworkSpec(Sines), nn.ReLU, input_shape=SHAPE, num_classes=5, seed=0, sites=[".#sin*"])
    with pytest.raises(SwapError, match="'\\*' meets no site of Sines"):
        build_network(NetworkSpec(Sines), nn.ReLU, input_shape=SHAPE, num_classes=5, seed=0, sites=["*"])


def test_a_map_in_some_passes_only_refuses_nothing():
    def function(net, x):
        return x.sin() if x.sum() > 0 else x

    assert built(function).certificate.sites[-1].swapped


@pytest.mark.parametrize("sites", ["hidden", "all"])
def test_the_meta_device_finds_the_same_maps_and_all_leaves_them(sites):
    found = list_sites(network(OTHERS["softplus by hand"][0]), input_shape=SHAPE, num_classes=5, sites=sites)

    assert [(site.call, site.swapped) for site in found.certificate.sites] == [("exp, add, log", False), ("relu", True)]


def test_looking_for_maps_draws_nothing_from_the_global_generator():
    torch.manual_seed(1)
    state = torch.get_rng_state()

    built(NONE["dropout"])

    assert torch.equal(torch.get_rng_state(), state)
