"""The rooms of the package, and that imports run one way through them: what docs/architecture.md promises."""

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "actbench"
ROOMS = (  # each imports only from those before it
    "seeding",
    "records",
    "activations",
    "networks",
    "data",
    "specs",
    "training",
    "inference",
    "studies",
    "report",
    "judging",
    "cli",
    "__main__",
)
LONGEST = 400  # lines of a module


def modules() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(name: str) -> str:
    return name.split(".")[1]


def imported(path: Path, *, everywhere: bool = True) -> Iterator[str]:
    """Modules of the package that a module imports; not everywhere: only those that it imports as it is imported."""
    tree = ast.parse(path.read_text())
    known = {name_of(module) for module in modules()}
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "actbench":
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in known else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("actbench."))


def test_the_rooms_are_those_of_the_pipeline():
    assert {room_of(name_of(path)) for path in modules()} == set(ROOMS)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_imports_only_from_rooms_before_its_own(path):
    own = ROOMS.index(room_of(name_of(path)))

    later = [name for name in imported(path) if name != "actbench" and ROOMS.index(room_of(name)) > own]

    # A study's results show themselves in a notebook, and ask `report` how.
    shown = name_of(path) == "actbench.inference.verdict.results"
    assert later == (["actbench.report.notebook"] if shown else [])


def test_no_modules_import_one_another():
    graph = {name_of(path): set(imported(path, everywhere=False)) - {name_of(path)} for path in modules()}
    packages = {name_of(path) for path in modules() if path.name == "__init__.py"}
    # A package hands on what its modules define: an import of it is one of all of them, but for those within it.
    for name, needed in graph.items():
        graph[name] = {of for of in needed if of != "actbench" and not (of in packages and name.startswith(f"{of}."))}

    TopologicalSorter(graph).prepare()  # a CycleError names the circle


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_can_be_read_in_one_go(path):
    assert len(path.read_text().splitlines()) <= LONGEST


def test_no_two_functions_or_classes_have_one_name():
    defined = Counter(
        node.name
        for path in modules()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    )

    assert not [name for name, times in defined.items() if times > 1]


def test_no_records_inference_or_report_module_imports_torch():
    heavy = ("torch", "pytorch_lightning", "torchvision")
    for path in modules():
        if room_of(name_of(path)) in ("records", "inference", "report"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
                assert not [name for name in names if name.partition(".")[0] in heavy], path
