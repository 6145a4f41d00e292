"""Callbacks of others that treat several replicates as one."""

from collections.abc import Callable, Iterator
from functools import wraps
from inspect import unwrap
from itertools import zip_longest
from types import CodeType, FunctionType
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelPruning
from torch import Tensor
from typing_extensions import override

HOOKS = [name for name in vars(Callback) if name.startswith("on_") and "checkpoint" not in name]
STEPWISE = ("batch", "backward", "step", "zero_grad")  # parts of the names of hooks that run at each step
HARMLESS = ("actbench.", "pytorch_lightning.", "lightning.")  # packages whose hooks mix nothing, but for pruning
SCORES = {"callback_metrics", "logged_metrics", "progress_bar_metrics"}  # attributes of the Trainer
DECISIONS = {"should_stop", "param_groups"}  # what a callback sets for all replicates


class MixingWatch(Callback):
    """Finds callbacks that may mix the replicates of a fit.

    Callbacks see weights and gradients of all replicates at once. What they take
    over whole tensors or over all parameters, such as a norm, a mean or a rank,
    mixes the replicates. What they do to single elements does not, but cannot be
    told from it. Scores that they read are means over the replicates: where their
    code also sets the learning rate, or the end of the training, it does so for all.

    Args:
        tell: Called with a clause for each such callback, before the training or after its first change.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self.told = set[type]()

    @override
    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if stage != "fit" or len(pl_module.seeds) == 1:
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            names = {*names_in_code(callback)}
            if names & SCORES and names & DECISIONS:
                self._tell(type(callback), "acts on scores, which are means over the seeds")
            for name in HOOKS:
                # A subclass, as of WeightAveraging, may change nothing but when Lightning's own hook averages.
                classes = (cls for cls in type(callback).__mro__ if name in vars(cls))
                definer = vars(callback).get(name) or next(classes)  # a function, as of LambdaCallback, or a class
                if isinstance(callback, ModelPruning) or not definer.__module__.startswith(HARMLESS):
                    setattr(callback, name, self._watched(callback, name, pl_module))

    def _watched(self, callback: Callback, name: str, module: LightningModule) -> Callable[..., Any]:
        """A hook that tells if it changes anything; at each step after the first, by torch's own count of changes."""
        hook, cls, deep = getattr(callback, name), type(callback), True

        @wraps(hook)
        def watched(*args: Any, **kwargs: Any) -> Any:
            nonlocal deep
            if cls in self.told:
                return hook(*args, **kwargs)
            before = [(tensor, tensor._version, tensor.clone() if deep else None) for tensor in changeable(module)]
            deep = not any(part in name for part in STEPWISE)
            result = hook(*args, **kwargs)
            if any(has_changed(*pair) for pair in zip_longest(before, changeable(module))):
                self._tell(cls, "changes weights or gradients of all seeds at once")
            return result

        return watched

    def _tell(self, cls: type, clause: str) -> None:
        self.told.add(cls)
        self.tell(f"{cls.__name__} {clause}")


def names_in_code(callback: Callback) -> Iterator[str]:
    """Names of attributes and globals in the functions and methods of a user's callback."""
    owners = [callback, *(cls for cls in type(callback).__mro__[:-1] if not cls.__module__.startswith(HARMLESS))]
    functions = (getattr(value, "__func__", value) for owner in owners for value in vars(owner).values())
    codes: list[Any] = [unwrap(value).__code__ for value in functions if isinstance(value, FunctionType)]
    for code in codes:
        yield from code.co_names
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def changeable(module: LightningModule) -> Iterator[Tensor]:
    """Weights, statistics and gradients."""
    yield from (tensor.detach() for tensor in (*module.parameters(), *module.buffers()))
    yield from (parameter.grad for parameter in module.parameters() if parameter.grad is not None)


def has_changed(before: tuple[Tensor, int, Tensor | None] | None, after: Tensor | None) -> bool:
    """Whether a tensor was replaced or changed; one that is gone, as a gradient that is not wanted, was not."""
    if before is None or after is None:
        return before is None
    tensor, version, values = before
    same = tensor.data_ptr() == after.data_ptr() and after._version == version
    return not same or (values is not None and not bool(((values == after) | values.isnan()).all()))
