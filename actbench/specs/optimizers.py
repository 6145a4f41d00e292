"""Specs of optimizers and of learning-rate schedules."""

from collections.abc import Mapping
from types import FunctionType, MappingProxyType, MethodType
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import ChainedScheduler, LRScheduler, ReduceLROnPlateau, SequentialLR
from typing_extensions import override

from actbench.specs.spec import Spec
from actbench.specs.values import public_path


class OptimizerSpec(Spec):
    """An optimiser: a name of torch's, such as SGD, or the class path of a `torch.optim.Optimizer`, with arguments."""

    kind = "optimizer"
    base = Optimizer
    given = ("params",)
    names = MappingProxyType(
        {name: vars(torch.optim)[name] for name in torch.optim.__all__ if isinstance(vars(torch.optim)[name], type)}
    )

    def _prove(self) -> None:
        self([nn.Parameter(torch.zeros(2, 2))])


class SchedulerSpec(Spec):
    """A learning-rate schedule: a name of torch's, such as StepLR, or the path of a class or function, with arguments.

    A function takes ``optimizer`` and returns a schedule. SequentialLR and
    ChainedScheduler take ``schedulers``, a list of schedules.
    """

    kind = "lr_scheduler"
    base = LRScheduler
    given = ("optimizer",)
    names = MappingProxyType({name: getattr(lr_scheduler, name) for name in lr_scheduler.__all__})
    by_function = True

    @override
    def __call__(self, optimizer: Optimizer) -> Any:
        if not self._joins:
            return super().__call__(optimizer)
        arguments = dict(self.init_args)
        schedulers = [SchedulerSpec(each)(optimizer) for each in arguments.pop("schedulers")]
        return self.cls(optimizer=optimizer, schedulers=schedulers, **arguments)

    @property
    def waits(self) -> bool:
        """Whether it is a ReduceLROnPlateau, which waits for a score."""
        return isinstance(self._example(), ReduceLROnPlateau)

    @property
    def _joins(self) -> bool:
        return self.cls in (SequentialLR, ChainedScheduler)

    @override
    def _bind(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        listed = arguments.get("schedulers")
        if not self._joins or not isinstance(listed, list):
            return super()._bind({**arguments})
        specs = [SchedulerSpec(each).to_dict() for each in listed]
        bound = super()._bind({**arguments, "schedulers": []}) | {"schedulers": specs}
        self.raw = {"init_args": {**self.raw["init_args"], "schedulers": specs}}
        return bound

    @classmethod
    def _check_kind(cls, target: Any) -> None:
        if not isinstance(target, FunctionType | MethodType):
            super()._check_kind(target)

    def _example(self) -> Any:
        return self(torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1, momentum=0.9))

    def _prove(self) -> None:
        made = self._example()
        if not isinstance(made, LRScheduler):
            raise ValueError(f"it makes an object of type {type(made).__name__}, not a {public_path(LRScheduler)}")
