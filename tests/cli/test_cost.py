"""The command that measures activations."""

import csv
import json
import math
import re
import sys

import pytest
from conftest import ROOT
from made_studies import records, study

from actbench.activations import CATALOGUE, gaussian_moments, timing, trainable_parameters
from actbench.activations.saved_bytes import saved_bytes
from actbench.cli import cost, main
from actbench.cli.cards import COLUMNS, ELEMENTS
from actbench.report import figures

MY_ACTS = '''
import torch
from torch import nn

class Foo(nn.Module):
    """Foo: x·tanh(ln(1 + eˣ))."""
    def forward(self, x):
        return x * torch.tanh(nn.functional.softplus(x))

class Trained(nn.Module):
    """Trained: x·σ(βx)."""
    def __init__(self):
        super().__init__()
        self.beta = nn.Parameter(torch.tensor(1.25))
    def forward(self, x):
        return x * torch.sigmoid(self.beta * x)

class Wide(nn.Module):
    def forward(self, x):
        return torch.cat([x, x])

class Half(nn.Module):
    def forward(self, x):
        if x.dtype == torch.bfloat16:
            raise TypeError("not in half a word")
        return x.relu()

class Sum(nn.Module):
    def forward(self, x):
        return x + x.mean()

class Log(nn.Module):
    def forward(self, x):
        return x.log()

class Broken(nn.Module):
    def forward(self, x):
        raise RuntimeError("it is broken,\\nin two lines")

class Cut(nn.Module):
    def forward(self, x):
        return x.detach().relu()
'''
FAILING = {
    "Wide": "not an activation: it maps an input of shape (2, 4, 2, 3) to (4, 4, 2, 3)",
    "Half": "memory in bfloat16: not in half a word; time in bfloat16, eager: not in half a word",
    "Sum": "curve: Sum is not element-wise: each output has to depend on its own input alone",
    "Log": "it is not finite for some standard normal inputs",
    "Broken": "it is broken, in two lines",
    "Cut": "its output has no gradient",
}


@pytest.fixture
def my_acts(tmp_path, monkeypatch):
    """A module of the user's in the working directory, which is the test's."""
    (tmp_path / "my_acts.py").write_text(MY_ACTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("my_acts", None)


@pytest.fixture
def uncompiled(monkeypatch):
    """A machine without a compiler, on which few elements are measured for a short time: no test is about times."""
    monkeypatch.setattr(cost, "missing_compiler", lambda: "there is none")
    monkeypatch.setitem(ELEMENTS, "cpu", 2**12)
    monkeypatch.setattr(timing, "BLOCK_S", 1e-4)
    monkeypatch.setattr(cost, "prepare_process", lambda: None)  # of this process, which has other tests to run


@pytest.mark.slow  # it compiles; the others have no compiler
def test_json_has_every_number_with_its_interval(actbench, my_acts):
    result = actbench("cost", "--activations", "[silu, my_acts.Foo]", "--format", "json", "--seconds", 0.05)

    assert result.returncode == 0, result.stderr
    content = json.loads(result.stdout)
    silu, foo = content["activations"]
    assert set(silu) == set(foo) == set(COLUMNS) == set(content["columns"])
    assert (silu["formula"], silu["parameters"], silu["float32_bytes"], silu["bfloat16_bytes"]) == ("x·σ(x)", 0, 4, 2)
    assert (foo["formula"], foo["float32_bytes"]) == ("x·tanh(ln(1 + eˣ))", 8)
    assert foo["equals"] == "torch.nn.Mish, which keeps half the memory"
    assert silu["gain"] == pytest.approx(1.677, abs=1e-3)
    assert (silu["monotone"], silu["smoothness"], silu["high"]) == ("no", "smooth", None)
    for card in (silu, foo):
        assert card["problem"] is None
        names = [name for name in COLUMNS if f"{name}_low" in COLUMNS]
        assert len(names) == 9
        for name in names:
            assert 0 < card[f"{name}_low"] <= card[name] <= card[f"{name}_high"], name
    assert content["machine"]["threads"] == 1
    assert content["machine"]["compiled"]


@pytest.mark.slow
def test_several_are_compiled_ahead_by_other_processes(actbench, my_acts):
    names = ["relu", "mish", "my_acts.Foo", "my_acts.Broken"]

    result = actbench("cost", "--activations", f"[{', '.join(names)}]", "--format", "json", "--seconds", 0.05)

    assert result.returncode == 0, result.stderr
    assert "compiling" in result.stderr
    *sound, broken = json.loads(result.stdout)["activations"]
    assert all(card["bfloat16_compiled_copies"] > 0 for card in sound)
    assert broken["problem"] == "activation my_acts.Broken(): it is broken, in two lines"


def test_csv_has_the_same_columns(actbench, my_acts, monkeypatch):
    monkeypatch.setenv("PATH", str(my_acts))  # without a compiler

    result = actbench("cost", "--activations", "my_acts.Foo", "--format", "csv", "--seconds", 0.05)

    assert result.returncode == 0, result.stderr
    (foo,) = csv.DictReader(result.stdout.splitlines())
    assert list(foo) == list(COLUMNS)
    assert (foo["activation"], foo["high"], foo["float32_compiled_copies"]) == ("Foo", "inf", "")
    assert float(foo["float32_eager_copies"]) > 0


def test_markdown_has_a_table_and_the_machine(uncompiled, capsys):
    activations = "[relu, {class_path: Swish, init_args: {beta: 1.5}}]"
    network = ("--model.network", "MLP", "--input_shape", "3,4,4")

    assert main(["cost", "--activations", activations, "--format", "md", "--seconds", "0.05", *network]) == 0

    lines = capsys.readouterr().out.splitlines()
    head, _, relu, swish = (line.strip("| ").split(" | ") for line in lines if line.startswith("|"))
    cells = dict(zip(head, relu, strict=True))
    assert (cells["activation"], cells["bytes"], cells["gain"], cells["range"]) == ("relu", "0", "1.414", "0 to ∞")
    assert (cells["curve"], cells["compiled (copies)"]) == ("kinks at 0", "–")
    assert swish[0] == "Swish"
    assert lines[-1].startswith("measured ")
    assert lines[-1].endswith("step of actbench.networks.MLP(hidden=[128, 128]), inputs (64, 3, 4, 4)")


def test_what_fails_is_a_row_with_its_reason(my_acts, uncompiled, capsys):
    names = ", ".join(f"my_acts.{name}" for name in ["Trained", *FAILING])

    assert main(["cost", "--activations", f"[relu, {names}]", "--format", "json", "--seconds", "0.05"]) == 0

    cards = {card["activation"]: card for card in json.loads(capsys.readouterr().out)["activations"]}
    assert list(cards) == ["relu", "Trained", *FAILING]
    assert cards["relu"]["problem"] is None
    assert cards["Trained"]["parameters"] == 1
    assert cards["Trained"]["equals"] == "actbench.activations.Swish(beta=1.25) at its initial parameters"
    for name, reason in FAILING.items():
        assert reason in cards[name]["problem"]
        assert "\n" not in cards[name]["problem"]
    assert cards["Half"]["float32_bytes"] == 0
    assert cards["Half"]["float32_eager_copies"] > 0
    assert cards["Half"]["equals"] == "torch.nn.ReLU"
    assert cards["Sum"]["gain"] is None
    assert cards["Sum"]["step_share"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--activations [relu,swich]", "unknown activation 'swich': give a name or a class path; near it are"),
        ("--activations []", "--activations is an empty list"),
        ("--activations [my_acts.Food]", "module 'my_acts' has no attribute 'Food'; near it are my_acts.Foo"),
        ("--activations no_acts.Foo", "No module named 'no_acts'"),
        ("--activations [{name:_x}]", "an arm needs an activation"),
        ("--activations [{activation:_relu,_data.batch_size:_3}]", "settings such as data belong to a study's arms"),
        ("--format xml", "invalid choice: 'xml'"),
        ("--seconds 0", "--seconds is a positive number, got 0"),
        ("--seconds nan", "--seconds is a positive number, got nan"),
        ("--device toaster", "argument --device: invalid choice: 'toaster'"),
        ("--model.network Net", "unknown network 'Net'"),
        ("--model.network MLP --model.network.width 3", "unexpected width in init_args; accepted: hidden"),
        ("--model.activation relu", "cost has no option for model.activation"),
        ("--input_shape 3,a", "--input_shape is numbers such as 3,32,32"),
        ("--input_shape 40", "TutorialCNN fails for inputs of shape (40,): inputs must be images"),
        ("--study .", "not the folder of a study with records"),
        ("--colour red", "cost has no option for colour"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(my_acts, uncompiled, words, message, capsys):
    try:
        status = main(["cost", *(word.replace("_", " ") if "{" in word else word for word in words.split())])
    except SystemExit as exit:
        status = exit.code

    output = capsys.readouterr().err
    assert status == 2
    assert message in output
    assert output.startswith("error: ")
    assert output.count("\n") == 1


def test_without_a_list_the_whole_catalogue_is_measured():
    assert [name for name, _ in cost.named_activations(None, None, None, None)] == sorted(CATALOGUE)


def test_equal_names_are_told_apart():
    text = "[Swish, {class_path: swish, init_args: {beta: 1.5}}, {name: mine, activation: relu}]"

    named = cost.named_activations(text, None, None, None)

    assert [name for name, _ in named] == ["Swish", "swish(beta=1.5)", "mine"]


def test_the_card_in_the_documentation_is_that_of_the_catalogue():
    lines = [line for line in (ROOT / "docs" / "cost.md").read_text().splitlines() if line.startswith("| ")]
    start = next(number for number, line in enumerate(lines) if line.startswith("| activation |"))
    head, _, *rows = ([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[start:])

    cards = [dict(zip(head, row, strict=True)) for row in rows]

    assert [card["activation"].replace("\\_", "_") for card in cards] == sorted(CATALOGUE)
    for card, (_, entry) in zip(cards, sorted(CATALOGUE.items()), strict=True):
        module = entry.cls(**entry.init_args)
        assert float(card["bytes"]) == saved_bytes(module), card
        assert int(card["trainable"]) == trainable_parameters(entry)
        assert float(card["gain"]) == pytest.approx(gaussian_moments(module).gain, abs=5.1e-4)


# --- studies ---


def small_study(folder, **classes):
    """A study of two arms, whose activations have these class paths."""
    tables = [
        records(arm, accuracies, config=json.dumps({"model": {"activation": {"class_path": path}}}))
        for (arm, path), accuracies in zip(classes.items(), ([0.90, 0.92, 0.91], [0.95, 0.96, 0.94]), strict=True)
    ]
    return study(folder, tables, arms=tuple(classes), replicates=3)


def test_a_study_gives_its_arms_and_gets_a_picture(tmp_path, uncompiled, capsys, monkeypatch):
    small_study(tmp_path / "s", plain="torch.nn.ReLU", smooth="torch.nn.SiLU")
    monkeypatch.chdir(tmp_path)

    assert main(["cost", "--study", "s", "--format", "csv", "--seconds", "0.05"]) == 0

    output = capsys.readouterr()
    cards = list(csv.DictReader(output.out.splitlines()))
    assert [(card["activation"], card["class_path"]) for card in cards] == [
        ("plain", "torch.nn.ReLU"),
        ("smooth", "torch.nn.SiLU"),
    ]
    assert output.err.splitlines()[-1] == "s/exports/card.png"
    assert (tmp_path / "s" / "exports" / "card.png").read_bytes().startswith(b"\x89PNG")


def test_classes_of_a_study_are_not_imported_until_they_are_trusted(my_acts, uncompiled, capsys):
    small_study(my_acts / "s", relu="torch.nn.ReLU", foo="my_acts.Foo")

    assert main(["cost", "--study", "s"]) == 2
    message = "s names the class 'my_acts.Foo', which would be imported and run: if you trust it, add --trust my_acts"
    assert capsys.readouterr().err == f"error: {message}\n"
    assert "my_acts" not in sys.modules

    assert main(["cost", "--study", "s", "--trust", "my_acts", "--format", "csv", "--seconds", "0.05"]) == 0
    assert main(["cost", "--study", "s", "--activations", "relu"]) == 2
    assert "--study has its own activations" in capsys.readouterr().err


def test_a_study_whose_records_name_no_activation_is_refused(tmp_path, uncompiled, capsys):
    study(tmp_path, [records(arm, [0.9] * 3, config="{}") for arm in ("relu", "swish")], replicates=3)

    assert main(["cost", "--study", str(tmp_path)]) == 2

    assert capsys.readouterr().err == f"error: {tmp_path}: the records of relu do not name an activation\n"


def test_the_picture_has_accuracy_against_time_and_memory(tmp_path):
    results = small_study(tmp_path, plain="torch.nn.ReLU", smooth="torch.nn.SiLU")
    cards = {
        "plain": {"float32_eager_copies": 3.0, "float32_bytes": 0.0},
        "smooth": {"float32_eager_copies": 5.0, "float32_bytes": 4.0},
    }

    time, memory = figures.card_figures(results, cards)
    (lone,) = {figure.data["arm"].to_list()[0] for figure in figures.card_figures(results, {"smooth": cards["smooth"]})}

    assert time.data.select("arm", "cost", "front").rows() == [("plain", 3, True), ("smooth", 5, True)]
    assert memory.data["cost"].to_list() == [0, 4]
    assert time.data["accuracy"].to_list() == pytest.approx([91, 95])
    assert "plain (3 copies, 91.0 %)" in time.finding
    assert lone == "smooth"
    assert not math.isnan(memory.data["low"][0])
