"""What a network's Python code reads besides its tensors; a recorded step is replayed only while that is the same.

A user's module may read anything that Python can reach: class attributes,
dictionaries, closures, globals, random generators, the clock. `python_state`
follows all that the code names, and returns it as one comparable value. Where
the code names something that cannot be followed, it raises `Unguarded`. The
modules of torch and of actbench read their attributes alone.
"""

import builtins
import collections
import functools
import itertools
import math
import operator
import types
from abc import ABCMeta
from collections.abc import Hashable, Mapping, Sequence, Set
from enum import Enum
from functools import cache
from typing import Any, Generic, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction, Function
from torch.nn import functional as F
from torch.nn.modules import module as torch_module
from torch.overrides import get_overridable_functions

from actbench.networks import MODULE_ATTRIBUTES
from actbench.training.engines.stack.bytecode import TO_TEXT, Unguarded, names_of

TRUSTED = ("torch", "torchvision", "actbench")
BUILTINS = (
    "abs all any bool bytes callable complex dict divmod enumerate filter float frozenset hash int isinstance "
    "issubclass iter len list map max min next object pow range repr reversed round "
    "set slice sorted str sum super tuple type zip"
)
TORCH = (  # besides the functions that may be overridden, and those in place: what follows from arguments alone
    "arange as_tensor asarray autocast broadcast_shapes can_cast empty enable_grad eye finfo fill full full_like iinfo "
    "is_complex is_floating_point is_tensor linspace logspace no_grad numel ones promote_types result_type "
    "scalar_tensor set_grad_enabled tensor tril_indices triu_indices vander zeros "
    "rand_like randn_like"  # which draw from each replicate's stream
)
PURE = {  # callables whose results follow from their arguments alone
    *(vars(builtins)[name] for name in BUILTINS.split()),
    *(value for value in vars(builtins).values() if isinstance(value, type) and issubclass(value, BaseException)),
    *(value for module in (math, itertools) for value in vars(module).values() if callable(value)),
    *(vars(operator)[name] for name in operator.__all__ if name not in ("attrgetter", "methodcaller", "call")),
    *(
        collections.OrderedDict,
        collections.defaultdict,
        collections.Counter,
        collections.deque,
        functools.partial,
        functools.reduce,
    ),
    *(getattr(torch, name) for name in TORCH.split()),
    *(getattr(F, name) for name in ("hardsigmoid", "hardswish", "sigmoid", "tanh")),
    *(
        v
        for owner in (torch, F)
        for name, v in vars(owner).items()
        if name.endswith("_") and isinstance(v, types.FunctionType | types.BuiltinFunctionType)
    ),
    *(function for functions in get_overridable_functions().values() for function in functions),
}
READ_BY_TORCH = MODULE_ATTRIBUTES | {"forward", "__call__", "_call_impl", "_wrapped_call_impl", "__getattr__"}
IMPLICIT = {"__getattribute__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__"}
"""Methods of `object` that Python calls where no name tells so."""
HARMLESS = TO_TEXT | {"__call__", "__class__", "__doc__", "__init__", "__name__", "__qualname__"}  # special attributes
REFUSED = {  # attributes, and why a stack cannot have them
    **dict.fromkeys(
        ("requires_grad", "is_leaf", "grad", "grad_fn", "stride", "is_contiguous", "storage", "data_ptr"),
        "which differs in a stack",
    ),
    **dict.fromkeys(
        ("bernoulli_", "uniform_", "normal_", "exponential_", "geometric_", "log_normal_", "cauchy_", "random_"),
        "which cannot follow each replicate's seed",
    ),
    **dict.fromkeys(("format", "format_map"), "which may read any attribute"),
    **dict.fromkeys(("tolist", "numpy"), "which hands values to Python unseen"),
}
PLAIN = {
    *(bool, int, str, bytes, complex, range, type(None), type(NotImplemented), type(...)),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
}
SMALL = 64  # values of a tensor or array that is compared as a whole
PythonField = collections.namedtuple("PythonField", "name")  # for the class of its descriptors
ADDED_BY_PYTHON = {"__warningregistry__", "__slotnames__"}  # after a warning, and when a tensor is first copied
GLOBAL_HOOKS = [name for name in vars(torch_module) if name.startswith("_global_") and name.endswith("hooks")]
DESCRIPTORS = types.GetSetDescriptorType | types.MemberDescriptorType | type(PythonField.name)
METHODS = types.FunctionType | classmethod | staticmethod
BUILTIN_METHODS = types.WrapperDescriptorType | types.MethodDescriptorType | types.ClassMethodDescriptorType


class PythonState(NamedTuple):
    """What code reads: comparable values, and the objects among them, which are compared by id.

    As long as the objects are kept, no others have their ids.
    """

    values: tuple[Hashable, ...]
    objects: tuple[Any, ...]


def python_state(network: nn.Module) -> PythonState:
    """All that the network's Python code may read in a forward or backward pass, besides parameters and buffers.

    Raises Unguarded if that cannot be known.
    """
    modules = list(network.modules())
    state = State(set(map(id, modules)))
    for owner in (Tensor, F):  # whose functions may be replaced
        functions = [*map(id, vars(owner).values())]
        for name in vars(owner).keys() & ADDED_BY_PYTHON:
            functions.remove(id(vars(owner)[name]))
        state.values.append(hash(tuple(functions)))
    for name in GLOBAL_HOOKS:
        if vars(torch_module)[name]:
            state.add(vars(torch_module)[name])
    state.add(network)
    state.follow()
    if state.stores:
        kept = {name for module in modules for name in (*module._parameters, *module._buffers)}
        if changed := sorted(state.stores & (state.attributes | kept)):
            raise Unguarded(f"its code changes {changed[0]} as it runs")
    return PythonState(tuple(state.values), (*state.seen.values(), *(owner for owner, _ in state.owners)))


class State:
    """Collects what code reads, and follows each function, class and module that it meets once."""

    def __init__(self, registered: Set[int]) -> None:
        self.registered = registered  # ids of the network's modules
        self.values: list[Hashable] = []
        self.seen = dict[int, Any]()  # by id
        self.order = dict[int, int]()  # in which they were seen, by id
        self.attributes = set[str]()  # names of attributes that any of the code reads
        self.stores = set[str]()  # and sets
        self.owners: list[tuple[type | types.ModuleType, set[str]]] = []  # with the names followed there so far

    def follow(self) -> None:
        """Add what code reads from classes and modules, until no more code is met."""
        size = -1
        while size != len(self.values):
            size = len(self.values)
            for owner, followed in self.owners:  # which grows meanwhile
                for name in sorted(read_from(owner, self.attributes) - followed):
                    followed.add(name)
                    self.values.append((id(owner), name))
                    self.add(vars(owner)[name])

    def add(self, value: Any) -> None:
        """Add a value that code can reach, and all that can be reached through it."""
        kind = type(value)
        if kind in PLAIN:
            self.values.append((kind, value))
        elif kind is tuple and all(type(item) in PLAIN for item in value):  # sizes, mostly
            self.values.append((value, *map(type, value)))
        elif kind is float:
            self.values.append(value.hex())  # which tells -0.0 from 0.0
        elif id(value) in self.seen:
            self.values.append(self.order[id(value)])
        else:
            self.order[id(value)] = len(self.order)
            self.seen[id(value)] = value
            if isinstance(value, nn.Module) and self.add_object(value):  # which most objects are
                return
            for add in (self.add_collection, self.add_array, self.add_code, self.add_object):
                if add(value):
                    return
            if callable(value) and hasattr(value, "__qualname__"):
                raise Unguarded(f"it calls {value.__name__}, which may depend on more than its arguments")
            raise Unguarded(f"it reads an object of {kind.__module__}.{kind.__qualname__}")

    def add_collection(self, value: Any) -> bool:
        """Add a collection with its items; False if it is none."""
        kind = type(value)
        if kind in (tuple, list, collections.deque, torch.Size) or hasattr(kind, "_fields"):
            items = list(value)
        elif kind in (set, frozenset):
            items = sorted(value, key=repr)
        elif kind in (dict, collections.OrderedDict, collections.Counter, types.MappingProxyType):
            items = [item for pair in value.items() for item in pair]
        elif kind is collections.defaultdict:
            items = [value.default_factory, *(item for pair in value.items() for item in pair)]
        elif kind is slice:
            items = [value.start, value.stop, value.step]
        else:
            return False
        self.values.append((id(kind), len(items)))
        for item in items:
            self.add(item)
        if hasattr(kind, "_fields"):
            self.add_class(kind)
        return True

    def add_array(self, value: Any) -> bool:
        """Add a small tensor or array, or a number of NumPy's, with its values; False if it is none."""
        if type(value) is Tensor and value.device.type == "cpu" and value.numel() <= SMALL and not value.requires_grad:
            self.values.append((value.dtype, value.shape, repr(value.tolist())))
        elif isinstance(value, np.generic):
            self.values.append((type(value), value.tobytes()))
        elif type(value) is np.ndarray and value.size <= SMALL and value.dtype != object:
            self.values.append((value.dtype.str, value.shape, value.tobytes()))
        elif isinstance(value, Tensor):
            raise Unguarded("it reads a tensor that is neither a parameter nor a buffer")
        else:
            return False
        return True

    def add_code(self, value: Any) -> bool:
        """Add a function, class or module; False if it is none."""
        if is_pure(value):
            self.values.append(id(value))
        elif isinstance(value, types.FunctionType):
            self.values += [id(value.__code__), value.__name__]
            self.seen[id(value.__code__)] = value.__code__
            self.add_function(value)
        elif isinstance(value, types.MethodType):
            self.add(value.__self__)
            self.add(value.__func__)
        elif isinstance(value, staticmethod | classmethod):
            self.add(value.__func__)
        elif type(value) is property:
            self.add((value.fget, value.fset))
        elif isinstance(value, functools.partial):
            self.add((value.func, value.args, value.keywords))
        elif isinstance(value, types.ModuleType):
            if "__getattr__" in vars(value) and value.__name__.partition(".")[0] not in TRUSTED:
                raise Unguarded(f"{value.__name__} computes its attributes")
            self.values.append(id(value))
            self.owners.append((value, set()))
        elif isinstance(value, type):
            self.add_class(value, called=True)
        else:
            return False
        return True

    def add_object(self, value: Any) -> bool:
        """Add an object with its attributes and class; False if it may hold more than its attributes."""
        cls = type(value)
        if isinstance(value, nn.Module):
            if id(value) not in self.registered and any(True for _ in (*value.parameters(), *value.buffers())):
                raise Unguarded(f"it uses a {cls.__name__} that is not one of its submodules")
            self.values.append(id(cls.forward))
            attributes = {
                name: item
                for name, item in vars(value).items()
                if name not in ("_parameters", "_buffers") and (name not in MODULE_ATTRIBUTES or item)
            }
            for name in ("_parameters", "_buffers"):  # whose values are inputs of the step
                self.values.append(tuple(vars(value)[name]))
        elif isinstance(value, Enum):
            attributes = {"value": value._value_}
        elif cls is types.SimpleNamespace or all(map(is_written_in_python, cls.__mro__)):
            slots = (name for base in cls.__mro__ for name, m in vars(base).items() if isinstance(m, DESCRIPTORS))
            attributes = {name: getattr(value, name, None) for name in slots if not is_special(name)}
            attributes |= vars(value) if hasattr(value, "__dict__") else {}
        else:
            return False
        for name, item in attributes.items():
            self.values.append(name)
            self.add(item)
        self.add_class(cls)
        return True

    def add_class(self, cls: type, *, called: bool = False) -> None:
        """Add a class and its bases, unless they are trusted; code that names the class may have it ``called``."""
        if type(cls) is not type and package_of(type(cls)) not in (*TRUSTED, "enum", "abc"):
            raise Unguarded(f"{cls.__qualname__} has a metaclass")
        self.values.append(id(cls))
        if called and (package_of(cls) == "torch" or cls is nn.Parameter):
            raise Unguarded(f"it names {cls.__module__}.{cls.__qualname__}")
        if called and type(cls) is ABCMeta:
            raise Unguarded(f"it names {cls.__qualname__}, which other classes may register with")
        for base in untrusted(cls.__mro__):
            if all(owner is not base for owner, _ in self.owners):
                self.values.append(id(base))
                self.owners.append((base, set()))
        for name in ("__init__", "__new__", "__post_init__") if called else ():
            for base in cls.__mro__:
                if package_of(base) not in (*TRUSTED, "builtins", "typing"):
                    self.add(vars(base).get(name))

    def add_function(self, function: types.FunctionType) -> None:
        """Add what a function reads: defaults, closure, attributes and globals."""
        if package_of(function) == "torch":
            raise Unguarded(f"it calls {function.__module__}.{function.__qualname__}")
        names = names_of(function.__code__)
        special = [name for name in names.attributes - HARMLESS if is_special(name)]
        if special:
            raise Unguarded(f"{function.__qualname__} reads {special[0]}")
        if refused := sorted(names.attributes & REFUSED.keys()):
            raise Unguarded(f"{function.__qualname__} reads {refused[0]}, {REFUSED[refused[0]]}")
        self.attributes |= names.attributes
        self.stores |= names.stores
        for value in (function.__defaults__, function.__kwdefaults__, dict(vars(function))):
            self.add(value)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:  # nothing has been assigned
                continue
            if name == "__class__":  # of super()
                self.add_class(content)
            else:
                self.add(content)
        for chain in sorted(names.globals):
            self.add_global(function.__globals__, chain)

    def add_global(self, namespace: Mapping[str, Any], chain: Sequence[str]) -> None:
        """Add what a chain of names leads to: a global or builtin, and attributes as long as these are modules."""
        name, *attributes = chain
        if name not in namespace and name not in vars(builtins):
            return
        value = namespace[name] if name in namespace else vars(builtins)[name]
        self.values.append(name)
        while isinstance(value, types.ModuleType) and attributes:
            name = attributes.pop(0)
            if name not in vars(value):
                raise Unguarded(f"it reads {value.__name__}.{name}")
            self.values.append(name)
            value = vars(value)[name]
        self.add(value)


def read_from(owner: type | types.ModuleType, attributes: set[str]) -> set[str]:
    """Names of what code reads from a class or module, with the methods that Python and torch call by themselves."""
    members = vars(owner)
    names = {name for name in attributes if name in members}
    if isinstance(owner, type):
        names |= called_by_itself(owner)
        names = {name for name in names if not isinstance(members[name], DESCRIPTORS | BUILTIN_METHODS)}
    return names


def called_by_itself(cls: type) -> set[str]:
    """Names of a class's methods that Python calls, such as ``__len__``, or that replace one of a base from torch."""
    members = vars(cls)
    names = {name for name, value in members.items() if is_special(name) and callable(value)}
    names -= vars(object).keys() - IMPLICIT
    for base in cls.__mro__:
        if package_of(base) in TRUSTED and base is not nn.Module:  # its code reads what a member may replace
            plain = {name for name, value in members.items() if not isinstance(value, METHODS) and not is_special(name)}
            names |= plain | (members.keys() & vars(base).keys())
    if issubclass(cls, nn.Module):
        names |= members.keys() & READ_BY_TORCH
    return names - {"__init__", "__replace__", "extra_repr", "reset_parameters"}  # called by no forward pass alone


def is_special(name: str) -> bool:
    """Whether a name has two underscores on each side."""
    return name.startswith("__") and name.endswith("__")


def is_pure(value: Any) -> bool:
    """Whether a value is a callable whose results follow from its arguments alone, as far as code can tell."""
    if isinstance(value, type | types.FunctionType) and package_of(value) == "actbench":
        return True
    if isinstance(value, type) and package_of(value) in TRUSTED:
        return value in PURE or issubclass(value, nn.Module | Tensor | Function | BackwardCFunction)
    if isinstance(value, torch.jit.ScriptFunction | np.ufunc):
        return True
    try:
        return value in PURE
    except TypeError:  # it, or a part of it, has no hash
        return False


@cache
def untrusted(classes: tuple[type, ...]) -> tuple[type, ...]:
    """The classes that were written by neither torch, actbench nor Python."""
    return tuple(cls for cls in classes if package_of(cls) not in (*TRUSTED, "builtins", "enum", "typing", "abc"))


def package_of(value: Any) -> str:
    """The package in which a class or function was written."""
    return str(getattr(value, "__module__", "")).partition(".")[0]


@cache
def is_written_in_python(cls: type) -> bool:
    """Whether a class is written in Python, so that its instances hold nothing besides their attributes."""
    if cls in (object, Generic, Protocol):
        return True
    of_heap = bool(cls.__flags__ & 1 << 9)  # all classes of Python and some of C, which have methods of C
    return of_heap and not any(
        isinstance(member, BUILTIN_METHODS | types.BuiltinMethodType) for member in vars(cls).values()
    )
