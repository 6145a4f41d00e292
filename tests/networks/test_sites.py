"""Sites of published networks, against counts that know nothing of actbench's: of the operators that torch runs."""

import csv
import json
from collections import Counter
from typing import NamedTuple

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from actbench.cli import main
from actbench.networks import build_network, list_sites
from actbench.specs import NetworkSpec
from actbench.training import Classifier
from actbench.training.engines import EngineError

OPERATORS = {  # torch's operators that are activations, by the names in a table of sites
    "relu": "relu",
    "relu_": "relu",
    "hardtanh": "relu6",
    "hardtanh_": "relu6",
    "leaky_relu": "leaky_relu",
    "leaky_relu_": "leaky_relu",
    "silu": "silu",
    "silu_": "silu",
    "gelu": "gelu",
    "hardswish": "hardswish",
    "hardswish_": "hardswish",
    "hardsigmoid": "hardsigmoid",
    "hardsigmoid_": "hardsigmoid",
    "sigmoid": "sigmoid",
    "sigmoid_": "sigmoid",
    "tanh": "tanh",
    "elu": "elu",
    "_softmax": "softmax",
    "_scaled_dot_product_flash_attention_for_cpu": "softmax",
    "_native_multi_head_attention": "softmax",
}
NAMES = {"hardtanh": "relu6", "scaled_dot_product_attention": "softmax", "multi_head_attention_forward": "softmax"}


class Operators(TorchDispatchMode):
    """Counts activations of data among the operators that run: the sigmoid of a parameter, as ConViT has, is none."""

    def __init__(self, network) -> None:
        super().__init__()
        self.calls = Counter()
        self.parameters = {parameter.data_ptr() for parameter in network.parameters()}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.partition(".")[0]
        if name in OPERATORS and args[0].data_ptr() not in self.parameters:
            self.calls[OPERATORS[name]] += 1
        return func(*args, **kwargs or {})


class Published(NamedTuple):
    """A network, the roles of its sites as counted by hand from its source, and the size of its inputs."""

    roles: dict[str, int]
    size: int = 32
    arguments: dict = {}  # noqa: RUF012


MAXVIT = {  # maxvit_t with windows of 2, so that small images will do
    "input_size": [64, 64],
    "stem_channels": 64,
    "partition_size": 2,
    "block_channels": [64, 128, 256, 512],
    "block_layers": [2, 2, 5, 2],
    "head_dim": 32,
    "stochastic_depth_prob": 0.2,
}
QUICK = {
    "resnet18": Published({"hidden": 17}),
    "squeezenet1_1": Published({"hidden": 25, "head": 1}),
    "mobilenet_v3_small": Published({"hidden": 33, "gate": 9}),
}
SLOW = {  # the first five have the roles and calls of quicker networks
    "mobilenet_v2": Published({"hidden": 35}),
    "efficientnet_b0": Published({"hidden": 49, "gate": 16}),
    "shufflenet_v2_x0_5": Published({"hidden": 37}),
    "mnasnet0_5": Published({"hidden": 35}),
    "googlenet": Published({"hidden": 57}, arguments={"aux_logits": False, "init_weights": False}),
    "alexnet": Published({"hidden": 7}, 64),
    "vgg11": Published({"hidden": 10}),
    "inception_v3": Published({"hidden": 94}, 75, {"aux_logits": False, "init_weights": False}),
    "densenet121": Published({"hidden": 121}),
    "regnet_y_400mf": Published({"hidden": 16 * 4 + 1, "gate": 16}),
    "convnext_tiny": Published({"hidden": 18}),
    "swin_v2_t": Published({"hidden": 24, "gate": 12, "softmax": 12}),
    "vit_b_16": Published({"hidden": 12, "softmax": 12}, arguments={"image_size": 32}),
    "MaxVit": Published({"hidden": 57, "gate": 11, "softmax": 22}, 64, MAXVIT),
}
TORCHVISION = [
    *(pytest.param(name, published, id=name) for name, published in QUICK.items()),
    *(pytest.param(name, published, id=name, marks=pytest.mark.slow) for name, published in SLOW.items()),
]


def spec_of(name, published):
    return {"class_path": f"torchvision.models.{name}", "init_args": published.arguments}


def counted(network, size, *, training):
    with Operators(network) as operators, torch.no_grad():
        network.train(training)(torch.rand(2, 3, size, size))
    return operators.calls


def check_counts(spec, size):
    """Whether all activations are sites, and only those that are kept still run once others are swapped in."""
    network = build_network(NetworkSpec(spec), torch.nn.Softsign, input_shape=(3, size, size), num_classes=5, seed=0)
    sites = network.certificate.sites
    for training in (True, False):
        mode = "train" if training else "eval"
        here = [site for site in sites if mode in site.modes]
        named = Counter(NAMES.get(site.call, site.call) for site in here)
        kept = Counter(NAMES.get(site.call, site.call) for site in here if not site.swapped)

        assert counted(network.network, size, training=training) == named
        assert counted(network, size, training=training) == kept
    return network


@pytest.mark.parametrize(("name", "published"), TORCHVISION)
def test_sites_of_torchvision_are_the_activations_that_torch_runs(name, published):
    network = check_counts(spec_of(name, published), published.size)

    assert Counter(site.role for site in network.certificate.sites) == published.roles


TRAINED = ("mobilenet_v3_small",)  # the others take longer, or have fewer kinds of calls


@pytest.mark.parametrize(
    ("name", "published"),
    [
        pytest.param(name, published, id=name, marks=[] if name in TRAINED else pytest.mark.slow)
        for name, published in (QUICK | SLOW).items()
    ],
)
def test_torchvision_trains_with_swapped_activations_in_both_engines(name, published):
    check_training(spec_of(name, published), published.size)


def check_training(spec, size):
    """Whether five steps train two seeds, in both engines alike if the network can be stacked."""
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(2, 4, 3, size, size, generator=generator), torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])
    first = []
    for engine in ("sequence", "stack"):
        options = {"input_shape": (3, size, size), "num_classes": 5, "replicates": 2, "engine": engine}
        try:
            classifier = Classifier("prelu", spec, {"class_path": "SGD", "init_args": {"lr": 1e-3}}, **options)
        except EngineError:
            if engine == "sequence":
                raise
            continue
        slopes = [value for key, value in classifier.named_parameters() if "activations." in key]
        optimizer = classifier.engine.make_optimizer(classifier.optimizer)
        for step in range(5):
            optimizer.zero_grad()
            losses = classifier.engine.losses(images, labels, key=(0, step))
            assert losses.isfinite().all()
            first += [losses.detach()] * (step == 0)
            classifier.engine.backward(losses.sum())
            assert all(value.grad is not None for value in slopes)
            optimizer.step()
        assert any(value.grad.abs().sum() > 0 for value in slopes)
    assert len(first) == 1 or torch.allclose(*first, rtol=1e-4)


def test_a_residual_block_has_an_activation_for_each_call():
    network = build_network(
        NetworkSpec("torchvision.models.resnet18"), torch.nn.PReLU, input_shape=(3, 32, 32), num_classes=5, seed=0
    )

    assert len(list(network.activations.parameters())) == 17


def test_the_meta_device_finds_the_same_sites():
    spec = NetworkSpec("torchvision.models.mobilenet_v3_small")
    real = build_network(spec, torch.nn.ReLU, input_shape=(3, 32, 32), num_classes=5, seed=0).certificate

    listed = list_sites(spec, input_shape=(3, 32, 32), num_classes=5, sites="hidden").certificate

    assert listed.sites == real.sites
    assert not listed.proved
    assert real.text == "33 of 42 sites swapped: 33 hidden; kept 9 gates; proved in train and eval"


# --- the command ---


def test_the_command_lists_sites_without_training(capsys):
    words = "sites --model.network torchvision.models.mobilenet_v3_small --input_shape 3,64,64"

    assert main(words.split()) == 0

    lines = capsys.readouterr().out.splitlines()
    assert sum("hardsigmoid" in line and "no: role gate" in line for line in lines) == 9
    assert sum(line.rstrip().endswith("yes") for line in lines) == 33
    assert lines[-1] == "33 of 42 sites to swap: 33 hidden; kept 9 gates; nothing was trained or proved"


def test_the_command_prints_tables_for_other_programs(capsys):
    def printed(format):
        assert main(["sites", "--model.network", "torchvision.models.squeezenet1_1", "--format", format]) == 0
        return capsys.readouterr().out

    # SqueezeNet has a ReLU after its first layer, three in each of eight blocks, and one after its classifier.
    known = json.loads(printed("json"))
    assert [site["role"] for site in known["sites"]] == ["hidden"] * 25 + ["head"]
    assert [site["swapped"] for site in known["sites"]] == [True] * 25 + [False]
    assert known["problem"] is None
    rows = list(csv.DictReader(printed("csv").splitlines()))
    assert [row["site"] for row in rows] == [site["name"] for site in known["sites"]]
    assert rows[-1] == {
        "site": "classifier.2",
        "call": "relu *",
        "role": "head",
        "mode": "train and eval",
        "swapped": "no: role head",
    }
    title, _, head, rule, *lines = printed("md").splitlines()
    assert title == "**25 of 26 sites to swap: 25 hidden; kept 1 head**"
    assert (head, rule) == ("| site | call | role | mode | swapped |", "| --- | --- | --- | --- | --- |")
    assert len(lines) == 26


def test_a_network_without_sites_says_so_in_json_too(capsys):
    assert main(["sites", "--model.network", "torch.nn.Flatten", "--format", "json"]) == 2

    output, error = capsys.readouterr()
    assert "no hidden site to swap" in json.loads(output)["problem"]
    assert "no hidden site to swap" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "which network?"),
        ("--model.network torchvision.models.alexnet --format xml", "--format is text, md, csv or json, not xml"),
        ("--model.network MLP", "MLP takes the activation itself"),
        ("--model.network torchvision.models.resnet81", "near it are torchvision.models.resnet18"),
        (
            "--model.network torchvision.models.vit_b_16 --input_shape 3,8,8",
            "Wrong image height! Expected 224 but got 8",
        ),
        ("--model.network torchvision.models.alexnet --input_shape 3,a", "--input_shape is numbers"),
        ("--model.network torchvision.models.alexnet --model.sites [layer1]", "'layer1' meets no site of AlexNet"),
        ("--model.network torchvision.models.alexnet --model.activation relu", "no option for activation"),
        ("--model.network torch.nn.Flatten", "no hidden site to swap; it has no activation that is recognised"),
    ],
)
def test_the_command_refuses_in_one_line(words, message, capsys):
    assert main(["sites", *words.split()]) == 2

    output = capsys.readouterr().err
    assert message in output
    assert output.count("\n") == 1


# --- timm ---

TIMM_QUICK = ("test_vit",)
TIMM_SLOW = {  # by the size of their inputs
    64: (
        "convmixer_768_32 cs3darknet_focus_s cspnext_tiny densenet121 dla46x_c dpn48b edgenext_xx_small "
        "efficientvit_b0 "
        "fasternet_t0 fastvit_t8 focalnet_tiny_srf ghostnet_050 hardcorenas_b hgnetv2_b0 hrnet_w18_small "
        "inception_next_atto lcnetv2_small mobilenetv3_small_050 mobilevit_xxs pvt_v2_b0 regnetx_002 repvit_m1 "
        "res2next50 resnest14d resnetv2_18 rexnet_100 selecsls42 legacy_seresnet18 shvit_s1 skresnet18 starnet_s050 "
        "tresnet_m legacy_xception"
    ),
    96: "inception_resnet_v2 inception_v4",
    160: "test_byobnet test_efficientnet test_resnet test_nfnet",
    224: "convit_tiny deit_tiny_patch16_224 eva02_tiny_patch14_224 levit_128s swin_tiny_patch4_window7_224",
}


TIMM = [
    *(pytest.param(name, 160, id=name) for name in TIMM_QUICK),
    *(
        pytest.param(name, size, id=name, marks=pytest.mark.slow)
        for size, names in TIMM_SLOW.items()
        for name in names.split()
    ),
]


@pytest.mark.parametrize(("name", "size"), TIMM)
def test_sites_of_timm_are_the_activations_that_torch_runs(name, size):
    spec = {"class_path": "timm.create_model", "init_args": {"model_name": name}}

    network = check_counts(spec, size)

    assert network.certificate.proved
    check_training(spec, size)
