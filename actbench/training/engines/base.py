"""What both engines have in common."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from inspect import signature
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import override

from actbench.networks import copy_network, hold_statistics
from actbench.seeding import global_stream
from actbench.specs import OptimizerSpec

VECTOR = 64  # values, a multiple of the vector width of any CPU
Apply = Callable[..., list[Tensor]]
"""``apply(function, *tensors)``: what ``function(network, *tensors)`` returns for each replicate of a part.

Tensors, given and returned, have a first axis for the replicates; the function sees those of one replicate.
"""


def plain_tensor(tensor: Tensor) -> Tensor:
    """A tensor of torch's own class, where a subclass would run functions of its own with labels and scores.

    Subclasses that leave torch's functions alone, such as torch's wrappers, stay.
    """
    own = type(tensor).__torch_function__ is not torch._C._disabled_torch_function_impl
    return tensor.as_subclass(Tensor) if own and type(tensor) is not Tensor else tensor


class EngineError(ValueError):
    """An engine cannot train a network, or a replicate does not fit in memory; the message says why."""


class Engine(nn.Module, ABC):
    """Replicates of one network, each trained as if it were alone.

    Both engines have the same ``state_dict``: the network's own names after
    ``network.``, and values with a leading axis for the replicates.

    Args:
        network: One of the replicates, whose operations are counted.
        seeds: Seed of each replicate.
        input_shape: Shape of an input, without the batch.
    """

    name: ClassVar[str]

    def __init__(self, network: nn.Module, seeds: Sequence[int], *, input_shape: Sequence[int]) -> None:
        super().__init__()
        self.seeds = tuple(seeds)
        self.input_shape = tuple(input_shape)
        self.ndim = 1 + len(self.input_shape)  # of a batch that all replicates share
        self.multiply_adds = multiply_adds(network, input_shape)

    def __len__(self) -> int:
        return len(self.seeds)

    @override
    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        hold_statistics(self)
        return self

    @abstractmethod
    def forward(self, images: Float[Tensor, "*replicates_batch_shape"]) -> Float[Tensor, "replicates batch classes"]:
        """Logits of every replicate, for one batch for each replicate or one that all share."""

    @abstractmethod
    def losses(
        self,
        images: Float[Tensor, "*replicates_batch_shape"],
        labels: Int64[Tensor, "*replicates batch"],
        *,
        replicates: Sequence[int] | None = None,
        key: Sequence[int] = (),
        scaled: bool = True,
    ) -> Float[Tensor, " replicates"]:
        """Each replicate's mean cross-entropy in nats, with its gradient, for a batch for each or one that all share.

        Args:
            images: Inputs of the batch.
            labels: Classes of the inputs.
            replicates: Indices to compute; other losses are NaN, and their gradients 0 or None.
            key: Index of the seeds' dropout streams, such as epoch and batch.
            scaled: Whether ``backward`` may start from another gradient of the losses than 1.
        """

    @abstractmethod
    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute the gradients of a loss that was made from `losses`."""

    @abstractmethod
    def examine(self, run: Callable[[Apply, Sequence[int]], None], images: Tensor) -> None:
        """Examine copies of the networks in evaluation, which leaves the networks and all generators as they are.

        Args:
            run: Called with a function that applies others to copies, and with the indices of their replicates, for one
                part of the replicates after another. Where memory runs out, it is called again with fewer.
            images: Batch like those that the networks will be given, which tells how many fit in memory.
        """

    @abstractmethod
    def replicate(self, index: int) -> nn.Module:
        """One replicate as a plain network with its own values."""

    def compile_steps(self) -> None:
        """Compile training steps; EngineError if this engine or machine cannot."""
        raise EngineError(
            f"model.compile is true, but only a stack's steps can be compiled, and the engine is {self.name}"
        )

    def remark(self) -> str:
        """What else is to be said of how steps were computed; "" for nothing."""
        return ""

    @abstractmethod
    def chunk_width(self, batch: int, device: torch.device) -> int:
        """Number of replicates that run at once on batches of this size."""

    @abstractmethod
    def make_optimizer(self, spec: OptimizerSpec) -> Optimizer:
        """An optimiser of all replicates."""

    @abstractmethod
    def clip_gradients(self, limit: float, *, by_value: bool) -> None:
        """Clip each replicate's gradients by their norm, or by value."""

    @abstractmethod
    def unchanged(self, replicates: Sequence[int]) -> AbstractContextManager[None]:
        """Let a step of the optimiser leave these replicates as they are."""


class KnownGradient(torch.autograd.Function):
    """Losses with gradients that are already known: of stacked parameters, or of the parameters of one replicate."""

    @staticmethod
    def forward(ctx: Any, losses: Tensor, gradients: list[Tensor | None], scaled: bool, *parameters: Tensor) -> Tensor:
        ctx.gradients, ctx.scaled = without_shared_memory(gradients), scaled
        return losses.clone()

    @staticmethod
    def backward(ctx: Any, factor: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, ()  # no other reference is left, so they need no copy
        if ctx.scaled:
            for gradient in gradients:
                if gradient is not None:
                    factors = factor.to(gradient.dtype)
                    gradient.mul_(factors[0] if len(factors) == 1 else factors.view(-1, *[1] * (gradient.ndim - 1)))
        return (None, None, None, *gradients)


def without_shared_memory(gradients: list[Tensor | None]) -> list[Tensor | None]:
    """The gradients of parameters, each in its own memory, so that one can be changed in place.

    Autograd gives all terms of a sum the same gradient, or views of it.
    """
    known, unshared = set[int](), list[Tensor | None]()
    for gradient in gradients:
        if gradient is not None and gradient.layout is torch.strided:
            memory = gradient.untyped_storage().data_ptr()
            gradient = gradient.clone() if memory in known or 0 in gradient.stride() else gradient
            known.add(memory)
        unshared.append(gradient)
    return unshared


def multiply_adds(network: nn.Module, input_shape: Sequence[int]) -> float:
    """Multiply-adds of the convolutions and matrix products in a forward pass of one image; inf if it is not known.

    They are counted in a copy of the network, whose own state stays as it is.
    """
    counter = FlopCounterMode(display=False)
    try:
        probe = copy_network(network).eval()
        with counter, torch.no_grad(), global_stream(0, "dropout"):
            probe(torch.zeros(2, *input_shape))
    except Exception:  # of any kind: not every object can be copied, and the counter takes no gradient inside a network
        return math.inf
    return float(counter.get_total_flops()) / 2 / 2  # two images, and two operations for each


def optimizer_of(network: nn.Module, spec: OptimizerSpec, *, stacked: bool) -> Optimizer:
    """An optimiser in its fastest form for the parameters of one replicate, or of several that are stacked.

    The fused form of torch's optimisers is the fastest, but it rounds the last
    few values of a tensor differently. The result of a replicate in a stack would
    depend on its index unless the values of each replicate fill whole vectors.
    Other parameters are a second group. The groups are the same in both engines.
    It fails for sparse gradients, complex parameters, and with momentum where some
    parameters have no gradient.
    """
    parameters = list(network.parameters())
    dense = not any(getattr(module, "sparse", False) for module in network.modules())  # gradients
    given = spec.init_args
    explicit = any(given.get(name) is not None for name in ("foreach", "fused"))
    explicit |= any(map(given.get, ("capturable", "differentiable")))
    fusible = spec.cls.__module__.startswith("torch.optim") and "fused" in signature(spec.cls).parameters
    fusible &= not given.get("momentum") and all(p.is_floating_point() for p in parameters) and dense
    groups: list[dict[str, Any]] = [{"params": parameters}]
    if fusible and not explicit:
        sizes = [parameter[0].numel() if stacked else parameter.numel() for parameter in parameters]
        fused = [p for p, size in zip(parameters, sizes, strict=True) if size % VECTOR == 0]
        rest = [p for p, size in zip(parameters, sizes, strict=True) if size % VECTOR]
        if fused and rest:
            groups = [{"params": fused, "fused": True}, {"params": rest}]
    optimizer: Optimizer = spec(groups)
    for group in optimizer.param_groups:
        # By default, torch loops over the parameters on a CPU.
        if group.get("foreach", False) is None and not group.get("fused"):
            group["foreach"] = True
    return optimizer
