"""Recorded forward passes of a network, by which its sites are known; what changes from pass to pass is found out."""

import random
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from actbench.networks.calls import SwapError, Trace
from actbench.networks.copies import no_kept_tensors, unchanged_attributes
from actbench.networks.sites import Identity, Site, find_sites, identified
from actbench.networks.swap import is_counted, network_name
from actbench.networks.tracing import record_forward
from actbench.seeding import global_stream

MODES = ("train", "eval")
DRAWS = range(1, 6)  # seeds of dropout under which training is examined, beside 0, if anything is drawn
SKIPPED = 64  # passes of training in which each site has to be seen, if some are skipped at random
LARGER = 5  # images in a second size of batch


class Pass(NamedTuple):
    """One recorded forward pass.

    Args:
        mode: train or eval.
        draw: Seed of what is random in it.
        trace: Its calls.
        sites: Its sites, by what identifies them in other passes.
    """

    mode: str
    draw: int
    trace: Trace
    sites: Mapping[Identity, Site]

    def numbered(self, chosen: Sequence[Identity]) -> dict[int, Site]:
        """Those of the chosen sites that are called in this pass, by their number."""
        return {number: self.sites[identity] for number, identity in enumerate(chosen) if identity in self.sites}


def examined_passes(network: nn.Module, inputs: Sequence[Tensor]) -> tuple[list[Pass], bool]:
    """Passes that show all sites, of training and then of evaluation, and whether training skips some at random.

    Raises:
        SwapError: Sites change with values or the size of a batch, or run where they cannot be intercepted.
    """
    title = network_name(network)
    passes = list[Pass]()
    for mode in MODES:
        first, *others = (recorded_pass(network, batch, mode) for batch in inputs)
        for other in others:
            if differing := differing_paths(first, other):
                raise SwapError(
                    f"{title}: {differing[0]} calls activations for some inputs only, in {mode}: calls that depend on "
                    "values cannot be swapped"
                )
        passes.append(first)
    trained, evaluated = passes
    skips = trained.trace.draws and any(
        differing_paths(trained, recorded_pass(network, inputs[0], "train", draw)) for draw in DRAWS
    )
    for each in [evaluated] if skips else passes:
        larger = pass_of_larger(network, inputs[0], each.mode)
        if larger and (differing := differing_paths(each, larger)):
            raise SwapError(
                f"{title}: the number of activations that {differing[0]} calls depends on the size of the batch in "
                f"{each.mode}, so that they cannot be swapped"
            )
    if skips:
        passes = skipping_passes(network, inputs[0], evaluated)
    for each in passes:
        refuse_uncaught(title, each.trace, each.sites.values())
    return passes, skips


def skipping_passes(network: nn.Module, batch: Tensor, evaluated: Pass) -> list[Pass]:
    """Passes of training in which some sites are skipped at random, and all are seen, and that of evaluation.

    A call is known by its turn among those of its module. Where a module makes all of its calls or none, as where it
    is skipped as a whole, the turns are those of evaluation. Other sites cannot be told from one another.
    """
    known = {site.key: (identity, site) for identity, site in evaluated.sites.items()}
    names = frozenset(call.key.name for site in evaluated.sites.values() for call in site.calls)
    calls = {call.key for call in evaluated.trace.calls}
    passes, unclear, seen = list[Pass](), set[tuple[str, str]](), set[Identity]()
    larger = pass_of_larger(network, batch, "train")
    for draw in range(SKIPPED):
        recorded = recorded_pass(network, batch, "train", draw)
        for trace in (recorded.trace, *([larger.trace] if larger else [])):
            for key, number in trace.turns.items():
                if is_counted(key[1], names) and number != evaluated.trace.turns[key]:
                    unclear.add(key)
        sites = dict[Identity, Site]()
        for site in recorded.sites.values():
            identity, other = known.get(site.key, ((*site.key,), site))
            if site.text != other.text or not site.sources <= calls:  # another branch
                unclear.add(site.key[:2])
            sites[identity] = replace(site, role=other.role, reaches=other.reaches)
        if not passes or sites.keys() - seen:
            passes.append(recorded._replace(sites=sites))
            seen |= sites.keys()
        if draw >= max(DRAWS) and seen >= evaluated.sites.keys():
            break
    return [
        each._replace(
            sites={
                identity: replace(site, unclear=any(call.key[:2] in unclear for call in site.calls))
                for identity, site in each.sites.items()
            }
        )
        for each in (*passes, evaluated)
    ]


def differing_paths(one: Pass, other: Pass) -> list[str]:
    """Modules that call activations in one of two passes only."""
    first, second = (
        {identity for identity, site in each.sites.items() if site.role != "other"} for each in (one, other)
    )
    return sorted(identity[0] or "the network" for identity in first ^ second)


def recorded_pass(network: nn.Module, batch: Tensor, mode: str, draw: int = 0) -> Pass:
    """A recorded pass in a mode, and its sites."""
    network.train(mode == "train")
    trace = recorded_forward(network, batch, mode, draw=draw)
    return Pass(mode, draw, trace, identified(find_sites(trace)))


def pass_of_larger(network: nn.Module, batch: Tensor, mode: str) -> Pass | None:
    """A pass of another size of batch; None if the network takes no batch of that size."""
    larger = batch.repeat(LARGER, *[1] * (batch.dim() - 1))[:LARGER]
    try:
        return recorded_pass(network, larger, mode)
    except Exception:  # of any kind, in the user's code: it may ask for an even number, say
        return None


def refuse_uncaught(network: str, trace: Trace, sites: Iterable[Site]) -> None:
    """Raise SwapError for an activation that ran where it cannot be intercepted, other than in a site's module."""
    caught = {id(call) for site in sites for call in site.calls}
    for path, operator, call in trace.uncaught:
        if call is None or id(call) not in caught:
            raise SwapError(
                f"{network}: {path or 'its forward'} runs {operator} where it cannot be intercepted, as scripted "
                "functions do"
            )


def generator_states() -> Hashable:
    """The states of the global generators of torch, NumPy and Python."""
    _, key, position, *_ = np.random.get_state(legacy=True)  # noqa: NPY002  # users' code draws from it
    return torch.get_rng_state().numpy().tobytes(), np.asarray(key).tobytes(), position, random.getstate()


def check_kind(network: nn.Module) -> None:
    """Raise SwapError for a network whose calls cannot be seen."""
    for path, module in network.named_modules():
        kind, where = type(module), path or "the network"
        problem = ""
        if isinstance(module, torch.jit.ScriptModule):
            problem = "is scripted"
        elif kind.__module__.startswith("torch._dynamo."):
            problem = "is compiled"
        elif any(f"nn.{part}" in kind.__module__ for part in ("quantized", "intrinsic")):
            problem = f"is quantised or fused, a {kind.__name__}"
        if problem:
            raise SwapError(
                f"{network_name(network)}: {where} {problem}, so that its calls cannot be seen: give a plain one"
            )


def recorded_forward(network: nn.Module, batch: Tensor, mode: str, *, draw: int = 0) -> Trace:
    """A recorded forward pass that returns one tensor; draws differ in what is random in it."""
    with global_stream(draw, "dropout"), no_kept_tensors(network), unchanged_attributes(network):
        before = generator_states()
        trace, output = record_forward(network, batch, gradients=mode == "train")
        trace.draws = generator_states() != before
    if not isinstance(output, Tensor):
        fields = getattr(output, "_fields", ())
        advice = ": set aux_logits to false" if any("aux" in name for name in fields) else ""
        raise SwapError(
            f"{network_name(network)} returns a {type(output).__name__} in {mode}, which should be one tensor{advice}"
        )
    return trace
