"""A program that proposes forty candidates, and is killed again and again."""

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from actbench.judging import Ledger, as_json, child, judge, ledger, series

STUDY = {
    "model": {"network": "MLP"},
    "data": {"class_path": "Digits"},
    "trainer": {"max_epochs": 3, "accelerator": "cpu"},
    "study": {"activations": ["relu"], "replicates": {"min": 8, "max": 16, "batch": 8}, "timing_s": 0},
}
SAME = {  # functions of the catalogue under other names
    "silu": "x / (1 + torch.exp(-x))",
    "relu": "(x + x.abs()) / 2",
    "tanh": "2 * torch.sigmoid(2 * x) - 1",
    "mish": "x * torch.tanh(torch.log(1 + torch.exp(x)))",
    "squared_relu": "torch.clamp(x, min=0) ** 2",
    "softsign": "x / (1 + x.abs())",
    "leaky_relu": "torch.where(x > 0, x, 0.01 * x)",
    "identity": "x + 0 * x",
    "elu": "torch.where(x > 0, x, torch.exp(torch.clamp(x, max=0)) - 1)",
    "gelu": "0.5 * x * (1 + torch.erf(x / 2**0.5))",
}
BROKEN = {
    "WrongShape": "x.sum(-1)",
    "GivesNaN": "torch.log(x)",
    "Loops": "loop()",
    "Exits": "os._exit(3)",
    "Writes": "write(x)",
}
HEAD = """
import os, time
from pathlib import Path
import torch
from torch import nn

def loop():
    while True:
        time.sleep(0.01)

def write(x):
    for ledger in Path().glob("*.json"):
        os.truncate(ledger, 10)
    return x
"""
CLASS = """
class {name}(nn.Module):
    def forward(self, x):
        return {body}
"""


def write_candidates(folder):
    """Forty candidates in an order that is drawn: ten of the catalogue, the same under other names, and broken ones."""
    rng = random.Random(0)
    bodies = {f"Same{number}": body for number, body in enumerate(SAME.values())} | BROKEN
    for number in range(40 - len(SAME) - len(bodies)):
        slope, bend = rng.uniform(0, 0.5), rng.uniform(0.5, 2)
        bodies[f"Drawn{number}"] = f"torch.where(x > 0, x, {slope:.4f} * torch.tanh({bend:.4f} * x))"
    text = HEAD + "".join(CLASS.format(name=name, body=body) for name, body in bodies.items())
    (folder / "forty.py").write_text(text)
    names = [*SAME, *(f"forty.{name}" for name in bodies)]
    rng.shuffle(names)
    return names


def propose(folder, names):
    """In a process of its own: judge the candidates that have no answer yet, one after the other."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    child.CONTEXT = multiprocessing.get_context("fork")  # from a process without threads
    child.answer_requests = answer_quickly
    series.CHECKS_S = 120.0  # on a machine that does much else
    # Seeds by the number of the candidate, so that two runs can be compared.
    Ledger.start_seed = lambda self, replicates, avoid: ledger.FIRST_SEED + ledger.BLOCK * (1 + len(self.opened))
    for name in names:
        answers = read_answers(folder)
        if name not in answers:
            answer = json.loads(as_json(judge(name, STUDY, "ledger.json")))
            with (folder / "answers.jsonl").open("a") as file:
                file.write(json.dumps({"name": name, **answer}) + "\n")


answer_requests = child.answer_requests


def answer_quickly(*arguments):
    sys.modules["imported"].draw_nothing()
    answer_requests(*arguments)


def read_answers(folder):
    path = Path(folder, "answers.jsonl")
    rows = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    return {row["name"]: row for row in rows}


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_forty_candidates_and_twenty_kills_end_as_in_one_go(tmp_path, forked):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    rng, kills, seen = random.Random(1), 0, {}
    for folder in (whole, broken):
        folder.mkdir()
        names = write_candidates(folder)

    start_s = time.monotonic()
    process = forked.Process(target=propose, args=(whole, names))
    process.start()
    process.join()
    assert process.exitcode == 0
    longest_s = (time.monotonic() - start_s) / 10  # so that twenty kills come in all of the series

    while True:
        process = forked.Process(target=propose, args=(broken, names))
        process.start()
        process.join(rng.uniform(1, longest_s) if kills < 20 else None)
        if process.exitcode is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
        if (broken / "ledger.json").exists():
            events = Ledger.read(broken / "ledger.json").events
            seen |= {event["digest"]: event for event in events}
            assert all(event in events for event in seen.values())  # nothing is ever lost, or changed
    assert process.exitcode == 0
    assert kills == 20

    expected, found = read_answers(whole), read_answers(broken)
    assert list(found) == list(expected) == names
    for name in names:
        for field in ("verdict", "difference", "low", "high", "pairs", "number", "failures", "level", "judged_before"):
            assert found[name][field] == expected[name][field], (name, field)
    verdicts = {name: row["verdict"] for name, row in found.items()}
    assert {name for name, verdict in verdicts.items() if verdict == "refused"} == {f"forty.{name}" for name in BROKEN}
    assert verdicts["relu"] == verdicts["forty.Same1"] == "equivalent"
    end = Ledger.read(broken / "ledger.json")
    # Each function was trained once, under the first of its names, and the baseline under none.
    assert len(end.opened) == len(end.verdicts) == 40 - len(BROKEN) - len(SAME) - 1
    for number, own in enumerate(SAME):
        if own != "relu":
            assert found[own]["number"] == found[f"forty.Same{number}"]["number"]
