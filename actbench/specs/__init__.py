"""How a config names what is to be built, and how the parts of a config are composed."""

from actbench.specs.compose import UsageError, class_paths, compose, merge, nest, read_file, setting, without
from actbench.specs.spec import ActivationSpec, NetworkSpec, OptimizerSpec, SchedulerSpec, Spec
from actbench.specs.values import import_object, is_plain, one_line, public_path, readable, settle, written

__all__ = [
    "ActivationSpec",
    "NetworkSpec",
    "OptimizerSpec",
    "SchedulerSpec",
    "Spec",
    "UsageError",
    "class_paths",
    "compose",
    "import_object",
    "is_plain",
    "merge",
    "nest",
    "one_line",
    "public_path",
    "read_file",
    "readable",
    "setting",
    "settle",
    "without",
    "written",
]
