"""``report``: what a study's records say, from its folder alone."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table

from actbench.cli.main import COMMANDS, OneLine, fail, shown_path
from actbench.records import RecordError
from actbench.stats import Interval
from actbench.verdict import RECORDS, VERDICT, Finding, Told, p_value, points, tell
from actbench.verdict.changes import changes
from actbench.verdict.pairing import other_networks
from actbench.verdict.words import OUTCOMES

FORMATS = ("html", "md", "tex", "csv", "json", "png", "svg", "tensorboard")
PAGE = "report.html"
UNLIMITED = 10_000  # width of what is no terminal
TEXT = ("dataset", "network", "arm", "baseline", "verdict", "with time")  # columns that are no numbers
# Columns that a narrow terminal does without, the least important first.
SPARE_OF_ARMS = ("parameters", "min", "max", "ms per epoch", "test loss", "diverged", "sd")
SPARE_OF_SECONDARY = (
    *("fits", "p of memory", "memory", "p of calibration error", "p of time", "p of loss"),
    "test calibration error",
)
SPARE_OF_COMPARISONS = ("effect", "with time", "time", "P(better)", "pairs", "adjusted p")


def report(words: Sequence[str]) -> int:
    """Work out a study's verdicts anew, and write its page or what else is asked for; returns the exit status."""
    parser = OneLine(prog="main.py report", description=COMMANDS["report"], allow_abbrev=False)
    parser.add_argument("study", type=Path, help="the study's folder, such as studies/digits")
    parser.add_argument("other", type=Path, nargs="?", help="another study's folder: say what changed from the first")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="html: the page, report.html (default); md, tex, csv, json: tables; png, svg: every figure; "
        "tensorboard: its files, as compare writes them",
    )
    chosen = parser.parse_args(words)
    if chosen.other and chosen.format:
        return fail("report: two studies side by side have no format; leave out --format")
    try:
        told = tell(chosen.study)
        if chosen.other:
            print(*changes(told, tell(chosen.other)), sep="\n")
        elif chosen.format in (None, "html"):
            draw(told, chosen.study, tensorboard=False)
            print_told(told, chosen.study)
        elif chosen.format == "tensorboard":
            draw(told, chosen.study)
            print(f"tensorboard --logdir {shown_path(chosen.study)}")
        else:
            from actbench.report.exports import write_exports

            print(*map(shown_path, write_exports(told, chosen.study, chosen.format)), sep="\n")
    except (RecordError, OSError) as error:
        return fail(" ".join(str(error).split()))
    return 0


def draw(told: Told, folder: Path, *, tensorboard: bool = True) -> None:
    """Write a study's page, and TensorBoard's files."""
    from actbench.report import write_page

    write_page(told, folder)
    if tensorboard:  # importing what they need takes as long as all the rest
        from actbench.report.tensorboard import write_tensorboard

        write_tensorboard(told, folder)


def print_told(told: Told, folder: Path) -> None:
    """Print what a study's records say: a table of arms, one of comparisons, and the verdicts in words."""
    console = Console(width=None if sys.stdout.isatty() else UNLIMITED, markup=False, emoji=False)
    print_rows(console, arm_rows(told.table), spare=SPARE_OF_ARMS)
    if told.table["busy"].any():
        print("* others used the machine meanwhile: these times say little")
    print_rows(console, comparison_rows(told, comparison_cells), spare=SPARE_OF_COMPARISONS)
    if told.conclusion.findings:
        print(
            "P(better): chance to win on a new seed; Bouthillier et al. (2021) ask for .75 before a difference matters"
        )
        print("beside accuracy, outside the correction for several comparisons; below 0, or x1, the arm has less:")
    print_rows(console, comparison_rows(told, secondary_cells), spare=SPARE_OF_SECONDARY)
    print_rows(console, standing_rows(told), spare=())
    print(*(told.faults or [pairing(told)]), *told.sentences, sep="\n")
    print(f"records: {shown_path(folder / RECORDS)}; verdicts: {shown_path(folder / VERDICT)}")
    print(f"page: {shown_path(folder / PAGE)}; tensorboard --logdir {shown_path(folder)}")


def pairing(told: Told) -> str:
    """What the fingerprints prove where nothing is wrong with them."""
    baseline = told.question.baseline
    if told.table["arm"].n_unique() < 2:
        return "no pairs: there is one arm"
    others = other_networks(told.table, baseline)
    left_out = f"; weights of their own, in another network: {', '.join(others)}" if others else ""
    return f"pairs verified: same initial weights, split and batch order as {baseline}{left_out}"


def print_rows(console: Console, rows: Sequence[Mapping[str, str]], *, spare: Sequence[str]) -> None:
    """Print rows as a table in which no number is cut.

    Where the console is too narrow, columns are left out, and said; then text is folded.

    Args:
        console: Where to.
        rows: Cells by heading, the same headings in each.
        spare: Headings of the columns that may be left out, the least important first.
    """
    if not rows:
        return
    kept, left_out = list(rows[0]), []
    for heading in (name for name in spare if name in kept):
        if (
            console.measure(table_of(rows, kept), options=console.options.update_width(UNLIMITED)).maximum
            <= console.width
        ):
            break
        kept.remove(heading)
        left_out.append(heading)
    console.print(table_of(rows, kept))
    if left_out:
        console.print(f"left out, for the terminal is narrow: {', '.join(left_out)}", highlight=False)


def table_of(rows: Sequence[Mapping[str, str]], headings: Sequence[str]) -> Table:
    """Columns of the rows: names and words on the left, numbers on the right."""
    table = Table(box=box.SIMPLE)
    for heading in headings:
        text = heading in TEXT
        table.add_column(
            heading, justify="left" if text else "right", no_wrap=not text, overflow="fold" if text else "ellipsis"
        )
    for row in rows:
        table.add_row(*(row[heading] for heading in headings))
    return table


def arm_rows(table: pl.DataFrame) -> list[dict[str, str]]:
    """Each arm's scores and cost."""
    several = [name for name in ("dataset_name", "network_name") if table[name].n_unique() > 1]
    rows = []
    for keys, own in table.group_by(*several, "arm", maintain_order=True):
        accuracy: Any = own["test_accuracy"]
        loss: Any = own["test_loss"]
        cost: Any = own["epoch_time_s"].median()
        row = dict(zip([*(name.removesuffix("_name") for name in several), "arm"], map(str, keys), strict=True))
        row |= {
            "n": str(len(own)),
            "test accuracy": f"{accuracy.mean():.4f}",
            "sd": f"{accuracy.std():.4f}" if len(own) > 1 else "-",
            "min": f"{accuracy.min():.4f}",
            "max": f"{accuracy.max():.4f}",
            "test loss": f"{loss.mean():z.4f}",
            "diverged": str(own["diverged"].sum()),
            "ms per epoch": "-" if cost is None else f"{1000 * cost:.1f}" + ("*" if own["busy"].any() else ""),
            "parameters": f"{own['parameters'][0]:,}",
        }
        rows.append(row)
    return rows


def comparison_rows(told: Told, cells: Callable[[Finding], dict[str, str]]) -> list[dict[str, str]]:
    """A row for each comparison, with its names."""
    question = told.question
    several = {
        "dataset": len(question.datasets) > 1,
        "network": len(question.networks) > 1,
        "arm": True,
        "baseline": question.comparisons == "all",
    }
    rows = []
    for finding in told.conclusion.findings:
        names = {name: value or "all" for name, value in finding.comparison._asdict().items()}
        rows.append({name: names[name] for name, use in several.items() if use} | cells(finding))
    return rows


def comparison_cells(finding: Finding) -> dict[str, str]:
    """The difference of accuracies, how sure it is, and what the arm costs in its baseline's stead."""
    of, costs = finding.judgement, finding.cost
    difference, better = of.difference, of.superiority
    return {
        "pairs": str(of.pairs),
        "points": points(difference.estimate) if difference else "-",
        "interval": f"{points(difference.low)} to {points(difference.high)}" if difference else "-",
        "adjusted p": p_value(of.adjusted_p).removeprefix("= "),
        "P(better)": f"{better.estimate:.2f} ({better.low:.2f} to {better.high:.2f})" if better else "-",
        "effect": f"{of.effect:z.2f}" if of.effect == of.effect else "-",
        "verdict": of.verdict + (" (inside margin)" if of.inside_margin and of.verdict != "equivalent" else ""),
        "time": f"x{costs.time.ratio.estimate:.2f}" + ("*" if costs.busy else "") if costs else "-",
        "with time": finding.joint or "-",
    }


def secondary_cells(finding: Finding) -> dict[str, str]:
    """Differences of the other scores, each with interval and p, and ratios of time and memory."""
    cells: dict[str, str] = {}
    for of in finding.secondary:
        name, difference = OUTCOMES[of.outcome], of.difference
        shown = (
            f"{difference.estimate:+z.4f} ({difference.low:+z.4f} to {difference.high:+z.4f})" if difference else "-"
        )
        cells |= {name: shown, f"p of {name.removeprefix('test ')}": p_value(of.p).removeprefix("= ")}
    costs = finding.cost
    cells["fits"] = str(costs.fits) if costs else "-"
    for name, ratio in {
        "time of an epoch": costs.time if costs else None,
        "memory": costs.memory if costs else None,
    }.items():
        cells |= {name: times(ratio.ratio) if ratio else "-"}
        cells |= {f"p of {name.partition(' ')[0]}": p_value(ratio.p).removeprefix("= ") if ratio else "-"}
    return cells


def times(ratio: Interval) -> str:
    """A ratio with its bounds; one fit has none."""
    bounds = "" if math.isnan(ratio.low) else f" ({ratio.low:.2f} to {ratio.high:.2f})"
    return f"x{ratio.estimate:.2f}{bounds}"


def standing_rows(told: Told) -> list[dict[str, str]]:
    """Each arm over several datasets."""
    return [
        {
            "network": of.network,
            "arm": of.arm,
            "interquartile mean of accuracy": f"{of.interquartile_mean.estimate:.4f} "
            f"({of.interquartile_mean.low:.4f} to {of.interquartile_mean.high:.4f})",
            "mean rank": f"{of.rank.estimate:.2f} ({of.rank.low:.2f} to {of.rank.high:.2f})",
        }
        for of in told.conclusion.standings
    ]
