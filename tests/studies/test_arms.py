"""An arm of a study is a fit, word for word: its YAML trains what the study trained, whatever a config holds."""

import enum
import textwrap
from pathlib import Path
from typing import Literal

import pytest
import torch
import yaml
from pytorch_lightning import Callback, LightningDataModule
from small_studies import scores_of
from torch.utils.data import DataLoader, TensorDataset

from actbench.studies import compare


class Colour(enum.Enum):
    GREY = 1
    RED = 2


class Noise:
    def __init__(self, strength: float = 0.5):
        self.strength = strength

    def __eq__(self, other):
        return isinstance(other, Noise) and self.strength == other.strength


class Strong(Noise):
    def __init__(self, strength: float = 2.0, inner: Noise | None = None):
        super().__init__(strength + (inner.strength if inner else 0))


class Mine(LightningDataModule):
    """Made-up images that follow from every argument; it remembers what it was given."""

    given: list = []  # noqa: RUF012 - of the whole class

    def __init__(
        self,
        noise: Noise | None = None,
        default: Noise = Noise(0.25),  # noqa: B008
        scale: int | float = 1,
        file: Path | None = None,
        crop: tuple[int, int] = (8, 8),
        colour: Colour = Colour.GREY,
        kind: Literal["plain", "mirrored"] = "plain",
        shift: float | None = 0.5,
        seed: int = 3,
    ):
        super().__init__()
        arguments = {name: value for name, value in vars().items() if name not in ("self", "__class__")}
        Mine.given.append(arguments)
        self.values = [noise, default, *([scale] * (2 if isinstance(scale, int) else 1)), crop, colour, kind, shift]
        self.generator = torch.Generator().manual_seed(seed)
        self.base = torch.load(file) if file else torch.zeros(8, 8)

    def setup(self, stage):
        rows = torch.randperm(90, generator=self.generator.manual_seed(self.generator.initial_seed()))
        labels = rows % 3
        images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))[labels] + self.base
        for number, value in enumerate(self.values):
            known = value.strength if isinstance(value, Noise) else len(str(value)) if value is not None else 9
            images[:, :, number % 8] *= 1 + known
        images += 0.5 * torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
        self.dataset = TensorDataset(images, labels)

    def train_dataloader(self):
        return DataLoader(self.dataset, 32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.dataset, 32)

    test_dataloader = val_dataloader


class Nudge(Callback):
    """Adds to all weights after each epoch."""

    def __init__(self, by: Noise, every: int | float = 1):
        self.by, self.every = by, every

    def on_train_epoch_end(self, trainer, pl_module):
        for value in pl_module.parameters():
            value.data += 0.01 * self.by.strength


LATE = textwrap.dedent(
    """
    from __future__ import annotations

    from pathlib import Path

    from test_arms import Mine

    class Late(Mine):
        def __init__(self, crop: tuple[int, int] = (8, 8), scale: int | float = 1, file: Path | None = None):
            super().__init__(crop=crop, scale=scale, file=file)
    """
)


def mine(**arguments):
    return {"data": {"class_path": "test_arms.Mine", "init_args": arguments}}


def strong(**arguments):
    return {"class_path": "test_arms.Strong", "init_args": arguments}


KINDS = {  # a part of a config, and what the DataModule is given of it
    "arguments of every type": (
        mine(
            noise=strong(inner=strong(strength=1.0)),
            scale=3,
            file="base.pt",
            crop=[6, 5],
            colour="RED",
            kind="mirrored",
            shift=None,
            seed=11,
        ),
        {
            "noise": Strong(3.0),
            "default": Noise(0.25),
            "scale": 3,
            "file": "base.pt",
            "crop": (6, 5),
            "colour": Colour.RED,
            "kind": "mirrored",
            "shift": None,
            "seed": 11,
        },
    ),
    "a float where int or float is asked for": (mine(scale=3.0), {"scale": 3.0}),
    "annotations that are text": (
        {"data": {"class_path": "late.Late", "init_args": {"crop": [6, 5], "scale": 2, "file": "base.pt"}}},
        {"crop": (6, 5), "scale": 2, "file": "base.pt"},
    ),
    "several callbacks, one with a class": (
        mine()
        | {
            "trainer": {
                "callbacks": [
                    {"class_path": "test_arms.Nudge", "init_args": {"by": strong(strength=0.5), "every": 2}},
                    {"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.5}},
                    {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "patience": 1}},
                ]
            }
        },
        {},
    ),
    "another precision": (mine() | {"trainer": {"precision": "bf16-mixed"}}, {}),
    "double precision": (mine() | {"trainer": {"precision": "64-true"}}, {}),
    "sources that do not vary": (
        {"data": {"class_path": "FakeImages", "init_args": {"rows": 200}}, "vary": ["order"]},
        None,
    ),
}


def with_types(arguments):
    return {
        name: (str(value) if isinstance(value, Path) else value, type(value).__name__.replace("PosixPath", "str"))
        for name, value in arguments.items()
    }


QUICK = ("arguments of every type",)  # the others train for as long again


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in KINDS]
)
def test_the_yaml_of_an_arm_trains_what_the_study_trained(tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "late.py").write_text(LATE)
    torch.save(torch.rand(8, 8, generator=torch.Generator().manual_seed(7)), "base.pt")
    part, received = KINDS[kind]
    config = {
        **part,
        "model": {"network": "MLP"},
        "trainer": {"max_epochs": 3, "accelerator": "cpu", **part.get("trainer", {})},
        "study": {"activations": ["relu", "swish"], "replicates": 3, "timing_s": 0},
    }
    Mine.given.clear()

    table = compare(config).table

    records, path = table.filter(arm="swish"), Path("studies", "study", "arms", "swish.yaml")
    alone = yaml.safe_load(path.read_text())
    if kind == "several callbacks, one with a class":  # which changes weights, so each seed was trained alone
        assert alone["model"]["replicates"] == 1
        records = records.head(1)
    fitted = scores_of("fit", "--config", path)
    (last,) = Path("lightning_logs").glob("version_0/checkpoints/last.ckpt")
    tested = scores_of("test", "--ckpt_path", last, "--trust", "late,test_arms")
    assert tested["test/loss"].tolist() == records["test_loss"].to_list()
    assert tested["test/acc"].tolist() == records["test_accuracy"].to_list()
    if "callbacks" not in part.get("trainer", {}):  # which validate averages
        assert fitted["val/loss"].tolist() == records["val_loss"].to_list()
    if "vary" not in alone:
        alone["seed_everything"], alone["model"]["replicates"] = 1, 1
        path.write_text(yaml.safe_dump(alone))
        assert scores_of("fit", "--config", path)["val/loss"].item() == pytest.approx(
            table.filter(arm="swish", seed=1)["val_loss"].item(), rel=0.02 if "precision" in alone["trainer"] else 1e-4
        )
    if received is not None:
        assert len({str(with_types({k: v for k, v in of.items() if "Noise" not in str(v) and "Strong" not in str(v)}))
                    for of in Mine.given}) == 1  # fmt: skip
        assert all(with_types(of).items() >= with_types(received).items() for of in Mine.given)
