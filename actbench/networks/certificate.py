"""Which activations of a network are swapped, and why."""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import Tensor, nn

from actbench.networks.calls import SwapError
from actbench.networks.examining import MODES, Pass, check_kind, examined_passes
from actbench.networks.flow import Role
from actbench.networks.sites import Identity, Site, site_counts
from actbench.networks.swap import SwapPlan, network_name, swap_plan

SHOWN = 5  # nearest paths in a message
UNKNOWN = "not known to be an activation: name it in --model.sites to swap it"


class SiteLine(NamedTuple):
    """One site in words.

    Args:
        name: Path of the module that makes the call; with ``#`` and a number if it makes several, and with ``#`` and
            its functions if it is no known activation.
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
        certificate: What is swapped, in words.
        passes: Recorded passes, in training and in evaluation.
        chosen: What identifies the swapped sites, in the order of their activations.
        problem: Why the network cannot be swapped so; "" if it can.
    """

    plan: SwapPlan
    certificate: SwapCertificate
    passes: Sequence[Pass]
    chosen: tuple[Identity, ...]
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
    passes, skips = examined_passes(network, inputs)
    network.train()
    title = network_name(network)
    modes_of = {mode: [each for each in reversed(passes) if each.mode == mode] for mode in MODES}
    both = {
        identity: [
            next((each.sites[identity] for each in modes_of[mode] if identity in each.sites), None) for mode in MODES
        ]
        for identity in dict.fromkeys(identity for each in reversed(passes) for identity in each.sites)
    }
    first = [next(site for site in in_modes if site) for in_modes in both.values()]
    names = site_names(first)
    met = chosen_names({name: site.role for name, site in zip(names, first, strict=True)}, patterns, title)
    lines, chosen, problem = [], list[Identity](), ""
    for name, (identity, in_modes) in zip(names, both.items(), strict=True):
        site, *_ = known = [each for each in in_modes if each]
        modes = tuple(mode for mode, each in zip(MODES, in_modes, strict=True) if each)
        swapped, reason = decide(known, name, patterns, met, modes)
        if swapped and (why_not := refusal(known, modes)):
            swapped, reason = False, why_not
            problem = problem or (
                f"{title}: {name} ({site.text}) cannot be swapped: {why_not}; leave it out with patterns of "
                "--model.sites"
            )
        if swapped:
            chosen.append(identity)
        lines.append(SiteLine(name, site.text, site.in_place, site.role, modes, swapped, reason))
    if not chosen and not problem:
        has = in_words(site_counts(line.role for line in lines)) or "no activation that is recognised"
        kind = {"hidden": "hidden site", "all": "known activation"}.get(str(patterns), "chosen site")
        problem = f"{title} has no {kind} to swap; it has {has}"
        if others := [line.name for line in lines if line.role == "other"]:
            problem += f", which --model.sites can name: {', '.join(others[:SHOWN])}"
    parameters = sum(parameter.numel() for parameter in network.parameters())
    certificate = SwapCertificate(tuple(lines), parameters, ())
    numbered = [(each.mode, each.trace, each.numbered(chosen)) for each in passes]
    return Swap(swap_plan(numbered, skips=skips), certificate, passes, tuple(chosen), problem)


def in_words(counts: Mapping[str, int]) -> str:
    """Numbers of sites by role: ``49 hidden, 16 gates, 1 other map``."""
    nouns = {"gate": ("gate", "gates"), "other": ("other map", "other maps")}
    return ", ".join(f"{number} {nouns.get(role, (role, role))[number > 1]}" for role, number in counts.items())


def site_names(sites: Sequence[Site]) -> list[str]:
    """Names of sites: the module's path, with a number where the module has several; "." is the network itself.

    A map that is no known activation has its functions in the name, as in ``block#sin``, and so changes no number.
    """
    places = [(site.key.path or ".", site.text.replace(", ", "+") if site.role == "other" else "") for site in sites]
    seen, names = Counter[tuple[str, str]](), []
    for path, functions in places:
        number = str(seen[path, functions]) if places.count((path, functions)) > 1 else ""
        names.append(f"{path}#{functions}{number}" if functions or number else path)
        seen[path, functions] += 1
    return names


def chosen_names(names: Mapping[str, Role], patterns: str | Sequence[str], network: str) -> set[str]:
    """The names that patterns meet, none if a word chooses by role; SwapError for a pattern that meets none.

    A map that is no known activation is met by a pattern with ``#`` only.
    """
    chosen = set[str]()
    if patterns in ("hidden", "all"):
        return chosen
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        met = {
            name
            for name, role in names.items()
            if (fnmatchcase(name, pattern) or fnmatchcase(name.partition("#")[0], pattern))
            and (role != "other" or "#" in pattern)
        }
        if not met:
            near = difflib.get_close_matches(pattern, names, n=SHOWN, cutoff=0) or ["none"]
            raise SwapError(f"--model.sites: {pattern!r} meets no site of {network}; near it are {', '.join(near)}")
        chosen |= met
    return chosen


def decide(
    sites: Sequence[Site], name: str, patterns: str | Sequence[str], met: set[str], modes: Sequence[str]
) -> tuple[bool, str]:
    """Whether a site is swapped, and why."""
    site = sites[0]
    if len(modes) == 1 and not site.reaches:
        return False, f"only in {modes[0]}, and the output does not depend on it"
    if patterns in ("hidden", "all") and site.role == "other":
        return False, UNKNOWN
    if patterns == "hidden":
        if site.role in ("hidden", "glu", "recurrent"):
            return True, f"role {site.role}"
        return False, site.fixed or f"role {site.role}"
    if patterns == "all":
        return (False, site.fixed) if site.fixed and site.role in ("softmax", "gate") else (True, "all are")
    return (True, "met by a pattern") if name in met else (False, "met by no pattern")


def refusal(sites: Sequence[Site], modes: Sequence[str]) -> str:
    """Why a site that is chosen cannot be swapped; "" if it can."""
    if fixed := next((site.fixed for site in sites if site.fixed), ""):
        return f"it is {fixed}"
    return f"it is called in {modes[0]} only" if len(modes) == 1 else ""
