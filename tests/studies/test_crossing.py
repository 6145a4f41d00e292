"""Studies that cross seeds to find where their noise comes from."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import torch
import yaml
from pytorch_lightning import LightningDataModule
from small_studies import Lines, Ran, scores_of, study
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from actbench.cli.lightning import CommandCLI
from actbench.data import FakeImages
from actbench.inference.verdict import schema
from actbench.records import read_records
from actbench.seeding import levels
from actbench.specs import compose, merge_config
from actbench.studies import Study, StudyError, compare, crossed_wanted, make_question, planned_cells
from actbench.studies.cells import Cell, cell_config, data_digest, run_cell
from actbench.studies.crossing import used_sources


class WithDropout(nn.Module):
    """Small, and drops inputs."""

    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        size = torch.Size(input_shape).numel()
        self.layers = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(size, 8), activation())
        self.head = nn.Linear(8, num_classes)

    def forward(self, images):
        return self.head(self.layers(images))


class Augmented(FakeImages):
    """Made-up images that are cropped."""

    augment = True


class OfficialParts(FakeImages):
    """Made-up images in three tables, of which nothing is split."""

    official_val = official_test = True

    def read(self):
        return super().read() * 3


class Foreign(LightningDataModule):
    """Images of three classes, in batches that all replicates share."""

    def part(self):
        labels = torch.arange(96) % 3
        images = torch.rand(96, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + labels[:, None, None, None] / 4
        return DataLoader(TensorDataset(images, labels), 32, shuffle=True)

    train_dataloader = val_dataloader = test_dataloader = part


def given(tmp_path, config=None, **section):
    """A small study that crosses seeds, with the fit's config changed."""
    return merge_config(study(tmp_path, **{"fairness": {"variance": True}} | section), config or {})


def crossed(own, said=None):
    """The sources that each arm crosses."""
    own = Study.of(own)
    compared = planned_cells(own)
    wanted = crossed_wanted(own, make_question(own, compared), compared, (said if said is not None else []).append)
    return {each.entry.arm: list(each.entry.cell.crossed) for each in wanted}


USED = {
    "an MLP": ({}, "init split order"),
    "dropout": ({"model": {"network": "test_crossing.WithDropout"}}, "init split order dropout"),
    "augmentation": ({"data": {"class_path": "test_crossing.Augmented"}}, "init split order augmentation"),
    "official parts": ({"data": {"class_path": "test_crossing.OfficialParts"}}, "init order"),
    "another DataModule": ({"data": {"class_path": "test_crossing.Foreign"}}, "init"),
    "two batches for ever": ({"trainer": {"overfit_batches": 2}}, "init split"),
}


@pytest.mark.parametrize("kind", USED)
def test_the_sources_that_a_config_uses_are_found(tmp_path, kind):
    config, sources = USED[kind]
    cell = planned_cells(Study.of(given(tmp_path, config)))[0].cell

    assert used_sources(cell) == {*sources.split()}


def test_an_activation_that_draws_makes_all_arms_cross_dropout(tmp_path):
    said = []

    sources = crossed(given(tmp_path, activations=["relu", "torch.nn.RReLU"]), said)

    assert sources["relu"] == sources["RReLU"] == ["init", "split", "order", "dropout"]
    assert said == [
        "FakeImages with MLP: seeds of init, split, order and dropout are crossed; augmentation left out, which "
        "nothing uses"
    ]


def test_only_sources_that_vary_are_crossed(tmp_path):
    assert crossed(given(tmp_path, vary=["order", "init", "dropout"]))["relu"] == ["init", "order"]
    assert crossed(given(tmp_path, fairness={"variance": False})) == {}


@pytest.mark.parametrize(
    ("config", "section", "message"),
    [
        ({}, {"vary": ["init"]}, "study.vary has only init"),
        ({}, {"vary": ["init", "dropout"]}, "of init and dropout, FakeImages with MLP uses init"),
        (USED["another DataModule"][0], {}, "Foreign with MLP uses init"),
        ({"crossed": ["init", "split"]}, {}, "study.fairness.variance crosses sources of randomness; leave it out"),
        ({}, {"fairness": {"variance": 7}}, "variance"),
    ],
)
def test_a_study_with_nothing_to_cross_is_refused_before_training(tmp_path, config, section, message):
    ran = Ran()

    with pytest.raises(StudyError, match=message):
        compare(given(tmp_path, config, **section), work=ran, progress=Lines())

    assert ran == []
    assert not (tmp_path / "s").exists()


# --- cells ---


def cell(seeds, crossed=("init", "split", "order"), data="FakeImages", **model):
    fit = {"model": {"network": "MLP", **model}, "data": data, "trainer": {"max_epochs": 1}}
    config = cell_config(merge_config({}, fit))
    return Cell(config, seeds, data_digest(config), fixed_seed=3, crossed=crossed)


def test_replicates_share_sources_as_the_array_says(tmp_path):
    table = run_cell(cell(range(3, 11)), tmp_path / "crossed")
    plain = run_cell(cell(range(3, 8), crossed=()), tmp_path / "plain")

    own = plain["init_fingerprint"].to_list()
    assert table["init_fingerprint"].to_list() == [own[level] for level in levels(0)[:8]]
    # The first replicate has the first seed of every source, and no two share both split and order.
    assert table["val_loss"][0] == pytest.approx(plain["val_loss"][0], rel=1e-4)
    assert table["order_fingerprint"][0] == plain["order_fingerprint"][0]
    assert table["order_fingerprint"].n_unique() == 8


@pytest.mark.parametrize("engine", ["stack", "sequence"])
def test_crossed_dropout_and_augmentation_are_those_of_their_seeds(tmp_path, engine):
    model = {"network": "test_crossing.WithDropout", "engine": engine}
    small = replace(
        cell(range(3, 9), crossed=("augmentation", "dropout"), data=USED["augmentation"][0]["data"], **model),
        vary=("augmentation", "dropout"),
    )

    crossed = run_cell(small, tmp_path / "crossed")["val_loss"]

    # Of six replicates, the second has the second seed of dropout, and the last that of augmentation.
    alone = {
        source: run_cell(replace(small, crossed=(), vary=(source,), seeds=range(4, 5)), tmp_path / source)["val_loss"]
        for source in ("dropout", "augmentation")
    }
    assert crossed[1] == pytest.approx(alone["dropout"][0], rel=1e-4)
    assert crossed[5] == pytest.approx(alone["augmentation"][0], rel=1e-4)
    assert crossed.n_unique() == 6


def test_the_key_holds_the_design():
    plain, own = cell(range(3, 5), crossed=()), cell(range(3, 5))

    hashes = {plain.hash, own.hash, cell(range(3, 5), crossed=("init", "split")).hash, replace(own, fixed_seed=4).hash}

    assert len(hashes) == 4
    assert own.factors["crossed"][1] == ("split", [*levels(1)])
    assert replace(own, seeds=range(5, 9)).hash == own.hash


# --- a study ---


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A study with crossed seeds that has run: its file, which cells it trained, and its results."""
    own = given(tmp_path_factory.mktemp("crossed"), {"seed_everything": 2, "trainer": {"max_epochs": 1}})
    ran = Ran()
    return own, ran, compare(own, work=ran, progress=Lines())


def test_a_study_says_where_its_noise_is(trained):
    own, ran, results = trained

    assert ran == [
        *(("ReLU", [2, 3, 4]), ("Swish", [2, 3, 4])),
        *(("ReLU", [*range(2, 27)]), ("Swish", [*range(2, 27)])),
    ]
    assert len(results.table) == 2 * 3
    assert len(results.conclusion.findings) == 1
    assert results.faults == []
    assert [(each.arm, each.baseline, each.sources) for each in results.noise] == [
        ("relu", None, ["init", "split", "order"]),
        ("swish", None, ["init", "split", "order"]),
        ("swish", "relu", ["init", "split", "order"]),
    ]
    jsonschema.validate(json.loads(Path(own["study"]["root"], "s", "verdict.json").read_text()), schema())


def test_crossed_seeds_are_trained_once_and_are_not_part_of_the_plan(trained):
    own, _, results = trained
    again = Ran()

    assert compare(own, work=again, progress=Lines()).sentences == results.sentences
    without = compare(merge_config(own, {"study": {"fairness": {"variance": False}, "name": "t"}}), work=again)

    assert again == []
    assert without.noise == []
    assert without.question.hash == results.question.hash


def test_the_yaml_of_crossed_seeds_trains_what_the_study_trained(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = Path(trained[0]["study"]["root"], "s")
    records = read_records(folder / "variance.parquet").filter(arm="relu")

    fitted = scores_of("fit", "--config", folder / "arms" / "relu_crossed.yaml")

    assert fitted["val/loss"].tolist() == records["val_loss"].to_list()
    (last,) = Path("lightning_logs").glob("version_0/checkpoints/last.ckpt")
    assert scores_of("test", "--ckpt_path", last)["test/acc"].tolist() == records["test_accuracy"].to_list()
    with pytest.raises(ValueError, match="--crossed contradicts the checkpoint, which has init, split, order"):
        scores_of("test", "--ckpt_path", last, "--crossed", "[init]")


def test_a_fit_refuses_what_cannot_be_crossed():
    for options, message in (
        (["--crossed", "[init, split]", "--vary", "[init]"], "--crossed: split does not vary"),
        (["--crossed", "[init, split]", "--model.replicates", "26"], "5 seeds of each source in 25 replicates"),
        (["--crossed", "[weather]"], "weather"),
    ):
        with pytest.raises(ValueError, match=message.replace("[", r"\[")):
            CommandCLI("fit", compose(options))


@pytest.mark.slow
def test_a_dry_run_counts_crossed_seeds(tmp_path, capsys):
    from actbench.cli.main import main

    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(given(tmp_path, activations=["relu"])))

    assert main(["compare", "--config", str(path), "--dry_run"]) == 0

    out = capsys.readouterr().out
    assert "crossed seeds: 25 trainings more" in out
    assert "missing: 28, in 2 cells" in out
    assert not (tmp_path / "s").exists()


def test_crossed_arms_have_their_tuned_values(tmp_path):
    own = Study.of(given(tmp_path, tune={"model.optimizer.lr": [0.001, 0.01]}))
    compared = planned_cells(own, lambda key: 0.01 if key[2] == "swish" else 0.001)

    wanted = crossed_wanted(own, make_question(own, compared), compared, lambda line: None)

    assert {entry.arm: entry.value for entry, _ in wanted} == {"relu": 0.001, "swish": 0.01}
    rates = [entry.cell.config["model"]["optimizer"]["init_args"]["lr"] for entry, _ in wanted]
    assert rates == [0.001, 0.01]


@pytest.mark.slow
def test_a_tuned_arm_crosses_seeds_at_its_best_value(tmp_path):
    tune = {"model.optimizer.lr": [0.001, 0.01], "replicates": 1}
    own = given(tmp_path, activations=["relu"], tune=tune, fairness={"init": ["as_is", "gain"], "variance": True})

    results = compare(own, progress=Lines())

    records = read_records(tmp_path / "s" / "variance.parquet")
    (chosen,) = {arm.chosen for tuning in results.tunings for arm in tuning.arms if tuning.network == "MLP"}
    assert records["value"].unique().to_list() == [chosen]
    assert records["network_name"].unique().to_list() == ["MLP"]
    assert len(records) == 25
