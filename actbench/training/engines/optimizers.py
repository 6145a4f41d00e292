"""Optimisers of replicates: one for each as one optimiser, and what a stack's optimiser must be."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from actbench.specs import OptimizerSpec, one_line
from actbench.training.engines.base import EngineError

if TYPE_CHECKING:
    from actbench.training.engines.sequence import SequenceEngine

ELEMENTWISE = set[tuple[Any, str]]()  # optimisers that `check_elementwise` has passed: their classes and arguments
BY_REPLICATE = "by_replicate"  # key of what differs between replicates, in groups of parameters and in states


class ReplicateOptimizers(Optimizer):
    """One optimiser for each replicate, as one optimiser.

    So that replicates cannot mix, whatever the optimiser does with its
    parameters. A setting of a group, such as the learning rate, holds for all.
    The ``state_dict`` is that of one optimiser of stacked parameters.

    Raises:
        EngineError: There are several replicates, and the optimiser computes the loss itself, as LBFGS does.
    """

    def __init__(self, optimizers: Sequence[Optimizer], engine: "SequenceEngine") -> None:
        first = optimizers[0]
        closure = signature(type(first).step).parameters.get("closure")
        if len(optimizers) > 1 and closure and closure.default is Parameter.empty:
            raise EngineError(f"{type(first).__name__} computes the loss several times in a step: set replicates to 1")
        self.optimizers: Sequence[Optimizer] = ()  # none yet, for add_param_group
        groups = [
            {
                **settings(group),
                "params": [p for optimizer in optimizers for p in optimizer.param_groups[index]["params"]],
            }
            for index, group in enumerate(first.param_groups)
        ]
        super().__init__(groups, first.defaults)
        self.optimizers = optimizers
        self.engine = engine
        self.handed_on = [settings(group) for group in self.param_groups]

    @property
    def state(self) -> Any:
        """What is kept for each parameter, such as a momentum; a callback may change it."""
        if len(self.optimizers) == 1:
            return self.optimizers[0].state
        return {parameter: kept for optimizer in self.optimizers for parameter, kept in optimizer.state.items()}

    @state.setter
    def state(self, state: Mapping[Tensor, Any]) -> None:
        for optimizer in self.optimizers:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            kept = {parameter: state[parameter] for parameter in parameters if parameter in state}
            optimizer.state = defaultdict(dict, kept)

    @override
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        def compute_loss() -> Any:
            loss = closure() if closure is not None else None
            self._hand_on_settings()  # that a hook may have changed after the backward pass
            return loss

        if len(self.optimizers) == 1 and closure is not None:
            return self.optimizers[0].step(compute_loss)
        with torch.enable_grad():
            loss = compute_loss()
        for index, optimizer in enumerate(self.optimizers):
            if index not in self.engine.stopped:
                optimizer.step()
        return loss

    def _hand_on_settings(self) -> None:
        """Hand on the settings that were changed, by a schedule for instance; an optimiser may change others itself."""
        for index, group in enumerate(self.param_groups):
            now, before = settings(group), self.handed_on[index]
            changed = {name: value for name, value in now.items() if name not in before or before[name] is not value}
            if changed:
                self.handed_on[index] = now
                for optimizer in self.optimizers:
                    optimizer.param_groups[index].update(changed)

    @override
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        for network, optimizer in zip(self.engine.networks if self.optimizers else (), self.optimizers, strict=True):
            ids = {id(parameter) for parameter in network.parameters()}
            chosen = [parameter for parameter in self.param_groups[-1]["params"] if id(parameter) in ids]
            optimizer.add_param_group({**settings(self.param_groups[-1]), "params": chosen})
        if self.optimizers:
            self.handed_on.append(settings(self.param_groups[-1]))

    @override
    def state_dict(self) -> dict[str, Any]:
        self._hand_on_settings()
        states = [optimizer.state_dict() for optimizer in self.optimizers]
        running = [index for index in range(len(states)) if index not in self.engine.stopped] or [0]
        scalars = {  # of the optimiser, such as a number of steps; those of a parameter have the parameter's shape
            name
            for optimizer in self.optimizers
            for parameter, state in optimizer.state.items()
            for name, value in state.items()
            if parameter.ndim and isinstance(value, Tensor) and not value.ndim
        }
        groups = []
        for all_groups in zip(*(state["param_groups"] for state in states), strict=True):
            shared = dict(all_groups[0])
            different = {
                name: [group[name] for group in all_groups]
                for name, value in shared.items()
                if any(group[name] is not value and bool(group[name] != value) for group in all_groups)
            }
            groups.append({**shared, **({BY_REPLICATE: different} if different else {})})
        indices = dict.fromkeys(index for state in states for index in state["state"])
        merged = {index: merge_states([s["state"].get(index) for s in states], running, scalars) for index in indices}
        return {"state": merged, "param_groups": groups}

    @override
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        for replicate, optimizer in enumerate(self.optimizers):
            groups = []
            for group in state_dict["param_groups"]:
                different = {name: values[replicate] for name, values in group.get(BY_REPLICATE, {}).items()}
                groups.append({name: value for name, value in group.items() if name != BY_REPLICATE} | different)
            state = {index: split_state(value, replicate) for index, value in state_dict["state"].items()}
            optimizer.load_state_dict({"state": state, "param_groups": groups})
        for index, group in enumerate(self.optimizers[0].param_groups):
            self.param_groups[index].update(settings(group))
            self.handed_on[index] = settings(group)


def settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group of parameters without the parameters."""
    return {name: value for name, value in group.items() if name != "params"}


def merge_states(values: Sequence[Any], running: Sequence[int], scalars: Collection[str], name: str = "") -> Any:
    """States of all replicates as one: tensors with a leading axis, but once what ``scalars`` name and all share.

    A replicate that has never been trained has no state, which becomes zeros.
    """
    first = values[running[0]]
    if isinstance(first, Tensor):
        if name in scalars and all(torch.equal(values[index], first) for index in running):
            return first.clone()
        return torch.stack([torch.zeros_like(first) if value is None else value.detach() for value in values])
    if isinstance(first, Mapping):
        return {key: merge_states([(v or {}).get(key) for v in values], running, scalars, key) for key in first}
    if isinstance(first, list) and all(isinstance(value, list) and len(value) == len(first) for value in values):
        return [merge_states(items, running, scalars, name) for items in zip(*values, strict=True)]
    same = all(type(values[index]) is type(first) and values[index] == first for index in running)
    return first if same else {BY_REPLICATE: list(values)}


def split_state(value: Any, replicate: int) -> Any:
    """The state of one replicate, which `merge_states` has joined with the others'."""
    if isinstance(value, Tensor):
        return (value[replicate] if value.ndim else value).clone()
    if isinstance(value, Mapping):
        if BY_REPLICATE in value:
            return value[BY_REPLICATE][replicate]
        return {name: split_state(item, replicate) for name, item in value.items()}
    return [split_state(item, replicate) for item in value] if isinstance(value, list) else value


def check_elementwise(make: OptimizerSpec) -> None:
    """Raise EngineError for an optimiser whose step differs between a stack and a replicate alone.

    The check takes a few steps each way, with gradients of very different sizes. It is made once.
    """
    key = (make.cls, str(make.init_args))
    if key in ELEMENTWISE:
        return
    generator, scale = torch.Generator().manual_seed(0), torch.tensor([1e-3, 1, 1e3])
    name = make.cls.__name__
    for shape in ((3, 4), (3, 4, 5)):
        values = torch.randn(shape, generator=generator)
        together = nn.Parameter(values.clone())
        alone = [nn.Parameter(value.clone()) for value in values]
        try:
            optimizers = [make([together]), *(make([parameter]) for parameter in alone)]
            for _ in range(3):
                gradients = torch.randn(shape, generator=generator) * scale.view(-1, *[1] * (len(shape) - 1))
                for parameter, gradient in zip((together, *alone), (gradients, *gradients), strict=True):
                    parameter.grad = gradient.clone()
                for optimizer in optimizers:
                    optimizer.step()
        except (TypeError, ValueError, RuntimeError) as error:
            raise EngineError(f"{name} cannot train stacked replicates: {one_line(error)}") from error
        if not torch.allclose(together, torch.stack(list(alone)), rtol=1e-4, atol=1e-6, equal_nan=True):
            raise EngineError(
                f"{name} cannot train stacked replicates: its step is not element by element, so that a replicate's "
                "depends on the others"
            )
    ELEMENTWISE.add(key)
