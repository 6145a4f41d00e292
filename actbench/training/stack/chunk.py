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

OF_TORCH = frozenset(vars(nn.Module()))  # attributes of every module: its parameters, hooks and the like
Values = dict[str, Tensor]  # parameters or buffers by name
Streams = Callable[[int], torch.Generator]  # from a replicate's seed to what it draws from


class Chunk:
    """Replicates that run together, by their numbers in the stack: their parameters, and copies of their buffers.

    They run under vmap, with their steps replayed, or, without a ``replay``, a
    single one as the plain network. A batch that all replicates share has
    ``ndim`` dimensions; batches of their own have one more.
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
        self.place: slice | list[int] = slice(first, first + self.size) if in_order else replicates
        self.parameters = {name: value.detach()[self.place] for name, value in network.named_parameters()}
        self.buffers = {name: value.detach()[self.place] for name, value in network.named_buffers()}
        if network.training:  # a chunk may have to run again, after memory ran out
            self.buffers = {name: value.clone() for name, value in self.buffers.items()}

    def logits(self, images: Float[Tensor, "*replicates_batch_shape"]) -> Float[Tensor, "chunk batch classes"]:
        """What the network gives for each replicate's own images of the stack, or for those of all."""
        images = images if images.ndim == self.ndim else images[self.place]
        return self._logits(self.draw, self.parameters | self.buffers, images)

    def losses(
        self,
        images: Float[Tensor, "*replicates_batch_shape"],
        labels: Int64[Tensor, "*replicates batch"],
        trained: Sequence[str],
    ) -> tuple[Float[Tensor, " chunk"], list[Tensor | None]]:
        """Each replicate's mean cross-entropy, and the gradients of the parameters named."""
        images = images if images.ndim == self.ndim else images[self.place]
        labels = labels[self.place] if labels.ndim == 2 else labels.repeat(self.size, 1)

        def step(draw: Draw, tensors: Sequence[Tensor]) -> list[Tensor | None]:
            *values, images, labels = tensors
            named = dict(zip((*self.parameters, *self.buffers), values, strict=True))
            with torch.enable_grad():
                leaves = {name: named[name].detach().requires_grad_() for name in trained}
                logits = self._logits(draw, named | leaves, images)
                logits = logits.to(torch.promote_types(images.dtype, torch.float32))
                each = cross_entropy(logits.flatten(0, 1), labels.reshape(-1), reduction="none")
                each = each.view(labels.shape).mean(1)
            with torch.autocast(images.device.type, enabled=False):
                found = torch.autograd.grad(each.sum(), list(leaves.values()), allow_unused=True)
            return [each.detach(), *found]

        tensors = [*self.parameters.values(), *self.buffers.values(), images, labels]
        if self.replay:
            device = images.device.type
            autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
            each, *found = self.replay(
                step, self.draw, tensors, (call_settings(self.network), autocast, tuple(trained))
            )
        else:
            each, *found = step(self.draw, tensors)
        assert each is not None
        return each, found

    def _logits(self, draw: Draw, values: Values, images: Tensor) -> Float[Tensor, "chunk batch classes"]:
        anchor = torch.zeros(self.size, device=images.device)
        names = tied_names(self.network)

        def call(values: Values, images: Tensor, anchor: Tensor) -> Tensor:
            with forgotten(self.network), Rules(draw, anchor, banded=self.replay is not None):
                everywhere = {name: values[known] for name, known in names.items()}
                logits: Tensor = functional_call(self.network, everywhere, (images,), tie_weights=False)
            return logits

        if self.replay:
            in_dims = (0, None if images.ndim == self.ndim else 0, 0)
            logits: Tensor = vmap(call, in_dims)(values, images, anchor)
            return logits
        images = images if images.ndim == self.ndim else images[0]
        if images.ndim == 4:  # a copy, because a view of images with one channel does not count as channels-last
            images = images.clone(memory_format=torch.channels_last)
        return call({name: value[0] for name, value in values.items()}, images, anchor[0])[None]

    def keep_buffers(self) -> None:
        """Let the stack have the buffers as they are now."""
        if self.network.training:
            for name, buffer in self.network.named_buffers():
                buffer[self.place] = self.buffers[name]


@contextmanager
def forgotten(network: nn.Module) -> Iterator[None]:
    """Let modules forget the tensors that they keep of a call, for a plot, say: outside of vmap those are dead."""
    before = [(vars(module), dict(vars(module))) for module in network.modules()]
    contents = [
        (value, copy.copy(value))
        for _, values in before
        for name, value in values.items()
        if isinstance(value, list | dict) and name not in OF_TORCH
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
        for value, kept in contents:
            if holds_tensor(value):
                value.clear()
                value.extend(kept) if isinstance(value, list) else value.update(kept)


def holds_tensor(value: Any) -> bool:
    """Whether a value is a tensor, or a collection with one in it, at any depth."""
    if isinstance(value, Mapping):
        value = list(value.values())
    return isinstance(value, Tensor) or (isinstance(value, list | tuple) and any(map(holds_tensor, value)))


def tied_names(network: nn.Module) -> dict[str, str]:
    """Name of each parameter and buffer in each module, with the name that it has in the stack.

    A module in two places has one name here, because it holds its values once; a parameter of two modules has two.
    torch's own way of tying leaves such a module with values of vmap.
    """
    known = {id(value): name for name, value in (*network.named_parameters(), *network.named_buffers())}
    return {f"{path}.{name}".lstrip("."): known[id(value)] for path, _, name, value in places(network)}


def places(network: nn.Module) -> Iterator[tuple[str, dict[str, Any], str, Tensor]]:
    """Each parameter and buffer: path of its module, the dictionary that holds it there, name in it, and value."""
    for path, module in network.named_modules():
        for held in (module._parameters, module._buffers):
            for name, value in held.items():
                if value is not None:
                    yield path, held, name, value


def random_numbers(streams: Streams | None, seeds: Sequence[int]) -> Draw:
    """Random numbers for replicates, each from the stream of its seed, which begins with the first draw.

    Without ``streams``, they are of the seeds' dropout streams.
    """
    generators: list[torch.Generator] = []

    def draw(kind: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        if not generators:
            generators.extend(streams(seed) if streams else stream(seed, "dropout") for seed in seeds)
        make = torch.rand if kind == "uniform" else torch.randn
        return torch.stack([make(shape, generator=g, dtype=dtype, device=device) for g in generators])

    return draw


def call_settings(network: nn.Module) -> tuple[Hashable, ...]:
    """What besides tensors a call of the network may depend on: plain values, such as whether it trains, and hooks."""
    return tuple(
        value
        for module in network.modules()
        for values in ((type(module),), module._forward_pre_hooks, module._forward_hooks, vars(module).values())
        for value in values
        if isinstance(value, type | bool | int | float | str)
    )
