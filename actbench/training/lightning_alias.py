"""An alias that makes ``lightning.pytorch`` the same module as ``pytorch_lightning``.

The packages `lightning` and `pytorch_lightning` hold the same code twice, and
neither accepts the other's classes. User code may import either.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from typing_extensions import override

NAMES = {"lightning.pytorch": "pytorch_lightning", "lightning.fabric": "lightning_fabric"}


class Alias(MetaPathFinder, Loader):
    """Finds modules of `lightning` in the packages with the same code."""

    @override
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        known = any(f"{fullname}.".startswith(f"{name}.") for name in NAMES)
        return ModuleSpec(fullname, self) if known else None

    @override
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        name = next(name for name in NAMES if f"{spec.name}.".startswith(f"{name}."))
        module = importlib.import_module(NAMES[name] + spec.name.removeprefix(name))
        spec.loader_state = module.__spec__  # which the import system replaces
        return module

    @override
    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def use_one_lightning() -> None:
    """Let ``import lightning`` give the classes of `pytorch_lightning`, unless `lightning` is already imported."""
    if "lightning.pytorch" not in sys.modules and not any(isinstance(finder, Alias) for finder in sys.meta_path):
        sys.meta_path.insert(0, Alias())
