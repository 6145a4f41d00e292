"""What is found of candidates, each in a process of its own, which no hook and no patch survives."""

import os
import re
import sys

import candidates
import numpy as np
import pytest
import torch

from actbench.judging.candidate import examine_candidate, global_state
from actbench.judging.child import RefusedError
from actbench.judging.ledger import same_values
from actbench.studies.cells.code import user_code


def send_found(pipe, name, environment):
    """Send what `examine_candidate` finds, or why it refuses."""
    os.environ.update(environment)
    path = name if "." in name else f"candidates.{name}"
    if name != "Learned":  # fewer curves to compare with
        sys.modules["actbench.activations.twins"].FAMILIES = ()
    state = global_state()
    try:
        pipe.send(examine_candidate(path, [*user_code([path])[0]], state))
    except RefusedError as error:
        pipe.send(str(error))


@pytest.fixture(scope="module")
def found(forked):
    """What `examine_candidate` finds, or why it refuses, in a process of its own."""

    def run(name, **environment):
        mine, theirs = forked.Pipe()
        process = forked.Process(target=send_found, args=(theirs, name, environment))
        process.start()
        theirs.close()
        result = mine.recv()
        process.join()
        return result

    return run


@pytest.mark.parametrize("name", ["Cubic", "torch.nn.GELU", "actbench.activations.Squareplus"])
def test_a_plain_function_is_known_by_its_values(name, found):
    result = found(name)

    assert len(result.values) == 2 * (2 * 101 + 8)
    assert result.notes == []


def test_values_and_slopes_are_those_of_the_function(found):
    inputs = torch.linspace(-11.97, 11.93, 89, dtype=torch.float64)

    result = found("torch.nn.Tanh")

    assert result.values[12:101] == pytest.approx(torch.tanh(inputs).tolist(), abs=1e-8)
    assert result.values[113:202] == pytest.approx((1 - torch.tanh(inputs) ** 2).tolist(), abs=1e-8)
    assert result.values[202:210] == [1, 1, 1, 1, -1, -1, -1, -1]  # from 300 to 100,000
    assert result.values[:210] == result.values[210:]


@pytest.mark.parametrize(
    ("name", "equals"),
    [
        ("SwishByAnotherName", "torch.nn.SiLU"),
        ("ReLUByAnotherName", "torch.nn.ReLU"),
    ],
)
def test_what_a_candidate_equals_in_the_catalogue_is_found(name, equals, found):
    assert equals in found(name).equals


def test_what_a_trainable_candidate_equals_is_said_to_be_so_at_first(found):
    assert found("Learned").equals == ["torch.nn.LeakyReLU(negative_slope=0.3) at first"]


def test_other_slopes_make_another_function(found):
    assert found("Surrogate").values[:101] == pytest.approx(found("torch.nn.ReLU").values[:101])
    assert found("Surrogate").values != found("torch.nn.ReLU").values
    assert "torch.nn.ReLU" not in found("Surrogate").equals


@pytest.mark.parametrize(
    "name", ["FallsBack", "WarmsUp", "WarmsUpSlowly", "ByPrecision", "Doubled", "OnlyBatches", "PerChannel"]
)
def test_what_is_another_function_elsewhere_is_not_known_by_its_values(name, found):
    result = found(name)

    assert not isinstance(result, str)
    assert result.values is None


def test_what_is_cut_off_far_out_is_another_function(found):
    cut, relu = found("CutFarOut"), found("torch.nn.ReLU")

    assert cut.values[:202] == relu.values[:202]
    assert cut.values != relu.values


def test_what_is_trained_is_known_by_what_it_becomes(found):
    learned = np.array(found("Learned").values)

    assert same_values(np.array(found("LearnedByAnotherName").values), learned)
    assert not same_values(np.array(found("LearnedSquared").values), learned)
    assert found("Learned").notes == []


@pytest.mark.parametrize("name", ["FromTheEnvironment", "PerChannelFromTheEnvironment"])
def test_what_the_environment_says_makes_another_candidate(name, found):
    first, again, other = (found(name, SLOPE=slope) for slope in ("0.1", "0.1", "0.2"))

    assert first == again
    assert (first.values, first.start) != (other.values, other.start)


@pytest.mark.parametrize(
    "name",
    [
        "compiled_candidates.CompiledAsItIsMade",
        pytest.param("compiled_candidates.Compiled", marks=pytest.mark.slow),
    ],
)
def test_what_is_compiled_is_examined_without_compiling(name, found):
    result = found(name)

    assert "torch.nn.SiLU" in result.equals
    assert result.notes == []
    assert result.values == pytest.approx(found("torch.nn.SiLU").values, abs=1e-6)


def test_lazy_parameters_are_made_by_the_network(found):
    result = found("Lazy")

    assert (result.values, result.notes) == (None, [])
    assert result.start == found("Lazy").start


def test_drawn_parameters_are_the_same_at_each_start(found):
    assert found("EachAnother").start == found("EachAnother").start
    assert found("EachAnother").values is None


@pytest.mark.parametrize(
    ("name", "notes"),
    [
        ("Noisy", ["in training, it is random, or depends on the seed", "it is another function in training"]),
        ("DeclaredNoisy", []),
        ("torch.nn.RReLU", []),
        ("NoisyAlways", ["in evaluation, it is random", "in training, it is random"]),
        ("OtherInTraining", ["it is another function in training than in evaluation"]),
        (
            "ByNumpy",
            ["in evaluation, it draws from outside of torch's generator", "in training, it draws from outside"],
        ),
        ("Counting", ["in evaluation, it draws from outside of torch's generator, or counts", "in training"]),
        ("EachAnother", ["each of its instances is another function"]),
        ("ReadsAsItIsMade", ["as it is made, it does more than that: open"]),
    ],
)
def test_what_a_reader_should_know_is_noted(name, notes, found):
    result = found(name)

    assert len(result.notes) >= len(notes) if notes else result.notes == []
    for note in notes:
        assert any(note in line for line in result.notes), result.notes


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("WrongShape", r"not an activation: it maps an input of shape \(2, 4, 2, 3\) to \(2, 24\)"),
        ("GivesNaN", "it gives NaN for inputs from -12 to 12"),
        ("Fails", r"candidates.Fails\(\): KeyError: 'nothing"),
        ("ReadsFiles", "while it computes, it does something else: open /etc/hostname"),
        ("LooksAtFrames", "while it computes, it does something else: sys._getframe"),
        ("LooksAtObjects", "while it computes, it does something else: gc.get_objects"),
        ("PatchesLosses", "it changes what is not its own: torch.nn.functional.cross_entropy"),
        ("ReturnsItsOwnTensors", "it returns a SeesLabels, which should be a plain tensor"),
        ("SetsThreads", "it changes what is not its own: environment variables"),
        ("SetsPrecision", "it changes what is not its own: .*torch.get_default_dtype"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_one_line(name, reason, found):
    result = found(name)

    assert isinstance(result, str)
    assert "\n" not in result
    assert re.search(reason, result), result


def test_infinities_far_out_are_no_reason_to_refuse(found):
    result = found("GrowsFast")

    assert not isinstance(result, str)
    assert result.values is None


def test_bytes_kept_are_counted(found):
    assert found("torch.nn.ReLU").saved_bytes == 0
    assert found("torch.nn.SiLU").saved_bytes == 4


def test_candidates_are_plain_modules():
    assert candidates.Cubic()(torch.zeros(3)).tolist() == [0, 0, 0]
