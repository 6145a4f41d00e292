"""A study trains all arms of one kind by one engine, and says which."""

import pytest
import torch
import yaml
from small_studies import Lines, run, study
from torch import nn

from actbench.inference.verdict import Comparison
from actbench.inference.verdict.evidence import paired_cost
from actbench.records import table as records
from actbench.studies import compare


class Counting(nn.Module):
    """Counts its calls, which no stack can follow."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return torch.tanh(x)


COUNTING = "test_engines.Counting"


def engines(table):
    return dict(table.select("arm", "engine").unique().iter_rows())


def test_small_networks_are_stacked_and_their_files_say_so(tmp_path):
    table, _, _ = run(tmp_path)

    assert engines(table) == {"relu": "stack", "swish": "stack"}
    assert table["engine_reason"].str.starts_with("small networks are faster together").all()
    (arm,) = tmp_path.glob("s/arms/swish.yaml")
    assert yaml.safe_load(arm.read_text())["model"]["engine"] == "stack"


@pytest.mark.parametrize("arms", [["relu", COUNTING], [COUNTING, "relu"]])
def test_an_arm_that_cannot_be_stacked_takes_the_others_with_it(tmp_path, arms):
    table, _, said = run(tmp_path, activations=arms, baseline="relu")

    assert set(engines(table).values()) == {"sequence"}
    (line,) = (line for line in said if "all arms are trained one after another" in line)
    assert "its code changes calls as it runs" in line
    assert table["engine_reason"].str.contains("its code changes calls as it runs").all()


def test_an_arm_that_is_added_is_trained_as_those_that_are_finished(tmp_path):
    run(tmp_path, activations=["relu", COUNTING])

    table, ran, _ = run(tmp_path, activations=["relu", COUNTING, "tanh"])

    assert [name for name, _ in ran] == ["Tanh"]
    assert set(engines(table).values()) == {"sequence"}


def test_times_of_two_engines_are_not_compared(tmp_path):
    run(tmp_path, activations=["relu", "tanh"])

    table, _, said = run(tmp_path, activations=["relu", "tanh", COUNTING])

    assert engines(table) == {"relu": "stack", "tanh": "stack", "Counting": "sequence"}
    assert any("times are not compared" in line for line in said)
    costs = {
        arm: paired_cost(table, Comparison("FakeImages", "MLP", arm, "relu"), alpha=0.05)
        for arm in ("tanh", "Counting")
    }
    assert costs["tanh"] is not None
    assert costs["Counting"] is None


def test_an_engine_that_the_study_names_is_used(tmp_path):
    config = study(tmp_path)
    config["model"]["engine"] = "sequence"

    table = compare(config, progress=Lines()).table

    assert set(engines(table).values()) == {"sequence"}
    assert table["engine_reason"].unique().to_list() == ["model.engine names it"]


def test_records_of_before_have_no_engine(tmp_path):
    finished, _, _ = run(tmp_path)
    old = finished.drop("engine", "engine_reason", "arm", "dataset_name", "network_name")

    read = records.from_bytes(records.to_bytes(old))

    assert read["engine"].null_count() == len(read)
    assert read.columns == [*records.COLUMNS]
