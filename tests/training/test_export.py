import subprocess
import sys

import onnxruntime
import pytest
import torch
from torch import nn

from actbench.activations import CATALOGUE
from actbench.training import export
from actbench.training.classifier import Classifier
from actbench.training.export import ExportError, export_replicate

RUN_WITHOUT_ACTBENCH = """
import sys, torch
network = torch.export.load(sys.argv[1]).module()
torch.save(network(torch.load(sys.argv[2])), sys.argv[3])
assert not any(name.startswith("actbench") for name in sys.modules)
"""


def trained(**options):
    """A stack of three replicates with changed values."""
    classifier = Classifier(**{"input_shape": (1, 8, 8), "num_classes": 10, "replicates": 3} | options)
    images, labels = torch.rand(3, 20, 1, 8, 8), torch.randint(10, (3, 20))
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.1)
    for _ in range(3):
        classifier.engine.losses(images, labels).sum().backward()
        optimizer.step()
    return classifier.eval()


NETWORKS = pytest.mark.parametrize("network", ["TutorialCNN", pytest.param("ConvNet", marks=pytest.mark.slow)])


@NETWORKS
def test_an_exported_replicate_runs_without_actbench(tmp_path, network):
    classifier, images = trained(network=network, activation="pade"), torch.rand(7, 1, 8, 8)

    export_replicate(classifier, 2, tmp_path / "net.pt2")

    torch.save(images, tmp_path / "images.pt")
    files = (tmp_path / name for name in ("net.pt2", "images.pt", "logits.pt"))
    # Isolated, so that the working directory is not on the path.
    subprocess.run([sys.executable, "-I", "-c", RUN_WITHOUT_ACTBENCH, *files], check=True, timeout=200)
    logits = torch.load(tmp_path / "logits.pt")
    assert torch.allclose(logits, classifier(images)[2], atol=1e-5)
    assert not torch.allclose(logits, classifier(images)[1], atol=1e-2)


@NETWORKS
def test_onnx_runs_elsewhere(tmp_path, network):
    classifier, images = trained(network=network, activation="swish"), torch.rand(7, 1, 8, 8)

    export_replicate(classifier, 1, tmp_path / "net.onnx")

    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    assert torch.allclose(torch.from_numpy(logits), classifier(images)[1], atol=1e-4)
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("activation", CATALOGUE)
def test_every_activation_can_be_exported(tmp_path, activation):
    export_replicate(trained(activation=activation, network="MLP"), 0, tmp_path / "net.pt2")


@pytest.mark.parametrize(
    ("replicate", "name", "message"),
    [(3, "net.pt2", "from 0 to 2, got 3"), (0, "net.pth", "must end in .pt2 or .onnx")],
)
def test_what_cannot_be_exported_is_one_line_and_leaves_no_file(tmp_path, replicate, name, message):
    with pytest.raises(ExportError, match=message):
        export_replicate(trained(), replicate, tmp_path / name)

    assert list(tmp_path.iterdir()) == []


def test_a_file_that_differs_from_the_replicate_is_refused(tmp_path, monkeypatch):
    classifier = trained()
    monkeypatch.setattr(classifier.engine, "replicate", lambda number: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))

    with pytest.raises(ExportError, match="differs from the replicate by up to"):
        export_replicate(classifier, 0, tmp_path / "net.pt2")

    assert list(tmp_path.iterdir()) == []


def test_without_onnx_the_error_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)

    with pytest.raises(ExportError, match=r"pip install 'lightning-actbench\[onnx\]'"):
        export_replicate(trained(), 0, tmp_path / "net.onnx")
