"""A network built around an activation, with the initial weights of a seed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

from actbench.networks.calls import SwapError
from actbench.networks.certificate import Swap, SwapCertificate, examine
from actbench.networks.copies import copy_network
from actbench.networks.examining import check_kind, recorded_forward
from actbench.networks.proof import prove
from actbench.networks.swap import SwappedNetwork, SwapPlan, network_name
from actbench.seeding import global_stream

Activation = Callable[[], nn.Module]
SWAPS: dict[Any, tuple[SwapPlan, SwapCertificate]] = {}  # that were proved in this process
KEPT = 32  # swaps that are kept so
UNTOLD = "; it takes no num_classes that is left to the data: set what it takes by --model.network.ARGUMENT"
MARK = "_is_compared"  # attribute of modules made by the activation's factory


def build_network(
    network: Callable[..., nn.Module],
    activation: Activation,
    *,
    input_shape: Sequence[int],
    num_classes: int,
    seed: int,
    sites: str | Sequence[str] = "hidden",
) -> nn.Module:
    """A network whose initial weights are drawn from the seed's ``init`` stream.

    Each activation is made in its own stream, so networks that differ only in
    their activation start from the same weights. A network with a true attribute
    ``foreign`` is called without ``activation``, and the activation is swapped
    into what it makes: see `SwappedNetwork`.

    Args:
        network: Makes a network.
        activation: Makes a fresh activation at each call.
        input_shape: Shape of an input, without the batch.
        num_classes: Number of logits.
        seed: Keys the initial weights.
        sites: Of a foreign network, which activations to swap: ``hidden``, ``all``, or patterns of their paths.

    Raises:
        ValueError: The network does not map such inputs to one logit per class, never calls ``activation``, or, as
            SwapError, no activation can be swapped into it.
    """
    numbers, shape = count(), tuple(input_shape)
    name = getattr(getattr(network, "cls", network), "__name__", type(network).__name__)
    foreign = getattr(network, "foreign", False)
    if not foreign and sites != "hidden":
        raise ValueError(f"--model.sites is for networks that others wrote: {name} takes the activation itself")

    def activation_at_site() -> nn.Module:
        with global_stream(seed, "activation", next(numbers)):
            module = activation()
        setattr(module, MARK, True)
        return module

    try:
        with global_stream(seed, "init"):
            given = {} if foreign else {"activation": activation_at_site}
            built = network(**given, input_shape=shape, num_classes=num_classes)
            if not isinstance(built, nn.Module):
                raise ValueError(f"it returns a {type(built).__name__}, which should be a torch.nn.Module")
            if foreign:
                check_kind(built)
            lazy = any(map(is_lazy, (*built.parameters(), *built.buffers())))  # its first call makes its parameters
            with torch.no_grad(), compared_calls() as called:
                logits = (built if lazy else copy_network(built)).eval()(torch.zeros(2, *shape))
        used = foreign or any(called) or uses_activation(network, activation, shape, num_classes)
    except SwapError:
        raise
    except OSError as error:
        raise ValueError(f"{name} could not be built: {error}; a download may have failed") from error
    except Exception as error:  # users' classes raise errors of any kind
        unknown = foreign and not {"in_chans", "in_channels", "input_shape"} & set(getattr(network, "given", ()))
        hint = "; it takes no in_chans or in_channels, so give it such inputs as it takes" if unknown else ""
        raise ValueError(f"{name} fails for inputs of shape {shape}: {' '.join(str(error).split())}{hint}") from error
    check_logits(
        logits, name, (2, *shape), num_classes, is_given="num_classes" in getattr(network, "given", ["num_classes"])
    )
    if foreign:
        plan, certificate = proved_swap(network, built, shape, sites)
        modules = [activation_at_site() for site in certificate.sites if site.swapped]
        return SwappedNetwork(built, modules, plan, certificate).train()
    if not used:
        raise ValueError(f"{name} never calls its activation, so it is the same network for every activation")
    return built.train()


def with_new_head(network: nn.Module, num_classes: int) -> nn.Module:
    """The network, whose last layer, linear or a convolution, is replaced by a fresh one with so many outputs.

    It stays if it has as many outputs already. Raises a ValueError if the network has no such layer.
    """
    layers = [(path, layer) for path, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    if not layers:
        raise ValueError(f"{type(network).__name__} has no last layer that could be replaced")
    path, last = layers[-1]
    bias = last.bias is not None
    if isinstance(last, nn.Conv2d):
        fresh: nn.Module = nn.Conv2d(last.in_channels, num_classes, 1, bias=bias)
        outputs = last.out_channels
    else:
        fresh, outputs = nn.Linear(last.in_features, num_classes, bias=bias), last.out_features
    if outputs != num_classes:
        network.set_submodule(path, fresh)
    return network


def check_logits(logits: object, name: str, shape: tuple[int, ...], num_classes: int, *, is_given: bool) -> None:
    """Raise a ValueError unless a network maps two inputs to a logit for each class; their number may not be given."""
    if not isinstance(logits, Tensor):
        raise ValueError(f"{name} returns a {type(logits).__name__}, which should be a tensor: one logit per class")
    if logits.shape != (2, num_classes):
        raise ValueError(
            f"{name} maps inputs of shape {shape} to {tuple(logits.shape)}, which should be (2, {num_classes}): one "
            f"logit per class{'' if is_given else UNTOLD}"
        )


def proved_swap(
    network: Callable[..., nn.Module], built: nn.Module, input_shape: tuple[int, ...], sites: str | Sequence[str]
) -> tuple[SwapPlan, SwapCertificate]:
    """How activations are put into a network that was built.

    It is found and proved once for networks that are made alike and make the same calls in evaluation.
    """
    chosen = sites if isinstance(sites, str) else tuple(sites)
    layout = tuple((path, type(module)) for path, module in built.named_modules())
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.rand(2, *input_shape, generator=generator), 3 * torch.randn(2, *input_shape, generator=generator)]
    try:
        wiring = recorded_forward(copy_network(built).eval(), inputs[0], "eval").wiring
        key = (str(network), layout, input_shape, chosen, wiring)
        if key not in SWAPS:
            if len(SWAPS) >= KEPT:
                del SWAPS[next(iter(SWAPS))]
            probe = copy_network(built)
            swap = examine(probe, inputs, chosen)
            SWAPS[key] = swap.plan, prove(probe, inputs[0], swap)
    except SwapError:
        raise
    except Exception as error:  # of any kind, in the user's code
        reason = " ".join(str(error).split())
        raise ValueError(f"{type(built).__name__} cannot be trained on inputs of {input_shape}: {reason}") from error
    return SWAPS[key]


def common_certificate(networks: Sequence[nn.Module], seeds: Sequence[int]) -> SwapCertificate | None:
    """What was swapped in the networks of all seeds; None if nothing was.

    Raises:
        SwapError: Activations are swapped at other sites in one seed's network than in another's.
    """
    first, *others = (getattr(network, "certificate", None) for network in networks)
    for seed, other in zip(seeds[1:], others, strict=True):
        if other != first:
            raise SwapError(
                f"{network_name(networks[0])} has other sites with seed {seed} than with seed {seeds[0]}: seeds whose "
                "wiring differs cannot be compared as replicates of one network"
            )
    return first


def list_sites(
    network: Callable[..., nn.Module], *, input_shape: Sequence[int], num_classes: int, sites: str | Sequence[str]
) -> Swap:
    """Which activations of a foreign network would be swapped; it is neither trained nor proved.

    The network is built and run on the meta device, which takes neither memory nor time, if it can be.

    Raises:
        ValueError: The network cannot be built or run for such inputs, or its sites cannot be known.
    """
    problem: Exception | None = None
    for device in ("meta", "cpu"):
        try:
            with torch.device(device), torch.random.fork_rng(devices=()):
                built = network(input_shape=tuple(input_shape), num_classes=num_classes)
                batch = torch.zeros(2, *input_shape)
                check_kind(built)
                with torch.no_grad():
                    built.eval()(batch)  # which makes the parameters of lazy layers
            return examine(built, [batch], sites)
        except SwapError:
            raise
        except Exception as error:  # users' classes raise errors of any kind
            problem = error
    raise ValueError(f"it fails for inputs of shape {tuple(input_shape)}: {' '.join(str(problem).split())}")


def compared_modules(network: nn.Module) -> Iterator[nn.Module]:
    """Modules of a network made by its activation's factory, each once."""
    return (module for module in network.modules() if hasattr(module, MARK))


@contextmanager
def compared_calls() -> Iterator[list[bool]]:
    """For each call of a module meanwhile, whether an activation's factory made it."""
    called = list[bool]()
    # A hook on all modules, because a network may hold an activation in a plain list.
    hook = register_module_forward_pre_hook(lambda module, _: called.append(hasattr(module, MARK)))
    try:
        yield called
    finally:
        hook.remove()


def uses_activation(
    network: Callable[..., nn.Module], activation: Activation, input_shape: tuple[int, ...], num_classes: int
) -> bool:
    """Whether a network, built once more, runs its activation in training, on other images, or past all hooks."""
    called = list[bool]()

    def watched() -> nn.Module:
        module = activation()
        forward = module.forward

        def run(*args: Any, **kwargs: Any) -> Any:
            called.append(True)
            return forward(*args, **kwargs)

        module.forward = run
        return module

    with torch.no_grad(), torch.random.fork_rng(devices=()):
        built = network(activation=watched, input_shape=input_shape, num_classes=num_classes)
        generator = torch.Generator().manual_seed(0)
        light = torch.rand(2, *input_shape, generator=generator)
        noise = torch.randn(4, 2, *input_shape, generator=generator)
        for images, mode in product((light, -light, *noise), (False, True)):
            built.train(mode)(images)
    return any(called)
