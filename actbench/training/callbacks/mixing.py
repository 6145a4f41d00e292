"""Callbacks of users that treat several replicates as one."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial, wraps
from typing import Any

import torch
from jaxtyping import Float
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from actbench.training.callbacks.hooks import users_hooks

STEPWISE = ("batch", "backward", "step", "zero_grad")  # parts of the names of hooks that run at each step
BEFORE_STEP = ("on_after_backward", "on_before_optimizer_step")  # hooks after which gradients are used
MODULE_HOOKS = [name for name in vars(nn.Module()) if name.endswith("_hooks")]
State = dict[tuple[str, Any], Any]


class MixingWatch(Callback):
    """Finds callbacks that may mix the replicates of a fit.

    Callbacks see all replicates at once: their weights, gradients and batches and
    their optimiser. Scores that callbacks read are means over replicates. Where a
    hook changes something, a norm, a mean or a score may have had a part in
    it. What it does to single elements or by the epoch mixes
    nothing, but cannot be told from that.

    Args:
        tell: Called with a clause for each such callback after its first change.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self.told = set[type]()

    @override
    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit" and len(pl_module.seeds) > 1:
            for callback, name in [*users_hooks(trainer.callbacks)]:  # type: ignore[attr-defined]
                setattr(callback, name, self._watched(type(callback), name, getattr(callback, name)))

    def _watched(self, cls: type, name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
        """A hook that tells if it changes anything; at each step after the first, by torch's own count of changes."""
        deep = True

        @wraps(hook)
        def watched(trainer: Trainer, pl_module: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal deep
            if cls in self.told:
                return hook(trainer, pl_module, *args, **kwargs)
            look = partial(visible_state, trainer, pl_module, tree_leaves((args, kwargs)), deep=deep)
            before = {
                key: (value, value._version, checksum(value) if deep else None) if isinstance(value, Tensor) else value
                for key, value in look()
            }
            result = hook(trainer, pl_module, *args, **kwargs)
            after = dict(look())
            gone = before.keys() - after.keys() if name in BEFORE_STEP else ()
            changed = [key for key, value in after.items() if key not in before or has_changed(before[key], value)]
            if what := next((what for what, _ in (*changed, *gone)), None):
                self.told.add(cls)
                self.tell(f"{cls.__name__} changes {what} of all seeds at once")
            deep = not any(part in name for part in STEPWISE)
            return result

        return watched


def visible_state(
    trainer: Trainer, module: nn.Module, inputs: Sequence[Any], *, deep: bool
) -> Iterator[tuple[tuple[str, Any], Any]]:
    """What a hook can change, by what it is and an index: tensors and plain values."""
    yield ("the end of the training", 0), trainer.should_stop
    tensors = [*module.parameters(), *module.buffers()]
    yield from ((("weights", index), tensor.detach()) for index, tensor in enumerate(tensors))
    gradients = [tensor.grad for tensor in tensors]
    yield from ((("gradients", index), tensor) for index, tensor in enumerate(gradients) if is_dense(tensor))
    yield from ((("a batch", index), value) for index, value in enumerate(inputs) if is_dense(value))
    yield from ((("the optimizer", index), value) for index, value in optimizer_state(trainer))
    if deep:
        for name in MODULE_HOOKS:
            yield ("torch's hooks", name), sum(len(getattr(child, name)) for child in module.modules())
    for name in ("_backward_hooks", "_post_accumulate_grad_hooks"):
        yield ("torch's hooks", name), sum(len(getattr(tensor, name) or ()) for tensor in tensors)


def optimizer_state(trainer: Trainer) -> Iterator[tuple[Any, Any]]:
    """Settings of groups of parameters, and what an optimizer keeps for each parameter, with an index."""
    for optimizer in trainer.optimizers:
        for index, group in enumerate(optimizer.param_groups):
            yield from (((index, name), value) for name, value in group.items() if name != "params")
        for parameter, state in optimizer.state.items():
            yield from (((id(parameter), name), value) for name, value in state.items())


def is_dense(value: Any) -> bool:
    """Whether a value is a tensor with memory of its own, unlike a sparse gradient."""
    return isinstance(value, Tensor) and value.layout is torch.strided


def has_changed(before: Any, after: Any) -> bool:
    """Whether a value is another one, or a tensor was replaced or changed."""
    if not isinstance(after, Tensor):
        return bool(before is not after and before != after)
    if not isinstance(before, tuple):
        return True
    tensor, version, known = before
    same = tensor.data_ptr() == after.data_ptr() and after._version == version
    return not same or (known is not None and not known.allclose(checksum(after), rtol=0, atol=0, equal_nan=True))


def checksum(tensor: Tensor) -> Float[Tensor, " 2"]:
    """Sums that depend on each element and its index; a copy of all weights would take as much memory again."""
    values = torch.view_as_real(tensor.detach().resolve_conj()) if tensor.is_complex() else tensor.detach()
    values = values.flatten().cpu().double()  # not every device has doubles
    return torch.stack([values.sum(), values @ torch.arange(len(values), dtype=torch.double)])
