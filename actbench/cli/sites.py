"""``sites``: list where a network calls activations, without training it."""

import json
from argparse import RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from rich import box
from rich.table import Table

from actbench.cli.console import table_console
from actbench.cli.main import CommandParser, fail
from actbench.networks import Swap, list_sites
from actbench.report.cells import ReportTable, TableColumn, markdown, text_cell
from actbench.report.exports import to_csv
from actbench.specs import NetworkSpec, UsageError, compose, one_line, without
from actbench.specs.values import load_yaml

FORMATS = ("text", "md", "csv", "json")
COLUMNS = ("site", "call", "role", "mode", "swapped")
EPILOG = """\
columns:
  site      path of the module that makes the call; #0, #1, ... if it makes several; . is the network itself;
            #sin, for example, if it is no known activation
  call      function or module; several functions if the activation is composed by hand; * changes its input in place
  role      hidden   flows into a layer with weights
            glu      multiplies a second branch
            gate     is bounded and multiplies another tensor, as in squeeze-and-excite
            scale    becomes a denominator, a root or the argument of a logarithm, perhaps in a sum
            softmax  makes the weights of a sum
            head     no layer with weights follows
            recurrent  inside of a fused recurrent layer
            other    a nonlinear map that is not known to be an activation; it is swapped where a pattern has its name
  swapped   whether another activation runs there, and why not

examples:
  python main.py sites --model.network torchvision.models.mobilenet_v3_small
  python main.py sites --model.network timm.create_model --model.network.model_name rexnet_100 --input_shape 3,64,64
  python main.py sites --model.network my_nets.Net --model.sites '[block1.*]'
"""


def run_sites(options: Sequence[str]) -> int:
    """Print the sites of a network; returns the exit status."""
    parser = CommandParser("sites", epilog=EPILOG, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--model.network", help="Path of a class or function; its arguments follow.")
    parser.add_argument("--model.sites", help="hidden (default), all (but other), or patterns of sites.")
    parser.add_argument("--input_shape", help="Shape of one input (default: 3,224,224).")
    parser.add_argument("--num_classes", help="Number of classes (default: 10).")
    parser.add_argument(
        "--format", choices=FORMATS, help="text (default), md or csv: the table; json: all that is known."
    )
    if {"-h", "--help"} & set(options):
        parser.parse_args(["--help"])
    try:
        given = dict(compose(options))
        format = given.pop("format", "text")
        if format not in FORMATS:
            raise UsageError(f"--format is {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, not {format}")
        swap = swap_of(given)
    except (UsageError, ValueError) as error:
        return fail(one_line(error))
    print_sites(swap, format)
    if swap.problem:
        return fail(swap.problem)
    if format == "text":
        print(f"{counts_to_swap(swap)}; nothing was trained or proved")
    return 0


def swap_of(given: Mapping[str, Any]) -> Swap:
    """What a comparison with these options would swap; a UsageError names an option that the command lacks."""
    model = given.get("model") or {}
    unknown = [*without(given, "model", "input_shape", "num_classes"), *without(model, "network", "sites")]
    if unknown:
        raise UsageError(f"sites has no option for {unknown[0]}; see main.py sites --help")
    if not isinstance(model.get("network"), Mapping) or "class_path" not in model["network"]:
        raise UsageError("which network? Give --model.network, such as torchvision.models.resnet18")
    network = NetworkSpec(model["network"])
    if not network.foreign:
        raise UsageError(f"{network.class_path} takes the activation itself: it calls the argument for each site")
    shape = load_yaml(f"[{str(given.get('input_shape', '3,224,224')).strip('[]()')}]")
    classes = load_yaml(str(given.get("num_classes", 10)))
    if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in (*shape, classes)):
        raise UsageError("--input_shape is numbers such as 3,224,224, and --num_classes a number")
    sites = load_yaml(str(model.get("sites", "hidden")))
    try:
        return list_sites(network, input_shape=shape, num_classes=classes, sites=sites)
    except ValueError as error:
        raise UsageError(f"{network.class_path}: {one_line(error)}") from error


def counts_to_swap(swap: Swap) -> str:
    """How many sites would be swapped and kept."""
    return swap.certificate.counts.replace("swapped", "to swap")


def print_sites(swap: Swap, format: str) -> None:
    """Print all sites, in the order of a forward pass."""
    if format == "json":
        print(json.dumps({"problem": swap.problem or None, **swap.certificate.to_dict()}, indent=2))
        return
    rows = [
        (
            site.name,
            f"{site.call}{' *' if site.in_place else ''}",
            site.role,
            " and ".join(site.modes),
            "yes" if site.swapped else f"no: {site.reason}",
        )
        for site in swap.certificate.sites
    ]
    if format == "csv":
        print(to_csv(pl.DataFrame(rows, schema=dict.fromkeys(COLUMNS, pl.String), orient="row")).decode(), end="")
    elif format == "md":
        columns = [TableColumn(name, number=False) for name in COLUMNS]
        title = counts_to_swap(swap)
        print(markdown(ReportTable("sites", title, columns, [[*map(text_cell, row)] for row in rows])), end="")
    else:
        table = Table(*COLUMNS, box=box.SIMPLE_HEAD)
        for row in rows:
            table.add_row(*row)
        table_console().print(table)
