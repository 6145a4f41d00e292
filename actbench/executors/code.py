"""The code that a study needs, in a folder that is sent to the nodes of a cluster."""

import os
import shutil
from pathlib import Path

import actbench
from actbench.executors.base import ExecutorError
from actbench.executors.nodes import FILES

MOST_MB = 50  # of Python files; nobody has written more


def copy_code(folder: Path, into: Path) -> None:
    """Copy this actbench, and the Python files in and below a folder; no hidden ones, and no virtual environments.

    Ray's own ``working_dir`` would put these files before all installed packages, and could not tell a virtual
    environment.

    Raises:
        ExecutorError: There are too many.
    """
    package = Path(actbench.__file__).parent
    shutil.copytree(package, into / "actbench", ignore=shutil.ignore_patterns("__pycache__"))
    (into / FILES).mkdir()
    size = 0
    for path, folders, names in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if not name.startswith((".", "__pycache__")) and not Path(path, name, "pyvenv.cfg").exists()
        ]
        for file in (Path(path, name) for name in names if name.endswith(".py") and not name.startswith(".")):
            if not file.is_file():
                continue
            size += file.stat().st_size
            if size > MOST_MB * 2**20:
                raise ExecutorError(f"{folder} holds over {MOST_MB} MB of Python files: start from a folder of its own")
            copy = into / FILES / file.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
