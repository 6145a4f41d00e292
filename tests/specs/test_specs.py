import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from actbench.activations import Swish
from actbench.networks import MLP
from actbench.specs import ActivationSpec, NetworkSpec, OptimizerSpec, SchedulerSpec, one_line, public_path

PARTIAL = functools.partial(torch.relu)
INSTANCE = nn.ReLU()


@pytest.mark.parametrize(
    "value",
    [
        "swish",
        "Swish",
        "actbench.activations.Swish",
        {"class_path": "swish"},
        {"class_path": "actbench.activations.Swish", "init_args": {"beta": 1}},
        {"class_path": "actbench.activations.Swish", "init_args": {"beta": 1.0, "trainable": False}},
        Swish,
        functools.partial(Swish, beta=1.0),
        ActivationSpec("swish"),
    ],
)
def test_all_ways_to_name_an_activation_are_one_spec(value):
    spec = ActivationSpec(value)

    assert spec == ActivationSpec("swish")
    assert hash(spec) == hash(ActivationSpec("swish"))
    assert spec.to_dict() == {
        "class_path": "actbench.activations.Swish",
        "init_args": {"beta": 1.0, "trainable": False},
    }


def test_other_arguments_are_another_spec():
    assert ActivationSpec({"class_path": "swish", "init_args": {"beta": 2}}) != ActivationSpec("swish")


def test_a_spec_builds_a_fresh_object_each_time():
    spec = ActivationSpec("torch.nn.PReLU")

    first, second = spec(), spec()

    assert isinstance(first, nn.PReLU)
    assert first is not second
    assert first.weight is not second.weight


def test_a_spec_passes_its_arguments_on():
    spec = ActivationSpec({"class_path": "swish", "init_args": {"beta": 2.5}})

    x = torch.tensor([0.5])

    assert torch.allclose(spec()(x), x * torch.sigmoid(2.5 * x))


def test_names_of_the_catalogue_carry_their_arguments():
    assert ActivationSpec("gelu_tanh").to_dict() == {
        "class_path": "torch.nn.GELU",
        "init_args": {"approximate": "tanh"},
    }


def test_class_paths_are_the_ones_that_users_write():
    assert public_path(nn.SiLU) == "torch.nn.SiLU"
    assert public_path(torch.optim.Adam) == "torch.optim.Adam"
    assert public_path(Swish) == "actbench.activations.Swish"


class Holder(MLP):
    class Steep(nn.ELU):
        class Steeper(nn.ELU):
            pass

    @classmethod
    def narrow(cls, activation, input_shape, num_classes, width: int = 3):
        return cls(activation, input_shape, num_classes, hidden=[width])


class Heir(Holder):
    pass


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (ActivationSpec, "test_specs.Holder.Steep"),
        (ActivationSpec, "test_specs.Holder.Steep.Steeper"),
        (NetworkSpec, "test_specs.Holder.narrow"),
        (NetworkSpec, "test_specs.Heir.narrow"),
    ],
)
def test_what_a_class_holds_has_a_path(kind, path):
    spec = kind(path)

    assert spec.to_dict()["class_path"] == path
    assert kind(spec.to_dict()) == spec == kind(spec.cls)


@pytest.mark.parametrize("path", ["test_specs.Holder.narrow", "test_specs.Heir.narrow"])
def test_a_class_method_makes_a_network_of_its_class(path):
    network = NetworkSpec({"class_path": path, "init_args": {"width": 5}})(nn.ReLU, (1, 8, 8), 10)

    assert type(network).__name__ == path.split(".")[1]
    assert next(iter(network.parameters())).shape[0] == 5


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("test_specs.Holder.Missing", "cannot import activation .*has no attribute 'Missing'"),
        ("torch.nn.functional.warnings.WarningMessage", "cannot import activation .*No module named"),
        ("swsh", "unknown activation 'swsh'.*near it are.* swish"),
        ("torch.nn.Silu", "cannot import activation 'torch.nn.Silu'.*no attribute 'Silu'"),
        ("no_such_module.Foo", "cannot import activation 'no_such_module.Foo'.*No module named"),
        ("torch.nn.Linear", "torch.nn.Linear: missing in_features, out_features in init_args"),
        ("torch.nn.Flatten", r"not an activation: it maps .* to \(2, 24\)"),
        ("torch.optim.Adam", "activation .* is not a subclass of torch.nn.Module"),
        ("torch.nn.functional.relu", "activation .* is not a subclass of torch.nn.Module, but a function: write a "),
        (f"{__name__}.PARTIAL", "activation of type partial is not a subclass of torch.nn.Module, but a function: "),
        (
            f"{__name__}.INSTANCE",
            "activation of type ReLU is not a subclass of torch.nn.Module, but an instance of one",
        ),
        ({"class_path": "swish", "init_args": {"bta": 2}}, "unexpected bta in init_args; accepted: beta, trainable"),
        ({"class_path": "swish", "init_args": {"beta": "two"}}, "beta: Expected a float. Got value: two"),
        ({"class_path": "swish", "init_args": {"beta": [object()]}}, "beta: Expected a float. Got value: .*object"),
        ({"class_path": "swish", "init_args": [2]}, "init_args is a mapping"),
        ({"class": "swish"}, "takes the keys class_path and init_args"),
        ({"class_path": "torch.nn.Threshold", "init_args": {"threshold": 1}}, "missing value"),
        (nn.ReLU(), "is a name, a class path, a mapping or a class"),
        (lambda: nn.ReLU(), "is a name, a class path, a mapping or a class"),
        (3, "is a name, a class path, a mapping or a class"),
    ],
)
def test_wrong_activations_are_refused_in_one_line(value, message):
    with pytest.raises(ValueError, match=message) as caught:
        ActivationSpec(value)

    assert "\n" not in str(caught.value)


def test_a_class_that_cannot_be_imported_again_is_refused():
    class Local(nn.ReLU):
        pass

    with pytest.raises(ValueError, match="top level of a module"):
        ActivationSpec(Local)


def test_checking_a_spec_draws_nothing_from_the_global_generator():
    torch.manual_seed(1)
    before = torch.get_rng_state()

    ActivationSpec("torch.nn.RReLU")

    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_spec_builds_with_what_it_is_given():
    spec = NetworkSpec({"class_path": "MLP", "init_args": {"hidden": [5]}})

    network = spec(activation=nn.ReLU, input_shape=(1, 8, 8), num_classes=3)

    assert isinstance(network, MLP)
    assert spec.to_dict() == {"class_path": "actbench.networks.MLP", "init_args": {"hidden": [5]}}


class NoInputShape(nn.Module):
    def __init__(self, activation, num_classes):
        super().__init__()


def test_a_network_that_takes_an_activation_must_take_all_that_it_is_given():
    with pytest.raises(ValueError, match=r"NoInputShape must take the argument 'input_shape'"):
        NetworkSpec(NoInputShape)


class Wide(nn.Linear):
    """Passes on arguments, none of which is an activation."""

    def __init__(self, slope: float = 0.1, **kwargs):
        super().__init__(**kwargs)


@pytest.mark.parametrize(
    ("network", "taken"),
    [
        ({"class_path": "test_specs.Wide", "init_args": {"in_features": 3, "out_features": 2}}, ()),
        ("torch.nn.Flatten", ()),
        ("torchvision.models.resnet18", ("num_classes",)),
        ({"class_path": "torchvision.models.resnet18", "init_args": {"num_classes": 7}}, ()),
        ({"class_path": "torchvision.models.get_model", "init_args": {"name": "vgg11"}}, ("num_classes",)),
    ],
)
def test_a_foreign_network_gets_what_it_takes_and_is_not_given(network, taken):
    spec = NetworkSpec(network)

    assert spec.foreign
    assert spec.given == taken
    assert NetworkSpec(spec.to_dict()) == spec


def test_a_function_that_passes_on_its_arguments_makes_a_network():
    network = NetworkSpec("torchvision.models.squeezenet1_1")(input_shape=(3, 32, 32), num_classes=7)

    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("torchvision.models.resnet81", r"near it are( torchvision\.models\.resnet\d+,?)+$"),
        ({"class_path": "torchvision.models.get_model", "init_args": {"name": "resnt18"}}, "near it are resnet18"),
        ("torchvision.models.resnet", "^network torchvision.models.resnet is neither .* function, but a module"),
        ("torch.optim.Adam", "neither a subclass of torch.nn.Module nor a function"),
    ],
)
def test_wrong_networks_are_refused_in_one_line(network, message):
    with pytest.raises(ValueError, match=message) as caught:
        NetworkSpec(network)

    assert "\n" not in str(caught.value)


def test_optimizers_are_checked_by_building_one():
    adam = OptimizerSpec({"class_path": "torch.optim.AdamW", "init_args": {"lr": 1}})

    assert isinstance(adam([nn.Parameter(torch.zeros(1))]), torch.optim.AdamW)
    assert adam.init_args["lr"] == 1.0
    with pytest.raises(ValueError, match="Invalid learning rate: -1"):
        OptimizerSpec({"class_path": "torch.optim.SGD", "init_args": {"lr": -1.0}})
    with pytest.raises(ValueError, match="unexpected momentum"):
        OptimizerSpec({"class_path": "torch.optim.Adam", "init_args": {"momentum": 0.9}})


def test_schedules_are_checked_by_building_one():
    spec = SchedulerSpec({"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 3}})
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)

    assert spec(optimizer).step_size == 3
    with pytest.raises(ValueError, match="missing step_size"):
        SchedulerSpec("torch.optim.lr_scheduler.StepLR")


def rates(make, steps=6):
    """Learning rates under a schedule, step by step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, found = make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_a_schedule_of_schedules_is_that_of_torch():
    warm = {"class_path": "LinearLR", "init_args": {"start_factor": 0.1, "total_iters": 2}}
    after = {"class_path": "torch.optim.lr_scheduler.CosineAnnealingLR", "init_args": {"T_max": 3}}
    one_by_one = {"class_path": "SequentialLR", "init_args": {"schedulers": [warm, after], "milestones": [2]}}
    at_once = {"class_path": "ChainedScheduler", "init_args": {"schedulers": [warm, after]}}

    def parts(optimizer):
        return [LinearLR(optimizer, 0.1, total_iters=2), CosineAnnealingLR(optimizer, 3)]

    for given, make in [
        (one_by_one, lambda optimizer: SequentialLR(optimizer, parts(optimizer), [2])),
        (at_once, lambda optimizer: ChainedScheduler(parts(optimizer))),
    ]:
        spec = SchedulerSpec(given)
        assert rates(spec) == rates(make)
        assert rates(SchedulerSpec(spec.to_dict())) == rates(make)
        assert spec == SchedulerSpec(spec.to_dict())
    with pytest.raises(ValueError, match=r"unknown lr_scheduler 'LinerLR'.* near it are .*LinearLR"):
        SchedulerSpec({"class_path": "SequentialLR", "init_args": {"schedulers": ["LinerLR"], "milestones": []}})


def warmed_up(optimizer, steps: int, power: float = 1.0):
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / steps) ** power)


def on_plateau(optimizer):
    return ReduceLROnPlateau(optimizer)


def no_schedule(optimizer):
    return optimizer


def test_a_function_makes_a_schedule():
    spec = SchedulerSpec({"class_path": "test_specs.warmed_up", "init_args": {"steps": 4}})
    nested = {"schedulers": [spec.to_dict(), {"class_path": "ConstantLR"}]}

    assert rates(spec, 5) == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert spec.to_dict()["init_args"] == {"steps": 4, "power": 1.0}
    assert SchedulerSpec(functools.partial(warmed_up, steps=4)) == spec
    assert rates(SchedulerSpec({"class_path": "ChainedScheduler", "init_args": nested}), 1) == [0.25 / 3]
    assert SchedulerSpec(on_plateau).waits
    assert not spec.waits
    with pytest.raises(ValueError, match=r"missing steps in init_args; accepted: steps, power"):
        SchedulerSpec("test_specs.warmed_up")
    with pytest.raises(ValueError, match="makes an object of type SGD, not a torch"):
        SchedulerSpec(no_schedule)
    with pytest.raises(ValueError, match=r"must take the argument 'optimizer'"):
        SchedulerSpec(rates)


def test_an_import_that_fails_is_not_run_again_by_the_error(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text(
        "with open('runs', 'a') as file: file.write('.')\nraise RuntimeError('two\\nlines')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ValueError, match=r"^cannot import activation 'broken\.Foo': two lines$"):
        ActivationSpec("broken.Foo")

    assert (tmp_path / "runs").read_text() == "."


class HandsOn(MLP):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


def test_a_network_that_hands_its_arguments_on_takes_them():
    network = NetworkSpec("test_specs.HandsOn")(activation=ActivationSpec("relu"), input_shape=(1, 8, 8), num_classes=3)

    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


class Scaled(nn.Module):
    """ReLU with a scale for each channel, of which there are ``channels``."""

    def __init__(self, channels: int = 6):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x):
        return torch.relu(x) * self.scale


@pytest.mark.parametrize(
    "activation",
    [
        {"class_path": "torch.nn.PReLU", "init_args": {"num_parameters": 128}},
        {"class_path": "test_specs.Scaled", "init_args": {"channels": 5}},
    ],
)
def test_an_activation_may_have_a_parameter_for_each_channel(activation):
    assert ActivationSpec(activation).init_args.items() >= activation["init_args"].items()


def test_a_function_is_no_activation_and_is_named():
    with pytest.raises(ValueError, match=r"functional\.silu .*but a function: write a torch\.nn\.Module"):
        ActivationSpec("torch.nn.functional.silu")


@dataclass
class Inner:
    a: float = 1.0
    b: float | int = 7


@dataclass
class Options:
    inner: Inner = field(default_factory=Inner)
    scale: float = 1.0
    names: list[str] = field(default_factory=lambda: ["a"])
    fn: Callable = torch.relu


@dataclass
class Doubled:
    scale: float = 1.0

    def __post_init__(self):
        self.scale *= 2


class Gain:
    def __init__(self, gain: float = 1.0, options: Options = Options(Inner(5), 6)):  # noqa: B008  # as users write
        self.gain, self.options = gain, options


GAIN = Gain(3.0)


class Configured(nn.ReLU):
    def __init__(
        self,
        options: Options = Options(Inner(5, 2), 6, ["b"], torch.tanh),  # noqa: B008
        doubled: Doubled = Doubled(3.0),  # noqa: B008
        perhaps: Options | None = None,
        several: dict[str, Options] | None = None,
        gain: Gain = GAIN,
    ):
        super().__init__()
        self.received = [options, doubled, perhaps, several, gain.gain, gain.options]


LEFT = [Options(Inner(5, 2), 6, ["b"], torch.tanh), Doubled(3.0), None, None, 3.0, Options(Inner(5), 6)]


@pytest.mark.parametrize(
    ("given", "received"),
    [
        ({}, {}),
        ({"options": {"scale": 9}}, {0: Options(Inner(5, 2), 9, ["b"], torch.tanh)}),
        ({"options": {"inner": {"a": 9}}}, {0: Options(Inner(9, 2), 6, ["b"], torch.tanh)}),
        ({"perhaps": {"inner": {"a": 9}, "names": ["x", "y"]}}, {2: Options(Inner(9), 1, ["x", "y"])}),
        ({"options": {"inner": {"b": 3}}}, {0: Options(Inner(5, 3), 6, ["b"], torch.tanh)}),
        ({"perhaps": {"names": "[x, y]"}}, {2: Options(names=["x", "y"])}),
        ({"several": {"one": {"inner": {"a": 9}}}}, {3: {"one": Options(Inner(9))}}),
        ({"gain": {"class_path": "test_specs.Gain"}}, {4: 1.0}),
        ({"gain": {"gain": 2, "options": {"scale": 9}}}, {4: 2.0, 5: Options(Inner(5), 9)}),
    ],
)
def test_a_dataclass_receives_what_is_given_and_else_the_default_of_python(given, received):
    spec = ActivationSpec({"class_path": "test_specs.Configured", "init_args": given})

    again = ActivationSpec(spec.to_dict())

    assert spec().received == again().received == [received.get(n, default) for n, default in enumerate(LEFT)]
    assert again.to_dict() == ActivationSpec(spec).to_dict() == spec.to_dict()


@dataclass
class DoubledWithMore(Doubled):
    more: float = 1.0


class Partly(nn.ReLU):
    def __init__(self, doubled: DoubledWithMore = DoubledWithMore(3.0)):  # noqa: B008
        super().__init__()


def test_a_part_of_a_dataclass_whose_fields_do_not_make_its_default_again_is_refused():
    with pytest.raises(ValueError, match=r"scale=6.*do not make it again: give all of them, also scale"):
        ActivationSpec({"class_path": "test_specs.Partly", "init_args": {"doubled": {"more": 2}}})


class HoldsDoubled:
    def __init__(self, doubled: Doubled = Doubled(3.0)):  # noqa: B008
        self.doubled = doubled


class Held(nn.ReLU):
    def __init__(self, holder: HoldsDoubled | None = None):
        super().__init__()


def test_a_default_that_jsonargparse_cannot_make_again_is_refused():
    with pytest.raises(ValueError, match=r"doubled: fields of Doubled\(scale=6.0\).*give all of them"):
        ActivationSpec(
            {"class_path": "test_specs.Held", "init_args": {"holder": {"class_path": "test_specs.HoldsDoubled"}}}
        )


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError("val/loss"), "KeyError: 'val/loss'"),
        (KeyError("no such arm"), "KeyError: 'no such arm'"),
        (IndexError(3), "IndexError: 3"),
        (ValueError("early"), "ValueError: early"),
        (AssertionError(), "AssertionError"),
        (ValueError("a value\n  is wrong"), "a value is wrong"),
    ],
)
def test_the_line_of_an_error_names_its_type_where_the_message_says_little(error, line):
    assert one_line(error) == line
