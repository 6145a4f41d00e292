"""``cost``: what activations cost, what their curves are like, and what they equal."""

import json
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import polars as pl
import torch
from rich.console import Console
from rich.progress import track

from actbench import __version__
from actbench.activations import CATALOGUE
from actbench.cli.cards import BATCH, CLASSES, COLUMNS, ELEMENTS, Card, CostBench, compile_ahead, network_with
from actbench.cli.console import table_console
from actbench.cli.main import CommandParser, fail, printable, shown_path
from actbench.cli.report import print_table
from actbench.inference.verdict import StudyResults, load_results
from actbench.inference.verdict.results import to_json_values
from actbench.records import RecordError, check_links, replace_file
from actbench.report import markdown
from actbench.report.cells import NONE, ReportTable, TableCell, TableColumn, text_cell
from actbench.report.exports import FOLDER, to_csv
from actbench.report.figures import figures_by_file, render
from actbench.report.figures.cost import card_figures
from actbench.specs import ActivationSpec, NetworkSpec, UsageError, class_paths, compose, one_line, setting, without
from actbench.specs.values import load_yaml
from actbench.studies.cells.measurements import BUSY, OtherProcesses, device_name
from actbench.studies.grid import arguments_of, distinct_names, parse_arm, short_name
from actbench.training.checkpoints import trusted_names
from actbench.training.checkpoints.trust import TRUSTED, names_in_texts
from actbench.training.engines.stack.compiling import missing_compiler
from actbench.training.threads import available_cores, prepare_process

AHEAD = 4  # activations from which several processes compile at once
NOTES = """\
bytes: kept for the backward pass for each element of float32, beside the output; exact, the same on any machine
float32, bfloat16: time of a forward and a backward pass, as a multiple of the time of a copy of the same tensor, or of
  eager ReLU's; eager, or compiled by Inductor; ± half of a 95 % interval, over rounds that measure all in turn
step: share of the network's training step that its activations take, one by one, in float32, eager
gain, growth: weights of variance 1/fan_in times the gain keep standard normal signals at their size; the mean square of
  gradients is then multiplied by the growth in each layer
curve, monotone, range: as far as a grid shows; at initial parameters
"""
EPILOG = f"""\
{NOTES}
docs/cost.md says how each is measured, and has the card of the whole catalogue.
--format csv and json have all numbers, with both bounds of each interval. A first run compiles, which takes some
seconds for each activation; later runs find the compiled code. Times are compared on an idle machine.

examples:
  python main.py cost
  python main.py cost --activations '[relu, swish, my_acts.Foo]' --format json
  python main.py cost --activations '[silu, {{class_path: Swish, init_args: {{beta: 1.5}}}}]'
  python main.py cost --activations '[relu, mish]' --model.network ResNet20 --input_shape 3,32,32
  python main.py cost --study studies/digits
"""


def run_cost(options: Sequence[str]) -> int:
    """Print the cost cards of activations; returns the exit status."""
    parser = CommandParser("cost", epilog=EPILOG, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--activations", help="Names, class paths, or class paths with arguments (default: all names).")
    parser.add_argument("--study", type=Path, help="A study's folder: cards of its arms, and a picture of accuracy.")
    parser.add_argument("--format", choices=("md", "csv", "json"), help="What to print in place of a table.")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="Of timing for each activation, at least (default: 1)."
    )
    parser.add_argument(
        "--device", choices=tuple(ELEMENTS), default="cpu", help="Where times are measured (default: cpu)."
    )
    parser.add_argument(
        "--model.network", dest="network", default="TutorialCNN", help="Whose step is timed, as in fit."
    )
    parser.add_argument("--input_shape", default="1,8,8", help="Shape of one input of the network (default: 1,8,8).")
    parser.add_argument("--trust", help="Modules, separated by commas, whose classes the study may name.")
    chosen, others = parser.parse_known_args(options)
    try:
        results = load_results(chosen.study) if chosen.study else None
        named = named_activations(chosen.activations, chosen.trust, results, chosen.study)
        bench = cost_bench(compose([f"--model.network={chosen.network}", *others]), chosen)
        cards, busy = measured_cards(bench, named)
        machine = machine_facts(bench, busy)
        print_cards(cards, machine, chosen.format)
        if results:
            for name, group in figures_by_file(
                card_figures(results, {card["activation"]: card for card in cards})
            ).items():
                path = check_links(chosen.study / FOLDER) / f"{name}.png"
                replace_file(path, render(group, "png"))
                print(shown_path(path), file=sys.stderr)
    except (UsageError, RecordError, ValueError, OSError) as error:
        return fail(one_line(error))
    return 0


def named_activations(
    text: str | None, trust: str | None, results: StudyResults | None, folder: Path | None
) -> list[tuple[str, Any]]:
    """Names and specs' values of the activations to measure; a UsageError names one that was not found."""
    if results and text:
        raise UsageError("--study has its own activations: leave out --activations")
    if results:
        return study_activations(results, [*TRUSTED, *trusted_names(trust)], folder)
    if text is None:
        return [(name, name) for name in sorted(CATALOGUE)]
    given = load_yaml(text)
    listed = given if isinstance(given, list) else [given]
    if not listed:
        raise UsageError("--activations is an empty list")
    arms = []
    for entry in listed:
        name, activation, settings = parse_arm(entry)
        if settings:
            raise UsageError(f"--activations: settings such as {next(iter(settings))} belong to a study's arms")
        ActivationSpec.find(activation["class_path"] if isinstance(activation, Mapping) else activation)
        arms.append(((name or short_name(activation), {} if name else arguments_of(activation)), activation))
    return list(zip(distinct_names([arm for arm, _ in arms]), [activation for _, activation in arms], strict=True))


def study_activations(results: StudyResults, trusted: Sequence[str], folder: Path | None) -> list[tuple[str, Any]]:
    """Arms of a study with their activations; a UsageError for a class that nobody trusts, which would be imported."""
    named = []
    for arm in results.question.arms:
        for config in results.table.filter(arm=arm)["config"].head(1):
            activation = setting(json.loads(config), "model.activation")
            if not isinstance(activation, Mapping):
                raise UsageError(f"{folder}: the records of {arm} do not name an activation")
            for names in (class_paths(activation), names_in_texts(activation)):
                check_trusted([*map(str, names)], trusted, folder)
            named.append((arm, activation))
    return named


def check_trusted(names: Sequence[str], trusted: Sequence[str], folder: Path | None) -> None:
    """Raise a UsageError for a name outside of the trusted modules."""
    for name in names:
        if not any(f"{name}.".startswith(f"{module}.") for module in trusted):
            raise UsageError(
                f"{folder} names the class {name!r}, which would be imported and run: "
                f"if you trust it, add --trust {name.rpartition('.')[0] or name}"
            )


def cost_bench(given: Mapping[str, Any], chosen: Any) -> CostBench:
    """What makes the cards; a UsageError names an option that is wrong."""
    unknown = [*without(given, "model"), *(f"model.{name}" for name in without(given["model"], "network"))]
    if unknown:
        raise UsageError(f"cost has no option for {unknown[0]}; see main.py cost --help")
    shape = load_yaml(f"[{str(chosen.input_shape).strip('[]()')}]")
    if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in shape):
        raise UsageError("--input_shape is numbers such as 3,32,32")
    if not 0 < chosen.seconds < 3600:
        raise UsageError(f"--seconds is a positive number, got {chosen.seconds:g}")
    try:
        device = torch.device(chosen.device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {chosen.device}: {one_line(error).partition('. ')[0]}") from error
    network = NetworkSpec(given["model"]["network"])
    network_with(ActivationSpec("relu"), network, shape)
    compiles = device.type == "cuda" or missing_compiler() is None
    return CostBench(network, shape, seconds=chosen.seconds, device=device, compiles=compiles)


def measured_cards(bench: CostBench, named: Sequence[tuple[str, Any]]) -> tuple[list[Card], bool | None]:
    """Cards of the activations, and whether others used the machine meanwhile; None if that is not known."""
    console = Console(stderr=True)
    torch.set_num_threads(1)
    prepare_process()
    if bench.compiles and len(named) >= AHEAD:
        activations = [activation for _, activation in named]
        processes = ProcessPoolExecutor(available_cores(), mp_context=get_context("spawn"))
        with processes, suppress(BrokenExecutor):  # what they leave undone is compiled when it is measured
            compiled = processes.map(partial(compile_ahead, device=bench.device), activations)
            list(track(compiled, "compiling", len(named), console=console))
    others = OtherProcesses()
    cards = [bench.card(name, activation) for name, activation in track(named, "measuring", console=console)]
    share = others.share()
    return cards, None if share is None else share > BUSY


def machine_facts(bench: CostBench, busy: bool | None) -> dict[str, Any]:
    """Where, how and when times were measured."""
    return {
        "actbench_version": __version__,
        "torch_version": str(torch.__version__),
        "device": device_name(bench.device),
        "threads": 1,
        "busy": busy,
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "elements": len(bench.inputs),
        "network": str(bench.network),
        "batch": [BATCH, *bench.input_shape],
        "classes": CLASSES,
        "compiled": bench.compiles,
    }


# --- what is printed ---


def print_cards(cards: Sequence[Card], machine: Mapping[str, Any], form: str | None) -> None:
    """Print the cards as a table, Markdown, CSV or JSON."""
    if form == "json":
        content = {"machine": machine, "columns": COLUMNS, "activations": cards}
        print(json.dumps(to_json_values(content), indent=1, ensure_ascii=False))
        return
    if form == "csv":
        print(to_csv(pl.DataFrame(cards, infer_schema_length=None)).decode(), end="")
        return
    busy = "; others used it meanwhile, so times say little" if machine["busy"] else ""
    conditions = (
        f"measured {machine['measured'][:10]} on one thread of {machine['device']}, torch {machine['torch_version']}"
        f"{busy}; {machine['elements']:,} elements; step of {machine['network']}, inputs {tuple(machine['batch'])}"
    )
    if form == "md":
        print(markdown(card_table(cards)), conditions, sep="\n")
        return
    console = table_console()
    print_table(console, card_table(cards))
    print(printable(conditions), NOTES, sep="\n", end="")


def card_table(cards: Sequence[Card]) -> ReportTable:
    """The cards in a table, with what a reader compares."""
    columns = [
        TableColumn("activation", number=False),
        TableColumn("formula", number=False),
        TableColumn("trainable"),
        TableColumn("bytes"),
        TableColumn("float32", "copies"),
        TableColumn("float32", "ReLUs"),
        TableColumn("compiled", "copies"),
        *(TableColumn(f"{name}", "copies") for name in ("bfloat16", "compiled bfloat16")),
        TableColumn("step", "%"),
        TableColumn("gain"),
        TableColumn("growth"),
        TableColumn("curve", number=False),
        TableColumn("monotone", number=False),
        TableColumn("range", number=False),
        TableColumn("equals", number=False),
    ]
    return ReportTable("cost", f"Cost of {len(cards)} activations", columns, [card_cells(card) for card in cards])


def card_cells(card: Card) -> list[TableCell]:
    """Cells of `card_table`."""

    def plain(name: str, form: str = "{:g}") -> TableCell:
        return TableCell(NONE if card[name] is None else form.format(card[name]), card[name])

    def with_interval(name: str, scale: float = 1) -> TableCell:
        if card[name] is None:
            return TableCell(NONE, None)
        half = float(f"{scale * (card[f'{name}_high'] - card[f'{name}_low']) / 2:.1g}")
        return TableCell(f"{scale * card[name]:.3g} ± {half:g}", card[name])

    places = f" at {card['places']}" if card["places"] else ""
    bounds = NONE if card["low"] is None else f"{card['low']:.4g} to {card['high']:.4g}".replace("inf", "∞")
    remarks = "; ".join(filter(None, (card["equals"], card["problem"])))
    return [
        text_cell(printable(card["activation"])),
        text_cell(printable(card["formula"] or NONE)),
        plain("parameters"),
        plain("float32_bytes"),
        *(with_interval(f"float32_{name}") for name in ("eager_copies", "eager_relus", "compiled_copies")),
        *(with_interval(f"bfloat16_{name}_copies") for name in ("eager", "compiled")),
        with_interval("step_share", 100),
        *(plain(name, "{:.3f}") for name in ("gain", "gradient_growth")),
        text_cell(f"{card['smoothness'] or NONE}{places}"),
        text_cell(card["monotone"] or NONE),
        text_cell(bounds),
        text_cell(printable(remarks) or NONE),
    ]
