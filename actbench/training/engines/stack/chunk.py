"""Some replicates of a stack, run together: their logits, losses and gradients."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy

from actbench.networks import no_kept_tensors
from actbench.seeding import stream
from actbench.training.engines.draws import Draw, Kind, fill
from actbench.training.engines.stack.convolution import Layer
from actbench.training.engines.stack.replay import Replay
from actbench.training.engines.stack.rules import Rules

Values = dict[str, Tensor]  # parameters or buffers by name


class Chunk:
    """Replicates that run together under vmap, by their indices in the stack: parameters, and copies of buffers.

    A batch that all replicates share has ``ndim`` dimensions; a batch for each replicate has one more. A ``usual``
    chunk is as wide as most.
    """

    def __init__(
        self,
        network: nn.Module,
        replicates: list[int],
        draw: Draw,
        replay: Replay,
        *,
        ndim: int,
        usual: bool,
        unfolded: Collection[Layer],
    ) -> None:
        self.network = network
        self.draw = draw
        self.replay = replay
        self.ndim = ndim
        self.usual = usual
        self.unfolded = unfolded
        self.met: set[Layer] | None = None  # convolutions, if asked for
        self.replicates = replicates
        self.size = len(replicates)
        first = replicates[0]
        in_order = replicates == list(range(first, first + self.size))
        self.index: slice | list[int] = slice(first, first + self.size) if in_order else replicates
        self.parameters = {name: self._part(value) for name, value in network.named_parameters()}
        self.buffers = {name: self._part(value) for name, value in network.named_buffers()}
        if network.training:  # a chunk may have to run again, after memory ran out
            self.buffers = {name: value.clone() for name, value in self.buffers.items()}

    def _part(self, value: Tensor) -> Tensor:
        value = value.detach()
        return value if len(value) == self.size else value[self.index]

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
        device = images.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        modes = (torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled())
        state = (autocast, torch.get_default_dtype(), tuple(trained), *modes)
        losses, *gradients = self.replay(step, self.draw, tensors, self.network, state, usual=self.usual)
        assert losses is not None
        return losses, gradients

    def apply(self, function: Callable[..., Sequence[Tensor]], *tensors: Tensor) -> list[Tensor]:
        """What a function of the network and of tensors returns for each replicate; see `Apply`."""
        names = {f"network.{name}": stack_name for name, stack_name in tied_names(self.network).items()}
        values, module = self.parameters | self.buffers, Applied(self.network, function)
        return [*self._each(module, names, self.draw, values, tensors, [0] * len(tensors))]

    def _logits(self, draw: Draw, values: Values, images: Tensor) -> Float[Tensor, "chunk batch classes"]:
        names, in_dim = tied_names(self.network), None if images.ndim == self.ndim else 0
        logits: Tensor = self._each(self.network, names, draw, values, [images], [in_dim])
        return logits

    def _each(
        self,
        module: nn.Module,
        names: Mapping[str, str],
        draw: Draw,
        values: Values,
        inputs: Sequence[Tensor],
        in_dims: Sequence[int | None],
    ) -> Any:
        """What a module returns for each replicate; ``names`` maps those of its values to the stack's."""
        anchor = torch.zeros(self.size, device=inputs[0].device)

        def call(values: Values, anchor: Tensor, *inputs: Tensor) -> Any:
            rules = Rules(draw, anchor, unfolded=self.unfolded, met=self.met)
            with no_kept_tensors(self.network), rules:
                all_values = {name: values[stack_name] for name, stack_name in names.items()}
                return functional_call(module, all_values, inputs, tie_weights=False)

        return vmap(call, (0, 0, *in_dims))(values, anchor, *inputs)

    def write_back_buffers(self) -> None:
        """Write the buffers back to the stack."""
        if self.network.training and self.buffers:
            for name, buffer in self.network.named_buffers():
                buffer[self.index] = self.buffers[name]


class Applied(nn.Module):
    """A function of a network and of tensors, as a module that holds the network."""

    def __init__(self, network: nn.Module, function: Callable[..., Sequence[Tensor]]) -> None:
        super().__init__()
        self.network = network
        self.function = function

    def forward(self, *tensors: Tensor) -> Sequence[Tensor]:
        return self.function(self.network, *tensors)


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


def random_numbers(seeds: Sequence[int], key: Sequence[int]) -> Draw:
    """Random numbers of replicates, each as torch's global generator would draw it at the seed's dropout stream."""
    generators: list[torch.Generator] = []

    def draw(kind: Kind, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        if not generators:
            generators.extend(stream(seed, "dropout", *key, device=device) for seed in seeds)
        numbers = torch.empty(len(seeds), *shape, dtype=dtype, device=device)
        for values, generator in zip(numbers, generators, strict=True):
            fill(values, kind, generator)
        return numbers

    return draw
