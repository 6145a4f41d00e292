"""Arms whose networks are so wide that they have as many parameters as the baseline's."""

import pytest
import torch
from small_studies import Lines, Ran, study
from torch import nn

from actbench.networks import build_network
from actbench.specs import ActivationSpec, NetworkSpec
from actbench.studies import Study, StudyError, compare, make_plan, planned_cells

HEAVY = "test_widths.Heavy"
MATCHED = {"parameters": ["as_is", "matched"]}


class Heavy(nn.Module):
    """An activation of 2,000 parameters at each site."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2000))

    def forward(self, x):
        return torch.relu(x) * self.weight.mean()


class Foreign(nn.Module):
    """A network of someone's, whose width has a name of its own."""

    def __init__(self, num_classes: int = 10, units: int = 200, slope: float = 0.0):
        super().__init__()
        self.hidden, self.head = nn.Linear(64, units), nn.Linear(units, num_classes)

    def forward(self, x):
        return self.head(torch.relu(self.hidden(x.flatten(1))))


class Grouped(nn.Module):
    """A network whose groups have to divide its width."""

    def __init__(self, activation, input_shape, num_classes, width: int = 32):
        super().__init__()
        norm = nn.GroupNorm(4, width)
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, width), norm, activation(), nn.Linear(width, num_classes)
        )

    def forward(self, x):
        return self.layers(x)


class Huge(Heavy):
    """More parameters than any width makes up for."""

    def __init__(self):
        super().__init__()
        self.more = nn.Parameter(torch.zeros(10**6))


def planned(config):
    return {(entry.network, entry.arm): entry for entry in planned_cells(Study.of(config))}


def parameters_of_mlp(hidden):
    """Of 64 inputs, two hidden layers and ten classes."""
    return hidden**2 + (64 + 1 + 1 + 10) * hidden + 10


def test_an_arm_with_more_parameters_gets_a_narrower_network(tmp_path):
    config = study(tmp_path, activations=["relu", HEAVY], fairness=MATCHED)

    cells = planned(config)

    # h² + 76 h + 10 + 4,000 is nearest to 128² + 76 · 128 + 10 at h = 115.
    matched = cells["MLP, parameters matched", "Heavy"].matched
    assert matched.spec["init_args"]["hidden"] == [115, 115]
    assert (matched.parameters, matched.goal) == (parameters_of_mlp(115) + 4000, parameters_of_mlp(128))
    assert cells["MLP", "Heavy"].matched is None
    assert cells["MLP", "Heavy"].cell.config["model"]["network"]["init_args"]["hidden"] == [128, 128]


def test_the_baseline_may_be_any_arm(tmp_path):
    config = study(tmp_path, activations=["relu", HEAVY], baseline="Heavy", fairness=MATCHED)

    matched = planned(config)["MLP, parameters matched", "relu"].matched

    # h² + 76 h + 10 is nearest to 128² + 76 · 128 + 10 + 4,000 at h = 140.
    assert matched.spec["init_args"]["hidden"] == [140, 140]
    assert abs(parameters_of_mlp(140) - matched.goal) < abs(parameters_of_mlp(139) - matched.goal)


def test_numbers_of_parameters_are_matched_in_the_records_and_said(tmp_path):
    config = study(tmp_path, activations=["relu", HEAVY], fairness=MATCHED)
    ran, lines = Ran(), Lines()

    results = compare(config, work=ran, progress=lines)

    counts = {
        key: table["parameters"].unique().to_list() for key, table in results.table.group_by("network_name", "arm")
    }
    assert counts["MLP", "Heavy"] == [parameters_of_mlp(128) + 4000]
    assert counts["MLP, parameters matched", "Heavy"] == [parameters_of_mlp(115) + 4000]
    assert counts["MLP, parameters matched", "relu"] == counts["MLP", "relu"]
    assert [arm for arm, _ in ran] == ["ReLU", "Heavy", "Heavy"]  # the baseline is the same under both conditions
    said = "FakeImages/MLP, parameters matched/Heavy: hidden [115, 115], 25,975 parameters (-0.6%)"
    assert said in lines.said
    assert any("parameters matched" in line for line in results.sentences)


def test_the_width_of_a_network_of_ones_own_is_named(tmp_path):
    fairness = {**MATCHED, "width": "units"}
    config = study(tmp_path, activations=["relu", HEAVY], fairness=fairness)
    config["model"]["network"] = "test_widths.Foreign"

    matched = planned(config)["Foreign, parameters matched", "Heavy"].matched

    # 75 parameters a unit: 2,000 more are those of 27 units.
    assert matched.spec["init_args"]["units"] == 173
    built = build_network(
        NetworkSpec(matched.spec), ActivationSpec(HEAVY), input_shape=(1, 8, 8), num_classes=10, seed=0
    )
    assert matched.parameters == sum(parameter.numel() for parameter in built.parameters())


@pytest.mark.parametrize(
    ("network", "width", "message"),
    [
        ("TutorialCNN", None, "TutorialCNN has none of width, hidden"),
        ("MLP", "breadth", "MLP has no width breadth; study.fairness.width names the argument"),
        ("test_widths.Foreign", "slope", "Foreign has no width slope"),  # 0 cannot be scaled
    ],
)
def test_a_network_without_a_width_is_refused(tmp_path, network, width, message):
    config = study(tmp_path / "studies", fairness={**MATCHED, "width": width})
    config["model"]["network"] = network

    with pytest.raises(StudyError, match=message):
        compare(config)

    assert not list(tmp_path.iterdir())


def test_widths_that_a_network_does_not_take_are_passed_over(tmp_path):
    config = study(tmp_path, activations=["relu", {"class_path": "torch.nn.PReLU"}, HEAVY], fairness=MATCHED)
    config["model"]["network"] = {"class_path": "test_widths.Grouped", "init_args": {"width": 64}}

    cells = planned(config)

    # 77 parameters a unit: 2,000 more are those of 26 units, and 38 is no multiple of 4.
    assert cells["Grouped, parameters matched", "Heavy"].matched.spec["init_args"]["width"] in (36, 40)
    assert cells["Grouped, parameters matched", "PReLU"].matched.spec["init_args"]["width"] == 64


def test_an_arm_that_no_width_matches_is_refused(tmp_path):
    config = study(tmp_path, activations=["relu", "test_widths.Huge"], fairness=MATCHED)

    with pytest.raises(StudyError, match=r"arm Huge: .* no width comes near the baseline's 26,122"):
        planned(config)


def test_a_width_without_matching_is_refused(tmp_path):
    with pytest.raises(StudyError, match="belongs to parameters that are matched"):
        Study.of(study(tmp_path, fairness={"width": "hidden"}))


@pytest.mark.parametrize(("network", "default"), [("ConvNet", 32), ("ConvNet1d", 25), ("ResNet20", 16)])
def test_our_networks_take_a_width(network, default):
    shape = (1, 16) if network == "ConvNet1d" else (1, 8, 8)

    def count(**arguments):
        spec = NetworkSpec({"class_path": network, "init_args": arguments})
        built = build_network(spec, nn.ReLU, input_shape=shape, num_classes=10, seed=0)
        return sum(parameter.numel() for parameter in built.parameters())

    assert count() == count(width=default)
    assert count(width=default // 2) < count() < count(width=default + 1)
    with pytest.raises(ValueError, match="width must be at least 1"):
        NetworkSpec({"class_path": network, "init_args": {"width": 0}})(nn.ReLU, shape, 10)


def test_arms_with_the_same_number_of_parameters_are_trained_once(tmp_path):
    plan = make_plan(Study.of(study(tmp_path, fairness=MATCHED)))

    assert len(plan.wanted) == 4
    assert plan.missing_replicates == 2 * 3
