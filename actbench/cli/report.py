"""``report``: what a study's records say, from its folder alone."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table

from actbench.cli.main import COMMANDS, OneLine, fail, shown_path
from actbench.records import RecordError
from actbench.verdict import RECORDS, VERDICT, Finding, Told, p_value, points, tell


def report(words: Sequence[str]) -> int:
    """Work out a study's verdicts anew; returns the exit status."""
    parser = OneLine(prog="main.py report", description=COMMANDS["report"], allow_abbrev=False)
    parser.add_argument("study", type=Path, help="the study's folder, such as studies/digits")
    folder = parser.parse_args(words).study
    try:
        told = tell(folder)
    except RecordError as error:
        return fail(str(error))
    print_told(told, folder)
    return 0


def print_told(told: Told, folder: Path) -> None:
    """Print what a study's records say: a table of arms, one of comparisons, and the verdicts in words."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(arms_table(told.table))
    if told.table["busy"].any():
        print("* others used the machine meanwhile: these times say little")
    console.print(comparisons_table(told))
    baseline = told.question.baseline
    verified = f"pairs verified: same initial weights, split and batch order as {baseline}"
    print(*(told.faults or [verified]), *told.sentences, sep="\n")
    print(f"records: {shown_path(folder / RECORDS)}; verdicts: {shown_path(folder / VERDICT)}")


def arms_table(table: pl.DataFrame) -> Table:
    """Each arm's scores and cost."""
    shown = Table(box=box.SIMPLE)
    several = [name for name in ("dataset_name", "network_name") if table[name].n_unique() > 1]
    for name in (*several, "arm"):
        shown.add_column(name.removesuffix("_name"))
    for heading in ("n", "test accuracy", "sd", "min", "max", "test loss", "diverged", "ms per epoch", "parameters"):
        shown.add_column(heading, justify="right")
    for keys, own in table.group_by(*several, "arm", maintain_order=True):
        accuracy: Any = own["test_accuracy"]
        loss: Any = own["test_loss"]
        cost: Any = own["epoch_time_s"].median()
        shown.add_row(
            *map(str, keys),
            str(len(own)),
            f"{accuracy.mean():.4f}",
            f"{accuracy.std():.4f}" if len(own) > 1 else "-",
            f"{accuracy.min():.4f}",
            f"{accuracy.max():.4f}",
            f"{loss.mean():.4f}",
            str(own["diverged"].sum()),
            "-" if cost is None else f"{1000 * cost:.1f}" + ("*" if own["busy"].any() else ""),
            f"{own['parameters'][0]:,}",
        )
    return shown


def comparisons_table(told: Told) -> Table:
    """Each comparison's difference, how sure it is, and what the arm costs in its baseline's stead."""
    question = told.question
    several = {
        "dataset": len(question.datasets) > 1,
        "network": len(question.networks) > 1,
        "arm": True,
        "baseline": question.comparisons == "all",
    }
    shown = Table(box=box.SIMPLE)
    for name in (name for name, use in several.items() if use):
        shown.add_column(name)
    for heading in ("pairs", "points", "interval", "adjusted p", "P(better)", "effect", "verdict", "time", "with time"):
        shown.add_column(heading, justify="left" if heading in ("verdict", "with time") else "right")
    for finding in told.conclusion.findings:
        names = {name: value or "all" for name, value in finding.comparison._asdict().items()}
        shown.add_row(*(names[name] for name, use in several.items() if use), *comparison_cells(finding))
    return shown


def comparison_cells(finding: Finding) -> list[str]:
    """A row of the table of comparisons, without names."""
    of, costs = finding.judgement, finding.cost
    difference, better = of.difference, of.superiority
    ratio = costs.time_ratio if costs else None
    return [
        str(of.pairs),
        points(difference.estimate) if difference else "-",
        f"{points(difference.low)} to {points(difference.high)}" if difference else "-",
        p_value(of.adjusted_p).removeprefix("= "),
        f"{better.estimate:.2f} ({better.low:.2f} to {better.high:.2f})" if better else "-",
        f"{of.effect:.2f}" if of.effect == of.effect else "-",
        of.verdict + (" (inside margin)" if of.inside_margin and of.verdict != "equivalent" else ""),
        f"x{ratio.estimate:.2f}" + ("*" if costs and costs.busy else "") if ratio else "-",
        finding.joint or "-",
    ]
