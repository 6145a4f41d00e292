import json
import re
from functools import partial

import jsonschema
import numpy as np
import polars as pl
import pytest
import yaml
from small_studies import Lines, Ran, study

from actbench import records
from actbench.cli import main
from actbench.inference.stats import detectable
from actbench.inference.verdict import History, load_results, schema, simulate_splits
from actbench.records import read_records
from actbench.studies import Study, StudyError, compare, large_margin, planned_cells, rehearsal, self_test
from actbench.studies.rehearsal import rehearse_cell

LOOKS = {"min": 4, "max": 12, "batch": 4}


def run(root, **section):
    """Run a study; returns what is told, which cells were trained, and what was said meanwhile."""
    ran, lines = Ran(), Lines()
    results = compare(Study.of(study(root, **section)), work=ran, progress=lines)
    return results, ran, lines.said


def gap(task):
    """Trains a cell, then lets tanh score as swish would, but clearly better."""
    table = Ran.__call__(gap.ran, task)
    better = "Tanh" in task[0].factors["activation"]["class_path"]
    accuracy = 0.5 + 0.001 * pl.col("seed") + (0.3 if better else 0.0)
    noise = pl.when(pl.col("seed") % 2 == 0).then(0.05).otherwise(-0.05) if "SiLU" in table["activation"][0] else 0
    return table.with_columns(test_accuracy=accuracy + noise)


# --- in batches, until it is clear ---


def test_a_clear_arm_stops_and_an_unclear_one_goes_on(tmp_path):
    gap.ran = Ran()
    config = study(tmp_path, activations=["relu", "tanh", "torch.nn.SiLU"], replicates=LOOKS, alpha=0.4)

    results = compare(Study.of(config), work=gap, progress=Lines())

    seeds = {name: sorted(seed for arm, block in gap.ran if arm == name for seed in block) for name, _ in gap.ran}
    assert seeds == {"ReLU": list(range(12)), "Tanh": list(range(8)), "SiLU": list(range(12))}
    assert [finding.judgement.verdict for finding in results.conclusion.findings] == ["better", "undecided"]
    assert [finding.judgement.pairs for finding in results.conclusion.findings] == [8, 12]


@pytest.mark.slow
def test_what_goes_on_over_all_datasets_goes_on_for_each(tmp_path):
    ran = Ran()

    def train(task):
        """Tanh is better on one dataset, by more than it is worse on the other: only the mean is unclear."""
        table = ran(task)
        cell = task[0].factors
        tanh = "Tanh" in cell["activation"]["class_path"]
        other = cell["data"]["init_args"]["num_classes"] == 3
        noise = pl.when(pl.col("seed") % 4 < 2).then(0.02).otherwise(-0.02)
        return table.with_columns(test_accuracy=0.5 + (tanh * (-0.3 if other else 0.3) + tanh * noise))

    datasets = ["FakeImages", {"class_path": "FakeImages", "init_args": {"num_classes": 3}}]
    config = study(tmp_path, activations=["relu", "tanh"], replicates=LOOKS | {"max": 16}, alpha=0.4, datasets=datasets)

    results = compare(Study.of(config), work=train, progress=Lines())

    verdicts = [(of.comparison.dataset, of.judgement.verdict, of.judgement.pairs) for of in results.conclusion.findings]
    assert [verdict for _, verdict, _ in verdicts] == ["better", "worse", "undecided"]
    assert verdicts[2][2] == 16 > max(verdicts[0][2], verdicts[1][2])
    assert len({(arm, block[0]) for arm, block in ran}) == 2 * 4


def test_a_sequential_study_resumed_or_told_anew_decides_the_same(tmp_path):
    whole, ran, _ = run(tmp_path, replicates=LOOKS)
    again, more, _ = run(tmp_path, replicates=LOOKS)

    assert len(ran) > 0
    assert more == []
    assert again.sentences == whole.sentences == load_results(tmp_path / "s").sentences
    # Another study has trained more seeds meanwhile: they are not looked at.
    run(tmp_path, replicates=14, name="other")
    later, _, _ = run(tmp_path, replicates=LOOKS)
    assert later.sentences == whole.sentences
    assert [max(look.pairs.values()) for look in History.read(tmp_path / "s").looks] == [4, 8, 12][: len(ran) // 2]


def test_batches_give_the_records_that_one_go_gives(tmp_path):
    batches, _, _ = run(tmp_path / "a", replicates={"min": 4, "max": 8, "batch": 4})
    at_once, _, _ = run(tmp_path / "b", replicates=8)

    common = batches.table.join(at_once.table, on=["arm", "seed"], how="semi")
    assert len(common) >= 8
    for row in common.iter_rows(named=True):
        other = at_once.table.filter(arm=row["arm"], seed=row["seed"])
        assert row["test_loss"] == pytest.approx(other["test_loss"][0], rel=1e-4)


def test_a_study_grown_by_hand_says_that_its_level_is_lost(tmp_path):
    first, _, _ = run(tmp_path, replicates=6)
    grown, _, _ = run(tmp_path, replicates=8)

    assert not any("no longer holds" in line for line in first.sentences)
    assert any("no longer holds" in line for line in grown.sentences)
    assert not json.loads((tmp_path / "s" / "verdict.json").read_text())["plan"]["as_planned"]


def test_records_of_another_plan_do_not_stay_when_a_study_is_stopped(tmp_path):
    run(tmp_path, replicates=2)
    longer = study(tmp_path, replicates=2)
    longer["trainer"]["max_epochs"] = 3

    with pytest.raises(KeyboardInterrupt):
        compare(Study.of(longer), work=interrupted, progress=Lines())

    with pytest.raises(records.RecordError, match="not the folder of a study with records"):
        load_results(tmp_path / "s")


def interrupted(task):
    raise KeyboardInterrupt


def test_a_stopped_study_shows_what_there_is(tmp_path):
    class Second(Ran):
        def __call__(self, task):
            return interrupted(task) if self else super().__call__(task)

    with pytest.raises(KeyboardInterrupt):
        compare(Study.of(study(tmp_path, replicates=2)), work=Second(), progress=Lines())

    results = load_results(tmp_path / "s")
    assert results.table["arm"].to_list() == ["relu"] * 2
    assert [line.partition(" ")[2] for line in results.troubles] == ["interrupted"]
    assert results.conclusion.findings[0].judgement.pairs == 0


def test_a_look_under_another_studys_name_is_a_look(tmp_path):
    first, _, _ = run(tmp_path, replicates=8, name="a")
    fewer, ran, _ = run(tmp_path, replicates=6, name="b")
    elsewhere, _, _ = run(tmp_path, replicates=6, name="c", activations=["relu", "tanh"])

    assert ran == []
    assert any("no longer holds" in line for line in fewer.sentences)
    assert not any("no longer holds" in line for line in [*first.sentences, *elsewhere.sentences])
    assert not any("no longer holds" in line for line in load_results(tmp_path / "a").sentences)


# --- tuning ---

TUNE = {"model.optimizer.lr": [1e-4, 1e-3, 3e-3], "replicates": 2}


def test_each_arm_is_compared_at_its_own_best_value(tmp_path, monkeypatch):
    rehearsed = []

    def rehearse_once(cell, title):
        assert cell.hash not in rehearsed
        rehearsed.append(cell.hash)
        return rehearse_cell(cell, title)

    monkeypatch.setattr(rehearsal, "rehearse_cell", rehearse_once)

    results, _, said = run(tmp_path, tune=TUNE)

    assert len(rehearsed) == len(set(read_records(tmp_path / "s" / "tuning.parquet")["cell"]))

    tuned = read_records(tmp_path / "s" / "tuning.parquet")
    for arm in ("relu", "swish"):
        own = tuned.filter(arm=arm).group_by("value").agg(pl.col("val_accuracy").mean(), pl.col("val_loss").mean())
        best = own.sort("val_accuracy", "val_loss", descending=[True, False])["value"][0]
        compared = results.table.filter(arm=arm)
        assert compared["value"].unique().to_list() == [best]
        factors = json.loads(compared["factors"][0])
        assert factors["optimizer"]["init_args"]["lr"] == best
    assert not set(tuned["seed"]) & set(results.table["seed"])
    assert tuned.group_by("arm").len()["len"].n_unique() == 1  # the same budget for every arm
    assert set(tuned.filter(arm="relu")["value"]) == set(tuned.filter(arm="swish")["value"])
    extended = sorted(set(tuned["value"]) - set(TUNE["model.optimizer.lr"]))
    assert bool(extended) == any("at the grid's edge" in line for line in said)
    assert len(extended) <= 2
    assert run(tmp_path, tune=TUNE)[1] == []


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        (3, "--study.tune: Expected a dict"),
        ({}, "got none"),
        ({"model.optimizer.lr": [1e-3, 1e-2], "data.batch_size": [32, 64]}, "one setting"),
        ({"model.optimizer.lr": [1e-3]}, "at least two numbers"),
        ({"model.optimizer.lr": ["a", "b"]}, "at least two numbers"),
        ({"model.optimizer.lr": [0.1, float("inf")]}, "at least two numbers"),
        ({"model.optimizer.lr": [0.1, 0.1, 0.2]}, "all different"),
        ({"trainer": [1, 2]}, "study.tune is one setting with its values"),
        ({"model.optimizer.lr": [1e-3, 1e-2], "replicates": 0}, "study.tune.replicates must be a whole number"),
        ({"model.optimizer.rl": [1e-3, 1e-2]}, "rl"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused_before_anything_is_written(tmp_path, tune, message):
    with pytest.raises(StudyError, match=message) as error:
        compare(study(tmp_path / "studies", tune=tune))

    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_grid_may_mix_whole_numbers_with_others(tmp_path):
    results, _, _ = run(tmp_path, tune={"model.optimizer.lr": [1, 0.1], "replicates": 1}, replicates=1)

    (tuning,) = results.tunings
    assert {1.0, 0.1} <= set(tuning.grid)
    assert all(arm.chosen in tuning.grid for arm in tuning.arms)


def test_an_arm_that_sets_what_is_tuned_is_refused(tmp_path):
    slow = {"name": "slow", "activation": "relu", "model.optimizer.lr": 1e-4}

    with pytest.raises(StudyError, match=r"arm slow sets model.optimizer.lr, which study.tune chooses"):
        compare(study(tmp_path, activations=["relu", slow], tune=TUNE))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"replicates": {"min": 6, "max": 60}}, "min, max and batch"),
        ({"replicates": {"min": 6, "max": 3, "batch": 1}}, "min <= max"),
        ({"replicates": {"min": 0, "max": 3, "batch": 1}}, "min, max and batch of at least 1"),
        ({"replicates": {"min": "two", "max": 3, "batch": 1}}, "min, max and batch of at least 1"),
        (
            {"checkpoints": "memory://copies", "executor": {"class_path": "Ray", "init_args": {"cpus": 0}}},
            "executor: cpus",
        ),
        ({"comparisons": "some"}, "--study.comparisons: .*baseline.*all"),
        ({"alpha": 0}, "--study.alpha: .*0"),
        ({"margin": "0.5 points"}, "--study.margin: .*0.5 points"),
        ({"margin": 0}, "--study.margin: .*0"),
        ({"margin": 0.5}, r"^study.margin: 0.5 is a difference of 50 points; was 0.005 meant\?$"),
        ({"margin": 1}, r"study.margin: 1 is a difference of 100 points; was 0.01 meant\?"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(section, message):
    with pytest.raises(StudyError, match=message):
        Study.of({"study": section})


def test_a_large_margin_is_asked_about_and_may_be_meant(tmp_path, capsys):
    lines = Lines()
    written = tmp_path / "study.yaml"
    written.write_text(yaml.safe_dump(study(tmp_path, margin=0.25, replicates=2)))

    compare(study(tmp_path, margin=0.25, replicates=2), progress=lines)
    assert main(["compare", "--config", str(written), "--dry_run"]) == 0

    question = "study.margin: 0.25 is a difference of 25 points; was 0.0025 meant?"
    assert question in lines.said
    assert question in capsys.readouterr().out.splitlines()
    assert large_margin(0.05) is None


def test_the_tuned_setting_is_in_the_hash_of_a_cell(tmp_path):
    of = Study.of(study(tmp_path, tune=TUNE))

    hashes = {
        entry.cell.hash for value in TUNE["model.optimizer.lr"] for entry in planned_cells(of, lambda _, v=value: v)
    }

    assert len(hashes) == 6


# --- the self-test ---


@pytest.fixture
def few_splits(monkeypatch):
    """A self-test splits the seeds a hundred times, not thousands."""
    monkeypatch.setattr(self_test, "simulate_splits", partial(simulate_splits, splits=100))


def test_the_self_test_trains_the_baseline_again_and_is_kept(tmp_path, few_splits):
    ran = Ran()
    config = Study.of(study(tmp_path, replicates=12))

    results = compare(config, self_test=True, work=ran, progress=Lines())
    (certificate,) = results.certificates

    assert [arm for arm, _ in ran] == ["ReLU", "Swish", "ReLU"]
    assert (certificate.repeated, certificate.equal, certificate.splits, certificate.pairs) == (12, 12, 100, 6)
    assert certificate.passed
    assert load_results(tmp_path / "s").certificates == [certificate]
    assert [path.name for path in (tmp_path / "s").iterdir() if path.is_dir()] == ["arms"]


def test_a_self_test_notices_training_that_does_not_repeat(tmp_path, few_splits):
    ran = Ran()

    def drifts(task):
        table = ran(task)
        return table.with_columns(pl.col("test_loss") + 1e-12 * len(ran))

    results = compare(Study.of(study(tmp_path, replicates=12)), self_test=True, work=drifts, progress=Lines())

    assert results.certificates[0].equal == 0
    assert not results.certificates[0].passed
    assert any("FAILED" in line for line in results.sentences)


def test_a_self_test_trains_by_the_engine_that_trained_the_baseline(tmp_path, few_splits):
    ran, models, tables = Ran(), [], []

    def trained_once(task):
        models.append(task[0].config["model"])
        if len(models) < 3:
            tables.append(ran(task).with_columns(engine=pl.lit("compiled stack")))
        return tables[0] if len(models) == 3 else tables[-1]

    compare(Study.of(study(tmp_path, replicates=12)), self_test=True, work=trained_once, progress=Lines())

    assert [(model["engine"], model["compile"]) for model in models] == [("stack", False)] * 2 + [("stack", True)]


def test_a_self_test_of_too_few_seeds_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(StudyError, match="needs 12 at least"):
        compare(Study.of(study(tmp_path / "studies")), self_test=True)

    assert not list(tmp_path.iterdir())


# --- as a process ---


@pytest.fixture
def config(tmp_path):
    content = study("studies", replicates=12)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def test_compare_ends_with_verdicts_whatever_they_are(config, monkeypatch, capsys, few_splits):
    monkeypatch.chdir(config)

    assert main(["compare", "--config", "study.yaml", "--self_test"]) == 0
    shown = capsys.readouterr().out
    assert main(["report", "studies/s"]) == 0

    assert shown.endswith(capsys.readouterr().out)
    content = json.loads((config / "studies" / "s" / "verdict.json").read_text())
    jsonschema.validate(content, schema())
    assert content["comparisons"][0]["sentence"] in shown
    assert content["certificates"][0]["sentence"] in shown
    table = read_records(config / "studies" / "s" / "records.parquet")
    scores = [table.filter(arm=arm).sort("seed")["test_accuracy"].to_numpy() for arm in ("swish", "relu")]
    assert content["comparisons"][0]["difference"]["estimate"] == pytest.approx(np.mean(scores[0] - scores[1]))


def test_a_dry_run_says_what_the_plan_can_tell(actbench, config):
    rough = actbench("compare", "--config", "study.yaml", "--dry_run")
    tried = actbench("compare", "--config", "study.yaml", "--dry_run", "--pilot")
    alone = actbench("compare", "--config", "study.yaml", "--pilot")

    assert re.search(
        r"12 pairs see a difference of [\d.]+ points with 80 % power; .* rough bound from 40 test", rough.stdout
    )
    assert "the pilot)" in tried.stdout
    assert rough.stdout.splitlines()[-1] == tried.stdout.splitlines()[-1]
    assert re.fullmatch(r"plan: [0-9a-f]{32}", rough.stdout.splitlines()[-1])
    assert (alone.returncode, len(alone.stderr.splitlines())) == (2, 1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, ended_in):
    """Folder of a study that a process has finished; ``dry_runs`` holds what one said before, and one after."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "study.yaml").write_text(yaml.safe_dump(study("studies", replicates=12)))
    words = ("compare", "--config", "study.yaml")
    before, _, after = (ended_in(folder, *words, *more).stdout for more in (["--dry_run"], [], ["--dry_run"]))
    (folder / "dry_runs").write_text(json.dumps([before, after]))
    return folder


def test_the_hash_of_a_plan_is_that_of_what_was_run(finished):
    before, after = json.loads((finished / "dry_runs").read_text())

    content = json.loads((finished / "studies" / "s" / "verdict.json").read_text())
    assert before.splitlines()[-1] == f"plan: {content['plan']['hash']}"
    assert content["plan"]["as_planned"]
    assert "missing: 0" in after
    (points,) = re.findall(r"12 pairs see a difference of ([\d.]+) points with 80 % power", after)
    sd = np.std(differences(finished / "studies" / "s"), ddof=1)
    assert float(points) == pytest.approx(100 * detectable(12) * sd, rel=0.05)


def differences(folder):
    """Paired differences of a study of two arms, from its records."""
    table = read_records(folder / "records.parquet").sort("seed")
    swish, relu = (table.filter(arm=arm)["test_accuracy"].to_numpy() for arm in ("swish", "relu"))
    return swish - relu


def test_records_alone_give_the_verdict_elsewhere(actbench, finished, tmp_path):
    elsewhere = tmp_path / "sent"
    elsewhere.mkdir()
    for name in ("records.parquet", "history.json"):
        (elsewhere / name).write_bytes((finished / "studies" / "s" / name).read_bytes())

    assert actbench("report", "sent").returncode == 0

    one, other = (json.loads((of / "verdict.json").read_text()) for of in (finished / "studies" / "s", elsewhere))
    without_price = [{**comparison, "price": None} for comparison in one["comparisons"]]
    assert other["comparisons"] == without_price != one["comparisons"]
    assert records.same_results(
        read_records(elsewhere / "records.parquet"), read_records(finished / "studies" / "s" / "records.parquet")
    )


def test_records_and_timings_give_the_price_elsewhere(actbench, finished, tmp_path):
    elsewhere = tmp_path / "sent"
    elsewhere.mkdir()
    for name in ("records.parquet", "history.json", "timing.json"):
        (elsewhere / name).write_bytes((finished / "studies" / "s" / name).read_bytes())

    assert actbench("report", "sent").returncode == 0

    one, other = (json.loads((of / "verdict.json").read_text()) for of in (finished / "studies" / "s", elsewhere))
    assert one["comparisons"] == other["comparisons"]
    assert one["comparisons"][0]["price"]["saved_bytes"] == {"swish": 4, "relu": 0}
