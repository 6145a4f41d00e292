"""What the program says of itself."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from actbench.cli.main import COMMANDS, main


def test_help_is_quick_names_every_command_and_imports_nothing_heavy():
    code = "import sys; from actbench.cli import main; main(['--help']); print(sorted(sys.modules))"
    start = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start

    text, modules = result.stdout.rsplit("\n", 2)[:2]
    assert all(re.search(rf"^  {command} +\w", text, re.MULTILINE) for command in COMMANDS)
    assert not {"torch", "pytorch_lightning", "jsonargparse", "numpy"} & set(re.findall(r"'(\w+)'", modules))
    assert seconds < 1


def test_fit_help_lists_our_options_before_the_trainers(actbench):
    text = actbench("fit", "--help").stdout  # a process, in which no test has defined callbacks, which it would list

    places = [text.index(option) for option in ("--model.activation ", "--data ", "--trainer.accelerator ")]
    assert places == sorted(places)
    assert f"\n{COMMANDS['fit']}\n" in text
    assert len(text.splitlines()) < 600


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["help"]])
def test_help_exits_with_0(capsys, args):
    assert main(args) == 0
    assert "usage:" in capsys.readouterr().out


def test_the_program_has_three_names(tmp_path):
    expected = subprocess.run([sys.executable, ROOT / "main.py", "--version"], capture_output=True, text=True).stdout
    module = subprocess.run([sys.executable, "-m", "actbench", "--version"], capture_output=True, text=True).stdout
    script = Path(sys.executable).with_name("actbench")

    assert expected.startswith("actbench ")
    assert module == expected
    assert subprocess.run([script, "--version"], capture_output=True, text=True, cwd=tmp_path).stdout == expected


def test_activations_are_listed_with_formula_parameters_and_source(capsys):
    assert main(["activations"]) == 0

    lines = capsys.readouterr().out.splitlines()
    (prelu,) = [line for line in lines if line.split()[:1] == ["prelu"]]
    assert len(lines) > 40
    assert " 1 " in prelu
    assert " 1.372 " in prelu  # by hand: 1/√((1 + .25²)/2)
    assert "2015" in prelu


def test_activations_take_no_options(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["activations", "relu"])

    assert capsys.readouterr().err == "error: unrecognized arguments: relu\n"
