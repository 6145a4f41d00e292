"""The proof that other activations run in place of a network's own."""

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from actbench.networks.calls import MODULE, SwapError, Trace, function_name
from actbench.networks.certificate import Swap, SwapCertificate
from actbench.networks.copies import no_kept_tensors, unchanged_attributes
from actbench.networks.elementwise import replayed
from actbench.networks.examining import MODES, Pass
from actbench.networks.recomputing import nothing_recomputed
from actbench.networks.sites import Site
from actbench.networks.swap import SwappedNetwork, network_name
from actbench.seeding import global_stream


class OwnActivation(nn.Module):
    """A network's own activation at a site, as it was recorded, to be swapped in for a proof."""

    def __init__(self, site: Site, trace: Trace) -> None:
        super().__init__()
        self.compute: Callable[[Tensor], Tensor] = lambda x: replayed(x, site.root, site.calls, trace)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.compute(x)


class Marker(nn.Module):
    """An activation that counts its calls, and returns a copy of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    @override
    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        marked: Tensor = MarkedCopy.apply(x)
        return marked


class MarkedCopy(Function):
    """A copy by a function that no network calls; its gradient needs input and output, as that of some activations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clone()
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        _ = ctx.saved_tensors  # an error if one was changed
        return gradient


class Watch(TorchFunctionMode):
    """Counts the calls of functions that reach torch."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = Counter[str]()

    @override
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.calls[function_name(func)] += 1
        return func(*args, **kwargs or {})


def prove(network: nn.Module, inputs: Tensor, swap: Swap) -> SwapCertificate:
    """The certificate of a swap with its proofs; see `SwapCertificate`.

    Raises:
        SwapError: A proof failed; the message names the mode, and the site if it is known.
    """
    if swap.problem:
        raise SwapError(swap.problem)
    state = copy.deepcopy(network.state_dict())
    for each in swap.passes:
        network.train(each.mode == "train")
        sites = each.numbered(swap.chosen)
        originals = [OwnActivation(sites[n], each.trace) if n in sites else Marker() for n in range(len(swap.chosen))]
        gradients = each.mode == "train" or can_be_differentiated(network, inputs)
        results = []
        for run in (network, SwappedNetwork(network, originals, swap.plan)):
            network.load_state_dict(state)
            results.append(outputs_and_gradients(run, network, inputs, draw=each.draw, gradients=gradients))
        if not all(map(equal, *results)):
            raise SwapError(
                f"{network_name(network)} gives other outputs or gradients in {each.mode} when its own activations are "
                "swapped in, so that others cannot be"
            )
        network.load_state_dict(state)
        prove_places(network, inputs, swap, each, state, gradients=gradients)
    network.load_state_dict(state)
    network.train()
    return swap.certificate._replace(proved=MODES)


def can_be_differentiated(network: nn.Module, inputs: Tensor) -> bool:
    """Whether a network has gradients in evaluation, which nobody else needs: code may be for inference only."""
    try:
        outputs_and_gradients(network, network, inputs)
    except Exception:  # of any kind, in the user's code
        return False
    return True


def prove_places(
    network: nn.Module, inputs: Tensor, swap: Swap, examined: Pass, state: Mapping[str, Any], *, gradients: bool
) -> None:
    """Raise SwapError unless markers run once at each swapped site, and the network's own functions at none.

    ``state`` is the network's, to run a checkpointed network twice from.
    """
    title = network_name(network)
    mode, draw, trace, _ = examined
    sites = examined.numbered(swap.chosen)
    markers, watch = [Marker() for _ in swap.chosen], Watch()
    swapped = SwappedNetwork(network, markers, swap.plan)
    calls = list[int]()

    def run(batch: Tensor) -> Tensor:
        with watch:
            output: Tensor = swapped(batch)
        calls[:] = [marker.calls for marker in markers]  # before the backward pass, which may run them again
        return output

    try:
        results = outputs_and_gradients(run, network, inputs, draw=draw, gradients=gradients)
        if trace.checkpointed:
            network.load_state_dict(state)
            with nothing_recomputed():
                once = outputs_and_gradients(swapped, network, inputs, draw=draw, gradients=gradients)
            if not all(a is None or equal(a, b) for a, b in zip(results, once, strict=True)):
                raise SwapError(
                    f"{title} gives other gradients in {mode} where torch.utils.checkpoint runs it again with "
                    "activations swapped in, so that they cannot be"
                )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise SwapError(f"{title} with other activations cannot be trained in {mode}: {reason}") from error
    names = [site.name for site in swap.certificate.sites if site.swapped]
    for index, (name, number) in enumerate(zip(names, calls, strict=True)):
        if number != (index in sites):
            raise SwapError(f"{title}: an activation swapped into {name} ran {number} times in {mode}")
    expected = Counter[str]()
    for (_, function), number in trace.turns.items():
        expected[function] += number
    expected.subtract(site.key.name for site in sites.values())
    for function in swap.plan.names - {MODULE}:
        if watch.calls[function] != expected[function]:
            raise SwapError(
                f"{title} called {function} {watch.calls[function]} times in {mode} when activations were "
                f"swapped in, not {expected[function]} times"
            )


def outputs_and_gradients(
    run: Callable[[Tensor], Tensor], network: nn.Module, inputs: Tensor, *, draw: int = 0, gradients: bool = True
) -> list[Tensor | None]:
    """Output of a network that is run in some way, with one draw of what is random, and its parameters' gradients."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.grad = None
    with (
        torch.set_grad_enabled(gradients),
        global_stream(draw, "dropout"),
        no_kept_tensors(network),
        unchanged_attributes(network),
    ):
        output = run(inputs.clone())
        weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
        if output.requires_grad:
            torch.autograd.backward((output * weights).sum())
    found = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return [output.detach(), *found]


def equal(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two tensors are equal bit for bit, where NaN equals NaN."""
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
