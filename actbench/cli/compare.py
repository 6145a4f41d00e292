"""``compare`` and ``merge``: studies."""

import copy
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from inspect import getdoc
from pathlib import Path
from typing import Any

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table

from actbench import records
from actbench.cli.arguments import UsageError, load_yaml, options, read_config
from actbench.cli.export import OneLine
from actbench.cli.main import COMMANDS, fail
from actbench.cli.messages import quieten, shown_path, shown_program
from actbench.forecast import forecast
from actbench.records import RecordError, Store
from actbench.specs import one_line
from actbench.study import (
    QUESTION,
    MissingError,
    Plan,
    Study,
    StudyError,
    assign,
    check_data,
    collect,
    lookup,
    make_plan,
    pairs,
)
from actbench.study import compare as run_study

SECTIONS = ("study", "model", "data", "trainer", "seed_everything")


def compare(words: Sequence[str]) -> int:
    """Run a study; returns the exit status: 0, 2 for one that makes no sense, 1 if cells are missing at the end."""
    if {"-h", "--help"} & set(words):
        print_help()
        return 0
    dry_run = "--dry_run" in words
    try:
        config = read_study([word for word in words if word != "--dry_run"])
        study = Study.of(config)
        plan = make_plan(study)
    except (StudyError, UsageError) as error:
        return fail(one_line(error))
    quieten()
    if dry_run:
        try:
            return print_plan(study, plan)
        except StudyError as error:
            return fail(one_line(error))
    command = " ".join([shown_program(), "compare", *words])
    try:
        table = run_study(study)
    except StudyError as error:
        return fail(one_line(error))
    except MissingError as error:
        fail(one_line(error))
        return 1
    except OSError as error:
        fail(f"{one_line(error)}; what is finished is kept, go on with: {command}")
        return 1
    except (KeyboardInterrupt, SystemExit) as error:
        print(f"interrupted; what is finished is kept, go on with: {command}", file=sys.stderr)
        return error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 130
    print_table(study, plan, table)
    return 0


def read_study(words: Sequence[str]) -> dict[str, Any]:
    """What a study file and the options after it say; without either, the tutorial's question.

    Raises:
        UsageError: There is no such file or option.
    """
    config: dict[str, Any] = {}
    configs = [option.value for option in options(words) if option.name == "config"]
    if not configs:
        config = copy.deepcopy(QUESTION)
    for option in options(words):
        if not option.name:
            raise UsageError(
                f"compare: what is {option.value}? Options are --config FILE, --dry_run, --study.NAME VALUE"
            )
        if option.name == "config":
            content = read_config(option.value)
            if "study" not in content and not lookup(config, "study"):
                raise UsageError(f"--config {option.value} has no section 'study'; `fit` runs it")
            for section, value in content.items():
                known(section)
                config[section] = (
                    {**config[section], **value} if isinstance(value, dict) and section in config else value
                )
        else:
            known(option.name.split(".")[0])
            assign(config, option.name, load_yaml(option.value))
    return config


def known(section: str) -> None:
    """Refuse what is no section of a study.

    Raises:
        UsageError: It is none.
    """
    if section not in SECTIONS:
        raise UsageError(f"compare: unknown option --{section}; a study has {', '.join(SECTIONS)}")


def print_help() -> None:
    """Print what a study may say."""
    parser = ArgumentParser(
        prog="main.py compare",
        description=f"{COMMANDS['compare']}.\nWithout --config: relu against swish on the "
        f"digits, 30 seeds.\n\nThe section study of a study file, and options "
        f"--study.NAME:\n\n{getdoc(Study)}",
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help="the study file; see configs/studies")
    parser.add_argument("--dry_run", action="store_true", help="say what would run, and train nothing")
    parser.add_argument("--study.NAME", metavar="VALUE", help="as in the section study")
    for section in ("model", "data", "trainer"):
        parser.add_argument(f"--{section}.NAME", metavar="VALUE", help="as for fit; holds for every cell")
    parser.add_argument("--seed_everything", metavar="SEED", help="the first seed (default: 0)")
    parser.print_help()


def print_plan(study: Study, plan: Plan) -> int:
    """Say what a study would run."""
    wanted = plan.entries
    total = len(wanted) * study.replicates
    print(f"study {study.name}: {total:,} trainings, of {study.replicates} seeds each")
    for what, names in {
        "datasets": [entry.dataset for entry in wanted],
        "networks": [entry.network for entry in wanted],
        "arms": [entry.arm for entry in wanted],
    }.items():
        print(f"{what}: {', '.join(dict.fromkeys(names))}")
    missing = sum(len(cell.seeds) for cell in plan.missing)
    print(f"baseline: {plan.baseline}")
    print(f"finished: {plan.cached:,}; missing: {missing:,}, in {len(plan.missing):,} cells")
    if plan.missing:
        check_data(plan)
        will = forecast(plan.missing, collect(study, plan, print))
        time = "unknown" if will.minutes is None else f"about {will.minutes:.1f} min here, one cell after another"
        print(
            f"time: {time}; {will.steps:,} optimiser steps; {will.memory_mb:.0f} MB memory, {will.disk_mb:.1f} MB disk"
        )
    if study.replicates < 6:
        least = 2 / 2**study.replicates
        print(f"too few for level .05: an exact sign-flip test of {study.replicates} pairs gives p >= {least:.3g}")
    return 0


def print_table(study: Study, plan: Plan, table: pl.DataFrame) -> None:
    """Print each arm's scores and cost."""
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
    Console(width=None if sys.stdout.isatty() else 140).print(shown)
    if table["busy"].any():
        print("* others used the machine meanwhile: these times say little")
    wrong = pairs(table, plan.baseline)
    print(*(wrong or [f"pairs verified: same initial weights, split and batch order as {plan.baseline}"]), sep="\n")
    print(f"records: {shown_path(Path(study.root, study.name, 'records.parquet'))}")


def merge(words: Sequence[str]) -> int:
    """Join the stores of several folders of studies; returns the exit status."""
    parser = OneLine(prog="main.py merge", description=COMMANDS["merge"], allow_abbrev=False)
    parser.add_argument("roots", nargs="+", type=Path, help="folders of studies, which hold cells/")
    parser.add_argument("--root", type=Path, default=Path("studies"), help="folder to join them in (default: studies)")
    chosen = parser.parse_args(words)
    absent = [root for root in chosen.roots if not (root / "cells").is_dir()]
    if absent:
        return fail(f"{absent[0]} is no folder of studies: it has no folder cells")
    try:
        added = records.merge([Store(root / "cells") for root in chosen.roots], Store(chosen.root / "cells"))
    except RecordError as error:
        return fail(one_line(error))
    print(f"added {added} cells to {shown_path(chosen.root / 'cells')}")
    return 0
