"""How a config names the classes to build, and how the parts of a config are composed."""

from actbench.specs.compose import UsageError as UsageError
from actbench.specs.compose import class_paths as class_paths
from actbench.specs.compose import compose as compose
from actbench.specs.compose import merge_config as merge_config
from actbench.specs.compose import nest as nest
from actbench.specs.compose import read_file as read_file
from actbench.specs.compose import setting as setting
from actbench.specs.compose import without as without
from actbench.specs.optimizers import OptimizerSpec as OptimizerSpec
from actbench.specs.optimizers import SchedulerSpec as SchedulerSpec
from actbench.specs.spec import ActivationSpec as ActivationSpec
from actbench.specs.spec import NetworkSpec as NetworkSpec
from actbench.specs.spec import Spec as Spec
from actbench.specs.values import correct_parsed as correct_parsed
from actbench.specs.values import dump_yaml as dump_yaml
from actbench.specs.values import import_object as import_object
from actbench.specs.values import is_plain as is_plain
from actbench.specs.values import one_line as one_line
from actbench.specs.values import public_path as public_path
from actbench.specs.values import readable_error as readable_error
from actbench.specs.values import to_plain as to_plain
