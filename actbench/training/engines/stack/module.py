"""The stack: the parameters of many replicates, run and trained together."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from actbench.networks import MODULE_ATTRIBUTES, copy_network, kept_tensors, network_name
from actbench.seeding import global_stream, unchanged_generators
from actbench.specs import OptimizerSpec, one_line
from actbench.training.engines.base import Apply, Engine, EngineError, KnownGradient, optimizer_of
from actbench.training.engines.optimizers import check_elementwise
from actbench.training.engines.stack.bytecode import Unguarded
from actbench.training.engines.stack.chunk import Chunk, named_values, random_numbers
from actbench.training.engines.stack.compiling import missing_compiler
from actbench.training.engines.stack.convolution import Layer, faster_unfolded
from actbench.training.engines.stack.guards import python_state
from actbench.training.engines.stack.replay import Replay

CPU_WIDTH = 32  # replicates at once on a CPU; with more, values leave the cache and nothing is gained


class Stack(Engine):
    """Replicates of one network as one module.

    Parameters and buffers keep the network's own names, with a leading axis for
    the replicates. Replicates do not mix: what one computes follows from its
    own parameters, images and seed alone.

    They run in chunks of ``width`` replicates, each one call of the network under
    vmap; without a ``width``, the device decides. The networks differ only in
    their values.

    Raises:
        EngineError: The network cannot be stacked.
    """

    name = "stack"

    def __init__(
        self, networks: Sequence[nn.Module], seeds: Sequence[int], *, input_shape: Sequence[int], width: int | None
    ) -> None:
        super().__init__(networks[0], seeds, input_shape=input_shape)
        self.width = width
        self.limit = len(networks)  # of the width; halved when memory runs out
        self.unfolded: set[Layer] | None = None  # convolutions that are products with the unfolded image, once chosen
        try:
            states = {python_state(network).values for network in networks}
            if len(states) > 1:
                raise Unguarded("its attributes in Python depend on the seed")
            if reason := hooked_parameter(networks[0]) or hidden_state(networks[0], input_shape):
                raise Unguarded(reason)
            self.network = stacked_network(networks)
            self.train()
            self.replay = Replay(python_state(self.network).values)
            self._try(input_shape)
            if python_state(self.network).values != self.replay.built:
                raise Unguarded("its code changes values of Python, such as a count")
        except EngineError:
            raise
        except Exception as error:  # of any kind, in the user's code and in vmap
            reason = one_line(error)
            if "randomness" in reason:
                reason = "it draws random numbers by a function that cannot follow each replicate's seed"
            raise EngineError(f"{network_name(networks[0])} cannot be stacked: {reason[:300]}") from error

    @override
    @torch.no_grad()
    def forward(self, images: Float[Tensor, "*replicates_batch_shape"]) -> Float[Tensor, "replicates batch classes"]:
        logits: list[Tensor] = []
        self._by_chunks(lambda chunk: logits.append(chunk.logits(images)), images, range(len(self)))
        return torch.cat(logits)

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
        """As in `Engine`; gradients are computed chunk by chunk, so that a chunk's memory is free before the next."""
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

        self._by_chunks(run, images, range(len(self)) if replicates is None else replicates, key)
        result: Tensor = KnownGradient.apply(losses, list(gradients.values()), scaled, *trained.values())
        return result

    @override
    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        loss.backward(*args, **kwargs)  # type: ignore[no-untyped-call]

    @override
    def examine(self, run: Callable[[Apply, Sequence[int]], None], images: Tensor) -> None:
        network, limit = copy_network(self.network).eval(), self.limit
        try:
            with unchanged_generators():
                self._by_chunks(
                    lambda chunk: run(chunk.apply, chunk.replicates), images, range(len(self)), network=network
                )
        finally:
            self.limit = limit  # of training, which may need less memory

    @override
    def replicate(self, index: int) -> nn.Module:
        network = copy_network(self.network)
        return replaced(network, {id(value): value.detach()[index].clone() for *_, value in named_values(network)})

    @override
    def compile_steps(self) -> None:
        if next(self.parameters()).device.type == "cpu" and (reason := missing_compiler()):
            raise EngineError(f"model.compile is true, but {reason}")
        self.replay.compiles = True

    def choose_convolutions(self, images: Tensor) -> None:
        """Choose the faster form of each convolution on the device of a batch, by a trial."""
        width = self.chunk_width(images.shape[-self.ndim], images.device)
        chunk = self._chunk(list(range(min(width, len(self)))))
        chunk.met = set()
        with torch.no_grad():
            chunk.logits(images)
        self.unfolded = faster_unfolded(sorted(chunk.met), chunk.size, images)

    @override
    def remark(self) -> str:
        replay = self.replay
        if not replay.recordings:
            return f"steps were not replayed: {replay.reason}" if replay.reason else ""
        how = "compiled" if replay.compiles else "replayed"
        images = f"; {len(self.unfolded)} convolutions unfold their images" if self.unfolded else ""
        return f"recorded steps were {how}{(replay.slow and f', but not all: {replay.slow}') or ''}{images}"

    def step_time(self, replay: Replay, images: Tensor, labels: Tensor) -> float:
        """Seconds of a step of a chunk as wide as most, which changes nothing."""
        width = self.chunk_width(images.shape[-self.ndim], images.device)
        chunk = self._chunk(list(range(min(width, len(self)))), width=width)
        chunk.replay = replay
        trained = [name for name, parameter in self.network.named_parameters() if parameter.requires_grad]
        start = perf_counter()
        losses, _ = chunk.losses(images, labels, trained)
        float(losses[0])  # waits for a GPU
        return perf_counter() - start

    @override
    def make_optimizer(self, spec: OptimizerSpec) -> Optimizer:
        check_elementwise(spec)
        return optimizer_of(self.network, spec, stacked=True)

    @override
    def clip_gradients(self, limit: float, *, by_value: bool) -> None:
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        if by_value:
            torch._foreach_clamp_min_(gradients, -limit)
            torch._foreach_clamp_max_(gradients, limit)
            return
        norm = torch.stack([gradient.reshape(len(gradient), -1).norm(dim=1) for gradient in gradients]).norm(dim=0)
        factor = (limit / (norm + 1e-6)).clamp(max=1)  # as in torch's clip_grad_norm_
        for gradient in gradients:
            gradient.mul_(factor.view(-1, *[1] * (gradient.ndim - 1)))

    @override
    @contextmanager
    def unchanged(self, replicates: Sequence[int]) -> Iterator[None]:
        # Momentum and weight decay would change them even without a gradient.
        chosen = list(replicates)
        parameters = list(self.parameters()) if chosen else []
        before = [parameter.detach()[chosen] for parameter in parameters]
        yield
        for parameter, values in zip(parameters, before, strict=True):
            parameter.detach()[chosen] = values

    # --- chunks ---

    @override
    def chunk_width(self, batch: int, device: torch.device) -> int:
        return min(self.width or (CPU_WIDTH if device.type == "cpu" else len(self)), self.limit)

    def _chunk(
        self, replicates: list[int], key: Sequence[int] = (), *, width: int = 0, network: nn.Module | None = None
    ) -> Chunk:
        draw = random_numbers([self.seeds[replicate] for replicate in replicates], key)
        usual, unfolded = len(replicates) == min(width, len(self)), self.unfolded or ()
        network = self.network if network is None else network
        return Chunk(network, replicates, draw, self.replay, ndim=self.ndim, usual=usual, unfolded=unfolded)

    def _by_chunks(
        self,
        run: Callable[[Chunk], None],
        images: Tensor,
        replicates: Sequence[int],
        key: Sequence[int] = (),
        *,
        network: nn.Module | None = None,
    ) -> None:
        """Run chunks of the replicates, of a copy of the network if given; halve the width whenever memory runs out."""
        batch, device = images.shape[-self.ndim], images.device
        start = 0
        while start < len(replicates):
            width = self.chunk_width(batch, device)
            chosen = list(replicates[start : start + width])
            chunk = self._chunk(chosen, key, width=width, network=network)
            try:
                run(chunk)
            except RuntimeError as error:
                if "vmap" in str(error):  # code that runs later than the probe did
                    title = network_name(self.network)
                    raise EngineError(
                        f"{title} cannot be stacked: {one_line(error)[:300]}; set model.engine to sequence"
                    ) from error
                if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                    raise
                message = str(error).splitlines()[0]
            else:
                chunk.write_back_buffers()
                start += len(chosen)
                continue
            if len(chosen) == 1:
                raise EngineError(
                    f"one replicate with a batch of {batch} inputs does not fit in memory: {message}; "
                    "choose a smaller batch_size or network"
                )
            self.limit = len(chosen) // 2
            if device.type == "cuda":
                torch.cuda.empty_cache()

    def _try(self, input_shape: Sequence[int]) -> None:
        """Run one replicate in evaluation and in training, so that what cannot be stacked is refused at once."""
        for training in (False, True):
            self.train(training)
            chunk = self._chunk([0])
            with torch.enable_grad():
                chunk.parameters = {name: value.requires_grad_() for name, value in chunk.parameters.items()}
                logits = chunk.logits(torch.zeros(1, 2, *input_shape))
                torch.autograd.grad(logits.sum(), list(chunk.parameters.values()), allow_unused=True)


def stacked_network(networks: Sequence[nn.Module]) -> nn.Module:
    """A copy of the first network with the values of all; EngineError if they differ in more than their values."""
    columns = [[value for *_, value in named_values(network)] for network in networks]
    if len({tuple((value.shape, value.dtype) for value in column) for column in columns}) > 1:
        raise EngineError(f"{network_name(networks[0])} cannot be stacked: its shape depends on the seed")
    rows = zip(*columns, strict=True)
    network = copy_network(networks[0])
    copied = (value for *_, value in named_values(network))
    stacked = {id(value): torch.stack([v.detach() for v in row]) for value, row in zip(copied, rows, strict=True)}
    return replaced(network, stacked)


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
    probe = copy_network(network).train()
    state, buffers = copy.deepcopy(probe.state_dict()), dict(probe.named_buffers())
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, *input_shape, generator=generator) for _ in range(2)]
    outputs = []
    with torch.no_grad(), global_stream(0, "dropout"):
        for index in (1, 0, 1):
            torch.manual_seed(0)
            outputs.append(probe(inputs[index]))
            for name, buffer in probe.named_buffers():
                if buffer is not buffers.get(name):
                    return f"it replaces its buffer {name}, which has to be changed in place"
            probe.load_state_dict(state)
    kept = any(
        True
        for module in probe.modules()
        for name, value in vars(module).items()
        if name not in MODULE_ATTRIBUTES
        for _ in kept_tensors(value)
    )
    if kept and not torch.allclose(outputs[0], outputs[2], rtol=0, atol=0, equal_nan=True):
        return (
            "it computes with a tensor kept from the previous call, which has to be a buffer that is changed in place"
        )
    return None


def hooked_parameter(network: nn.Module) -> str | None:
    """Why a network cannot be stacked: a parameter has a hook, or a class of its own. None if none has."""
    for name, parameter in network.named_parameters():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            return f"its parameter {name} has a hook, which would see the gradients of all replicates at once"
        if type(parameter) is not nn.Parameter or vars(parameter):
            return f"its parameter {name} is of a class of its own, or has attributes"
    return None
