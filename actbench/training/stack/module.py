"""The stack: the parameters of many replicates, run and trained together."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from actbench.specs import one_line
from actbench.training.stack.chunk import MODULE_ATTRIBUTES, Chunk, Streams, holds_tensor, named_values, random_numbers
from actbench.training.stack.replay import Replay

CPU_WIDTH = 32  # replicates at once on a CPU; with more, values leave the cache and nothing is gained
STACKED_WORK = 1.6e7
"""Multiply-adds of a replicate's batch below which a CPU is faster with a stack than with one replicate at a time.

Measured in ms per step and replicate on one thread, alone and in a stack of 32:
TutorialCNN 8x8 (2.5 million) 1.2 and 0.6; MLP 28x28 (15 million) 1.1 and 0.9;
TutorialCNN 28x28 (18 million) 5.0 and 7.1; ConvNet 8x8 (39 million) 3.0 and 5.1.
"""


class StackError(ValueError):
    """A network cannot be stacked, or a replicate does not fit in memory; the message says why."""


class Stack(nn.Module):
    """Replicates of one network as one module.

    Parameters and buffers keep the network's own names, with a leading axis for
    the replicates. Replicates do not mix: what one computes follows from its
    own parameters, images and seed alone.

    They run in chunks of ``width`` replicates, each one call of the network under
    vmap. With a width of 1, which large networks have on a CPU, a chunk is one
    call of the network itself, on images in the channels-last format. Without a
    ``width``, device and size decide. The networks differ only in their values,
    and the stack takes over the first.

    Raises:
        StackError: The network cannot be stacked.
    """

    def __init__(
        self, networks: Sequence[nn.Module], seeds: Sequence[int], *, input_shape: Sequence[int], width: int | None
    ) -> None:
        super().__init__()
        self.seeds = tuple(seeds)
        self.width = width
        self.ndim = 1 + len(input_shape)  # of a batch that all replicates share
        self.limit = len(networks)  # of the width; halved when memory runs out
        self.multiply_adds = multiply_adds(networks[0], input_shape)
        self.replay = Replay()
        if reason := hidden_state(networks[0], input_shape):
            raise StackError(f"{type(networks[0]).__name__} cannot be stacked: {reason}")
        self.network = stacked_network(networks)
        self._try(input_shape)

    def __len__(self) -> int:
        return len(self.seeds)

    def forward(self, images: Float[Tensor, "*replicates_batch_shape"]) -> Float[Tensor, "replicates batch classes"]:
        """Logits of every replicate, without gradients, for one batch for each replicate or one that all share."""
        logits: list[Tensor] = []

        @torch.no_grad()
        def run(chunk: Chunk) -> None:
            logits.append(chunk.logits(images))

        self._by_chunks(run, images, range(len(self)))
        return torch.cat(logits)

    def losses(
        self,
        images: Float[Tensor, "*replicates_batch_shape"],
        labels: Int64[Tensor, "*replicates batch"],
        *,
        replicates: Sequence[int] | None = None,
        streams: Streams | None = None,
    ) -> Float[Tensor, " replicates"]:
        """Each replicate's mean cross-entropy in nats, with its gradient, for a batch for each or one that all share.

        The gradient is computed here, chunk by chunk, so that a chunk's memory
        is free before the next one begins; ``backward`` only hands it on.

        Args:
            images: Inputs of the batch.
            labels: Classes of the inputs.
            replicates: Indices to compute; other losses are NaN, and their gradients 0.
            streams: Generator of each seed; by default, the seed's dropout stream.
        """
        trained = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        dtype = torch.promote_types(images.dtype, torch.float32)
        losses = torch.full((len(self),), torch.nan, device=images.device, dtype=dtype)
        gradients: dict[str, Tensor | None] = dict.fromkeys(trained)

        def run(chunk: Chunk) -> None:
            chunk_losses, chunk_gradients = chunk.losses(images, labels, list(trained))
            losses[chunk.index] = chunk_losses.to(dtype)
            for name, gradient in zip(trained, chunk_gradients, strict=True):
                if chunk.size == len(self):
                    gradients[name] = gradient
                elif gradient is not None:
                    total = gradients[name]
                    if total is None:
                        total = gradients[name] = torch.zeros_like(trained[name])
                    total[chunk.index] = gradient

        self._by_chunks(run, images, range(len(self)) if replicates is None else replicates, streams)
        result: Tensor = KnownGradient.apply(losses, list(gradients.values()), *trained.values())
        return result

    def replicate(self, index: int, part: nn.Module | None = None) -> nn.Module:
        """One replicate as a plain network with its own values, or only a ``part`` of that network."""
        network = copy.deepcopy(part or self.network)
        return replaced(network, {id(value): value.detach()[index].clone() for *_, value in named_values(network)})

    # --- chunks ---

    def chunk_width(self, batch: int, device: torch.device) -> int:
        """Number of replicates that run at once on batches of this size."""
        return min(self.width or self._natural_width(batch, device), self.limit)

    def _natural_width(self, batch: int, device: torch.device) -> int:
        """Width by device and size. Whether it is 1 never depends on the other replicates, as no result may."""
        if device.type != "cpu":
            return max(2, len(self))
        return CPU_WIDTH if self.multiply_adds * batch < STACKED_WORK else 1

    def _chunk(self, replicates: list[int], stacked: bool, streams: Streams | None) -> Chunk:
        draw = random_numbers(streams, [self.seeds[replicate] for replicate in replicates])
        return Chunk(self.network, replicates, draw, self.replay if stacked else None, ndim=self.ndim)

    def _by_chunks(
        self, run: Callable[[Chunk], None], images: Tensor, replicates: Sequence[int], streams: Streams | None = None
    ) -> None:
        """Run chunks of the replicates, and halve the width whenever memory runs out."""
        batch, device = images.shape[-self.ndim], images.device
        stacked = (self.width or self._natural_width(batch, device)) > 1
        start = 0
        while start < len(replicates):
            chosen = list(replicates[start : start + self.chunk_width(batch, device)])
            chunk = self._chunk(chosen, stacked, streams)
            try:
                run(chunk)
            except RuntimeError as error:
                if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                    raise
                message = str(error).splitlines()[0]
            else:
                chunk.write_back_buffers()
                start += len(chosen)
                continue
            if len(chosen) == 1:
                raise StackError(
                    f"one replicate with a batch of {batch} inputs does not fit in memory: {message}; "
                    "choose a smaller batch_size or network"
                )
            self.limit = len(chosen) // 2
            if device.type == "cuda":
                torch.cuda.empty_cache()

    def _try(self, input_shape: Sequence[int]) -> None:
        """Train one replicate for a step on copies, so that a network that cannot be stacked is refused at once."""
        chunk = self._chunk([0], True, None)
        try:
            with torch.enable_grad():
                chunk.parameters = {name: value.requires_grad_() for name, value in chunk.parameters.items()}
                logits = chunk.logits(torch.zeros(2, *input_shape))
                torch.autograd.grad(logits.sum(), list(chunk.parameters.values()), allow_unused=True)
        except (RuntimeError, ValueError, TypeError) as error:
            reason = one_line(error)
            if "randomness" in reason:
                reason = "it draws random numbers by a function that cannot follow each replicate's seed"
            raise StackError(f"{type(self.network).__name__} cannot be stacked: {reason[:300]}") from error


class KnownGradient(torch.autograd.Function):
    """Losses with gradients that are already known."""

    @staticmethod
    def forward(ctx: Any, losses: Tensor, gradients: list[Tensor | None], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return losses.clone()

    @staticmethod
    def backward(ctx: Any, factor: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, ()  # no other reference is left, so they need no copy
        if factor.device.type == "cpu" and (factor == 1).all():
            return (None, None, *gradients)
        scaled = [None if g is None else g.mul_(factor.to(g.dtype).view(-1, *[1] * (g.ndim - 1))) for g in gradients]
        return (None, None, *scaled)


def stacked_network(networks: Sequence[nn.Module]) -> nn.Module:
    """The first network with the stacked values of all; StackError if networks differ in more than their values."""
    columns = [[value for *_, value in named_values(network)] for network in networks]
    if len({tuple((value.shape, value.dtype) for value in column) for column in columns}) > 1:
        raise StackError(f"{type(networks[0]).__name__} cannot be stacked: its shape depends on the seed")
    rows = zip(*columns, strict=True)
    return replaced(networks[0], {id(row[0]): torch.stack([value.detach() for value in row]) for row in rows})


def replaced(network: nn.Module, values: Mapping[int, Tensor]) -> nn.Module:
    """The network with new values, keyed by the id of the old ones; a value shared by modules stays shared."""
    entries = list(named_values(network))
    parameters = {
        id(value): nn.Parameter(values[id(value)], value.requires_grad)
        for *_, value in entries
        if isinstance(value, nn.Parameter)
    }
    for _, module_values, name, value in entries:
        module_values[name] = parameters.get(id(value), values[id(value)])
    return network


def hidden_state(network: nn.Module, input_shape: Sequence[int]) -> str | None:
    """Why a network cannot be stacked: it keeps state outside of buffers that change in place. None if it does not."""
    probe = copy.deepcopy(network).train()
    state, buffers = copy.deepcopy(probe.state_dict()), dict(probe.named_buffers())
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, *input_shape, generator=generator) for _ in range(2)]
    outputs = []
    with torch.no_grad(), torch.random.fork_rng(devices=()):
        for index in (1, 0, 1):
            torch.manual_seed(0)
            outputs.append(probe(inputs[index]))
            for name, buffer in probe.named_buffers():
                if buffer is not buffers.get(name):
                    return f"it replaces its buffer {name}, which has to be changed in place"
            probe.load_state_dict(state)
    extra = (value for m in probe.modules() for name, value in vars(m).items() if name not in MODULE_ATTRIBUTES)
    if any(map(holds_tensor, extra)) and not torch.allclose(outputs[0], outputs[2], rtol=0, atol=0, equal_nan=True):
        return (
            "it computes with a tensor kept from the previous call, which has to be a buffer that is changed in place"
        )
    return None


def multiply_adds(network: nn.Module, input_shape: Sequence[int]) -> float:
    """Multiply-adds of the convolutions and matrix products in a forward pass of one image."""
    training = network.training
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(2, *input_shape))
    network.train(training)
    return float(counter.get_total_flops()) / 2 / 2  # two images, and two operations for each
