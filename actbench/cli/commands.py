"""The short commands: ``activations``, ``export`` and ``merge``. Each imports late what it alone needs."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from actbench.cli.console import table_console
from actbench.cli.main import CommandParser, fail, shown_path
from actbench.records import MEASURED, RecordError, Store, merge


def run_activations(options: Sequence[str]) -> int:
    """Print name, formula, trainable parameters per site, gain, growth of gradients and source of every activation."""
    from actbench.activations import CATALOGUE, gaussian_moments
    from actbench.activations.catalogue import trainable_parameters

    CommandParser("activations").parse_args(options)
    console = table_console()
    table = Table("name", "formula", "trainable", "gain", "growth", "source", box=box.SIMPLE_HEAD)
    for name, entry in sorted(CATALOGUE.items()):
        moments = gaussian_moments(entry.cls(**entry.init_args))
        scales = (f"{moments.gain:.3f}", f"{moments.gradient_growth:.3f}")
        table.add_row(name, entry.formula, str(trainable_parameters(entry)), *scales, entry.source)
    console.print(table)
    print("gain: the factor of weights of variance 1/fan_in at which standard normal signals keep their size")
    print("growth: what the mean square of gradients is then multiplied by in each layer; both at initial parameters")
    return 0


def run_export(options: Sequence[str]) -> int:
    """Write one replicate of a checkpoint as a plain network; returns the exit status."""
    parser = CommandParser("export")
    parser.add_argument("--ckpt_path", required=True, help="The checkpoint.")
    parser.add_argument("--replicate", type=int, default=0, help="Number of the replicate, from 0 (default: 0).")
    parser.add_argument(
        "--output", type=Path, required=True, help="The file: net.pt2, or net.onnx with the extra onnx."
    )
    parser.add_argument("--trust", help="Modules, separated by commas, whose classes the checkpoint may name.")
    chosen = parser.parse_args(options)

    from actbench.training.checkpoints import trusted_names
    from actbench.training.classifier import Classifier
    from actbench.training.export import export_replicate

    try:
        classifier = Classifier.load_from_checkpoint(chosen.ckpt_path, trust=trusted_names(chosen.trust))
        export_replicate(classifier, chosen.replicate, chosen.output)
    except (ValueError, OSError) as error:
        return fail(error)
    seed = classifier.seeds[chosen.replicate]
    print(f"exported replicate {chosen.replicate}, seed {seed}: {shown_path(chosen.output)}")
    normalization = classifier.normalization or {"kind": "none"}
    if normalization["kind"] != "none":
        mean, deviation = (normalization[name][chosen.replicate].tolist() for name in ("mean", "deviation"))
        print(f"it takes images in [0, 1], by channel minus {mean}, over {deviation}")
    return 0


def run_merge(options: Sequence[str]) -> int:
    """Join the stores of several folders of studies; returns the exit status."""
    parser = CommandParser("merge")
    parser.add_argument("roots", nargs="+", type=Path, help="folders of studies, which hold cells/")
    parser.add_argument("--root", type=Path, default=Path("studies"), help="folder to join them in (default: studies)")
    chosen = parser.parse_args(options)
    absent = [root for root in chosen.roots if not (root / "cells").is_dir()]
    if absent:
        return fail(f"{absent[0]} is not a folder of studies: it has no folder cells")
    if {root.resolve() for root in chosen.roots} == {chosen.root.resolve()}:
        return fail(f"{chosen.root} is where studies are joined; give others, or another --root")
    try:
        added = sum(
            merge([Store(root / folder) for root in chosen.roots], Store(chosen.root / folder))
            for folder in (Path("cells"), Path("cells", MEASURED))
        )
    except (RecordError, OSError) as error:
        return fail(error)
    print(f"added {added} cells to {shown_path(chosen.root / 'cells')}")
    return 0
