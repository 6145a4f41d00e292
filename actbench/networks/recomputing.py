"""Parts of a network that `torch.utils.checkpoint` runs a second time, in the backward pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

from torch.utils import checkpoint

Run = Callable[..., Any]
# Torch tells nobody that a checkpoint begins, so that its own classes are replaced meanwhile.
Frame, Reentrant = checkpoint._CheckpointFrame, checkpoint.CheckpointFunction


@contextmanager
def recomputed_as(again: Callable[[Run], Run]) -> Iterator[None]:
    """Meanwhile, a checkpoint of a function runs in the backward pass what ``again`` makes of the function.

    It is asked as the checkpoint begins.
    """

    def frame(function: Run, *args: Any, **kwargs: Any) -> Any:
        return Frame(again(function), *args, **kwargs)

    def apply(function: Run, *args: Any) -> Any:
        first, later = iter([function]), again(function)
        return super(Reentrant, Reentrant).apply(lambda *inputs: next(first, later)(*inputs), *args)

    with patch.object(checkpoint, "_CheckpointFrame", frame), patch.object(Reentrant, "apply", apply):
        yield


@contextmanager
def nothing_recomputed() -> Iterator[list[str]]:
    """Meanwhile, checkpoints keep what the backward pass needs; yields a list that grows with each checkpoint."""
    met = list[str]()

    def hook(frame: Any) -> Any:
        met.append("frame")
        return nullcontext()

    def apply(function: Run, preserve_rng_state: bool, *args: Any) -> Any:
        met.append("reentrant")
        return function(*args)

    with patch.object(checkpoint, "_checkpoint_hook", hook), patch.object(Reentrant, "apply", apply):
        yield met
