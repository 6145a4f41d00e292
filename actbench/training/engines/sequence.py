"""The sequence: replicates as plain modules, which run and train one after another, as in plain torch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, distributed, nn
from torch.nn.functional import cross_entropy
from torch.nn.parameter import is_lazy
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer
from typing_extensions import override

from actbench.networks import SwappedNetwork, copy_network, network_name
from actbench.seeding import global_stream, unchanged_generators
from actbench.specs import OptimizerSpec
from actbench.training.engines.base import (
    Apply,
    Engine,
    EngineError,
    KnownGradient,
    optimizer_of,
    plain_tensor,
    without_shared_memory,
)
from actbench.training.engines.draws import Draws, global_draws
from actbench.training.engines.optimizers import ReplicateOptimizers


class SequenceEngine(Engine):
    """Replicates of one network as plain modules, one after another.

    Whatever plain torch trains is trained. While a replicate runs, the global
    generators of torch, NumPy and Python are at its own stream, so what it draws
    does not depend on the others. Images go through our own networks in the
    channels-last format, which is faster on a CPU.
    """

    name = "sequence"

    def __init__(self, networks: Sequence[nn.Module], seeds: Sequence[int], *, input_shape: Sequence[int]) -> None:
        super().__init__(networks[0], seeds, input_shape=input_shape)
        shapes = {tuple((name, v.shape) for name, v in own_values(network)) for network in networks}
        if len(shapes) > 1:
            raise EngineError(f"the shape of {network_name(networks[0])} depends on the seed: set replicates to 1")
        self.networks = nn.ModuleList(networks)
        ours = type(networks[0]).__module__.startswith("actbench.") and not isinstance(networks[0], SwappedNetwork)
        self.channels_last = ours and self.ndim == 4
        self.stopped: Sequence[int] = ()  # replicates that the optimiser leaves as they are
        self.key: tuple[int, ...] = ()  # of the latest training step
        self.draws = Draws(global_draws, torch.zeros(()))
        self.register_state_dict_post_hook(merge_networks)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(split_networks)  # type: ignore[no-untyped-call]

    @override
    def forward(self, images: Float[Tensor, "*replicates_batch_shape"]) -> Float[Tensor, "replicates batch classes"]:
        return torch.stack([self._logits(index, images) for index in range(len(self))])

    @override
    def losses(
        self,
        images: Float[Tensor, "*replicates_batch_shape"],
        labels: Int64[Tensor, "*replicates batch"],
        *,
        replicates: Sequence[int] | None = None,
        key: Sequence[int] = (),
        scaled: bool = True,
    ) -> Float[Tensor, " replicates"]:
        self.key = tuple(key)
        if len(self) == 1:
            return self._loss(0, images, labels)[None]
        chosen = range(len(self)) if replicates is None else replicates
        losses = [
            self._known_loss(index, images, labels, scaled) if index in chosen else self._no_loss(index, images)
            for index in range(len(self))
        ]
        dtype = torch.promote_types(images.dtype, torch.float32)
        return torch.cat([loss.to(dtype) for loss in losses])

    def _known_loss(self, index: int, images: Tensor, labels: Tensor, scaled: bool) -> Float[Tensor, "1"]:
        """A replicate's loss, whose gradient is computed here, so that its memory is free before the next begins."""
        parameters = [parameter for parameter in self.networks[index].parameters() if parameter.requires_grad]
        loss = self._loss(index, images, labels)
        device = images.device
        before = [parameter.grad for parameter in parameters]
        no_autocast = torch.autocast(device.type, enabled=False)
        with without_hooks(parameters), no_autocast, self._backward_stream(index, device):
            # Not autograd.grad, which reaches no parameter inside a reentrant checkpoint.
            for parameter in parameters:
                parameter.grad = None
            loss.backward()  # type: ignore[no-untyped-call]
            gradients = [parameter.grad for parameter in parameters]
            for parameter, gradient in zip(parameters, before, strict=True):
                parameter.grad = gradient
        result: Tensor = KnownGradient.apply(loss.detach()[None], gradients, scaled, *parameters)
        return result

    def _no_loss(self, index: int, images: Tensor) -> Float[Tensor, "1"]:
        """NaN for a replicate that is not trained; several devices wait for its gradient, too, which is 0."""
        loss = images.new_full((1,), torch.nan)
        if not (distributed.is_available() and distributed.is_initialized()):
            return loss
        parameters = [parameter for parameter in self.networks[index].parameters() if parameter.requires_grad]
        result: Tensor = KnownGradient.apply(loss, [torch.zeros_like(p) for p in parameters], False, *parameters)
        return result

    def _logits(self, index: int, images: Tensor, key: Sequence[int] = ()) -> Float[Tensor, "batch classes"]:
        images = images if images.ndim == self.ndim else images[index]
        if self.channels_last:  # a copy, because a view of one-channel images does not count as channels-last
            images = images.clone(memory_format=torch.channels_last)
        try:
            with global_stream(self.seeds[index], "dropout", *key, device=images.device), self.draws:
                logits: Tensor = self.networks[index](images)
        except torch.OutOfMemoryError as error:
            raise EngineError(
                f"one replicate with a batch of {len(images)} inputs does not fit in memory: "
                f"{str(error).splitlines()[0]}; choose a smaller batch_size or network"
            ) from error
        return plain_tensor(logits)

    def _loss(self, index: int, images: Tensor, labels: Tensor) -> Float[Tensor, ""]:
        logits = self._logits(index, images, self.key)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return cross_entropy(logits, labels if labels.ndim == 1 else labels[index])

    @contextmanager
    def _backward_stream(self, index: int, device: torch.device) -> Iterator[None]:
        """The global generators at a replicate's stream for the computation of gradients, which may draw too.

        A checkpoint runs a part of the network again, in this thread, so that it draws as before.
        """
        stream = global_stream(self.seeds[index], "dropout", *self.key, -1, device=device)
        with stream, self.draws, torch.autograd.set_multithreading_enabled(False):
            yield

    @override
    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if len(self) == 1:
            with self._backward_stream(0, loss.device):
                loss.backward(*args, **kwargs)  # type: ignore[no-untyped-call]
            # torch itself would clip and accumulate shared gradients once for each parameter.
            parameters = list(self.parameters())
            unshared = without_shared_memory([parameter.grad for parameter in parameters])
            for parameter, gradient in zip(parameters, unshared, strict=True):
                if parameter.grad is not gradient:
                    parameter.grad = gradient
        else:
            loss.backward(*args, **kwargs)  # type: ignore[no-untyped-call]

    @override
    def examine(self, run: Callable[[Apply, Sequence[int]], None], images: Tensor) -> None:
        for index, trained in enumerate(self.networks):
            network = copy_network(trained).eval().requires_grad_(requires_grad=False)
            with unchanged_generators():
                run(partial(self._run_copy, network, index), [index])

    def _run_copy(
        self, network: nn.Module, index: int, function: Callable[..., Sequence[Tensor]], *tensors: Tensor
    ) -> list[Tensor]:
        with global_stream(self.seeds[index], "dropout", device=tensors[0].device), self.draws:
            results = function(network, *(tensor[0] for tensor in tensors))
        return [result[None] for result in results]

    @override
    def replicate(self, index: int) -> nn.Module:
        return copy_network(self.networks[index])

    @override
    def chunk_width(self, batch: int, device: torch.device) -> int:
        return 1

    @override
    def make_optimizer(self, spec: OptimizerSpec) -> Optimizer:
        return ReplicateOptimizers([optimizer_of(network, spec, stacked=False) for network in self.networks], self)

    @override
    def clip_gradients(self, limit: float, *, by_value: bool) -> None:
        for network in self.networks:
            (clip_grad_value_ if by_value else clip_grad_norm_)(network.parameters(), limit)

    @override
    @contextmanager
    def unchanged(self, replicates: Sequence[int]) -> Iterator[None]:
        self.stopped = replicates
        yield


def own_values(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of a network that have their shape."""
    for name, value in (*network.named_parameters(), *network.named_buffers()):
        if not is_lazy(value):
            yield name, value


@contextmanager
def without_hooks(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Leave out the hooks of parameters, which run when the gradients are accumulated."""
    names = ("_backward_hooks", "_post_accumulate_grad_hooks")
    hooks = [(p, name, getattr(p, name)) for p in parameters for name in names if getattr(p, name, None)]
    for parameter, name, _ in hooks:
        setattr(parameter, name, None)
    try:
        yield
    finally:
        for parameter, name, value in hooks:
            setattr(parameter, name, value)


def merge_networks(engine: SequenceEngine, state: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    """Stack the values of the replicates, in place, under the network's own names."""
    first = f"{prefix}networks.0."
    for name in [name for name in state if name.startswith(first)]:
        value_name = name.removeprefix(first)
        values = [state.pop(f"{prefix}networks.{index}.{value_name}") for index in range(len(engine))]
        tensors = all(isinstance(value, Tensor) for value in values)
        state[f"{prefix}network.{value_name}"] = torch.stack(values) if tensors else values


def split_networks(engine: SequenceEngine, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Undo `merge_networks`."""
    stacked = f"{prefix}network."
    for name in [name for name in state if name.startswith(stacked)]:
        value = state.pop(name)
        for index in range(len(engine)):
            state[f"{prefix}networks.{index}.{name.removeprefix(stacked)}"] = value[index]
