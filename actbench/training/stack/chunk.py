"""Some replicates of a stack, run together: their logits, losses and gradients."""

import copy
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy

from actbench.seeding import stream
from actbench.training.stack.replay import Draw, Replay
from actbench.training.stack.rules import Rules

MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))  # of every module, such as parameters and hooks
Values = dict[str, Tensor]  # parameters or buffers by name
Streams = Callable[[int], torch.Generator]  # from a replicate's seed to its generator


class Chunk:
    """Replicates that run together, by their indices in the stack: their parameters, and copies of their buffers.

    They run under vmap, with their steps replayed. Without a ``replay``, a
    single replicate runs as the plain network. A batch that all replicates
    share has ``ndim`` dimensions; a batch for each replicate has one more.
    """

    def __init__(
        self, network: nn.Module, replicates: list[int], draw: Draw, replay: Replay | None, *, ndim: int
    ) -> None:
        self.network = network
        self.draw = draw
        self.replay = replay
        self.ndim = ndim
        self.size = len(replicates)
        first = replicates[0]
        in_order = replicates == list(range(first, first + self.size))
        self.index: slice | list[int] = slice(first, first + self.size) if in_order else replicates
        self.parameters = {name: value.detach()[self.index] for name, value in network.named_parameters()}
        self.buffers = {name: value.detach()[self.index] for name, value in network.named_buffers()}
        if network.training:  # a chunk may have to run again, after memory ran out
            self.buffers = {name: value.clone() for name, value in self.buffers.items()}

    def logits(self, images: Float[Tensor, "*replicates_batch_shape"]) -> Float[Tensor, "chunk batch classes"]:
        """Logits of each replicate for its part of the stack's images, or for the images that all share."""
        images = images if images.ndim == self.ndim else images[self.index]
        return self._logits(self.draw, self.parameters | self.buffers, images)

    def losses(
        self,
        images: Float[Tensor, "*replicates_batch_shape"],
        labels: Int64[Tensor, "*replicates batch"],
        trained: Sequence[str],
    ) -> tuple[Float[Tensor, " chunk"], list[Tensor | None]]:
        """Each replicate's mean cross-entropy, and the gradients of the parameters named in ``trained``."""
        images = images if images.ndim == self.ndim else images[self.index]
        labels = labels[self.index] if labels.ndim == 2 else labels.repeat(self.size, 1)

        def step(draw: Draw, tensors: Sequence[Tensor]) -> list[Tensor | None]:
            *values, images, labels = tensors
            named = dict(zip((*self.parameters, *self.buffers), values, strict=True))
            with torch.enable_grad():
                leaves = {name: named[name].detach().requires_grad_() for name in trained}
                logits = self._logits(draw, named | leaves, images)
                logits = logits.to(torch.promote_types(images.dtype, torch.float32))
                losses = cross_entropy(logits.flatten(0, 1), labels.reshape(-1), reduction="none")
                losses = losses.view(labels.shape).mean(1)
            with torch.autocast(images.device.type, enabled=False):
                gradients = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True)
            return [losses.detach(), *gradients]

        tensors = [*self.parameters.values(), *self.buffers.values(), images, labels]
        if self.replay:
            device = images.device.type
            autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
            state = (call_settings(self.network), autocast, tuple(trained))
            losses, *gradients = self.replay(step, self.draw, tensors, state)
        else:
            losses, *gradients = step(self.draw, tensors)
        assert losses is not None
        return losses, gradients

    def _logits(self, draw: Draw, values: Values, images: Tensor) -> Float[Tensor, "chunk batch classes"]:
        anchor = torch.zeros(self.size, device=images.device)
        names = tied_names(self.network)

        def call(values: Values, images: Tensor, anchor: Tensor) -> Tensor:
            with no_kept_tensors(self.network), Rules(draw, anchor, banded=self.replay is not None):
                all_values = {name: values[stack_name] for name, stack_name in names.items()}
                logits: Tensor = functional_call(self.network, all_values, (images,), tie_weights=False)
            return logits

        if self.replay:
            in_dims = (0, None if images.ndim == self.ndim else 0, 0)
            logits: Tensor = vmap(call, in_dims)(values, images, anchor)
            return logits
        images = images if images.ndim == self.ndim else images[0]
        if images.ndim == 4:  # a copy, because a view of one-channel images does not count as channels-last
            images = images.clone(memory_format=torch.channels_last)
        return call({name: value[0] for name, value in values.items()}, images, anchor[0])[None]

    def write_back_buffers(self) -> None:
        """Write the buffers back to the stack."""
        if self.network.training:
            for name, buffer in self.network.named_buffers():
                buffer[self.index] = self.buffers[name]


@contextmanager
def no_kept_tensors(network: nn.Module) -> Iterator[None]:
    """Remove the tensors that modules keep from a call, for a plot, say: tensors of vmap are invalid outside of it."""
    before = [(vars(module), dict(vars(module))) for module in network.modules()]
    contents = [
        (value, copy.copy(value))
        for _, values in before
        for name, value in values.items()
        if isinstance(value, list | dict) and name not in MODULE_ATTRIBUTES
    ]
    try:
        yield
    finally:
        for attributes, values in before:
            for name, value in list(attributes.items()):
                if value is not values.get(name) and holds_tensor(value):
                    if name in values:
                        attributes[name] = values[name]
                    else:
                        del attributes[name]
        for value, original in contents:
            if holds_tensor(value):
                value.clear()
                value.extend(original) if isinstance(value, list) else value.update(original)


def holds_tensor(value: Any) -> bool:
    """Whether a value is a tensor, or a collection that holds a tensor at any depth."""
    if isinstance(value, Mapping):
        value = list(value.values())
    return isinstance(value, Tensor) or (isinstance(value, list | tuple) and any(map(holds_tensor, value)))


def tied_names(network: nn.Module) -> dict[str, str]:
    """Name of each parameter and buffer in each module, with its name in the stack.

    A module used twice has one name here, because it holds its values once; a parameter of two modules has two names.
    torch's own tying would leave values of vmap in such a module.
    """
    names = {id(value): name for name, value in (*network.named_parameters(), *network.named_buffers())}
    return {f"{path}.{name}".lstrip("."): names[id(value)] for path, _, name, value in named_values(network)}


def named_values(network: nn.Module) -> Iterator[tuple[str, dict[str, Any], str, Tensor]]:
    """Each parameter and buffer: its module's path, the dictionary that holds it there, its name, and its value."""
    for path, module in network.named_modules():
        for values in (module._parameters, module._buffers):
            for name, value in values.items():
                if value is not None:
                    yield path, values, name, value


def random_numbers(streams: Streams | None, seeds: Sequence[int]) -> Draw:
    """Random numbers of replicates, each from its seed's stream, by default the dropout stream, from its start."""
    generators: list[torch.Generator] = []

    def draw(kind: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        if not generators:
            generators.extend(streams(seed) if streams else stream(seed, "dropout") for seed in seeds)
        make = torch.rand if kind == "uniform" else torch.randn
        return torch.stack([make(shape, generator=g, dtype=dtype, device=device) for g in generators])

    return draw


def call_settings(network: nn.Module) -> tuple[Hashable, ...]:
    """Settings besides tensors that a call of the network may depend on: hooks, and plain values like ``training``."""
    return tuple(
        value
        for module in network.modules()
        for values in ((type(module),), module._forward_pre_hooks, module._forward_hooks, vars(module).values())
        for value in values
        if isinstance(value, type | bool | int | float | str)
    )
