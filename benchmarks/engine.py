"""How long replicates take to train: actbench beside the other ways to train the same, all in one run.

    python benchmarks/engine.py                                  # digits, about half an hour on two cores
    python benchmarks/engine.py --workload mnist --data_root data
    python benchmarks/engine.py --batch_size 1 --epochs 5 --arms tutorial actbench --scaling

Each fit runs in a process of its own, and all arms take turns, so that whatever
else the machine does meets all of them. Time is that of a whole fit, from data
in memory to the last score, per replicate and epoch. Prints tables in Markdown;
writes what was measured as JSON, and a picture of it.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter

from workload import WORKLOADS, Task

HERE = Path(__file__).parent
PACKAGES = ("torch", "pytorch-lightning", "jax", "equinox", "optax", "skorch")


class Arm(NamedTuple):
    """A way to train replicates, `arms.NAME`."""

    letter: str
    words: str
    replicates: int | None = None  # trained one after another, a few tell how long each takes
    epochs: int | None = None


ARMS = {
    "tutorial": Arm("a", "the tutorial's script at batch size 1", replicates=1, epochs=2),
    "lightning": Arm("b", "Lightning, one seed after another", replicates=3),
    "loop": Arm("c", "plain PyTorch loop", replicates=6),
    "processes": Arm("d", "the loop in several processes", replicates=12),
    "jax": Arm("e", "JAX and Equinox, vmap and scan"),
    "jax_tuned": Arm("e'", "JAX, rearranged by hand"),
    "skorch": Arm("f", "skorch", replicates=3),
    "actbench": Arm("g", "actbench"),
    "compiled": Arm("g'", "actbench with compiled steps"),
    "engine": Arm("h", "actbench's engine without Lightning"),
}
SCALING_EPOCHS = 20
DIGITS_ONLY = {"tutorial", "jax", "jax_tuned"}


class Row(NamedTuple):
    """What one arm took in one repetition."""

    arm: str
    phase: str  # cold or warm, if it compiles
    replicates: int
    repetition: int
    time_ms: float  # per replicate and epoch
    test_acc: float
    peak_mb: float
    choice: str

    @property
    def name(self) -> str:
        """Arm and phase."""
        return f"{self.arm} {self.phase}".strip()


def run_arm(arm: str, task: Task, repetition: int) -> Iterator[Row]:
    """Run an arm in a new process.

    Raises:
        RuntimeError: It has failed; the message is the end of what it said.
    """
    options = [f"--{name}={value}" for name, value in vars(task).items()]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.run(
            [sys.executable, "-m", f"arms.{arm}", *options],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(HERE)},
            capture_output=True,
            text=True,
        )
    if process.returncode:
        raise RuntimeError(f"{arm} failed: {process.stderr[-2000:]}")
    answer = json.loads(process.stdout)
    for fit in answer["fits"]:
        time_ms = 1000 * fit["time_s"] / task.replicates / task.epochs
        accuracy = statistics.mean(fit["test_acc"])
        choice = answer["choice"]
        yield Row(arm, fit["phase"], task.replicates, repetition, time_ms, accuracy, fit["peak_mb"], choice)


def measured(tasks: Sequence[tuple[str, Task]], repetitions: int) -> list[Row]:
    """All arms in turn, as often as asked for."""
    rows: list[Row] = []
    for repetition in range(repetitions):
        for arm, task in tasks:
            for row in run_arm(arm, task, repetition):
                rows.append(row)
                print(
                    f"{repetition + 1}/{repetitions}  {row.name}, {row.replicates} replicates: {row.time_ms:.1f} ms",
                    file=sys.stderr,
                    flush=True,
                )
    return rows


def of(rows: Sequence[Row], field: str) -> list[float]:
    """A column."""
    return [getattr(row, field) for row in rows]


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median and range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def arms_table(rows: Sequence[Row], epochs: int) -> list[str]:
    """Time, networks of so many epochs an hour, ratio to actbench, accuracy and memory of each arm, as Markdown."""
    ours = {row.repetition: row.time_ms for row in rows if row.arm == "actbench"}
    lines = [
        f"| arm | | ms per replicate and epoch | networks an hour, {epochs} epochs | times actbench's | test accuracy "
        "| peak memory, MB | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row.name for row in rows):
        own = [row for row in rows if row.name == name]
        arm, phase, choice = ARMS[own[0].arm], own[0].phase, own[0].choice
        words = ", ".join(filter(None, (arm.words, phase, choice)))
        ratios = spread([row.time_ms / ours[row.repetition] for row in own], 2) if ours else "-"
        accuracy = statistics.mean(of(own, "test_acc"))
        memory = statistics.median(of(own, "peak_mb"))
        networks = 3.6e6 / statistics.median(of(own, "time_ms")) / epochs
        lines.append(
            f"| {arm.letter} | {words} | {spread(of(own, 'time_ms'))} | {networks:,.0f} | {ratios} "
            f"| {accuracy:.3f} | {memory:.0f} | {own[0].replicates} |"
        )
    return lines


def scaling_table(rows: Sequence[Row]) -> list[str]:
    """Time and memory of actbench by the number of replicates, as Markdown."""
    lines = ["| replicates | ms per replicate and epoch | peak memory, MB |", "|---|---|---|"]
    for replicates in sorted({row.replicates for row in rows}):
        own = [row for row in rows if row.replicates == replicates]
        lines.append(f"| {replicates} | {spread(of(own, 'time_ms'))} | {statistics.median(of(own, 'peak_mb')):.0f} |")
    return lines


def draw(arms: Sequence[Row], scaling: Sequence[Row], path: Path, title: str) -> None:
    """Every repetition as a dot, medians as lines: above the arms, below actbench by the number of replicates."""
    names = list(dict.fromkeys(row.name for row in arms))[::-1]
    heights = [0.4 * len(names) + 0.6, *([3] if scaling else [])]
    figure, axes = plt.subplots(
        len(heights), figsize=(8, sum(heights) + 0.6), height_ratios=heights, layout="constrained", squeeze=False
    )
    upper = axes[0, 0]
    for place, name in enumerate(names):
        own = [row for row in arms if row.name == name]
        median = statistics.median(of(own, "time_ms"))
        colour = "tab:orange" if name == "actbench" else "tab:blue"
        upper.plot(of(own, "time_ms"), [place] * len(own), "o", color=colour, alpha=0.5, markersize=5)
        upper.plot([median] * 2, [place - 0.25, place + 0.25], color=colour)
        words = f"{median:,.0f}" if median >= 100 else f"{median:.1f}"
        upper.annotate(words, (max(of(own, "time_ms")), place), (9, 0), textcoords="offset points", va="center")
    labels = [
        ", ".join(filter(None, (ARMS[row.arm].words, row.phase))) for name in names for row in arms if row.name == name
    ]
    upper.set(yticks=range(len(names)), yticklabels=list(dict.fromkeys(labels)), ylim=(-0.6, len(names) - 0.4))
    if max(of(arms, "time_ms")) > 10 * min(of(arms, "time_ms")):
        upper.set(xscale="log")
        upper.xaxis.set_minor_formatter(NullFormatter())
    else:
        upper.set(xlim=(0, 1.15 * max(of(arms, "time_ms"))))
    upper.set(xlabel="ms per replicate and epoch")
    upper.xaxis.set_major_formatter("{x:,g}")
    upper.margins(x=0.15)
    upper.grid(axis="x", alpha=0.3)
    if scaling:
        lower = axes[1, 0]
        counts = sorted({row.replicates for row in scaling})
        medians = [statistics.median(row.time_ms for row in scaling if row.replicates == n) for n in counts]
        lower.plot(of(scaling, "replicates"), of(scaling, "time_ms"), "o", color="tab:orange", alpha=0.5, markersize=5)
        lower.plot(counts, medians, color="tab:orange")
        lower.set(xscale="log", xlabel="replicates in one fit", ylabel="ms per replicate\nand epoch", ylim=(0, None))
        lower.set(xticks=counts, xticklabels=counts)
        lower.minorticks_off()
        lower.grid(axis="y", alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def machine(accelerator: str) -> str:
    """The GPU, or processor and cores."""
    if accelerator == "gpu":
        return subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=True
        ).stdout.strip()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def main() -> None:
    """Measure, print, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=WORKLOADS, default="digits")
    parser.add_argument("--arms", nargs="+", choices=ARMS, help="default: all that can train the workload's network")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--replicates", type=int, help="of the arms that train them together")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--scaling", type=int, nargs="*", help="numbers of replicates; none to leave it out")
    parser.add_argument("--data_root", type=Path, default=Path("data"))
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder")
    options = parser.parse_args()

    workload = WORKLOADS[options.workload]
    arms = options.arms or [arm for arm in ARMS if options.workload == "digits" or arm not in DIGITS_ONLY]
    scaling = options.scaling
    if scaling is None:
        scaling = [1, 3, 10, 30, 100, 300] if options.workload == "digits" else []

    def task(replicates: int, epochs: int | None) -> Task:
        return Task(
            options.workload,
            replicates,
            options.epochs or epochs or workload.epochs,
            options.batch_size,
            str(options.data_root.resolve()),
            options.accelerator,
        )

    together = options.replicates or workload.replicates
    tasks = [(arm, task(min(ARMS[arm].replicates or together, together), ARMS[arm].epochs)) for arm in arms]
    rows = measured(tasks, options.repetitions)
    grown = measured([("actbench", task(number, SCALING_EPOCHS)) for number in scaling], options.repetitions)

    installed = [package for package in PACKAGES if find_spec(package.replace("-", "_"))]
    versions = ", ".join(f"{package} {version(package)}" for package in installed)
    title = f"{workload.network}, {options.workload}, batch size {options.batch_size}, {together} replicates"
    about = {
        "command": " ".join(["python benchmarks/engine.py", *sys.argv[1:]]),
        "machine": machine(options.accelerator),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": f"Python {platform.python_version()}, {versions}",
    }
    name = "_".join([options.workload, *([f"batch{options.batch_size}"] if options.batch_size != 64 else [])])
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"{name}.json"
    everything = {**about, "arms": [r._asdict() for r in rows], "scaling": [r._asdict() for r in grown]}
    path.write_text(json.dumps(everything, indent=1) + "\n")
    draw(rows, grown, path.with_suffix(".png"), title)
    print(*(f"{key}: {value}" for key, value in about.items()), "", sep="  \n")
    print(*arms_table(rows, workload.epochs), sep="\n")
    if grown:
        print("", *scaling_table(grown), sep="\n")


if __name__ == "__main__":
    main()
