"""What files from others may not do, and ways to spoil files."""

import copy
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

DECOYS = ("hostile_decoy", "this", "turtledemo", "idlelib")  # importable, and trusted by nobody
MEMORY_MB = 1024


def processor_seconds(seconds: float) -> float:
    """Seconds that take this machine as far as so many take one that counts to 400,000 in .03 s, but not fewer."""
    start, total = time.process_time(), 0
    for number in range(400_000):
        total += number
    return seconds * max(1.0, (time.process_time() - start) / 0.03)


PROCESSOR_S = max(processor_seconds(5) for _ in range(5))
FIT = ["--model.network", "MLP", "--data", "FakeImages", "--data.rows", "200", "--trainer.accelerator", "cpu"]
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {  # audit events that change files, and which of their arguments are paths
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.mkdir": (0,),
    "os.rename": (0, 1),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "shutil.rmtree": (0,),
}
PROCESSES = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
)


class Outrage(BaseException):
    """What was watched did what it may not do."""


class Watch:
    """An audit hook, which Python never takes off again, and which is idle outside of `guarded`."""

    def __init__(self) -> None:
        self.allowed: Sequence[Path] | None = None
        self.programs: Sequence[str] = ()
        self.decoys: Sequence[str] = ()
        self.seen = list[str]()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.allowed is None:
            return
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike) and arguments[2] & WRITING:
            self.check(event, arguments[0])
        for place in CHANGES.get(event, ()):
            self.check(event, arguments[place])
        if event in PROCESSES and self.program(arguments) not in (*self.programs, Path(sys.executable).name):
            self.outrage(f"{event} {arguments[:2]}")  # jsonargparse asks Python for its paths
        if event.startswith("socket.") and event != "socket.gethostname":
            self.outrage(f"{event} {arguments[1:]}")
        if event in ("import", "hostile.decoy") and (arguments or DECOYS)[0].partition(".")[0] in self.decoys:
            self.outrage(f"import {arguments}")

    @staticmethod
    def program(arguments: tuple[Any, ...]) -> str:
        """Name of the program that is to be started, if it has one."""
        return Path(os.fsdecode(arguments[0])).name if arguments and isinstance(arguments[0], str | bytes) else "?"

    def check(self, event: str, path: Any) -> None:
        """Refuse a path outside of the allowed folders, wherever it leads."""
        if path == "/proc/self/clear_refs":  # by which this process measures its memory
            return
        real = Path(os.path.realpath(os.fsdecode(path)))
        if not isinstance(path, int) and not any(real.is_relative_to(folder) for folder in self.allowed or ()):
            self.outrage(f"{event} {path}")

    def outrage(self, what: str) -> None:
        """Note what happened, for it may be caught, and stop it."""
        self.seen.append(what)
        raise Outrage(what)


WATCH = Watch()


def plant_decoy(folder: Path) -> None:
    """Write a module that tells when it is imported, whatever the way."""
    (folder / "hostile_decoy.py").write_text("import sys\nsys.audit('hostile.decoy')\nclass Boom: pass\n")
    sys.modules.pop("hostile_decoy", None)


def memory_mb(name: str) -> float:
    """Of this process, as Linux counts it: VmRSS now, VmHWM at most since the last reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


@contextmanager
def guarded(
    *allowed: Path, programs: Sequence[str] = (), decoys: Sequence[str] = DECOYS, processor_s: float = PROCESSOR_S
) -> Iterator[None]:
    """Fail if something inside writes elsewhere, starts a process, opens a socket, imports a decoy or takes too much.

    Args:
        allowed: Folders in which files may be written.
        programs: Names of programs that may be started.
        decoys: Modules that may not be imported.
        processor_s: Seconds of processor, of which an honest plan takes some.
    """
    if WATCH not in HOOKED:
        sys.addaudithook(WATCH)
        HOOKED.append(WATCH)

    def too_long(*_: Any) -> None:
        raise Outrage(f"more than {processor_s} s of processor")

    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory starts anew
    start = memory_mb("VmRSS")
    before = signal.signal(signal.SIGPROF, too_long)
    temporary, tempfile.tempdir = tempfile.tempdir, str(allowed[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    taken = int(memory_mb("VmData") * 2**20)
    resource.setrlimit(resource.RLIMIT_DATA, (taken + 3 * MEMORY_MB * 2**20, hard))  # the machine must survive
    signal.setitimer(signal.ITIMER_PROF, processor_s)
    WATCH.allowed, WATCH.programs, WATCH.decoys = [folder.resolve() for folder in allowed], programs, decoys
    WATCH.seen = []
    try:
        with patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=str(allowed[0])):
            yield
    finally:
        WATCH.allowed = None
        tempfile.tempdir = temporary
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    if WATCH.seen:
        raise Outrage("; ".join(WATCH.seen))
    if memory_mb("VmHWM") > start + MEMORY_MB:
        raise Outrage(f"{memory_mb('VmHWM') - start:.0f} MiB of memory")


HOOKED = list[Watch]()


def doubled(times: int) -> list[Any]:
    """A list of two to the power of so many leaves, which takes no memory."""
    value: list[Any] = [1]
    for _ in range(times):
        value = [value, value]
    return value


def nested(times: int) -> dict[str, Any]:
    """Mappings in one another."""
    value: dict[str, Any] = {}
    for _ in range(times):
        value = {"a": value}
    return value


AWKWARD: list[Any] = [
    *(None, True, 0, -1, 1, 2, 10**9, 10**29, -(10**18), 0.5, -0.5, 1e300, float("nan"), float("inf")),
    *(
        "",
        "0",
        "nan",
        "null",
        "..",
        "/",
        "/dev/full",
        "../outside",
        "x" * 20_000,
        "\x00",
        "\x1b[2J",
        "\u202etxt",
        "=1+1",
    ),
    *(
        "hostile_decoy",
        "hostile_decoy.Boom",
        "this.s",
        "os.system",
        "torch.hub.load",
        "torch.nn.Nope",
        "torch",
    ),
    *("torch.utils.cpp_extension.load", "actbench.data.Digits.from_datasets", "builtins.exec", "actbench.cli.main"),
    *(
        [],
        {},
        [1],
        [[]],
        [None],
        ["x"],
        {"a": 1},
        {"class_path": "torch.nn.ReLU"},
        {"class_path": 1},
        {"class_path": []},
    ),
    *({"class_path": "hostile_decoy.Boom"}, {"class_path": "os.system", "init_args": {"command": "touch outside"}}),
    *({"init_args": 3}, {"class_path": "torch.nn.PReLU", "init_args": {"num_parameters": 10**9}}),
]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of nested lists and mappings stand, as keys from the outermost in."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*at, key)
        yield from places(item, (*at, key))


def mutated(value: Any, rng: np.random.Generator) -> tuple[Any, str]:
    """Plain values of which one is changed, left out, doubled or called otherwise; and what was done."""
    value = copy.deepcopy(value)
    known = list(places(value))
    at = known[rng.integers(len(known))]
    parent = value
    for key in at[:-1]:
        parent = parent[key]
    how = rng.choice(["replace", "replace", "replace", "leave out", "add", "rename"])
    new = AWKWARD[rng.integers(len(AWKWARD))]
    where = ".".join(map(str, at))
    if how == "leave out":
        del parent[at[-1]]
        return value, f"{where} left out"
    if how == "rename" and isinstance(parent, dict):
        name = rng.choice(["x", "", "class_path", "__class__", f"{at[-1]}s", "\x1b[2J"])
        parent[str(name)] = parent.pop(at[-1])
        return value, f"{where} called {name!r}"
    if how == "add":
        old = parent[at[-1]]
        if isinstance(old, list):
            old.append(new)
        elif isinstance(old, dict):
            old["more"] = new
        else:
            parent[at[-1]] = [old, new]
        return value, f"{where} with {new!r:.100} more"
    parent[at[-1]] = copy.deepcopy(new)
    return value, f"{where} = {new!r:.100}"
