"""One candidate after the other, against a baseline, in processes that may do anything."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest
from conftest import ROOT

from actbench.cli.main import main
from actbench.judging import EndedError, Ledger, WrongInputError, as_json, child, judge, series, trial
from actbench.records import RecordError
from actbench.studies import MissingError

STUDY = {
    "model": {"network": "MLP"},
    "data": {"class_path": "FakeImages", "init_args": {"rows": 300}},
    "trainer": {"max_epochs": 1, "accelerator": "cpu"},
    "study": {"activations": ["relu"], "replicates": 16, "timing_s": 0},
}


def answer_with_pages(*arguments):
    """`answer_requests` with fewer curves to compare with."""
    sys.modules["imported"].draw_nothing()
    sys.modules["actbench.activations.twins"].FAMILIES = ()
    child.answer_requests(*arguments)


def answer_quickly(*arguments):
    """`answer_requests` without pages, and with fewer curves to compare with."""
    sys.modules["actbench.judging.trial"].write_page = lambda results, folder: None
    answer_with_pages(*arguments)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch, forked):
    """A folder of its own, and processes that are forked, so that they need not import torch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(child, "CONTEXT", forked)
    monkeypatch.setattr(series, "CHECKS_S", 300.0)  # on a machine that does much else
    monkeypatch.setattr(child, "answer_requests", answer_quickly)  # the forked process has the original one


def judged(name, **options):
    path = name if "." in name or not name[0].isupper() else f"candidates.{name}"
    return judge(path, STUDY, "ledger.json", **options)


def exit_with(name):
    os._exit(judged(name).exit_status)


def test_a_candidate_is_judged_and_found_again(tmp_path, monkeypatch):
    monkeypatch.setitem(STUDY, "study", {**STUDY["study"], "replicates": {"min": 8, "max": 16, "batch": 8}})

    first = judged("Cubic")
    again = judged("Cubic")

    scores = pl.read_parquet(tmp_path / "ledger/0001_Cubic/records.parquet").sort("seed").partition_by("arm")
    own, baseline = (table["test_accuracy"].to_numpy() for table in sorted(scores, key=lambda table: table["arm"][0]))
    assert first.difference == pytest.approx((own - baseline).mean())
    assert (first.number, first.judged_before, first.pairs) == (1, 0, 16)
    assert first.low < first.difference < first.high
    assert first.confidence == 1 - 0.024
    assert first.level.spent == 0.024
    assert first.level.left == pytest.approx(0.026)
    assert first.same_as is None
    assert again.same_as == "candidate 1 (Cubic)"
    assert again._replace(seconds=0, same_as=None) == first._replace(seconds=0)
    assert json.loads(as_json(first))["candidate"] == "Cubic"


def test_the_page_and_the_study_lie_beside_the_ledger(tmp_path, monkeypatch):
    monkeypatch.setattr(child, "answer_requests", answer_with_pages)

    answer = judged("Cubic")

    assert "<b>0001_Cubic</b>" in (tmp_path / answer.page).read_text()
    (event,) = Ledger.read(tmp_path / "ledger.json").opened
    assert f"seed_everything: {event['seed']}" in (tmp_path / "ledger/0001_Cubic/study.yaml").read_text()
    assert "class Cubic(nn.Module)" in event["source"]


def test_the_same_function_under_another_name_is_answered_from_the_ledger():
    judged("torch.nn.SiLU")

    answer = judged("SwishByAnotherName")

    assert answer.same_as == "candidate 1 (SiLU)"
    assert answer.number == 1
    assert answer.level.spent == 0.024
    assert "torch.nn.SiLU" in answer.equals
    assert len(Ledger.read(series.Path("ledger.json")).opened) == 1


@pytest.mark.parametrize("name", ["relu", "ReLUByAnotherName", "torch.nn.ReLU"])
def test_the_baseline_itself_is_equivalent_and_spends_nothing(name):
    answer = judged(name)

    assert (answer.verdict, answer.exit_status, answer.level.spent) == ("equivalent", 10, 0)
    assert answer.same_as == "the baseline relu"


@pytest.mark.parametrize(
    ("baseline", "name"),
    [
        ("prelu", "torch.nn.PReLU"),
        pytest.param("rrelu", "rrelu", marks=pytest.mark.slow),
        ("candidates.Learned", "LearnedByAnotherName"),
    ],
)
def test_a_trainable_or_random_baseline_is_known_again(baseline, name, monkeypatch):
    monkeypatch.setitem(STUDY, "study", {**STUDY["study"], "activations": [baseline]})

    assert judged(name).verdict == "equivalent"
    assert not Ledger.read(series.Path("ledger.json")).opened


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("WrongShape", "not an activation"),
        ("GivesNaN", "it gives NaN"),
        ("Fails", "nothing"),
        ("Exits", "while it was examined, it ended the process with status 7"),
        ("Aborts", "while it was examined, its process died with SIGABRT"),
        ("Loops", "while it was examined, it took more than 1 s"),
        ("WritesToTheLedger", "the ledger's file was changed while it ran, and is as it was before"),
        ("PatchesLosses", "it changes what is not its own"),
        ("PatchesInTheNetwork", "it changes what is not its own: torch.nn.functional.softsign"),
    ],
)
def test_a_broken_candidate_is_refused_spends_nothing_and_harms_nothing(name, reason, monkeypatch):
    ask = child.Child.ask

    def hurried(self, request, limit_s=None, **arguments):
        return ask(self, request, 1.0 if request == "examine" else limit_s, **arguments)

    if name == "Loops":
        monkeypatch.setattr(child.Child, "ask", hurried)

    answer = judged(name)

    assert (answer.verdict, answer.exit_status, answer.number) == ("refused", 2, None)
    assert reason in answer.sentence
    assert answer.level.left == 0.05
    assert [event["event"] for event in Ledger.read(series.Path("ledger.json")).events] == ["refused"]


def test_what_was_refused_is_refused_again_and_entered_once():
    first, again = judged("WrongShape"), judged("WrongShape")

    assert again.sentence == first.sentence
    assert len(Ledger.read(series.Path("ledger.json")).events) == 1


def test_a_candidate_that_spoils_the_baseline_while_it_is_trained_is_undecided():
    answer = judged("PatchesInTraining")

    assert (answer.verdict, answer.exit_status, answer.pairs, answer.page) == ("undecided", 12, 0, None)
    assert answer.sentence == "Undecided: it changes what is not its own: torch.nn.modules.activation.ReLU.forward."
    assert answer.level.spent == 0.024


def test_where_reading_the_study_is_slow_a_candidate_has_more_time(monkeypatch):
    monkeypatch.setattr(series, "CHECKS_S", 0.001)
    monkeypatch.setattr(series, "SLOWER", 1000)

    assert judged("relu").verdict == "equivalent"


@pytest.mark.parametrize(
    ("baseline", "candidate", "margin", "verdict", "status", "failures"),
    [
        ("relu", "Dead", 0.005, "worse", 11, (8, 0)),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("candidates.Dead", "relu", 0.005, "better", 0, (0, 8)),
                ("relu", "gelu", 0.3, "equivalent", 10, None),
            )
        ),
    ],
)
def test_verdicts_are_what_everybody_knows(baseline, candidate, margin, verdict, status, failures, monkeypatch):
    monkeypatch.setitem(STUDY, "data", {"class_path": "Digits"})
    monkeypatch.setitem(STUDY, "trainer", {"max_epochs": 3, "accelerator": "cpu"})
    study = {"activations": [baseline], "replicates": 8, "timing_s": 0, "margin": margin}
    monkeypatch.setitem(STUDY, "study", study)

    answer = judged(candidate)

    assert (answer.verdict, answer.exit_status) == (verdict, status)
    assert (answer.failures and answer.failures[:2]) == failures
    assert (abs(answer.difference) > 0.5) == (failures is not None)


def test_neither_seeds_nor_scores_are_told_before_the_answer(capfd):
    own = trial.Trial("candidates.Cubic", STUDY)
    own.start()
    own.identify()

    own.train(level=0.02, seed=7_654_400, root="ledger", name="0001_Cubic")

    said = capfd.readouterr()
    assert "2/2 FakeImages/MLP/Cubic" in said.err
    assert "7654400" not in said.out + said.err
    assert "accuracy" not in said.out + said.err


def test_what_was_interrupted_goes_on_with_the_same_seeds_and_level(monkeypatch):
    answer = child.Child.ask

    def killed(self, request, *arguments, **options):
        if request == "train":
            os.kill(self.process.pid, signal.SIGKILL)
        return answer(self, request, *arguments, **options)

    monkeypatch.setattr(child.Child, "ask", killed)
    with pytest.raises(EndedError, match="SIGKILL"):
        judged("Cubic")
    (opened,) = Ledger.read(series.Path("ledger.json")).events
    monkeypatch.setattr(child.Child, "ask", answer)

    done = judged("Cubic")

    events = Ledger.read(series.Path("ledger.json")).events
    assert events[0] == opened
    assert [event["event"] for event in events] == ["opened", "judged"]
    assert done.number == 1
    assert f"seed_everything: {opened['seed']}" in series.Path("ledger/0001_Cubic/study.yaml").read_text()


def test_a_candidate_whose_time_is_over_is_undecided_and_goes_on_with_more():
    trained = series.trained

    def too_late(process, book, event, limit_s, start_s):
        return trained(process, book, event, 0.001, start_s)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(series, "trained", too_late)
        answer = judged("Cubic", limit_s=100)

    assert (answer.verdict, answer.number, answer.pairs) == ("undecided", 1, 0)
    assert "the time of 100 s is over" in answer.sentence
    assert judged("Cubic").pairs == 16


def test_two_callers_share_one_ledger(tmp_path):
    with ThreadPoolExecutor() as pool:
        answers = [*pool.map(judged, ["Cubic", "Cubic", "torch.nn.SiLU"])]

    ledger = Ledger.read(tmp_path / "ledger.json")
    assert sorted(event["candidate"] for event in ledger.opened) == ["Cubic", "SiLU"]
    assert len(ledger.verdicts) == 2
    assert sum(event["level"] for event in ledger.opened) == pytest.approx(0.024 + 0.0065)
    assert answers[0].difference == answers[1].difference


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fairness": {"init": ["as_is", "gain"]}}, "study.fairness asks several questions"),
        ({"comparisons": "all"}, "no other comparisons"),
        ({"networks": ["MLP", "TutorialCNN"]}, "in one network"),
        ({"baseline": "mish"}, "study.baseline: mish is not among the arms relu"),
        ({"replicates": 0}, "replicates"),
        ({"nonsense": 1}, "nonsense"),
        ({"replicates": 4}, "4 pairs cannot show a difference at level 0.024, .* gives p >= 0.12; 7 or more could"),
    ],
)
def test_a_study_that_cannot_judge_is_refused_before_a_ledger_begins(changes, message, tmp_path):
    study = {**STUDY, "study": {**STUDY["study"], **changes}}

    with pytest.raises(WrongInputError, match=message):
        judge("candidates.Cubic", study, "ledger.json")

    assert not (tmp_path / "ledger.json").exists()


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        ("candidates.Nothing", "no attribute 'Nothing'"),
        ("nowhere.Cubic", "nowhere"),
        ("swich", "unknown activation 'swich'"),
        ("candidates.os", "is not a subclass"),
        (["relu"], "a candidate is a name"),
        ({"activation": "relu", "name": "r"}, "a candidate is a name"),
    ],
)
def test_a_candidate_that_was_not_found_is_refused_in_one_line(candidate, message):
    with pytest.raises(WrongInputError, match=message) as error:
        judge(candidate, STUDY, "ledger.json")

    assert "\n" not in str(error.value)


@pytest.fixture
def untrained(monkeypatch):
    """Candidates are opened, but their training fails."""
    ask = child.Child.ask

    def failing(self, request, *arguments, **options):
        if request == "train":
            raise child.RefusedError("its training failed: KeyError: 3")
        return ask(self, request, *arguments, **options)

    monkeypatch.setattr(child.Child, "ask", failing)


@pytest.mark.usefixtures("untrained")
def test_a_candidate_has_arguments_and_may_be_a_class():
    from candidates import Learned

    first = judge({"class_path": "candidates.Learned", "init_args": {"slope": 0.2}}, STUDY, "ledger.json")
    other = judge(Learned, STUDY, "ledger.json")

    assert (first.candidate, first.number) == ("Learned(slope=0.2)", 1)
    assert (other.candidate, other.number) == ("Learned", 2)


def test_another_study_is_refused():
    judged("relu")

    with pytest.raises(RecordError, match=r"another study, with another trainer\.max_epochs"):
        judge("candidates.Cubic", {**STUDY, "trainer": {"max_epochs": 2}}, "ledger.json")


def test_where_cells_run_and_lie_makes_no_other_study():
    judged("relu")

    moved = {
        **STUDY,
        "trainer": {**STUDY["trainer"], "accelerator": "auto"},
        "study": {**STUDY["study"], "root": "elsewhere", "name": "other", "timing_s": 1},
    }

    assert judge("relu", moved, "ledger.json").verdict == "equivalent"


def test_the_command_prints_one_line_and_its_status_is_the_verdict(capfd, tmp_path, monkeypatch):
    monkeypatch.setattr(child, "answer_requests", answer_with_pages)
    (tmp_path / "study.yaml").write_text(json.dumps(STUDY))
    options = ["--config", "study.yaml", "--ledger", "own/ledger.json"]

    assert main(["judge", "relu", *options]) == 10
    (line,) = capfd.readouterr().out.splitlines()
    assert json.loads(line)["verdict"] == "equivalent"

    assert main(["judge", "candidates.GivesNaN", *options]) == 2
    (line,) = capfd.readouterr().out.splitlines()
    assert json.loads(line)["verdict"] == "refused"

    status = main(["judge", "candidates.Cubic", *options, "--study.replicates", "2"])
    assert status == 2
    assert "another study, with another study.replicates" in capfd.readouterr().err

    status = main(["judge", "candidates.Cubic", *options])
    (line,) = capfd.readouterr().out.splitlines()
    answer = json.loads(line)
    assert status == {"better": 0, "equivalent": 10, "worse": 11, "undecided": 12}[answer["verdict"]]
    assert (tmp_path / answer["page"]).exists()

    assert main(["judge", "--list", "--ledger", "own/ledger.json"]) == 0
    shown = capfd.readouterr().out
    assert "Cubic" in shown
    assert "1 candidate against relu" in shown
    page = (tmp_path / "own/ledger.html").read_text()
    assert "0001_Cubic/report.html" in page
    assert page.count("<svg") == 2


@pytest.mark.usefixtures("untrained")
def test_what_its_arguments_and_files_hold_makes_another_candidate(tmp_path):
    (tmp_path / "slopes.txt").write_text("0.5")
    (tmp_path / "inner.py").write_text("import torch\nfrom torch import nn\n" + INNER.format("torch.sin(x)"))
    (tmp_path / "table.py").write_text(TABLE)
    wrapped = {"class_path": "candidates.Wraps", "init_args": {"inner": {"class_path": "inner.Inner"}}}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        answers = [judge(candidate, STUDY, "ledger.json") for candidate in (wrapped, "table.Table")]
        (tmp_path / "inner.py").write_text("import torch\nfrom torch import nn\n" + INNER.format("torch.cos(x)"))
        (tmp_path / "slopes.txt").write_text("0.7")
        answers += [judge(candidate, STUDY, "ledger.json") for candidate in (wrapped, "table.Table")]

    assert [answer.number for answer in answers] == [1, 2, 3, 4]
    assert all(answer.same_as is None for answer in answers)


INNER = """
class Inner(nn.Module):
    def forward(self, x):
        return {}
"""
TABLE = """
from pathlib import Path
from torch import nn, where

class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = float((Path(__file__).parent / "slopes.txt").read_text())

    def forward(self, x):
        return where(x > 0, x, self.slope * x)
"""


@pytest.mark.slow
def test_a_process_that_imports_everything_itself_judges_on_the_digits(tmp_path):
    """Reading data imports what changes the environment, which is not the candidate's doing."""
    (tmp_path / "study.yaml").write_text(json.dumps({**STUDY, "data": "Digits"}))
    command = [sys.executable, ROOT / "main.py", "judge", "gelu", "--config", "study.yaml"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KMP_")}

    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    (line,) = done.stdout.splitlines()
    assert json.loads(line)["number"] == 1
    assert json.loads(line)["pairs"] == 16
    assert done.returncode in (0, 10, 11, 12)


@pytest.mark.parametrize("name", ["ledger", "l.html", "l.txt"])
def test_a_ledger_is_a_json_file(name):
    with pytest.raises(RecordError, match=r"a ledger is a file such as ledger\.json"):
        judge("relu", STUDY, name)


def test_folders_of_others_beside_the_ledger_do_no_harm(tmp_path):
    (tmp_path / "ledger" / "2024_data").mkdir(parents=True)
    (tmp_path / "ledger" / "2nd_run").mkdir()

    assert judged("relu").verdict == "equivalent"


def test_data_or_code_that_changed_make_another_series(tmp_path):
    (tmp_path / "my_network.py").write_text("from actbench.networks import MLP\n\nclass Net(MLP):\n    pass\n")
    study = {**STUDY, "model": {"network": "my_network.Net"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        assert judge("relu", study, "ledger.json").verdict == "equivalent"

        with (tmp_path / "my_network.py").open("a") as file:
            file.write("# changed\n")
        with pytest.raises(RecordError, match=r"with another content\.code\.my_network"):
            judge("relu", study, "ledger.json")


FAILURES = {
    "its own": (
        ["FakeImages/MLP/Cubic seeds 64-71: KeyError: 3"],
        "its training failed: FakeImages/MLP/Cubic: KeyError: 3",
    ),
    "others": (["Fake/MLP/relu seeds 64-71: OSError", "Fake/MLP/Cubic seeds 64-71: OSError"], None),
}


@pytest.mark.parametrize(("failures", "refusal"), FAILURES.values(), ids=FAILURES)
def test_only_failures_of_the_candidate_alone_are_its_fault(failures, refusal, monkeypatch):
    def fail(*_, **__):
        raise MissingError(failures)

    monkeypatch.setattr(trial, "compare", fail)
    own = trial.Trial("candidates.Cubic", STUDY)
    own.start()
    own.identify()

    kind, message = own.answer("train", {"level": 0.02, "seed": 7_654_400, "root": "ledger", "name": "0001"})

    assert kind == ("refused" if refusal else "fault")
    assert message == refusal or "the same command tries again" in message
    assert "64-71" not in message


@pytest.mark.usefixtures("untrained")
def test_a_candidate_whose_training_fails_is_undecided_and_has_spent_its_level():
    answer = judged("Cubic")

    assert (answer.verdict, answer.number, answer.level.spent) == ("undecided", 1, 0.024)
    assert answer.sentence == "Undecided: its training failed: KeyError: 3."
    assert judged("Cubic").sentence == answer.sentence


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "which candidate?"),
        (["--config", "relu"], "Name it first"),
        (["relu", "--list"], "--list takes --ledger alone"),
        (["--list", "--ledger", "none.json"], "none.json"),
        (["relu", "--control", "both"], "both"),
        (["relu", "--limit_s", "-1"], "limit_s is a number of seconds above 0"),
        (["relu", "--config", "none.yaml"], "file none.yaml not found"),
        (["relu", "--data", "FakeImages", "--self_test"], "judge has no --self_test, which compare has"),
        (["relu", "--data", "FakeImages", "--dry_run"], "judge has no --dry_run, which compare has"),
    ],
)
def test_wrong_options_end_in_one_line(options, message, capfd):
    try:
        status = main(["judge", *options])
    except SystemExit as exit:
        status = exit.code

    said = capfd.readouterr()
    assert status == 2
    assert said.out == ""
    assert message in said.err
    assert len(said.err.splitlines()) == 1


class SlowToImport:
    __spec__ = None  # asked for by the import system, which passes over errors

    def __getattr__(self, name):
        while True:
            time.sleep(0.1)


def ask_slowly(pipe):
    sys.modules["actbench.judging.trial"] = SlowToImport()
    child.CONTEXT = multiprocessing.get_context("fork")  # from a process without threads, so that it has the pipe too
    with child.Child("gelu", STUDY) as asked:
        pipe.send(asked.process.pid)
        asked.ask("start")


def interrupt_slowly(pipe, number):
    """Send a signal to a process that answers nothing, as whoever wants the machine for something else may do."""
    sys.modules["actbench.judging.trial"] = SlowToImport()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which may have been ignored, as in the background
    child.CONTEXT = multiprocessing.get_context("fork")
    with child.Child("gelu", STUDY) as asked:
        threading.Timer(1, os.kill, (asked.process.pid, number)).start()
        try:
            asked.ask("train")
        except EndedError as error:
            pipe.send((str(error), error.killed))


@pytest.mark.parametrize("name", [pytest.param("SIGINT", marks=pytest.mark.slow), "SIGTERM", "SIGKILL"])
def test_a_signal_to_the_process_that_trains_is_not_the_candidates_fault(name, forked):
    mine, theirs = forked.Pipe()
    process = forked.Process(target=interrupt_slowly, args=(theirs, signal.Signals[name]))
    process.start()

    assert mine.poll(60)
    assert mine.recv() == (f"its process died with {name}", True)
    process.join()


def test_a_training_that_a_signal_ended_goes_on(monkeypatch):
    ask = child.Child.ask

    def interrupted(self, request, *arguments, **options):
        if request == "train":
            threading.Timer(1.5, os.kill, (self.process.pid, signal.SIGTERM)).start()
        return ask(self, request, *arguments, **options)

    monkeypatch.setattr(child.Child, "ask", interrupted)
    monkeypatch.setitem(STUDY, "trainer", {"max_epochs": 10_000, "accelerator": "cpu"})
    with pytest.raises(EndedError, match="its process died with SIGTERM") as error:
        judged("Cubic")

    assert error.value.killed
    assert not Ledger.read(series.Path("ledger.json")).verdicts


def test_whoever_is_killed_leaves_nobody_behind(forked):
    mine, theirs = forked.Pipe()
    process = forked.Process(target=ask_slowly, args=(theirs,))
    process.start()
    theirs.close()
    assert mine.recv() != process.pid

    process.kill()
    process.join()

    assert mine.poll(60)
    with pytest.raises(EOFError):  # nobody has the other end
        mine.recv()
