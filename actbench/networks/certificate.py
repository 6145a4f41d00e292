"""Which activations of a network are swapped, and why."""

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from actbench.networks.calls import SwapError, Trace
from actbench.networks.copies import no_kept_tensors
from actbench.networks.flow import Role
from actbench.networks.sites import Identity, Site, find_sites, identified, site_counts
from actbench.networks.swap import SwapPlan, swap_plan
from actbench.networks.tracing import record_forward
from actbench.seeding import global_stream

MODES = ("train", "eval")
DRAWS = (1, 2)  # seeds of dropout under which training is examined, beside 0
LARGER = 5  # images in a second size of batch
SHOWN = 5  # nearest paths in a message


class SiteLine(NamedTuple):
    """One site in words.

    Args:
        name: Path of the module that makes the call; with ``#`` and a number if it makes several.
        call: The function or module, such as ``relu``; several if the activation is composed by hand.
        in_place: Whether it changes its input.
        role: What it is for; see `actbench.networks.sites.Role`.
        modes: The modes, train and eval, in which it is called.
        swapped: Whether another activation runs there.
        reason: Why, in words.
    """

    name: str
    call: str
    in_place: bool
    role: Role
    modes: tuple[str, ...]
    swapped: bool
    reason: str


class SwapCertificate(NamedTuple):
    """What was swapped in a network, what was kept, and what was proved.

    Args:
        sites: All sites, in the order of a forward pass.
        parameters: Number of the network's parameters, without those of activations that are swapped in.
        proved: Modes in which the network's own activations, swapped in, gave equal outputs and gradients bit for bit,
            and in which a marker ran at each swapped site and the network's own function at none.
    """

    sites: tuple[SiteLine, ...]
    parameters: int
    proved: tuple[str, ...]

    @property
    def text(self) -> str:
        """One line: ``49 of 65 sites swapped: 49 hidden; kept 16 gates; proved in train and eval``."""
        proved = f"proved in {' and '.join(self.proved)}" if self.proved else "not proved"
        return f"{self.counts}; {proved}"

    @property
    def counts(self) -> str:
        """How many sites are swapped and kept, by role."""
        swapped, kept = (
            in_words(site_counts(site.role for site in self.sites if site.swapped is state)) for state in (True, False)
        )
        number = sum(site.swapped for site in self.sites)
        return f"{number} of {len(self.sites)} sites swapped: {swapped or 'none'}{kept and f'; kept {kept}'}"

    def to_dict(self) -> dict[str, Any]:
        """The certificate in plain values."""
        sites = [{**site._asdict(), "modes": list(site.modes)} for site in self.sites]
        return {"text": self.text, "parameters": self.parameters, "proved": list(self.proved), "sites": sites}


class Swap(NamedTuple):
    """How activations are put into a network.

    Args:
        plan: Which calls are intercepted.
        number: Number of activations.
        certificate: What is swapped, in words.
        modes: For each of `MODES`, a trace and the swapped sites in it.
        problem: Why the network cannot be swapped so; "" if it can.
    """

    plan: SwapPlan
    number: int
    certificate: SwapCertificate
    modes: tuple[tuple[Trace, dict[int, Site]], ...]
    problem: str


def examine(network: nn.Module, inputs: Sequence[Tensor], patterns: str | Sequence[str]) -> Swap:
    """Find a network's sites and choose those to swap; nothing is proved.

    Args:
        network: The network, which is run and left in training.
        inputs: Batches that differ in their values.
        patterns: ``hidden``, ``all``, or patterns of names of sites.

    Raises:
        SwapError: The sites cannot be known, or a pattern meets none.
    """
    check_kind(network)
    examined = [examined_mode(network, inputs, mode) for mode in MODES]
    traces, found = zip(*examined, strict=True)
    network.train()
    both = {identity: [sites.get(identity) for sites in found] for identity in found[0] | found[1]}
    names = site_names([identity[0] for identity in both])
    asked = set[str]() if patterns in ("hidden", "all") else chosen_names(names, patterns, title(network))
    lines, chosen, problem = [], list[Identity](), ""
    for name, (identity, in_modes) in zip(names, both.items(), strict=True):
        site, *_ = known = [each for each in in_modes if each]
        modes = tuple(mode for mode, each in zip(MODES, in_modes, strict=True) if each)
        swapped, reason = decide(known, name, patterns, asked, modes)
        if swapped and (why_not := refusal(known, modes)):
            swapped, reason = False, why_not
            problem = problem or (
                f"{title(network)}: {name} ({site.text}) cannot be swapped: {why_not}; leave it out with patterns of "
                "--model.sites"
            )
        if swapped:
            chosen.append(identity)
        lines.append(SiteLine(name, site.text, site.in_place, site.role, modes, swapped, reason))
    if not chosen and not problem:
        has = in_words(site_counts(line.role for line in lines)) or "no activation at all"
        problem = f"{title(network)} has no {'chosen' if asked else 'hidden'} site to swap; it has {has}"
    parameters = sum(parameter.numel() for parameter in network.parameters())
    numbered = [{index: each[key] for index, key in enumerate(chosen) if key in each} for each in found]
    modes_of_swap = tuple(zip(traces, numbered, strict=True))
    certificate = SwapCertificate(tuple(lines), parameters, ())
    return Swap(swap_plan(modes_of_swap), len(chosen), certificate, modes_of_swap, problem)


def examined_mode(network: nn.Module, inputs: Sequence[Tensor], mode: str) -> tuple[Trace, dict[Identity, Site]]:
    """A recorded pass in a mode, and its sites; SwapError if they change with values, draws or the size of a batch."""
    network.train(mode == "train")
    recorded = [recorded_forward(network, batch, mode) for batch in inputs]
    by_input = [identified(find_sites(trace)) for trace in recorded]
    for other in by_input[1:]:
        if differing := [identity[0] for identity in by_input[0].keys() ^ other.keys()]:
            raise SwapError(
                f"{title(network)}: {min(differing) or 'the network'} calls activations for some inputs only, in "
                f"{mode}: calls that depend on values cannot be swapped"
            )
    for draw in DRAWS if mode == "train" else ():
        other = identified(find_sites(recorded_forward(network, inputs[0], mode, draw=draw)))
        if differing := [identity[0] for identity in by_input[0].keys() ^ other.keys()]:
            raise SwapError(
                f"{title(network)}: calls of activations in {min(differing) or 'the network'} are skipped at "
                "random in training, so that they cannot be swapped"
            )
    by_size = sites_of_larger(network, inputs[0], mode)
    if by_size is not None and (differing := [identity[0] for identity in by_input[0].keys() ^ by_size.keys()]):
        raise SwapError(
            f"{title(network)}: the number of activations that {min(differing) or 'the network'} calls depends on "
            f"the size of the batch in {mode}, so that they cannot be swapped"
        )
    refuse_uncaught(title(network), recorded[0], by_input[0].values())
    return recorded[0], by_input[0]


def sites_of_larger(network: nn.Module, batch: Tensor, mode: str) -> dict[Identity, Site] | None:
    """The sites in a pass of another size of batch; None if the network takes no batch of that size."""
    larger = batch.repeat(LARGER, *[1] * (batch.dim() - 1))[:LARGER]
    try:
        return identified(find_sites(recorded_forward(network, larger, mode)))
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


def in_words(counts: Mapping[str, int]) -> str:
    """Numbers of sites by role: ``49 hidden, 16 gates``."""
    return ", ".join(
        f"{number} {role}{'s' if role == 'gate' and number > 1 else ''}" for role, number in counts.items()
    )


def title(network: nn.Module) -> str:
    """A network's name in messages."""
    return type(network).__name__


def check_kind(network: nn.Module) -> None:
    """Raise SwapError for a network whose calls cannot be seen."""
    for path, module in network.named_modules():
        kind, where = type(module), path or "the network"
        problem = ""
        if isinstance(module, torch.jit.ScriptModule):
            problem = "is scripted"
        elif any(f"nn.{part}" in kind.__module__ for part in ("quantized", "intrinsic")):
            problem = f"is quantised or fused, a {kind.__name__}"
        if problem:
            raise SwapError(f"{title(network)}: {where} {problem}, so that its calls cannot be seen: give a plain one")


def recorded_forward(network: nn.Module, batch: Tensor, mode: str, *, draw: int = 0) -> Trace:
    """A recorded forward pass that returns one tensor; draws differ in what is random in it."""
    with global_stream(draw, "dropout"), no_kept_tensors(network):
        trace, output = record_forward(network, batch, gradients=mode == "train")
    if not isinstance(output, Tensor):
        fields = getattr(output, "_fields", ())
        advice = ": set aux_logits to false" if any("aux" in name for name in fields) else ""
        raise SwapError(
            f"{title(network)} returns a {type(output).__name__} in {mode}, which should be one tensor{advice}"
        )
    return trace


def site_names(paths: Sequence[str]) -> list[str]:
    """Names of sites: the module's path, with a number where the module has several; "." is the network itself."""
    seen, names = Counter[str](), []
    for path in paths:
        names.append(f"{path or '.'}#{seen[path]}" if paths.count(path) > 1 else path or ".")
        seen[path] += 1
    return names


def chosen_names(names: Sequence[str], patterns: str | Sequence[str], network: str) -> set[str]:
    """The names that patterns meet; SwapError for a pattern that meets none."""
    chosen = set[str]()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        met = {name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name.partition("#")[0], pattern)}
        if not met:
            near = difflib.get_close_matches(pattern, names, n=SHOWN, cutoff=0) or ["none"]
            raise SwapError(f"--model.sites: {pattern!r} meets no site of {network}; near it are {', '.join(near)}")
        chosen |= met
    return chosen


def decide(
    sites: Sequence[Site], name: str, patterns: str | Sequence[str], asked: set[str], modes: Sequence[str]
) -> tuple[bool, str]:
    """Whether a site is swapped, and why."""
    site = sites[0]
    if len(modes) == 1 and not site.reaches:
        return False, f"only in {modes[0]}, and the output does not depend on it"
    if patterns == "hidden":
        if site.role in ("hidden", "glu", "recurrent"):
            return True, f"role {site.role}"
        return False, site.fixed or f"role {site.role}"
    if patterns == "all":
        return (False, site.fixed) if site.fixed and site.role in ("softmax", "gate") else (True, "all are")
    return (True, "met by a pattern") if name in asked else (False, "met by no pattern")


def refusal(sites: Sequence[Site], modes: Sequence[str]) -> str:
    """Why a site that is chosen cannot be swapped; "" if it can."""
    if sites[0].fixed:
        return f"it is {sites[0].fixed}"
    return f"it is called in {modes[0]} only" if len(modes) == 1 else ""
