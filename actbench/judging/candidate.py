"""What a candidate is and does, found before anything is trained on it."""

import copy
import inspect
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from actbench.activations import CATALOGUE
from actbench.activations.saved_bytes import saved_bytes
from actbench.activations.twins import same_as
from actbench.judging.child import RefusedError
from actbench.judging.identity import SHAPES, grid, known_values, outputs_and_slopes, start_of
from actbench.judging.ledger import same_values
from actbench.specs import ActivationSpec, one_line
from actbench.specs.spec import fits
from actbench.studies.cells.code import source_file

LONGEST = 20_000  # letters of a source that a ledger keeps
DECLARED = "differs_in_training"  # an attribute of classes that are meant to be another function in training
READING = ("open", "socket.connect", "subprocess.Popen", "os.system", "os.listdir", "os.scandir")
LOOKING = ("sys._getframe", "sys._current_frames", "gc.get_objects", "gc.get_referrers", "gc.get_referents")
COMPILERS = tuple(f"{os.sep}torch{os.sep}{package}{os.sep}" for package in ("_dynamo", "_inductor"))  # which read files
SET_BY_TRAINING = {"the recursion limit", "environment variables"}  # by torch's compiler and by drivers of devices


class Examination(NamedTuple):
    """What was found of a candidate.

    ``values`` are those of `known_values`, None where they do not say all of it.
    Then it is known by its source and its ``start``; see `start_of`.
    """

    values: Sequence[float] | None
    start: str
    equals: Sequence[str]
    notes: Sequence[str]
    saved_bytes: float | None


# --- identity ---


def source_of(cls: type) -> str:
    """The source of a class; empty if it is not known."""
    try:
        return inspect.getsource(cls)[:LONGEST]
    except (OSError, TypeError):
        return ""


def files_of(modules: Sequence[str]) -> set[str]:
    """Files of the user's own modules."""
    return {str(file) for file in map(source_file, modules) if file is not None}


# --- examination ---


# Compiling for all that is tried would take minutes, and read files.
@torch.compiler.set_stance("force_eager")  # type: ignore[untyped-decorator]
def examine_candidate(candidate: Any, modules: Sequence[str], before: Mapping[str, Any]) -> Examination:
    """What a candidate is and does.

    Args:
        candidate: As a study's file names it.
        modules: The user's own modules that it comes from or imports.
        before: `global_state` before any of them was imported.

    Raises:
        RefusedError: It is no activation, gives NaN, reads files or frames while it computes, or changes what is
            not its own.
    """
    watch = watcher()
    with watch.watching(files_of(modules)):
        try:
            spec = ActivationSpec(candidate)
            with torch.random.fork_rng(devices=()):
                torch.manual_seed(0)  # so that parameters that are drawn are the same at each start
                module = spec()
            evaluated, trained = (outputs_and_slopes(module, training=training) for training in (False, True))
            for shape in SHAPES:
                if fits(copy.deepcopy(module), shape):
                    backward(module, shape)
        except Exception as error:  # of any kind, in the user's code
            raise RefusedError(one_line(error)) from error
    check_conduct(before)
    if nan := [where for where, values in (("", evaluated), (" in training", trained)) if has_nan(values)]:
        raise RefusedError(f"it gives NaN for inputs from -12 to 12{nan[0]}")
    random_lines = [*random_notes(spec, module)]
    notes = [*watch.made, *random_lines, *mode_notes(module, evaluated, trained)]
    return Examination(
        None if random_lines else known_values(module),
        start_of(module),
        names_of_equals(module) if evaluated is not None else [],
        notes,
        bytes_kept(module),
    )


def has_nan(values: np.ndarray | None) -> bool:
    """Whether values or slopes within the usual range are NaN."""
    if values is None:
        return False
    near = np.tile(grid().abs().numpy() <= 12, 2)
    return bool(np.isnan(values[near]).any())


def backward(module: nn.Module, shape: tuple[int, ...]) -> None:
    """Run a forward and a backward pass, in evaluation and in training."""
    inputs = torch.linspace(-2, 2, int(np.prod(shape))).reshape(shape).requires_grad_()
    for training in (False, True):
        outputs = copy.deepcopy(module).train(training)(inputs * 1)
        if type(outputs) is not Tensor:  # a subclass has its own code run by all that follows
            raise ValueError(f"it returns a {type(outputs).__name__}, which should be a plain tensor")
        if outputs.requires_grad:
            torch.autograd.backward(outputs.sum())


def random_notes(spec: ActivationSpec, module: nn.Module) -> Iterator[str]:
    """What is random in a candidate."""
    inputs = torch.linspace(-3, 3, 24).reshape(2, 4, 3)

    def outputs(seed: int, *, training: bool, made: nn.Module | None = None) -> Tensor | None:
        with torch.random.fork_rng(devices=()), torch.no_grad():
            torch.manual_seed(seed)
            copied = copy.deepcopy(module if made is None else made).train(training)
            try:
                result: Tensor = copied(inputs * 1)
            except Exception:  # of any kind: it needs another shape, in which it is tried later
                return None
            return result

    def differ(first: Tensor | None, second: Tensor | None) -> bool:
        return first is not None and second is not None and not torch.equal(first, second)

    for training, when in ((False, "in evaluation"), (True, "in training")):
        first, again, other = (outputs(seed, training=training) for seed in (0, 0, 1))
        if differ(first, again):
            yield f"{when}, it draws from outside of torch's generator, or counts its calls"
        elif differ(first, other) and not (training and declared(type(module))):
            yield f"{when}, it is random, or depends on the seed"
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(1)
        made = spec()
    if not [*module.parameters()] and differ(outputs(0, training=False), outputs(0, training=False, made=made)):
        yield "each of its instances is another function"


def mode_notes(module: nn.Module, evaluated: np.ndarray | None, trained: np.ndarray | None) -> Iterator[str]:
    """Whether a candidate is another function in training than in evaluation, without having declared it."""
    if evaluated is not None and trained is not None and not declared(type(module)):
        known = np.isfinite(evaluated) & np.isfinite(trained)
        if not same_values(evaluated[known], trained[known]):
            yield "it is another function in training than in evaluation"


def declared(cls: type[nn.Module]) -> bool:
    """Whether a class is meant to be another function in training; those of the catalogue may be."""
    return bool(getattr(cls, DECLARED, False)) or cls in {entry.cls for entry in CATALOGUE.values()}


def names_of_equals(module: nn.Module) -> list[str]:
    """What a candidate equals in the catalogue, in evaluation and in training."""
    try:
        return [twin.name + (" at first" if twin.initially else "") for twin in same_as(module)]
    except Exception:  # of any kind, in the user's code: infinite values are not compared
        return []


def bytes_kept(module: nn.Module) -> float | None:
    """Bytes that a candidate keeps for the backward pass, for each element; None if they cannot be counted."""
    try:
        return float(saved_bytes(module))
    except Exception:  # of any kind, in the user's code
        return None


# --- what is not the candidate's own ---


def check_conduct(before: Mapping[str, Any], *, training: bool = False) -> None:
    """Raise a RefusedError if a watched candidate did something else than compute, or changed what is not its own.

    Args:
        before: `global_state` before the candidate was imported.
        training: Whether it was trained, which may change some things by itself.
    """
    if seen := watcher().seen:
        raise RefusedError(f"while it computes, it does something else: {seen[0]}")
    changed = {name for name, value in global_state().items() if before.get(name, value) != value}
    if changed := changed - (SET_BY_TRAINING if training else set()):
        raise RefusedError(f"it changes what is not its own: {', '.join(sorted(changed)[:3])}")


def global_state() -> dict[str, Any]:
    """What a candidate has no business to change: settings, generators, and functions and classes of others."""
    with torch.compiler.set_stance("force_eager"):  # the first use changes torch, and a candidate may be compiled
        torch.compile(nn.Identity(), backend="eager")(torch.zeros(1))
    owners: list[Any] = [
        torch,
        torch.nn,
        torch.nn.functional,
        torch.Tensor,
        torch.optim,
        torch.autograd,
        random,
        np.random,
    ]
    owners += [value for value in vars(torch.nn).values() if isinstance(value, type)]
    owners += [value for value in vars(torch.optim).values() if isinstance(value, type)]
    ours = [module for name, module in sys.modules.items() if name.partition(".")[0] == "actbench"]
    owners += ours
    classes = {value for module in ours for value in vars(module).values() if isinstance(value, type)}
    owners += [cls for cls in classes if cls.__module__.partition(".")[0] == "actbench"]
    state: dict[str, Any] = {
        f"{owner_path(owner)}.{name}": value  # which stays alive, so that no other takes its id
        for owner in owners
        for name, value in list(vars(owner).items())
        if callable(value) or isinstance(value, staticmethod | classmethod | property)
        if not getattr(value, "hooked", False)  # the step of an optimiser, which torch wraps at the first use
    }
    added = {
        f"attributes of {owner_path(owner)}": {name for name, value in vars(owner).items() if callable(value)}
        for owner in owners
        if isinstance(owner, type)  # modules import more as they go
    }
    return (
        state
        | added
        | {
            "environment variables": dict(os.environ),
            "the working directory": str(Path.cwd()),
            "torch.get_default_dtype": torch.get_default_dtype(),
            "torch.get_num_threads": torch.get_num_threads(),
            "torch.is_grad_enabled": torch.is_grad_enabled(),
            "torch.are_deterministic_algorithms_enabled": torch.are_deterministic_algorithms_enabled(),
            "the recursion limit": sys.getrecursionlimit(),
            "modes of torch": [
                len(_get_current_function_mode_stack()),  # type: ignore[no-untyped-call]
                len(_get_current_dispatch_mode_stack()),
                torch._C._autograd._top_saved_tensors_default_hooks(False) is None,
            ],
            "hooks of all modules": [
                sorted(hooks)
                for name, hooks in vars(torch.nn.modules.module).items()
                if name.startswith("_global_") and isinstance(hooks, dict)
            ],
            "sys.settrace": sys.gettrace(),
            "sys.setprofile": sys.getprofile(),
        }
    )


def owner_path(owner: Any) -> str:
    """Where a module or a class is, since classes of several modules have the same name."""
    return f"{owner.__module__}.{owner.__qualname__}" if isinstance(owner, type) else str(owner.__name__)


class Watcher:
    """Sees what code of certain files does that is no computation: Python tells such events to audit hooks."""

    def __init__(self) -> None:
        self.files = set[str]()
        self.seen = list[str]()
        self.made = list[str]()  # seen while an object was made, which may have a table of its own to read
        self.active = False
        sys.addaudithook(self.hear)  # for good: Python has no way to take a hook back

    @contextmanager
    def watching(self, files: set[str]) -> Iterator[None]:
        """Watch code of these files."""
        self.files, self.seen, self.made, self.active = files, [], [], True
        try:
            yield
        finally:
            self.active = False

    def hear(self, event: str, arguments: Any) -> None:
        """Note an event that code of a watched file causes, but not the import of a module."""
        if not self.active or (event not in READING and event not in LOOKING):
            return
        self.active = False  # what follows has events of its own
        try:
            callers = list(calling_code(sys._getframe(1)))
            importing = any(code.co_filename.startswith("<frozen importlib") for code in callers)
            compiling = any(part in code.co_filename for code in callers for part in COMPILERS)
            near = [code for code in callers if not code.co_filename.endswith(f"{os.sep}inspect.py")][:1]
            watched = [code for code in (callers if event in READING else near) if code.co_filename in self.files]
            what = f"{event} {arguments[0]}" if event == "open" else event
            made = f"as it is made, it does more than that: {what}"
            if not watched or importing or compiling:
                return
            if any(code.co_name == "__init__" for code in watched):
                self.made += [made] if made not in self.made else []
            else:
                self.seen.append(what)
        finally:
            self.active = True


def calling_code(frame: Any) -> Iterator[CodeType]:
    """Code of a frame and of those that called it."""
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back


watcher: Callable[[], Watcher] = cache(Watcher)
