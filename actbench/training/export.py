"""Export of one replicate as a plain network, in a file that runs without actbench."""

import importlib.util
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor, nn

from actbench.networks import network_name
from actbench.records import replacing
from actbench.specs import one_line
from actbench.training.classifier import Classifier

Run = Callable[[Tensor], Tensor]


class ExportError(ValueError):
    """A replicate cannot be exported. One line."""


def export_replicate(classifier: Classifier, replicate: int, path: Path) -> None:
    """Write a replicate's network, and compare the file's outputs with the stack's.

    The exported network maps images ``(batch, channels, height, width)``, scaled
    to [0, 1] and then normalised as in training (``classifier.normalization``),
    to logits ``(batch, classes)`` in evaluation mode, for any batch size.

    Args:
        classifier: Classifier with the replicate.
        replicate: Index of the replicate, from 0.
        path: File to write: ``.pt2`` for `torch.export.load`, ``.onnx`` for ONNX.

    Raises:
        ExportError: The replicate or format does not exist, ONNX is not installed, the network cannot be exported, or
            the file's outputs differ from the stack's. No file is left.
        OSError: The file cannot be written.
    """
    if not 0 <= replicate < len(classifier.seeds):
        raise ExportError(f"replicate must be from 0 to {len(classifier.seeds) - 1}, got {replicate}")
    if path.suffix not in FORMATS:
        raise ExportError(f"{path} must end in {' or '.join(FORMATS)}")
    if path.suffix == ".onnx" and not all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        raise ExportError("ONNX is not installed: pip install 'lightning-actbench[onnx]', or '.[onnx]' in a checkout")
    generator = torch.Generator().manual_seed(0)
    network = classifier.engine.replicate(replicate).eval()
    images = torch.rand(3, *classifier.input_shape, generator=generator).to(next(network.parameters()).dtype)

    try:
        with replacing(path) as unfinished:
            run = FORMATS[path.suffix](network, images, unfinished)
            classifier.eval()
            # Also another batch size than in the export, because the size must not be fixed.
            for batch in (images, images[:1]):
                exported, expected = run(batch), classifier.engine(batch)[replicate]
                if not torch.allclose(exported, expected, rtol=1e-4, atol=1e-4, equal_nan=True):
                    difference = (exported - expected).abs().max().item()
                    raise ExportError(f"the exported network differs from the replicate by up to {difference:.2g}")
    except (ExportError, OSError):
        raise
    except Exception as error:  # the exporters raise errors of many kinds
        raise ExportError(f"{network_name(network)} cannot be exported: {one_line(error)[:300]}") from error


def write_pt2(network: nn.Module, images: Tensor, path: Path) -> Run:
    """Write a network as a program of torch operators; returns the loaded program."""
    program = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    buffer = BytesIO()  # torch's own writer ends the process when a disk is full
    torch.export.save(program, buffer)
    path.write_bytes(buffer.getvalue())
    loaded: Run = torch.export.load(path).module()
    return loaded


def write_onnx(network: nn.Module, images: Tensor, path: Path) -> Run:
    """Write a network as an ONNX graph with input ``images`` and output ``logits``; returns the loaded graph."""
    import onnxruntime  # here, because only the extra onnx installs it

    torch.onnx.export(
        network,
        (images,),
        path,
        dynamo=True,
        external_data=False,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: "batch"},),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda batch: torch.from_numpy(session.run(["logits"], {"images": batch.numpy()})[0])


FORMATS: Mapping[str, Callable[[nn.Module, Tensor, Path], Run]] = {".pt2": write_pt2, ".onnx": write_onnx}
