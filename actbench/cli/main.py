"""Dispatching to a command. Nothing heavy is imported before the command is known, so help is quick."""

import difflib
import errno
import os
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

from typing_extensions import override

from actbench import __doc__ as purpose
from actbench import __version__

UNREAD = 128 + signal.SIGPIPE if hasattr(signal, "SIGPIPE") else 1  # a shell's exit status after a broken pipe
SPINS = "1000"  # of a thread that waits for another one, before it sleeps
LONGEST = 2000  # most characters of a message, which may quote the whole input

COMMANDS = {
    "fit": "train a network with one activation on one dataset",
    "validate": "score a checkpoint on the validation part of its dataset",
    "test": "score a checkpoint on the test part of its dataset",
    "predict": "write a table of a checkpoint's predictions for the test part",
    "export": "write one replicate of a checkpoint as a plain network that runs without actbench",
    "compare": "compare activations over many seeds: a study, of which only missing cells run",
    "judge": "judge one activation of a series against a baseline, for programs: one line of JSON and an exit status",
    "report": "write a study's page, tables or figures from its folder alone, or print what changed between two",
    "merge": "join studies that ran on several machines",
    "audit": "recompute a published table of means and spreads, and point out rows that cannot be right",
    "activations": "list the activations that can be compared",
    "sites": "list where a network calls activations, and which of them a comparison would swap",
    "cost": "measure what activations cost, and tell what their curves are like and what they equal",
}
MODULES = {  # the module of actbench.cli that defines run_COMMAND; LightningCLI runs the other commands
    "export": "commands",
    "compare": "compare",
    "judge": "judge",
    "report": "report",
    "merge": "commands",
    "audit": "audit",
    "activations": "commands",
    "sites": "sites",
    "cost": "cost",
}

HELP = f"""\
usage: main.py [-h] [--version] COMMAND ...

{purpose}

commands:
{chr(10).join(f"  {name:<12}  {what}" for name, what in COMMANDS.items())}

examples:
  python main.py compare
  python main.py fit --config configs/digits_swish.yaml
  python main.py fit --model.activation mish --data MNIST --data.root data --data.download true
  python main.py validate --ckpt_path lightning_logs/version_0/checkpoints/last.ckpt

`main.py COMMAND --help` lists a command's options.
"""


def main(args: Sequence[str] | None = None) -> int:
    """Run one command with its options, by default those of this process.

    Returns:
        Exit status: 0; 2 if the command cannot run with its options; 1 if the machine fails, as when its disk is full.

    Raises:
        SystemExit: The reader of the output has gone, as in ``| head``, or a command's help was printed.
    """
    if sys.stdout is None:  # closed, as in ``>&-``
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a character may be lost, but no training
    try:
        try:
            return dispatch(args)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        end_if_unread()
        raise
    except SystemExit as exit:
        if isinstance(exit.__context__, BrokenPipeError):  # raised by rich
            raise SystemExit(UNREAD) from None
        raise
    except OSError as error:
        if not is_machine_error(error) and error.filename is None:
            raise
        return fail(error)


def dispatch(args: Sequence[str] | None) -> int:
    """Run the command that the first word names; returns the exit status."""
    args = list(sys.argv[1:] if args is None else args)
    if not args:
        print(HELP, file=sys.stderr)
        return fail("which command?")
    command, *options = args
    if command in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if command == "--version":
        print(f"actbench {__version__}")
        return 0
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"the commands are {', '.join(COMMANDS)}"
        return fail(f"unknown command '{command}': {hint}")
    # Before torch is imported. Its threads would spin for milliseconds, and on a busy machine keep others from running:
    # a step of 30 replicates took 40 to 400 ms there, and takes 24. On an idle machine, it takes 14 either way.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    # A user's own classes are imported from the working directory, after all installed packages.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        if command in MODULES:
            run = getattr(import_module(f"actbench.cli.{MODULES[command]}"), f"run_{command}")
            return int(run(options))
        from actbench.cli.lightning import run_lightning

        return run_lightning(command, options)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 128 + signal.SIGINT


class CommandParser(ArgumentParser):
    """Parser of a command's options, whose errors are one line."""

    def __init__(self, command: str, **options: Any) -> None:
        super().__init__(f"main.py {command}", description=COMMANDS[command], allow_abbrev=False, **options)

    @override
    def error(self, message: str) -> NoReturn:
        raise SystemExit(fail(message))


def is_machine_error(error: BaseException | None) -> bool:
    """Whether an error is the machine's, such as a full disk; polars gives no number, but the system's text."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
    return isinstance(error, OSError) and (
        error.errno in codes or any(os.strerror(code) in str(error) for code in codes)
    )


def fail(problem: str | BaseException) -> int:
    """Print a message or an error in one line of printable characters; returns the exit status."""
    error = sys.exc_info()[1]
    if isinstance(error, BrokenPipeError):
        end_if_unread()
    message = problem if isinstance(problem, str) else " ".join(str(problem).split()) or type(problem).__name__
    print(f"error: {printable(message[:LONGEST])}", file=sys.stderr)
    return 1 if is_machine_error(error) else 2


def printable(text: str) -> str:
    """A text with control characters, which may act on a terminal, escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def end_if_unread() -> None:
    """After a broken pipe, exit quietly if nobody reads the output."""
    try:
        os.write(sys.stdout.fileno(), b"\n")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes the rest when it exits
        raise SystemExit(UNREAD) from None


def shown_path(path: Path) -> str:
    """A path relative to the working directory, or absolute if it lies outside."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def shown_program() -> str:
    """The command that started this program."""
    name = Path(sys.argv[0]).name
    return "actbench" if name == "actbench" else "python -m actbench" if name == "__main__.py" else "python main.py"
