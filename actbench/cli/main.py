"""Which command is meant. Nothing heavy is imported before that is known, so help is quick."""

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

UNREAD = 128 + signal.SIGPIPE if hasattr(signal, "SIGPIPE") else 1  # the exit status that shells give

LONGEST = 2000  # letters of a message, which may hold all that was given

COMMANDS = {
    "fit": "train a network with one activation on one dataset",
    "validate": "score a checkpoint on the validation part of its dataset",
    "test": "score a checkpoint on the test part of its dataset",
    "predict": "write a table of a checkpoint's predictions for the test part",
    "export": "write one replicate of a checkpoint as a plain network that runs without actbench",
    "compare": "compare activations over many seeds: a study, of which only what is missing is run",
    "report": "write a study's page, tables or figures anew, from its folder alone; or what changed between two",
    "merge": "join studies that ran on several machines",
    "audit": "recompute a published table of means and spreads, and point out rows that cannot be right",
    "activations": "list the activations that can be compared",
}

PARSERS = {  # where each command is that LightningCLI does not run: module of actbench.cli, function
    "export": ("export", "export"),
    "compare": ("compare", "run_compare"),
    "report": ("report", "report"),
    "merge": ("compare", "run_merge"),
    "audit": ("audit", "print_audit"),
    "activations": ("catalogue", "print_catalogue"),
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
        Exit status: 0; 2 for a command that cannot be run as it was given; 1 if the machine fails, its disk full, say.

    Raises:
        SystemExit: Who read the output has gone, as in ``| head``; or the help of a command was printed.
    """
    if sys.stdout is None:  # closed, as in ``>&-``
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # letters may be lost, but no training
    try:
        try:
            return dispatch(args)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        end_if_unread()
        raise
    except SystemExit as exit:
        if isinstance(exit.__context__, BrokenPipeError):  # rich ends so
            raise SystemExit(UNREAD) from None
        raise
    except OSError as error:
        if not of_machine(error) and error.filename is None:
            raise
        return fail(str(error))


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
    # A user's own classes are found in the working directory, after everything that is installed.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        if command in PARSERS:
            module, function = PARSERS[command]
            status: int = getattr(import_module(f"actbench.cli.{module}"), function)(options)
            return status
        from actbench.cli.lightning import run

        return run(command, options)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 128 + signal.SIGINT


class OneLine(ArgumentParser):
    """Parser of a command's options, whose errors are one line."""

    def __init__(self, command: str, **options: Any) -> None:
        super().__init__(f"main.py {command}", description=COMMANDS[command], allow_abbrev=False, **options)

    @override
    def error(self, message: str) -> NoReturn:
        raise SystemExit(fail(message))


def of_machine(error: BaseException | None) -> bool:
    """Whether an error is the machine's, such as a full disk; polars gives only its text."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
    return isinstance(error, OSError) and (
        error.errno in codes or any(os.strerror(code) in str(error) for code in codes)
    )


def fail(message: str) -> int:
    """Say in one line what is wrong, in letters that do nothing to a terminal; returns the exit status for it."""
    error = sys.exc_info()[1]
    if isinstance(error, BrokenPipeError):
        end_if_unread()
    print(f"error: {printable(message[:LONGEST])}", file=sys.stderr)
    return 1 if of_machine(error) else 2


def printable(text: str) -> str:
    """A text without letters that do something to a terminal."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def end_if_unread() -> None:
    """After a broken pipe: end quietly, with the status that shells give, if it is the output that nobody reads."""
    try:
        os.write(sys.stdout.fileno(), b"\n")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes out the rest when it ends
        raise SystemExit(UNREAD) from None


def shown_path(path: Path) -> str:
    """A path as short as it can be typed from here."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def shown_program() -> str:
    """How this program was called."""
    name = Path(sys.argv[0]).name
    return "actbench" if name == "actbench" else "python -m actbench" if name == "__main__.py" else "python main.py"
