"""The code of the user's own that results follow from: modules and notebooks, and the packages that these import."""

import ast
import importlib.util
import inspect
import linecache
import os
import site
import struct
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.metadata import packages_distributions
from itertools import accumulate
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any
from uuid import uuid4

from actbench.specs import UsageError
from actbench.specs.values import is_plain


def user_code(config: Mapping[str, Any]) -> tuple[dict[str, str], set[str]]:
    """Hashes of the user's own modules that a config's classes come from or import, and the packages they import.

    Every string that looks like a dotted name counts, since functions and types are given by name too. Modules that
    are imported under a name computed at run time are missed.
    """
    sources: dict[str, str] = {}
    packages = {"torch", "torchvision", "pytorch-lightning"}
    waiting = [module for path in dotted_names(config) for module in defining_modules(path)]
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        file, top_level = source_file(name), name.partition(".")[0]
        if file is None:
            packages |= set(distributions().get(top_level, []) if top_level != "actbench" else [])
        else:
            sources[name] = source_hash(name, file)
            waiting += imported_modules(name, file)
    return sources, packages


def dotted_names(config: Mapping[str, Any]) -> Iterator[str]:
    """Strings at any depth that may name a class or a function."""
    for value in leaves(config):
        if isinstance(value, str) and "." in value and all(part.isidentifier() for part in value.split(".")):
            yield value


def leaves(value: Any) -> list[Any]:
    """Values at any depth that are neither mappings nor lists."""
    return [item for _, item in named_leaves(value)]


def named_leaves(value: Any) -> list[tuple[str, Any]]:
    """Values at any depth that are neither mappings nor lists, each with the innermost name under which it is held."""
    found, waiting = list[tuple[str, Any]](), [("", value)]
    while waiting:  # without recursion, since a plan may have ten thousand configs
        name, item = waiting.pop()
        if isinstance(item, dict):
            waiting += [(str(key), each) for key, each in item.items()]
        elif isinstance(item, list | tuple):
            waiting += [(name, each) for each in item]
        else:
            found.append((name, item))
    return found


def defining_modules(path: str) -> Iterator[str]:
    """Modules that define a class, its base classes and the classes around it; none if the string names no class."""
    module, _, name = path.rpartition(".")
    while module and module not in sys.modules:  # of a class in a class; what a parsed config names was imported
        module, _, outer = module.rpartition(".")
        name = f"{outer}.{name}"
    start: Any = sys.modules.get(module)
    _, *targets = accumulate(name.split("."), lambda holder, part: getattr(holder, part, None), initial=start)
    if targets[-1] is None:
        return
    yield module
    for target in targets:
        for cls in inspect.getmro(target) if isinstance(target, type) else (target,):
            definer = getattr(cls, "__module__", None)
            if isinstance(definer, str) and definer != "builtins":
                yield definer


@cache
def installed_folders() -> tuple[Path, ...]:
    """Folders of the standard library and of installed packages."""
    paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple(Path(path).resolve() for path in (*paths, *site.getsitepackages(), site.getusersitepackages()))


distributions = cache(packages_distributions)
PACKAGE = Path(__file__).resolve().parents[2]  # actbench
INSTALLED = {"site-packages", "dist-packages"}  # names of folders that hold packages, wherever these are
IMPORTERS = ("import_module", "__import__")  # functions whose calls count as imports where the name is written out
IMPORTED: dict[str, tuple[ModuleType, Any, str]] = {}  # each module, its spec and its file's hash, when first seen
CHANGED = "{} has changed since it was imported: start Python again, or reload {}"
SEEN_ELSEWHERE = (type, FunctionType, BuiltinFunctionType, ModuleType)  # in a notebook's cells, or among its imports
CODE = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def source_file(name: str) -> Path | None:
    """The file of a user's own module; None for an installed module and for actbench, which count by their versions."""
    module = sys.modules.get(name)
    with suppress(Exception):  # of any kind, in the packages that contain the module
        spec = getattr(module, "__spec__", None)
        if name == "__main__" and spec is None:  # a notebook, or a script that was started
            return Path(getattr(module, "__file__", None) or "")
        spec = spec or unimported_spec(name)
        if spec is not None and spec.origin and spec.has_location:
            file = Path(spec.origin).resolve()
            installed = any(map(file.is_relative_to, (*installed_folders(), PACKAGE))) or INSTALLED & {*file.parts}
            return None if installed else file
    return None


def unimported_spec(name: str) -> ModuleSpec | None:
    """The spec of a module, found without running the packages that contain it; None if there is no such module."""
    top, *rest = accumulate(name.split("."), "{}.{}".format)
    spec = importlib.util.find_spec(top)
    for path in rest:
        folders = spec and spec.submodule_search_locations
        spec = PathFinder.find_spec(path, folders) if folders else None
    return spec


def source_hash(name: str, file: Path) -> str:
    """Hash of a module's file as this process imported it, or of the code of a notebook, which has no file.

    Raises a ValueError if Python has compiled another version of the file.
    """
    if not file.is_file():
        return sha256(notebook_code(sys.modules[name]).encode()).hexdigest()[:32]
    module = sys.modules.get(name)
    known, spec, found = IMPORTED.get(name, (None, None, ""))
    # Not seen since it was imported, or loaded again, which makes another spec, though an equal one.
    if module is None or known is not module or spec is not module.__spec__:
        found = file_digest(file)
        if module is not None:
            if compiled_otherwise(module, file):
                raise ValueError(CHANGED.format(file.name, name))
            IMPORTED[name] = module, module.__spec__, found
    return found


def file_digest(file: Path) -> str:
    """Hash of a module's file as it is now."""
    return sha256(file.read_bytes()).hexdigest()[:32]


def check_current(modules: Iterable[str]) -> None:
    """Raise a UsageError if the file of a module has changed since this process imported it, as in a notebook."""
    for name in modules:
        file = source_file(name)
        if file is not None and file.is_file() and source_hash(name, file) != file_digest(file):
            raise UsageError(CHANGED.format(file.name, name))


def compiled_otherwise(module: ModuleType, file: Path) -> bool:
    """Whether the compiled code that Python wrote when it imported a module is that of another version of the file."""
    cached = Path(getattr(module, "__cached__", None) or "")
    if type(module.__loader__) is not SourceFileLoader or sys.dont_write_bytecode or not cached.is_file():
        return False
    magic, flags, version = struct.unpack("4s4s8s", cached.read_bytes()[:16].ljust(16))
    stat = file.stat()
    current = struct.pack("<2L", *(int(each) & 0xFFFFFFFF for each in (stat.st_mtime, stat.st_size)))
    by_time = magic == importlib.util.MAGIC_NUMBER and flags == bytes(4)  # and size, as is the default
    return by_time and version != current and os.access(cached.parent, os.W_OK)


def check_planned(planned: Mapping[str, str]) -> None:
    """Raise a ValueError if a module that this process has imported is not what was planned with."""
    for name, digest in planned.items():
        file = source_file(name)
        if file is not None and file.is_file() and source_hash(name, file) != digest:
            raise ValueError(f"{file.name} has changed since the study was planned: start the study again")


def notebook_code(module: ModuleType) -> str:
    """The cells that define a notebook's functions and classes, and the values that these read.

    What cannot be known, such as a tensor's value, differs at each call.
    """
    held = vars(module)
    cells, read = set[str](), set[str]()
    for value in held.values():
        if getattr(value, "__module__", None) == module.__name__ and inspect.isclass(value):
            cells |= {cell_code(method) for method in vars(value).values() if inspect.isfunction(method)} or {""}
        elif getattr(value, "__module__", None) == module.__name__ and inspect.isfunction(value):
            cells.add(cell_code(value))
    for cell in cells:
        try:
            nodes = [node for node in ast.walk(ast.parse(cell)) if isinstance(node, CODE)]
        except SyntaxError:
            return uuid4().hex
        read |= {inner.id for node in nodes for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    names = sorted(name for name in read & held.keys() if not isinstance(held[name], SEEN_ELSEWHERE))
    values = {name: held[name] for name in names}
    if "" in cells or not all(map(is_plain, values.values())):
        return uuid4().hex
    return "\n".join([*sorted(cells), repr(values)])


def cell_code(function: Any) -> str:
    """The cell that defines a function; empty if that is not known."""
    return "".join(linecache.getlines(function.__code__.co_filename))


def imported_modules(name: str, file: Path) -> list[str]:
    """Modules that a module imports, at its top or in a function, and the package that contains the module."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    modules: list[Any] = [name.rpartition(".")[0]]
    if file.suffix == ".py":
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                modules += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = "." * node.level + (node.module or "")
                base = importlib.util.resolve_name(base, package) if node.level else base
                modules += [base, *(f"{base}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in IMPORTERS:
                given = (*node.args, *(keyword.value for keyword in node.keywords))
                texts = [item.value for item in given if isinstance(item, ast.Constant) and isinstance(item.value, str)]
                anchor = next((text for text in texts if not text.startswith(".")), package)
                with suppress(ImportError):  # a relative name outside of packages
                    modules += [importlib.util.resolve_name(text, anchor) for text in texts]
    module = sys.modules.get(name)
    for value in vars(module).values() if module else ():  # imported in other ways
        with suppress(Exception):  # of any kind, from an object that stands for another one
            modules.append(value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None))
    return [path for path in modules if isinstance(path, str) and path not in ("", "builtins", "__future__")]
