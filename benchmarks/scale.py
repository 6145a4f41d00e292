"""How studies scale on Ray: workers that train at once, the cost of a cell beside its training, and very many cells.

    python benchmarks/scale.py            # all three, half an hour on two cores

Everything runs on this machine, with a Ray that is started for it. Prints tables
in Markdown; writes what was measured as JSON.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from actbench.records import Store, json_text, merge, to_frame
from actbench.studies import Study, Wanted, make_plan, planned_cells, read_wanted, train
from actbench.studies.cells import Cell
from actbench.studies.executors import Failure, InProcess, Ray
from actbench.studies.grid import make_cells
from actbench.studies.plan import Plan
from actbench.studies.progress import Progress
from actbench.studies.training import RunContext, run_missing

HERE = Path(__file__).parent
PACKAGES = ("torch", "pytorch-lightning", "ray", "polars")
ARMS = 100  # of the synthetic study
REAL_CELLS = 8  # for each worker


class Silence(Progress):
    """Says nothing."""

    def say(self, line: str) -> None:
        """Do not."""


def study(root: Path, arms: int = 1, **trainer: Any) -> Study:
    """A study on the digits, whose arms differ by their learning rate."""
    return Study(
        [{"name": f"arm{arm}", "activation": "swish", "model.optimizer.lr": 1e-4 * (1 + arm)} for arm in range(arms)],
        {"trainer": {"accelerator": "cpu", **trainer}},
        root=str(root),
    )


# --- one worker and two ---


def efficiency(folder: Path, repetitions: int) -> list[dict[str, Any]]:
    """Train real cells of 32 seeds on one worker and on two, in turns; each has as many cells."""
    (entry,) = planned_cells(study(folder, max_epochs=10))
    cells = make_cells(entry, [range(32 * number, 32 * number + 32) for number in range(2 * REAL_CELLS)])
    measured = []
    for repetition in range(repetitions):
        for workers in (1, 2):
            with Ray(workers=workers) as executor:
                tasks = [(cell, folder / f"{cell.seeds[0]}") for cell in cells[: workers * REAL_CELLS]]
                do(executor.run(train, tasks[:workers]))  # workers start, and import torch
                start = time.perf_counter()
                do(executor.run(train, tasks))
                time_s = time.perf_counter() - start
            measured.append(
                {
                    "repetition": repetition,
                    "workers": workers,
                    "cells": len(tasks),
                    "time_s": time_s,
                    "load": os.getloadavg()[0],
                }
            )
            print(measured[-1], file=sys.stderr)
    return measured


def do(results: Any) -> int:
    """Have it all done; returns how much it was."""
    done = 0
    for task, result in results:
        if isinstance(result, Failure):
            raise RuntimeError(f"{task}: {result}")
        done += 1
    return done


# --- a cell that does nothing ---


def scheduling(cells: int) -> dict[str, Any]:
    """What a cell takes on two workers, and in this process, if there is nothing to do in it."""
    result = {}
    for name, executor in {"here": InProcess(), "ray": Ray(workers=2)}.items():
        with executor:
            do(executor.run(nothing, range(2)))
            start = time.perf_counter()
            do(executor.run(nothing, range(cells)))
            result[f"{name}_ms"] = 1000 * (time.perf_counter() - start) / cells
    return {"cells": cells, **result}


def nothing(task: int) -> int:
    """Do it."""
    return task


# --- very many cells ---


def many(folder: Path, count: int) -> dict[str, Any]:
    """Run so many synthetic cells of one seed each, keep their records, and read them."""
    asked = study(folder, ARMS)
    compared = planned_cells(asked)
    seeds = range(count // ARMS)
    measured: dict[str, Any] = {"cells": ARMS * len(seeds), "before_mb": peak_mb()}
    clock = Clock(measured)
    missing = [make_cells(entry, [range(seed, seed + 1) for seed in seeds]) for entry in compared]
    wanted = [Wanted(entry, seeds) for entry in compared]
    plan = Plan(wanted, 0, [cell for turn in zip(*missing, strict=True) for cell in turn])
    clock("plan_s")
    with Ray(workers=2) as executor:
        failures = run_missing(asked, plan, RunContext(executor, Silence(), synthetic))
    clock("run_s")
    measured |= {"failures": len(failures), "run_mb": peak_mb()}
    measured |= reading("apart", asked, wanted, clock)
    merge([Store(folder / "cells")], Store(folder / "merged" / "cells"))
    clock("merge_s")
    measured |= reading("merged", study(folder / "merged", ARMS), wanted, clock)
    measured["read_by_arm_mb"] = peak_mb()
    held = read_wanted(study(folder / "merged", ARMS), wanted, print)
    clock("together_s")
    return measured | {"rows": len(held), "held_mb": held.estimated_size("mb"), "together_mb": peak_mb()}


def reading(name: str, asked: Study, wanted: Sequence[Wanted], clock: "Clock") -> dict[str, Any]:
    """How many files a store has, and how long it takes to see what is there, and to read an arm and all of it."""
    files = list(Path(asked.root, "cells").glob("*.parquet"))
    clock()
    if make_plan(asked, wanted).missing:
        raise RuntimeError("the store lacks cells")
    clock(f"{name}_index_s")
    read_wanted(asked, wanted[:1], print)
    clock(f"{name}_arm_s")
    for of in wanted:
        read_wanted(asked, [of], print)
    clock(f"{name}_all_s")
    return {f"{name}_files": len(files), f"{name}_mb": sum(file.stat().st_size for file in files) / 2**20}


class Clock:
    """Notes the seconds since it was last asked."""

    def __init__(self, into: dict[str, Any]) -> None:
        self.into = into
        self.last = time.perf_counter()

    def __call__(self, name: str | None = None) -> None:
        """Note them under a name, if there is one."""
        now = time.perf_counter()
        if name:
            self.into[name] = now - self.last
            print(name, self.into[name], file=sys.stderr)
        self.last = now


def synthetic(task: tuple[Cell, Path]) -> pl.DataFrame:
    """Records as a fit of 20 epochs leaves them, without the fit."""
    cell, _ = task
    epochs, curve = [0.5] * 20, [float(x) for x in range(101)]
    row = {
        "cell": cell.hash,
        **{name: cell.factors[name]["class_path"] for name in ("network", "activation")},
        "dataset": cell.factors["data"]["class_path"],
        "factors": json_text(cell.factors),
        "weights": "last",
        "test_accuracy": 0.9,
        "test_loss": 0.3,
        "test_ece": 0.01,
        "epochs": 20,
        **dict.fromkeys(("epoch_train_loss", "epoch_val_loss", "epoch_val_accuracy", "epoch_val_ece"), epochs),
        **dict.fromkeys(("curve_x", "curve_y", "curve_slope"), curve),
        "diverged": False,
        "classes": 10,
        "init_fingerprint": "0" * 32,
        "order_fingerprint": "0" * 32,
        "parameters": 1000,
        **dict.fromkeys(("replicates_together", "threads"), 1),
        **dict.fromkeys(("device", "started", "python_version"), "made up"),
        **dict.fromkeys(("actbench_version", "torch_version", "lightning_version"), "made up"),
        "config": json_text(cell.config),
    }
    return to_frame({**row, "seed": seed} for seed in cell.seeds)


# --- all of it ---


def peak_mb() -> float:
    """Most memory that this process has had, in MiB; Ray's own processes are others."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def tables(measured: dict[str, Any]) -> str:
    """What was measured, in Markdown."""
    lines = []
    if rows := measured.get("efficiency"):
        per_cell = {
            workers: [row["time_s"] / row["cells"] for row in rows if row["workers"] == workers] for workers in (1, 2)
        }
        one, two = (statistics.median(per_cell[workers]) for workers in (1, 2))
        lines += ["| workers | s per cell | of twice |", "|---|---|---|"]
        lines += [f"| 1 | {one:.2f} ({min(per_cell[1]):.2f} to {max(per_cell[1]):.2f}) | |"]
        lines += [f"| 2 | {two:.2f} ({min(per_cell[2]):.2f} to {max(per_cell[2]):.2f}) | {one / two / 2:.0%} |", ""]
    if of := measured.get("scheduling"):
        lines += [f"An empty cell takes {of['ray_ms']:.2f} ms on Ray and {of['here_ms']:.3f} ms here.", ""]
    if of := measured.get("many"):
        lines += ["| | |", "|---|---|", *(f"| {name} | {value:,.1f} |" for name, value in of.items())]
    return "\n".join(lines)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts: dict[str, Callable[[Path, argparse.Namespace], Any]] = {
        "efficiency": lambda folder, chosen: efficiency(folder, chosen.repetitions),
        "scheduling": lambda folder, chosen: scheduling(chosen.cells // 50),
        "many": lambda folder, chosen: many(folder, chosen.cells),
    }
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder for scale.json")
    chosen = parser.parse_args()
    path = chosen.output / "scale.json"
    measured: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for part in chosen.parts:
        folder = Path(tempfile.mkdtemp())
        load = os.getloadavg()
        try:
            measured[part] = parts[part](folder, chosen)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        measured[f"{part}_machine"] = {
            "date": datetime.now(UTC).isoformat(timespec="minutes"),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "load_before_and_after": [load[0], os.getloadavg()[0]],
            "versions": {name: version(name) for name in PACKAGES},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(measured, indent=1) + "\n")
    print(tables(measured))


if __name__ == "__main__":
    main()
