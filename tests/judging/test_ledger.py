import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actbench.judging.ledger import BLOCK, FIRST_SEED, Ledger, open_ledger, same_values
from actbench.judging.page import figures
from actbench.records import RecordError
from actbench.report.figures import render

STUDY = {"data": "Digits", "model": {"network": "MLP"}, "baseline": "relu"}
OPENED = {"candidate": "A", "source_digest": "a", "source": "", "class_path": "m.A", "values": [0.0, 1.0]}
OPENED |= {"start": "s", "notes": []}


@pytest.fixture
def ledger(tmp_path):
    return open_ledger(tmp_path / "ledger.json", STUDY, alpha=0.05, control=None, pairs=60)


def opened(ledger, number, **values):
    return ledger.with_event(
        "opened",
        number=number,
        **{**OPENED, "candidate": f"A{number}", "source_digest": f"a{number}", **values},
        equals=[],
        level=ledger.next_level,
        seed=ledger.start_seed(60, 0),
    )


def three_candidates(ledger):
    for number in (1, 2, 3):
        ledger = opened(ledger, number, values=[number, 1.0])
        verdict = "better" if number == 2 else "undecided"
        ledger = ledger.with_event("judged", number=number, verdict=verdict, pairs=60)
    return ledger.write()


def test_a_ledger_comes_back_as_it_was_written(ledger):
    written = three_candidates(ledger)

    read = Ledger.read(written.path)

    assert read == written
    assert [event["candidate"] for event in read.opened] == ["A1", "A2", "A3"]
    assert read.verdicts[2]["verdict"] == "better"


def test_a_ledger_that_does_not_exist_was_not_found(tmp_path):
    with pytest.raises(RecordError, match=r"none\.json was not found$"):
        Ledger.read(tmp_path / "none.json")


def test_a_second_start_continues_the_ledger(ledger):
    written = three_candidates(ledger)

    assert open_ledger(written.path, STUDY, alpha=0.05, control="fwer", pairs=60) == written


@pytest.mark.parametrize(
    ("study", "alpha", "control", "message"),
    [
        (STUDY, 0.1, None, "alpha 0.05, .*not 0.1"),
        (STUDY, 0.05, "fdr", "control fwer, .*not fdr"),
        ({**STUDY, "data": "MNIST"}, 0.05, None, "another study, with another data$"),
        ({**STUDY, "model": {"network": "MLP", "init": "gain"}}, 0.05, None, "another study, with another model.init"),
    ],
)
def test_a_ledger_of_something_else_is_refused(ledger, study, alpha, control, message):
    with pytest.raises(RecordError, match=message):
        open_ledger(ledger.path, study, alpha=alpha, control=control, pairs=60)


def change_verdict(content):
    content["events"][1]["verdict"] = "better"


def change_digest_too(content):
    from actbench.records import fingerprint

    event = content["events"][1]
    event["verdict"] = "better"
    del event["digest"]
    event["digest"] = fingerprint(event)


CHANGES = {
    "a verdict": change_verdict,
    "a verdict with its digest": change_digest_too,
    "alpha": lambda content: content.update(alpha=0.5),
    "the study": lambda content: content["study"].update(data="MNIST"),
    "a candidate less": lambda content: content["events"].pop(2),
    "another order": lambda content: content["events"].reverse(),
    "an event twice": lambda content: content["events"].append(content["events"][-1]),
    "no events": lambda content: content.pop("events"),
    "another format": lambda content: content.update(format=9),
    "events of another kind": lambda content: content.update(events=[1, 2]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_past_is_noticed(ledger, change):
    path = three_candidates(ledger).path
    content = json.loads(path.read_text())

    change(content)
    path.write_text(json.dumps(content))

    with pytest.raises(RecordError, match=r"ledger.json cannot be trusted: [^\n]+$"):
        Ledger.read(path)


def test_a_forgotten_end_is_noticed_by_the_studies_that_are_left(ledger):
    path = three_candidates(ledger).path
    content = json.loads(path.read_text())
    (path.with_suffix("") / "0003_A3").mkdir(parents=True)
    (path.with_suffix("") / "0003_A3" / "study.yaml").touch()
    Ledger.read(path)

    del content["events"][4:]
    path.write_text(json.dumps(content))

    with pytest.raises(RecordError, match="its end is missing, for it has 2 candidates"):
        Ledger.read(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"format": 1}', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_file_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "ledger.json"
    path.write_bytes(content)

    with pytest.raises(RecordError, match=r"cannot be trusted: [^\n]+$"):
        Ledger.read(path)


@pytest.mark.parametrize("content", [b"", b'{"events": []}', None])
def test_a_file_that_was_written_to_meanwhile_is_as_it_was(ledger, content):
    before = three_candidates(ledger)
    if content is None:
        before.path.unlink()
    else:
        before.path.write_bytes(content)

    with before.locked() as (now, intact):
        assert now == before
        assert not intact

    assert Ledger.read(before.path) == before


def test_a_file_that_is_damaged_loses_nothing_that_another_process_entered(ledger):
    mine = three_candidates(ledger)
    theirs = opened(mine, 4).write()
    mine.path.write_bytes(b"")

    with mine.locked() as (now, intact):
        assert now == theirs
        assert not intact

    assert Ledger.read(mine.path) == theirs


@pytest.mark.parametrize("content", [b"", b'{"format', None])
def test_a_file_that_was_damaged_is_written_again_at_the_next_start(ledger, content, capsys):
    before = three_candidates(ledger)
    if content is None:
        before.path.unlink()
    else:
        before.path.write_bytes(content)

    after = open_ledger(before.path, STUDY, alpha=0.05, control=None, pairs=60)

    assert after == Ledger.read(before.path) == before
    assert "ledger.json was damaged, and is again as " in capsys.readouterr().err


def test_a_link_leads_to_the_same_series(ledger, tmp_path):
    before = three_candidates(ledger)
    link = tmp_path / "elsewhere" / "link.json"
    link.parent.mkdir()
    link.symlink_to(before.path)

    opened(open_ledger(link, STUDY, alpha=0.05, control=None, pairs=60), 4).write()

    assert link.is_symlink()
    assert len(Ledger.read(before.path).opened) == len(Ledger.read(link).opened) == 4
    assert [*link.parent.iterdir()] == [link]


def test_where_no_ledger_can_lie_is_said_in_one_line(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(RecordError, match=r"file/below/ledger\.json cannot be written: Not a directory"):
        open_ledger(tmp_path / "file" / "below" / "ledger.json", STUDY, alpha=0.05, control=None, pairs=60)


def test_a_changed_past_is_no_damage(ledger):
    path = three_candidates(ledger).path
    content = json.loads(path.read_text())
    change_verdict(content)
    path.write_text(json.dumps(content))

    with pytest.raises(RecordError, match=r"past was changed, in event 2 or before; .*ledger.json is as it was$"):
        open_ledger(path, STUDY, alpha=0.05, control=None, pairs=60)


def test_a_forgotten_end_is_noticed_by_the_copy(ledger):
    path = three_candidates(ledger).path
    content = json.loads(path.read_text())
    del content["events"][4:]
    path.write_text(json.dumps(content))

    with pytest.raises(RecordError, match="its end is missing, which "):
        open_ledger(path, STUDY, alpha=0.05, control=None, pairs=60)


def test_a_copy_that_is_damaged_or_old_does_no_harm(ledger):
    old = (ledger.folder / "ledger.json").read_bytes()
    written = three_candidates(ledger)

    for content in (old, b"{"):
        (ledger.folder / "ledger.json").write_bytes(content)
        assert open_ledger(ledger.path, STUDY, alpha=0.05, control=None, pairs=60) == written


def test_what_another_process_appended_is_read(ledger):
    mine = three_candidates(ledger)
    theirs = opened(mine, 4).write()

    with mine.locked() as (now, intact):
        assert intact
        assert now == theirs


def test_levels_are_rounded_down_and_leave_the_rest(ledger):
    assert ledger.next_level == 0.024  # of .05 / (2.1098 * 2 * ln(2)^2) = .02466

    after = three_candidates(ledger)

    levels = [event["level"] for event in after.opened]
    assert levels == [0.024, 0.0065, 0.003]
    assert after.left == pytest.approx(0.05 - math.fsum(levels))


def test_with_fdr_a_candidate_that_is_better_earns_level(tmp_path):
    ledger = open_ledger(tmp_path / "l.json", STUDY, alpha=0.05, control="fdr", pairs=60)

    after = three_candidates(ledger)

    first, second, third = (event["level"] for event in after.opened)
    assert second < first < third
    assert after.discoveries == [2]
    assert after.left == after.next_level


def test_seeds_are_new_for_each_candidate_and_apart_from_the_studys(ledger):
    for number in range(1, 60):
        ledger = opened(ledger, number)

    seeds = sorted(event["seed"] for event in ledger.opened)
    assert len(set(seeds)) == 59
    assert min(np.diff(seeds)) >= 60
    assert all(seed % BLOCK == FIRST_SEED // BLOCK * BLOCK % BLOCK and seed % 32 == 0 for seed in seeds)
    assert min(seeds) > 60
    assert max(seeds) + 60 <= 10**9
    assert len(set(np.diff(seeds))) > 50  # no pattern


def test_no_two_ledgers_have_the_same_seeds(ledger):
    assert len({ledger.start_seed(60, 0) for _ in range(50)}) == 50


def test_candidates_are_found_by_source_and_by_values(ledger):
    after = three_candidates(ledger)

    after = after.with_event("refused", source_digest="b", reason="it exits")

    assert after.known("a2", None, "s") is None  # whose values were known then
    assert after.refusal("b", "it exits")["event"] == "refused"
    assert after.refusal("b", "it loops") is None
    assert after.known("b", [3 + 1e-7, 1.0], "s")["number"] == 3
    assert after.known("b", [3.1, 1.0], "s") is None


def test_of_candidates_with_the_same_values_that_with_the_same_source_is_found(ledger):
    for number, digest in enumerate("abb", 1):
        ledger = opened(ledger, number, source_digest=digest, values=[1.0])

    assert [ledger.known(digest, [1.0], "s")["number"] for digest in "abc"] == [1, 3, 1]


def test_without_values_source_and_start_have_to_be_the_same(ledger):
    ledger = opened(opened(ledger, 1, values=None), 2, source_digest="a1", values=None, start="t")

    assert ledger.known("a1", None, "s")["number"] == 1
    assert ledger.known("a1", None, "t")["number"] == 2
    assert ledger.known("a1", None, "u") is None
    assert ledger.known("a2", None, "s") is None


@settings(derandomize=True, max_examples=25)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5), st.floats(-1e-7, 1e-7))
def test_values_are_the_same_up_to_rounding(values, noise):
    values = np.array(values)

    assert same_values(values, values * (1 + noise))
    assert not same_values(values, values + 1e-5 * (1 + np.abs(values)))


def test_an_event_whose_values_json_changes_keeps_its_digest(ledger):
    after = ledger.with_event(
        "refused", candidate="A", source_digest="a", reason="ü\n", found=(1, 2), big=1e300
    ).write()

    assert Ledger.read(after.path).events == after.events


def test_a_ledger_is_never_half_written(ledger, monkeypatch):
    before = three_candidates(ledger)

    def no_space(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("actbench.records.files.os.fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        replace(before, events=[*before.events, *before.events]).write()

    assert Ledger.read(before.path) == before


def test_the_levels_of_candidates_are_drawn_one_by_one(ledger):
    levels = next(figure for figure in figures(three_candidates(ledger)) if figure.name == "levels")

    drawn = render([levels], "svg").decode()

    assert re.findall(r">(\d+)</text>", drawn) == ["1", "2", "3"]
    assert levels.data["level"].to_list() == [0.024, 0.0065, 0.003]
