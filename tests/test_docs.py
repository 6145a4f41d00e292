"""The examples of the documentation and of examples/ do what they say."""

import doctest
import runpy
import sys

import pytest
from conftest import ROOT

from actbench.studies import compare

EXAMPLES = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem == "small_resnet" else ())
    for path in sorted((ROOT / "examples").glob("*.py"))
]


@pytest.mark.filterwarnings("ignore")  # what a reader sees is what is tested
def test_the_examples_of_the_documentation_are_right(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

    result = doctest.testfile(str(ROOT / "docs" / "python.md"), module_relative=False, optionflags=flags)

    assert result.attempted > 20
    assert result.failed == 0


@pytest.mark.parametrize("path", EXAMPLES)
def test_an_example_runs(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(path.parent))
    study = runpy.run_path(str(path))["STUDY"]
    study["study"] |= {"replicates": 2, "timing_s": 0}
    study["trainer"] |= {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1, "limit_test_batches": 1}

    results = compare(study)

    assert set(results.table["arm"]) >= {"relu"}
    assert (tmp_path / "studies" / path.stem / "verdict.json").exists()
    sys.modules.pop(path.stem, None)
