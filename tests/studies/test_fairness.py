"""Studies that repeat their comparison under other conditions."""

import json
from html import escape

import pytest
import yaml
from small_studies import Lines, Ran, study

from actbench.report import page
from actbench.report.exports import write_exports
from actbench.studies import Study, StudyError, compare, make_plan, planned_cells

LR = "model.optimizer.lr"


def planned(tmp_path, **section):
    given = Study.of(study(tmp_path, **section))
    return {(entry.network, entry.arm): entry.cell.config["model"] for entry in planned_cells(given)}


def test_every_arm_is_planned_under_every_condition(tmp_path):
    cells = planned(tmp_path, fairness={"init": ["as_is", "gain", "data"]})

    assert {key: config.get("init") for key, config in cells.items()} == {
        ("MLP", "relu"): None,
        ("MLP", "swish"): None,
        ("MLP, init gain", "relu"): "gain",
        ("MLP, init gain", "swish"): "gain",
        ("MLP, init data", "relu"): "data",
        ("MLP, init data", "swish"): "data",
    }


def test_the_first_entry_is_the_usual_way(tmp_path):
    cells = planned(tmp_path, fairness={"init": ["gain", "as_is"]})

    assert cells["MLP", "relu"]["init"] == "gain"
    assert "init" not in cells["MLP, init as_is", "relu"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"fairness": {"init": []}}, "study.fairness.init is a list of entries that are all different"),
        ({"fairness": {"init": ["gain", "gain"]}}, "all different"),
        ({"fairness": {"init": ["xavier"]}}, "xavier"),
        ({"fairness": {"tune": ["tuned", "shared"]}}, "give it in study.tune"),
        ({"tune": {LR: [0.1, 0.2]}, "fairness": {"tune": ["shared"]}}, "nothing would be tuned"),
        ({"fairness": {"inits": ["gain"]}}, "inits"),
    ],
)
def test_a_condition_that_makes_no_sense_is_refused(tmp_path, section, message):
    with pytest.raises(StudyError, match=message):
        Study.of(study(tmp_path, **section))


def test_init_is_given_once(tmp_path):
    given = study(tmp_path, fairness={"init": ["gain", "as_is"]})
    given["model"]["init"] = "data"

    with pytest.raises(StudyError, match="leave out one"):
        Study.of(given)


def test_a_study_under_three_conditions_says_whether_the_winner_changes(tmp_path):
    fairness = {"init": ["as_is", "gain"], "tune": ["tuned", "shared"]}
    given = study(tmp_path, replicates=2, tune={LR: [0.001, 0.01], "replicates": 1}, fairness=fairness)

    lines = Lines()

    results = compare(given, work=Ran(), progress=lines)

    scaled = "MLP, init gain: weights of 3 of 3 layers scaled, by a gain of 1.414 in the 2 that read torch.nn.ReLU"
    assert scaled in lines.said
    rates = {
        (network, arm): table["value"].unique().to_list()
        for (network, arm), table in results.table.group_by("network_name", "arm")
    }
    assert set(rates) == {
        (network, arm) for network in ("MLP", "MLP, init gain", "MLP, shared lr") for arm in ("relu", "swish")
    }
    assert rates["MLP, shared lr", "relu"] == rates["MLP, shared lr", "swish"] == [0.001]
    assert any("the winner" in line and "init gain" in line and "shared lr" in line for line in results.sentences)
    verdict = json.loads((tmp_path / "s" / "verdict.json").read_text())
    assert verdict["question"]["conditions"] == ["init gain", "shared lr"]
    assert len(verdict["comparisons"]) == 3

    folder = tmp_path / "s"
    write_exports(results, folder, "md")
    lines = (folder / "exports" / "conditions.md").read_text().splitlines()
    assert lines[2] == "| dataset | network | arm | against | as usual | init gain | shared lr |"
    assert lines[4].startswith("| FakeImages | MLP | swish | relu | ")
    shown = escape(results.sentences[-2])
    assert "the winner" in shown
    text = page(results, name="s")
    assert shown in text
    assert "on FakeImages with MLP under 3 conditions?" in text

    # The file of the study is the study, and nothing is trained again.
    again = Study.of(yaml.safe_load((tmp_path / "s" / "study.yaml").read_text()))
    ran = Ran()
    assert compare(again, work=ran, progress=Lines()).sentences == results.sentences
    assert ran == []


def test_cells_that_two_conditions_share_are_trained_once(tmp_path):
    given = study(tmp_path, tune={LR: [0.001, 0.01], "replicates": 1}, fairness={"tune": ["tuned", "shared"]})
    own = Study.of(given)

    # Before tuning, both conditions have the config's own value.
    plan = make_plan(own)

    assert len(plan.wanted) == 4
    assert plan.missing_replicates == 2 * 3
