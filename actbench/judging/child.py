"""A process in which candidates run: what a candidate does to its process, or does not end, ends nothing else."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any

from typing_extensions import override

OUTSIDE = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")  # by others; by any other signal, a process ends itself
INTERRUPTED = {
    128 + signal.Signals[name]: name for name in ("SIGTERM", "SIGINT")
}  # statuses of a training that they end
GRACE_S = 5  # for the process to end before it is killed
CONTEXT: Any = multiprocessing.get_context("spawn")


class EndedError(Exception):
    """The process ended, or went past its time, before it had answered; the message says how.

    Args:
        message: One line.
        killed: Whether a signal from outside ended it, so that the candidate cannot be blamed.
        late: Whether its time was over.
    """

    def __init__(self, message: str, *, killed: bool = False, late: bool = False) -> None:
        super().__init__(message)
        self.killed, self.late = killed, late


class WrongInputError(ValueError):
    """A study, a ledger or a candidate's name makes no sense; the message says why, in one line."""


class RefusedError(ValueError):
    """A candidate cannot be judged; the message says why, in one line."""


ERRORS: Mapping[str, type[Exception]] = {
    "wrong": WrongInputError,
    "refused": RefusedError,
    "fault": RuntimeError,
}


class Child(AbstractContextManager["Child"]):
    """A process that answers requests, one after the other.

    Args:
        candidate: The candidate, as a study's file names it.
        given: The study: command line words, or the content of a study file.
    """

    def __init__(self, candidate: Any, given: Any) -> None:
        self.busy = False
        self.pipe, theirs = CONTEXT.Pipe()
        start_method = multiprocessing.get_start_method(allow_none=True)  # that of a DataLoader's workers, too
        self.process = CONTEXT.Process(target=answer_requests, args=(theirs, candidate, given, start_method))
        self.process.start()
        theirs.close()

    @override
    def __exit__(self, *error: object) -> None:
        self.pipe.close()
        if not self.busy:  # it ends by itself, and cleans up what libraries have begun
            self.process.join(GRACE_S)
        self.process.terminate()
        self.process.join(GRACE_S)
        self.process.kill()
        self.process.join()

    def ask(self, request: str, limit_s: float | None = None, **arguments: Any) -> Any:
        """The answer to a request, within a time.

        Raises:
            EndedError: The process ended, or the time is over.
            WrongInputError: The request makes no sense.
            RefusedError: The candidate cannot be judged.
            RuntimeError: Something failed that is not the candidate's fault.
        """
        try:
            self.busy = True
            self.pipe.send((request, arguments))
            if not self.pipe.poll(limit_s):
                raise EndedError(f"it took more than {limit_s:.3g} s", late=True)
            kind, content = self.pipe.recv()
            self.busy = False
        except (EOFError, OSError):
            self.process.join(GRACE_S)
            code = self.process.exitcode
            if code is not None and (code < 0 or code in INTERRUPTED):
                name = INTERRUPTED.get(code) or signal.Signals(-code).name
                raise EndedError(f"its process died with {name}", killed=name in OUTSIDE) from None
            raise EndedError(f"it ended the process with status {code}") from None
        if kind != "done":
            raise ERRORS[kind](content)
        return content


def answer_requests(pipe: Any, candidate: Any, given: Any, start_method: str | None) -> None:
    """Answer the requests that come through a pipe until it is closed; what is printed goes to standard error."""
    multiprocessing.set_start_method(start_method, force=True)
    parent = multiprocessing.parent_process()

    def end_with_caller() -> None:
        if parent:
            parent.join()
            os._exit(1)

    # Before the import, which takes seconds: callers that are killed again and again leave nobody behind.
    threading.Thread(target=end_with_caller, daemon=True).start()
    with suppress(OSError, ValueError):
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        from actbench.judging.trial import Trial

        trial = Trial(candidate, given)
        with suppress(EOFError, ConnectionError):
            while True:
                request, arguments = pipe.recv()
                pipe.send(trial.answer(request, arguments))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
