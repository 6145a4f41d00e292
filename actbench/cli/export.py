"""``export``: one replicate of a checkpoint as a plain network."""

from collections.abc import Sequence
from pathlib import Path

from actbench.cli.main import OneLine, fail, shown_path
from actbench.specs import one_line
from actbench.training.checkpoints import trusted_names
from actbench.training.classifier import Classifier
from actbench.training.export import export_replicate


def export(options: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    parser = OneLine("export")
    parser.add_argument("--ckpt_path", required=True, help="The checkpoint.")
    parser.add_argument("--replicate", type=int, default=0, help="Number of the replicate, from 0 (default: 0).")
    parser.add_argument(
        "--output", type=Path, required=True, help="The file: net.pt2, or net.onnx with actbench[onnx]."
    )
    parser.add_argument("--trust", help="Modules, separated by commas, whose classes it may name.")
    chosen = parser.parse_args(options)
    try:
        classifier = Classifier.load_from_checkpoint(chosen.ckpt_path, trust=trusted_names(chosen.trust))
        export_replicate(classifier, chosen.replicate, chosen.output)
    except (ValueError, OSError) as error:
        return fail(one_line(error))
    seed = classifier.seeds[chosen.replicate]
    print(f"exported replicate {chosen.replicate}, seed {seed}: {shown_path(chosen.output)}")
    return 0
