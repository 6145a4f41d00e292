"""One candidate against the baseline: what the process does in which candidates run."""

import copy
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from torch import nn
from typing_extensions import override

from actbench.inference.verdict import StudyResults
from actbench.inference.verdict.words import sentence
from actbench.judging.candidate import (
    Examination,
    check_conduct,
    examine_candidate,
    files_of,
    global_state,
    source_of,
    watcher,
)
from actbench.judging.child import RefusedError, WrongInputError
from actbench.judging.ledger import same_values
from actbench.records import RecordError, fingerprint, is_printable
from actbench.report import write_page
from actbench.specs import ActivationSpec, UsageError, compose, one_line, without
from actbench.specs.values import load_yaml
from actbench.studies import (
    FLAGS,
    MissingError,
    Study,
    StudyError,
    Wanted,
    arms,
    compare,
    make_plan,
    planned_cells,
    rehearse,
)
from actbench.studies.cells.code import user_code
from actbench.studies.cells.key import named_files
from actbench.studies.executors import ExecutorError
from actbench.studies.grid import arguments_of, full_name, short_name
from actbench.studies.progress import Progress, without_repeats

ELSEWHERE = (  # settings of a study on which no verdict depends
    *("name", "root", "workers", "executor", "checkpoints", "records", "timing_s", "target", "mechanism"),
    *("alpha", "activations", "baseline"),  # the ledger has them by themselves
)
PLACES = ("accelerator", "devices", "strategy", "logger", "default_root_dir")  # of the Trainer
SEEDS = re.compile(r",? seeds? \d[\d-]*")


class Trial:
    """A candidate and the study under whose rules it is judged.

    Args:
        candidate: The candidate, as a study's file names it.
        given: The study: command line words, or the content of a study file.
    """

    def __init__(self, candidate: Any, given: Any) -> None:
        self.candidate, self.given = candidate, given

    def answer(self, request: str, arguments: Mapping[str, Any]) -> tuple[str, Any]:
        """The answer to a request, or the kind of an error with its message."""
        try:
            return "done", getattr(self, request)(**arguments)
        except RefusedError as error:
            return "refused", str(error)
        except (StudyError, UsageError, RecordError, WrongInputError) as error:
            return "wrong", one_line(error)
        except (MissingError, ExecutorError, OSError) as error:
            failures = getattr(error, "failures", ())
            return "fault", SEEDS.sub("", "; ".join([one_line(error), *failures[:1]]))

    def start(self) -> dict[str, Any]:
        """Read the study, and say what it is about."""
        given = self.given if isinstance(self.given, Mapping) else compose(self.given, [*FLAGS])
        if flags := [f"--{flag}" for flag in FLAGS if given.get(flag)]:
            raise WrongInputError(f"judge has no {' and no '.join(flags)}, which compare has")
        self.study = Study.of(given)
        if self.study.conditions[1:] or self.study.fairness.variance:
            raise WrongInputError("study.fairness asks several questions, and judge answers one: leave it out")
        if self.study.comparisons == "all" or len(self.study.networks or [1]) > 1:
            raise WrongInputError("judge compares with the baseline in one network: give one, and no other comparisons")
        names = [name for name, _ in arms(self.study)]
        baseline = names[0] if self.study.baseline is None else str(self.study.baseline)
        if baseline not in names:
            raise WrongInputError(f"study.baseline: {baseline} is not among the arms {', '.join(names)}")
        self.baseline, self.entry = baseline, self.study.activations[names.index(baseline)]
        self.alone = replace(self.study, activations=[self.entry], baseline=None)
        self.factors = {entry.dataset: entry.cell.factors for entry in planned_cells(self.alone)}
        self.before = global_state()  # only now, for reading data imports what changes some of it
        return {
            "baseline": baseline,
            "alpha": self.study.alpha,
            "study": self.rules(),
            "replicates": self.study.most,
            "seed": self.study.seed,
        }

    def rules(self) -> dict[str, Any]:
        """What candidates are compared with, on what, and by which rule; no place where anything lies or runs."""
        config = copy.deepcopy(without(self.study.to_config(), "seed_everything"))
        return {
            **config,
            "model": without(config.get("model") or {}, "activation", "replicates", "mechanism"),
            "trainer": without(config.get("trainer") or {}, *PLACES),
            "study": without(config["study"], *ELSEWHERE),
            "baseline": self.entry,
            "content": {
                "data": {name: factors["digest"] for name, factors in self.factors.items()},
                "code": {
                    module: code for each in self.factors.values() for module, code in each.get("code", {}).items()
                },
            },
        }

    def identify(self) -> dict[str, Any]:
        """Import the candidate, and say by what it is known again."""
        value = load_yaml(self.candidate) if isinstance(self.candidate, str) else self.candidate
        if not isinstance(value, str | Mapping) or "activation" in value:
            raise WrongInputError(f"a candidate is a name, a class path, or a class path with arguments, got {value!r}")
        try:
            cls, named = activation_facts(value)
        except (ValueError, KeyError) as error:
            raise WrongInputError(f"candidate: {one_line(error)}") from error
        self.value = value
        self.sources = user_code(named)[0]
        return {
            "candidate": self.name,
            "class_path": named["class_path"],
            "source": source_of(cls),
            "source_digest": fingerprint([named, self.sources, named_files(named, self.sources)]),
        }

    def examine(self) -> dict[str, Any]:
        """Find out what the candidate is."""
        found = examine_candidate(self.value, [*self.sources], self.before)
        return {**found._asdict(), "is_baseline": self._is_baseline(found)}

    def rehearse(self) -> None:
        """Train, validate and test one batch with the candidate in the study's network."""
        try:
            with self._watched():
                self._rehearse(self._study(name="rehearsal", root=self.study.root), self.arm)
        except StudyError as error:
            check_conduct(self.before, training=True)
            self._rehearse(self.alone, self.baseline)  # where that fails, too, the study is to blame
            raise RefusedError(one_line(error)) from error
        check_conduct(self.before, training=True)

    def train(self, *, level: float, seed: int, root: str, name: str) -> dict[str, Any]:
        """Train what is missing of the candidate and the baseline, with these seeds; returns the evidence."""
        study = self._study(name=name, root=root, alpha=level, seed=seed)
        try:
            with self._watched():  # a candidate that counts its calls may wait until it is trained
                results = compare(study, progress=Quiet(partial(check_conduct, self.before, training=True)))
        except MissingError as error:
            if all(f"/{self.arm} seeds " in failure for failure in error.failures):
                raise RefusedError(f"its training failed: {SEEDS.sub('', error.failures[0])}") from error
            raise
        write_page(results, study.folder)
        return evidence(results)

    @property
    def arm(self) -> str:
        """The candidate's name in its study."""
        return f"{self.name} (candidate)" if self.name.lower() == self.baseline.lower() else self.name

    @property
    def name(self) -> str:
        """The candidate's name, with its arguments, or a digest of them where they are long."""
        name = full_name(short_name(self.value), arguments_of(self.value))
        return name if is_printable(name) else f"{short_name(self.value)} {fingerprint(arguments_of(self.value))[:8]}"

    def _study(self, *, name: str, root: str, **changes: Any) -> Study:
        entries = [self.entry, {"name": self.arm, "activation": self.value}]
        return replace(
            self.study, activations=entries, baseline=self.baseline, name=name, root=root, records=[], **changes
        )

    def _rehearse(self, study: Study, arm: str) -> None:
        entries = [entry for entry in planned_cells(study) if entry.arm == arm]
        rehearse(make_plan(study, [Wanted(entry, study.seeds) for entry in entries]), without_repeats(self._say))

    def _is_baseline(self, found: Examination) -> bool:
        """Whether the baseline is the same function, with the same settings."""
        entry = self.entry
        if isinstance(entry, Mapping) and "class_path" not in entry:
            if without(entry, "name", "activation"):
                return False
            entry = entry["activation"]
        baseline = examine_candidate(entry, [], {})
        if found.values is None or baseline.values is None:
            return found.start == baseline.start and activation_facts(self.value) == activation_facts(entry)
        return same_values(np.array(found.values), np.array(baseline.values))

    def _watched(self) -> AbstractContextManager[None]:
        """Watch the candidate's files while the study runs, but those in which something else of the study is, too."""
        others = {module for factors in self.factors.values() for module in factors.get("code", {})}
        return watcher().watching(files_of([module for module in self.sources if module not in others]))

    @staticmethod
    def _say(line: str) -> None:
        print(SEEDS.sub("", line), file=sys.stderr, flush=True)


def activation_facts(value: Any) -> tuple[type[nn.Module], dict[str, Any]]:
    """The class of an activation, and its class path with all arguments that it is given."""
    cls, preset = ActivationSpec.find(value["class_path"] if isinstance(value, Mapping) else value)
    path = f"{cls.__module__}.{cls.__qualname__}"
    return cls, {"class_path": path, "init_args": {**preset, **arguments_of(value)}}


class Quiet(Progress):
    """Progress on standard error, which names neither seeds nor scores.

    Args:
        check: Called after each cell.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__()
        self.check = check

    @override
    def say(self, line: str) -> None:
        Trial._say(line)

    @override
    def end_cell(self, line: str, replicates: int) -> None:
        super().end_cell(line.partition(": ")[0], replicates)
        self.check()


def evidence(results: StudyResults) -> dict[str, Any]:
    """The verdict on a candidate, and what it rests on: over all datasets, where there are several."""
    finding = results.conclusion.findings[-1]  # that over all datasets is the last one
    judgement, failures = finding.judgement, finding.judgement.failures
    verdict = judgement.verdict
    if verdict == "undecided" and failures:
        verdict = failures.verdict
    timing = finding.price.timing if finding.price else None
    difference = judgement.difference
    return {
        "verdict": verdict,
        "difference": difference and difference.estimate,
        "low": difference and difference.low,
        "high": difference and difference.high,
        "pairs": judgement.pairs,
        "failures": failures
        and {"candidate": failures.arm, "baseline": failures.baseline, "verdict": failures.verdict},
        "time_ratio": list(timing.epoch_ratio) if timing and timing.epoch_ratio else None,
        "sentence": sentence(finding, results.question),
        "versions": {name: results.table[f"{name}_version"][0] for name in ("actbench", "torch")},
    }
