import csv

import torch
from pytorch_lightning import Trainer

from actbench.callbacks import BestCheckpoint, EpochLines, LastCheckpoint, RunFolder, RunLogger, write_whole
from actbench.classifier import Classifier
from actbench.data import FakeImages


def fit(tmp_path, *callbacks, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 3}
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", callbacks=list(callbacks), **quiet | options)
    trainer.fit(Classifier(input_shape=(1, 8, 8), num_classes=10), FakeImages(rows=200))
    return trainer


def test_a_run_folder_holds_config_table_and_checkpoints(tmp_path):
    trainer = fit(tmp_path, RunFolder("trainer: {}\n"), BestCheckpoint(), LastCheckpoint())

    run = tmp_path / "lightning_logs" / "version_0"
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert (run / "config.yaml").read_text() == "trainer: {}\n"
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2]
    assert float(rows[-1]["val/loss"]) == trainer.callback_metrics["val/loss"].item()
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["epoch"] == 2


def test_the_best_checkpoint_is_of_the_epoch_with_the_lowest_loss(tmp_path):
    folder = RunFolder()
    fit(tmp_path, folder, BestCheckpoint(), LastCheckpoint(), max_epochs=6)

    losses = [row["val/loss"] for row in folder.rows]
    best = torch.load(folder.path / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == losses.index(min(losses))


def test_without_validation_nothing_is_called_best(tmp_path):
    folder = RunFolder()
    fit(tmp_path, folder, BestCheckpoint(), LastCheckpoint(), limit_val_batches=0)

    assert [path.name for path in (folder.path / "checkpoints").iterdir()] == ["last.ckpt"]


def test_folders_are_numbered_and_never_shared(tmp_path):
    loggers = [RunLogger(tmp_path) for _ in range(3)]

    assert [logger.version for logger in loggers] == [0, 1, 2]


def test_progress_in_plain_lines_shows_the_first_and_the_last_epoch(tmp_path, capsys):
    fit(tmp_path, EpochLines(seconds=1000), max_epochs=5, enable_checkpointing=False)

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["1/5", "5/5"]
    assert "val/acc" in lines[0]


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file.txt"

    write_whole(path, "first")
    write_whole(path, "second")

    assert path.read_text() == "second"
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]
