"""How the names in a file become those of a network."""

import re
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from torch import nn

from actbench.networks import SwappedNetwork
from actbench.training.transfer.source import first_names

WORDS = {"module", "model", "network"}  # which wrappers of a network put before its names
WRAPPED = re.compile(rf"((?:{'|'.join(sorted(WORDS))})\.)*")
INNER = "network."  # before the names of a network that activations are swapped into


def common_prefix(names: Iterable[str], wanted: Collection[str], path: str | Path) -> str:
    """The prefix without which most names are wanted; "" if none is.

    A ValueError names the prefixes between which the file leaves the choice open.
    """
    counts, longest = Counter[str](), max(map(len, wanted), default=0)
    for name in names:
        starts = [0, *(index + 1 for index, letter in enumerate(name) if letter == ".")]
        short = [start for start in starts if len(name) - start <= longest]  # a stranger's name may have any length
        counts.update(name[:start] for start in short if name[start:] in wanted)
    most = max(counts.values(), default=0)
    best = [prefix for prefix, count in counts.items() if count == most]
    usual = [prefix for prefix in best if set(prefix.split(".")[:-1]) <= WORDS]
    if "" in best or not best:
        return ""
    if len(best) > 1 and len(usual) != 1:
        raise ValueError(
            f"{path}: names match without each of the prefixes {first_names(sorted(best))}: "
            "save the state dict of one network"
        )
    return (usual if len(best) > 1 else best)[0]


class Match(NamedTuple):
    """How names in a file become names in a network."""

    removed: str | None
    """The prefix that a name has to have, which is removed; None for whichever usual ones it has."""
    part: str
    """What is put before a name."""

    def names(self, names: Iterable[str]) -> dict[str, str]:
        """New names and those in the file."""
        removed = WRAPPED if self.removed is None else re.compile(re.escape(self.removed))
        ends = {name: start.end() for name in names if (start := removed.match(name))}
        return {self.part + name[end:]: name for name, end in ends.items()}


def match_names(names: Collection[str], wanted: Collection[str], path: str | Path) -> Match:
    """How most of a file's names become names that are wanted; a ValueError names several ways."""
    match = Match(common_prefix(names, wanted, path), "")
    if match.names(names).keys() & {*wanted}:
        return match
    bare = Match(None, "").names(names)
    unique = len(bare) == len(names)
    part = common_prefix(wanted, bare.keys() if unique else names, path)
    return Match(None if unique and part else "", part)


def match_network(network: nn.Module, names: Collection[str], path: str | Path) -> Match:
    """How a file's names become a network's, also if they are those from before activations were swapped into it."""
    wanted = network.state_dict().keys()
    match = match_names(names, wanted, path)
    if not isinstance(network, SwappedNetwork):
        return match
    inner = match_names(names, network.network.state_dict().keys(), path)
    both = (match, inner._replace(part=INNER + inner.part))
    return max(both, key=lambda each: len(wanted & each.names(names).keys()))
