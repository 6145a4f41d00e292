"""actbench with compiled steps: a first fit that compiles, and a second one that finds the compiled code."""

import os
from pathlib import Path

from arms import actbench
from workload import Fit, Task, main


def prepare(task: Task) -> Fit:
    """As in `arms.actbench`, with an empty cache of compiled code."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path("compiled").resolve())
    return actbench.prepare(task, "--model.compile=true")


if __name__ == "__main__":
    main(prepare, ("cold", "warm"))
