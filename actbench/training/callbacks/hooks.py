"""Hooks of callbacks that users have written."""

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelPruning
from typing_extensions import override

from actbench.seeding import global_stream

HOOKS = [name for name in vars(Callback) if name.startswith("on_") and "checkpoint" not in name]
LIBRARIES = ("actbench.", "pytorch_lightning.", "lightning.")


class KeyedHooks(Callback):
    """Has what users' hooks draw from the global generators follow from the first seed, the step and the hook.

    A resumed fit then draws what the uninterrupted one does.
    """

    @override
    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            for number, (callback, name) in enumerate(users_hooks(trainer.callbacks)):  # type: ignore[attr-defined]
                setattr(callback, name, self._keyed(getattr(callback, name), number))

    def _keyed(self, hook: Callable[..., Any], number: int) -> Callable[..., Any]:
        @wraps(hook)
        def keyed(trainer: Trainer, pl_module: Any, *args: Any, **kwargs: Any) -> Any:
            indices = [value for value in (*args, *kwargs.values()) if type(value) is int]  # of batches and loaders
            step = (trainer.current_epoch, trainer.global_step, trainer.sanity_checking)
            key = (*map(int, step), *indices, -1, number)  # no stream of the network's own has a negative index
            with global_stream(pl_module.seeds[0], "dropout", *key, device=pl_module.device):
                return hook(trainer, pl_module, *args, **kwargs)

        return keyed


def users_hooks(callbacks: Sequence[Callback]) -> Iterator[tuple[Callback, str]]:
    """Callbacks and the names of those of their hooks that are not a library's.

    A user's subclass, of WeightAveraging for instance, may change nothing but when
    the library's hook averages. The hooks of ModelPruning count as a user's,
    because they prune as the user says.
    """
    for callback in callbacks:
        for name in HOOKS:
            definer: Any = next(cls for cls in type(callback).__mro__ if name in vars(cls))
            given = vars(callback).get(name, definer)  # a function that was given to LambdaCallback, say
            if isinstance(callback, ModelPruning) or not given.__module__.startswith(LIBRARIES):
                yield callback, name
