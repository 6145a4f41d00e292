"""Names that a function's bytecode reads and sets."""

import dis
from functools import cache
from types import CodeType
from typing import NamedTuple

LOADS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")

TO_TEXT = frozenset({"__repr__", "__str__", "__format__"})  # methods that Python calls to make a text


class Unguarded(Exception):
    """A network's code reads what cannot be followed; the message says what."""


class Names(NamedTuple):
    """Names that a function's code reads."""

    globals: frozenset[tuple[str, ...]]  # each with the attributes that follow, as in ``torch.nn.functional.relu``
    attributes: frozenset[str]  # of any object
    stores: frozenset[str]  # attributes that it sets


@cache
def names_of(code: CodeType) -> Names:
    """Names that code reads and sets, with the functions inside it. Raises Unguarded for what names do not tell."""
    chains, attributes, stores = list[list[str]](), set[str](), set[str]()
    follows = False
    for instruction in dis.get_instructions(code):
        kind, name = instruction.opname, str(instruction.argval)
        check_instruction(kind, name, code)
        is_attribute = kind.endswith(("_ATTR", "_METHOD")) and kind.startswith("LOAD")
        if is_attribute:
            attributes.add(name)
            if follows:
                chains[-1].append(name)
        elif kind in ("STORE_ATTR", "DELETE_ATTR"):
            stores.add(name)
        elif kind in LOADS:
            chains.append([name])
        if kind.startswith(("FORMAT", "CONVERT")) or name in ("str", "repr"):
            attributes |= TO_TEXT
        follows = kind in LOADS or (is_attribute and follows)
    read = {tuple(chain) for chain in chains}
    for inner in (value for value in code.co_consts if isinstance(value, CodeType)):
        names = names_of(inner)
        read, attributes, stores = read | names.globals, attributes | names.attributes, stores | names.stores
    return Names(frozenset(read), frozenset(attributes), frozenset(stores))


def check_instruction(kind: str, name: str, code: CodeType) -> None:
    """Raise Unguarded for an import, a match of a class, or a change of a global or an outer variable."""
    if kind.startswith(("IMPORT", "MATCH_CLASS")):
        raise Unguarded(f"{code.co_qualname} imports a module or matches a class")
    if kind in ("STORE_GLOBAL", "DELETE_GLOBAL") or (kind == "STORE_DEREF" and name in code.co_freevars):
        raise Unguarded(f"{code.co_qualname} changes {name}")
